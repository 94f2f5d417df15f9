"""Runs, and tables of runs, on data sets of a few images made on the spot."""

import importlib
import json
import pickle
import signal
import subprocess
import sys
import time
from argparse import ArgumentParser, Namespace
from functools import partial
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from paper import methods, networks, published, run
from paper.datasets import Dataset, Split

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture
def cifar(tmp_path, rng):
    """CIFAR-10 in its publisher's layout: 5 × 40 and 60 images, each class a colour."""
    folder = tmp_path / "data" / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    names = [f"data_batch_{i}" for i in range(1, 6)]
    for name, n in [(name, 40) for name in names] + [("test_batch", 60)]:
        labels = rng.integers(10, size=n)
        images = np.full((n, 3, 32, 32), 25, np.uint8) * labels[:, None, None, None]
        images = (images + rng.integers(20, size=images.shape)).astype(np.uint8)
        content = {b"data": images.reshape(n, -1), b"labels": labels.tolist()}
        (folder / name).write_bytes(pickle.dumps(content))
    meta = {b"label_names": [f"class {c}".encode() for c in range(10)]}
    (folder / "batches.meta").write_bytes(pickle.dumps(meta))
    return folder.parent


def script(name, *arguments):
    command = [sys.executable, str(EXAMPLES / name), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


SMALL = "--size", "cpu", "--epochs", "3", "--dtype", "float32", "--device", "cpu"


def test_human_labels_of_cifar100(tmp_path, rng, monkeypatch):
    import cifar10

    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    (folder / "meta").write_bytes(pickle.dumps({b"fine_label_names": [b"class"] * 100}))
    true = np.arange(200) % 100
    for name in ("train", "test"):
        content = {
            b"data": rng.integers(256, size=(200, 3072), dtype=np.uint8),
            b"fine_labels": true.tolist(),
        }
        (folder / name).write_bytes(pickle.dumps(content))
    given = np.where(np.arange(200) < 80, (true + 1) % 100, true)
    np.savez(tmp_path / "CIFAR-100_human.npz", noisy_label=given)
    flags = ["--data", tmp_path, "--dataset", "cifar100", "--noise", "noisy", "--out", tmp_path]
    monkeypatch.setattr(sys, "argv", ["cifar10.py", *map(str, flags), *SMALL])
    cifar10.main()
    record = json.loads((tmp_path / "result.json").read_text())
    assert (record["dataset"], record["noise"]) == ("cifar100", "noisy")
    assert record["realised_rate"] == pytest.approx(0.4)


@pytest.mark.parametrize("kind", ["npz", "npy"])
def test_human_labels_are_found(kind, tmp_path):
    import cifar10

    given = {"worse_label": np.array([3, 1])}
    path = tmp_path / f"CIFAR-10_human.{kind}"
    np.savez(path, **given) if kind == "npz" else np.save(path, given)
    assert cifar10.human_labels(tmp_path, "worst", np.array([0, 1])).tolist() == [3, 1]


@pytest.mark.slow
def test_a_run_goes_on_where_it_was_broken_off(cifar, tmp_path):
    def arguments(out, *extra):
        return "--data", cifar, "--rate", "0.3", "--out", tmp_path / out, *SMALL, *extra

    def start(out):
        done = script("cifar10.py", *arguments(out))
        assert done.returncode == 0, done.stderr
        return json.loads((tmp_path / out / "result.json").read_text())

    whole = start("whole")
    assert whole["method"] == "resup"
    assert whole["realised_rate"] == pytest.approx(0.3, abs=0.1)
    assert whole["score"] == pytest.approx(
        np.mean([a for _, a in whole["accuracy_by_epoch"]]), abs=0.005
    )
    lines = (tmp_path / "whole" / "epochs.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2, 3]

    with pytest.raises(KeyboardInterrupt):
        broken_off(arguments("broken"), stop_at=2)
    assert (tmp_path / "broken" / "checkpoint.pt").exists()
    other = script("cifar10.py", *arguments("broken", "--seed", "1"))
    assert other.returncode == 1
    assert "holds another run, whose seed is 0 in place of 1: give another --out" in other.stderr
    goes_on = start("broken")
    assert goes_on["accuracy_by_epoch"] == whole["accuracy_by_epoch"]
    lines = (tmp_path / "broken" / "epochs.jsonl").read_text().splitlines()
    assert goes_on["seconds"] >= sum(json.loads(line)["seconds"] for line in lines) - 0.1
    again = script("cifar10.py", *arguments("whole"))
    assert f"done already, score {whole['score']:.2f} %" in again.stdout


def broken_off(arguments, stop_at):
    """Run `cifar10.py` up to an interrupt before the test of an epoch."""
    import cifar10

    class Stop(run.Test):
        def on_epoch_end(self, trainer, record):
            if trainer.epoch == stop_at:
                raise KeyboardInterrupt
            super().on_epoch_end(trainer, record)

    patch = pytest.MonkeyPatch()
    with patch.context() as context:
        context.setattr(run, "Test", Stop)
        context.setattr(sys, "argv", ["cifar10.py", *map(str, arguments)])
        cifar10.main()


def test_a_run_goes_on_that_was_told_to_stop_in_its_first_epoch(tmp_path, monkeypatch):
    import digits

    flags = ["--noise", "clean", "--method", "plain", "--epochs", "1", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["digits.py", *flags])
    with monkeypatch.context() as patch:
        patch.setattr(run.Test, "on_step_end", lambda self, trainer, values: trainer._stop_soon())
        with pytest.raises(SystemExit):
            digits.main()
    assert not (tmp_path / "epochs.jsonl").exists()
    digits.main()
    assert (tmp_path / "result.json").exists()


@pytest.mark.parametrize(
    ("name", "arguments", "error"),
    [
        ("cifar10.py", ("--noise", "worst", "--rate", "0.3"), "--rate is for symmetric"),
        ("cifar10.py", ("--epochs", "0"), "invalid positive value: '0'"),
        ("cifar10.py", ("--rate", "1.5"), "invalid share value: '1.5'"),
        ("cifar10.py", ("--rate", "nan"), "invalid share value: 'nan'"),
        ("cifar10.py", ("--consistency-weight", "-1"), "invalid not_negative value: '-1'"),
        ("cifar10.py", ("--seed", "-1"), "invalid whole_number value: '-1'"),
        ("label_errors.py", ("--seeds", "-1"), "invalid whole_number value: '-1'"),
        ("reproduce.py", ("--table", "5", "--results", __file__), "--results must be a folder"),
        ("cifar10.py", ("--dataset", "cifar100", "--noise", "worst"), "worst is not for cifar100"),
        ("fer.py", ("--dataset", "ferplus", "--labels", "list.txt"), "--labels is for RAF-DB"),
        ("reproduce.py", ("--table", "5", "--columns", "sym 2%"), "got 'sym 2%'"),
        ("reproduce.py", ("--table", "1", "--data", "nowhere"), "must be a folder, got nowhere"),
        ("reproduce.py", ("--figure", "5", "--epochs", "1"), "at least 2 for figure 5, got 1"),
    ],
)
def test_wrong_flags_are_named(name, arguments, error, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [name, "--data", str(tmp_path), *arguments])
    with pytest.raises(SystemExit) as ended:
        importlib.import_module(Path(name).stem).main()
    assert ended.value.code  # a number, or what Python prints
    assert error in f"{ended.value.code} {capsys.readouterr().err}"


@pytest.mark.parametrize(("dataset", "left"), [("ferplus", ["epoch1.npz"]), ("rafdb", [])])
def test_snapshots_are_those_of_figure_7(dataset, left, tmp_path):
    import digits

    flags = ["--epochs", "1", "--device", "cpu", "--out", str(tmp_path)]
    args, data = run.arguments("", None).parse_args(flags), digits.digits(0)
    run.run(args, dataset, "clean", data, data.train.labels, digits.PROTOCOL)
    assert [path.name for path in tmp_path.glob("epoch*.npz")] == left


@pytest.mark.parametrize(("capability", "dtype"), [((7, 5), "float32"), ((8, 0), "bfloat16")])
def test_bfloat16_only_where_the_gpu_has_it(capability, dtype, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    assert run.usual_dtype("cuda") == dtype


def test_a_rate_of_none_is_no_noise():
    args = Namespace(noise="symmetric", rate=0.0)
    run.check_noise(ArgumentParser(), args)
    assert args.noise == "clean"


@pytest.mark.slow
def test_faces_from_files_as_from_memory(tmp_path, rng):
    image = pytest.importorskip("PIL.Image")
    (tmp_path / "EmoLabel").mkdir()
    (tmp_path / "Image" / "aligned").mkdir(parents=True)
    names = [f"train_{i}" for i in range(60)] + [f"test_{i}" for i in range(20)]
    for name in names:
        pixels = rng.integers(256, size=(100, 100, 3)).astype(np.uint8)
        image.fromarray(pixels).save(tmp_path / "Image" / "aligned" / f"{name}_aligned.jpg")
    lines = [f"{name}.jpg {1 + i % 7}" for i, name in enumerate(names)]
    (tmp_path / "EmoLabel" / "list_patition_label.txt").write_text("\n".join(lines))

    def accuracies(out, *extra):
        arguments = "--data", tmp_path, "--dataset", "rafdb", "--rate", "0.3", *SMALL, *extra
        done = script("fer.py", *arguments, "--out", tmp_path / out)
        assert done.returncode == 0, done.stderr
        return json.loads((tmp_path / out / "result.json").read_text())["accuracy_by_epoch"]

    assert accuracies("files", "--workers", "2") == accuracies("memory")


@pytest.mark.slow
def test_a_table(cifar, tmp_path):
    arguments = (
        *("--table", "5", "--data", cifar, "--size", "cpu", "--columns", "sym 20%", "sym 50%"),
        *("--methods", "plain", "jocor", "--runs", tmp_path / "runs"),
        *("--results", tmp_path / "results", "--jobs", "2", "--epochs", "2", "--samples", "150"),
        *("--dtype", "float32"),
    )
    done = script("reproduce.py", *arguments)
    assert done.returncode == 0, done.stderr
    written = tmp_path / "results" / "cifar10-cpu-2-epochs-150-samples-float32.jsonl"
    records = [json.loads(line) for line in written.read_text().splitlines()]
    assert {r["protocol"]["samples"] for r in records} == {150}
    assert {(r["method"], r["rate"]) for r in records} == {
        (method, rate) for method in ("plain", "jocor") for rate in (0.2, 0.5)
    }
    scores = {r["method"]: r["score"] for r in records if r["rate"] == 0.2}
    assert f"| plain | {scores['plain']:.2f} |" in done.stdout
    assert "| *jocor, paper* | 85.73 | 79.41 |" in done.stdout
    again = script("reproduce.py", *arguments)
    assert again.stdout.splitlines()[-5:] == done.stdout.splitlines()[-5:]
    assert len(written.read_text().splitlines()) == 4
    written.unlink()  # what the runs have left is enough
    again = script("reproduce.py", *arguments, "--seeds", "0", "0")
    assert sorted(again.stdout.splitlines()) == sorted(done.stdout.splitlines())
    assert len(written.read_text().splitlines()) == 4


def test_a_run_that_fails_is_told(tmp_path):
    arguments = "--table", "5", "--data", tmp_path, "--methods", "plain", "--columns", "sym 20%"
    folders = "--runs", tmp_path / "runs", "--results", tmp_path / "results"
    done = script("reproduce.py", *arguments, *folders)
    assert done.returncode == 1
    assert "ended with 1: FileNotFoundError" in done.stdout
    assert "cifar-10-batches-py" in done.stdout


@pytest.mark.slow
def test_runs_end_with_their_runner(cifar, tmp_path):
    command = [
        *(sys.executable, EXAMPLES / "reproduce.py", "--table", "5", "--data", cifar),
        *("--size", "cpu", "--columns", "sym 20%", "--methods", "plain", "resup"),
        *("--epochs", "100000", "--runs", tmp_path / "runs", "--results", tmp_path / "results"),
    ]
    runner = subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL)
    while not (found := list(tmp_path.glob("runs/*/checkpoint.pt"))):
        assert runner.poll() is None
        time.sleep(0.1)
    runner.terminate()
    assert runner.wait(60) == 128 + signal.SIGTERM
    written = found[0].stat().st_mtime
    time.sleep(1)
    assert found[0].stat().st_mtime == written
    assert len(list(tmp_path.glob("runs/*"))) == 1


def test_published_numbers_are_of_their_own_networks():
    table = published.TABLES["5"]
    assert table.starting(None, ["imagenet"]).paper == table.paper
    assert table.starting("resnet18-cifar", None).paper == {}


def test_numbers_of_the_text_stand_in_tables(tmp_path):
    import reproduce

    def printed(name):
        table = published.TABLES[name]
        return reproduce.markdown(table, reproduce.Results(tmp_path, "paper")).splitlines()

    assert printed("expw")[2:] == [
        "| *plain, paper* | 67.87 | 71.77 |",
        "| *resup-published, paper* | 73.12 | 75.65 |",
    ]
    assert printed("thresholds")[-2:] == [
        "| *threshold of Co-teaching, paper* | 86.53 | 83.21 | 82.37 |",
        "| *threshold of PT, paper* | 84.91 | 77.93 | 72.46 |",
    ]


def test_every_column_can_be_read():
    import fer

    columns = [c for table in published.TABLES.values() for c in table.columns]
    assert {c.dataset for c in columns if c.script == "fer.py"} <= set(fer.DATASETS)
    assert {c.dataset for c in columns} <= {"digits", *published.PLACES}


@pytest.mark.parametrize("dataset", ["affectnet", "expw", "expw-rafdb"])
def test_sets_too_large_for_the_memory_stay_in_their_files(dataset):
    assert "--workers 8" in " ".join(published.Column("", dataset).arguments(None))


def test_a_folder_holds_the_labels_of_one_run(tmp_path):
    path = tmp_path / "settings.json"
    run.check_folder(path, {"labels": 1})
    run.write_json(path, {"labels": 1})
    run.check_folder(path, {"labels": 1})
    with pytest.raises(SystemExit, match="holds another run, whose labels is 1 in place of 2"):
        run.check_folder(path, {"labels": 2})


@pytest.mark.parametrize(
    ("now", "message"),
    [
        ({"epochs": 30, "options": {"width": 8}}, "whose protocol epochs is 20 in place of 30:"),
        ({"epochs": 20, "options": {"width": 4}}, "whose protocol options width is 8 in place of"),
        ({"epochs": 20, "options": {}}, "whose protocol options width is 8 in place of None"),
    ],
)
def test_another_run_is_told_by_what_differs(tmp_path, now, message):
    path = tmp_path / "settings.json"
    run.write_json(path, {"protocol": {"epochs": 20, "options": {"width": 8}}, "score": 1})
    with pytest.raises(SystemExit, match=message):
        run.check_folder(path, {"protocol": now})


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--samples", "2000"], "--samples must be at most 1297, all there are: 2000"),
        (["--weights", "a", "b", "c"], "--weights must be one, or one a network, got 3"),
        (["--out", __file__], "test_reproduce.py cannot be a folder for a run"),
        (["--device", "cuda:99"], "argument --device: cannot use cuda:99"),
        (["--device", "toaster"], "argument --device: cannot use toaster"),
    ],
)
def test_flags_that_cannot_be_had_are_told_in_a_line(flags, message, monkeypatch, capsys, tmp_path):
    import digits

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["digits.py", "--noise", "clean", *flags])
    with pytest.raises(SystemExit) as told:
        digits.main()
    assert message in f"{told.value} {capsys.readouterr().err}"


def test_fewer_than_no_workers(monkeypatch, capsys):
    import fer

    monkeypatch.setattr(sys, "argv", ["fer.py", "--data", ".", "--workers", "-1"])
    with pytest.raises(SystemExit):
        fer.main()
    assert "argument --workers: invalid whole_number value: '-1'" in capsys.readouterr().err


def test_one_process_trains_in_a_folder(tmp_path):
    body = f"with alone_in(Path({str(tmp_path)!r})): print(1)"
    code = f"from pathlib import Path; from paper.run import alone_in\n{body}"
    command = [sys.executable, "-c", code]
    other = partial(subprocess.run, command, cwd=EXAMPLES, capture_output=True, text=True)
    with run.alone_in(tmp_path):
        assert f"another process is training in {tmp_path}" in other().stderr
    assert other().stdout == "1\n"


def test_a_folder_of_settings_that_cannot_be_read(tmp_path):
    (tmp_path / "settings.json").write_text('{"labels": ')
    with pytest.raises(SystemExit, match=r"settings\.json is no JSON: delete it, or give another"):
        run.check_folder(tmp_path / "settings.json", {"labels": 1})


def test_a_folder_is_one_run_alone(tmp_path, monkeypatch, capsys):
    import digits

    def start(*more):
        flags = "--method", "jocor", "--epochs", "1", "--out", str(tmp_path), "--noise"
        monkeypatch.setattr(sys, "argv", ["digits.py", *flags, *(more or ["clean"])])
        digits.main()

    with monkeypatch.context() as patch:
        patch.setattr(run.FileLock, "acquire", Mock(side_effect=run.Timeout("lock")))
        with pytest.raises(SystemExit, match="another process is training in"):
            start()
    start()
    assert set(np.load(tmp_path / "labels.npz")) == {"given", "true"}
    start()
    assert "done already" in capsys.readouterr().out
    (tmp_path / "settings.json").unlink()
    with pytest.raises(SystemExit, match=r"holds another run, whose noise is 'clean' in place of"):
        start("symmetric", "--rate", "0.3")


def test_other_weights_under_one_name_are_another_run(tmp_path):
    file, missing = tmp_path / "w.pt", tmp_path / "missing.pt"
    sums = []
    for content in (b"first", b"second"):
        file.write_bytes(content)
        sums.append(networks.checksums(["imagenet", str(file), str(missing)]))
    assert sums[0] != sums[1]
    assert networks.checksums(None) == networks.checksums(["imagenet"]) == {}
    args = run.arguments("", None).parse_args(["--weights", str(file)])
    split = Split(np.zeros((2, 8, 8, 1), np.uint8), np.arange(2))
    data, protocol = Dataset(split, split, ("a", "b")), run.Protocol("cnn7", 1, 1, 0.1, 1)
    assert run.settings_of(args, "", "", data, split.labels, protocol).items() >= sums[1].items()


def test_published_tables_fit():
    for table in published.TABLES.values():
        assert set(table.rows) <= set(methods.METHODS)
        assert all(len(row) == len(table.columns) for row in table.paper.values())
