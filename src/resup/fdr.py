"""Lists of suspect labels with a stated false-discovery rate."""

from __future__ import annotations

from typing import Any

import numpy as np

from .em import Array
from .histogram import as_similarities, check_range

__all__ = ["q_values"]


def q_values(clean_probability: Any, *, hidden: float = 0.015, doubt: float = 1.5) -> Array:
    r"""Smallest false-discovery rate at which each label is listed as wrong.

    The labels are listed from the least likely to be right. Among the first k, the expected share
    that is right, so listed falsely, is the mean of their probabilities: the q-value of the k-th.

    Few labels are listed, so their probabilities must hold where they are smallest, and there those
    of a network are too small: right labels that look just like wrong ones are counted as wrong,
    the more of them the less the network knows. With :math:`\pi` the mean probability that a label
    is wrong, :math:`\psi` the probability of being right that a wrong label is expected to get,
    :math:`\varepsilon` the `hidden` share and :math:`\delta` the `doubt`, every probability p is
    moved to

    .. math::
        \varphi + (1 - \varphi) p, \qquad
        \varphi = \frac{\varepsilon}{1 - \varepsilon} \frac{1 - \pi}{\pi} + \delta \psi^2, \qquad
        \psi = \frac{\sum p (1 - p)}{\sum (1 - p)}.

    Parameters
    ----------
    clean_probability : array-like or Tensor of shape (N,)
        Probability that each label of a data set is right, such as
        ``CoTrainer.clean_probability`` gives.
    hidden : float, default=0.015
        Share of the right labels that look just like wrong ones, in [0, 1). Where few labels are
        wrong these are many among the suspects.
    doubt : float, default=1.5
        How much overlap is held against the list, at least 0. Nothing is listed at a rate below
        :math:`\varphi`. Both defaults come from recorded trainings; 0 and 0 take the probabilities
        as they are.

    Returns
    -------
    ndarray of shape (N,)
        In [0, 1]; ties share the largest value among them. ``np.flatnonzero(q <= 0.1)`` is a list
        of which at most 10 % are expected to be right.

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
    >>> q_values([0.0, 0.2, 1.0, 0.1], hidden=0, doubt=0)
    array([0.   , 0.1  , 0.325, 0.05 ])
    >>> q_values([0.0, 0.2, 1.0, 0.1]).round(3)
    array([0.02 , 0.118, 0.339, 0.069])
    """
    p = as_similarities(clean_probability, "clean_probability").astype(np.float64)
    check_range(p, "clean_probability")
    if not 0 <= hidden < 1:
        raise ValueError(f"hidden must lie in [0, 1), got {hidden!r}")
    if not 0 <= doubt < np.inf:
        raise ValueError(f"doubt must be finite and at least 0, got {doubt!r}")
    distinct, place, counts = np.unique(p, return_inverse=True, return_counts=True)
    wrong = max(float((1 - distinct) @ counts), 1e-300)
    overlap = float((distinct * (1 - distinct)) @ counts) / wrong
    floor = hidden / (1 - hidden) * float(distinct @ counts) / wrong + doubt * overlap**2
    distinct = distinct + min(1.0, floor) * (1 - distinct)
    q: Array = (np.cumsum(distinct * counts) / np.maximum(np.cumsum(counts), 1))[place]
    return q
