"""Recording similarities, and how near the mixtures come to the truth on them."""

import json
import sys

import numpy as np
import posterior_quality
import pytest
import record

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    "run", ["digits_symm40_1", "digits_worst", "mnist_sym40", "digits", "digits_sym40_x"]
)
def test_a_recording_of_another_name_is_refused(run):
    with pytest.raises(SystemExit, match=f"DATA_NOISE_SEED, got '{run}'"):
        record.record(run, None)


@pytest.mark.parametrize(
    ("run", "seed", "rate", "next_only"),
    [("digits_sym40", 8652, 0.4, False), ("digits_pair30_5", 5, 0.3, True)],
)
def test_a_recording_holds_what_its_name_says(run, seed, rate, next_only, monkeypatch, capsys):
    monkeypatch.setitem(record.EPOCHS, "digits", 1)
    recorded = record.record(run, None)
    assert f"seed {seed}," in capsys.readouterr().out
    assert recorded["logits"].shape == (1, 1797, 10)
    assert recorded["similarity"].shape == recorded["decoy"].shape == (1, 1797)
    _, true = record.images_and_labels("digits", None)
    step = (recorded["label"] - true) % 10
    np.testing.assert_array_equal(recorded["wrong"], step != 0)
    assert recorded["wrong"].mean() == pytest.approx(rate, abs=0.04)
    assert set(step) == ({0, 1} if next_only else set(range(10)))
    assert recorded["similarity"][0][~recorded["wrong"]].mean() > recorded["decoy"].mean() + 0.2


def test_scores_of_a_recording(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(record.EPOCHS, "digits", 2)
    np.savez(tmp_path / "digits_sym40.npz", **record.record("digits_sym40", None))
    out = tmp_path / "new" / "out.json"
    command = ["posterior_quality.py", str(tmp_path), "--methods", "Mixture", "itself"]
    monkeypatch.setattr(sys, "argv", [*command, "--out", str(out)])
    posterior_quality.main()
    assert "| **DecoyMixture** |" in capsys.readouterr().out
    scores = {
        name: runs["digits_sym40"]
        for name, runs in json.loads(out.read_text())["excess_brier"].items()
    }
    assert all(score > -1e-4 for epochs in scores.values() for score in epochs)
    assert max(scores["**DecoyMixture**"]) < 0.05
