"""BetaMixture: right and wrong labels told apart by their similarities alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from typing_extensions import Self

from ._base import MANY, SimilarityMixture, share_at_zero, weighted_values
from ._checks import check_choice, check_number
from ._warnings import warn
from .em import Mixture, fit_mixture, gain_over_last
from .histogram import SMALLEST
from .odds import ALWAYS_RIGHT, LogOdds

__all__ = ["BetaMixture"]


class BetaMixture(SimilarityMixture):
    r"""Mixture of Beta distributions on [0, 1], fitted by EM (Eq. 3 and 4).

    .. math:: f(s) = \sum_k \pi_k \, \mathrm{Beta}(s; \alpha_k, \beta_k)

    With two components fitted to label similarities, the one of higher mean holds the right labels
    and its posterior (Eq. 5) is the probability that a label is right.

    Parameters
    ----------
    n_components : int, default=2
        Number of components, ascending in mean once fitted. For more than two give ``prior=0``:
        with the default prior those in between are fitted badly.
    prior : float, default=0.3
        Pseudo-observations per observation that hold the *shapes* of the components to what a
        network's similarity says by itself: a label is right with probability (1 + 2 S) / 3. The
        component weights stay free, so a noise rate of 0 can be found. The default is what tells
        right labels from wrong ones best on recorded training runs; it is strong and biases the
        parameters. **With 0 the fit is maximum likelihood**: use that to estimate the parameters of
        a real Beta mixture.
    m_step : {"ml", "moments"}, default="ml"
        "ml" maximises the (penalised) likelihood, which then never falls, over alphas that rise and
        betas that fall from component to component; the first step puts a start into this order.
        "moments" matches weighted means and variances as published programs do; it ignores `prior`
        and the likelihood may fall.
    init : sequence of three sequences of length n_components, optional
        Weights, alphas and betas to start from, all in [1e-12, 1e12]; by default the prior's guess.
        With a `prior` below 0.1 also the same guess by rank in place of value, if it is likelier.
    clip : float, default=2**-20
        Similarities are moved into [clip, 1 - clip] first; the default is the least.
    max_iter : int, default=500
        Largest number of EM iterations.
    tol : float, default=1e-6
        EM stops when `lower_bound_` changes by less. With 0 all `max_iter` iterations are made.
    warm_start : bool, default=False
        Go on from the last fit, if it was not degenerate: twice 5 iterations are then 10.
    random_state : int, RandomState or None, default=None
        For `sample`; the fit draws nothing.

    Attributes
    ----------
    weights_, alphas_, betas_, means_ : ndarray of shape (n_components,)
        Of the components, ascending in mean.
    noise_rate_ : float
        Share of wrong labels: the mean probability of not being of the last component.
    n_iter_ : int
        EM iterations made.
    converged_ : bool
        Whether `tol` was reached.
    lower_bound_ : float
        Mean log-likelihood a sample at the end; with m_step="ml" what is maximised, the penalty of
        the prior and of the floor that keeps empty components finite included.
    lower_bounds_ : list of float
        The same before each iteration and at the end.
    degenerate_ : bool
        True if the data do not support the components: too few distinct values, two components
        alike, no sample in the last, or (with m_step="ml") a likelihood no higher than that of the
        last alone or a posterior nowhere above one half. Every posterior is then 1, with a
        `ConvergenceWarning`.
    log_odds_ : LogOdds or None
        The posterior in closed form, for :class:`resup.Posterior`: a function of similarities with
        the coefficients `a`, `b`, `c` and the range `low` to `high` as attributes; None for over
        two components.
    n_features_in_ : int
        Always 1.

    See Also
    --------
    SimilarityHistogram : a summary that `fit` takes in place of the samples.

    Notes
    -----
    More than 2,432 samples are summarised in a `SimilarityHistogram` first, which moves a value by
    less than 0.8 % of its distance from 0 or 1, and 1.6 % within 1e-6 of these; the cost of EM does
    not grow with their number. Components hardly wider than that are not told apart.

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
            If the fit is degenerate, if it finds less noise than lies at 0, as where most values
            are 0 or 1 exactly, or if EM did not converge in `max_iter` iterations.
        """
        self._check_parameters()
        x, w = weighted_values(self._column(X, reset=True), sample_weight)
        inside = np.clip(x, self.clip, 1 - self.clip)
        start: Mixture | int = self.n_components
        supported = not getattr(self, "degenerate_", True)
        if self.warm_start and supported and len(self.weights_) == self.n_components:
            start = self._mixture()
        elif self.init is not None:
            weights, alphas, betas = np.array(self.init, np.float64)
            order = np.argsort(alphas / (alphas + betas), kind="stable")
            weights, alphas, betas = weights[order], alphas[order], betas[order]
            start = Mixture(weights / weights.sum(), alphas, betas)
        fitted = fit_mixture(
            inside,
            w,
            start,
            m_step=self.m_step,
            prior=self.prior,
            max_iter=self.max_iter,
            tol=self.tol,
        )
        self.lower_bounds_ = list(fitted.lower_bounds)
        self.lower_bound_ = self.lower_bounds_[-1]
        self.n_iter_ = len(self.lower_bounds_) - 1
        self.converged_ = fitted.converged
        apart = np.abs(np.diff(np.log([fitted.alphas, fitted.betas]), axis=1)).max(0)
        judged = self.m_step == "ml" and self.n_iter_ > 0
        self.degenerate_ = bool(
            len(np.unique(inside)) < self.n_components
            or fitted.weights[-1] < 1e-4
            or (apart < 1e-3).any()
            or (judged and self.n_components > 1 and gain_over_last(fitted, inside, w) <= 0)
        )
        self._take(fitted)
        at_zero = share_at_zero(x, w, self.clip)
        why = f"the data do not support {self.n_components} components; every posterior is 1"
        if judged and MANY < at_zero < 1 and self.clip < 0.01:
            why += f" ({at_zero:.0%} of the values lie within {self.clip:g} of 0; try clip=0.01)"
        self.log_odds_ = None  # more than two components have no closed form
        if self.n_components == 2 and not self.degenerate_:
            a, b, c = fitted.log_odds.tolist()
            self.log_odds_ = LogOdds(a, b, c, self.clip, 1 - self.clip).rising()
            if judged and self.log_odds_(1.0) <= 0:
                self.degenerate_ = True
                why = (
                    "no similarity is likelier right than wrong by this prior; try a smaller one; "
                    "every posterior is 1"
                )
        if self.degenerate_ or self.n_components == 1:
            self.log_odds_ = ALWAYS_RIGHT
        self.noise_rate_ = 1 - min(float(w @ self._proba(x)[:, -1] / w.sum()), 1.0)
        doubt = None
        if self.degenerate_:
            doubt = why
        elif self.n_components > 1 and at_zero > MANY and 1 - fitted.weights[-1] < 0.9 * at_zero:
            doubt = (
                f"{at_zero:.0%} of the values lie within {self.clip:g} of 0, where a Beta may take "
                f"them for those at 1, and only {1 - fitted.weights[-1]:.0%} are found wrong; try "
                + ("clip=0.01" if self.clip < 0.01 else "a smaller prior")
            )
        elif self.tol and self.max_iter and not self.converged_:
            doubt = f"EM did not converge in {self.max_iter} iterations; raise max_iter or tol"
        if doubt:
            warn(doubt, ConvergenceWarning)
        return self

    def fit_predict(self, X: Any, y: Any = None, sample_weight: Any = None) -> NDArray[np.intp]:
        """Fit, then predict the same samples."""
        return self.fit(X, y, sample_weight).predict(X)

    def _check_parameters(self) -> None:
        check_number("n_components", self.n_components, 1, whole=True)
        check_number("max_iter", self.max_iter, 0, whole=True)
        check_number("prior", self.prior, 0)
        check_number("tol", self.tol, 0)
        check_choice("m_step", self.m_step, ("ml", "moments"))
        check_choice("warm_start", self.warm_start, (True, False))
        self._check_shared()
        if self.init is not None:
            expected = 3, self.n_components
            try:
                init = np.array(self.init, np.float64)
            except (TypeError, ValueError):
                raise ValueError(f"init must be numbers, {expected}, got {self.init!r}") from None
            if init.shape != expected:
                raise ValueError(
                    f"init must be weights, alphas and betas of {self.n_components} components, "
                    f"shape {expected}, got {init.shape}"
                )
            if not ((init >= 1e-12) & (init <= 1e12)).all():
                raise ValueError(f"init must lie in [1e-12, 1e12], got {self.init!r}")
