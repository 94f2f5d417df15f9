"""The reproductions of the paper, on data sets of a few images made on the spot."""

import json
import pickle
import signal
import subprocess
import sys
import time
from argparse import ArgumentParser, Namespace
from pathlib import Path

import numpy as np
import pytest
import torch
from paper import batches, methods, networks, published, run
from paper.images import ImageFiles
from torch import nn
from torch._dynamo.testing import CompileCounter

EXAMPLES = Path(__file__).parents[1] / "examples"
PARAMETERS = {  # of torchvision's models of these names, with 1,000 classes
    "resnet18": 11_689_512,
    "resnet50": 25_557_032,
}


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


# ---------------------------------------------------------------------------- networks


@pytest.mark.parametrize("name", ["cnn7", "resnet18-cifar", "resnet50-cifar", "resnet18"])
@pytest.mark.parametrize("channels", [1, 3])
def test_logits(name, channels):
    network = networks.build(name, classes=7, channels=channels, size=32).eval()
    assert network(torch.zeros(2, channels, 32, 32)).shape == (2, 7)


def test_any_size_fits_the_stride():
    for size in (22, 24, 46, 47, 48):
        network = networks.build("cnn7", classes=7, channels=1, size=size, width=8, stride=3).eval()
        assert network(torch.zeros(1, 1, size, size)).shape == (1, 7)
    with pytest.raises(ValueError, match="size must be over 21 for a stride of 3, got 21"):
        networks.build("cnn7", classes=7, channels=1, size=21, stride=3)


@pytest.mark.parametrize("name", PARAMETERS)
def test_size_of_resnets(name):
    network = networks.build(name, classes=1000)
    assert sum(p.numel() for p in network.parameters()) == PARAMETERS[name]
    assert "layer4.1.conv2.weight" in network.state_dict()
    assert "layer2.0.downsample.0.weight" in network.state_dict()


def test_weights_from_a_file(tmp_path):
    file = tmp_path / "faces.pt"
    source = networks.build("resnet18", classes=100)
    torch.save({"state_dict": {f"module.{k}": v for k, v in source.state_dict().items()}}, file)
    network = networks.build("resnet18", classes=7, weights=file)
    assert torch.equal(network.layer3[0].conv1.weight, source.layer3[0].conv1.weight)
    assert network.fc.out_features == 7
    grey = networks.build("resnet18", classes=7, channels=1, weights=file)
    assert torch.equal(grey.conv1.weight, source.conv1.weight.sum(1, keepdim=True))
    torch.save({"other": torch.zeros(1)}, file)
    deeper = tmp_path / "deeper.pt"
    torch.save(networks.build("resnet50", classes=7).state_dict(), deeper)
    for weights in (file, deeper):
        with pytest.raises(ValueError, match=r"the weights are of another network: .* [0-9]+ more"):
            networks.build("resnet18", classes=7, weights=weights)
    with pytest.raises(FileNotFoundError, match=r"missing\.pt"):
        networks.build("resnet18", classes=7, weights=tmp_path / "missing.pt")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        ("resnet18", "resnet18"),
        ("resnet50", "resnet50"),
        ("mobilenet", "mobilenet_v2"),
        ("vgg16", "vgg16_bn"),
    ],
)
def test_weights_of_torchvision_give_its_outputs(name, theirs, tmp_path):
    models = pytest.importorskip("torchvision.models")
    source = models.get_model(theirs)
    for module in source.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    torch.save(source.state_dict(), file := tmp_path / "weights.pt")
    network = networks.build(name, classes=1000, weights=file)
    x = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(network.eval()(x), source.eval()(x))
    grey = networks.build(name, classes=7, channels=1, weights=file)
    assert grey(x[:, :1]).shape == (2, 7)


def test_unknown_network():
    with pytest.raises(ValueError, match="network must be one of cnn7"):
        networks.build("alexnet", 10)


# ---------------------------------------------------------------------------- batches


def make_batches(rng, n=10, **options):
    images = rng.integers(256, size=(n, 8, 8, 3)).astype(np.uint8)
    return images, batches.DeviceBatches(images, np.arange(n), 4, **options)


def test_batches_in_order(rng):
    images, loader = make_batches(rng)
    assert len(loader) == 3
    x, y = (torch.cat(column) for column in zip(*loader, strict=True))
    assert y.tolist() == list(range(10))
    pixels = torch.tensor(images / 255, dtype=torch.float32)
    expected = (pixels - pixels.mean((0, 1, 2))) / pixels.std((0, 1, 2), correction=0)
    torch.testing.assert_close(x, expected.permute(0, 3, 1, 2), atol=1e-5, rtol=0)


def test_epochs_differ_and_repeat_with_the_seed(rng):
    options = {"shuffle": True, "augment": (batches.flip, batches.crop(2)), "seed": 3}
    images, loader = make_batches(rng, **options)
    again = batches.DeviceBatches(images, np.arange(10), 4, **options)
    first, second = list(loader), list(loader)
    assert sorted(torch.cat([y for _, y in first]).tolist()) == list(range(10))
    assert not torch.equal(first[0][0], second[0][0])
    for (x, y), (x2, y2) in zip(first + second, list(again) + list(again), strict=True):
        assert torch.equal(x, x2)
        assert torch.equal(y, y2)


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_of_files_are_those_of_memory(rng, tmp_path, workers):
    image = pytest.importorskip("PIL.Image")
    paths = [tmp_path / f"{i}.png" for i in range(10)]
    pixels = rng.integers(256, size=(10, 9, 12, 3)).astype(np.uint8)
    for path, one in zip(paths, pixels, strict=True):
        image.fromarray(one).save(path)
    boxes = np.tile([2, 1, 10, 9], (10, 1))
    files = ImageFiles(paths, "RGB", 8, "its publisher", boxes)
    decoded = np.asarray(files)
    assert np.array_equal(decoded, pixels[:, 1:9, 2:10])
    assert np.array_equal(np.asarray(files[3:7]), decoded[3:7])

    options = {"shuffle": True, "augment": (batches.flip, batches.crop(2)), "seed": 3}
    state = torch.get_rng_state()
    lazy = batches.FileBatches(files, np.arange(10), 4, workers=workers, **options)
    eager = batches.DeviceBatches(decoded, np.arange(10), 4, **options)
    for _ in range(2):
        for (x, y), (x2, y2) in zip(lazy, eager, strict=True):
            assert torch.equal(x, x2)
            assert torch.equal(y, y2)
    assert torch.equal(torch.get_rng_state(), state)
    (x, _), (x2, _) = (next(iter(kind(data, np.arange(10), 10))) for kind, data in (
        (batches.FileBatches, files), (batches.DeviceBatches, decoded)))  # fmt: skip
    assert torch.equal(x, x2)


def test_bad_images():
    with pytest.raises(ValueError, match="images must be uint8"):
        batches.DeviceBatches(np.zeros((4, 8, 8, 3)), np.zeros(4, int), 2)
    with pytest.raises(ValueError, match="and 3 labels"):
        batches.DeviceBatches(np.zeros((4, 8, 8, 3), np.uint8), np.zeros(3, int), 2)


def test_flip():
    x = torch.rand(2, 3, 4, 4)
    flipped = batches.flip(x, torch.tensor([[0.4], [0.6]]))
    assert torch.equal(flipped[0], x[0].flip(2))
    assert torch.equal(flipped[1], x[1])


def test_crop():
    x = torch.rand(3, 1, 5, 5)
    numbers = torch.tensor([[0.5, 0.5], [0.0, 0.5], [0.99, 0.0]])
    centre, up, down = batches.crop(1)(x, numbers)
    assert torch.equal(centre, x[0])
    assert torch.equal(up[:, 1:], x[1, :, :-1])
    assert (up[:, 0] == 0).all()
    assert torch.equal(down[:, :-1, 1:], x[2, :, 1:, :-1])


def test_erase():
    x = torch.ones(4000, 1, 20, 20)
    numbers = torch.rand(4000, batches.DRAWS)
    erased = (batches.erase(0.5, (0.1, 0.3))(x, numbers) == 0).float().mean((1, 2, 3))
    hit = erased[erased > 0]
    assert len(hit) / 4000 == pytest.approx(0.5, abs=0.05)
    assert float(hit.mean()) == pytest.approx(0.2, abs=0.02)
    assert float(hit.max()) < 0.4


# ---------------------------------------------------------------------------- methods


def toy(method, epochs=4, **settings):
    torch.manual_seed(0)
    x = torch.randn(256, 6)
    y = x[:, :3].argmax(1)
    y[:64] = (y[:64] + 1) % 3
    pair = [nn.Linear(6, 3), nn.Linear(6, 3)]
    optimizer = torch.optim.Adam([p for n in pair for p in n.parameters()], 0.05)
    trainer = methods.make(
        method, pair, optimizer, None, epochs=epochs, noise_rate=0.25, progress=False, **settings
    )
    return trainer.fit([(x[i : i + 64], y[i : i + 64]) for i in range(0, 256, 64)], epochs)


@pytest.mark.parametrize("method", methods.METHODS)
def test_every_method_trains(method):
    trainer = toy(method)
    assert trainer.history[-1]["loss"] < trainer.history[0]["loss"]
    assert np.isfinite([record["loss"] for record in trainer.history]).all()


def test_settings_of_the_methods():
    assert toy("plain", 1).consistency_weight == 0
    assert toy("jocowe", 1).consistency_weight == pytest.approx(0.5)
    assert toy("resup", 1, consistency_weight=2).consistency_weight == 2
    assert toy("similarity", 1, consistency_weight=2).consistency_weight == 0
    with pytest.raises(ValueError, match="method must be one of plain"):
        toy("mixup")


def test_small_losses_are_kept():
    """The share kept falls by the epoch, and what is left out does not move the networks."""
    trainer = toy("co-teaching", 0)
    trainer.epoch = 5
    assert trainer.kept(100) == 87
    trainer.epoch = 50
    assert trainer.kept(100) == 75
    assert trainer.kept(1) == 1
    for name in ("co-teaching", "jocor"):
        trainer = toy(name, 0)
        trainer.epoch = 50
        for model in trainer.models:  # sample 3 has by far the largest loss in both
            nn.init.zeros_(model.weight)
            model.bias.data = torch.tensor([5.0, 0.0, 0.0])
        x = torch.eye(4, 6)
        trainer.train_step(x, torch.tensor([0, 0, 0, 2]))
        for model in trainer.models:
            assert (model.weight.grad[:, 3] == 0).all()
            assert (model.weight.grad[:, 0] != 0).any()


def test_late_decay():
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.Adam([parameter], lr=1e-3)
    scheduler = run.LateDecay(optimizer, 200)
    rates, betas = [], []
    for _ in range(200):
        rates.append(optimizer.param_groups[0]["lr"])
        betas.append(optimizer.param_groups[0]["betas"][0])
        optimizer.step()
        scheduler.step()
    assert rates[80] == pytest.approx(1e-3)
    assert rates[140] == pytest.approx(0.5e-3)
    assert rates[199] == pytest.approx(1e-3 / 120)
    assert betas[79:81] == [0.9, 0.1]


# ---------------------------------------------------------------------------- runs and tables

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
        ("cifar10.py", ("--dataset", "cifar100", "--noise", "worst"), "worst is not for cifar100"),
        ("fer.py", ("--dataset", "ferplus", "--labels", "list.txt"), "--labels is for RAF-DB"),
        ("reproduce.py", ("--table", "5", "--columns", "sym 2%"), "got 'sym 2%'"),
    ],
)
def test_wrong_flags_are_named(name, arguments, error, tmp_path):
    done = script(name, "--data", tmp_path, *arguments)
    assert done.returncode
    assert error in done.stderr


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
    )
    done = script("reproduce.py", *arguments)
    assert done.returncode == 0, done.stderr
    written = tmp_path / "results" / "cifar10-cpu-2-epochs-150-samples.jsonl"
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


def test_a_folder_holds_the_labels_of_one_run(tmp_path):
    path = tmp_path / "settings.json"
    run.check_folder(path, {"labels": 1})
    run.write_json(path, {"labels": 1})
    run.check_folder(path, {"labels": 1})
    with pytest.raises(SystemExit, match="holds another run, whose labels is 1 in place of 2"):
        run.check_folder(path, {"labels": 2})


def test_published_tables_fit():
    for table in published.TABLES.values():
        assert set(table.rows) <= set(methods.METHODS)
        assert all(len(row) == len(table.columns) for row in table.paper.values())


@pytest.mark.parametrize("name", ["cnn2", "cnn7", "resnet18-cifar"])
def test_compile_reaches_the_networks(name):
    counter = CompileCounter()
    network = networks.build(name, classes=3, channels=1, size=8)
    network.compile(backend=counter)
    network(torch.zeros(2, 1, 8, 8))
    assert counter.frame_count > 0
