"""One run: a data set with wrong labels, a protocol, a method, a seed; its result as one record."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import IO, Any
from zlib import crc32

import numpy as np
import torch
import torch.nn.functional as F
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, roc_auc_score
from torch import nn
from torch.optim import Adam, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, MultiStepLR

from resup import CoTrainer, cosine_label_similarity
from resup.callbacks import Callback, JSONLinesLogger
from resup.noise import apply_transition, asymmetric_transition, noise_rate, symmetric_transition

from . import methods, networks
from .batches import Augmentation, DeviceBatches, FileBatches
from .datasets import Dataset, Split
from .images import ImageFiles
from .provenance import provenance

SNAPSHOTS = 1, 7
AUTOCAST = {"float32": None, "bfloat16": torch.bfloat16}


def usual_dtype(device: str) -> str:
    """Choose bfloat16, but where it is emulated, which takes several times as long."""
    if device.startswith("cuda"):
        native = torch.cuda.get_device_capability() >= (8, 0)
    else:
        native = torch.backends.cpu.get_cpu_capability() not in ("DEFAULT", "AVX2")
    return "bfloat16" if native else "float32"


DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPE = usual_dtype(DEVICE)


@dataclass(frozen=True)
class Protocol:
    """How a data set is trained on."""

    network: str
    epochs: int
    batch: int
    lr: float
    last: int
    """The score is the mean test accuracy of network A over so many last epochs."""
    schedule: Callable[[Optimizer, int], LRScheduler] | None = None
    augment: tuple[Augmentation, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    """Of the network."""
    samples: int | None = None
    """Train on the first so many images only."""
    test_every: int = 1
    """Test after every so many epochs, and after each of the last ones."""

    def but(self, **numbers: int | None) -> Protocol:
        """Return the same protocol with other epochs or samples, where they are given."""
        return replace(self, **{name: n for name, n in numbers.items() if n})

    def adam(self, models: Sequence[nn.Module]) -> tuple[Optimizer, LRScheduler | None]:
        """Build one Adam for all networks, and its schedule."""
        parameters = [p for network in models for p in network.parameters()]
        optimizer = Adam(parameters, self.lr, fused=parameters[0].device.type != "cpu")
        return optimizer, self.schedule(optimizer, self.epochs) if self.schedule else None


class LateDecay(LambdaLR):
    """Linear decay to 0 from two fifths of the epochs on, where Adam's β1 changes too.

    With β1 = 0.1 this is the protocol of JoCoR for CIFAR-10, from epoch 80 of 200 on.
    """

    def __init__(self, optimizer: Optimizer, epochs: int, beta1: float = 0.1) -> None:
        self.beta1, self.start = beta1, max(1, epochs * 2 // 5)
        left = max(1, epochs - self.start)
        super().__init__(optimizer, lambda epoch: min(1.0, max(epochs - epoch, 1) / left))

    def step(self, epoch: int | None = None) -> None:
        super().step(epoch)
        if self.last_epoch == self.start:
            for group in self.optimizer.param_groups:
                group["betas"] = self.beta1, group["betas"][1]


def tenths(
    optimizer: Optimizer, epochs: int, after: tuple[float, float] = (1 / 3, 2 / 3)
) -> LRScheduler:
    """Divide the learning rate by 10 twice, after these shares of the epochs."""
    return MultiStepLR(optimizer, [max(1, int(epochs * share)) for share in after], gamma=0.1)


class Test(Callback):
    """Adds test accuracies to the records of `CoTrainer`."""

    def __init__(self, batches: DeviceBatches, protocol: Protocol) -> None:
        self.batches, self.protocol = batches, protocol

    def on_epoch_end(self, trainer: CoTrainer, record: dict[str, Any]) -> None:
        left = self.protocol.epochs - trainer.epoch
        if trainer.epoch % self.protocol.test_every == 0 or left < self.protocol.last:
            values = trainer.evaluate(self.batches)
            record |= {f"test_{key}": value for key, value in values.items()}


class Snapshots(Callback):
    """Writes the similarity and the loss of each training sample after some epochs (Figure 7)."""

    def __init__(self, batches: DeviceBatches, folder: Path) -> None:
        self.batches, self.folder = batches, folder

    @torch.no_grad()
    def on_epoch_end(self, trainer: CoTrainer, record: Mapping[str, Any]) -> None:
        if trainer.epoch not in SNAPSHOTS:
            return
        network, columns = trainer.models[0].eval(), []
        for images, labels in self.batches:
            logits = trainer.forward(network, images).float()
            loss = F.cross_entropy(logits, labels, reduction="none")
            columns.append(torch.stack([cosine_label_similarity(logits, labels), loss]))
        similarity, loss = torch.cat(columns, 1).cpu().numpy()
        path = self.folder / f"epoch{trainer.epoch}.npz"
        np.savez_compressed(path, similarity=similarity, loss=loss)


def arguments(description: str, holds: str | None) -> argparse.ArgumentParser:
    """Flags that the examples share; `holds` says what the data folder holds, if one is needed."""
    parser = argparse.ArgumentParser(description=description)
    add = parser.add_argument
    add(
        "--data",
        type=Path,
        required=holds is not None,
        help=f"folder that holds {holds}" if holds else "not used",
    )
    add("--method", choices=methods.METHODS, default="resup")
    add("--rate", type=share, default=0.0, help="share of training labels made wrong")
    add("--size", choices=("paper", "cpu"), default="paper", help="protocol")
    add("--network", choices=networks.NETWORKS, help="another backbone than the protocol's")
    add("--weights", nargs="+", help="imagenet or a file; one, or one a network")
    add("--epochs", type=positive, help="other than the protocol's")
    add("--samples", type=positive, help="train on the first so many images, in place of its own")
    add("--consistency-weight", type=not_negative, default=5.0, help="lambda of Eq. 6")
    add("--seed", type=whole_number, default=0, help="of the noise, the networks and the batches")
    add("--device", type=device, default=DEVICE)
    add("--dtype", choices=AUTOCAST, default=DTYPE, help="of the networks' arithmetic")
    add("--compile", action="store_true", help="compile networks and weigher (torch.compile)")
    add("--out", type=Path, default=Path("runs"), help="folder for checkpoint, epochs and result")
    return parser


def positive(text: str) -> int:
    """Read a whole number of at least 1."""
    if (number := int(text)) < 1:
        raise ValueError
    return number


def whole_number(text: str) -> int:
    """Read a whole number of at least 0."""
    if (number := int(text)) < 0:
        raise ValueError
    return number


def not_negative(text: str) -> float:
    """Read a finite number of at least 0."""
    if not 0 <= (number := float(text)) < np.inf:
        raise ValueError
    return number


def device(text: str) -> str:
    """Read the name of a device that is there."""
    try:
        torch.empty(0, device=text)
    except (AssertionError, RuntimeError) as error:  # of a torch without CUDA, or without such one
        first, *_ = str(error).splitlines()
        raise argparse.ArgumentTypeError(f"cannot use {text}: {first}") from None
    return text


def share(text: str) -> float:
    """Read a number from 0 to 1."""
    if not 0 <= (number := float(text)) <= 1:
        raise ValueError
    return number


def wrong_labels(
    args: argparse.Namespace,
    data: Dataset,
    noise: str,
    partner: Mapping[int, int] | None = None,
) -> NDArray[np.int64]:
    """Make a share ``args.rate`` of the training labels wrong, "symmetric" or "asymmetric"."""
    if noise == "clean":
        return data.train.labels
    if noise == "symmetric":
        transition = symmetric_transition(len(data.classes), args.rate)
    else:
        transition = asymmetric_transition(len(data.classes), args.rate, partner)
    return apply_transition(data.train.labels, transition, np.random.default_rng(args.seed))


def check_noise(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Bring noise and rate together: a rate of 0 is no noise, and only drawn noise has another."""
    if args.noise not in ("symmetric", "asymmetric") and args.rate:
        parser.error(f"--rate is for symmetric and asymmetric noise, not for {args.noise}")
    if args.noise in ("symmetric", "asymmetric") and not args.rate:
        args.noise = "clean"


def check_folder(path: Path, settings: dict[str, Any], flag: str = "--out") -> None:
    """Raise if the folder of this file of settings holds another run."""
    if path.exists():
        try:
            there = json.loads(path.read_text())
        except ValueError:
            raise SystemExit(f"{path} is no JSON: delete it, or give another {flag}") from None
        before, now = flat({key: there.get(key) for key in settings}), flat(settings)
        if other := [key for key in before | now if before.get(key) != now.get(key)]:
            raise SystemExit(
                f"{path.parent} holds another run, whose {other[0]} is {before.get(other[0])!r} in "
                f"place of {now.get(other[0])!r}: give another {flag}"
            )


def flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings without groups of them, so that each has a value to read."""
    values = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            values |= {f"{key} {name}": each for name, each in flat(value).items()}
        else:
            values[key] = value
    return values


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Make a folder, and let no other process train in it meanwhile."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SystemExit(f"{folder} cannot be a folder for a run: {error}") from None
    lock = FileLock(folder / "lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise SystemExit(f"another process is training in {folder}") from None
    try:
        yield
    finally:
        lock.release()


@contextmanager
def whole(path: Path) -> Iterator[IO[bytes]]:
    """Open a file that is written whole or not at all."""
    unfinished = path.with_name(f"{path.name}.tmp")
    try:
        with unfinished.open("wb") as file:
            yield file
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def write_json(path: Path, values: dict[str, Any]) -> None:
    with whole(path) as file:
        file.write(f"{json.dumps(values)}\n".encode())


def run(
    args: argparse.Namespace,
    dataset: str,
    noise: str,
    data: Dataset,
    given: NDArray[np.int64],
    protocol: Protocol,
) -> dict[str, Any]:
    """Train, or go on with, one run; its record is also written to ``OUT/result.json``.

    A run that is done already is not made again: its record is read.

    Parameters
    ----------
    args : Namespace
        Of `arguments`.
    dataset, noise : str
        Their names, for the record.
    data : Dataset
        With true labels.
    given : ndarray of shape (N,)
        Labels to train on.
    protocol : Protocol
        But for the epochs and samples that `args` asks for.
    """
    if (args.samples or 0) > len(given):
        raise SystemExit(f"--samples must be at most {len(given)}, all there are: {args.samples}")
    if len(args.weights or ()) > 2:
        raise SystemExit(f"--weights must be one, or one a network, got {len(args.weights)}")
    protocol = protocol.but(epochs=args.epochs, samples=args.samples)
    settings = settings_of(args, dataset, noise, data, given, protocol)
    result = args.out / "result.json"
    with alone_in(args.out):
        for path in (args.out / "settings.json", result):
            check_folder(path, settings)
        if result.exists():
            record: dict[str, Any] = json.loads(result.read_text())
            print(f"done already, score {record['score']:.2f} %: {result}")
            return record
        return train(args, data, given, protocol, settings)


def train(
    args: argparse.Namespace,
    data: Dataset,
    given: NDArray[np.int64],
    protocol: Protocol,
    settings: dict[str, Any],
) -> dict[str, Any]:
    """Train, or go on, in a folder that is this run's; for the parameters see `run`."""
    start = perf_counter()
    checkpoint, epochs = args.out / "checkpoint.pt", args.out / "epochs.jsonl"
    if args.device == "cpu":
        torch.set_num_threads(1)
    given, true = given[: protocol.samples], data.train.labels[: protocol.samples]
    realised = noise_rate(true, given)
    noise = settings["noise"]
    print(f"{len(given)} images, {noise} noise, realised rate {realised:.4f}; {args.method}")

    batches, test = make_batches(args, data, given, protocol)
    ordered = batches.in_order(500)
    torch.manual_seed(args.seed)
    pair = make_networks(args, data, protocol)
    trainer = methods.make(
        args.method,
        pair,
        *protocol.adam(pair),
        epochs=protocol.epochs,
        noise_rate=realised,
        consistency_weight=args.consistency_weight,
        autocast=AUTOCAST[args.dtype],
        progress=sys.stderr.isatty(),
        callbacks=[
            Test(test, protocol),
            *[Snapshots(ordered, args.out)] * (settings["dataset"] == "ferplus"),  # of Figure 7
            JSONLinesLogger(epochs),
        ],
    )
    torch.backends.cudnn.benchmark = True
    if args.compile:
        for part in (*trainer.models, trainer.weigher):
            part.compile()
    write_json(args.out / "settings.json", settings)  # now: a start that fails claims no folder
    if checkpoint.exists():
        print(f"goes on from {checkpoint}")
    else:
        epochs.unlink(missing_ok=True)
    loaded = perf_counter()
    trainer.fit(batches, protocol.epochs, checkpoint=checkpoint, resume=checkpoint)
    trained = perf_counter()
    lines = epochs.read_text().splitlines() if epochs.exists() else []  # of earlier parts too
    seconds = loaded - start + sum(json.loads(line)["seconds"] for line in lines)

    tested = [
        (r["epoch"], 100 * r["test_accuracy_a"]) for r in trainer.history if "test_accuracy_a" in r
    ]
    record = {
        **settings,
        "realised_rate": realised,
        "score": float(np.mean([accuracy for _, accuracy in tested[-protocol.last :]])),
        **found(trainer, ordered, given, true, args.out),
        "accuracy_by_epoch": [[epoch, round(accuracy, 2)] for epoch, accuracy in tested],
        "noise_found_by_epoch": [
            [r["epoch"], round(r["noise_rate_a"], 4)]
            for r in trainer.history
            if "noise_rate_a" in r
        ],
        "seconds": round(seconds + perf_counter() - trained, 1),
        **provenance(),
    }
    write_json(args.out / "result.json", record)
    checkpoint.unlink()
    print(f"score {record['score']:.2f} %")
    return record


def settings_of(
    args: argparse.Namespace,
    dataset: str,
    noise: str,
    data: Dataset,
    given: NDArray[np.int64],
    protocol: Protocol,
) -> dict[str, Any]:
    """What sets a run apart from every other; for the parameters see `run`."""
    return {
        "dataset": dataset,
        "noise": noise,
        "rate": args.rate,
        "method": args.method,
        "seed": args.seed,
        "labels": crc32(given.tobytes()),
        "image_shape": list(data.train.images.shape[1:]),
        "network": args.network,
        "weights": args.weights,
        **networks.checksums(args.weights),
        "size": args.size,
        "consistency_weight": args.consistency_weight,
        "protocol": {
            key: value
            for key, value in asdict(protocol).items()
            if isinstance(value, (str, int, float, dict))
        },
        "dtype": args.dtype,
    }


def make_batches(
    args: argparse.Namespace, data: Dataset, given: NDArray[np.int64], protocol: Protocol
) -> tuple[DeviceBatches, DeviceBatches]:
    """Build the batches of the training set, with the given labels, and of the test set."""
    images = data.train.images[: protocol.samples]
    batches: Any = DeviceBatches
    if isinstance(images, ImageFiles):
        batches = partial(FileBatches, workers=args.workers)
    train = batches(
        images, given, protocol.batch,
        augment=protocol.augment, shuffle=True, seed=args.seed, device=args.device,
    )  # fmt: skip
    test = batches(*data.test, 500, device=args.device, statistics=train.statistics)
    return train, test


def make_networks(args: argparse.Namespace, data: Dataset, protocol: Protocol) -> list[nn.Module]:
    """Build network A and network B."""
    weights = args.weights or [None]
    weights = weights * 2 if len(weights) == 1 else weights
    if args.network not in (None, protocol.network):
        protocol = replace(protocol, network=args.network, options={})
    classes = len(data.classes)
    return [make_network(protocol, data.train, classes, args.device, w) for w in weights]


def make_network(
    protocol: Protocol, data: Split, classes: int, device: str, weights: str | None = None
) -> nn.Module:
    """Build the network of a protocol for the images of `data`."""
    _, height, _, channels = data.images.shape
    network = networks.build(
        protocol.network, classes, channels, height, weights, **protocol.options
    )
    return network.to(device, memory_format=torch.channels_last)


def found(
    trainer: CoTrainer,
    ordered: DeviceBatches,
    given: NDArray[np.int64],
    true: NDArray[np.int64],
    folder: Path,
) -> dict[str, Any]:
    """Say how well the trainer tells the wrong labels in the end, and write what it thinks."""
    if not trainer.weigher.mixtures_:
        np.savez_compressed(folder / "labels.npz", given=given, true=true)
        return {}
    clean = trainer.clean_probability(ordered).numpy()
    np.savez_compressed(folder / "labels.npz", clean_probability=clean, given=given, true=true)
    wrong = given != true
    record = {"noise_found": float(1 - clean.mean())}
    if not wrong.all():
        record["weight_right"] = float(clean[~wrong].mean())
    if wrong.any():
        record["weight_wrong"] = float(clean[wrong].mean())
    if wrong.any() and not wrong.all():
        record |= {
            "auroc": float(roc_auc_score(wrong, -clean)),
            "average_precision": float(average_precision_score(wrong, -clean)),
        }
    return record
