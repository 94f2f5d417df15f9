"""Make labels wrong on purpose, and say how wrong they became."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "apply_transition",
    "asymmetric_transition",
    "noise_matrix",
    "noise_rate",
    "symmetric_transition",
]

Labels = NDArray[np.int64]
Matrix = NDArray[np.float64]


def symmetric_transition(n_classes: int, rate: float, include_true: bool = False) -> Matrix:
    """Transition matrix of noise that moves a label to any other class alike.

    Parameters
    ----------
    n_classes : int
        C >= 2.
    rate : float
        Share of labels that are redrawn, in [0, 1].
    include_true : bool, default=False
        Whether the redrawn label may be the true one again, as in some published protocols; the
        realised noise rate is then only ``rate * (C - 1) / C``.

    Returns
    -------
    ndarray of shape (C, C)
        Row t: the distribution of the given label of a sample whose true label is t.

    Examples
    --------
    >>> from resup.noise import symmetric_transition
    >>> symmetric_transition(3, 0.5)
    array([[0.5 , 0.25, 0.25],
           [0.25, 0.5 , 0.25],
           [0.25, 0.25, 0.5 ]])
    """
    _check_rate(rate)
    if n_classes < 2:
        raise ValueError(f"n_classes must be at least 2, got {n_classes}")
    eye = np.eye(n_classes)
    redrawn = (
        np.full((n_classes, n_classes), 1 / n_classes)
        if include_true
        else (1 - eye) / (n_classes - 1)
    )
    return (1 - rate) * eye + rate * redrawn


def asymmetric_transition(n_classes: int, rate: float, partner: Mapping[int, int]) -> Matrix:
    """Transition matrix of noise that moves a label to one chosen other class.

    Parameters
    ----------
    n_classes : int
        C >= 2.
    rate : float
        Share of the labels of each class in `partner` that move, in [0, 1].
    partner : mapping of int to int
        Where a class moves to; classes left out stay right. CIFAR-10's published noise is
        ``{9: 1, 2: 0, 4: 7, 3: 5, 5: 3}``; pair-flip noise is ``{c: (c + 1) % C ...}``.

    Returns
    -------
    ndarray of shape (C, C)
        Row t: the distribution of the given label of a sample whose true label is t.

    Examples
    --------
    >>> from resup.noise import asymmetric_transition
    >>> asymmetric_transition(3, 0.25, {0: 1})
    array([[0.75, 0.25, 0.  ],
           [0.  , 1.  , 0.  ],
           [0.  , 0.  , 1.  ]])
    """
    _check_rate(rate)
    matrix = np.eye(n_classes)
    for true, given in partner.items():
        if true == given or not (0 <= true < n_classes and 0 <= given < n_classes):
            raise ValueError(
                f"partner must map a class in [0, {n_classes}) to a different one, "
                f"got {true}: {given}"
            )
        matrix[true, true], matrix[true, given] = 1 - rate, rate
    return matrix


def apply_transition(labels: ArrayLike, transition: ArrayLike, seed: int) -> Labels:
    """Draw a given label for every true one.

    Parameters
    ----------
    labels : array-like of shape (N,)
        True class indices in [0, C).
    transition : array-like of shape (C, C)
        Row t: the distribution of the given label of a sample whose true label is t.
    seed : int
        Seed of the draw.

    Returns
    -------
    ndarray of shape (N,)
        Given labels. `labels` is left as it is.

    Examples
    --------
    >>> import numpy as np
    >>> from resup.noise import apply_transition, noise_rate, symmetric_transition
    >>> true = np.arange(1000) % 10
    >>> given = apply_transition(true, symmetric_transition(10, 0.4), seed=0)
    >>> round(noise_rate(true, given), 2)
    0.39
    """
    matrix = np.asarray(transition, np.float64)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise ValueError(f"transition must have shape (C, C), got {matrix.shape}")
    if (matrix < 0).any() or not np.allclose(matrix.sum(1), 1):
        raise ValueError("transition must have rows that are distributions: >= 0, summing to 1")
    true = _check_labels(labels, len(matrix))
    cumulative = matrix.cumsum(1)
    cumulative[:, -1] = 1
    u = np.random.default_rng(seed).random(len(true))
    given: Labels = (u[:, None] >= cumulative[true]).sum(1)
    return given


def noise_rate(true: ArrayLike, given: ArrayLike) -> float:
    """Share of labels that are wrong: the realised noise rate."""
    t, g = np.asarray(true), np.asarray(given)
    if t.shape != g.shape or t.ndim != 1 or not len(t):
        raise ValueError(
            f"true and given must share a shape (N,), N >= 1, got {t.shape}, {g.shape}"
        )
    return float((t != g).mean())


def noise_matrix(true: ArrayLike, given: ArrayLike, n_classes: int) -> Matrix:
    """Realised transition matrix: row t holds the shares of the given labels of true class t.

    A class without samples has a row of zeros.
    """
    t, g = _check_labels(true, n_classes), _check_labels(given, n_classes)
    counts = np.bincount(t * n_classes + g, minlength=n_classes**2).reshape(n_classes, n_classes)
    matrix: Matrix = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    return matrix


def _check_rate(rate: float) -> None:
    if not 0 <= rate <= 1:
        raise ValueError(f"rate must lie in [0, 1], got {rate}")


def _check_labels(labels: ArrayLike, n_classes: int) -> Labels:
    y = np.asarray(labels)
    if y.ndim != 1 or y.dtype.kind not in "iu":
        raise ValueError(f"labels must be integers of shape (N,), got {y.dtype} of {y.shape}")
    if len(y) and (y.min() < 0 or y.max() >= n_classes):
        raise ValueError(
            f"labels must lie in [0, {n_classes}), got values from {y.min()} to {y.max()}"
        )
    return y.astype(np.int64)
