"""DecoyMixture: what a wrong label looks like, measured instead of guessed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from typing_extensions import Self

from ._base import SimilarityMixture, warn, weighted_values
from .em import Array, Mixture, likeliest_shapes, self_labels
from .histogram import SMALLEST

__all__ = ["DecoyMixture", "contradiction_rate", "hit_rate", "transition"]

DECOY_WEIGHT = 0.2  # of all decoys together, a unit of weight of the samples
PRIOR, FLOOR = 0.1, 0.003  # pseudo-observations a sample: self-labels; uniform ones a component
SUREST, OWN_ERROR = 0.05, 0.1  # the surest share of each class; what a network may get wrong there
TRUSTED = 0.75  # decoys must account for this share of the rate that was seen
RATE_WEIGHT = 0.3  # pseudo-observations a sample of the rate that was seen, where decoys fail


class DecoyMixture(SimilarityMixture):
    r"""Two Betas fitted to similarities beside decoys: similarities of samples to another label.

    The shape of S alone does not tell hard but right labels from wrong ones. Decoys do: with
    :math:`f_0, f_1` the densities of wrong and of right labels, :math:`\pi` the noise rate and h
    the hit rate, samples and decoys are drawn from

    .. math::
        f = \pi f_0 + (1 - \pi) f_1, \qquad g = (1 - \pi h) f_0 + \pi h f_1,

    and both are fitted at once by EM. The posterior has the closed form of Eq. 5.

    Uniform decoys look like uniformly wrong labels. Where wrong labels are plausible ones (people,
    or one class taken for another) they lie higher than decoys, which then find no noise at all.
    `seen_rate`, the noise rate that a network's surest predictions show, guards against that: if
    the decoys account for less than three quarters of it, they are left out, `degenerate_` is set,
    and the similarities alone are fitted with this rate as prior.

    Parameters
    ----------
    clip : float, default=2**-20
        Similarities are moved into [clip, 1 - clip] first.
    max_iter : int, default=200
        Largest number of EM iterations.
    tol : float, default=3e-4
        EM stops when no weight and no logarithm of a parameter moves by more.
    random_state : int, RandomState or None, default=None
        For `sample`; the fit draws nothing.

    Attributes
    ----------
    noise_rate_ : float
        Estimated share of wrong labels.
    weights_, alphas_, betas_, means_ : ndarray of shape (2,)
        Of the components: wrong, then right.
    n_iter_ : int
        EM iterations made.
    converged_ : bool
        Whether `tol` was reached.
    degenerate_ : bool
        True if the decoys were left out, or if the data hold fewer than two distinct values, so
        that every posterior is 1; with a `ConvergenceWarning`.
    log_odds_ : LogOdds
        The posterior in closed form, for :class:`resup.Posterior`.
    n_features_in_ : int
        1.

    See Also
    --------
    contradiction_rate : gives `seen_rate`.
    SampleWeigher : gathers decoys and the seen rate during training.

    Notes
    -----
    Beyond the paper. Relatives: target-decoy search in proteomics (Elias & Gygi 2007), the
    mislabelled threshold samples of AUM (Pleiss et al. 2020, arXiv 2001.10528), mixture proportion
    estimation (Scott, Blanchard & Handy 2013, arXiv 1303.1208), positive-unlabelled learning
    (Elkan & Noto 2008), and confident learning for the seen rate (Northcutt, Jiang & Chuang 2021).

    Examples
    --------
    >>> import numpy as np
    >>> from resup import DecoyMixture
    >>> rng = np.random.default_rng(0)
    >>> right, wrong = rng.beta(6, 1, 700), rng.beta(1, 6, 300)
    >>> decoys = rng.beta(1, 6, 1000)
    >>> mixture = DecoyMixture().fit(np.concatenate([right, wrong]), decoys)
    >>> round(mixture.noise_rate_, 1)
    0.3
    """

    n_components = 2

    def __init__(
        self,
        *,
        clip: float = SMALLEST,
        max_iter: int = 200,
        tol: float = 3e-4,
        random_state: Any = None,
    ) -> None:
        self.clip = clip
        self.max_iter = max_iter
        self.tol = tol
        self.random_state = random_state

    def fit(
        self,
        X: Any,
        decoys: Any,
        *,
        hit_rate: float = 0.0,
        seen_rate: float = 0.0,
        sample_weight: Any = None,
        decoy_weight: Any = None,
    ) -> Self:
        """Fit to similarities and decoys.

        Parameters
        ----------
        X : array-like or Tensor of shape (N,) or (N, 1), or SimilarityHistogram
            Similarities to the given labels, in [0, 1].
        decoys : array-like or Tensor of shape (M,) or (M, 1), or SimilarityHistogram
            Similarities to other labels, in [0, 1]. M need not be N.
        hit_rate : float, default=0.0
            Chance that the decoy of a wrongly labelled sample is its true class: 1 / (C - 1) for
            decoys drawn uniformly from the other C - 1 classes; see `hit_rate` for others.
        seen_rate : float, default=0.0
            Noise rate that the network's surest predictions show; 0 trusts the decoys.
        sample_weight, decoy_weight : array-like of shape (N,) and (M,), optional
            Not negative.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If values are empty, hold NaN or leave [0, 1], or a rate, shape, weight or parameter is
            wrong.

        Warns
        -----
        ConvergenceWarning
            If the fit is degenerate, or EM did not converge in `max_iter` iterations.
        """
        self._check_numbers(("max_iter", Integral, 1), ("tol", Real, 0))
        for name, rate in (("hit_rate", hit_rate), ("seen_rate", seen_rate)):
            if not 0 <= rate <= 1:
                raise ValueError(f"{name} must lie in [0, 1], got {rate!r}")
        x, w = weighted_values(self._column(X, reset=True), sample_weight)
        x_decoy, w_decoy = weighted_values(decoys, decoy_weight, "decoys", "decoy_weight")
        samples = _Values.of(x, w, self.clip)
        others = _Values.of(x_decoy, w_decoy, self.clip).scaled(DECOY_WEIGHT)
        mixture, self.n_iter_ = _em(samples, others, hit_rate, 0.0, self.max_iter, self.tol)
        left_out = bool(mixture.weights[0] < TRUSTED * seen_rate)
        if left_out:
            nothing = others.scaled(0.0)
            mixture, more = _em(samples, nothing, 0.0, seen_rate, self.max_iter, self.tol)
            self.n_iter_ += more
        unsupported = len(np.unique(samples.x)) < 2
        self.degenerate_ = unsupported or left_out
        self.converged_ = mixture.converged
        self._take(mixture, unsupported)
        self.noise_rate_ = 0.0 if unsupported else float(mixture.weights[0])
        if unsupported:
            warn("all similarities are alike; every posterior is 1")
        elif left_out:
            warn(
                f"the decoys account for too little of the noise rate of {seen_rate:.2f} that was "
                "seen; they were left out"
            )
        elif not self.converged_:
            warn(f"EM did not converge in {self.max_iter} iterations; raise max_iter or tol")
        return self


@dataclass(frozen=True)
class _Values:
    """Values inside (0, 1), their weights, and log x over log(1 - x), (2, N)."""

    x: Array
    w: Array
    logs: Array

    @classmethod
    def of(cls, x: Array, w: Array, clip: float) -> _Values:
        inside = np.clip(x, clip, 1 - clip)
        return cls(inside, w / w.sum(), np.stack([np.log(inside), np.log1p(-inside)]))

    def scaled(self, factor: float) -> _Values:
        return replace(self, w=factor * self.w)


def _em(
    samples: _Values, decoys: _Values, hit_rate: float, rate: float, max_iter: int, tol: float
) -> tuple[Mixture, int]:
    """One mixture, weighed (pi, 1 - pi) in the samples and (1 - pi h, pi h) in the decoys."""
    guess = self_labels(samples.x, 2)
    n_prior = PRIOR * (guess @ samples.w) + FLOOR
    sums_prior = PRIOR * samples.logs @ (samples.w * guess).T - FLOOR  # E log u = -1
    rate_weight = RATE_WEIGHT if rate else 0.0

    def m_step(r: Array, r_decoy: Array, shapes: Array) -> Mixture:
        n = r @ samples.w + r_decoy @ decoys.w + n_prior
        sums = samples.logs @ (samples.w * r).T + decoys.logs @ (decoys.w * r_decoy).T + sums_prior
        weights = r @ samples.w + rate_weight * np.array([rate, 1 - rate])
        return Mixture(weights / weights.sum(), *likeliest_shapes(n, sums / n, shapes))

    all_wrong = np.outer([1.0, 0.0], np.ones_like(decoys.x))
    mixture = m_step(guess, all_wrong, np.ones((2, 2)))
    for iteration in range(1, max_iter + 1):
        before, shapes = mixture, np.stack([mixture.alphas, mixture.betas])
        hits = hit_rate * before.weights[0]
        decoy_mixture = Mixture(np.array([1 - hits, hits]), *shapes)
        r, r_decoy = before.responsibilities(samples.x), decoy_mixture.responsibilities(decoys.x)
        mixture = m_step(r, r_decoy, shapes)
        moved = np.abs(np.log([mixture.alphas, mixture.betas]) - np.log(shapes)).max()
        if moved + np.abs(mixture.weights - before.weights).max() < tol:
            return replace(mixture, converged=True), iteration
    return mixture, max_iter


def contradiction_rate(counts: ArrayLike) -> float:
    """Noise rate that the surest predictions show: the share of labels that they contradict.

    The surest twentieth of each predicted class is taken, so that noise between a few classes
    shows too, and the tenth of it that a network may get wrong itself is taken off.

    Parameters
    ----------
    counts : array-like of shape (C, B, 2)
        Samples by predicted class, by bin of the highest probability (ascending), and by whether
        the given label is the predicted one (0) or contradicts it (1).

    Returns
    -------
    float
        In [0, 1].

    Examples
    --------
    >>> from resup.decoy import contradiction_rate
    >>> round(contradiction_rate([[[500, 500], [60, 40]], [[700, 200], [60, 40]]]), 3)
    0.333
    """
    from_top = np.asarray(counts, np.float64)[:, ::-1].cumsum(1)
    n = from_top.sum(2)
    cut = (n < SUREST * n[:, -1:]).sum(1)  # the bin at which the share is reached
    classes = np.arange(len(n))
    contradicted = from_top[classes, cut, 1] / np.maximum(n[classes, cut], 1)
    by_class = np.maximum(0, contradicted - OWN_ERROR) / (1 - OWN_ERROR)
    return float(n[:, -1] @ by_class / max(n[:, -1].sum(), 1))


def transition(confusion: ArrayLike, smoothing: float = 0.02) -> Array:
    """Probabilities with which to draw decoys of plausible labels.

    Parameters
    ----------
    confusion : array-like of shape (C, C)
        Counts of predicted (row) and given (column) labels.
    smoothing : float, default=0.02
        Share of an average class that is spread evenly over the other labels of each row.

    Returns
    -------
    ndarray of shape (C, C)
        Row t: the distribution of the decoy of a sample labelled t; the diagonal is 0.

    Examples
    --------
    >>> from resup.decoy import transition
    >>> transition([[8, 2, 0], [0, 10, 0], [1, 1, 8]], smoothing=0.0)[0].round(3)
    array([0., 1., 0.])
    """
    counts = np.asarray(confusion, np.float64)
    c = len(counts)
    if counts.shape != (c, c) or c < 2:
        raise ValueError(f"confusion must have shape (C, C) with C >= 2, got {counts.shape}")
    other = 1 - np.eye(c)
    off = counts * other + (smoothing * counts.sum() / c + 1e-12) * other / (c - 1)
    rows: Array = off / off.sum(1, keepdims=True)
    return rows


def hit_rate(confusion: ArrayLike, decoys: ArrayLike) -> float:
    """Chance that a decoy of a wrongly labelled sample is its true class.

    Parameters
    ----------
    confusion : array-like of shape (C, C)
        Counts of predicted (row) and given (column) labels; off the diagonal they stand for the
        true and the given class of wrong labels.
    decoys : array-like of shape (C, C)
        Row t: the distribution of the decoy of a sample labelled t, such as `transition` gives.

    Returns
    -------
    float
        1 / (C - 1) for uniform decoys.
    """
    counts, rows = np.asarray(confusion, np.float64), np.asarray(decoys, np.float64)
    off = counts * (1 - np.eye(len(counts)))
    return float((off * rows.T).sum() / off.sum()) if off.any() else 1 / (len(counts) - 1)
