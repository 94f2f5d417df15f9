"""Figures 3 to 7 of the paper, and curves of Table 5, from records and files of finished runs."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import cycle
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.isotonic import isotonic_regression

from resup.plotting import LINE, RIGHT, WRONG

Records = Sequence[Mapping[str, Any]]
"""Of one method, a seed each, as `run` writes them."""

COLOURS = (  # told apart by the colour-blind (Okabe & Ito)
    "#000000", "#e69f00", "#56b4e9", "#009e73", "#0072b2", "#d55e00", "#cc79a7", "#888888",
)  # fmt: skip
USUAL = ("plain", "resup-published", "resup", "jocor", "resup-beta", "co-teaching")
WIDTH, DPI, SMALL = 9.0, 200, 9.0


def colours(methods: Collection[str]) -> dict[str, str]:
    """A colour for each method; the usual ones have theirs in every figure."""
    own = {m: COLOURS[USUAL.index(m)] for m in methods if m in USUAL}
    others = [m for m in methods if m not in USUAL]
    return own | dict(zip(others, cycle([c for c in COLOURS if c not in own.values()])))


def curves(
    panels: Mapping[str, Mapping[str, Records]],
    key: str,
    ylabel: str,
    truth: str | None = None,
    height: float = 3.2,
) -> Figure:
    """Something by epoch: a panel a column of a table, a line a method.

    A line is the mean over the seeds, in a band from the lowest to the highest. A method has the
    same colour in all panels. The steep first tenth of the epochs may leave a panel below.

    Parameters
    ----------
    panels : mapping of str to mapping of str to sequence of records
        By the names of column and method. What has no record, or fewer than two epochs, is not
        drawn.
    key : str
        Of the records, whose value is a list of (epoch, value).
    ylabel : str
    truth : str, optional
        Of the records: what the curves should reach, drawn as a broken line.
    height : float, default=3.2
        Of a panel, in inches.
    """
    series = {
        name: {method: by_epoch(records, key) for method, records in methods.items()}
        for name, methods in panels.items()
    }
    names = [name for name in panels if any(len(e) > 1 for e, _ in series[name].values())]
    if not names:
        raise ValueError(f"no record has {key} of two epochs or more")
    columns = min(len(names), 2)
    rows = -(-len(names) // columns)
    figure = Figure((WIDTH, height * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax in axes[len(names) :]:
        ax.remove()
    colour_of = colours({method: None for methods in series.values() for method in methods})
    for ax, name in zip(axes, names, strict=False):
        rate = None
        if truth is not None:
            rate = np.mean([record[truth] for r in panels[name].values() for record in r])
        draw_curves(ax, series[name], colour_of, rate)
        ax.set_title(name, fontsize=SMALL + 1)
        ax.set(xlabel="epoch", ylabel=ylabel)
        label_lines(ax, height)
    return figure


def draw_curves(
    ax: Axes,
    series: Mapping[str, tuple[NDArray[np.int64], NDArray[np.float64]]],
    colour_of: Mapping[str, str],
    rate: float | None,
) -> None:
    """Draw one panel: epochs and values of each method, and the rate that they should reach."""
    shown = []
    for method, (epochs, values) in series.items():
        if len(epochs) < 2:
            continue
        colour = colour_of[method]
        ax.plot(epochs, values.mean(0), color=colour, label=method)
        ax.fill_between(epochs, values.min(0), values.max(0), color=colour, alpha=0.15, lw=0)
        shown.append(values[:, epochs > epochs[-1] / 10].ravel())
    if rate is not None:
        ends = [f(line.get_xdata()[i] for line in ax.lines) for i, f in ((0, min), (-1, max))]
        ax.plot(ends, [rate, rate], "--", color=LINE, lw=1, label="truth")
        shown.append(np.array([rate]))
    values = np.concatenate(shown)
    slack = 0.05 * float(np.ptp(values)) or 0.01
    ax.set_ylim(values.min() - slack, values.max() + slack)
    ax.grid(alpha=0.3)
    ax.margins(x=0.02)


def by_epoch(records: Records, key: str) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Epochs (E,) that all records have, and the values there, (seeds, E)."""
    runs = [dict(map(tuple, record[key])) for record in records]
    epochs = sorted(set.intersection(*map(set, runs))) if runs else []
    return np.array(epochs, int), np.array([[run[e] for e in epochs] for run in runs])


def label_lines(ax: Axes, height: float) -> None:
    """Write the names of the lines at their right ends, as close as they do not overlap."""
    lines = [line for line in ax.lines if not str(line.get_label()).startswith("_")]
    ends = [(line.get_xdata()[-1], line.get_ydata()[-1]) for line in lines]
    ax.set_ylim(ax.get_ylim())  # from here on it stays
    levels = (ax.transData + ax.transAxes.inverted()).transform(ends)[:, 1]
    order = np.argsort(levels)
    gap = min(1.35 * SMALL / (72 * (height - 0.8)), 1 / len(lines))
    steps = gap * np.arange(len(lines))
    places = isotonic_regression(levels[order] - steps, y_min=0, y_max=1 - steps[-1]) + steps
    for i, place in zip(order, places, strict=True):
        ax.annotate(
            str(lines[i].get_label()), ends[i], (1.05, place), textcoords="axes fraction",
            va="center", fontsize=SMALL, color=LINE, annotation_clip=False,
            arrowprops={
                "arrowstyle": "-", "color": lines[i].get_color(), "lw": 1.2,
                "relpos": (0, 0.5), "shrinkA": 2, "shrinkB": 0,
            },
        )  # fmt: skip


def against(
    scores: Mapping[str, Mapping[float, Sequence[float]]], xlabel: str, ylabel: str
) -> Figure:
    """A score against a setting whose values stand evenly spaced (Figure 6).

    Parameters
    ----------
    scores : mapping of str to mapping of float to sequence of float
        By method and by setting, one score a seed: each is a dot, and a line joins the means.
    xlabel, ylabel : str
    """
    settings = sorted({s for points in scores.values() for s, seeds in points.items() if seeds})
    figure = Figure((WIDTH * 0.75, 3.6), layout="constrained")
    ax = figure.subplots()
    for method, points in scores.items():
        colour = colours(scores)[method]
        done = {settings.index(s): seeds for s, seeds in sorted(points.items()) if seeds}
        if not done:
            continue
        ax.plot(list(done), [np.mean(seeds) for seeds in done.values()], color=colour, label=method)
        for x, seeds in done.items():
            ax.plot([x] * len(seeds), seeds, "o", color=colour, ms=5, alpha=0.7)
    ax.set_xticks(range(len(settings)), [f"{s:g}" for s in settings])
    ax.set(xlabel=xlabel, ylabel=ylabel)
    ax.grid(alpha=0.3)
    label_lines(ax, 3.6)
    return figure


def histograms(
    snapshots: Mapping[int, Mapping[str, NDArray[np.float32]]], wrong: NDArray[np.bool_]
) -> Figure:
    """Loss and similarity of right and of wrong labels, a row an epoch (Figure 7).

    Parameters
    ----------
    snapshots : mapping of int to mapping
        By epoch: ``loss`` and ``similarity`` of each sample, (N,).
    wrong : ndarray of bool of shape (N,)
    """
    figure = Figure((WIDTH, 2.8 * len(snapshots)), layout="constrained")
    axes = figure.subplots(len(snapshots), 2, squeeze=False, sharex="col")
    # a few very large losses would squeeze all others: they count in the last bar
    most = max(float(np.quantile(values["loss"], 0.995)) for values in snapshots.values())
    for row, (epoch, values) in zip(axes, snapshots.items(), strict=True):
        for ax, name, high in zip(row, ("loss", "similarity"), (most, 1.0), strict=True):
            edges = np.linspace(0, high, 41)
            for kind, colour, mask in (("right", RIGHT, ~wrong), ("wrong", WRONG, wrong)):
                x = np.clip(values[name][mask], 0, high)
                share = np.histogram(x, edges)[0] / len(wrong)
                ax.stairs(share, edges, fill=True, color=colour, alpha=0.35)
                ax.stairs(share, edges, color=colour, lw=1.5, label=f"{kind} labels")
            ax.set_title(f"{name} after epoch {epoch}", fontsize=SMALL + 1)
            ax.grid(alpha=0.3)
            ax.margins(x=0.01)
            ax.yaxis.set_major_formatter("{x:.0%}")
        row[0].set_ylabel("share of samples")
    for ax, name in zip(axes[-1], ("loss", "similarity S"), strict=True):
        ax.set_xlabel(name)
    axes[0, 1].legend(loc="upper center", frameon=False, fontsize=SMALL)
    return figure


def spread(weights: NDArray[np.float32], of: NDArray[np.intp], count: int) -> NDArray[np.intp]:
    """Pick `count` of the samples `of`, evenly from the lowest to the highest weight."""
    ranked = of[np.argsort(weights[of], kind="stable")]
    return ranked[np.unique(np.linspace(0, len(of) - 1, count).round().astype(int))]


def lowest(weights: NDArray[np.float32], of: NDArray[np.intp], count: int) -> NDArray[np.intp]:
    """Pick the `count` of the samples `of` that have the lowest weights."""
    return of[np.argsort(weights[of], kind="stable")][:count]


def faces(
    images: NDArray[np.uint8],
    given: NDArray[np.int64],
    true: NDArray[np.int64],
    weights: NDArray[np.float32],
    classes: Sequence[str],
    pick: Any = spread,
    columns: int = 8,
) -> Figure:
    """Images with their weights, a row a given label; wrong labels in red (Figures 3 and 4).

    Parameters
    ----------
    images : ndarray of shape (N, H, W, C), uint8
    given, true : ndarray of shape (N,)
    weights : ndarray of shape (N,)
        Probability that each given label is right.
    classes : sequence of str
    pick : callable, default=spread
        Which ones of a row to show: `spread` or `lowest`.
    columns : int, default=8
    """
    rows = [c for c in range(len(classes)) if (given == c).any()]
    figure = Figure((WIDTH, 1.45 * len(rows)), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.01, h_pad=0.02)
    axes = figure.subplots(len(rows), columns, squeeze=False)
    for row, c in zip(axes, rows, strict=True):
        row[0].set_ylabel(classes[c], fontsize=SMALL + 1)
        for ax in row:
            ax.set(xticks=[], yticks=[], frame_on=False)
        picked = pick(weights, np.flatnonzero(given == c), columns)
        for ax, i in zip(row, picked, strict=False):
            ax.imshow(images[i].squeeze(), cmap="gray", vmin=0, vmax=255)
            wrong = given[i] != true[i]
            text = f"{weights[i]:.2f}" + (f", is {classes[true[i]]}" if wrong else "")
            ax.set_xlabel(text, fontsize=SMALL - 1, color=WRONG if wrong else LINE, labelpad=2)
            if wrong:
                ax.set(frame_on=True)
                for spine in ax.spines.values():
                    spine.set(color=WRONG, linewidth=2)
    return figure
