"""A fitted mixture as weights on any device: the posterior of Eq. 5, in closed form or a table."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from torch import Tensor
from typing_extensions import Self

from ._base import SimilarityMixture
from ._checks import as_numbers, as_similarities, check_methods, check_number
from ._module import StateModule
from ._validation import check_logarithms
from .accumulator import Bins
from .histogram import CENTRES, N_BINS, SimilarityHistogram
from .odds import ALWAYS_RIGHT, LogOdds

__all__ = ["AnyMixture", "Posterior", "TablePosterior"]


class Posterior(StateModule):
    r"""Probability that a label is right, as a function of its similarity S (Eq. 5).

    .. math:: w(S) = \sigma\bigl(a \log S + b \log(1 - S) + c\bigr), \qquad S \in [s_0, s_1]

    where S is first clamped to the range on which the fitted function rises. For a two-component
    Beta mixture a and b are the differences of the components' parameters; no table, special
    function or copy to the host is needed. A new `Posterior` gives every label weight 1.

    In float32 a weight is off by at most 6e-8 times the sum of the sizes of the three terms: by
    less than 1e-5 for the mixtures of all recorded trainings, and by more for steeper ones, such
    as Beta(3000, 8000) beside Beta(8000, 3000).

    Parameters
    ----------
    groups : int, default=1
        How many mixtures are kept side by side, such as one per network.

    Attributes
    ----------
    coefficients : Tensor of shape (groups, 7), float32
        a, b, c and the bounds of log S and of log(1 - S); a buffer, so it follows ``.to(device)``
        and is in the state dict. `load` writes into it in place: a captured CUDA graph or a
        compiled step sees the new values.

    Examples
    --------
    >>> import torch
    >>> from resup import BetaMixture, Posterior, log_label_similarity
    >>> mixture = BetaMixture().fit([0.05, 0.1, 0.1, 0.2, 0.8, 0.9, 0.9, 0.95])
    >>> weigh = Posterior().load(mixture)
    >>> logits = torch.tensor([[4.0, 0.0], [0.0, 4.0]])
    >>> weigh(*log_label_similarity(logits, torch.tensor([0, 0]))) > 0.5
    tensor([ True, False])
    """

    coefficients: Tensor

    def __init__(self, groups: int = 1) -> None:
        super().__init__()
        check_number("groups", groups, 1, whole=True)
        self.register_buffer("coefficients", torch.empty(groups, 7, dtype=torch.float32))
        for group in range(groups):
            self._write(ALWAYS_RIGHT, group)

    def _write(self, odds: LogOdds, group: int) -> None:
        check_number("group", group, 0, len(self.coefficients) - 1, whole=True)
        row = torch.tensor([odds.a, odds.b, odds.c, *odds.log_bounds()], dtype=torch.float32)
        self.coefficients[group].copy_(row)

    def load(self, mixture: Any, group: int = 0) -> Self:
        """Take over a fitted mixture.

        Parameters
        ----------
        mixture : BetaMixture with at most two components, DecoyMixture, or LogOdds
            Fitted, so that it has `log_odds_`.
        group : int, default=0
            Which of the side-by-side mixtures to replace.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If `mixture` is not fitted or has three components or more, or there is no such group.
        """
        odds = mixture if isinstance(mixture, LogOdds) else getattr(mixture, "log_odds_", None)
        if odds is None:
            raise ValueError(
                "mixture must be a fitted BetaMixture of one or two components or a fitted "
                f"DecoyMixture, got {mixture!r}"
            )
        self._write(odds, group)
        return self

    def reset(self, group: int = 0) -> None:
        """Give every label weight 1 again."""
        self._write(ALWAYS_RIGHT, group)

    @torch.no_grad()
    def forward(self, log_s: Tensor, log_1ms: Tensor) -> Tensor:
        """Weigh similarities given by their logarithms.

        Parameters
        ----------
        log_s, log_1ms : Tensor of shape (N,) or (groups, N)
            log S and log(1 - S), as :func:`resup.log_label_similarity` gives them; -inf is allowed.

        Returns
        -------
        Tensor of the same shape, or (groups, N) where groups > 1
            Weights in [0, 1], not differentiated.

        Raises
        ------
        TypeError, ValueError
            If a value is no tensor or, on the CPU, above 0, as if S itself were given.
        """
        check_logarithms(log_s=log_s, log_1ms=log_1ms)
        coefficients = self.coefficients if len(self.coefficients) > 1 else self.coefficients[0]
        a, b, c, s_low, s_high, r_low, r_high = coefficients[..., None].unbind(-2)
        log_s = torch.clamp(log_s, s_low, s_high)
        log_1ms = torch.clamp(log_1ms, r_low, r_high)
        return torch.sigmoid(torch.addcmul(torch.addcmul(c, a, log_s), b, log_1ms))


class TablePosterior(StateModule):
    """Probability that a label is right, read from a table over the bins of S.

    It takes the place of :class:`resup.Posterior` for mixtures without its closed form. Where their
    posterior falls as S grows, so do the weights. A new one gives every label weight 1.

    Parameters
    ----------
    groups : int, default=1
        How many mixtures are kept side by side, such as one per network.

    Attributes
    ----------
    table : Tensor of shape (groups, 2432), float32
        Posterior in each bin of :class:`resup.SimilarityHistogram`; a buffer that `load` writes
        into in place.

    Examples
    --------
    >>> import torch
    >>> from sklearn.mixture import GaussianMixture
    >>> from resup import log_label_similarity
    >>> from resup.posterior import AnyMixture, TablePosterior
    >>> mixture = AnyMixture(GaussianMixture(2)).fit([0.05, 0.1, 0.1, 0.2, 0.8, 0.9, 0.9, 0.95])
    >>> weigh = TablePosterior().load(mixture)
    >>> logits = torch.tensor([[2.0, 0.0], [0.0, 2.0]])
    >>> weigh(*log_label_similarity(logits, torch.tensor([0, 0]))) > 0.5
    tensor([ True, False])
    """

    table: Tensor

    def __init__(self, groups: int = 1) -> None:
        super().__init__()
        check_number("groups", groups, 1, whole=True)
        self.bins = Bins()
        self.register_buffer("table", torch.ones(groups, N_BINS, dtype=torch.float32))

    def load(self, mixture: Any, group: int = 0) -> Self:
        """Take over a fitted mixture.

        Parameters
        ----------
        mixture : AnyMixture, BetaMixture or DecoyMixture
            Fitted. The last column of its `predict_proba` is taken.
        group : int, default=0
            Which of the side-by-side mixtures to replace.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If `mixture` is not fitted or none of these, or there is no such group.
        """
        if not isinstance(mixture, (AnyMixture, SimilarityMixture)):
            raise ValueError(
                f"mixture must be a fitted AnyMixture, BetaMixture or DecoyMixture, got {mixture!r}"
            )
        self._write(torch.from_numpy(mixture.predict_proba(CENTRES)[:, -1]), group)
        return self

    def reset(self, group: int = 0) -> None:
        """Give every label weight 1 again."""
        self._write(torch.ones(()), group)

    def _write(self, probability: Tensor, group: int) -> None:
        check_number("group", group, 0, len(self.table) - 1, whole=True)
        self.table[group].copy_(probability)

    @torch.no_grad()
    def forward(self, log_s: Tensor, log_1ms: Tensor) -> Tensor:
        """Weigh similarities given by their logarithms, as :meth:`resup.Posterior.forward`."""
        check_logarithms(log_s=log_s, log_1ms=log_1ms)
        index, known = self.bins(log_s, log_1ms)
        weights = self.table.gather(1, index.expand(len(self.table), -1))
        weights = weights.masked_fill(known == 0, torch.nan)
        weights = weights.to(torch.promote_types(weights.dtype, log_s.dtype))
        return weights if len(self.table) > 1 else weights.view(log_s.shape)


ROWS = 10_000


class AnyMixture:
    """Any scikit-learn-style estimator as a mixture of right and wrong labels.

    It is fitted to at most 10,000 rows that represent the histogram of the similarities: centres of
    bins, each as often as its share. So the cost does not grow with the number of samples, and an
    estimator without `sample_weight` will do. A `random_state` of None is set to 0, so that a
    resumed run and every process of several find the same mixture.

    Parameters
    ----------
    estimator : object with `fit` and `predict_proba`
        Such as ``sklearn.mixture.GaussianMixture(2)``; both methods are given shape (n, 1). It is
        cloned (deep-copied, if scikit-learn cannot clone it) and stays unfitted.

    Attributes
    ----------
    estimator_ : object
        The fitted clone.
    order_ : ndarray of int
        Its columns in ascending order of their mean similarity; empty if nothing was fitted.
    noise_rate_ : float
        Share of wrong labels: the mean probability of not being of the last component.
    degenerate_ : bool
        True if all similarities are alike, so that nothing was fitted and every posterior is 1, or
        if the estimator says so of itself.

    Examples
    --------
    >>> from sklearn.mixture import GaussianMixture
    >>> from resup.posterior import AnyMixture
    >>> mixture = AnyMixture(GaussianMixture(2)).fit([0.05, 0.1, 0.1, 0.2, 0.8, 0.9, 0.9, 0.95])
    >>> mixture.predict_proba([0.1, 0.9]).round(3)
    array([[1., 0.],
           [0., 1.]])
    """

    def __init__(self, estimator: Any) -> None:
        check_methods("mixture", estimator, "fit", "predict_proba")
        self.estimator = estimator

    def fit(self, X: Any) -> Self:
        """Fit to similarities.

        Parameters
        ----------
        X : array-like or Tensor of shape (N,) or (N, 1), or SimilarityHistogram
            Similarities in [0, 1], N >= 1.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If X is empty, holds NaN or leaves [0, 1], or the estimator gives probabilities that
            are not finite, leave [0, 1] or have another shape than (n, components).
        """
        summary = X if isinstance(X, SimilarityHistogram) else SimilarityHistogram().update(X)
        counts, total = summary.counts, summary.total
        if not total > 0:
            raise ValueError("similarities must hold at least one sample, got 0 sample(s)")
        estimator = clone(self.estimator, safe=False)
        if np.count_nonzero(counts) < 2:
            self.estimator_, self.order_, self.degenerate_ = estimator, np.arange(0), True
            self.noise_rate_ = 0.0
            return self
        if hasattr(estimator, "get_params"):
            given = estimator.get_params().items()
            unset = {name: 0 for name, v in given if name.endswith("random_state") and v is None}
            estimator.set_params(**unset)
        n = min(ROWS, max(round(total), int(np.count_nonzero(counts))))
        places = (np.arange(n) + 0.5) * (total / n)
        estimator.fit(CENTRES[np.searchsorted(counts.cumsum(), places), None])
        proba = _columns(estimator, CENTRES.copy())  # an estimator may want to write
        mass = counts @ proba
        means = (counts * CENTRES) @ proba / np.where(mass > 0, mass, np.inf)
        self.estimator_, self.order_ = estimator, np.argsort(means, kind="stable")
        self.noise_rate_ = 1 - min(float(mass[self.order_[-1]] / total), 1.0)
        self.degenerate_ = bool(getattr(estimator, "degenerate_", False))
        return self

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """Posterior of each component.

        Parameters
        ----------
        X : array-like or Tensor of shape (N,) or (N, 1)
            Similarities in [0, 1].

        Returns
        -------
        ndarray of shape (N, components)
            As the estimator gives it, the columns ascending in mean similarity: the **last** one is
            the probability that a label is right. It may fall where the similarity grows, unlike
            that of :class:`resup.BetaMixture`; a Gaussian of larger variance wins at both ends.

        Raises
        ------
        NotFittedError, ValueError
            If it is not fitted, a similarity is wrong, or the estimator gives no probabilities.
        """
        if not hasattr(self, "estimator_"):
            raise NotFittedError("call fit before predict_proba")
        s = as_similarities(X).astype(np.float64)
        if not len(self.order_):
            return np.ones((len(s), 1))
        return _columns(self.estimator_, s)[:, self.order_]

    def __repr__(self) -> str:
        return f"AnyMixture({self.estimator!r})"


def _columns(estimator: Any, s: NDArray[np.float64]) -> NDArray[np.float64]:
    proba = as_numbers(estimator.predict_proba(s[:, None]), "predict_proba").astype(np.float64)
    if proba.ndim != 2 or len(proba) != len(s) or not proba.shape[1]:
        raise ValueError(
            f"predict_proba of {estimator!r} must give shape ({len(s)}, components), "
            f"got {proba.shape}"
        )
    if not (np.abs(proba - 0.5) <= 0.5 + 1e-6).all():
        raise ValueError(
            f"predict_proba of {estimator!r} must give finite values in [0, 1], "
            f"got values from {proba.min():g} to {proba.max():g}"
        )
    return proba.clip(0, 1)
