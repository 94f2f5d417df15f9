import pickle

import numpy as np
import pytest
import torch
from mixtures import (
    GRID,
    drawn,
    parameters,
)
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler

from resup import (
    BetaMixture,
    DecoyMixture,
    Posterior,
    SimilarityHistogram,
)
from resup.contradictions import contradiction_rate, even_rate

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


def test_fit_predict_takes_what_fit_takes():
    s, decoys, _ = drawn()
    expected = DecoyMixture().fit(s, decoys, hit_rate=1 / 9).predict(s)
    assert 0 < expected.sum() < len(s)
    for given in ((s, decoys), (s,)):
        by_name = {} if len(given) == 2 else {"decoys": decoys}
        found = DecoyMixture().fit_predict(*given, hit_rate=1 / 9, **by_name)
        np.testing.assert_array_equal(found, expected)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("rate", [0, 0.05, 0.3, 0.7, 1])
@pytest.mark.parametrize("hints", [{}, {"hit_rate": 1 / 9, "seen_rate": 0.5, "least_rate": 0.6}])
def test_a_noise_rate_that_is_known_is_found(rate, hints):
    s, decoys, right = drawn()
    mixture = DecoyMixture(noise_rate=rate).fit(s, decoys, **hints)
    assert mixture.noise_rate_ == rate
    wrong = mixture.predict_proba(s)[:, 0]
    assert wrong.mean() == pytest.approx(rate, abs=1e-4)  # s is fitted in bins
    assert wrong[right].mean() <= wrong[~right].mean()


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
        lambda s: s.astype(object),
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


def test_hard_samples_that_show_no_noise_are_believed_up_to_a_trace(rng):
    s = np.where(rng.random(4000) < 0.3, rng.beta(2, 2, 4000), rng.beta(20, 1, 4000))
    with pytest.warns(ConvergenceWarning, match="noise rate of 0.00 where 0.01 is likelier"):
        mixture = DecoyMixture().fit(s, rng.beta(1, 20, 4000), hit_rate=0.1, seen_rate=0.0)
    assert mixture.agreement_ == pytest.approx((0.05 / 0.06) ** 4, abs=1e-3)
    assert mixture.noise_rate_ < 0.01


@pytest.mark.filterwarnings("ignore:the decoys account")
def test_plausible_noise_shows_once_fifty_decoys_are_the_predicted_class(rng):
    wrong = rng.random(4000) < 0.3
    hit = wrong & (rng.random(4000) < 0.25)
    s = np.where(wrong, rng.beta(2, 3, 4000), rng.beta(12, 1, 4000))
    decoys = np.where(hit, rng.beta(12, 1, 4000), rng.beta(1, 12, 4000))
    for n, found in ((49.9, 0.0), (50.1, 0.25), (500.0, 0.25)):
        weight = np.full(4000, n / 0.25 / 4000)
        mixture = DecoyMixture().fit(s, decoys, hit_rate=0.25, decoy_weight=weight)
        assert mixture.noise_rate_ == pytest.approx(found, abs=0.03)


def test_clone_pickle_and_repr():
    s, decoys, _ = drawn(n=300)
    mixture = DecoyMixture(tol=1e-2).fit(s, decoys)
    assert mixture.get_params() == {
        "noise_rate": None,
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
        (["high"], "decoys must be real numbers, got dtype <U4"),
        (np.array(["0.5"], object), "decoys must be real numbers, got dtype object"),
        ([0.5j], "decoys must be real numbers, got dtype complex128"),
        ([[0.1], [0.2, 0.3]], "decoys must be an array-like of one shape .*, got list"),
        (torch.ones(2, device="meta"), "decoys must be .* a dense tensor with values, got Tensor"),
        (None, "decoys must be similarities to labels that were not given, got None"),
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
    with pytest.raises(
        ValueError, match=rf"{name} must be a finite number in \[0, 1\], got {rate}"
    ):
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
        ({"noise_rate": True}, r"noise_rate must be a finite number in \[0, 1\], got True"),
        ({"random_state": "x"}, "random_state must be an integer in .*, got 'x'"),
        ({"tol": np.nan}, "tol must be a finite number of at least 0, got nan"),
        ({"clip": 0.5}, r"clip must lie in \[2\*\*-20, 0.5\), got 0.5"),
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


@pytest.mark.parametrize("hits", [0.0, 1 / 9])
@pytest.mark.parametrize("seen", [None, 0.0, 0.3])
def test_swapped_samples_and_decoys_are_told(seen, hits):
    s, decoys, _ = drawn()
    with pytest.warns(ConvergenceWarning, match="are X and decoys swapped"):
        mixture = DecoyMixture().fit(decoys, s, hit_rate=hits, seen_rate=seen)
    assert mixture.degenerate_
    assert not DecoyMixture().fit(s, decoys, hit_rate=hits, seen_rate=seen).degenerate_


@pytest.mark.parametrize("hits", [0.0, 1 / 9])
def test_samples_given_as_their_decoys_are_told(hits):
    s, _, _ = drawn()
    with pytest.warns(ConvergenceWarning, match="are X and decoys swapped"):
        DecoyMixture().fit(s, s, hit_rate=hits)


@pytest.mark.parametrize(
    ("decoys", "hits"),
    [((8, 16), 1.0), ((8, 16), 1 / 9), ((8, 16), 0.0), ("coin", 0.0), ("coin", 1 / 9)],
)
def test_decoys_that_tell_nothing_leave_it_to_the_shape(rng, decoys, hits):
    s = rng.beta(8, 16, 5000)
    others = (rng.random(5000) < 0.5) * 1.0 if decoys == "coin" else rng.beta(*decoys, 5000)
    with pytest.warns(ConvergenceWarning, match="look alike; .* the network learnt nothing"):
        mixture = DecoyMixture().fit(s, others, hit_rate=hits)
    assert mixture.degenerate_
    alone = BetaMixture().fit(s)
    np.testing.assert_array_equal(mixture.predict_proba(s), alone.predict_proba(s))
    assert mixture.noise_rate_ == pytest.approx(alone.noise_rate_)


def test_without_a_tolerance_all_iterations_are_made():
    s, decoys, _ = drawn()
    mixture = DecoyMixture(tol=0, max_iter=20).fit(s, decoys)  # and no warning
    assert (mixture.n_iter_, mixture.converged_) == (20, False)


def test_decoys_are_y_to_a_pipeline():
    s, decoys, _ = drawn()
    piped = make_pipeline(MinMaxScaler(), DecoyMixture()).fit(s[:, None], decoys)
    alone = DecoyMixture().fit(MinMaxScaler().fit_transform(s[:, None]), decoys)
    np.testing.assert_array_equal(piped[-1].predict_proba(s), alone.predict_proba(s))


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        (np.zeros((3, 2)), r"counts must have shape \(C, B, 2\) with B >= 1, got \(3, 2\)"),
        (np.zeros((3, 0, 2)), r"counts must have shape .* with B >= 1, got \(3, 0, 2\)"),
        (np.full((3, 4, 2), np.nan), "counts must be finite and not negative"),
        (-np.ones((3, 4, 2)), "counts must be finite and not negative"),
    ],
)
def test_counts_that_are_no_counts(counts, message):
    with pytest.raises(ValueError, match=message):
        contradiction_rate(counts)


@pytest.mark.parametrize(
    ("confusions", "message"),
    [
        (np.zeros((2, 3, 4)), r"confusions must have shape \(2, C, C\), got \(2, 3, 4\)"),
        (np.zeros((4, 4)), r"confusions must have shape \(2, C, C\), got \(4, 4\)"),
        (np.full((2, 4, 4), np.inf), "confusions must be finite and not negative"),
    ],
)
def test_confusions_that_are_no_counts(confusions, message):
    with pytest.raises(ValueError, match=message):
        even_rate(confusions)
