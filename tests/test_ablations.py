"""Each variant of the paper's ablations is a setting."""

import math
from pathlib import Path

import pytest
import torch
from sklearn.mixture import GaussianMixture
from small import data, label_probability, trainer
from torch.utils.data import DataLoader, TensorDataset

from resup import SymmetricKLLoss, cosine_label_similarity
from resup.losses import consistency_loss, cross_weighted_loss, symmetric_kl_loss
from resup.similarity import scaled_loss_signal


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, lambda p: (p[0], p[1])),
        ({"exchange": "own"}, lambda p: (p[1], p[0])),
        ({"exchange": "mean"}, lambda p: (p.mean(0), p.mean(0))),
        ({"weight_threshold": 0.5}, lambda p: ((p[0] > 0.5).float(), (p[1] > 0.5).float())),
    ],
)
def test_weights_of_each_variant(options, expected):
    t, posteriors = trainer(**options), torch.rand(2, 50)
    for got, wanted in zip(t.weights(posteriors), expected(posteriors), strict=True):
        torch.testing.assert_close(got, wanted)
    assert (t.weigher.sharpness == 1) == (t.weight_threshold is not None)


@pytest.mark.parametrize("balanced", [False, True])
def test_similarities_from_a_pass_are_those_of_the_trained_networks(balanced):
    t, train = trainer(similarities="pass"), data()
    loader = DataLoader(train, 32)
    t.fit(loader, 1)
    t.weigher.balanced = balanced  # then steps are recorded too, for the shares of the classes
    t.fit(loader, 2)
    counts = t.weigher.fitted_counts.clone()
    for logits, y in t._predict(loader):
        t.weigher(logits, y)
    torch.testing.assert_close(t.weigher.seen.counts, counts)
    assert t.models[0].training


def test_a_pass_draws_an_order_of_its_own():
    drawn = [torch.Generator().manual_seed(0) for _ in range(2)]
    shuffled = [DataLoader(data(), 32, shuffle=True, generator=g) for g in drawn]
    trainer(similarities="pass").fit(shuffled[0], 1)
    for _ in range(2):
        list(shuffled[1])
    assert torch.equal(drawn[0].get_state(), drawn[1].get_state())


def test_refits_at_intervals():
    t = trainer(refit_every=2)
    loader = DataLoader(data(), 32)
    t.fit(loader, 1)
    first = t.weigher.mixtures_
    t.fit(loader, 2)
    assert t.weigher.mixtures_ is first
    t.fit(loader, 3)
    assert t.weigher.mixtures_ is not first
    assert t.weigher.fitted_counts.sum() == 2 * 160


def test_the_cross_weighted_loss_may_be_another():
    def doubled(*given):
        return 2 * cross_weighted_loss(*given)

    t, (x, y) = trainer(cross_weighted=doubled), data().tensors
    mine = t.train_step(x, y)
    t.cross_weighted = cross_weighted_loss
    plain = t.train_step(x, y)
    torch.testing.assert_close(mine["cross_entropy"], 2 * plain["cross_entropy"])
    torch.testing.assert_close(mine["loss"], 2 * plain["loss"])


def test_any_consistency():
    t = trainer(consistency=lambda a, b: (a - b).abs().mean(), consistency_weight=2.0)
    t.fit(DataLoader(data(), 160), 1)
    x, y = data().tensors
    values = t.train_step(x, y)
    torch.testing.assert_close(values["loss"] - values["cross_entropy"], 2 * values["consistency"])


def own(p_a, p_b):
    return p_a, p_b


def swapped(p_a, p_b):
    return p_b, p_a


def mean(p_a, p_b):
    return [(p_a + p_b) / 2] * 2


def kept(p_a, p_b):
    return (p_b > 0.5).double(), (p_a > 0.5).double()


def paper(a, b):
    return 5 * consistency_loss(a, b)


def jocor(a, b):
    return 0.5 * symmetric_kl_loss(a, b)


similarity, loss = cosine_label_similarity, scaled_loss_signal

# As docs/paper_to_code.md has it: the signal, what makes the posteriors of A and B the weights on
# the losses of A and B, and the term that is added.
ABLATIONS = {
    "warmup_epochs=math.inf": (None, None, None),
    'signal="loss", exchange="own", consistency_weight=0': (loss, own, None),
    'exchange="own", consistency_weight=0': (similarity, own, None),
    'signal="loss", consistency_weight=0': (loss, swapped, None),
    "consistency_weight=0": (similarity, swapped, None),
    'signal="loss"': (loss, swapped, paper),
    "": (similarity, swapped, paper),
    'exchange="mean", consistency=SymmetricKLLoss(), consistency_weight=0.5': (
        similarity,
        mean,
        jocor,
    ),
    "weight_threshold=0.5": (similarity, kept, paper),
    "mixture=GaussianMixture(2)": (similarity, swapped, paper),
    "signal=lambda z, y: z.softmax(1).gather(1, y[:, None])[:, 0]": (
        label_probability,
        swapped,
        paper,
    ),
}
NAMES = {"GaussianMixture": GaussianMixture, "SymmetricKLLoss": SymmetricKLLoss, "math": math}


@pytest.mark.parametrize("code", ABLATIONS)
def test_each_ablation_is_one_call(code):
    docs = Path(__file__).parents[1] / "docs" / "paper_to_code.md"
    assert (f"| `{code}` |" if code else "| the defaults |") in docs.read_text(encoding="utf-8")
    signal, weights, term = ABLATIONS[code]
    x, y = data(600).tensors
    given = torch.where(torch.rand(600) < 0.3, (y + 1) % 3, y)
    t = trainer(**eval(f"dict({code})", NAMES))
    t.weigher.negligible_noise, t.weigher.sharpness = 0.0, 1.0
    t.fit(DataLoader(TensorDataset(x, given), 30, shuffle=True), 3)
    assert len(t.history) == 3
    assert all(math.isfinite(value) for record in t.history for value in record.values())

    with torch.no_grad():  # so that it matters which network gives the weights
        t.models[1][-1].weight.add_(torch.randn(3, 24))
    calls = []
    t.cross_weighted.register_forward_hook(lambda module, inputs, output: calls.append(inputs))
    got = {key: value.item() for key, value in t.train_step(x, given).items()}
    [(a, b, _, by_a, by_b)] = calls
    added = term(a, b).item() if term else 0
    assert got["loss"] - got["cross_entropy"] == pytest.approx(added, abs=1e-5)
    if signal is None:
        assert t.weigher.mixtures_ == []
        assert (by_a == 1).all()
        assert (by_b == 1).all()
        return
    logits = torch.stack([a, b]).detach()
    if t.weigher.decoys is not None and signal is not label_probability:
        logits = t.weigher.alignment(logits)
    posteriors = [
        torch.tensor(mixture.predict_proba(signal(z, given))[:, -1])
        for mixture, z in zip(t.weigher.mixtures_, logits, strict=True)
    ]
    for way in (own, swapped, mean, kept):
        gaps = [(w - v).abs().max() for w, v in zip((by_b, by_a), way(*posteriors), strict=True)]
        assert (max(gaps) < 0.02) if way is weights else (min(gaps) > 0.1), way
    means = [p.mean().item() for p in posteriors]
    assert [got["weight_a"], got["weight_b"]] == pytest.approx(means, abs=2e-3)
    assert max(means) < 0.9
