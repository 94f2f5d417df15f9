"""Lists of suspect labels with a stated false-discovery rate."""

from __future__ import annotations

from typing import Any

import numpy as np

from ._checks import as_similarities, is_number
from .histogram import Array

__all__ = ["q_values"]

HIDDEN = 0.015


def q_values(clean_probability: Any, *, caution: float = 1.5, hidden: float = HIDDEN) -> Array:
    r"""Smallest false-discovery rate at which each label is listed as wrong.

    The labels are listed from the least likely to be right. Among the first k, the expected share
    that is right, so listed falsely, is the mean of their probabilities: the q-value of the k-th.

    Few labels are listed, so their probabilities must hold where they are smallest, and there those
    of a network are too small: right labels that look just like wrong ones are counted as wrong.
    With :math:`\pi` the mean probability that a label is wrong and :math:`\varepsilon` the `hidden`
    share, every probability p becomes at least the share of those among the seemingly wrong:

    .. math::
        p \leftarrow \varphi + (1 - \varphi) p,
        \qquad \varphi = \frac{\varepsilon}{1 - \varepsilon} \frac{1 - \pi}{\pi}.

    Parameters
    ----------
    clean_probability : array-like or Tensor of shape (N,)
        Probability that each label of a data set is right, such as
        ``CoTrainer.clean_probability`` gives.
    caution : float, default=1.5
        Positive factor by which the odds that a label is right are multiplied first.
    hidden : float, default=0.015
        Share of the right labels that look just like wrong ones, in [0, 1). Where few labels are
        wrong these are many among the suspects, and nothing is listed at a rate below
        :math:`\varphi`: with the default, none at 0.05 unless over 23 % of the labels are wrong,
        at 0.10 over 13 %, at 0.20 over 7 %. Both defaults come from recorded trainings of networks
        that err often; for one with an error rate below 15 % on held-out samples, a tenth of that
        error rate lists more. ``caution=1, hidden=0`` uses the probabilities as they are.

    Returns
    -------
    ndarray of shape (N,)
        In [0, 1]; ties share the largest value among them. ``np.flatnonzero(q <= 0.1)`` is a list
        of which at most 10 % are expected to be right, as far as the probabilities hold: those of
        training, rather than of a `DecoyMixture` fitted to arrays without a seen rate.

    Raises
    ------
    ValueError
        If a probability is NaN or outside [0, 1], or a shape or parameter is wrong.

    References
    ----------
    Efron, Tibshirani, Storey & Tusher, *Empirical Bayes Analysis of a Microarray Experiment*,
    Journal of the American Statistical Association 96, 2001: the posterior as local
    false-discovery rate.

    Examples
    --------
    >>> from resup import q_values
    >>> q_values([0.0, 0.2, 1.0, 0.1], caution=1, hidden=0)
    array([0.   , 0.1  , 0.325, 0.05 ])
    >>> q_values([0.0, 0.2, 1.0, 0.1]).round(3)
    array([0.008, 0.146, 0.359, 0.079])
    """
    p = as_similarities(clean_probability, "clean_probability").astype(np.float64)
    if not is_number(caution) or not 0 < caution < np.inf:
        raise ValueError(f"caution must be positive and finite, got {caution!r}")
    if not is_number(hidden) or not 0 <= hidden < 1:
        raise ValueError(f"hidden must lie in [0, 1), got {hidden!r}")
    distinct, place, counts = np.unique(p, return_inverse=True, return_counts=True)
    distinct = caution * distinct / (1 - distinct + caution * distinct)
    wrong, right = float((1 - distinct) @ counts), float(distinct @ counts)
    floor = min(1.0, hidden * right / max((1 - hidden) * wrong, 1e-300))
    distinct = floor + (1 - floor) * distinct
    return (np.cumsum(distinct * counts) / np.cumsum(counts))[place]
