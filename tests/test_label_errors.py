"""The benchmark that looks for wrong human labels, on images made on the spot."""

import json
import pickle
import sys
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("cleanlab")

import label_errors


@pytest.fixture
def data(tmp_path, rng):
    """200 images of ten colours in CIFAR-10's layout, with human labels of which 40 are wrong."""
    folder = tmp_path / "data" / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    colours = rng.integers(40, 216, (10, 3, 1, 1))
    true = np.arange(200) % 10
    for name, labels in {
        **{f"data_batch_{i + 1}": true[40 * i : 40 * i + 40] for i in range(5)},
        "test_batch": true[:10],
    }.items():
        images = colours[labels] + rng.integers(-20, 20, (len(labels), 3, 32, 32))
        content = {b"data": images.astype(np.uint8).reshape(len(labels), -1)}
        (folder / name).write_bytes(pickle.dumps(content | {b"labels": labels.tolist()}))
    names = {b"label_names": [b"%d" % c for c in range(10)]}
    (folder / "batches.meta").write_bytes(pickle.dumps(names))
    worse = true.copy()
    wrong = rng.permutation(200)[:40]
    worse[wrong] = (true[wrong] + 1 + rng.integers(9, size=40)) % 10
    keys = dict.fromkeys(("aggre_label", "random_label1"), true) | {"worse_label": worse}
    np.savez(folder.parent / "CIFAR-10_human.npz", **keys)
    return folder.parent


@pytest.fixture
def run(data, tmp_path, monkeypatch):
    """Run the script, in small batches; what it has written, or None."""
    protocols = label_errors.cifar10.PROTOCOLS
    monkeypatch.setitem(protocols, "cpu", replace(protocols["cpu"], batch=20))

    def run(*arguments, epochs=4):
        label_errors.main(
            [
                *("--data", str(data), "--labels", "worst", "--size", "cpu"),
                *("--epochs", str(epochs), "--device", "cpu", "--dtype", "float32", "--seeds", "0"),
                *("--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "out"), *arguments),
            ]
        )
        path = tmp_path / "out" / f"label_errors-cpu-{epochs}-epochs-worst-float32-seed-0.json"
        return json.loads(path.read_text()) if path.exists() else None

    return run


@pytest.mark.slow
def test_finds_wrong_labels(run, monkeypatch, capsys):
    assert run("--only", "folds") is None
    assert "no numbers yet, resup.npz missing" in capsys.readouterr().out
    result = run("--only", "resup")
    rows = {row["method"]: row for row in result["results"]}
    assert len(rows) == 12
    assert result["samples"] == 200
    assert result["versions"]["cleanlab"]
    for name, row in rows.items():
        assert row["noise_rate"] == pytest.approx(0.2)
        assert row["auroc"] > 0.9, name
        assert row["average_precision"] > 0.85, name
        assert row["seconds"] > 0
        assert row["cpu_seconds"] > 0
    assert rows["resup, mean of epochs"]["seconds"] > rows["resup, last epoch"]["seconds"]
    table = capsys.readouterr().out
    for name, row in rows.items():
        assert f"| worst | 20.0% | {name} | {row['auroc']:.4f} |" in table

    def never(*_):
        raise AssertionError("trained again")

    monkeypatch.setattr(label_errors, "train_resup", never)
    monkeypatch.setattr(label_errors, "train_fold", never)
    assert run()["results"][0] == result["results"][0]


def test_one_side_is_rated_alone(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "cleanlab", None)  # as where it is not installed
    assert run("--only", "resup", epochs=2) is None
    (path,) = (tmp_path / "out").glob("*")
    assert path.name == "label_errors-cpu-2-epochs-worst-float32-seed-0-alone.json"
    rows = json.loads(path.read_text())["results"]
    assert [row["method"] for row in rows] == ["resup, last epoch", "resup, mean of epochs"]
    assert all(row["auroc"] > 0.5 for row in rows)


def test_a_table_of_several_seeds_has_means():
    common = {"labels": "worst", "noise_rate": 0.4, "method": "m", "average_precision": 0.5}
    rows = [
        common | {"seed": s, "auroc": a, "listed": [a, 1.0], "seconds": 100 * a, "cpu_seconds": 1.0}
        for s, a in ((0, 0.7), (4, 0.9))
    ]
    *_, line = label_errors.markdown(rows).splitlines()
    assert line.split(" | ")[3:5] == ["0.8000 ± 0.1414", "0.5000 ± 0.0000"]
    assert line.endswith("| – | – | – | – | 0.800 / 1.000 | 80 | 1 | 0 4 |")


def test_the_page_shows_the_record():
    """Every row but those of one score, which is in the record only, without the lists."""
    results = label_errors.ROOT / "benchmarks" / "results" / "label_errors-cpu.json"
    table = label_errors.markdown(json.loads(results.read_text())["results"]).splitlines()
    cells = [line.split(" | ") for line in table[2:] if "confidence_weighted_entropy" not in line]
    rows = [" | ".join(row[:8] + row[10:]) for row in cells]
    page = (label_errors.ROOT / "docs" / "results.md").read_text().splitlines()
    start = page.index("## Finding wrong labels, beside cleanlab")
    head = next(i for i in range(start, len(page)) if page[i].startswith("| labels |"))
    assert page[head + 2 : head + 2 + len(rows)] == rows


def test_each_image_is_predicted_by_the_fold_that_never_saw_it(run, monkeypatch):
    """What a fold predicts is not its own training set, and the folds cover all."""
    seen, tested, trained = [], [], []
    train_fold = label_errors.train_fold

    def spy(args, protocol, data, kept, held_out, seed):
        seen.append(kept)
        tested.append(held_out)
        if not trained:
            trained.append(train_fold(args, protocol, data, kept, held_out, seed))
        return trained[0]

    monkeypatch.setattr(label_errors, "train_fold", spy)
    run("--only", "folds", "--dtype", "bfloat16", epochs=2)
    assert sorted(np.concatenate(tested)) == list(range(200))
    for kept, held_out in zip(seen, tested, strict=True):
        assert len(kept) == 160
        assert not set(kept) & set(held_out)


def test_predictions_stand_at_their_own_rows(rng):
    """Probabilities that know the truth, in shuffled folds, make all of cleanlab's areas 1."""
    n = 300
    true = np.arange(n) % 3
    given, wrong = true.copy(), np.arange(n) < 60
    given[wrong] = (true[wrong] + 1) % 3
    probabilities = np.where(np.eye(3)[true], 0.9, 0.05)
    order = rng.permutation(n)
    seconds = {"seconds": np.array([2.0, 1.0]), "seconds_mean": np.array([3.0, 2.0])}
    folds = [
        {"held_out": rows, "last": probabilities[rows], "mean": probabilities[rows] / 2 + 1 / 6}
        | seconds
        for rows in np.split(order, 5)
    ]
    clean = {"last": 1.0 - wrong, "mean": np.linspace(0, 1, n)} | seconds
    rows = {row["method"]: row for row in label_errors.evaluate(wrong, clean, folds, given)}
    assert {name: row["auroc"] for name, row in rows.items()} == dict.fromkeys(rows, 1.0)
    assert rows["resup, last epoch"]["named"] == 60
    assert rows["resup, mean of epochs"]["precision"] == pytest.approx(60 / 150)
    assert rows["resup, last epoch"]["listed_falsely"] == [0, 0, 0]
    assert rows["resup, mean of epochs"]["listed_falsely"] == pytest.approx([0, 0, 20 / 80])
    assert rows["cleanlab, find_label_issues, last epoch"]["precision"] == 1
    assert rows["cleanlab, find_label_issues, mean of epochs"]["recall"] == 1
    assert rows["from_predictions, last epoch"]["named"] == 60
    assert rows["from_predictions, mean of epochs"]["listed_falsely"] == [0, 0, 0]
    assert rows["cleanlab, self_confidence, last epoch"]["seconds"] == pytest.approx(10, abs=1)
    assert rows["cleanlab, self_confidence, mean of epochs"]["seconds"] == pytest.approx(15, abs=1)
    assert "precision" not in rows["cleanlab, self_confidence, last epoch"]


def test_rank_of_named_labels():
    np.testing.assert_array_equal(label_errors.by_rank(np.array([3, 0]), 5), [1, 0, 0, 2, 0])


def test_trainings_of_other_labels_are_not_taken_for_these(run, data):
    flags = "--only", "resup", "--dtype", "float32"
    run(*flags, epochs=2)
    path = data / "CIFAR-10_human.npz"
    labels = dict(np.load(path))
    labels["worse_label"] = (labels["worse_label"] + 1) % 10
    np.savez(path, **labels)
    with pytest.raises(SystemExit, match=r"holds another run, whose labels is .*another --runs"):
        run(*flags, epochs=2)


def test_one_epoch_is_all_warm_up(run, capsys):
    with pytest.raises(SystemExit):
        run(epochs=1)
    assert "--epochs must be at least 2" in capsys.readouterr().err
