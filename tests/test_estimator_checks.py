import pickle

import numpy as np
import pytest
from scipy.sparse import csr_array
from scipy.special import expit
from sklearn.base import clone
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, QuantileTransformer
from sklearn.utils import get_tags
from sklearn.utils.estimator_checks import parametrize_with_checks

from resup import BetaMixture, DecoyMixture, SimilarityHistogram

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


class Squashed:
    """Takes any X, squashed to one column in (0, 1), so that a check can bring what it likes."""

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.one_d_array = tags.input_tags.positive_only = False
        return tags

    def _array(self, X):
        array = super()._array(X)
        if array.ndim != 2:
            return array
        means = array.mean(1)
        return np.where(np.isfinite(means), expit(means), means)


class SquashedMixture(Squashed, BetaMixture):
    pass


class SquashedDecoyMixture(Squashed, DecoyMixture):
    """With decoys of its own, since y of a check may be labels."""

    def fit(self, X, y=None, sample_weight=None):
        return super().fit(X, np.linspace(0.02, 0.4, 20), sample_weight=sample_weight)


RANGE = "brings values outside [0, 1]"
COLUMNS = "brings an X of several columns"
INDEXING = "indexes columns of an X that it made 1-D itself, for the tag one_d_array"
ONE_COLUMN_IN_0_1 = {
    "check_all_zero_sample_weights_error": RANGE,
    "check_estimators_dtypes": RANGE,
    "check_estimators_fit_returns_self": RANGE,
    "check_estimators_overwrite_params": RANGE,
    "check_estimators_pickle": RANGE,
    "check_fit_check_is_fitted": RANGE,
    "check_fit_idempotent": RANGE,
    "check_n_features_in": RANGE,
    "check_n_features_in_after_fitting": RANGE,
    "check_pipeline_consistency": RANGE,
    "check_readonly_memmap_input": RANGE,
    "check_sample_weights_not_an_array": RANGE,
    "check_sample_weights_pandas_series": RANGE,
    "check_estimators_nan_inf": COLUMNS,
    "check_sample_weight_equivalence_on_dense_data": COLUMNS,
    "check_sample_weights_not_overwritten": COLUMNS,
    "check_sample_weights_shape": COLUMNS,
    "check_dict_unchanged": INDEXING,
    "check_dont_overwrite_parameters": INDEXING,
    "check_dtype_object": INDEXING,
    "check_f_contiguous_array_estimator": INDEXING,
    "check_fit2d_1feature": INDEXING,
    "check_fit2d_1sample": INDEXING,
    "check_fit2d_predict1d": INDEXING,
    "check_methods_sample_order_invariance": INDEXING,
    "check_methods_subset_invariance": INDEXING,
    "check_positive_only_tag_during_fit": "wants 'Negative values in data'; ours names the range",
}
if csr_array([1.0]).ndim == 1:
    ONE_COLUMN_IN_0_1["check_estimator_sparse_array"] = "no 1-D sparse array becomes its lil_array"


@parametrize_with_checks([BetaMixture()], expected_failed_checks=lambda _: ONE_COLUMN_IN_0_1)
def test_as_it_is(estimator, check):
    check(estimator)


@parametrize_with_checks(
    [
        SquashedMixture(),
        SquashedMixture(3, prior=0),
        SquashedMixture(m_step="moments"),
        SquashedDecoyMixture(),
    ],
    expected_failed_checks=lambda mixture: {
        "check_fit2d_predict1d": "shape (N,) is welcome",
        **({"check_fit_score_takes_y": "y is decoys"} if isinstance(mixture, DecoyMixture) else {}),
    },
)
def test_on_any_x(estimator, check):
    check(estimator)


@pytest.fixture
def s(rng):
    return np.r_[rng.beta(2, 8, 40), rng.beta(8, 2, 80)]


def test_tags_say_what_is_accepted(s):
    tags = get_tags(BetaMixture())
    assert tags.input_tags.one_d_array
    assert tags.input_tags.two_d_array
    assert tags.input_tags.positive_only
    assert not tags.input_tags.allow_nan
    assert not tags.target_tags.required


def test_clone_keeps_the_settings_and_drops_the_fit(s):
    mixture = BetaMixture(3, prior=0.1, init=np.ones((3, 3))).fit(s)
    copy = clone(mixture)
    assert copy.get_params()["prior"] == 0.1
    assert not hasattr(copy, "weights_")
    np.testing.assert_array_equal(copy.fit(s).weights_, mixture.weights_)
    assert clone(BetaMixture.as_published()).max_iter == 10


def test_set_params_counts_at_the_next_fit(s):
    mixture = BetaMixture().fit(s)
    mixture.set_params(n_components=1)
    assert mixture.fit(s).weights_.shape == (1,)
    with pytest.raises(ValueError, match="Invalid parameter 'components'"):
        mixture.set_params(components=3)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("k", [1, 2, 3])
def test_pickle_predicts_the_same(s, protocol, k):
    mixture = BetaMixture(k).fit(s)
    again = pickle.loads(pickle.dumps(mixture, protocol))
    np.testing.assert_array_equal(again.predict_proba(s), mixture.predict_proba(s))


def test_pipelines(s):
    logits = np.log(s / (1 - s))[:, None]
    squashed = make_pipeline(FunctionTransformer(expit), BetaMixture()).fit(logits)
    np.testing.assert_allclose(
        squashed.predict_proba(logits), BetaMixture().fit(s).predict_proba(s)
    )
    squashed.fit(logits, betamixture__sample_weight=np.arange(len(s)))
    ranks = make_pipeline(QuantileTransformer(n_quantiles=50), BetaMixture()).fit(logits)
    assert np.isfinite(ranks.score(logits))
    assert (np.diff(ranks.predict_proba(np.sort(logits, 0))[:, 1]) >= 0).all()


def test_reprs(s):
    assert repr(BetaMixture(3, prior=0)) == "BetaMixture(n_components=3, prior=0)"
    for mixture in (BetaMixture(prior=0.125), BetaMixture(prior=0.125).fit(s)):
        assert "0.125" in mixture._repr_html_()


def test_feature_names(s):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"similarity": s, "loss": -np.log(s)})
    mixture = BetaMixture().fit(frame[["similarity"]])
    assert mixture.feature_names_in_.tolist() == ["similarity"]
    mixture.predict(frame[["similarity"]])
    for unnamed_by_nature in (frame["similarity"], s, list(s)):
        mixture.predict(unnamed_by_nature)
    with pytest.raises(ValueError, match="feature names should match"):
        mixture.predict(frame[["loss"]])
    with pytest.warns(UserWarning, match="does not have valid feature names"):
        mixture.predict(s[:, None])
    for unnamed in (s, s[:, None], SimilarityHistogram().update(s)):
        mixture.fit(frame[["similarity"]]).fit(unnamed)
        assert not hasattr(mixture, "feature_names_in_")
        assert mixture.n_features_in_ == 1


def test_the_number_of_features_is_checked(s):
    with pytest.raises(ValueError, match="X has 2 features, but BetaMixture is expecting 1"):
        BetaMixture().fit(s).predict(s.reshape(-1, 2))


def test_a_fit_that_fails_changes_nothing(s):
    mixture = BetaMixture().fit(s)
    with pytest.raises(ValueError, match=r"must have shape \(N,\) or \(N, 1\), got \(60, 2\)"):
        mixture.fit(s.reshape(-1, 2))
    assert mixture.n_features_in_ == 1
    mixture.predict(s[:, None])
