"""The benchmarks that train small networks, cut down to seconds."""

import importlib
import json
import sys
import warnings

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from small_trainings import network, trainer_of
from torch.utils.data import DataLoader, TensorDataset


@pytest.mark.filterwarnings("ignore:network . tells given labels from others hardly")
@pytest.mark.parametrize("name", ["few_samples", "many_classes", "rare_classes", "tables"])
def test_a_row_for_each_noise(name, tmp_path, monkeypatch, capsys):
    script = importlib.import_module(name)
    monkeypatch.setattr(script, "EPOCHS", 2)
    flags = ["--seeds", "0", "1", "--out", str(out := tmp_path / "new" / "rows.json")]
    if name == "few_samples":
        monkeypatch.setattr(script, "SIZES", {100: 32})
        flags += ["--warmup", "1"]
    elif name == "many_classes":
        monkeypatch.setattr(script, "CLUSTERS", {4: (50, 8, 1.0)})
    elif name == "tables":
        monkeypatch.setattr(script, "TABLES", {"rare": (300, 0.1), "three": (300, None)})
        monkeypatch.setattr(script, "RATES", [0.0, 0.2])
    else:
        monkeypatch.setattr(script, "RATIOS", [20])
        sizes = script.sizes
        monkeypatch.setattr(script, "sizes", lambda _, ratio: sizes(100, ratio))
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *flags])
    script.main()
    head, _, *lines = capsys.readouterr().out.splitlines()
    rows = json.loads(out.read_text())["rows"]
    assert len(lines) == len(rows) == (3 if name == "many_classes" else 4)
    assert all(line.count("|") == head.count("|") for line in lines)
    for row in rows:
        for run in row["runs"]:
            noisy = row["rate"] > 0 if name == "tables" else row["noise"] != "none"
            assert (run["realised"] > 0.1) == noisy


def test_rare_classes_are_learnt_from_few_samples(monkeypatch):
    """Clean digits, 10 to 1: labels of classes that are learnt late used to lose their weight."""
    script = importlib.import_module("rare_classes")
    monkeypatch.setattr(script, "METHODS", ("plain", "resup"))
    records = [script.run(script.digits, 10, script.NOISES["none"], seed) for seed in (0, 1)]
    plain, resup = (np.mean([r[name]["classes"] for r in records]) for name in ("plain", "resup"))
    assert resup > plain - 0.04  # it was 0.27 lower


@pytest.mark.parametrize("share", [0.0, 0.3])
def test_wrong_labels_of_samples_of_no_class_are_told(share):
    """They are not among the surest predictions, which say that no label is wrong."""
    x, y = load_digits(return_X_y=True)
    x, labels = torch.tensor(x / 16).float(), torch.tensor(y)
    torch.manual_seed(0)
    if share:
        labels = torch.where(labels < 7, labels, torch.randint(7, labels.shape))
    pair = network(64, 10), network(64, 10)
    loader = DataLoader(TensorDataset(x, labels), 64, shuffle=True)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        trainer_of(pair, 1).fit(loader, 5)
    names = [str(w.message).split(" finds")[0] for w in told]
    assert names == (["the mixture of network A", "the mixture of network B"] if share else [])


def test_lists_of_the_page_on_wrong_labels(tmp_path, monkeypatch, capsys):
    script = importlib.import_module("suspect_lists")
    monkeypatch.setattr(script, "RATES", (0.3,))
    out = tmp_path / "rows.json"
    monkeypatch.setattr(sys, "argv", ["suspect_lists.py", "--seeds", "0", "--out", str(out)])
    script.main()
    head, _, line = capsys.readouterr().out.splitlines()
    assert line.count("|") == head.count("|")
    (run,) = json.loads(out.read_text())["rows"][0]["runs"]
    assert run["wrong"] == pytest.approx(0.3 * 1400, abs=20)
    assert run["found"] == pytest.approx(0.3, abs=0.05)
    assert run["top"] > 0.95
    length, right = run["lists"]["fitted, 0.1"]
    assert length > 250
    assert right <= 0.1 * length


def test_predictions_beside_cleanlab(tmp_path, monkeypatch, capsys):
    pytest.importorskip("cleanlab")
    script = importlib.import_module("predictions")
    monkeypatch.setattr(script, "MADE", {"3 classes": (3, 2.0)})
    for kind in ("forest", "logistic regression"):
        monkeypatch.delitem(script.CLASSIFIERS, kind)
    out = tmp_path / "rows.json"
    monkeypatch.setattr(sys, "argv", ["predictions.py", "--seeds", "0", "--out", str(out)])
    script.main()
    head, _, *lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 * len(script.NOISES)
    assert all(line.count("|") == head.count("|") for line in lines)
    for row in json.loads(out.read_text())["rows"]:
        [run] = row["runs"]
        if script.NOISES[row["noise"]] is None:
            assert run["wrong"] == 0
        else:
            assert run["resup"]["auroc"] > 0.85
            assert min(run["cleanlab"]["auroc"]) > 0.85
            assert run["wrong"] == pytest.approx(script.NOISES[row["noise"]][1], abs=0.03)


def test_times_are_written_into_a_new_folder(tmp_path, monkeypatch):
    script = importlib.import_module("step_overhead")
    for name in ("keep_memory", "show"):
        monkeypatch.setattr(script, name, lambda *_: None)
    monkeypatch.setattr(script, "compare_loss", lambda *_: {})
    monkeypatch.setattr(script, "compare_epochs", lambda network, _: {"network": network})
    out = tmp_path / "new" / "times.json"
    monkeypatch.setattr(sys, "argv", ["step_overhead.py", "--networks", "cnn7", "--out", str(out)])
    script.main()
    assert json.loads(out.read_text())["epochs"] == [{"network": "cnn7"}]
