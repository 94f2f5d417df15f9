"""The benchmarks that train small networks, cut down to seconds."""

import importlib
import json
import sys
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def benchmarks(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))


@pytest.mark.parametrize("name", ["few_samples", "many_classes"])
def test_a_row_for_each_noise(name, tmp_path, monkeypatch, capsys):
    script = importlib.import_module(name)
    monkeypatch.setattr(script, "EPOCHS", 2)
    flags = ["--seeds", "0", "1", "--out", str(out := tmp_path / "rows.json")]
    if name == "few_samples":
        monkeypatch.setattr(script, "SIZES", {100: 32})
        flags += ["--warmup", "1"]
    else:
        monkeypatch.setattr(script, "CLUSTERS", {4: (50, 8, 1.0)})
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *flags])
    script.main()
    head, _, *lines = capsys.readouterr().out.splitlines()
    rows = json.loads(out.read_text())["rows"]
    assert len(lines) == len(rows) == {"few_samples": 4, "many_classes": 3}[name]
    assert all(line.count("|") == head.count("|") for line in lines)
    for row in rows:
        for run in row["runs"]:
            assert (run["realised"] > 0.1) == (row["noise"] != "none")
