import copy

import numpy as np
import pytest
import torch
from sklearn.mixture import GaussianMixture
from small import logits_like_a_network
from torch import nn
from torch.optim.swa_utils import AveragedModel

from resup import (
    BetaMixture,
    DecoyMixture,
    SampleWeigher,
    cosine_label_similarity,
)
from resup.weigher import UNSEEN


def test_a_refit_looks_only_at_what_came_since_the_last():
    logits, targets, _ = logits_like_a_network()
    once, twice = SampleWeigher(BetaMixture()), SampleWeigher(BetaMixture())
    twice(2 * logits, targets.flip(0))
    twice.refit()
    for weigher in (once, twice):
        weigher(logits, targets)
        weigher(logits, targets, record=False)
        weigher.refit()
    torch.testing.assert_close(once.posterior.coefficients, twice.posterior.coefficients)
    assert once.fitted_counts.sum() == 2 * 2000


def test_a_list_of_logits_is_named():
    logits, targets, _ = logits_like_a_network()
    with pytest.raises(
        TypeError, match=r"logits must be a tensor of shape \(2, N, C\), such as tor"
    ):
        SampleWeigher()(list(logits), targets)


def test_float64_logits_give_float64_weights_whatever_the_signal():
    logits, targets, _ = logits_like_a_network()
    for signal in ("similarity", "loss"):
        assert SampleWeigher(signal=signal)(logits.double(), targets).dtype == torch.float64


def test_the_callers_mixture_stays_unfitted():
    mine = BetaMixture()
    weigher = SampleWeigher(mine)
    logits, targets, _ = logits_like_a_network()
    weigher(logits, targets)
    weigher.refit()
    assert not hasattr(mine, "alphas_")


def test_negligible_noise_leaves_training_alone_but_is_still_judged():
    targets = torch.randint(5, (2000,))
    logits = torch.randn(2, 2000, 5)
    logits[:, torch.arange(2000), targets] += 8
    wrong = targets.clone()
    wrong[:6] = (wrong[:6] + 1) % 5
    for negligible, kept in ((0.01, True), (0.0, False)):
        weigher = SampleWeigher(negligible_noise=negligible)
        weigher(logits, wrong)
        weigher.refit()
        assert max(weigher.noise_rates_) < 0.01
        assert bool((weigher(logits, wrong) == 1).all()) == kept
        assert weigher.judge(logits, wrong)[:, :6].max() < 0.5


# ---------------------------------------------------------------------------- any estimator


class Threshold:
    """Not of scikit-learn: a setting, no get_params, the clean column first."""

    def __init__(self, share):
        self.share = share

    def fit(self, X):
        self.at = np.quantile(X, self.share)

    def predict_proba(self, X):
        clean = (X[:, 0] > self.at).astype(float)
        return np.stack([clean, 1 - clean], 1)


ESTIMATORS = {
    "gaussians": GaussianMixture(2),
    "a class of one's own": Threshold(0.3),
    "two Betas": BetaMixture(),
    "three Betas": BetaMixture(3),
}


@pytest.mark.parametrize("name", ESTIMATORS)
def test_any_estimator_weighs_and_judges(name):
    logits, targets, right = logits_like_a_network()
    weigher = SampleWeigher(ESTIMATORS[name])
    assert (weigher(logits, targets) == 1).all()
    weigher.refit()
    for mixture, z, w, p in zip(
        weigher.mixtures_, logits, weigher(logits, targets), weigher.judge(logits, targets),
        strict=True,
    ):  # fmt: skip
        expected = mixture.predict_proba(cosine_label_similarity(z, targets))[:, -1]
        assert np.isclose(w, expected, atol=0.02).mean() > 0.99  # a bin may straddle a threshold
        assert torch.equal(w, p)
        assert w[right].mean() > w[~right].mean() + 0.5
    assert weigher.noise_rates_ == pytest.approx([0.3, 0.3], abs=0.2)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_any_estimator_comes_back_from_the_state_dict(name):
    logits, targets, _ = logits_like_a_network()
    weigher, other = SampleWeigher(ESTIMATORS[name]), SampleWeigher(ESTIMATORS[name])
    weigher(logits, targets)
    weigher.refit()
    other.load_state_dict(copy.deepcopy(weigher.state_dict()))
    assert torch.equal(other(logits, targets), weigher(logits, targets))
    assert other(logits, targets).min() < 0.5
    assert other.noise_rates_ == weigher.noise_rates_


def test_any_estimator_compiles_and_leaves_nan_at_1():
    logits, targets, _ = logits_like_a_network()
    weigher = SampleWeigher(GaussianMixture(2))
    weigher(logits, targets)
    weigher.refit()
    torch._dynamo.reset()
    step = torch.compile(weigher, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(step(logits, targets, False), weigher(logits, targets, False))
    logits[0, 5] = torch.nan
    assert weigher(logits, targets)[0, 5] == 1


@pytest.mark.parametrize("mixture", [None, BetaMixture(), GaussianMixture(2)])
def test_any_estimator_on_similarities_all_alike(mixture):
    weigher = SampleWeigher(mixture)
    logits, targets = torch.zeros(2, 50, 3), torch.zeros(50, dtype=torch.long)
    weigher(logits, targets)
    with pytest.warns(UserWarning, match="the mixture of network . is degenerate"):
        weigher.refit()
    assert (weigher(logits, targets) == 1).all()


@pytest.mark.parametrize("mixture", ["gmm", GaussianMixture, torch.nn.Identity()])
def test_what_is_no_estimator_is_refused_at_once(mixture):
    with pytest.raises(TypeError, match="mixture must be an object with fit and predict_proba"):
        SampleWeigher(mixture)


@pytest.mark.parametrize(
    "mixture",
    [
        BetaMixture(prior=-1),
        BetaMixture(n_components="2"),
        DecoyMixture(clip=7),
        DecoyMixture(noise_rate=1.5),
    ],
    ids=str,
)
def test_parameters_out_of_range_are_refused_at_once(mixture):
    with pytest.raises(ValueError, match=r"must .* got"):
        SampleWeigher(mixture)


def show(weigher, memorised, n=4000, c=5, seed=0):
    """An epoch with 40 % wrong labels, a share `memorised` of them predicted like right ones."""
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(c, (n,), generator=generator)
    wrong = torch.rand(n, generator=generator) < 0.4
    known = torch.rand(n, generator=generator) < memorised
    shown = torch.where(wrong & ~known, (targets + 1) % c, targets)
    logits = torch.randn(2, n, c, generator=generator)
    logits[:, torch.arange(n), shown] += 4
    for batch in torch.arange(n).chunk(c - 1):  # as many as there are other labels for decoys
        weigher(logits[:, batch], targets[batch])
    weigher.refit()
    return logits, targets


def test_a_noise_rate_found_three_times_is_held():
    weigher = SampleWeigher(DecoyMixture(), sharpness=1)
    for epoch in range(3):
        show(weigher, 0, seed=epoch)
    assert weigher.noise_rates_ == pytest.approx([0.4, 0.4], abs=0.05)
    found = min(weigher.noise_rates_)
    logits, targets = show(weigher, 0.6)
    assert min(weigher.noise_rates_) == pytest.approx(found, abs=0.02)
    weigher.alignment.log_shares.zero_()
    weights = weigher(logits, targets, record=False)
    assert (1 - weights).mean(1).tolist() == pytest.approx(weigher.noise_rates_, abs=0.01)
    torch.testing.assert_close(weights, weigher.judge(logits, targets))
    other = SampleWeigher(DecoyMixture(), sharpness=1)
    other.load_state_dict(copy.deepcopy(weigher.state_dict()))
    assert torch.equal(other.memory.found_held, weigher.memory.found_held)
    assert torch.equal(other(logits, targets, record=False), weigher(logits, targets, record=False))


def test_weights_are_sharper_where_decoys_account_for_the_noise():
    """Elsewhere they are lower, for more noise than was found."""
    plain, sharp = SampleWeigher(sharpness=1), SampleWeigher(sharpness=3)
    for epoch, memorised in enumerate((0, 0, 0.6)):
        (logits, targets), _ = (show(weigher, memorised, seed=epoch) for weigher in (plain, sharp))
        weights, posterior = (w(logits, targets, record=False).double() for w in (sharp, plain))
        agreement = torch.tensor([[mixture.agreement_] for mixture in sharp.mixtures_])
        assert (agreement < 0.5).all() if memorised else (agreement > 0.6).all()
        if epoch == 0:  # the first fit is not sure enough
            torch.testing.assert_close(weights, posterior)
            continue
        shift = weights.logit(1e-9) - (1 + 2 * agreement) * posterior.logit(1e-9)
        shift = torch.where((weights - 0.5).abs() < 0.49, shift, torch.nan)
        middle = shift.nanmedian(1, keepdim=True).values
        assert ((shift - middle).abs().nan_to_num(0) < 0.01).all()
        rates = torch.tensor(sharp.noise_rates_, dtype=torch.float64)
        more = (1 + UNSEEN * (1 - agreement[:, 0])) * rates
        torch.testing.assert_close(1 - weights.mean(1), more.clamp(max=0.5), rtol=0, atol=0.01)
        other = SampleWeigher(sharpness=3)
        other.load_state_dict(copy.deepcopy(sharp.state_dict()))
        assert torch.equal(other(logits, targets, record=False).double(), weights)
    with pytest.raises(ValueError, match=r"sharpness must be a finite number of at least 1, got 0"):
        SampleWeigher(sharpness=0.5)


@pytest.mark.parametrize("rate", [0.25, 0.7])
def test_a_noise_rate_that_is_known_is_that_of_the_weights(rate):
    """From the first fit on, though it is over one half, and whatever is memorised."""
    weigher = SampleWeigher(DecoyMixture(noise_rate=rate))
    for epoch, memorised in enumerate((0, 0.6, 0.95)):
        logits, targets = show(weigher, memorised, seed=epoch)
        assert weigher.noise_rates_ == [rate, rate]
        weights = weigher(logits, targets, record=False)
        assert (1 - weights).mean(1).tolist() == pytest.approx([rate, rate], abs=0.03)


def test_a_noise_rate_found_twice_is_not_held():
    weigher = SampleWeigher(DecoyMixture())
    for epoch in range(2):
        show(weigher, 0, seed=epoch)
    show(weigher, 0.6)
    assert max(weigher.noise_rates_) < 0.3


def test_that_most_labels_are_wrong_takes_three_fits():
    weigher = SampleWeigher(DecoyMixture())
    targets = torch.randint(5, (4000,))
    logits = torch.randn(2, 4000, 5)
    moved = torch.randint(1, 5, (4000,)) * (torch.rand(4000) < 0.7)
    logits[:, torch.arange(4000), (targets + moved) % 5] += 4
    for weight in (0.5, 0.5, 0.3):
        weigher(logits, targets)
        weigher.refit()
        assert weigher.noise_rates_ == pytest.approx([0.7, 0.7], abs=0.05)
        weights = weigher(logits, targets, record=False).mean(1).tolist()
        assert weights == pytest.approx([weight, weight], abs=0.05)


def test_a_majority_found_before_keeps_classes_their_share():
    weigher = SampleWeigher(DecoyMixture())
    for held, balanced in ((0.0, False), (0.6, True)):
        weigher.memory.found_held.fill_(held)
        for _ in range(2):
            show(weigher, 0.6)
        assert max(weigher.noise_rates_) < 0.5
        assert weigher.balanced == balanced


@pytest.mark.parametrize("shape", [(5, 3), (1, 5, 3), (3, 5, 3), (2, 5, 3, 1)])
def test_logits_of_other_networks(shape):
    weigher = SampleWeigher()
    with pytest.raises(ValueError, match=r"logits must have shape \(2, N, C\), got"):
        weigher(torch.randn(shape), torch.zeros(5, dtype=torch.long))
    with pytest.raises(ValueError, match=r"targets must have shape \(5,\) .*, got \(4,\)"):
        weigher(torch.randn(2, 5, 3), torch.zeros(4, dtype=torch.long))


def fitted_weigher():
    logits, targets, _ = logits_like_a_network()
    weigher = SampleWeigher()
    weigher(logits, targets)
    weigher.refit()
    return weigher, logits, targets


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_it_keeps_its_dtypes_in_a_module_that_changes_its_own(dtype):
    weigher, logits, targets = fitted_weigher()
    expected = weigher.judge(logits, targets)
    before = {name: buffer.dtype for name, buffer in weigher.named_buffers()}
    nn.ModuleList([weigher, nn.Linear(2, 2)]).to(dtype)
    assert {name: buffer.dtype for name, buffer in weigher.named_buffers()} == before
    assert torch.equal(weigher.judge(logits, targets), expected)
    weigher(logits, targets)


@pytest.mark.parametrize("assign", [False, True])
def test_it_is_made_on_the_meta_device_and_filled_later(assign):
    weigher, logits, targets = fitted_weigher()
    with torch.device("meta"):
        other = SampleWeigher()
    if not assign:
        other.to_empty(device="cpu")
    other.load_state_dict(copy.deepcopy(weigher.state_dict()), assign=assign)
    assert torch.equal(other.judge(logits, targets), weigher.judge(logits, targets))
    for each in (weigher, other):
        each(logits, targets)
        each.refit()
    assert torch.equal(other.fitted_counts, weigher.fitted_counts)
    assert other.noise_rates_ == weigher.noise_rates_


def test_its_state_keeps_its_layout_where_images_change_theirs():
    weigher, logits, targets = fitted_weigher()
    weigher.to(memory_format=torch.channels_last)
    weigher(logits, targets)


def test_looking_changes_nothing_where_classes_are_balanced():
    weigher, logits, targets = fitted_weigher()
    weigher.balance.on.fill_(True)
    weigher.balanced = True
    weigher(logits, targets)
    state = copy.deepcopy(weigher.state_dict())
    first, again = (weigher(logits, targets, record=False) for _ in "ab")
    assert torch.equal(first, again)
    torch.testing.assert_close(weigher.state_dict(), state, rtol=0, atol=0, equal_nan=True)


def test_a_first_batch_in_inference_mode():
    logits, targets, _ = logits_like_a_network()
    weigher = SampleWeigher()
    with torch.inference_mode():
        weigher(logits, targets)
    weigher(logits, targets)
    weigher.refit()
    assert len(weigher.mixtures_) == 2


def test_classes_do_not_change_within_an_epoch():
    weigher = SampleWeigher()
    weigher(torch.randn(2, 9, 5), torch.randint(5, (9,)))
    loaded = SampleWeigher()
    loaded.load_state_dict(copy.deepcopy(weigher.state_dict()))
    for other in (weigher, loaded):
        with pytest.raises(ValueError, match="must have 5 classes until the next reset, got 6"):
            other(torch.randn(2, 9, 6), torch.randint(5, (9,)))
        assert other.seen.counts.sum() == 18
    weigher.refit()
    weigher(torch.randn(2, 9, 6), torch.randint(5, (9,)))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.int32])
def test_labels_of_any_integer_dtype(dtype):
    expected, logits, targets = fitted_weigher()
    weigher = SampleWeigher()
    weigher(logits, targets.to(dtype))
    weigher.refit()
    torch.testing.assert_close(
        weigher.judge(logits, targets.to(dtype)), expected.judge(logits, targets)
    )


class GivesOut:
    """An estimator that gives no probabilities in its third fit and later."""

    fits = 0

    def fit(self, X, y=None):
        GivesOut.fits += 1
        self.value = 1.0 if GivesOut.fits < 4 else np.nan
        return self

    def predict_proba(self, X):
        return np.hstack([1 - X, X]) * self.value


def test_a_fit_that_fails_leaves_the_last_mixtures():
    weigher = SampleWeigher(GivesOut())
    logits, targets = show(weigher, memorised=0)
    mixtures, rates = weigher.mixtures_, weigher.noise_rates_
    before = weigher.judge(logits, targets)
    weigher(logits, targets)
    with pytest.raises(ValueError, match="finite"):  # of the second network
        weigher.refit()
    assert weigher.mixtures_ is mixtures
    assert weigher.noise_rates_ is rates
    assert torch.equal(weigher.judge(logits, targets), before)


class Unsure:
    """An estimator that says itself that it should not be used."""

    degenerate_ = True

    def fit(self, X, y=None):
        return self

    def predict_proba(self, X):
        return np.hstack([1 - X, X])


@pytest.mark.parametrize("n_classes", [10, 100])
def test_networks_that_learn_nothing_are_told(n_classes):
    weigher = SampleWeigher()

    def epoch(size):
        logits = size * torch.randn(2, 20_000, n_classes)
        targets = torch.randint(n_classes, (20_000,))
        logits[:, torch.arange(20_000), targets] += 10 * size - 1
        weigher(logits, targets)
        weigher.refit()

    epoch(0.1)
    with pytest.warns(UserWarning, match="network . tells given labels from others hardly"):
        epoch(0.1)
    epoch(0.1)  # told already
    weigher.load_state_dict(weigher.state_dict())  # is no epoch
    epoch(0.1)
    epoch(1.0)
    epoch(0.1)
    weigher.load_state_dict(weigher.state_dict())  # is no second one


def test_a_network_that_contradicts_every_label_weighs_all_the_same():
    weigher = SampleWeigher()
    targets = torch.randint(4, (2000,))
    logits = torch.randn(2, 2000, 4)
    logits[:, torch.arange(2000), (targets + 1) % 4] += 4
    weigher(logits, targets)
    weigher.refit()
    assert all(mixture.degenerate_ for mixture in weigher.mixtures_)
    assert (weigher(logits, targets) == 1).all()
    with pytest.warns(UserWarning, match="network . tells .* it weighs every sample 1"):
        weigher.refit()


def test_an_estimator_that_calls_itself_degenerate_weighs_nothing():
    weigher = SampleWeigher(Unsure())
    with pytest.warns(UserWarning, match="the mixture of network . is degenerate; it weighs"):
        logits, targets = show(weigher, memorised=0)
    assert (weigher(logits, targets) == 1).all()
    weigher(logits, targets)
    with pytest.raises(UserWarning, match="of network A is degenerate"):  # here an error
        weigher.refit()
    assert len(weigher.noise_rates_) == len(weigher.mixtures_) == 2


def test_judging_before_the_first_fit_says_so():
    message = r"nothing has been fitted yet, .* call refit\(\) after"
    with pytest.warns(UserWarning, match=message) as said:
        probability = SampleWeigher().judge(torch.randn(2, 5, 3), torch.zeros(5).long())
    assert (probability == 1).all()
    assert said[0].filename == __file__


def test_logits_of_another_number_of_classes_than_given_are_refused():
    weigher = SampleWeigher(n_classes=4)
    for call in (weigher, weigher.judge):
        with pytest.raises(ValueError, match="logits must have 4 classes, got 3"):
            call(torch.randn(2, 5, 3), torch.zeros(5).long())


def test_a_network_that_shows_nothing_is_named():
    weigher = SampleWeigher()
    logits, targets = show(weigher, memorised=0)
    before, mixtures = weigher.judge(logits, targets), weigher.mixtures_
    lost = logits.clone()
    lost[1] = torch.nan
    weigher(lost, targets)
    with pytest.raises(ValueError, match="the signal of network B is NaN for every sample"):
        weigher.refit()
    assert weigher.mixtures_ is mixtures
    assert torch.equal(weigher.judge(logits, targets), before)
    assert not weigher.seen.counts.any()


@pytest.mark.parametrize(
    "option",
    [{"networks": 0}, {"negligible_noise": "x"}, {"negligible_noise": -1.0}, {"n_classes": 1}],
)
def test_bad_settings(option):
    with pytest.raises(ValueError, match=f"{next(iter(option))} must be"):
        SampleWeigher(**option)


def test_its_shapes_are_known_before_the_first_batch():
    weigher = SampleWeigher(n_classes=3)
    average = AveragedModel(nn.ModuleDict({"head": nn.Linear(3, 3), "weigher": weigher}))
    logits, targets, _ = logits_like_a_network(c=3)
    weigher(logits, targets)
    weigher.refit()
    average.update_parameters(nn.ModuleDict({"head": nn.Linear(3, 3), "weigher": weigher}))
    state = average.module["weigher"].state_dict()
    torch.testing.assert_close(state, weigher.state_dict(), rtol=0, atol=0, equal_nan=True)


def test_a_module_loaded_in_part_gets_the_mixtures_of_its_weigher():
    logits, targets, _ = logits_like_a_network()
    first, second = (
        nn.ModuleDict({"head": nn.Linear(3, 3), "weigher": SampleWeigher()}) for _ in range(2)
    )
    first["weigher"](logits, targets)
    first["weigher"].refit()
    state = first.state_dict()
    parts = {key: value for key, value in state.items() if not key.startswith("head")}
    second.load_state_dict(parts, strict=False)
    assert second["weigher"].noise_rates_ == first["weigher"].noise_rates_
