"""The noise rate that a network's surest predictions show: the share of labels they contradict."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from ._checks import check_counts
from .decoy_fits import Values
from .histogram import Array

__all__ = ["contradiction_rate", "even_rate"]

SUREST, LEAST = 0.1, 10  # share of each class, and samples of it: fewer may all be learnt by heart
OWN_ERROR = 0.25  # among these, as a share of that of the class
SURE, OWN_EVEN_ERROR = 0.5, 0.1  # the same for labels that are confused least
SUREST_TAIL, SURE_TAIL = 0.25, 0.7  # shares of all samples, where their predictions are not known
DOUBTED, SHOWN = 0.45, 0.6  # ratios of these two that show nothing, and all; own errors lower it


def contradiction_rate(counts: ArrayLike) -> float:
    """Noise rate that the surest predictions show: the share of labels that they contradict.

    Of each predicted class the surest tenth is taken, but ten samples if there are as many, so that
    noise between a few classes shows too. A network errs there as well, about a quarter as often as
    on the whole class; that part is taken off.

    Parameters
    ----------
    counts : array-like of shape (C, B, 2)
        Samples by predicted class, by bin of the highest probability (ascending), and by whether
        the given label is the predicted one (0) or contradicts it (1).

    Returns
    -------
    float
        In [0, 1].

    Raises
    ------
    ValueError
        If `counts` has another shape, or a count is negative or not finite.

    Examples
    --------
    >>> from resup.contradictions import contradiction_rate
    >>> round(contradiction_rate([[[400, 400], [120, 80]], [[600, 200], [120, 80]]]), 3)
    0.407
    """
    samples = np.asarray(counts, np.float64)
    if samples.ndim != 3 or samples.shape[1] < 1 or samples.shape[2] != 2:
        raise ValueError(f"counts must have shape (C, B, 2) with B >= 1, got {samples.shape}")
    check_counts("counts", samples)
    n = samples.sum((1, 2))
    all_ = samples[..., 1].sum(1) / np.where(n > 0, n, 1)
    by_class = without_own_errors(of_surest(samples, least=LEAST), all_)
    return float(n @ by_class / (n.sum() or 1))


def even_rate(confusions: ArrayLike) -> float:
    """Noise rate that the labels least confused show: that of noise spread over all classes.

    For each predicted class, the less sure samples tell the third of the other labels, rounded up,
    that is confused with it least. Among the surer samples, a half, these are hardly ever a
    network's own errors or plausible mistakes, and they are learnt by heart last. If noise is
    spread evenly, they are as large a part of it; if not, this rate is too low.

    Parameters
    ----------
    confusions : array-like of shape (2, C, C)
        Less sure samples, and surer ones, by predicted class and by given label.

    Returns
    -------
    float
        In [0, 1]; 0 where fewer than four classes occur.

    Raises
    ------
    ValueError
        If `confusions` has another shape, or a count is negative or not finite.

    Examples
    --------
    >>> import numpy as np
    >>> from resup.contradictions import even_rate
    >>> right, wrong = 70 * np.eye(4), 10 * (1 - np.eye(4))
    >>> round(even_rate([right + wrong, right + wrong]), 3)
    0.3
    """
    samples = np.asarray(confusions, np.float64)
    if samples.ndim != 3 or samples.shape != (2, samples.shape[2], samples.shape[2]):
        raise ValueError(f"confusions must have shape (2, C, C), got {samples.shape}")
    check_counts("confusions", samples)
    confused, sure = samples
    all_ = confused + sure
    n, labels = all_.sum(1), all_.any(0)
    others = labels.sum() - 1
    if others < 3:
        return 0.0
    no_other = np.eye(len(n), dtype=bool) | ~labels
    least = np.where(no_other, np.inf, confused).argsort(1, kind="stable")
    shown = np.take_along_axis(sure, least[:, : others - 2 * others // 3], 1).mean(1) * others
    by_class = shown / np.where(sure.any(1), sure.sum(1), 1)
    contradicted = 1 - all_.trace() / n.sum()
    return float(without_own_errors(n @ by_class / n.sum(), contradicted, OWN_EVEN_ERROR))


def of_surest(counts: Array, surest: float = SUREST, least: float = 0.0) -> Array:
    """Share of the second kind in the surest part of each group, for counts (groups, B, 2)."""
    from_top = counts[:, ::-1].cumsum(1)
    n = from_top.sum(2)
    all_ = n[:, -1:]
    cut = (n < np.minimum(np.maximum(surest * all_, least), all_)).sum(1)  # the bin that reaches it
    groups = np.arange(len(n))
    second, both = from_top[groups, cut, 1], n[groups, cut]
    shares: Array = second / np.where(both > 0, both, 1)
    return shares


def without_own_errors(surest: Array, all_: Array, share: float = OWN_ERROR) -> Array:
    """Take off the share of contradictions that a network's own errors make."""
    return np.clip((surest - share * all_) / (1 - share), 0, 1)


def tail_rate(samples: Values, decoys: Values, hit_rate: float) -> float:
    """Noise rate that the surest predictions show, where only similarities are known.

    The highest are to predicted classes. So those of samples stand for labels that agree with a
    prediction, and those of decoys for labels that contradict it, each for 1 / h of them. Wrong
    labels are nearly as frequent among the surest quarter as among all that are sure, a network's
    own errors are not: below a ratio of 0.45 nothing counts, from 0.6 on all.
    """
    values, place = np.unique(np.concatenate([samples.x, decoys.x]), return_inverse=True)
    is_decoy = np.repeat([0, 1], [len(samples.x), len(decoys.x)])
    w = np.concatenate([hit_rate * samples.w, decoys.w])
    counts = np.bincount(2 * place + is_decoy, w, 2 * len(values)).astype(np.float64)
    of_samples = hit_rate / (1 + hit_rate)
    surest, sure = (
        of_surest(counts.reshape(1, -1, 2), of_samples * share)
        for share in (SUREST_TAIL, SURE_TAIL)
    )
    shown = np.clip((surest / np.maximum(sure, 1e-300) - DOUBTED) / (SHOWN - DOUBTED), 0, 1)
    return float((shown * without_own_errors(surest, sure))[0])
