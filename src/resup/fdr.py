"""Lists of suspect labels with a stated false-discovery rate."""

from __future__ import annotations

from typing import Any

import numpy as np

from .em import Array
from .histogram import as_similarities, check_range

__all__ = ["q_values"]


def q_values(clean_probability: Any) -> Array:
    """Smallest false-discovery rate at which each label is listed as wrong.

    The labels are listed from the least likely to be right. Among the first k, the expected share
    that is right, so listed falsely, is the mean of their probabilities: the q-value of the k-th.

    Parameters
    ----------
    clean_probability : array-like or Tensor of shape (N,)
        Probability that each label is right, such as ``CoTrainer.clean_probability`` gives.

    Returns
    -------
    ndarray of shape (N,)
        In [0, 1]; ties share the largest value among them. ``np.flatnonzero(q <= 0.1)`` is a list
        of which at most 10 % are expected to be right, as far as the probabilities are calibrated.

    Raises
    ------
    ValueError
        If a probability is NaN or outside [0, 1], or the shape is wrong.

    References
    ----------
    Efron, Tibshirani, Storey & Tusher, *Empirical Bayes Analysis of a Microarray Experiment*,
    Journal of the American Statistical Association 96, 2001: the posterior as local
    false-discovery rate.

    Examples
    --------
    >>> from resup import q_values
    >>> q_values([0.0, 0.2, 1.0, 0.1])
    array([0.   , 0.1  , 0.325, 0.05 ])
    """
    p = as_similarities(clean_probability, "clean_probability").astype(np.float64)
    check_range(p, "clean_probability")
    distinct, place, counts = np.unique(p, return_inverse=True, return_counts=True)
    listed = np.cumsum(counts)
    q: Array = (np.cumsum(distinct * counts) / np.maximum(listed, 1))[place]
    return q
