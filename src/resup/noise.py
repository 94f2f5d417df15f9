"""Make labels wrong on purpose, and say how wrong they became.

Labels that people gave need no making: `noise_rate` and `noise_matrix` take them beside the true
ones just as they take drawn labels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr, ndtri, softmax

from ._checks import as_numbers, check_number, to_numpy

__all__ = [
    "apply_transition",
    "asymmetric_transition",
    "draw_labels",
    "instance_transition",
    "noise_matrix",
    "noise_rate",
    "symmetric_transition",
]

Labels = NDArray[np.int64]
Matrix = NDArray[np.float64]
Seed = int | np.random.Generator

OF_DRAW, OF_DISTRIBUTIONS = 230517895, 230517896  # streams that nobody else draws from a seed


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

    Raises
    ------
    ValueError
        If `n_classes` or `rate` is out of range.

    Examples
    --------
    >>> from resup.noise import symmetric_transition
    >>> symmetric_transition(3, 0.5)
    array([[0.5 , 0.25, 0.25],
           [0.25, 0.5 , 0.25],
           [0.25, 0.25, 0.5 ]])
    """
    check_number("rate", rate, 0, 1)
    check_number("n_classes", n_classes, 2, whole=True)
    to_each = rate * (1 / (n_classes if include_true else n_classes - 1))
    matrix = np.full((n_classes, n_classes), to_each)
    np.fill_diagonal(matrix, 1 - rate + (to_each if include_true else 0))
    return matrix


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

    Raises
    ------
    ValueError
        If `n_classes` or `rate` is out of range, or `partner` maps to or from no class, or a class
        to itself.

    Examples
    --------
    >>> from resup.noise import asymmetric_transition
    >>> asymmetric_transition(3, 0.25, {0: 1})
    array([[0.75, 0.25, 0.  ],
           [0.  , 1.  , 0.  ],
           [0.  , 0.  , 1.  ]])
    """
    check_number("rate", rate, 0, 1)
    check_number("n_classes", n_classes, 2, whole=True)
    if not isinstance(partner, Mapping):
        raise ValueError(f"partner must map classes to others, got {type(partner).__name__}")
    matrix = np.eye(n_classes)
    for true, given in partner.items():
        known = all(
            isinstance(c, Integral) and not isinstance(c, bool) and 0 <= c < n_classes
            for c in (true, given)
        )
        if true == given or not known:
            raise ValueError(
                f"partner must map a class in [0, {n_classes}) to a different one, "
                f"got {true!r}: {given!r}"
            )
        matrix[true, true], matrix[true, given] = 1 - rate, rate
    return matrix


def apply_transition(labels: ArrayLike, transition: ArrayLike, seed: Seed) -> Labels:
    """Draw a given label for every true one.

    Parameters
    ----------
    labels : array-like of shape (N,)
        True class indices in [0, C).
    transition : array-like of shape (C, C)
        Row t: the distribution of the given label of a sample whose true label is t.
    seed : int or numpy.random.Generator
        Seed of the draw, or what draws.

    Returns
    -------
    ndarray of shape (N,)
        Given labels. `labels` is left as it is.

    Raises
    ------
    ValueError
        If a label is no integer in [0, C), a row of `transition` is no distribution, or `seed` no
        seed.

    Examples
    --------
    >>> import numpy as np
    >>> from resup.noise import apply_transition, noise_rate, symmetric_transition
    >>> true = np.arange(1000) % 10
    >>> given = apply_transition(true, symmetric_transition(10, 0.4), seed=0)
    >>> round(noise_rate(true, given), 2)
    0.41
    """
    matrix = as_numbers(transition, "transition")
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise ValueError(f"transition must have shape (C, C), got {matrix.shape}")
    cumulative = _cumulative("transition", matrix)
    true = _check_labels(labels, len(matrix))
    u = _generator(seed, OF_DRAW).random(len(true))
    given = np.empty(len(true), np.int64)
    for c in np.unique(true):  # all rows at once would take N x C numbers
        given[true == c] = np.searchsorted(cumulative[c], u[true == c], side="right")
    return given


def instance_transition(
    features: ArrayLike,
    labels: ArrayLike,
    rate: float,
    n_classes: int,
    seed: Seed,
    spread: float = 0.1,
) -> Matrix:
    r"""Distributions of the given label of each sample, for noise that depends on the sample.

    The instance-dependent noise of Xia et al. (2020, arXiv 2006.07836, Algorithm 2). Sample i,
    of true class y, is wrong with probability :math:`q_i`, drawn from a normal distribution
    around `rate` cut off outside [0, 1]; when wrong, its label follows
    :math:`\operatorname{softmax}(x_i W_y)` over the other classes, with one matrix :math:`W_y`
    of standard normal entries a class.

    Parameters
    ----------
    features : array-like of shape (N, ...)
        What the noise looks at, such as standardised pixels; all but the first axis are
        flattened. The larger the values, the surer the choice of the wrong class: with D
        standardised features the logits have a standard deviation of :math:`\sqrt D`.
    labels : array-like of shape (N,)
        True class indices in [0, C).
    rate : float
        Centre of the probabilities of being wrong, in [0, 1]. Cutting off moves their mean away
        from 0 and 1: with the default spread it is 0.129 for 0.1, and within 0.006 of any rate
        from 0.2 to 0.8.
    n_classes : int
        C >= 2.
    seed : int or numpy.random.Generator
        Seed of the probabilities and of the matrices, or what draws them.
    spread : float, default=0.1
        Standard deviation of the normal distribution, >= 0.

    Returns
    -------
    ndarray of shape (N, C)
        Row i: the distribution of the given label of sample i, for `draw_labels`. Its entry at
        the true class is the probability that the label is right.

    Raises
    ------
    ValueError
        If a number, label or seed is out of range, or the features are not finite or not N.

    Examples
    --------
    >>> import numpy as np
    >>> from resup.noise import draw_labels, instance_transition, noise_rate
    >>> true = np.arange(1000) % 10
    >>> images = np.random.default_rng(0).normal(size=(1000, 8, 8))
    >>> distributions = instance_transition(images, true, 0.4, n_classes=10, seed=0)
    >>> round(noise_rate(true, draw_labels(distributions, seed=0)), 2)
    0.4
    """
    check_number("rate", rate, 0, 1)
    check_number("n_classes", n_classes, 2, whole=True)
    check_number("spread", spread, 0)
    true = _check_labels(labels, n_classes)
    x = to_numpy(features, "features")
    if x.ndim < 2 or len(x) != len(true) or x.dtype.kind not in "fiu":
        raise ValueError(
            f"features must be real numbers of shape ({len(true)}, ...), one row a label, "
            f"got {x.dtype} of {x.shape}"
        )
    if not np.isfinite(x).all():
        raise ValueError("features must be finite, got nan or inf")
    x = x.reshape(len(x), math.prod(x.shape[1:]))
    rng = _generator(seed, OF_DISTRIBUTIONS)
    wrong = _truncated_normal(rng.random(len(true)), rate, spread)
    logits = np.empty((len(true), n_classes))
    for c in range(n_classes):
        of_class = true == c
        with np.errstate(over="ignore", invalid="ignore"):
            logits[of_class] = x[of_class] @ rng.standard_normal((x.shape[1], n_classes))
    if not np.isfinite(logits).all():
        raise ValueError(f"features must be smaller, got values up to {np.abs(x).max():g}")
    rows = np.arange(len(true))
    logits[rows, true] = -np.inf
    distributions: Matrix = wrong[:, None] * softmax(logits, axis=1)
    distributions[rows, true] = 1 - wrong
    return distributions


def draw_labels(distributions: ArrayLike, seed: Seed) -> Labels:
    """Draw a label for every sample from a distribution of its own.

    Parameters
    ----------
    distributions : array-like of shape (N, C)
        Row i: the distribution of the label of sample i, as of `instance_transition`.
    seed : int or numpy.random.Generator
        Seed of the draw, or what draws.

    Returns
    -------
    ndarray of shape (N,)
        Class indices in [0, C).

    Raises
    ------
    ValueError
        If a row is no distribution, or `seed` no seed.

    Examples
    --------
    >>> from resup.noise import draw_labels
    >>> draw_labels([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]], seed=0)
    array([0, 1, 1])
    """
    cumulative = _cumulative("distributions", distributions)
    u = _generator(seed, OF_DRAW).random(len(cumulative))
    labels: Labels = (u[:, None] >= cumulative).sum(1)
    return labels


def noise_rate(true: ArrayLike, given: ArrayLike) -> float:
    """Share of labels that are wrong: the realised noise rate.

    Parameters
    ----------
    true, given : array-like of shape (N,)
        Labels as numbers or names.

    Returns
    -------
    float
        In [0, 1].

    Raises
    ------
    ValueError
        If the shapes differ, N is 0, a label is NaN or None, or only one of the two holds names.

    Examples
    --------
    >>> from resup.noise import noise_rate
    >>> noise_rate(["cat", "dog", "cat", "cat"], ["cat", "cat", "dog", "cat"])
    0.5
    """
    t, g = _check_pair(true, given)
    return float((t != g).mean())


def noise_matrix(true: ArrayLike, given: ArrayLike, n_classes: int) -> Matrix:
    """Realised transition matrix.

    Parameters
    ----------
    true, given : array-like of shape (N,)
        Class indices in [0, C).
    n_classes : int
        C >= 1.

    Returns
    -------
    ndarray of shape (C, C)
        Row t: the shares of the given labels of true class t; zeros for a class without samples.

    Raises
    ------
    ValueError
        If the shapes differ, N is 0, or a label is no integer in [0, C).

    Examples
    --------
    >>> from resup.noise import noise_matrix
    >>> noise_matrix([0, 0, 1, 1], [0, 1, 1, 1], n_classes=2)
    array([[0.5, 0.5],
           [0. , 1. ]])
    """
    check_number("n_classes", n_classes, 1, whole=True)
    t, g = _check_pair(true, given)
    t, g = _check_labels(t, n_classes, "true"), _check_labels(g, n_classes, "given")
    counts = np.bincount(t * n_classes + g, minlength=n_classes**2).reshape(n_classes, n_classes)
    matrix: Matrix = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    return matrix


def _generator(seed: Any, stream: int) -> np.random.Generator:
    """Draws other numbers than ``default_rng(seed)``, which may have drawn the true labels."""
    key = seed
    if isinstance(seed, (Integral, list, tuple, np.ndarray)):
        key = [*np.ravel(seed), stream]  # type: ignore[arg-type]
    elif isinstance(seed, np.random.SeedSequence):
        spawned = (*seed.spawn_key, stream)
        key = np.random.SeedSequence(seed.entropy, spawn_key=spawned, pool_size=seed.pool_size)
    try:
        return np.random.default_rng(key)
    except (TypeError, ValueError):
        raise ValueError(f"seed must be an integer of at least 0, got {seed!r}") from None


def _truncated_normal(u: Matrix, mean: float, std: float) -> Matrix:
    """Quantiles `u` of the normal distribution cut off outside [0, 1]."""
    if std == 0:
        return np.full_like(u, mean)
    low, high = ndtr(-mean / std), ndtr((1 - mean) / std)
    quantiles: Matrix = np.clip(mean + std * ndtri(low + u * (high - low)), 0, 1)
    return quantiles


def _cumulative(name: str, rows: ArrayLike) -> Matrix:
    """Cumulative sums of rows that are distributions; the last is 1."""
    matrix: Matrix = as_numbers(rows, name).astype(np.float64)
    if matrix.ndim != 2 or not matrix.shape[1]:
        raise ValueError(f"{name} must have two dimensions, (rows, C), got {matrix.shape}")
    cumulative: Matrix = matrix.cumsum(1)
    wrong = ~((matrix >= 0).all(1) & np.isclose(cumulative[:, -1], 1))
    if wrong.any():
        i = int(wrong.argmax())
        raise ValueError(
            f"{name} must have rows that are distributions: >= 0, summing to 1; row {i} has a "
            f"minimum of {matrix[i].min():g} and a sum of {cumulative[i, -1]:g}"
        )
    return cumulative / cumulative[:, -1:]  # but for rounding


def _check_pair(true: ArrayLike, given: ArrayLike) -> tuple[NDArray[Any], NDArray[Any]]:
    t, g = to_numpy(true, "true"), to_numpy(given, "given")
    if t.shape != g.shape or t.ndim != 1 or not len(t):
        raise ValueError(
            f"true and given must share a shape (N,), N >= 1, got {t.shape}, {g.shape}"
        )
    if any(map(_has_missing, (t, g))):
        raise ValueError("true and given must not contain NaN or None")
    if _kind(t) != _kind(g):
        raise ValueError(f"true and given must both be numbers or names, got {t.dtype}, {g.dtype}")
    return t, g


def _has_missing(labels: NDArray[Any]) -> bool:
    if labels.dtype.kind == "O" and any(label is None for label in labels.flat):
        return True
    try:
        return bool(labels.dtype.kind in "fOmM" and (labels != labels).any())
    except TypeError:  # pandas.NA is neither equal nor not
        return True


def _kind(labels: NDArray[Any]) -> str:
    for kind in (str, bytes):
        if all(isinstance(label, kind) for label in labels.tolist()):
            return kind.__name__
    return "numbers"


def _check_labels(labels: ArrayLike, n_classes: int, name: str = "labels") -> Labels:
    y = to_numpy(labels, name)
    if y.ndim != 1 or (len(y) and y.dtype.kind not in "iu"):
        raise ValueError(f"{name} must be integers of shape (N,), got {y.dtype} of {y.shape}")
    if len(y) and (y.min() < 0 or y.max() >= n_classes):
        raise ValueError(
            f"{name} must lie in [0, {n_classes}), got values from {y.min()} to {y.max()}"
        )
    return y.astype(np.int64)
