"""Figures of the paper from records and files, and `reproduce.py --figure` on a few images."""

import json
import sys
from argparse import Namespace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("matplotlib")

import reproduce
from matplotlib.image import imread
from matplotlib.text import Text
from paper import figures, published


def record(score, epochs=6, rate=0.3, **more):
    accuracy = [[e, score - 10 / e] for e in range(1, epochs + 1)]
    noise = [[e, rate + 0.1 / e] for e in range(1, epochs + 1)]
    return {
        "score": score,
        "rate": rate,
        "accuracy_by_epoch": accuracy,
        "noise_found_by_epoch": noise,
        "realised_rate": rate,
        "protocol": {"network": "cnn7", "options": {}, "epochs": epochs, "batch": 96, "last": 5},
        "size": "cpu",
        "dtype": "bfloat16",
        **more,
    }


def texts(ax):
    return [text.get_text() for text in ax.texts]


# ---------------------------------------------------------------------------- curves


def test_a_line_is_the_mean_over_the_seeds():
    panels = {"one": {"plain": [record(60), record(70)], "resup": [record(80)], "loss": []}}
    (ax,) = figures.curves(panels, "accuracy_by_epoch", "accuracy").axes
    assert sorted(texts(ax)) == ["plain", "resup"]
    line = ax.lines[0]
    np.testing.assert_array_equal(line.get_xdata(), np.arange(1, 7))
    np.testing.assert_allclose(line.get_ydata(), 65 - 10 / np.arange(1, 7))
    assert ax.lines[1].get_color() == figures.colours(["resup"])["resup"]


def test_methods_keep_their_colours():
    few, many = figures.colours(["resup", "loss"]), figures.colours(["plain", "loss", "resup"])
    assert few["resup"] == many["resup"]
    assert len(set(many.values())) == 3
    assert set(figures.colours([str(i) for i in range(9)]).values()) == set(figures.COLOURS)


def test_panels_without_lines_are_left_out():
    """And so are methods that have one value only, such as the noise that plain training finds."""
    panels = {
        "empty": {"plain": [], "resup": []},
        "one value": {"plain": [record(60, epochs=1)], "resup": []},
        "full": {"plain": [record(60, epochs=1)], "resup": [record(80, rate=0.2)]},
    }
    figure = figures.curves(panels, "noise_found_by_epoch", "noise", truth="realised_rate")
    (ax,) = figure.axes
    assert ax.get_title() == "full"
    assert sorted(texts(ax)) == ["resup", "truth"]
    truth = next(line for line in ax.lines if line.get_label() == "truth")
    assert truth.get_ydata()[0] == pytest.approx((0.3 + 0.2) / 2)
    del panels["full"]
    with pytest.raises(ValueError, match="no record has noise_found_by_epoch of two epochs"):
        figures.curves(panels, "noise_found_by_epoch", "noise")


def test_epochs_that_all_seeds_have():
    short = {"key": [[2, 1.0], [4, 2.0], [5, 3.0]]}
    long = {"key": [[1, 0.0], [2, 3.0], [4, 4.0], [6, 5.0]]}
    epochs, values = figures.by_epoch([short, long], "key")
    assert epochs.tolist() == [2, 4]
    assert values.tolist() == [[1, 2], [3, 4]]


def test_names_do_not_overlap_and_keep_the_order_of_the_lines():
    """Nine lines that end in nearly the same place, at the top of the panel."""
    scores = dict(zip("abcdefghi", [90, 90.2, 90.1, 89.9, 90, 20, 90.3, 90, 90], strict=True))
    panels = {"one": {name: [record(score)] for name, score in scores.items()}}
    figure = figures.curves(panels, "accuracy_by_epoch", "accuracy")
    figure.draw_without_rendering()
    (ax,) = figure.axes
    names = sorted(ax.texts, key=lambda name: Text.get_window_extent(name).y0)
    boxes = [Text.get_window_extent(name) for name in names]
    assert all(low.y0 + 0.8 * low.height < high.y0 for low, high in pairwise(boxes))
    assert [scores[name.get_text()] for name in names] == sorted(scores.values())
    assert boxes[-1].y1 <= figure.bbox.y1
    assert max(box.x1 for box in boxes) <= figure.bbox.x1


# ---------------------------------------------------------------------------- the others


def test_score_against_a_setting():
    scores = {"resup": {5.0: [81, 83], 0.0: [80], 20.0: []}}
    (ax,) = figures.against(scores, "λ", "accuracy").axes
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["0", "5"]
    np.testing.assert_array_equal(ax.lines[0].get_ydata(), [80, 82])
    dots = [y for line in ax.lines[1:] for y in line.get_ydata()]
    assert dots == [80, 81, 83]


def test_histograms_hold_every_sample(rng):
    wrong = np.arange(1000) < 300
    epochs = {
        epoch: {"loss": rng.exponential(size=1000), "similarity": rng.random(1000)}
        for epoch in (1, 7)
    }
    figure = figures.histograms(epochs, wrong)
    assert [ax.get_title() for ax in figure.axes] == [
        f"{name} after epoch {epoch}" for epoch in (1, 7) for name in ("loss", "similarity")
    ]
    for ax in figure.axes:
        lines = [patch for patch in ax.patches if not patch.get_fill()]
        assert [line.get_data().values.sum() for line in lines] == pytest.approx([0.7, 0.3])


def test_faces_picked_by_weight():
    weights = np.array([0.9, 0.1, 0.5, 0.3, 0.7], np.float32)
    of = np.array([0, 1, 2, 4])
    assert figures.spread(weights, of, 3).tolist() == [1, 4, 0]
    assert figures.spread(weights, of, 9).tolist() == [1, 2, 4, 0]
    assert figures.lowest(weights, of, 2).tolist() == [1, 2]


def test_faces_say_what_is_wrong(rng):
    images = rng.integers(256, size=(6, 8, 8, 1)).astype(np.uint8)
    given, true = np.array([0, 0, 0, 2, 2, 2]), np.array([0, 1, 0, 2, 2, 2])
    weights = np.array([0.8, 0.25, 0.4, 0.9, 0.9, 0.9], np.float32)
    figure = figures.faces(images, given, true, weights, ("calm", "sad", "glad"), columns=4)
    labels = [ax.get_xlabel() for ax in figure.axes]
    assert labels == ["0.25, is sad", "0.40", "0.80", "", "0.90", "0.90", "0.90", ""]
    assert [ax.get_ylabel() for ax in figure.axes[::4]] == ["calm", "glad"]
    np.testing.assert_array_equal(figure.axes[0].images[0].get_array(), images[1, ..., 0])


# ---------------------------------------------------------------------------- reproduce.py


@pytest.fixture
def reproduced(tmp_path, monkeypatch, capsys):
    """Run `reproduce.py --print` on the folders of `tmp_path`; the picture it names."""
    monkeypatch.setattr(figures, "DPI", 50)

    def run(*arguments, folders=("runs", "results", "out"), size="cpu"):
        folders = [part for name in folders for part in (f"--{name}", tmp_path / name)]
        given = "--print", "--size", size, "--dtype", "bfloat16", *folders
        command = ["reproduce.py", *given, *arguments]
        monkeypatch.setattr(sys, "argv", [str(part) for part in command])
        reproduce.main()
        return capsys.readouterr().out.splitlines()[-1]

    return run


def store(folder, table, **more):
    """Records of all cells of a table."""
    (folder / "results").mkdir()
    for column in table.columns:
        with (folder / "results" / f"{column.dataset}-cpu.jsonl").open("a") as file:
            for i, method in enumerate(table.rows):
                wanted = column.wanted() | {"method": method, "seed": 0}
                file.write(json.dumps(record(70 + i, **wanted, **more)) + "\n")


@pytest.mark.parametrize("name", ["5", "6", "accuracy", "noise"])
def test_figures_from_results(name, reproduced, tmp_path):
    store(tmp_path, published.FIGURES[name])
    path = tmp_path / "out" / f"figure-{name}-cpu.png"
    assert reproduced("--figure", name) == str(path)
    picture = imread(path)
    assert picture.shape[1] >= 330
    assert picture[..., :3].std() > 0.05


def test_figure_from_the_files_of_a_run(reproduced, tmp_path, rng):
    table = published.FIGURES["7"]
    store(tmp_path, table)
    with pytest.raises(SystemExit, match=r"labels\.npz is missing: the figure needs this run"):
        reproduced("--figure", "7")
    run = tmp_path / "runs" / "ferplus-ferplus_30%-plain-0-cpu"
    run.mkdir(parents=True)
    np.savez(run / "labels.npz", given=np.arange(50) % 8, true=np.arange(50) % 7)
    for epoch in (1, 7):
        np.savez(run / f"epoch{epoch}.npz", loss=rng.random(50), similarity=rng.random(50))
    assert reproduced("--figure", "7") == str(tmp_path / "out" / "figure-7-cpu.png")


def test_a_run_whose_files_are_gone_is_made_again(tmp_path, monkeypatch):
    """For a figure that is drawn from them, though its result is there."""
    table, made = published.FIGURES["7"], []
    store(tmp_path, table)
    folder = tmp_path / "runs" / "ferplus-ferplus_30%-plain-0-cpu"
    folder.mkdir(parents=True)
    (folder / "result.json").touch()

    class Run:
        def __init__(self, command, **_):
            made.append(Path(command[command.index("--out") + 1]))
            assert not (made[-1] / "result.json").exists()  # else the script does nothing
            (made[-1] / "result.json").write_text('{"score": 70}\n')
            for name in ("labels", "epoch1", "epoch7"):
                (made[-1] / f"{name}.npz").touch()

        def wait(self):
            return 0

    monkeypatch.setattr(reproduce.subprocess, "Popen", Run)
    runs = {"runs": tmp_path / "runs", "data": tmp_path, "compile": False}
    args = Namespace(figure="7", seeds=[0], size="cpu", epochs=None, samples=None, jobs=1, **runs)
    args.dtype = "bfloat16"
    results = reproduce.Results(tmp_path / "results", "cpu")
    for _ in range(2):
        assert reproduce.run_all(args, table, results)
    assert made == [folder]
    assert len(results.read("ferplus")) == 1


def test_faces_stay_out_of_the_repository(reproduced, tmp_path, rng, monkeypatch, capsys):
    """Their pictures go to the folder of the runs, and to no other."""
    import fer
    from paper.datasets import FERPLUS_CLASSES, Dataset, Split

    images, labels = rng.integers(256, size=(40, 48, 48, 1)).astype(np.uint8), np.arange(40) % 8
    split = Split(images, labels)
    asked = []

    def ferplus(root, size):
        asked.append((root, size))
        return Dataset(split, split, FERPLUS_CLASSES)

    monkeypatch.setitem(fer.DATASETS, "ferplus", ferplus)
    store(tmp_path, published.FIGURES["3"])
    run = tmp_path / "runs" / "ferplus-ferplus_30%-resup-0-cpu"
    run.mkdir(parents=True)
    clean = rng.random(40, np.float32)
    np.savez(run / "labels.npz", given=labels, true=labels, clean_probability=clean)
    with pytest.raises(SystemExit):
        reproduced("--figure", "3", "--data", tmp_path / "data")
    assert "--out is not for figure 3, whose faces may not be passed on" in capsys.readouterr().err
    path = reproduced("--figure", "3", "--data", tmp_path / "data", folders=("runs", "results"))
    assert path == str(tmp_path / "runs" / "figure-3-cpu.png")
    assert imread(path).std() > 0.05
    assert not (tmp_path / "out").exists()
    assert asked == [(tmp_path / "data" / "ferplus", 48)]


def test_faces_need_a_method_that_judges_labels(reproduced, tmp_path):
    run = tmp_path / "runs" / "ferplus-ferplus_30%-jocor-0-cpu"
    run.mkdir(parents=True)
    np.savez(run / "labels.npz", given=np.arange(5), true=np.arange(5))
    store(tmp_path, published.FIGURES["3"].only(["jocor"], None))
    flags = "--figure", "3", "--methods", "jocor", "--data", tmp_path
    with pytest.raises(SystemExit, match="figure 3 needs a method that judges labels, not jocor"):
        reproduced(*flags, folders=("runs", "results"))


def test_a_record_that_was_not_written_whole_is_named(reproduced, tmp_path):
    store(tmp_path, published.FIGURES["5"])
    with (tmp_path / "results" / "ferplus-cpu.jsonl").open("a") as file:
        file.write('{"dataset": "ferp')
    with pytest.raises(SystemExit, match=r"ferplus-cpu\.jsonl, line \d+ is no record: delete it"):
        reproduced("--figure", "5")


def test_nothing_done_yet(reproduced):
    with pytest.raises(SystemExit, match="no run of figure 5 is done"):
        reproduced("--figure", "5")


def test_runs_of_other_sizes_are_told(reproduced, tmp_path):
    store(tmp_path, published.FIGURES["5"])
    results = tmp_path / "results"
    there = "--size cpu --dtype bfloat16"
    with pytest.raises(SystemExit, match=f"with --size paper .*: there are runs with {there}$"):
        reproduced("--figure", "5", size="paper")
    trial = results / "ferplus-cpu-9-epochs-80-samples-float32.jsonl"
    (results / "ferplus-cpu.jsonl").rename(trial)
    (results / "ferplus-rafdb-paper.jsonl").write_text("not of FERPlus")
    there = "--size cpu --epochs 9 --samples 80 --dtype float32"
    with pytest.raises(SystemExit, match=f"with --size cpu .*: there are runs with {there}$"):
        reproduced("--figure", "5")
    assert reproduced("--table", "2").endswith(f"there are runs with {there}")


def test_a_table_names_its_protocols(reproduced, tmp_path):
    table = published.TABLES["3"]
    store(tmp_path, table)
    assert reproduced("--table", "3") == (
        "affectnet, --size cpu: cnn7, all images, 6 epochs in batches of 96, mean of the last 5, "
        "bfloat16"
    )
    own = record(70)["protocol"] | {"samples": 10_000, "options": {"width": 32}}
    made = record(70, dataset="rafdb", protocol=own)
    start = "rafdb, --size cpu: "
    line = reproduce.protocol(made)
    assert line.startswith(f"{start}cnn7 (width 32), the first 10,000 images, ")
    line = reproduce.protocol(made | {"network": "resnet18"})
    assert line.startswith(f"{start}resnet18, the first")


def test_figures_are_of_known_methods():
    for name, table in published.FIGURES.items():
        assert set(table.rows) <= set(reproduce.METHODS), name
        assert len({column.name for column in table.columns}) == len(table.columns), name
