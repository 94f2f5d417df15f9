from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from resup import BetaMixture, SimilarityHistogram
from resup.plotting import (
    plot_history,
    plot_mixture,
    plot_probability,
    plot_suspects,
    plot_weights,
)


@pytest.fixture(autouse=True)
def _figures():
    plt.switch_backend("Agg")
    yield
    plt.close("all")


def test_mixture(rng):
    s = np.concatenate([rng.beta(1, 6, 300), rng.beta(6, 1, 700)])
    mixture = BetaMixture().fit(s)
    ax = plot_mixture(mixture, s)
    assert ax is plt.gcf().axes[0]
    heights = sum(patch.get_height() for patch in ax.patches)
    assert heights == pytest.approx(1)
    assert (ax.get_xlabel(), ax.get_yscale()) == ("similarity S", "log")
    other = plt.figure().add_subplot()
    assert plot_mixture(mixture, SimilarityHistogram().update(s), ax=other) is other is plt.gca()
    left, right = plt.subplots(1, 2)[1]
    plt.sca(right)
    plot_mixture(mixture, s, ax=left)
    assert plt.gca() is right


@pytest.mark.parametrize("bins", [50, 100])
def test_bars_of_an_even_density_are_even(bins):
    s = (np.arange(100_000) + 0.5) / 100_000
    ax = plot_mixture(BetaMixture(n_components=1).fit(s), s, bins=bins)
    heights = [patch.get_height() for patch in ax.patches[:bins]]  # all are judged right
    np.testing.assert_allclose(heights, 1 / bins, rtol=0.02)


@pytest.mark.parametrize("weight", [1e-300, 1e-3, 7.0, 1e300])
def test_the_scale_of_weights_does_not_move_the_axis(rng, weight):
    s = rng.random(1000)
    mixture = BetaMixture().fit(s)
    limits = [
        plot_mixture(mixture, SimilarityHistogram().update(s, w + 0 * s), ax=ax).get_ylim()
        for w, ax in zip((1.0, weight), plt.subplots(2)[1], strict=True)
    ]
    assert limits[0][0] == pytest.approx(0.5 / 1000)
    assert limits[1] == pytest.approx(limits[0])


def test_one_heavy_sample_is_drawn_upright():
    s = np.r_[np.linspace(0.1, 0.9, 9), 0.5]
    ax = plot_mixture(BetaMixture().fit(s), SimilarityHistogram().update(s, [1e-30] * 9 + [1.0]))
    low, high = ax.get_ylim()
    assert 1e-7 < low < 1 < high


def test_weights(rng):
    w = rng.random(100)
    assert sum(p.get_height() for p in plot_weights(w).patches) == 100
    assert len(plot_weights(w, ax=plt.figure().add_subplot(), bins=7).patches) == 7
    ax = plot_weights(w, w > 0.5, ax=plt.figure().add_subplot())
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["wrong labels", "right labels"]


def test_the_legend_of_weights_lies_above_the_bars():
    w = (np.arange(1000) + 0.5) / 1000
    ax = plot_weights(w, np.arange(1000) % 3 > 0)
    ax.figure.draw_without_rendering()
    top = max(patch.get_window_extent().y1 for patch in ax.patches)
    assert top < ax.get_legend().get_window_extent().y0


def test_history():
    history = [
        {"epoch": 1},
        {"epoch": 2, "val_accuracy_a": 0.5},
        {"epoch": 3, "val_accuracy_a": 0.6},
    ]
    ax = plot_history({"one": history, "two": history})
    np.testing.assert_array_equal(ax.lines[0].get_xdata(), [2, 3])
    np.testing.assert_array_equal(ax.lines[1].get_ydata(), [0.5, 0.6])


def test_probability():
    right = np.arange(100) >= 30
    probability = [np.where(right, 0.6, 0.5), np.where(right, 0.9, 0.2)]
    for truth, words in ((right, "labels"), (None, "judged")):
        left, _ = plt.subplots(1, 2)[1]
        ax = plot_probability([2, 3], probability, truth, ax=left)
        assert ax is left
        wrong_line, right_line = ax.lines
        np.testing.assert_array_equal(wrong_line.get_xdata(), [2, 3])
        np.testing.assert_allclose(wrong_line.get_ydata(), [0.5, 0.2])
        np.testing.assert_allclose(right_line.get_ydata(), [0.6, 0.9])
        assert words in wrong_line.get_label()
        assert "(30)" in wrong_line.get_label()
        assert len(ax.collections) == 2
    ax = plot_probability([1], np.ones((1, 5)), ax=plt.figure().add_subplot())
    assert [line.get_marker() for line in ax.lines] == ["o"]
    assert all(tick == round(tick) for tick in ax.get_xticks())


@pytest.mark.parametrize(
    ("epochs", "probability", "right", "message"),
    [
        ([], np.empty((0, 0)), None, r"probability must have shape \(E, N\)"),
        ([1], np.ones(5), None, r"got \(5,\) and \(1,\) epochs"),
        ([1, 2], np.ones((1, 5)), None, r"got \(1, 5\) and \(2,\) epochs"),
        ([1], np.ones((1, 5)), np.ones(4), r"right must have shape \(5,\), got \(4,\)"),
        ([1], np.ones((1, 5)), np.arange(5), r"right must be bool, such as given == true, got int"),
    ],
)
def test_bad_probability(epochs, probability, right, message):
    with pytest.raises(ValueError, match=message):
        plot_probability(epochs, probability, right)


@pytest.mark.parametrize("shape", [(20, 8, 8), (20, 8, 8, 3)])
def test_suspects(rng, shape):
    weights = rng.random(20)
    weights[19] = 0  # the one wrong label
    labels = np.arange(20)
    axes = plot_suspects(rng.random(shape), labels, weights, true=labels % 19, count=6)
    assert axes.shape == (6,)
    first = np.argmin(weights)
    assert axes[0].get_title().startswith(f"given {first}, is {first % 19}")
    assert axes[0].title.get_color() not in {ax.title.get_color() for ax in axes[1:]}
    names = labels.astype(str)
    axes = plot_suspects(rng.random(shape), names, weights, true=names[labels % 19])
    assert axes[0].get_title().startswith(f"given {first}\nis {first % 19}\n")


@pytest.mark.parametrize("names", [["lawn_mower", "American Staffordshire terrier"], [1234, 5678]])
def test_titles_of_suspects_do_not_overlap(rng, names):
    given, true = np.array(names)[np.arange(20) % 2], np.array(names)[np.arange(20) % 3 % 2]
    axes = plot_suspects(rng.random((20, 8, 8)), given, rng.random(20), true=true)
    plt.gcf().draw_without_rendering()
    for row in (axes[:8], axes[8:]):
        boxes = [ax.title.get_window_extent() for ax in row]
        assert all(left.x1 < right.x0 for left, right in pairwise(boxes))


@pytest.mark.parametrize("count", [1, 5, 15])
def test_as_many_suspects_as_asked_for(rng, count):
    images, labels, weights = rng.random((20, 8, 8)), np.arange(20), rng.random(20)
    assert len(plot_suspects(images, labels, weights, count=count)) == count
    assert sum(bool(ax.get_title()) for ax in plt.gcf().axes) == count


def test_fewer_suspects_than_asked_for(rng):
    plot_suspects(rng.random((3, 8, 8)), np.arange(3), rng.random(3))
    assert not any(ax.axison for ax in plt.gcf().axes)
    ax = plt.figure().subplots()
    assert plot_suspects(rng.random((3, 8, 8)), np.arange(3), rng.random(3), axes=ax)[0] is ax


@pytest.mark.parametrize("kind", [np.asarray, np.ravel, list, lambda grid: iter(grid.flat)])
def test_suspects_in_a_grid(rng, kind):
    grid = plt.subplots(2, 2)[1]
    shown = plot_suspects(rng.random((9, 8, 8)), np.arange(9), rng.random(9), axes=kind(grid))
    assert shown.tolist() == grid.ravel().tolist()
    assert all(ax.get_title() for ax in shown)


def test_bad_input(rng):
    mixture = BetaMixture().fit(rng.random(50))
    images, labels, w = rng.random((20, 8, 8)), np.arange(20), rng.random(20)
    for plot, message in (
        (lambda: plot_mixture(mixture, []), "similarities must hold at least one sample"),
        (lambda: plot_weights([0.5, np.nan]), "weights must not contain NaN, got 1"),
        (lambda: plot_weights([]), "weights must hold at least one sample"),
        (lambda: plot_weights(w, labels[:3] > 1), r"right must have shape \(20,\), got \(3,\)"),
        (
            lambda: plot_history({"a": [{"epoch": 1, "loss": 2.0}]}),
            "key must be one of epoch, loss",
        ),
        (lambda: plot_history([{"epoch": 1}]), "histories must map names to histories"),
        (
            lambda: plot_history({"a": pd.DataFrame({"epoch": [1]})}),
            "histories must map names to histories with records, got {'a': 'DataFrame'}",
        ),
        (lambda: plot_history({}), "histories must map names to histories with records, got {}"),
        (
            lambda: plot_suspects(images[:, None], labels, w),
            r"images must have shape \(N, H, W\) or \(N, H, W, 3\), got \(20, 1, 8, 8\)",
        ),
        (
            lambda: plot_probability([1, 2], np.full((2, 3), 7.0)),
            r"probability must lie in \[0, 1\], got values from 7 to 7",
        ),
        (lambda: plot_suspects(images[:5], labels, w), "images must have 20 rows, got 5"),
        (lambda: plot_weights(w, labels), "right must be bool, such as given == true, got int64"),
        (lambda: plot_weights(w, bins=0), "bins must be an integer of at least 1, got 0"),
        (
            lambda: plot_suspects(images, labels, w, count=0),
            "count must be an integer of at least 1, got 0",
        ),
        (
            lambda: plot_suspects(images, labels, clean_probability=w * np.nan),
            "clean_probability must not contain NaN",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            plot()
    assert not plt.get_fignums()
