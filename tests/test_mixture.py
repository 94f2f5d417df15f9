import numpy as np
import pytest
import reference
import torch
from mixtures import (
    THREE,
    TWO,
    draw,
    exactly,
    parameters,
)
from scipy.sparse import csr_array
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.model_selection import GridSearchCV

from resup import (
    BetaMixture,
    SimilarityHistogram,
)
from resup.em import Mixture

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
        (np.ma.masked_array([0.1, 0.2], [False, True]), "similarities must not be masked"),
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
    ("s", "error", "message"),
    [
        (["0.1", "0.9"], ValueError, "real numbers in a dense array: .*strings"),
        (np.array([0.1, "low"], object), ValueError, "real numbers in a dense array: .*low"),
        (csr_array([[0.1], [0.9]]), TypeError, "real numbers in a dense array: Sparse"),
        ([[0.1], [0.2, 0.3]], ValueError, "an array-like of one shape .*, got list: "),
        (torch.ones(2).to_sparse(), ValueError, r"a dense tensor .*, got Tensor: .*dense\(\)"),
        (torch.ones(2, device="meta"), ValueError, "a dense tensor with values, got Tensor: "),
    ],
)
def test_what_is_no_array_of_numbers(s, error, message):
    for use in (BetaMixture().fit, exactly(TWO).predict_proba):
        with pytest.raises(error, match=f"similarities must be .*{message}"):
            use(s)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1.0], r"sample_weight must have shape \(2,\), got \(1,\)"),
        ([[1.0], [1.0]], r"sample_weight must have shape \(2,\), got \(2, 1\)"),
        ([1.0, -1.0], "sample_weight must be finite and not negative"),
        ([1.0, np.nan], "sample_weight must be finite and not negative"),
        ([1.0, np.inf], "sample_weight must be finite and not negative"),
        ([0.0, 0.0], "must have a sample of positive weight, got a sum of zero"),
        ([1e308] * 2, "sample_weight must have a finite sum"),
        (["a"] * 2, "sample_weight must be real numbers, got dtype <U1"),
        ([1j] * 2, "sample_weight must be real numbers, got dtype complex128"),
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
        ({"n_components": True}, "n_components must be an integer of at least 1, got True"),
        ({"n_components": None}, "n_components must be an integer of at least 1, got None"),
        ({"max_iter": -1}, "max_iter must be an integer of at least 0, got -1"),
        ({"max_iter": 2.5}, "max_iter must be an integer of at least 0, got 2.5"),
        ({"prior": -0.1}, "prior must be a finite number of at least 0, got -0.1"),
        ({"prior": np.inf}, "prior must be a finite number of at least 0, got inf"),
        ({"prior": True}, "prior must be a finite number of at least 0, got True"),
        ({"tol": np.nan}, "tol must be a finite number of at least 0, got nan"),
        ({"tol": "small"}, "tol must be a finite number of at least 0, got 'small'"),
        ({"clip": 0.0}, r"clip must lie in \[2\*\*-20, 0.5\), got 0.0"),
        ({"clip": 0.5}, r"clip must lie in \[2\*\*-20, 0.5\), got 0.5"),
        ({"clip": "no"}, r"clip must lie in \[2\*\*-20, 0.5\), got 'no'"),
        ({"m_step": "map"}, "m_step must be one of 'ml', 'moments', got 'map'"),
        ({"warm_start": "no"}, "warm_start must be one of True, False, got 'no'"),
        ({"random_state": "x"}, "random_state must be an integer in .*, got 'x'"),
        ({"random_state": -1}, "random_state must be an integer in .*, got -1"),
        ({"init": [[1.0], [1.0, 2.0], [1.0]]}, r"init must be numbers, \(3, 2\), got \[\[1.0\]"),
        ({"init": "means"}, r"init must be numbers, \(3, 2\), got 'means'"),
        ({"init": [[1.0], [1.0], [1.0]]}, r"of 2 components, shape \(3, 2\), got \(3, 1\)"),
        ({"init": [[0.5, 0.5], [1, 2], [2, -1]]}, r"init must lie in \[1e-12, 1e12\], got"),
        ({"init": [[0.5, 0.5], [1, 1e189], [2, 1]]}, r"init must lie in \[1e-12, 1e12\], got"),
        ({"init": [[0.5, 0.5], [1, np.nan], [2, 1]]}, r"init must lie in \[1e-12, 1e12\], got"),
        ({"init": [[0.5, 0.5], [1, np.inf], [2, 1]]}, r"init must lie in \[1e-12, 1e12\], got"),
    ],
)
def test_bad_parameters(options, message):
    with pytest.raises(ValueError, match=message):
        BetaMixture(**options).fit([0.1, 0.9])


def test_parameters_of_numpy():
    s = draw(TWO, 200)
    options = {"warm_start": np.True_, "m_step": np.str_("ml"), "random_state": np.int64(3)}
    mixture = BetaMixture(np.int64(2), prior=np.float32(0.25), **options).fit(s)
    expected = BetaMixture(prior=0.25).fit(s)
    np.testing.assert_allclose(parameters(mixture), parameters(expected), rtol=1e-6)


@pytest.mark.parametrize("method", ["predict", "predict_proba", "score_samples", "score", "bic"])
def test_use_before_fit(method):
    with pytest.raises(NotFittedError, match="not fitted yet"):
        getattr(BetaMixture(), method)([0.5])
    with pytest.raises(NotFittedError):
        BetaMixture().sample()
    failed = BetaMixture()
    with pytest.raises(ValueError, match="sample_weight"):
        failed.fit([0.1, 0.2], sample_weight=[1])
    with pytest.raises(NotFittedError):
        failed.predict_proba([0.5])


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


def test_two_narrow_components_near_each_other_are_found(rng):
    s = np.concatenate([rng.beta(157, 367, 500), rng.beta(312, 312, 500)])  # 10 deviations apart
    fitted = BetaMixture(prior=0).fit(s)
    np.testing.assert_allclose(fitted.means_, [0.3, 0.5], atol=0.005)
    assert (fitted.predict(s) == np.repeat([0, 1], 500)).mean() > 0.99


def test_components_unlike_the_prior_are_found_without_it(rng):
    s = np.concatenate([rng.beta(1, 20, 500), rng.beta(5, 2, 500)])
    fitted = BetaMixture(prior=0).fit(s)
    np.testing.assert_allclose(fitted.weights_, [0.5, 0.5], atol=0.03)
    assert (fitted.predict(s) == np.repeat([0, 1], 500)).mean() > 0.99


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
    with pytest.raises(ValueError, match="n_samples must be an integer of at least 1, got 0"):
        fitted.sample(0)


def test_fit_predict():
    s = draw(TWO, 300)
    np.testing.assert_array_equal(BetaMixture().fit_predict(s), BetaMixture().fit(s).predict(s))


@pytest.mark.parametrize(
    "mixture", [BetaMixture(), BetaMixture(prior=0), BetaMixture(3), BetaMixture(1)]
)
def test_noise_rate_is_the_mean_posterior_of_all_but_the_last(mixture):
    s, weight = draw(TWO, 300), np.arange(300) % 3
    proba = mixture.fit(s, sample_weight=weight).predict_proba(s)
    assert mixture.noise_rate_ == pytest.approx(weight @ (1 - proba[:, -1]) / weight.sum())
    assert (mixture.noise_rate_ > 0.1) == (mixture.n_components > 1)


def test_any_integer_counts_components(rng):
    s = rng.beta(2, 3, 300)
    search = GridSearchCV(BetaMixture(prior=0), {"n_components": np.arange(1, 4)}).fit(s[:, None])
    assert search.best_estimator_.weights_.shape == (search.best_params_["n_components"],)


def test_a_start_in_another_order_is_the_same_start():
    s = draw(TWO, 1000)
    for shapes in ([[1.2, 5.0], [6.0, 1.5]], [[5.0, 2.0], [50.0, 1.0]]):
        rows = np.array([[0.3, 0.7], *shapes])
        fits = [BetaMixture(prior=0, init=start).fit(s) for start in (rows, rows[:, ::-1])]
        np.testing.assert_array_equal(*map(parameters, fits))


@pytest.mark.parametrize("m_step", ["ml", "moments"])
@pytest.mark.parametrize("before", [0.5, 0.2, 1.0])
def test_a_warm_start_does_not_go_on_from_a_degenerate_fit(before, m_step):
    mixture = BetaMixture(m_step=m_step, warm_start=True)
    with pytest.warns(ConvergenceWarning):
        mixture.fit([before] * 100)
    s = draw(TWO, 1000)
    fresh = BetaMixture(m_step=m_step).fit(s)
    np.testing.assert_array_equal(parameters(mixture.fit(s)), parameters(fresh))


@pytest.mark.parametrize("n_components", [2, 4])
def test_a_fitted_mixture_does_not_change_with_its_parameters(n_components):
    s = draw(TWO, 500)
    mixture = BetaMixture(n_components, random_state=0).fit(s)
    before = mixture.predict_proba(s), mixture.bic(s), mixture.aic(s), mixture.sample(9)[0]
    mixture.set_params(n_components=3, clip=0.1)
    after = mixture.predict_proba(s), mixture.bic(s), mixture.aic(s), mixture.sample(9)[0]
    for one, other in zip(before, after, strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_posterior_of_narrow_components_is_exact():
    shapes = np.array([[0.3, 0.3, 0.4], [200.0, 600.0, 2000.0], [2000.0, 600.0, 200.0]])
    mixture = exactly(Mixture(*shapes))
    x = np.linspace(0.01, 0.99, 5001)
    np.testing.assert_allclose(
        mixture.predict_proba(x), Mixture(*shapes).responsibilities(x).T, atol=1e-9
    )


@pytest.mark.parametrize("look", ["predict", "predict_proba", "score", "bic", "score_samples"])
def test_what_is_no_sample_to_look_at(look):
    mixture = BetaMixture().fit(draw(TWO, 500))
    with pytest.raises(ValueError, match="must hold at least one sample, got 0"):
        getattr(mixture, look)([])
    with pytest.raises(TypeError, match="X must hold similarities, got a SimilarityHistogram"):
        getattr(mixture, look)(SimilarityHistogram().update([0.5]))


@pytest.mark.parametrize("alphas", [[1e-12, 1e12], [1e12, 1e12], [1e-12, 1e-12]])
@pytest.mark.parametrize("betas", [[1e-12, 1e12], [1e12, 1e-12], [1e12, 1e12], [1e-12, 1e-12]])
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_the_most_absurd_start_gives_a_posterior(alphas, betas):
    init = [[1e-12, 1e12], alphas, betas]
    for max_iter in (0, 20):
        mixture = BetaMixture(init=init, max_iter=max_iter).fit(draw(TWO, 100))
        assert np.isfinite(mixture.predict_proba(np.linspace(0, 1, 101))).all()
