"""What the mixtures share: how similarities come in, and what a fitted mixture says of them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit
from sklearn.base import BaseEstimator, DensityMixin
from sklearn.utils import check_array, check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from ._checks import as_column, as_similarities, as_weights, check_number, is_number, to_numpy
from .em import Mixture
from .histogram import CENTRES, N_BINS, SMALLEST, Array, SimilarityHistogram, count
from .odds import LogOdds


class SimilarityMixture(DensityMixin, BaseEstimator):
    """A fitted mixture of Betas; `fit` is left to the estimators."""

    n_components: int
    clip: float
    random_state: Any
    weights_: Array
    alphas_: Array
    betas_: Array
    degenerate_: bool
    log_odds_: LogOdds | None

    def predict_proba(self, X: Any) -> Array:
        """Posterior of each component (Eq. 5).

        Parameters
        ----------
        X : array-like or Tensor of shape (N,) or (N, 1)
            Similarities in [0, 1].

        Returns
        -------
        ndarray of shape (N, n_components)
            Rows sum to 1. The **last** column, the component of highest mean, is the probability
            that a label is right; but for rounding it never falls as the similarity grows.
        """
        return self._proba(self._samples(X))

    def _proba(self, x: Array) -> Array:
        if self.log_odds_ is not None:
            odds = self.log_odds_(x)
            proba = np.zeros((len(x), len(self.weights_)))
            proba[:, 0], proba[:, -1] = expit(-odds), expit(odds)  # the last wins if it is alone
            return proba
        posterior = self._posterior(x)
        if (np.diff(self.alphas_) >= 0).all() and (np.diff(self.betas_) <= 0).all():
            return posterior  # whose last column rises by itself
        last = np.interp(x, CENTRES, np.maximum.accumulate(self._posterior(CENTRES)[:, -1]))
        others = posterior[:, :-1] + 1e-300
        others *= ((1 - last) / others.sum(1))[:, None]
        return np.column_stack([others, last])

    def predict(self, X: Any) -> NDArray[np.intp]:
        """Component of highest posterior for each sample, (N,)."""
        labels: NDArray[np.intp] = self.predict_proba(X).argmax(1)
        return labels

    def score_samples(self, X: Any) -> Array:
        """Log-density of each sample under the fitted mixture, (N,).

        Samples are moved into [clip, 1 - clip] first, beyond which there is no density, though
        `sample` draws there: compare only estimators of one `clip`, here and by `score`, `bic` and
        `aic`.
        """
        inside = np.clip(self._samples(X), self._clip, 1 - self._clip)
        return self._mixture().log_density(inside)

    def score(self, X: Any, y: Any = None) -> float:
        """Mean log-density of the samples."""
        return float(self.score_samples(X).mean())

    def bic(self, X: Any) -> float:
        """Bayesian information criterion on X, for one `clip`; the lower the better.

        It compares fits by maximum likelihood, of `BetaMixture` with ``prior=0``: with another
        prior the number of components that wins means nothing.
        """
        densities = self.score_samples(X)
        n_parameters = 3 * len(self.weights_) - 1
        return float(-2 * densities.sum() + n_parameters * np.log(len(densities)))

    def aic(self, X: Any) -> float:
        """Akaike information criterion on X, with the limits of `bic`; the lower the better."""
        return float(-2 * self.score_samples(X).sum() + 2 * (3 * len(self.weights_) - 1))

    def sample(self, n_samples: int = 1) -> tuple[Array, NDArray[np.intp]]:
        """Draw samples from the fitted mixture.

        Returns
        -------
        X : ndarray of shape (n_samples, 1)
            Similarities, grouped by component.
        y : ndarray of shape (n_samples,)
            Component of each.
        """
        check_is_fitted(self)
        check_number("n_samples", n_samples, 1, whole=True)
        rng = check_random_state(self.random_state)
        counts = rng.multinomial(n_samples, self.weights_)
        y = np.repeat(np.arange(len(counts)), counts)
        return rng.beta(self.alphas_[y], self.betas_[y])[:, None], y

    # ------------------------------------------------------------------ for the estimators

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.one_d_array = True
        tags.input_tags.positive_only = True
        return tags

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "log_odds_")  # the last attribute of a fit, unlike n_features_in_

    def _mixture(self) -> Mixture:
        return Mixture(self.weights_, self.alphas_, self.betas_)

    def _posterior(self, x: Array) -> Array:
        return self._mixture().responsibilities(np.clip(x, self._clip, 1 - self._clip)).T

    def _column(self, X: Any, reset: bool) -> Any:
        """X as an array or a histogram, once its number and names of features are checked."""
        unnamed = np.zeros((1, 1))  # one column
        if isinstance(X, SimilarityHistogram):  # only `fit` takes one
            validate_data(self, unnamed, skip_check_array=True)
            return X
        if hasattr(X, "detach") or np.ma.isMaskedArray(X) or not hasattr(X, "shape"):
            X = to_numpy(X, "similarities")
        s = self._array(X)
        if reset:
            as_column(s)  # raises before anything is set
        if len(X.shape) == 2:
            validate_data(self, X, reset=reset, skip_check_array=True)
        elif reset:
            validate_data(self, unnamed, skip_check_array=True)
        return s

    def _array(self, X: Any) -> NDArray[Any]:
        # The histogram and this module check range and number of samples for every input.
        later = {"ensure_all_finite": False, "ensure_min_samples": 0, "allow_nd": True}
        try:
            s: NDArray[Any] = check_array(
                X, ensure_2d=False, estimator=self, input_name="X", **later
            )
        except (TypeError, ValueError) as error:
            kind = TypeError if isinstance(error, TypeError) else ValueError
            raise kind(f"similarities must be real numbers in a dense array: {error}") from error
        return s

    def _samples(self, X: Any) -> Array:
        check_is_fitted(self)
        if isinstance(X, SimilarityHistogram):
            raise TypeError("X must hold similarities, got a SimilarityHistogram, which is for fit")
        s = as_similarities(self._column(X, reset=False))
        if not len(s):
            raise ValueError("similarities must hold at least one sample, got 0 sample(s)")
        return s.astype(np.float64)

    def _take(self, mixture: Mixture) -> None:
        self.weights_, self.alphas_, self.betas_ = mixture.weights, mixture.alphas, mixture.betas
        self.means_ = mixture.means
        self._clip = self.clip  # a parameter may be set later

    def _check_parameters(self) -> None:
        raise NotImplementedError

    def _check_shared(self) -> None:
        """Check the parameters that all mixtures have."""
        if not is_number(self.clip) or not SMALLEST <= self.clip < 0.5:
            raise ValueError(f"clip must lie in [2**-20, 0.5), got {self.clip!r}")
        try:
            check_random_state(self.random_state)
        except ValueError:
            raise ValueError(
                "random_state must be an integer in [0, 2**32 - 1], a RandomState or None, got "
                f"{self.random_state!r}"
            ) from None


def weighted_values(
    X: Any, weight: Any, name: str = "similarities", weight_name: str = "sample_weight"
) -> tuple[Array, Array]:
    """Values and their positive weights: the samples themselves, or the bins of a summary."""
    if isinstance(X, SimilarityHistogram):
        if weight is not None:
            raise ValueError(
                f"{weight_name} must be None for a SimilarityHistogram, which has its own"
            )
        x, w = CENTRES, X.counts
    else:
        s = as_column(X, name)
        if not len(s):
            raise ValueError(f"{name} must hold at least one sample, got 0 sample(s)")
        if weight is not None:
            weight = as_weights(weight, len(s), weight_name)
        if len(s) > N_BINS:
            x, w = CENTRES, count(s, weight, name)
        else:
            x = as_similarities(s, name).astype(np.float64)
            w = np.ones(len(s)) if weight is None else weight.astype(np.float64)
    with np.errstate(over="ignore"):
        total = w.sum()
    if not total > 0:
        raise ValueError(f"{name} must have a sample of positive weight, got a sum of zero")
    if total == np.inf:
        raise ValueError(f"{weight_name} must have a finite sum, got {w.max():g} at most")
    return x[w > 0], w[w > 0]


MANY = 0.05  # of the values at 0; recorded trainings have 0.013 at most


def share_at_zero(x: Array, w: Array, clip: float) -> float:
    """Share of the values within `clip` of 0."""
    return float(w[x <= clip].sum() / w.sum())
