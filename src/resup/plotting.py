"""Pictures of a fitted mixture and of a training run; needs the extra ``plot``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit

from ._checks import as_similarities, check_number, to_numpy
from .histogram import LOGIT_EDGES, SimilarityHistogram

__all__ = [
    "plot_history",
    "plot_mixture",
    "plot_probability",
    "plot_suspects",
    "plot_weights",
]

RIGHT, WRONG, LINE = "#4878a8", "#d1605e", "#333333"
BIN_EDGES = np.concatenate([[0.0], expit(LOGIT_EDGES), [1.0]])


def plot_mixture(
    mixture: Any, similarities: Any, *, ax: Axes | None = None, bins: int = 50
) -> Axes:
    """Histograms of the similarities judged right and judged wrong, and the fitted posterior.

    Parameters
    ----------
    mixture : BetaMixture, DecoyMixture or AnyMixture
        Fitted.
    similarities : array-like of shape (N,), Tensor or SimilarityHistogram
        Usually what it was fitted on.
    ax : Axes, optional
        Where to draw; the current Axes by default.
    bins : int, default=50
        Bars between 0 and 1.

    Returns
    -------
    Axes

    Raises
    ------
    ValueError
        If there is no sample, or `bins` is no integer of at least 1.
    """
    check_number("bins", bins, 1, whole=True)
    if isinstance(similarities, SimilarityHistogram):
        histogram = similarities
    else:
        histogram = SimilarityHistogram().update(similarities)
    if not histogram.total:
        raise ValueError("similarities must hold at least one sample, got 0 sample(s)")
    right = histogram.counts * mixture.predict_proba(histogram.centres)[:, -1]
    edges = np.linspace(0, 1, bins + 1).tolist()
    ax = plt.gca() if ax is None else ax
    parts = {
        "judged right": (right, RIGHT),
        "judged wrong": (histogram.counts - right, WRONG),
    }
    for label, (counts, color) in parts.items():  # not stacked: heights on a log axis do not add up
        below = np.append(0.0, counts.cumsum()) / histogram.total
        share = np.diff(np.interp(edges, BIN_EDGES, below))  # a bin may lie across an edge
        ax.hist(edges[:-1], edges, weights=share, color=color, alpha=0.6, label=label)
    ax.set(xlabel="similarity S", ylabel="share of samples", xlim=(0, 1), yscale="log")
    least = histogram.counts[histogram.counts > 0].min() / histogram.total
    _set_bottom(ax, max(least / 2, 1e-6))  # from half a sample on
    current = ax.figure.gca()
    twin = ax.twinx()
    ax.figure.sca(current)  # the twin took its place
    grid = np.linspace(0, 1, 401)
    twin.plot(grid, mixture.predict_proba(grid)[:, -1], color=LINE, label="posterior")
    twin.set(ylabel="posterior", ylim=(0, 1.2), yticks=np.linspace(0, 1, 6))
    (bars, judged), (lines, posterior) = (a.get_legend_handles_labels() for a in (ax, twin))
    ax.legend(
        bars + lines, judged + posterior, loc="upper center", ncols=3, fontsize=8, frameon=False,
        columnspacing=1, handlelength=1.5,
    )  # fmt: skip
    return ax


def plot_weights(
    weights: ArrayLike, right: ArrayLike | None = None, *, ax: Axes | None = None, bins: int = 25
) -> Axes:
    """Histogram of weights, of right and of wrong labels where the truth is known.

    Parameters
    ----------
    weights : array-like of shape (N,)
        Such as ``CoTrainer.clean_probability`` gives.
    right : array-like of bool of shape (N,), optional
        Which labels are right.
    ax : Axes, optional
        Where to draw; the current Axes by default.
    bins : int, default=25
        Bars between 0 and 1.

    Returns
    -------
    Axes

    Raises
    ------
    ValueError
        If there is no weight or one outside [0, 1], `right` is not of bool or of another shape, or
        `bins` is no integer of at least 1.
    """
    check_number("bins", bins, 1, whole=True)
    w = as_similarities(weights, "weights")
    if not len(w):
        raise ValueError("weights must hold at least one sample, got 0 sample(s)")
    mask = None if right is None else _mask(right, w.shape)
    edges = np.linspace(0, 1, bins + 1).tolist()
    ax = plt.gca() if ax is None else ax
    if mask is None:
        ax.hist(w, edges, color=RIGHT)
    else:
        ax.hist(
            [w[~mask], w[mask]], edges, color=[WRONG, RIGHT], label=["wrong labels", "right labels"]
        )
        ax.legend(loc="upper center", ncols=2, fontsize=8, frameon=False)
    ax.set(xlabel="weight", ylabel="samples", yscale="log", xlim=(0, 1))
    _set_bottom(ax, 0.5)
    return ax


def plot_history(
    histories: Mapping[str, Sequence[Mapping[str, float]]],
    key: str = "val_accuracy_a",
    *,
    ax: Axes | None = None,
) -> Axes:
    """One quantity of `CoTrainer.history` against the epoch, a line a run.

    Parameters
    ----------
    histories : mapping of str to list of dict
        The runs by name. Epochs whose record lacks `key` are left out.
    key : str, default="val_accuracy_a"
        Which quantity.
    ax : Axes, optional
        Where to draw; the current Axes by default.

    Returns
    -------
    Axes

    Raises
    ------
    ValueError
        If there is no record, or none has `key`.
    """
    given: Any = type(histories).__name__
    records: list[Mapping[str, float]] = []
    if isinstance(histories, Mapping):
        given = {name: type(history).__name__ for name, history in histories.items()}
        records = [record for history in histories.values() for record in history]
    if not records or not all(isinstance(record, Mapping) for record in records):
        raise ValueError(
            f"histories must map names to histories with records, got {given}; of "
            "one run, {'resup': trainer.history}"
        )
    found = {found for record in records for found in record}
    if key not in found:
        raise ValueError(f"key must be one of {', '.join(sorted(found))}, got {key!r}")
    ax = plt.gca() if ax is None else ax
    for name, history in histories.items():
        points = [(record["epoch"], record[key]) for record in history if key in record]
        ax.plot(*zip(*points, strict=True), label=name, marker="" if len(points) > 1 else "o")
    ax.set(xlabel="epoch", ylabel=key.replace("_", " "))
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    ax.grid(alpha=0.3)
    ax.legend(frameon=False)
    return ax


def plot_probability(
    epochs: ArrayLike,
    probability: ArrayLike,
    right: ArrayLike | None = None,
    *,
    ax: Axes | None = None,
) -> Axes:
    """How the probabilities of right and of wrong labels part: medians and the middle 80 %.

    Parameters
    ----------
    epochs : array-like of shape (E,)
        ``ProbabilityHistory.epochs``.
    probability : array-like of shape (E, N)
        ``ProbabilityHistory.probability``.
    right : array-like of bool of shape (N,), optional
        Which labels are right; by default those above 0.5 after the last epoch are judged right.
    ax : Axes, optional
        Where to draw; the current Axes by default.

    Returns
    -------
    Axes

    Raises
    ------
    ValueError
        If the shapes do not fit together, there is no epoch, a probability leaves [0, 1], or
        `right` is not of bool.
    """
    x, p = np.asarray(epochs), to_numpy(probability, "probability")
    if p.ndim != 2 or not len(p) or x.shape != p.shape[:1]:
        raise ValueError(
            "probability must have shape (E, N) with one row for each of E >= 1 epochs, got "
            f"{p.shape} and {x.shape} epochs"
        )
    as_similarities(p.ravel(), "probability")
    mask = p[-1] > 0.5 if right is None else _mask(right, p.shape[1:])
    words = ("judged wrong", "judged right") if right is None else ("wrong labels", "right labels")
    ax = plt.gca() if ax is None else ax
    for group, colour, word in zip((~mask, mask), (WRONG, RIGHT), words, strict=True):
        if group.any():
            low, median, high = np.quantile(p[:, group], [0.1, 0.5, 0.9], axis=1)
            if len(x) > 1:
                ax.fill_between(x, low, high, color=colour, alpha=0.25, linewidth=0)
            else:
                ax.vlines(x, low, high, color=colour, alpha=0.25, linewidth=6)
            ax.plot(
                x, median, color=colour, label=f"{word} ({group.sum()})",
                marker="" if len(x) > 1 else "o",
            )  # fmt: skip
    ax.set(xlabel="epoch", ylabel="P(label is right)", ylim=(-0.02, 1.02))
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    ax.legend(frameon=False)
    return ax


def plot_suspects(
    images: ArrayLike,
    labels: ArrayLike,
    clean_probability: ArrayLike,
    *,
    true: ArrayLike | None = None,
    axes: Iterable[Any] | None = None,
    count: int = 16,
) -> NDArray[Any]:
    """Show the images whose labels are least likely to be right, most suspicious first.

    Parameters
    ----------
    images : array-like of shape (N, H, W) or (N, H, W, 3)
        What `imshow` shows.
    labels : array-like of shape (N,)
        Given labels, as numbers or names.
    clean_probability : array-like of shape (N,)
        Probability p that each label is right.
    true : array-like of shape (N,), optional
        True labels, where they are known; a title is red where the given label is indeed wrong.
    axes : iterable of Axes or grid of them, optional
        One for each image shown; a new figure by default.
    count : int, default=16
        How many images, if `axes` is not given.

    Returns
    -------
    ndarray of Axes

    Raises
    ------
    ValueError
        If the shapes do not fit together, a probability is NaN or outside [0, 1], or `count` is no
        integer of at least 1.
    """
    pictures, given = to_numpy(images, "images"), to_numpy(labels, "labels")
    p = as_similarities(clean_probability, "clean_probability")
    truth = None if true is None else to_numpy(true, "true")
    if pictures.ndim != 3 and (pictures.ndim != 4 or pictures.shape[3] not in (3, 4)):
        raise ValueError(f"images must have shape (N, H, W) or (N, H, W, 3), got {pictures.shape}")
    for name, column in (("labels", given), ("images", pictures), ("true", truth)):
        if column is not None and len(column) != len(p):
            raise ValueError(f"{name} must have {len(p)} rows, got {len(column)}")
    figure = None
    if axes is None:
        check_number("count", count, 1, whole=True)
        rows = min(2, count)
        columns = -(-count // rows)
        figure = plt.figure(figsize=(1.4 * columns, 1.8 * rows), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False)
        for ax in grid.flat[min(count, len(p)) :]:
            ax.axis("off")
        axes = grid.flat[:count]
    between = "\n" if given.dtype.kind in "OUS" else ", "  # names are long
    shown = np.ravel([axes] if isinstance(axes, Axes) else list(axes))
    for ax, i in zip(shown, np.argsort(p, kind="stable"), strict=False):
        ax.imshow(pictures[i], cmap="gray" if pictures.ndim == 3 else None)
        known = "" if truth is None else f"{between}is {truth[i]}"
        wrong = truth is not None and truth[i] != given[i]
        title = f"given {given[i]}{known}\np = {p[i]:.2f}"
        ax.set_title(title, fontsize=8, color=WRONG if wrong else LINE)
        ax.axis("off")
    if figure is not None:  # titles side by side
        widest = max(ax.title.get_window_extent().width for ax in shown) / figure.dpi
        figure.set_figwidth(columns * max(1.4, widest + 0.2))
    return shown


def _set_bottom(ax: Axes, low: float) -> None:
    """Begin a logarithmic axis at `low`, with room for a line of legend on top."""
    high = ax.dataLim.y1  # the automatic limit leaves as much room as there are tiny bars
    ax.set_ylim(low, high * (high / low) ** 0.2)


def _mask(right: ArrayLike, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    mask = to_numpy(right, "right")
    if mask.shape != shape:
        raise ValueError(f"right must have shape {shape}, got {mask.shape}")
    if mask.dtype != bool:
        raise ValueError(f"right must be bool, such as given == true, got {mask.dtype}")
    return mask
