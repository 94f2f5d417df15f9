import pickle
import warnings

import numpy as np
import pytest
import reference
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.exceptions import ConvergenceWarning, NotFittedError

from resup import BetaMixture, SimilarityHistogram
from resup.em import Mixture, fit_mixture

TWO = Mixture(*np.array([[0.35, 0.65], [2.0, 8.0], [6.0, 2.0]]))
THREE = Mixture(*np.array([[0.3, 0.3, 0.4], [2.0, 6.0, 20.0], [20.0, 6.0, 2.0]]))
GRID = np.unique(np.r_[0, 1e-300, 2.0 ** -np.arange(8, 50), np.linspace(0, 1, 300), 1 - 1e-12])


def exactly(mixture, **options):
    """Return a fitted estimator that holds the parameters of `mixture`."""
    init = mixture.weights, mixture.alphas, mixture.betas
    options = {"n_components": len(mixture.weights), **options}
    return BetaMixture(init=init, max_iter=0, **options).fit(np.linspace(0.01, 0.99, 9))


def draw(mixture, n, seed=0):
    return exactly(mixture, random_state=seed).sample(n)[0][:, 0]


def parameters(mixture):
    return np.concatenate([mixture.weights_, mixture.alphas_, mixture.betas_])


# ---------------------------------------------------------------------------- the equations


@pytest.mark.parametrize("mixture", [TWO, THREE, Mixture(*np.array([[1.0], [3.0], [0.7]]))])
def test_density_and_posterior_follow_equations_3_to_5(mixture):
    fitted = exactly(mixture)
    s = np.linspace(0.01, 0.99, 50)
    args = mixture.weights, mixture.alphas, mixture.betas
    np.testing.assert_allclose(
        np.exp(fitted.score_samples(s)), [reference.mixture_pdf(v, *args) for v in s], rtol=1e-10
    )
    # with over two components the monotone posterior is read from a table of the bins
    np.testing.assert_allclose(
        fitted.predict_proba(s)[:, -1],
        [reference.posterior(v, *args) for v in s],
        rtol=1e-10,
        atol=1e-3 if len(mixture.weights) > 2 else 0,
    )


def test_the_posterior_is_flat_where_equation_5_would_fall():
    fitted = exactly(Mixture(*np.array([[0.5, 0.5], [2.0, 6.0], [4.0, 5.0]])))
    s = np.linspace(0.01, 0.99, 99)
    args = fitted.weights_, fitted.alphas_, fitted.betas_
    plain = np.array([reference.posterior(v, *args) for v in s])
    assert (np.diff(plain) < 0).any()
    highest = np.maximum.accumulate(plain)
    np.testing.assert_allclose(fitted.predict_proba(s)[:, 1], highest, atol=1e-3)


def test_components_ascend_in_mean_and_the_last_column_is_the_clean_one():
    upside_down = Mixture(*(v[::-1] for v in (TWO.weights, TWO.alphas, TWO.betas)))
    fitted = exactly(upside_down)
    np.testing.assert_array_equal(fitted.alphas_, TWO.alphas)
    np.testing.assert_allclose(fitted.means_, [0.25, 0.8])
    assert fitted.predict_proba([0.05, 0.95])[:, 1].round().tolist() == [0, 1]
    assert fitted.predict([0.05, 0.95]).tolist() == [0, 1]


# ---------------------------------------------------------------------------- what comes in


@pytest.mark.parametrize(
    "convert",
    [
        lambda s: s[:, None],
        np.asfortranarray,
        list,
        tuple,
        lambda s: [[v] for v in s],
        lambda s: s.astype(object),
        torch.tensor,
        lambda s: torch.tensor(s, requires_grad=True)[:, None],
        lambda s: torch.tensor(s, dtype=torch.bfloat16),
        lambda s: torch.tensor(s).half(),
        lambda s: s.astype(np.float32),
        lambda s: s.astype(np.float16),
        lambda s: s.astype(np.longdouble),
    ],
)
def test_one_result_for_every_kind_of_input(convert):
    s = np.arange(1, 64) ** 2 / 4096  # more bits than bfloat16 keeps
    coarse = torch.tensor(s).bfloat16().double().numpy()
    values = convert(coarse)
    expected, got = BetaMixture().fit(coarse), BetaMixture().fit(values)
    np.testing.assert_allclose(parameters(got), parameters(expected), rtol=1e-9)
    assert got.n_features_in_ == 1
    proba = got.predict_proba(values)
    assert (proba.shape, proba.dtype) == ((63, 2), np.float64)
    np.testing.assert_allclose(proba, expected.predict_proba(coarse), atol=1e-9)


@pytest.mark.parametrize("dtype", [np.int64, np.uint8, bool])
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_whole_numbers(dtype):
    s = np.array([0, 1, 1, 1, 0, 1], dtype)
    np.testing.assert_allclose(
        parameters(BetaMixture().fit(s)), parameters(BetaMixture().fit(s.astype(float)))
    )


def test_columns_of_a_data_frame():
    pandas = pytest.importorskip("pandas")
    s = draw(TWO, 200)
    frame = pandas.DataFrame({"s": s, "label": 1})
    expected = BetaMixture().fit(s)
    for column in (frame["s"], frame[["s"]]):
        fitted = BetaMixture().fit(column)
        np.testing.assert_array_equal(parameters(fitted), parameters(expected))
        np.testing.assert_array_equal(fitted.predict_proba(column), expected.predict_proba(s))


def test_a_histogram_stands_for_its_samples():
    s, w = draw(TWO, 3000), np.random.default_rng(0).random(3000)
    for weights in (None, w):
        histogram = SimilarityHistogram().update(s, weights)
        by_parts, whole = BetaMixture().fit(histogram), BetaMixture().fit(s, sample_weight=weights)
        np.testing.assert_array_equal(parameters(by_parts), parameters(whole))
        assert by_parts.n_features_in_ == 1


@pytest.mark.parametrize(
    ("s", "message"),
    [
        ([], "must hold at least one sample, got 0"),
        (np.empty((0, 1)), "must hold at least one sample, got 0"),
        ([0.1, 1.5], r"must lie in \[0, 1\], got values from 0.1 to 1.5"),
        ([[-0.5], [0.1]], r"must lie in \[0, 1\], got values from -0.5 to 0.1"),
        ([0.1, np.inf], r"must lie in \[0, 1\], got values from 0.1 to inf"),
        ([0.1, np.nan], "must not contain NaN, got 1 of them"),
        (np.r_[np.full(5000, 0.5), np.nan], "must not contain NaN, got 1 of them"),
        ([[0.1, 0.2]], r"must have shape \(N,\) or \(N, 1\), got \(1, 2\)"),
        (0.5, r"must have shape \(N,\) or \(N, 1\), got \(\)"),
        (np.full((2, 1, 1), 0.5), r"must have shape \(N,\) or \(N, 1\), got \(2, 1, 1\)"),
        ([0.5j], "Complex data not supported"),
    ],
)
def test_bad_similarities(s, message):
    with pytest.raises(ValueError, match=message):
        BetaMixture().fit(s)
    if np.size(s):
        with pytest.raises(ValueError, match=rf"{message}|\d features, but"):
            exactly(TWO).predict_proba(s)


def test_words_are_no_similarities():
    with pytest.raises(ValueError, match="numeric"):
        BetaMixture().fit(["high", "low"])


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1.0], r"sample_weight must have shape \(2,\), got \(1,\)"),
        ([[1.0], [1.0]], r"sample_weight must have shape \(2,\), got \(2, 1\)"),
        ([1.0, -1.0], "sample_weight must be finite and not negative"),
        ([1.0, np.nan], "sample_weight must be finite and not negative"),
        ([0.0, 0.0], "must have a sample of positive weight, got a sum of zero"),
    ],
)
def test_bad_weights(weights, message):
    with pytest.raises(ValueError, match=message):
        BetaMixture().fit([0.2, 0.7], sample_weight=weights)


def test_a_histogram_must_hold_something_and_has_its_own_weights():
    with pytest.raises(ValueError, match="must have a sample of positive weight"):
        BetaMixture().fit(SimilarityHistogram())
    with pytest.raises(ValueError, match="sample_weight must be None for a SimilarityHistogram"):
        BetaMixture().fit(SimilarityHistogram().update([0.5]), sample_weight=[1.0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_components": 0}, "n_components must be an integer of at least 1, got 0"),
        ({"n_components": 2.0}, "n_components must be an integer of at least 1, got 2.0"),
        ({"n_components": None}, "n_components must be an integer of at least 1, got None"),
        ({"max_iter": -1}, "max_iter must be an integer of at least 0, got -1"),
        ({"max_iter": 2.5}, "max_iter must be an integer of at least 0, got 2.5"),
        ({"prior": -0.1}, "prior must be a finite number of at least 0, got -0.1"),
        ({"prior": np.inf}, "prior must be a finite number of at least 0, got inf"),
        ({"tol": np.nan}, "tol must be a finite number of at least 0, got nan"),
        ({"tol": "small"}, "tol must be a finite number of at least 0, got 'small'"),
        ({"clip": 0.0}, r"clip must lie in \[1e-15, 0.5\), got 0.0"),
        ({"clip": 0.5}, r"clip must lie in \[1e-15, 0.5\), got 0.5"),
        ({"m_step": "map"}, "m_step must be 'ml' or 'moments', got 'map'"),
        ({"init": [[1.0], [1.0], [1.0]]}, r"of 2 components, shape \(3, 2\), got \(3, 1\)"),
        ({"init": [[0.5, 0.5], [1, 2], [2, -1]]}, "init must be positive and finite, got"),
        ({"init": [[0.5, 0.5], [1, np.nan], [2, 1]]}, "init must be positive and finite, got"),
        ({"init": [[0.5, 0.5], [1, np.inf], [2, 1]]}, "init must be positive and finite, got"),
    ],
)
def test_bad_parameters(options, message):
    with pytest.raises(ValueError, match=message):
        BetaMixture(**options).fit([0.1, 0.9])


@pytest.mark.parametrize("method", ["predict", "predict_proba", "score_samples", "score", "bic"])
def test_use_before_fit(method):
    with pytest.raises(NotFittedError, match="not fitted yet"):
        getattr(BetaMixture(), method)([0.5])
    with pytest.raises(NotFittedError):
        BetaMixture().sample()


# ---------------------------------------------------------------------------- as sklearn.mixture


@pytest.mark.parametrize("mixture", [TWO, THREE])
def test_scores_and_criteria(mixture):
    s, fitted = draw(mixture, 500), exactly(mixture)
    density = fitted.score_samples(s)
    assert density.shape == (500,)
    assert fitted.score(s) == pytest.approx(density.mean())
    n_parameters = 3 * len(mixture.weights) - 1
    assert fitted.aic(s) == pytest.approx(-2 * fitted.score(s) * 500 + 2 * n_parameters)
    assert fitted.bic(s) == pytest.approx(-2 * fitted.score(s) * 500 + n_parameters * np.log(500))


def test_the_criteria_choose_the_number_of_components():
    s = draw(THREE, 2000)
    bics = [BetaMixture(k, prior=0).fit(s).bic(s) for k in (1, 2, 3, 4)]
    assert np.argmin(bics) == 2


def test_score_is_the_lower_bound_of_plain_likelihood():
    s = draw(TWO, 2000)
    fitted = BetaMixture(prior=0).fit(s)
    assert fitted.score(s) == pytest.approx(fitted.lower_bound_, abs=1e-3)
    assert fitted.lower_bound_ == fitted.lower_bounds_[-1]
    assert fitted.n_iter_ == len(fitted.lower_bounds_) - 1


def test_samples_come_grouped_by_component():
    fitted = exactly(TWO, random_state=3)
    s, y = fitted.sample(4000)
    assert (s.shape, y.shape) == ((4000, 1), (4000,))
    assert (np.diff(y) >= 0).all()
    np.testing.assert_allclose(np.bincount(y) / 4000, TWO.weights, atol=0.04)
    for k in (0, 1):
        assert s[y == k].mean() == pytest.approx(TWO.means[k], abs=0.02)
    np.testing.assert_array_equal(fitted.sample(4000)[0], s)
    with pytest.raises(ValueError, match="n_samples must be at least 1, got 0"):
        fitted.sample(0)


def test_fit_predict():
    s = draw(TWO, 300)
    np.testing.assert_array_equal(BetaMixture().fit_predict(s), BetaMixture().fit(s).predict(s))


def test_pickle():
    fitted = BetaMixture().fit(s := draw(TWO, 300))
    again = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(again.predict_proba(s), fitted.predict_proba(s))


# ---------------------------------------------------------------------------- never wrong silently

sizes = st.one_of(st.integers(1, 40), st.sampled_from([300, 3000]))


@st.composite
def similarities(draw):
    n, seed = draw(sizes), draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    kinds = {
        "uniform": lambda: rng.random(n),
        "any": lambda: rng.beta(*10 ** rng.uniform(-2, 2, 2), n),
        "constant": lambda: np.full(n, rng.random()),
        "zeros": lambda: np.zeros(n),
        "ones": lambda: np.ones(n),
        "zeros and ones": lambda: rng.integers(0, 2, n),
        "two values": lambda: rng.choice(rng.random(2), n),
        "nearly one value": lambda: 0.5 + 1e-9 * rng.random(n),
        "ties": lambda: rng.choice(rng.random(5), n),
        "99 % at 1": lambda: np.where(rng.random(n) < 0.99, 1.0, rng.random(n)),
        "99 % at 0": lambda: np.where(rng.random(n) < 0.99, 0.0, rng.random(n)),
    }
    s = np.asarray(kinds[draw(st.sampled_from(sorted(kinds)))](), np.float64)
    return s.astype(draw(st.sampled_from([np.float64, np.float32, np.float16])))


@settings(max_examples=250)
@given(
    similarities(),
    st.sampled_from([1, 2, 2, 2, 3, 5]),
    st.sampled_from([("ml", 0.3), ("ml", 0.3), ("ml", 0.0), ("moments", 0.3)]),
    st.booleans(),
)
def test_whatever_comes_the_fit_is_usable(s, k, how, weighted):
    rng = np.random.default_rng(len(s))
    w = rng.random(len(s)) * rng.integers(0, 2, len(s)) if weighted else None
    if weighted:
        w[-1] = 0.5
    mixture = BetaMixture(k, m_step=how[0], prior=how[1], max_iter=100)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        mixture.fit(s, sample_weight=w)
        proba, density = mixture.predict_proba(GRID), mixture.score_samples(GRID)
    warned = [issubclass(c.category, ConvergenceWarning) for c in caught]
    assert warned == [True] * (mixture.degenerate_ or not mixture.converged_)

    assert parameters(mixture).shape == (3 * k,)
    assert np.isfinite([*parameters(mixture), *mixture.lower_bounds_, *density]).all()
    assert (mixture.weights_ >= 0).all()
    assert mixture.weights_.sum() == pytest.approx(1)
    assert (mixture.alphas_ > 0).all()
    assert (mixture.betas_ > 0).all()
    assert (np.diff(mixture.means_) >= 0).all()

    assert proba.shape == (len(GRID), k)
    assert ((proba >= 0) & (proba <= 1)).all()
    np.testing.assert_allclose(proba.sum(1), 1, rtol=1e-12)
    assert (np.diff(proba[:, -1]) >= 0).all()
    if mixture.degenerate_:
        assert (proba[:, -1] == 1).all()
    if len(np.unique(s if w is None else s[w > 0])) < k:
        assert mixture.degenerate_
    if how[0] == "ml":
        assert (np.diff(mixture.lower_bounds_) >= -1e-9).all()


@pytest.mark.parametrize("s", [[0.3], [0.3] * 50, [0.0] * 50, [1.0] * 50])
def test_one_value_is_degenerate_and_says_so(s):
    with pytest.warns(ConvergenceWarning, match="do not support 2 components; every posterior is"):
        mixture = BetaMixture().fit(s)
    assert mixture.degenerate_
    assert (mixture.predict_proba(GRID)[:, 1] == 1).all()


def test_an_early_stop_says_so():
    with pytest.warns(ConvergenceWarning, match="did not converge in 2 iterations; raise max_iter"):
        mixture = BetaMixture(max_iter=2).fit(draw(TWO, 500))
    assert not mixture.converged_
    assert mixture.n_iter_ == 2


def test_one_component_needs_no_warning():
    mixture = BetaMixture(1).fit([0.4])
    assert not mixture.degenerate_
    assert mixture.predict_proba([0.0, 1.0]).tolist() == [[1.0], [1.0]]


def similarities_of_a_network(seed, n=4000, classes=10, noise=0.3):
    """Return float32 similarities to given labels, and which labels are right."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(classes, size=n)
    right = rng.random(n) >= noise
    given = np.where(right, truth, (truth + rng.integers(1, classes, n)) % classes)
    logits = rng.normal(size=(n, classes)).astype(np.float32)
    logits[np.arange(n), truth] += rng.gamma(4, 2, n).astype(np.float32)
    p = np.exp(logits - logits.max(1, keepdims=True))
    return p[np.arange(n), given] / np.linalg.norm(p, axis=1), right


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    (
        "recorded",
        "slack",
    ),  # weights, alphas, betas: fitted with the truth to an epoch of a training
    [
        pytest.param([[0.40, 0.60], [0.23, 0.43], [0.61, 0.24]], 0.04, id="CIFAR-10, human labels"),
        pytest.param([[0.50, 0.50], [0.34, 0.65], [1.96, 0.32]], 0.04, id="CIFAR-10, symmetric"),
        pytest.param([[0.29, 0.71], [0.21, 0.49], [1.58, 0.15]], 0.04, id="FERPlus, symmetric"),
        pytest.param([[0.40, 0.60], [0.20, 31.3], [1.46, 0.17]], 0.09, id="digits"),
    ],
)
def test_the_default_is_near_the_true_posterior(recorded, slack, seed):
    truth = exactly(Mixture(*np.array(recorded)), random_state=seed)
    s, right = truth.sample(4000)
    s = s[:, 0].astype(np.float32)
    fitted = BetaMixture().fit(s)
    briers = [((m.predict_proba(s)[:, 1] - right) ** 2).mean() for m in (fitted, truth)]
    assert briers[0] < briers[1] + slack
    assert not fitted.degenerate_


# ---------------------------------------------------------------------------- statistics


@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("prior", [0.0, 0.3])
@pytest.mark.parametrize("n", [30, 2000, 20000])
def test_the_likelihood_never_falls(k, prior, n):
    s = draw(THREE, n)
    mixture = BetaMixture(k, prior=prior, tol=0, max_iter=60).fit(s)
    assert len(mixture.lower_bounds_) == 61
    assert (np.diff(mixture.lower_bounds_) >= -1e-11).all()


def standard_errors(mixture, n):
    """Cramér–Rao bounds of (weights but the last, alphas, betas), the information integrated."""
    k = len(mixture.weights)
    x = (np.arange(200_000) + 0.5) / 200_000
    theta = np.concatenate([mixture.weights[:-1], mixture.alphas, mixture.betas])

    def density(theta):
        weights, shapes = theta[: k - 1], theta[k - 1 :].reshape(2, k)
        joint = Mixture(np.append(weights, 1 - weights.sum()), *shapes).log_joint(x)
        return np.exp(joint).sum(0)

    steps = 1e-4 * theta
    slopes = [
        (density(theta + d) - density(theta - d)) / (2 * step)
        for d, step in zip(np.diag(steps), steps, strict=True)
    ]
    information = np.array(slopes) / density(theta) @ np.array(slopes).T / len(x)
    return theta, np.sqrt(np.diag(np.linalg.inv(n * information)))


@pytest.mark.parametrize(
    "mixture", [Mixture(*np.array([[1.0], [4.0], [1.5]])), TWO, THREE], ids=["1", "2", "3"]
)
def test_samples_give_the_parameters_back_within_the_cramer_rao_scale(mixture):
    n, k = 20_000, len(mixture.weights)
    theta, errors = standard_errors(mixture, n)
    z = []
    for seed in range(6):
        fitted = BetaMixture(k, prior=0, tol=1e-10, max_iter=5000).fit(draw(mixture, n, seed))
        z.append((np.delete(parameters(fitted), k - 1) - theta) / errors)
    assert np.abs(z).max() < 4
    assert 0.3 < np.square(z).mean() < 2


@pytest.mark.parametrize("m_step", ["ml", "moments"])
@pytest.mark.parametrize("n", [400, 4000])
def test_a_weight_is_repetition(rng, m_step, n):
    s, repeats = draw(TWO, n), rng.integers(0, 4, n)
    weighted = BetaMixture(m_step=m_step).fit(s, sample_weight=repeats)
    repeated = BetaMixture(m_step=m_step).fit(np.repeat(s, repeats))
    # at n = 400 all 600 or so samples are fitted one by one, at 4000 both are summarised
    np.testing.assert_allclose(parameters(weighted), parameters(repeated), rtol=1e-6)
    scaled = BetaMixture(m_step=m_step).fit(s, sample_weight=1e-6 * repeats)
    np.testing.assert_allclose(parameters(scaled), parameters(weighted), rtol=1e-6)


@pytest.mark.parametrize("m_step", ["ml", "moments"])
@pytest.mark.parametrize("k", [1, 2, 3])
def test_warm_start_goes_on(m_step, k):
    s = draw(THREE, 1000)
    longer = BetaMixture(k, m_step=m_step, tol=0, max_iter=10).fit(s)
    twice = BetaMixture(k, m_step=m_step, tol=0, max_iter=5, warm_start=True).fit(s).fit(s)
    np.testing.assert_allclose(parameters(twice), parameters(longer), rtol=1e-8)
    np.testing.assert_allclose(twice.lower_bounds_, longer.lower_bounds_[5:], rtol=1e-8)
    cold = twice.set_params(warm_start=False).fit(s)
    np.testing.assert_allclose(cold.lower_bounds_, longer.lower_bounds_[:6])


def test_warm_start_begins_anew_with_another_number_of_components():
    s = draw(THREE, 1000)
    changed = BetaMixture(warm_start=True).fit(s).set_params(n_components=3).fit(s)
    np.testing.assert_array_equal(parameters(changed), parameters(BetaMixture(3).fit(s)))


def test_no_iteration_leaves_the_start():
    mixture = exactly(TWO)
    np.testing.assert_allclose(parameters(mixture), np.ravel([TWO.weights, TWO.alphas, TWO.betas]))
    assert (mixture.n_iter_, mixture.converged_, len(mixture.lower_bounds_)) == (0, False, 1)
    guess = BetaMixture(max_iter=0).fit(draw(TWO, 500))
    assert guess.means_[1] > guess.means_[0] + 0.1


def test_init_weights_are_shares():
    s = draw(TWO, 200)
    some = [BetaMixture(init=[w, [1, 2], [2, 1]]).fit(s) for w in ([1, 3], [0.25, 0.75])]
    assert some[0].lower_bounds_ == some[1].lower_bounds_


def published(s):
    """Ten moment steps, sample by sample, as the authors' program makes them."""
    s = [min(max(float(v), 1e-3), 1 - 1e-3) for v in s]
    weights, alphas, betas = [0.5, 0.5], [1.0, 2.0], [2.0, 1.0]
    for _ in range(10):
        r = []
        for v in s:
            joint = [
                w * reference.beta_pdf(v, a, b)
                for w, a, b in zip(weights, alphas, betas, strict=True)
            ]
            r.append([j / sum(joint) for j in joint])
        for k in (0, 1):
            n = sum(row[k] for row in r)
            mean = sum(row[k] * v for row, v in zip(r, s, strict=True)) / n
            variance = sum(row[k] * (v - mean) ** 2 for row, v in zip(r, s, strict=True)) / n
            weights[k] = n / len(s)
            alphas[k] = mean * (mean * (1 - mean) / variance - 1)
            betas[k] = alphas[k] * (1 - mean) / mean
    return weights, alphas, betas


@pytest.mark.parametrize("seed", range(3))
def test_as_published_is_ten_moment_steps(seed):
    s, _ = similarities_of_a_network(seed, n=800)
    fitted = BetaMixture.as_published().fit(s)
    assert fitted.n_iter_ == 10
    np.testing.assert_allclose(parameters(fitted), np.ravel(published(s)), rtol=1e-7)


@pytest.mark.parametrize("n", [200, 5000])
def test_order_does_not_matter(rng, n):
    s = draw(TWO, n)
    shuffled = BetaMixture().fit(rng.permutation(s))
    np.testing.assert_allclose(parameters(shuffled), parameters(BetaMixture().fit(s)), rtol=1e-6)


@pytest.mark.parametrize("prior", [0.0, 0.3])
@pytest.mark.parametrize("source", ["mixture", "network"])
def test_the_summary_costs_no_likelihood(prior, source):
    s = draw(TWO, 20_000) if source == "mixture" else similarities_of_a_network(0, 20_000)[0]
    summarised = BetaMixture(prior=prior, tol=1e-9).fit(s)
    inside = np.clip(s.astype(np.float64), summarised.clip, 1 - summarised.clip)
    exact = fit_mixture(inside, np.ones(len(s)), 2, prior=prior, tol=1e-9)
    assert summarised.score(s) == pytest.approx(exactly(exact).score(s), abs=1e-4)
