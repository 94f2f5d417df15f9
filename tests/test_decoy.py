import pickle
import warnings

import numpy as np
import pytest
import reference
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import digamma, expit
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError

from resup import (
    BetaMixture,
    DecoyMixture,
    Posterior,
    SampleWeigher,
    SimilarityHistogram,
    cosine_label_similarity,
    decoy,
)
from resup._base import LogOdds
from resup.decoy import contradiction_rate, held_to_rate, hit_rate, transition

GRID = np.unique(np.r_[0, 1e-300, 2.0 ** -np.arange(8, 50), np.linspace(0, 1, 300), 1 - 1e-12])
RIGHT, WRONG = (6.0, 0.8), (0.6, 6.0)


def drawn(noise=0.3, n=3000, hits=1 / 9, seed=0):
    """Similarities of samples and of decoys, and which labels are right, as the model has it."""
    rng = np.random.default_rng(seed)
    right, hit = rng.random(n) >= noise, rng.random(n) < noise * hits
    s, decoys = (np.where(v, rng.beta(*RIGHT, n), rng.beta(*WRONG, n)) for v in (right, hit))
    return s, decoys, right


def parameters(mixture):
    return np.concatenate([mixture.weights_, mixture.alphas_, mixture.betas_])


def brier(mixture, s, right):
    return np.mean((mixture.predict_proba(s)[:, -1] - right) ** 2)


# ---------------------------------------------------------------------------- the contract


def test_what_a_fit_tells():
    s, decoys, right = drawn()
    mixture = DecoyMixture().fit(s, decoys, hit_rate=1 / 9)
    assert mixture.noise_rate_ == mixture.weights_[0]
    assert mixture.weights_.sum() == pytest.approx(1)
    assert mixture.weights_.shape == mixture.alphas_.shape == mixture.betas_.shape == (2,)
    np.testing.assert_allclose(mixture.means_, mixture.alphas_ / (mixture.alphas_ + mixture.betas_))
    assert mixture.means_[0] < mixture.means_[1]
    assert (mixture.converged_, mixture.degenerate_, mixture.n_features_in_) == (True, False, 1)
    assert 0 < mixture.n_iter_ < 200
    proba = mixture.predict_proba(s)
    assert proba.shape == (3000, 2)
    assert proba[right, -1].mean() > proba[~right, -1].mean() + 0.8
    np.testing.assert_array_equal(mixture.predict(s), proba.argmax(1))
    assert mixture.score(s) == pytest.approx(mixture.score_samples(s).mean())
    assert mixture.bic(s) > mixture.aic(s)
    assert mixture.sample(5)[0].shape == (5, 1)


def test_posterior_is_equation_5_in_closed_form():
    s, decoys, _ = drawn()
    mixture = DecoyMixture().fit(s, decoys)
    proba = mixture.predict_proba(GRID)[:, -1]
    np.testing.assert_allclose(1 / (1 + np.exp(-mixture.log_odds_(GRID))), proba, atol=1e-12)
    t = torch.from_numpy(GRID)
    np.testing.assert_allclose(Posterior().load(mixture)(t.log(), (-t).log1p()), proba, atol=1e-5)


@pytest.mark.parametrize(
    "convert",
    [
        list,
        lambda s: s[:, None],
        lambda s: s.astype(np.float32),
        tuple,
        torch.tensor,
        lambda s: torch.tensor(s, requires_grad=True)[:, None],
        lambda s: torch.tensor(s).bfloat16(),
        lambda s: torch.tensor(s).half(),
    ],
)
def test_one_result_for_every_kind_of_input(convert):
    s, decoys = (torch.tensor(v).bfloat16().double().numpy() for v in drawn(n=200)[:2])
    s, decoys = s.clip(2**-8, 1), decoys.clip(2**-8, 1)  # float16 holds no less exactly
    expected = DecoyMixture().fit(s, decoys, hit_rate=0.1)
    for x, d in ((convert(s), decoys), (s, convert(decoys))):
        got = DecoyMixture().fit(x, d, hit_rate=0.1)
        np.testing.assert_allclose(parameters(got), parameters(expected), rtol=1e-9)


def test_columns_of_a_data_frame():
    pandas = pytest.importorskip("pandas")
    s, decoys, _ = drawn(n=200)
    frame = pandas.DataFrame({"s": s, "decoy": decoys})
    expected = parameters(DecoyMixture().fit(s, decoys))
    for x, d in ((frame["s"], frame["decoy"]), (frame[["s"]], frame[["decoy"]])):
        np.testing.assert_array_equal(parameters(DecoyMixture().fit(x, d)), expected)


def test_histograms_stand_for_their_samples():
    s, decoys, _ = drawn(n=5000)
    whole = DecoyMixture().fit(s, decoys)
    parts = DecoyMixture().fit(*(SimilarityHistogram().update(v) for v in (s, decoys)))
    np.testing.assert_array_equal(parameters(parts), parameters(whole))
    few = DecoyMixture().fit(s[:400], decoys[:300])
    binned = DecoyMixture().fit(s[:400], SimilarityHistogram().update(decoys[:300]))
    np.testing.assert_allclose(parameters(binned), parameters(few), rtol=0.02)


@pytest.mark.parametrize("n", [400, 4000])
def test_a_weight_is_repetition(rng, n):
    s, decoys, _ = drawn(n=n)
    often, decoy_often = rng.integers(0, 4, n), rng.integers(0, 4, n)
    repeated = DecoyMixture().fit(np.repeat(s, often), np.repeat(decoys, decoy_often))
    for scale in (1, 1e-6):
        weights = {"sample_weight": scale * often, "decoy_weight": scale * decoy_often}
        weighted = DecoyMixture().fit(s, decoys, **weights)
        np.testing.assert_allclose(parameters(weighted), parameters(repeated), rtol=1e-6)


def test_how_many_decoys_there_are_does_not_matter():
    s, decoys, _ = drawn()
    once, thrice = (DecoyMixture().fit(s, np.tile(decoys, k)) for k in (1, 3))
    np.testing.assert_allclose(parameters(thrice), parameters(once), rtol=0.02)  # of the bins


def test_clone_pickle_and_repr():
    s, decoys, _ = drawn(n=300)
    mixture = DecoyMixture(tol=1e-2).fit(s, decoys)
    assert mixture.get_params() == {
        "clip": 2**-20,
        "max_iter": 200,
        "tol": 1e-2,
        "random_state": None,
    }
    assert repr(mixture) == "DecoyMixture(tol=0.01)"
    assert "0.01" in mixture._repr_html_()
    fresh = clone(mixture)
    assert not hasattr(fresh, "weights_")
    np.testing.assert_array_equal(parameters(fresh.fit(s, decoys)), parameters(mixture))
    again = pickle.loads(pickle.dumps(mixture))
    np.testing.assert_array_equal(again.predict_proba(s), mixture.predict_proba(s))
    assert fresh.set_params(max_iter=3).max_iter == 3


# ---------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("decoys", "message"),
    [
        ([], "decoys must hold at least one sample, got 0"),
        (SimilarityHistogram(), "decoys must have a sample of positive weight"),
        ([0.1, 1.5], r"decoys must lie in \[0, 1\], got values from 0.1 to 1.5"),
        ([[-0.5], [0.1]], r"decoys must lie in \[0, 1\], got values from -0.5 to 0.1"),
        ([0.1, np.nan], "decoys must not contain NaN, got 1 of them"),
        (np.r_[np.full(5000, 0.5), np.nan], "must not contain NaN, got 1 of them"),
        (np.r_[np.full(5000, 0.5), 2], r"must lie in \[0, 1\], got values from 0.5 to 2"),
        (0.5, r"decoys must have shape \(N,\) or \(N, 1\), got \(\)"),
        (np.full((2, 1, 1), 0.5), r"decoys must have shape \(N,\) or \(N, 1\), got \(2, 1, 1\)"),
        ([[0.1, 0.2]], r"decoys must have shape \(N,\) or \(N, 1\), got \(1, 2\)"),
        (["high"], r"decoys must be real numbers in \[0, 1\], got dtype <U4"),
        ([0.5j], r"decoys must be real numbers in \[0, 1\], got dtype complex128"),
    ],
)
def test_bad_decoys(decoys, message):
    with pytest.raises(ValueError, match=message):
        DecoyMixture().fit([0.2, 0.7], decoys)


@pytest.mark.parametrize(
    ("s", "message"),
    [
        ([], "similarities must hold at least one sample, got 0"),
        ([0.1, 1.5], r"similarities must lie in \[0, 1\], got values from 0.1 to 1.5"),
        ([0.1, np.nan], "similarities must not contain NaN"),
    ],
)
def test_bad_similarities(s, message):
    with pytest.raises(ValueError, match=message):
        DecoyMixture().fit(s, [0.2, 0.7])


@pytest.mark.parametrize("name", ["hit_rate", "seen_rate", "least_rate", "least_probability"])
@pytest.mark.parametrize("rate", [-0.1, 1.1, np.nan, np.inf])
def test_bad_rates(name, rate):
    with pytest.raises(ValueError, match=rf"{name} must lie in \[0, 1\], got {rate}"):
        DecoyMixture().fit([0.2, 0.7], [0.1], **{name: rate})


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"sample_weight": [1.0]}, r"sample_weight must have shape \(2,\), got \(1,\)"),
        ({"decoy_weight": [1.0]}, r"decoy_weight must have shape \(3,\), got \(1,\)"),
        ({"decoy_weight": [1.0, 1.0, -1.0]}, "decoy_weight must be finite and not negative"),
        ({"decoy_weight": np.zeros(3)}, "decoys must have a sample of positive weight"),
    ],
)
def test_bad_weights(weights, message):
    with pytest.raises(ValueError, match=message):
        DecoyMixture().fit([0.2, 0.7], [0.1, 0.2, 0.3], **weights)


def test_a_histogram_of_decoys_has_its_own_weights():
    with pytest.raises(ValueError, match="decoy_weight must be None for a SimilarityHistogram"):
        DecoyMixture().fit([0.2], SimilarityHistogram().update([0.5]), decoy_weight=[1.0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_iter": 0}, "max_iter must be an integer of at least 1, got 0"),
        ({"max_iter": 2.5}, "max_iter must be an integer of at least 1, got 2.5"),
        ({"tol": np.nan}, "tol must be a finite number of at least 0, got nan"),
        ({"clip": 0.5}, r"clip must lie in \[1e-15, 0.5\), got 0.5"),
    ],
)
def test_bad_parameters(options, message):
    with pytest.raises(ValueError, match=message):
        DecoyMixture(**options).fit([0.1, 0.9], [0.1])


@pytest.mark.parametrize("method", ["predict", "predict_proba", "score_samples", "score", "bic"])
def test_use_before_fit(method):
    with pytest.raises(NotFittedError, match="not fitted yet"):
        getattr(DecoyMixture(), method)([0.5])
    with pytest.raises(NotFittedError):
        DecoyMixture().sample()


# ---------------------------------------------------------------------------- never wrong silently

KINDS = {
    "uniform": lambda rng, n: rng.random(n),
    "any": lambda rng, n: rng.beta(*10 ** rng.uniform(-2, 2, 2), n),
    "constant": lambda rng, n: np.full(n, rng.random()),
    "zeros": lambda rng, n: np.zeros(n),
    "ones": lambda rng, n: np.ones(n),
    "zeros and ones": lambda rng, n: rng.integers(0, 2, n),
    "two values": lambda rng, n: rng.choice(rng.random(2), n),
    "nearly one value": lambda rng, n: 0.5 + 1e-9 * rng.random(n),
    "ties": lambda rng, n: rng.choice(rng.random(5), n),
    "99 % at 1": lambda rng, n: np.where(rng.random(n) < 0.99, 1.0, rng.random(n)),
    "99 % at 0": lambda rng, n: np.where(rng.random(n) < 0.99, 0.0, rng.random(n)),
}
rates = st.one_of(st.sampled_from([0.0, 1.0]), st.floats(0, 1))


@st.composite
def values(draw):
    """Similarities, and weights of which many are zero."""
    n = draw(st.one_of(st.integers(1, 40), st.sampled_from([300, 3000])))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    s = np.asarray(KINDS[draw(st.sampled_from(sorted(KINDS)))](rng, n), np.float64)
    w = np.r_[rng.random(n - 1) * rng.integers(0, 2, n - 1), 0.5] if draw(st.booleans()) else None
    return s.astype(draw(st.sampled_from([np.float64, np.float32, np.float16]))), w


@settings(max_examples=250)
@given(values(), values(), rates, rates, rates, rates)
def test_whatever_comes_the_fit_is_usable(samples, decoys, hits, seen, least, trust):
    (s, sample_weight), (d, decoy_weight) = samples, decoys
    mixture = DecoyMixture()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        mixture.fit(
            s, d, hit_rate=hits, seen_rate=seen, least_rate=least, least_probability=trust,
            sample_weight=sample_weight, decoy_weight=decoy_weight,
        )  # fmt: skip
        proba, density = mixture.predict_proba(GRID), mixture.score_samples(GRID)
    warned = [issubclass(c.category, ConvergenceWarning) for c in caught]
    assert warned == [True] * (mixture.degenerate_ or not mixture.converged_)

    assert np.isfinite([*parameters(mixture), *density, mixture.noise_rate_]).all()
    assert (mixture.weights_ >= 0).all()
    assert mixture.weights_.sum() == pytest.approx(1)
    assert (mixture.alphas_ > 0).all()
    assert (mixture.betas_ > 0).all()
    assert np.diff(mixture.means_) >= 0
    assert 0 <= mixture.noise_rate_ <= 1

    assert ((proba >= 0) & (proba <= 1)).all()
    np.testing.assert_allclose(proba.sum(1), 1, rtol=1e-12)
    assert (np.diff(proba[:, -1]) >= 0).all()
    if len(np.unique(s if sample_weight is None else s[sample_weight > 0])) < 2:
        assert mixture.degenerate_
        assert (proba[:, -1] == 1).all()
    elif (proba[:, -1] < 1).any():
        assert mixture.noise_rate_ >= least
    if least <= 1e-9:
        assert (proba[:, -1] >= trust - 1e-6).all()


@pytest.mark.parametrize("s", [[0.3], [0.3] * 50, [0.0] * 50, [1.0] * 5000])
@pytest.mark.parametrize("seen", [0.0, 0.5])
def test_one_value_is_degenerate_and_says_so(s, seen):
    with pytest.warns(ConvergenceWarning, match="are alike; every posterior is 1"):
        mixture = DecoyMixture().fit(s, [0.1, 0.2], seen_rate=seen)
    assert mixture.degenerate_
    assert mixture.noise_rate_ == 0
    assert (mixture.predict_proba(GRID)[:, 1] == 1).all()


def test_the_noise_rate_is_no_more_than_one():
    s = np.concatenate([np.zeros(7), np.full(13, 1e-6)])
    for n in range(1, 60):  # sums of n weights 1 / n are rounded either way
        mixture = DecoyMixture().fit(np.resize(s, n + 20), np.ones(3), seen_rate=1.0)
        assert 0 <= mixture.noise_rate_ <= 1
        assert (mixture.weights_ >= 0).all()


def test_an_early_stop_says_so():
    s, decoys, _ = drawn()
    with pytest.warns(ConvergenceWarning, match="did not converge in 2 iterations"):
        mixture = DecoyMixture(max_iter=2).fit(s, decoys)
    assert (mixture.n_iter_, mixture.converged_, mixture.degenerate_) == (2, False, False)


# ---------------------------------------------------------------------------- statistics


@pytest.mark.parametrize(
    ("noise", "hits"),
    [(0.1, 1 / 9), (0.3, 1 / 9), (0.5, 1 / 9), (0.1, 1.0), (0.3, 1.0), (0.3, 0.0)],
)
def test_samples_give_the_noise_rate_and_means_back(noise, hits):
    s, decoys, right = drawn(noise, 20_000, hits)
    mixture = DecoyMixture().fit(s, decoys, hit_rate=hits)
    assert mixture.noise_rate_ == pytest.approx(noise, abs=0.05)
    means = [a / (a + b) for a, b in (WRONG, RIGHT)]
    # the prior leaves the right component a tail of doubtful labels
    np.testing.assert_allclose(mixture.means_, means, atol=0.12)
    truth = BetaMixture(init=[[noise, 1 - noise], *np.transpose([WRONG, RIGHT])], max_iter=0).fit(s)
    assert brier(mixture, s, right) < brier(truth, s, right) + 0.012


@pytest.mark.parametrize(("hits", "seen"), [(0.5, None), (0.1, None), (0.5, 0.45), (0.5, 0.0)])
def test_the_fit_is_where_em_stands_still(hits, seen):
    s, decoys, _ = drawn(n=400, hits=hits)
    samples, others = (decoy._Values.of(np.asarray(x), np.ones(400), 1e-6) for x in (s, decoys))
    beside = others.scaled(decoy.DECOY_WEIGHT if seen is None else 0.0)
    mixture, _ = decoy._em(samples, beside, hits, seen, 5000, 1e-10)
    shapes = list(zip(mixture.alphas, mixture.betas, strict=True))

    def responsibilities(x, shares):
        joint = [p * reference.beta_pdf(x, *shape) for p, shape in zip(shares, shapes, strict=True)]
        return np.array(joint) / sum(joint)

    rate = mixture.weights[0]
    n, logs = np.full(2, decoy.FLOOR), np.full((2, 2), -decoy.FLOOR)
    total = np.zeros(2)
    for x in s:
        right = 1 / 3 + 2 / 3 * x
        r = responsibilities(x, mixture.weights)
        total += r / 400
        share = (r + decoy.PRIOR * np.array([1 - right, right])) / 400
        n, logs = n + share, logs + np.outer([np.log(x), np.log1p(-x)], share)
    for x in decoys if seen is None else []:
        share = decoy.DECOY_WEIGHT * responsibilities(x, [1 - rate * hits, rate * hits]) / 400
        n, logs = n + share, logs + np.outer([np.log(x), np.log1p(-x)], share)
    expected = digamma([mixture.alphas, mixture.betas]) - digamma(mixture.alphas + mixture.betas)
    np.testing.assert_allclose(logs / n, expected, atol=1e-4)
    known = 0.0 if seen is None else decoy.RATE_WEIGHT
    assert rate == pytest.approx((total[0] + known * (seen or 0.0)) / (1 + known), abs=1e-6)


@pytest.mark.parametrize("seen", [None, 0.0, 0.2, 0.6])
def test_no_nearby_regression_tells_samples_from_decoys_better(seen):
    s, decoys, _ = drawn(n=400, hits=0.2)
    samples, others = (decoy._Values.of(np.asarray(x), np.ones(400), 1e-6) for x in (s, decoys))
    (a, b, c), pi = decoy._contrast(samples, others, 0.2, seen)
    assert a > 0 > b

    def likelihood(a, b, c, pi):
        def density_ratio(x):
            ratio = np.exp(a * np.log(x) + b * np.log1p(-x) + c) * pi / (1 - pi)
            return (pi + (1 - pi) * ratio) / (1 - 0.2 * pi + 0.2 * pi * ratio)

        is_sample = np.log(1 / (1 + 1 / density_ratio(np.asarray(s)))).mean()
        value = is_sample + np.log(1 / (1 + density_ratio(np.asarray(decoys)))).mean()
        if seen is not None:
            value += decoy.CONTRAST_RATE_WEIGHT * (seen * np.log(pi) + (1 - seen) * np.log(1 - pi))
        return value - decoy.RIDGE / 2 * (np.log(a) ** 2 + np.log(-b) ** 2)

    best = likelihood(a, b, c, pi)
    for k, step in enumerate(np.diag([0.02 * a, 0.02 * b, 0.02, 0.02 * pi])):
        for sign in (-1, 1):
            assert likelihood(*(np.array([a, b, c, pi]) + sign * step)) < best + 1e-7, (k, sign)


@pytest.mark.parametrize("noise", [0.1, 0.3, 0.5])
def test_the_contrast_finds_the_noise_rate_without_a_form_of_the_densities(noise):
    rng = np.random.default_rng(0)
    right = rng.random(20_000) >= noise
    # uniform on two steps: no Beta, but a ratio that rises
    low, high = rng.random(20_000) * 0.5, 0.5 + rng.random(20_000) * 0.5
    wrong_like = np.where(rng.random(20_000) < 0.98, low, high)
    s = np.where(right, np.where(rng.random(20_000) < 0.95, high, low), wrong_like)
    decoys = rng.permutation(np.where(rng.random(20_000) < 0.98, low, high))
    mixture = DecoyMixture().fit(s, decoys, seen_rate=noise)
    assert mixture.noise_rate_ == pytest.approx(noise, abs=0.1)


@pytest.mark.parametrize("hits", [1 / 9, 1.0])
def test_labels_are_never_taken_for_worse_than_chance(hits):
    s, decoys, _ = drawn()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        capped, at_cap = (
            DecoyMixture().fit(s, decoys, hit_rate=hits, seen_rate=seen)
            for seen in (1.0, 1 / (1 + hits))
        )
    assert capped.noise_rate_ == at_cap.noise_rate_ < 0.9


@pytest.mark.parametrize("seed", range(3))
def test_hard_but_right_labels_are_kept_by_decoys_only(seed):
    rng = np.random.default_rng(seed)
    s, decoys = rng.beta(1.2, 0.5, 4000), rng.beta(0.4, 6, 4000)
    mixture = DecoyMixture().fit(s, decoys, hit_rate=1 / 9)
    assert mixture.predict_proba(s)[:, -1].mean() > 0.98
    assert BetaMixture().fit(s).predict_proba(s)[:, -1].mean() < 0.95
    assert not mixture.degenerate_


def logits_of_a_network(kind, n=4000, c=10, seed=0):
    """Logits of a network that half believes wrong labels, if these go from class to class."""
    rng = np.random.default_rng(seed)
    truth, right = rng.integers(c, size=n), rng.random(n) >= 0.4
    step = 1 if kind == "pairs" else rng.integers(1, c, n)
    given_label = np.where(right, truth, (truth + step) % c)
    logits = rng.normal(size=(n, c))
    logits[np.arange(n), truth] += rng.gamma(4, 1.5, n)
    if kind == "pairs":
        logits[np.arange(n), (truth + 1) % c] += rng.gamma(4, 0.75, n)
    return torch.tensor(logits)[None].float(), torch.tensor(given_label), right


def shown(weigher, logits, targets, batch=128):
    for part in torch.arange(len(targets)).split(batch):
        weigher(logits[:, part], targets[part])
    weigher.refit()
    return weigher


@pytest.mark.parametrize("seed", range(3))
def test_decoys_that_explain_too_little_are_left_out(seed):
    logits, targets, right = logits_of_a_network("pairs", seed=seed)
    weigher = shown(SampleWeigher(DecoyMixture(), 1), logits, targets)
    s = cosine_label_similarity(logits[0], targets).numpy()
    _, seen, *_ = weigher.rates[0].tolist()
    assert 0.25 < seen < 0.45
    decoys = SimilarityHistogram(weigher.fitted_decoys[0].numpy())
    trusting = DecoyMixture().fit(s, decoys, hit_rate=1 / 9)
    assert trusting.noise_rate_ < 0.75 * seen
    with pytest.warns(ConvergenceWarning, match=r"noise rate of 0\.\d\d where 0\.\d\d is likelier"):
        mixture = DecoyMixture().fit(s, decoys, hit_rate=1 / 9, seen_rate=seen)
    assert mixture.degenerate_
    assert weigher.mixtures_[0].degenerate_
    assert abs(mixture.noise_rate_ - 0.4) < abs(trusting.noise_rate_ - 0.4)
    assert brier(mixture, s, right) < brier(trusting, s, right)
    assert brier(mixture, s, right) < brier(BetaMixture().fit(s), s, right) + 0.01


def test_decoys_that_explain_enough_are_kept():
    logits, targets, _ = logits_of_a_network("uniform")
    mixture = shown(SampleWeigher(DecoyMixture(), 1), logits, targets).mixtures_[0]
    assert not mixture.degenerate_
    assert mixture.noise_rate_ == pytest.approx(0.4, abs=0.05)


@given(
    values=st.lists(st.floats(0, 1), min_size=1, max_size=20),
    slopes=st.tuples(st.floats(0, 200), st.floats(-200, 0)),
    c=st.floats(-500, 500),
    rate=st.floats(1e-6, 1 - 1e-6),
)
def test_odds_shifted_to_a_rate(values, slopes, c, rate):
    histogram = SimilarityHistogram().update(values)
    odds = LogOdds(*slopes, c)
    shifted = held_to_rate(odds, histogram.centres, histogram.counts, rate)
    wrong = expit(-shifted(histogram.centres))
    assert histogram.counts @ wrong / histogram.total == pytest.approx(rate, abs=1e-6)
    assert (shifted.a, shifted.b) == slopes


def test_no_less_noise_is_found_than_is_known(rng):
    s = np.r_[rng.beta(1, 6, 200), rng.beta(6, 1, 800)]
    decoys = rng.beta(1, 6, 1000)
    free = DecoyMixture().fit(s, decoys)
    assert free.noise_rate_ == pytest.approx(free.decoy_rate_, abs=0.05)
    held = DecoyMixture().fit(s, decoys, least_rate=0.4)
    assert held.noise_rate_ == 0.4
    assert 1 - held.predict_proba(s)[:, -1].mean() == pytest.approx(0.4, abs=1e-6)
    less = DecoyMixture().fit(s, decoys, least_rate=0.05)
    np.testing.assert_array_equal(less.predict_proba(s), free.predict_proba(s))


# ---------------------------------------------------------------------------- rates and decoys


def naive_contradiction_rate(counts):
    total, sum_of_rates = 0, 0.0
    for bins in np.asarray(counts).tolist():
        size = sum(map(sum, bins))
        taken = contradicting = 0
        for agree, contradict in reversed(bins):
            taken, contradicting = taken + agree + contradict, contradicting + contradict
            if taken >= 0.1 * size:
                break
        share = contradicting / taken if taken else 0.0
        error = sum(contradict for _, contradict in bins) / size if size else 0.0
        sum_of_rates += size * min(1.0, max(0.0, share - error / 4) / 0.75)
        total += size
    return sum_of_rates / total if total else 0.0


@pytest.mark.parametrize("seed", range(5))
def test_contradiction_rate_is_that_of_the_surest_tenth_of_each_class(seed):
    rng = np.random.default_rng(seed)
    counts = rng.poisson(10 ** rng.uniform(-1, 2, (6, 20, 2)))
    counts[2], counts[3, :10] = 0, 0
    assert contradiction_rate(counts) == pytest.approx(naive_contradiction_rate(counts), abs=1e-12)


@pytest.mark.parametrize(
    ("counts", "rate"),
    [
        (np.zeros((3, 5, 2)), 0),
        (np.zeros((0, 5, 2)), 0),
        ([[[0, 7]], [[0, 0]]], 1),  # all contradicted, and a class that is never predicted
        ([[[60, 40], [38, 2]]], 0),  # no more than the network's own mistakes
        ([[[0, 90], [10, 0]]], 0),  # only the surest count
        ([[[90, 0], [0, 10]]], 1),
    ],
)
def test_contradiction_rate_at_its_ends(counts, rate):
    assert contradiction_rate(counts) == pytest.approx(rate)


@pytest.mark.parametrize("smoothing", [0.0, 0.02, 1.0])
def test_transition_shares_out_what_lies_off_the_diagonal(rng, smoothing):
    counts = rng.integers(0, 50, (5, 5))
    rows = transition(counts, smoothing)
    for t in range(5):
        off = [0 if t == j else counts[t, j] + smoothing * counts.sum() / 20 for j in range(5)]
        np.testing.assert_allclose(rows[t], np.array(off) / sum(off), atol=1e-9)


def test_transition_of_nothing_is_uniform():
    for counts in (np.zeros((4, 4)), np.diag([5, 0, 3, 1])):
        for smoothing in (0.0, 0.02):
            np.testing.assert_allclose(transition(counts, smoothing), (1 - np.eye(4)) / 3)
    np.testing.assert_array_equal(transition([[3, 1], [0, 2]]), [[0, 1], [1, 0]])


@pytest.mark.parametrize("shape", [(3,), (2, 3), (1, 1), (0, 0)])
def test_transition_refuses_other_shapes(shape):
    with pytest.raises(ValueError, match=r"confusion must have shape \(C, C\) with C >= 2, got"):
        transition(np.zeros(shape))


def test_hit_rate_is_the_chance_to_draw_the_true_class(rng):
    counts = rng.integers(0, 50, (5, 5))
    rows = transition(counts)
    expected = n = 0.0
    for true in range(5):
        for label in range(5):
            if true != label:
                expected += counts[true, label] * rows[label, true]
                n += counts[true, label]
    assert hit_rate(counts, rows) == pytest.approx(expected / n)


def test_hit_rate_at_its_ends(rng):
    uniform = (1 - np.eye(5)) / 4
    assert hit_rate(rng.integers(1, 50, (5, 5)), uniform) == pytest.approx(1 / 4)
    for nothing in (np.zeros((5, 5)), np.eye(5)):
        assert hit_rate(nothing, uniform) == 1 / 4
    assert hit_rate([[5, 2], [1, 5]], transition([[5, 2], [1, 5]])) == pytest.approx(1)
    cycle = np.roll(np.eye(3), 1, axis=1)  # each class is taken for the next one
    assert hit_rate(cycle, transition(cycle, 0.0)) == pytest.approx(0)
    assert hit_rate(cycle, transition(cycle.T, 0.0)) == pytest.approx(1)


@pytest.mark.parametrize("least", [0.2, 0.999])
def test_no_label_is_less_likely_right_than_is_said(rng, least):
    s = np.r_[rng.beta(1, 6, 200), rng.beta(6, 1, 800)]
    decoys = rng.beta(1, 6, 1000)
    free = DecoyMixture().fit(s, decoys).predict_proba(s)[:, -1]
    mixture = DecoyMixture().fit(s, decoys, least_probability=least)
    proba = mixture.predict_proba(s)[:, -1]
    np.testing.assert_allclose(proba, np.maximum(free, least), rtol=1e-9)
    assert mixture.noise_rate_ == pytest.approx(1 - proba.mean(), abs=1e-6)
