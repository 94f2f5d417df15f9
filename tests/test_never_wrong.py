"""Whatever comes, a fit is usable, or says that it is not."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mixtures import GRID, TWO, draw, drawn, parameters
from sklearn.exceptions import ConvergenceWarning

from resup import (
    BetaMixture,
    DecoyMixture,
)

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


def distinct(s, w):
    return len(np.unique(s if w is None else s[w > 0]))


def clean_probability(mixture, *data, **options):
    """Fit, and check all that holds for any mixture; its posterior of a right label on GRID."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        mixture.fit(*data, **options)
        proba, density = mixture.predict_proba(GRID), mixture.score_samples(GRID)
    assert all(issubclass(c.category, ConvergenceWarning) for c in caught)
    doubtful = getattr(mixture, "agreement_", 1.0) < 0.5 or getattr(mixture, "_untold", False)
    if mixture.degenerate_ or doubtful or not mixture.converged_:
        assert len(caught) == 1
    else:
        assert all("of the values lie within" in str(c.message) for c in caught)

    assert np.isfinite([*parameters(mixture), *density]).all()
    assert (mixture.weights_ >= 0).all()
    assert mixture.weights_.sum() == pytest.approx(1)
    assert (mixture.alphas_ > 0).all()
    assert (mixture.betas_ > 0).all()
    assert (np.diff(mixture.means_) >= 0).all()

    assert proba.shape == (len(GRID), mixture.n_components)
    assert ((proba >= 0) & (proba <= 1)).all()
    np.testing.assert_allclose(proba.sum(1), 1, rtol=1e-12)
    assert (np.diff(proba[:, -1]) >= 0).all()
    return proba[:, -1]


# ---------------------------------------------------------------------------- BetaMixture


@settings(max_examples=250)
@given(
    values(),
    st.sampled_from([1, 2, 2, 2, 3, 5]),
    st.sampled_from([("ml", 0.3), ("ml", 0.3), ("ml", 0.0), ("moments", 0.3)]),
)
def test_any_beta_mixture_is_usable(samples, k, how):
    s, w = samples
    mixture = BetaMixture(k, m_step=how[0], prior=how[1], max_iter=100)
    clean = clean_probability(mixture, s, sample_weight=w)
    assert parameters(mixture).shape == (3 * k,)
    assert np.isfinite(mixture.lower_bounds_).all()
    if mixture.degenerate_:
        assert (clean == 1).all()
    if distinct(s, w) < k:
        assert mixture.degenerate_
    if how[0] == "ml":
        assert (np.diff(mixture.lower_bounds_) >= -1e-9).all()


def test_a_posterior_that_takes_all_labels_for_wrong_is_told(rng):
    s = np.concatenate([np.zeros(1200), rng.beta(5, 2, 800)])
    with pytest.warns(ConvergenceWarning, match="no similarity is likelier right than wrong"):
        mixture = BetaMixture().fit(s)
    assert mixture.degenerate_
    assert (mixture.predict_proba(GRID)[:, 1] == 1).all()


@pytest.mark.parametrize("s", [[0.3], [0.3] * 50, [0.0] * 50, [1.0] * 50])
def test_one_value_is_no_beta_mixture(s):
    with pytest.warns(ConvergenceWarning, match="do not support 2 components; every posterior is"):
        mixture = BetaMixture().fit(s)
    assert mixture.degenerate_
    assert (mixture.predict_proba(GRID)[:, 1] == 1).all()


@pytest.mark.parametrize("zeros", [300, 350, 400])
def test_a_component_that_vanished_is_told(zeros):
    with pytest.warns(ConvergenceWarning, match="do not support 2 components; every posterior is"):
        mixture = BetaMixture().fit(np.repeat([0.0, 1.0], [zeros, 1000 - zeros]))
    assert mixture.degenerate_


def test_a_last_component_without_samples_is_told(rng):
    start = [[1, 1e-9], [1, 2], [2, 1]]
    for mixture in (BetaMixture(3), BetaMixture(m_step="moments", init=start, max_iter=1, tol=0)):
        with pytest.warns(ConvergenceWarning, match=r"components; every posterior is 1$"):
            mixture.fit(rng.beta(1, 60, 4000))
        assert mixture.weights_[-1] < 1e-4
        assert mixture.degenerate_


def test_few_wrong_labels_among_many_are_found():
    mixture = BetaMixture().fit(np.repeat([0.01, 0.02, 0.98, 0.99], [10, 10, 50_000, 50_000]))
    assert not mixture.degenerate_
    assert mixture.predict([0.01, 0.99]).tolist() == [0, 1]


def test_an_early_stop_of_a_beta_mixture_says_so():
    with pytest.warns(ConvergenceWarning, match="did not converge in 2 iterations; raise max_iter"):
        mixture = BetaMixture(max_iter=2).fit(draw(TWO, 500))
    assert not mixture.converged_
    assert mixture.n_iter_ == 2


def test_one_component_needs_no_warning():
    mixture = BetaMixture(1).fit([0.4])
    assert not mixture.degenerate_
    assert mixture.predict_proba([0.0, 1.0]).tolist() == [[1.0], [1.0]]


# ---------------------------------------------------------------------------- DecoyMixture


@settings(max_examples=250)
@given(values(), values(), rates, rates, rates, rates)
def test_any_decoy_mixture_is_usable(samples, decoys, hits, seen, least, trust):
    (s, w), (d, decoy_weight) = samples, decoys
    mixture = DecoyMixture()
    clean = clean_probability(
        mixture, s, d, hit_rate=hits, seen_rate=seen, least_rate=least, least_probability=trust,
        sample_weight=w, decoy_weight=decoy_weight,
    )  # fmt: skip
    assert 0 <= mixture.noise_rate_ <= 1
    if distinct(s, w) < 2:
        assert mixture.degenerate_
        assert (clean == 1).all()
    elif (clean < 1).any():
        assert mixture.noise_rate_ >= least
    if least <= 1e-9:
        assert (clean >= trust - 1e-6).all()


@pytest.mark.parametrize("s", [[0.3], [0.3] * 50, [0.0] * 50, [1.0] * 5000])
@pytest.mark.parametrize("seen", [0.0, 0.5])
def test_one_value_is_no_decoy_mixture(s, seen):
    with pytest.warns(ConvergenceWarning, match="are alike; every posterior is 1"):
        mixture = DecoyMixture().fit(s, [0.1, 0.2], seen_rate=seen)
    assert mixture.degenerate_
    assert mixture.noise_rate_ == 0
    assert (mixture.predict_proba(GRID)[:, 1] == 1).all()


@pytest.mark.filterwarnings("ignore:samples and decoys look alike")
def test_the_noise_rate_is_no_more_than_one():
    s = np.concatenate([np.zeros(7), np.full(13, 1e-6)])
    for n in range(1, 60):  # sums of n weights 1 / n are rounded either way
        mixture = DecoyMixture().fit(np.resize(s, n + 20), np.ones(3), seen_rate=1.0)
        assert 0 <= mixture.noise_rate_ <= 1
        assert (mixture.weights_ >= 0).all()


def test_an_early_stop_of_a_decoy_mixture_says_so():
    s, decoys, _ = drawn()
    with pytest.warns(ConvergenceWarning, match="did not converge in 2 iterations"):
        mixture = DecoyMixture(max_iter=2).fit(s, decoys)
    assert (mixture.n_iter_, mixture.converged_, mixture.degenerate_) == (2, False, False)


@pytest.mark.parametrize("share", [0.3, 0.42, 0.5, 0.7])
def test_many_values_at_zero_taken_for_right_are_told(share):
    s = (np.arange(1000) >= 1000 * share).astype(float)
    message = (
        rf"{share:.0%} of the values lie within 9.53674e-07 of 0, .* found wrong; try clip=0\.01"
        r"|do not support 2 components; every posterior is 1 "
        rf"\({share:.0%} of the values lie within 9.53674e-07 of 0; try clip=0\.01\)"
    )
    with pytest.warns(ConvergenceWarning, match=message):
        BetaMixture().fit(s)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        wide = BetaMixture(clip=0.01).fit(s)
    assert wide.predict_proba([0.0, 1.0])[:, 1] == pytest.approx([0, 1], abs=0.05)
