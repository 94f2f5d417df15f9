import numpy as np
import pytest
import torch
from scipy.special import expit
from sklearn.exceptions import NotFittedError
from sklearn.mixture import GaussianMixture

from resup import (
    BetaMixture,
    DecoyMixture,
    Posterior,
    SimilarityHistogram,
    log_label_similarity,
)
from resup.odds import LogOdds
from resup.posterior import ROWS, AnyMixture, TablePosterior

MIXTURES = {
    "default": BetaMixture(),
    "maximum likelihood": BetaMixture(prior=0),
    "published": BetaMixture.as_published(),
    "one component": BetaMixture(1),
}


@pytest.fixture(scope="module")
def similarities():
    rng = np.random.default_rng(0)
    return np.concatenate([rng.beta(0.6, 4, 600), rng.beta(6, 0.5, 1400)])


@pytest.mark.parametrize("name", MIXTURES)
def test_within_1e_5_of_the_float64_posterior(name, similarities):
    mixture = MIXTURES[name].fit(similarities)
    s = np.concatenate([np.linspace(0, 1, 2001), np.geomspace(1e-12, 1, 500)])
    with np.errstate(divide="ignore"):
        logs = [torch.tensor(v, dtype=torch.float32) for v in (np.log(s), np.log1p(-s))]
    got = Posterior().load(mixture)(*logs)
    np.testing.assert_allclose(got, mixture.predict_proba(s)[:, -1], atol=1e-5)


@pytest.mark.parametrize("steepness", [1e1, 1e3, 1e6])
def test_the_error_is_bounded_by_the_size_of_the_terms(rng, steepness):
    for middle in rng.beta(2, 2, 20):
        a, b = steepness * rng.random(2) * [1, -1]
        odds = LogOdds(a, b, -a * np.log(middle) - b * np.log1p(-middle))
        s = np.clip(middle + rng.normal(size=200) / steepness, 1e-6, 1 - 1e-6)
        logs = [torch.tensor(v, dtype=torch.float32) for v in (np.log(s), np.log1p(-s))]
        error = np.abs(Posterior().load(odds)(*logs).numpy() - expit(odds(s)))
        terms = np.abs(a * np.log(s)) + np.abs(b * np.log1p(-s)) + np.abs(odds.c)
        assert (error <= 6e-8 * (1 + terms)).all()


def test_saturated_logits_give_finite_weights(similarities):
    weigh = Posterior().load(BetaMixture().fit(similarities))
    logits = torch.tensor([[1e4, 0.0], [0.0, 1e4], [90.0, 0.0]])
    weights = weigh(*log_label_similarity(logits, torch.tensor([0, 0, 0])))
    assert torch.isfinite(weights).all()
    assert weights[0] > weights[1]


@pytest.mark.parametrize("kind", [Posterior, TablePosterior])
def test_compiles_without_a_break(kind, similarities):
    weigh = kind().load(BetaMixture().fit(similarities))

    def step(logits, targets):
        return weigh(*log_label_similarity(logits, targets))

    logits, targets = 5 * torch.randn(64, 7), torch.randint(7, (64,))
    torch._dynamo.reset()
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(logits, targets), step(logits, targets))


@pytest.mark.parametrize("kind", [Posterior, TablePosterior])
def test_groups_are_independent(kind, similarities):
    weigh = kind(2).load(BetaMixture().fit(similarities), group=1)
    s = torch.rand(2, 50)
    weights = weigh(s.log(), (-s).log1p())
    assert (weights[0] == 1).all()
    assert (weights[1] < 1).any()
    weigh.reset(1)
    assert (weigh(s.log(), (-s).log1p()) == 1).all()


@pytest.mark.parametrize("a", [-2.0, 0.0, 3.0])
@pytest.mark.parametrize("b", [-1.5, 0.0, 2.0])
def test_the_odds_are_cut_to_where_they_rise(a, b):
    from resup.odds import LogOdds

    s = np.linspace(0, 1, 1001)
    whole = LogOdds(a, b, 0.3)
    odds = whole.rising()
    assert (np.diff(expit(odds(s))) >= 0).all()
    rises = np.diff(whole(s), prepend=whole(0.0), append=whole(1.0)) > 0
    kept = rises[:-1] & rises[1:]
    np.testing.assert_array_equal(odds(s)[kept], whole(s)[kept])
    if a >= 0 >= b:
        assert (odds.low, odds.high) == (LogOdds(a, b, 0).low, LogOdds(a, b, 0).high)
    elif a <= 0 <= b:  # falls everywhere
        assert (odds.low, odds.high) == (0.5, 0.5)


@pytest.mark.parametrize("c", [-40.0, 0.0, 40.0])  # below the least everywhere, in part, nowhere
@pytest.mark.parametrize("least", [0.3, 1.0])
def test_odds_are_never_below_a_probability(c, least):
    from resup.odds import LogOdds

    s = np.linspace(0, 1, 1001)
    whole = LogOdds(2.0, -1.0, c)
    clean = expit(whole.not_below(least)(s))
    np.testing.assert_allclose(clean, np.maximum(expit(whole(s)), least), atol=1e-9)


@pytest.mark.parametrize("kind", [Posterior, TablePosterior])
def test_similarities_in_place_of_logarithms_are_refused(kind):
    s = torch.tensor([0.2, torch.nan, 0.7])
    log_s, log_1ms = s.log(), (-s).log1p()
    with pytest.raises(ValueError, match=r"log_s must be log.* up to 0.7; are these similarities"):
        kind()(s, 1 - s)
    with pytest.raises(ValueError, match=r"log_1ms must be logarithms, .* got values up to 0.8"):
        kind()(log_s, 1 - s)
    with pytest.raises(TypeError, match="log_1ms must be a Tensor, got list"):
        kind()(log_s, [0.1])
    kind()(log_s[:0], log_1ms[:0])
    rounded = torch.tensor([1.0078], dtype=torch.bfloat16).log()
    assert kind()(rounded, torch.tensor([-torch.inf])) == 1


def test_logarithms_are_not_looked_at_under_vmap():
    s = torch.rand(3, 5)
    assert torch.func.vmap(Posterior())(s.log(), (-s).log1p()).shape == (3, 5)


@pytest.mark.parametrize("kind", [Posterior, TablePosterior])
def test_both_posteriors_refuse_the_same(kind, similarities):
    for groups in (0, -1, "a", 2.0, True):
        with pytest.raises(ValueError, match=f"groups must be an integer of at least 1.*{groups}"):
            kind(groups)
    weigh, mixture = kind(2), BetaMixture().fit(similarities)
    for group in (2, -1, "a", 1.0, True, None):
        message = rf"group must be an integer in \[0, 1\], got {group!r}"
        with pytest.raises(ValueError, match=message):
            weigh.load(mixture, group)
        with pytest.raises(ValueError, match=message):
            weigh.reset(group)
    for other in (3, BetaMixture, {}, GaussianMixture(2)):
        with pytest.raises(ValueError, match=r"mixture must be a fitted .*BetaMixture.*, got "):
            weigh.load(other)
    for unfitted in (BetaMixture(), DecoyMixture()):
        with pytest.raises(ValueError, match="fitted"):
            weigh.load(unfitted)
    assert (weigh(*logs([[0.1, 0.9]] * 2)) == 1).all()


def test_what_has_no_closed_form_is_refused(similarities):
    for mixture in (BetaMixture(), BetaMixture(3).fit(similarities)):
        with pytest.raises(ValueError, match="mixture must be a fitted BetaMixture of one or two"):
            Posterior().load(mixture)


# ---------------------------------------------------------------------------- any estimator


class Sigmoid:
    """Not of scikit-learn: no get_params, the clean column first, fitted by its mean alone."""

    def fit(self, X):
        assert X.shape[1:] == (1,)
        self.n, self.middle = len(X), X.mean()
        return self

    def predict_proba(self, X):
        clean = expit(20 * (X[:, 0] - self.middle))
        return np.stack([clean, 1 - clean], 1)


def logs(s):
    s = torch.as_tensor(s, dtype=torch.float64)
    return s.log().float(), (-s).log1p().float()


def test_a_table_is_the_posterior_of_each_bin(similarities):
    for mixture in (BetaMixture(3), AnyMixture(GaussianMixture(2)), AnyMixture(Sigmoid())):
        mixture.fit(similarities)
        weigh = TablePosterior().load(mixture)
        centres = SimilarityHistogram.centres[1:-1].copy()
        expected = mixture.predict_proba(centres)[:, -1]
        np.testing.assert_allclose(weigh(*logs(centres)), expected, atol=1e-6)
        assert 0 <= expected.min() < 0.1 < 0.9 < expected.max() <= 1


def test_a_table_keeps_shapes_and_nan():
    weigh = TablePosterior()
    s = torch.tensor([0.0, 0.3, torch.nan, 1.0])
    for shape in ((4,), (1, 4)):
        w = weigh(s.log().view(shape), (-s).log1p().view(shape))
        assert w.shape == shape
        torch.testing.assert_close(w.flatten(), torch.tensor([1, 1, torch.nan, 1]), equal_nan=True)
    assert TablePosterior(3)(s.log(), (-s).log1p()).shape == (3, 4)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_both_posteriors_have_one_dtype(dtype, groups):
    s = torch.rand(groups, 9).to(dtype)
    one, other = (kind(groups)(s.log(), (-s).log1p()) for kind in (Posterior, TablePosterior))
    assert one.dtype == other.dtype
    assert (other.dtype == torch.float64) == (dtype == torch.float64)


def test_gaussians_are_those_of_the_samples(similarities):
    theirs = GaussianMixture(2, random_state=0).fit(similarities[:, None])
    for given in (similarities, SimilarityHistogram().update(np.tile(similarities, 50))):
        ours = AnyMixture(GaussianMixture(2)).fit(given).estimator_
        for name in ("means_", "covariances_", "weights_"):
            np.testing.assert_allclose(
                np.sort(getattr(ours, name).ravel()),
                np.sort(getattr(theirs, name).ravel()),
                rtol=0.03,
            )


@pytest.mark.parametrize("order", [(0.1, 0.9), (0.9, 0.1)])
def test_the_last_column_is_the_clean_one_wherever_it_was(order, similarities):
    gaussians = GaussianMixture(2, means_init=np.array(order)[:, None])
    for estimator in (gaussians, Sigmoid()):
        proba = AnyMixture(estimator).fit(similarities).predict_proba([0.1, 0.9])
        assert proba[0, -1] < 0.2
        assert proba[1, -1] > 0.8


@pytest.mark.parametrize("share", [0.05, 0.95])
def test_of_two_estimates_the_one_of_higher_mean_is_the_clean_one(share, rng):
    high = rng.random(1000) < share
    s = np.where(high, rng.beta(9, 2, 1000), rng.beta(2, 9, 1000))
    mixture = AnyMixture(GaussianMixture(2)).fit(s)
    proba = mixture.predict_proba(s)
    assert mixture.noise_rate_ == pytest.approx(proba[:, 0].mean(), abs=1e-3)  # fitted in bins
    assert proba[high, -1].mean() > 0.8
    assert proba[~high, -1].mean() < 0.2


def test_rounding_of_an_estimator_is_taken_back(similarities):
    class Rounded(Sigmoid):
        def predict_proba(self, X):
            return np.where(super().predict_proba(X) > 0.5, 1 + 9e-7, -9e-7)

    proba = AnyMixture(Rounded()).fit(similarities).predict_proba([0.1, 0.9])
    np.testing.assert_array_equal(proba, [[1, 0], [0, 1]])


@pytest.mark.parametrize("n", [1, 37, ROWS, ROWS + 1, 123_456])
def test_rows_have_the_shares_of_the_histogram(n, rng):
    counts = rng.multinomial(n, rng.dirichlet(np.full(2432, 0.05)))
    histogram = SimilarityHistogram(counts)

    class Recorder(Sigmoid):
        def fit(self, X):
            self.rows = X[:, 0]
            return super().fit(X)

    mixture = AnyMixture(Recorder()).fit(histogram)
    if np.count_nonzero(counts) < 2:
        assert not hasattr(mixture.estimator_, "rows")
        return
    got = SimilarityHistogram().update(mixture.estimator_.rows)
    if n <= ROWS:
        np.testing.assert_array_equal(got.counts, counts)
    else:
        assert got.total == ROWS
        assert np.abs(got.counts - counts * ROWS / n).max() < 1


def test_an_estimator_is_cloned_and_seeded():
    mine = GaussianMixture(2)
    rng_state = np.random.get_state()[1].tolist()  # noqa: NPY002
    s = np.linspace(0.01, 0.99, 500)
    a, b = (AnyMixture(mine).fit(s) for _ in "ab")
    assert mine.random_state is None
    assert not hasattr(mine, "means_")
    assert np.random.get_state()[1].tolist() == rng_state  # noqa: NPY002
    np.testing.assert_array_equal(a.predict_proba(s), b.predict_proba(s))
    assert AnyMixture(GaussianMixture(2, random_state=7)).fit(s).estimator_.random_state == 7


def test_similarities_all_alike_are_all_right():
    mixture = AnyMixture(GaussianMixture(2)).fit([0.5] * 10)
    assert mixture.degenerate_
    assert mixture.predict_proba([0.1, 0.9]).tolist() == [[1], [1]]
    assert (TablePosterior().load(mixture)(*logs([0.1, 0.9])) == 1).all()


@pytest.mark.parametrize(
    ("proba", "message"),
    [
        (lambda n: np.full((n, 2), np.nan), "must give finite values in .0, 1., got .* nan to nan"),
        (lambda n: np.full((n, 2), -0.5), "must give finite values in .0, 1., got .* -0.5 to -0.5"),
        (lambda n: np.zeros(n), r"must give shape \(2432, components\), got \(2432,\)"),
        (lambda n: np.zeros((3, 2)), r"must give shape \(2432, components\), got \(3, 2\)"),
    ],
)
def test_probabilities_that_are_none(proba, message):
    class Broken(Sigmoid):
        def predict_proba(self, X):
            return proba(len(X))

    mixture = AnyMixture(Broken())
    with pytest.raises(ValueError, match=message):
        mixture.fit([0.1, 0.9])
    with pytest.raises(NotFittedError, match="call fit"):
        mixture.predict_proba([0.5])


def test_any_mixture_refuses_what_is_no_similarity():
    mixture = AnyMixture(Sigmoid())
    with pytest.raises(NotFittedError, match="call fit before predict_proba"):
        mixture.predict_proba([0.5])
    with pytest.raises(ValueError, match="at least one sample"):
        mixture.fit([])
    with pytest.raises(ValueError, match="similarities must lie in"):
        mixture.fit([0.1, 1.9])
    with pytest.raises(ValueError, match="must not contain NaN"):
        mixture.fit([0.1, 0.9]).predict_proba([np.nan])


@pytest.mark.parametrize("weight", [1e-3, 1e-2, 7.0])
def test_the_scale_of_weights_means_nothing(rng, weight):
    s = np.concatenate([rng.beta(2, 8, 400), rng.beta(8, 2, 600)])
    plain = AnyMixture(GaussianMixture(2)).fit(s)
    scaled = AnyMixture(GaussianMixture(2)).fit(SimilarityHistogram().update(s, weight + 0 * s))
    x = np.linspace(0.05, 0.95, 19)
    np.testing.assert_allclose(scaled.predict_proba(x), plain.predict_proba(x), atol=0.02)
