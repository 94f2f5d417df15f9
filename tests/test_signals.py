"""What the mixtures are fitted to in place of the similarity."""

import numpy as np
import pytest
import torch
from small import label_probability, logits_like_a_network

from resup import (
    BetaMixture,
    DecoyMixture,
    SampleWeigher,
    cosine_label_similarity,
)
from resup.similarity import scaled_loss_signal

SIGNALS = {
    "similarity": ("similarity", cosine_label_similarity),
    "loss": ("loss", scaled_loss_signal),
    "callable": (label_probability, label_probability),
}


@pytest.mark.parametrize("mixture", [BetaMixture(), DecoyMixture()], ids=["beta", "decoys"])
@pytest.mark.parametrize("name", SIGNALS)
def test_each_signal_is_fitted_and_weighed(name, mixture):
    signal, values = SIGNALS[name]
    logits, targets, right = logits_like_a_network()
    weigher = SampleWeigher(mixture, signal=signal)
    assert (weigher(logits, targets) == 1).all()
    weigher.refit()
    aligns = weigher.decoys is not None and name != "callable"
    for fitted, z, aligned, w, p in zip(
        weigher.mixtures_, logits, weigher.alignment(logits) if aligns else logits,
        weigher(logits, targets), weigher.judge(logits, targets), strict=True,
    ):  # fmt: skip
        for got, shown in ((w, aligned), (p, z)):
            v = values(shown.double(), targets)  # in float32 1 - S is rounded
            np.testing.assert_allclose(got, fitted.predict_proba(v)[:, -1], atol=1e-4)
        assert w[right].mean() > w[~right].mean() + 0.5


@pytest.mark.parametrize("name", SIGNALS)
def test_an_empty_batch(name):
    weigher = SampleWeigher(signal=SIGNALS[name][0])
    assert weigher(torch.zeros(2, 0, 4), torch.zeros(0, dtype=torch.long)).shape == (2, 0)


def test_decoys_have_the_signal_of_the_samples():
    logits, targets, _ = logits_like_a_network(networks=1)
    weigher = SampleWeigher(DecoyMixture(), networks=1, signal="loss")
    weigher(logits, targets)
    others = SampleWeigher(networks=1, signal="loss")
    others(logits, (targets + 1) % 5)
    assert torch.equal(weigher.decoys.histograms.counts, others.seen.counts)


def test_a_callable_sees_one_network_at_a_time():
    def within_batch(logits, targets):
        loss = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
        return 1 - (loss - loss.min()) / (loss.max() - loss.min())

    logits, targets, _ = logits_like_a_network()
    both, alone = SampleWeigher(signal=within_batch), SampleWeigher(networks=1, signal=within_batch)
    both(logits * torch.tensor([1.0, 9.0])[:, None, None], targets)
    alone(logits[:1], targets)
    assert torch.equal(both.seen.counts[:1], alone.seen.counts)


def test_nan_of_a_signal_is_not_fitted_and_weighs_1():
    def holey(logits, targets):
        v = label_probability(logits, targets)
        return torch.where(torch.arange(len(v)) % 3 == 0, torch.nan, v)

    logits, targets, _ = logits_like_a_network()
    weigher = SampleWeigher(signal=holey)
    assert (weigher(logits, targets) == 1).all()
    weigher.refit()
    assert weigher.fitted_counts.sum(1).tolist() == [1333, 1333]
    for weights in (weigher(logits, targets), weigher.judge(logits, targets)):
        assert torch.isfinite(weights).all()
        assert (weights[:, ::3] == 1).all()
        assert weights.min() < 0.1


def test_values_of_a_signal_are_clamped():
    logits, targets, _ = logits_like_a_network()

    def margin(logits, targets):
        return logits.gather(1, targets[:, None])[:, 0] - 2

    wild = SampleWeigher(signal=margin)
    tame = SampleWeigher(signal=lambda z, y: margin(z, y).clamp(0, 1))
    for weigher in (wild, tame):
        weigher(logits, targets)
        weigher.refit()
    assert torch.equal(wild(logits, targets), tame(logits, targets))
    assert torch.isfinite(wild(logits, targets)).all()


def test_a_module_as_signal_is_saved_with_the_weigher():
    class Tempered(torch.nn.Module):
        def __init__(self, temperature):
            super().__init__()
            self.register_buffer("temperature", torch.tensor(temperature))

        def forward(self, logits, targets):
            return label_probability(logits / self.temperature, targets)

    weigher, other = SampleWeigher(signal=Tempered(2.0)), SampleWeigher(signal=Tempered(1.0))
    other.load_state_dict(weigher.state_dict())
    assert other.signal.temperature == 2


@pytest.mark.parametrize(
    ("signal", "error", "message"),
    [
        ("margin", ValueError, "signal must be 'similarity', 'loss' or a callable, got 'margin'"),
        (None, ValueError, "or a callable, got None"),
        (lambda z, y: z, ValueError, r"signal must return shape \(6,\) .* got \(6, 3\) on cpu"),
        (lambda z, y: z.mean(), ValueError, r"logits of shape \(6, 3\), got \(\) on cpu"),
        (lambda z, y: z[:, 0].to("meta"), ValueError, r"on cpu .* got \(6,\) on meta"),
        (lambda z, y: [0.5] * 6, TypeError, "signal must return a Tensor, got list"),
    ],
)
def test_bad_signals(signal, error, message):
    with pytest.raises(error, match=message):
        SampleWeigher(signal=signal)(torch.zeros(2, 6, 3), torch.zeros(6, dtype=torch.long))


@pytest.mark.parametrize("mixture", [BetaMixture(), DecoyMixture()], ids=["beta", "decoys"])
@pytest.mark.parametrize("name", SIGNALS)
def test_compiles_without_a_break(name, mixture):
    logits, targets, _ = logits_like_a_network(n=200)
    plain, compiled = (SampleWeigher(mixture, signal=SIGNALS[name][0]) for _ in "ab")
    torch._dynamo.reset()
    step = torch.compile(compiled, fullgraph=True, backend="aot_eager")
    for weigher in (plain, compiled):  # decoys learn the number of classes from the first batch
        weigher(logits, targets)
        weigher.refit()
    torch.testing.assert_close(step(logits, targets), plain(logits, targets))
    torch.testing.assert_close(compiled.seen.counts, plain.seen.counts)
