"""BetaMixture: right and wrong labels told apart by their similarities alone."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betaln, expit, logsumexp
from sklearn.base import BaseEstimator, DensityMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_array, check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data
from typing_extensions import Self

from .em import Array, Mixture, fit_mixture
from .histogram import (
    CENTRES,
    N_BINS,
    SMALLEST,
    SimilarityHistogram,
    as_similarities,
    as_weights,
    check_range,
    to_numpy,
)

__all__ = ["BetaMixture", "LogOdds"]


@dataclass(frozen=True)
class LogOdds:
    """Log-odds that a label is right, a·log S + b·log(1 - S) + c, constant outside [low, high]."""

    a: float
    b: float
    c: float
    low: float = SMALLEST
    high: float = 1 - SMALLEST

    def __call__(self, s: ArrayLike) -> Array:
        """Evaluate at similarities in [0, 1]."""
        inside = np.clip(np.asarray(s, np.float64), self.low, self.high)
        odds: Array = self.a * np.log(inside) + self.b * np.log1p(-inside) + self.c
        return odds

    def rising(self) -> LogOdds:
        """Cut to the range where it rises, so that it is flat before and after."""
        low, high = self.low, self.high
        if self.a < 0 < self.b:  # falls everywhere: only the odds of a typical sample are left
            low = high = 0.5
        elif self.a < 0:
            low = float(np.clip(self.a / (self.a + self.b), low, high))
        elif self.b > 0:
            high = float(np.clip(self.a / (self.a + self.b), low, high))
        return LogOdds(self.a, self.b, self.c, low, high)

    def log_bounds(self) -> tuple[float, float, float, float]:
        """Bounds of log S, then of log(1 - S)."""
        ends = np.array([self.low, self.high])
        return (*np.log(ends).tolist(), *np.log1p(-ends[::-1]).tolist())


ALWAYS_RIGHT = LogOdds(0.0, 0.0, 40.0)  # expit(40) is 1 in float32 and in float64


class BetaMixture(DensityMixin, BaseEstimator):
    r"""Mixture of Beta distributions on [0, 1], fitted by EM (Eq. 3 and 4).

    .. math:: f(s) = \sum_k \pi_k \, \mathrm{Beta}(s; \alpha_k, \beta_k)

    With two components fitted to label similarities, the one of higher mean holds the right labels
    and its posterior (Eq. 5) is the probability that a label is right.

    Parameters
    ----------
    n_components : int, default=2
        Number of components, ascending in mean once fitted.
    prior : float, default=0.3
        Pseudo-observations an observation that hold the *shapes* of the components to what a
        network's similarity says by itself: a label is right with probability (1 + 2 S) / 3. The
        component weights stay free, so a noise rate of 0 can be found. The default is what tells
        right labels from wrong ones best on recorded training runs; it is strong and biases the
        parameters. **With 0 the fit is maximum likelihood**: use that to estimate the parameters of
        a real Beta mixture.
    m_step : {"ml", "moments"}, default="ml"
        "ml" maximises the (penalised) likelihood, which then never falls, over alphas that rise and
        betas that fall from component to component. "moments" matches weighted means and variances
        as published programs do; it ignores `prior` and the likelihood may fall.
    init : sequence of three sequences of length n_components, optional
        Weights, alphas and betas to start from, all positive; by default the prior's guess.
    clip : float, default=2**-20
        Similarities are moved into [clip, 1 - clip] first.
    max_iter : int, default=500
        Largest number of EM iterations.
    tol : float, default=1e-6
        EM stops when the mean log-likelihood a sample changes by less. With 0 all `max_iter`
        iterations are made.
    warm_start : bool, default=False
        Go on from the last fit: twice 5 iterations are then 10.
    random_state : int, RandomState or None, default=None
        For `sample`; the fit draws nothing.

    Attributes
    ----------
    weights_, alphas_, betas_, means_ : ndarray of shape (n_components,)
        Of the components, ascending in mean.
    n_iter_ : int
        EM iterations made.
    converged_ : bool
        Whether `tol` was reached.
    lower_bound_ : float
        Mean log-likelihood a sample at the end, penalised if `prior` is not 0.
    lower_bounds_ : list of float
        The same before each iteration and at the end.
    degenerate_ : bool
        True if the data do not support the components: too few distinct values, two components
        alike, or no sample in the last. Every posterior is then 1, with a `ConvergenceWarning`.
    log_odds_ : LogOdds or None
        The posterior in closed form, for :class:`resup.Posterior`; None for over two components.
    n_features_in_ : int
        1.

    See Also
    --------
    SimilarityHistogram : a summary that `fit` takes in place of the samples.

    Notes
    -----
    More than 2,432 samples are summarised in a `SimilarityHistogram` first, which moves a value by
    less than 0.8 % of its distance from 0 or 1; the cost of EM does not grow with their number.

    References
    ----------
    Zhang et al., *ReSup: Reliable Label Noise Suppression for Facial Expression Recognition*,
    arXiv 2305.17895.

    Examples
    --------
    >>> from resup import BetaMixture
    >>> mixture = BetaMixture().fit([0.03, 0.1, 0.1, 0.2, 0.7, 0.9, 0.9, 0.95, 0.97])
    >>> mixture.predict([0.1, 0.9])
    array([0, 1])
    """

    weights_: Array
    alphas_: Array
    betas_: Array

    def __init__(
        self,
        n_components: int = 2,
        *,
        prior: float = 0.3,
        m_step: str = "ml",
        init: Sequence[Sequence[float]] | None = None,
        clip: float = SMALLEST,
        max_iter: int = 500,
        tol: float = 1e-6,
        warm_start: bool = False,
        random_state: Any = None,
    ) -> None:
        self.n_components = n_components
        self.prior = prior
        self.m_step = m_step
        self.init = init
        self.clip = clip
        self.max_iter = max_iter
        self.tol = tol
        self.warm_start = warm_start
        self.random_state = random_state

    @classmethod
    def as_published(cls) -> Self:
        """Return the estimator of the authors' program: 10 moment steps on values clipped at 1e-3.

        Its weights were read from a table of 100 bins; here they are exact.
        """
        init = ((0.5, 0.5), (1.0, 2.0), (2.0, 1.0))
        return cls(m_step="moments", init=init, clip=1e-3, max_iter=10, tol=0.0)

    # ------------------------------------------------------------------ fitting

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Fit to similarities.

        Parameters
        ----------
        X : array-like or Tensor of shape (N,) or (N, 1), or SimilarityHistogram
            Similarities in [0, 1], N >= 1.
        y : ignored
            Present for the interface.
        sample_weight : array-like of shape (N,), optional
            Not negative; a weight of 2 is the sample twice.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If X is empty, holds NaN or leaves [0, 1], or a shape, weight or parameter is wrong.

        Warns
        -----
        ConvergenceWarning
            If the fit is degenerate, or EM did not converge in `max_iter` iterations.
        """
        self._check_parameters()
        x, w = _weighted_values(self._column(X, reset=True), sample_weight)
        inside = np.clip(x, self.clip, 1 - self.clip)
        start: Mixture | int = self.n_components
        if self.warm_start and len(getattr(self, "weights_", ())) == self.n_components:
            start = Mixture(self.weights_, self.alphas_, self.betas_)
        elif self.init is not None:
            weights, alphas, betas = np.array(self.init, np.float64)
            start = Mixture(weights / weights.sum(), alphas, betas)
        fitted = fit_mixture(
            inside,
            w,
            start,
            m_step=self.m_step,
            prior=0.0 if self.m_step == "moments" else self.prior,
            max_iter=self.max_iter,
            tol=self.tol,
        )
        self.weights_, self.alphas_, self.betas_ = fitted.weights, fitted.alphas, fitted.betas
        self.means_ = fitted.means
        self.lower_bounds_ = list(fitted.lower_bounds)
        self.lower_bound_ = self.lower_bounds_[-1]
        self.n_iter_ = len(self.lower_bounds_) - 1
        self.converged_ = fitted.converged
        apart = np.abs(np.diff(np.log([self.alphas_, self.betas_]), axis=1)).max(0)
        self.degenerate_ = bool(
            len(np.unique(inside)) < self.n_components
            or self.weights_[-1] < 1e-4
            or (apart < 1e-3).any()
        )
        self.log_odds_ = self._log_odds()
        if self.degenerate_:
            _warn(f"the data do not support {self.n_components} components; every posterior is 1")
        elif self.tol and self.max_iter and not self.converged_:
            _warn(f"EM did not converge in {self.max_iter} iterations; raise max_iter or tol")
        return self

    def _log_odds(self) -> LogOdds | None:
        if self.degenerate_ or self.n_components == 1:
            return ALWAYS_RIGHT
        if self.n_components > 2:
            return None
        a, b = np.diff(self.alphas_)[0], np.diff(self.betas_)[0]
        log_norm = np.log(np.maximum(self.weights_, 1e-300)) - betaln(self.alphas_, self.betas_)
        c = np.diff(log_norm)[0]
        return LogOdds(float(a), float(b), float(c), self.clip, 1 - self.clip).rising()

    # ------------------------------------------------------------------ using

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
            that a label is right; it never falls as the similarity grows.
        """
        x = self._samples(X)
        if self.log_odds_ is not None:
            odds = self.log_odds_(x)
            proba = np.zeros((len(x), self.n_components))
            proba[:, 0], proba[:, -1] = expit(-odds), expit(odds)  # the last wins if it is alone
            return proba
        posterior = self._posterior(x)
        last = np.interp(x, CENTRES, np.maximum.accumulate(self._posterior(CENTRES)[:, -1]))
        others = posterior[:, :-1] + 1e-300
        others *= ((1 - last) / others.sum(1))[:, None]
        return np.column_stack([others, last])

    def predict(self, X: Any) -> NDArray[np.intp]:
        """Component of highest posterior for each sample, (N,)."""
        labels: NDArray[np.intp] = self.predict_proba(X).argmax(1)
        return labels

    def fit_predict(self, X: Any, y: Any = None, sample_weight: Any = None) -> NDArray[np.intp]:
        """Fit, then predict the same samples."""
        return self.fit(X, y, sample_weight).predict(X)

    def score_samples(self, X: Any) -> Array:
        """Log-density of each sample under the fitted mixture, (N,)."""
        density: Array = logsumexp(self._log_joint(self._samples(X)), axis=0)
        return density

    def score(self, X: Any, y: Any = None) -> float:
        """Mean log-density of the samples."""
        return float(self.score_samples(X).mean())

    def bic(self, X: Any) -> float:
        """Bayesian information criterion on X; the lower the better."""
        densities = self.score_samples(X)
        n_parameters = 3 * self.n_components - 1
        return float(-2 * densities.sum() + n_parameters * np.log(len(densities)))

    def aic(self, X: Any) -> float:
        """Akaike information criterion on X; the lower the better."""
        return float(-2 * self.score_samples(X).sum() + 2 * (3 * self.n_components - 1))

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
        if n_samples < 1:
            raise ValueError(f"n_samples must be at least 1, got {n_samples}")
        rng = check_random_state(self.random_state)
        counts = rng.multinomial(n_samples, self.weights_)
        y = np.repeat(np.arange(self.n_components), counts)
        return rng.beta(self.alphas_[y], self.betas_[y])[:, None], y

    # ------------------------------------------------------------------ helpers

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.one_d_array = True
        tags.input_tags.positive_only = True
        return tags

    def _log_joint(self, x: Array) -> Array:
        mixture = Mixture(self.weights_, self.alphas_, self.betas_)
        return mixture.log_joint(np.clip(x, self.clip, 1 - self.clip))

    def _posterior(self, x: Array) -> Array:
        joint = self._log_joint(x)
        posterior: Array = np.exp(joint - logsumexp(joint, axis=0)).T
        return posterior

    def _column(self, X: Any, reset: bool) -> Any:
        """X as scikit-learn wants to have seen it: names and number of features are checked."""
        summary = isinstance(X, SimilarityHistogram)
        if hasattr(X, "detach") or not (summary or hasattr(X, "shape")):
            X = to_numpy(X)
        # The histogram and this module check range and number of samples for every input.
        later = {"ensure_all_finite": False, "ensure_min_samples": 0, "allow_nd": True}
        if not summary and len(X.shape) == 2:
            return validate_data(self, X, reset=reset, **later)
        if reset:
            validate_data(self, np.zeros((1, 1)), skip_check_array=True)  # one column, no names
        return X if summary else check_array(X, ensure_2d=False, **later)

    def _samples(self, X: Any) -> Array:
        check_is_fitted(self)
        x = as_similarities(self._column(X, reset=False)).astype(np.float64)
        check_range(x)
        return x

    def _check_parameters(self) -> None:
        for name, kind, low in (
            ("n_components", Integral, 1),
            ("max_iter", Integral, 0),
            ("prior", Real, 0),
            ("tol", Real, 0),
        ):
            value = getattr(self, name)
            if not isinstance(value, kind) or not low <= float(value) < np.inf:
                number = "an integer" if kind is Integral else "a finite number"
                raise ValueError(f"{name} must be {number} of at least {low}, got {value!r}")
        if not isinstance(self.clip, Real) or not 1e-15 <= self.clip < 0.5:
            raise ValueError(f"clip must lie in [1e-15, 0.5), got {self.clip!r}")
        if self.m_step not in ("ml", "moments"):
            raise ValueError(f"m_step must be 'ml' or 'moments', got {self.m_step!r}")
        if self.init is not None:
            shape, expected = np.shape(self.init), (3, self.n_components)
            if shape != expected:
                raise ValueError(
                    f"init must be weights, alphas and betas of {self.n_components} components, "
                    f"shape {expected}, got {shape}"
                )
            if not all(0 < value < np.inf for value in np.ravel(self.init)):
                raise ValueError(f"init must be positive and finite, got {self.init!r}")


def _weighted_values(X: Any, sample_weight: Any) -> tuple[Array, Array]:
    """Distinct places and their weights: the samples themselves, or the bins of their summary."""
    if isinstance(X, SimilarityHistogram):
        if sample_weight is not None:
            raise ValueError(
                "sample_weight must be None for a SimilarityHistogram, which has its own"
            )
        x, w = CENTRES, X.counts
    else:
        s = as_similarities(X)
        if not len(s):
            raise ValueError("similarities must hold at least one sample, got 0 sample(s)")
        if len(s) > N_BINS:
            x, w = CENTRES, SimilarityHistogram().update(s, sample_weight).counts
        else:
            check_range(s)
            x = s.astype(np.float64)
            w = np.ones(len(s)) if sample_weight is None else as_weights(sample_weight, len(s))
    if not w.sum() > 0:
        raise ValueError("similarities must have a sample of positive weight, got a sum of zero")
    return x[w > 0], w[w > 0]


def _warn(message: str) -> None:
    warnings.warn(message, ConvergenceWarning, stacklevel=3)
