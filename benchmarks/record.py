"""Record what `posterior_quality.py` reads: small networks that learn wrong labels, epoch by epoch.

    python benchmarks/record.py DIR [--data DATA] [--runs NAME ...]

A run's name says all of it: data set, noise, rate in %, and, after a second underscore, a seed.
DATA holds CIFAR-10, CIFAR-10_human.npz and FERPlus (`ferplus/`) in their publishers' layouts;
without it only digits are recorded. Plain cross-entropy with Adam at 1e-3, on one CPU thread; after
each epoch all training samples are looked at in eval mode. A symmetric wrong label is always
another class; `asym` takes classes for look-alikes, `pair` each for the next, `image` depends on
the image, and `aggre`, `random1` and `worst` are human labels.
"""

import argparse
import sys
import zlib
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))

import cifar10
import digits
from paper import datasets
from paper.run import whole

from resup import cosine_label_similarity, noise

NOISES = {
    "digits": ("sym0", "sym20", "sym40", "sym60", "sym80", "asym40", "pair30", "image30"),
    "cifar10": (
        *("sym0", "sym20", "sym50", "sym80", "asym40", "pair30", "image30"),
        *("aggre", "random1", "worst"),
    ),
    "ferplus": ("sym0", "sym10", "sym30", "sym50", "pair30"),
}
SAMPLES = 10_000
EPOCHS = {"digits": 12, "cifar10": 6, "ferplus": 4}
BATCH = {"digits": 64, "cifar10": 128, "ferplus": 128}
LOOKALIKES = {"digits": digits.LOOKALIKES, "cifar10": cifar10.PARTNER}


@cache
def images_and_labels(name: str, root: Path | None) -> tuple[np.ndarray, np.ndarray]:
    """The first images, (N, H, W, C) of uint8, and their true labels."""
    if name == "digits":
        return digits.images_and_labels()
    if name == "cifar10":
        images, labels = datasets.cifar10(root).train
    else:  # only faces that most judges agree on, else not even the true labels would be right
        images, labels = datasets.ferplus(root / name, vote="majority").train
    return images[:SAMPLES], labels[:SAMPLES]


def noisy(name: str, kind: str, rate: float, x: torch.Tensor, true: np.ndarray, c: int, seed: int):
    """Given labels, (N,), of all kinds but those of people."""
    if kind == "image":
        rows = noise.instance_transition(x, true, rate, c, np.random.default_rng([seed, 1]))
        return noise.draw_labels(rows, np.random.default_rng(seed))
    if kind == "sym":
        rows = noise.symmetric_transition(c, rate)
    else:
        partners = LOOKALIKES[name] if kind == "asym" else {y: (y + 1) % c for y in range(c)}
        rows = noise.asymmetric_transition(c, rate, partners)
    return noise.apply_transition(true, rows, np.random.default_rng(seed))


def network(channels: int, c: int, small: bool) -> nn.Module:
    """Convolutions of twice the width each, with batch norm and pooling."""
    widths = [channels, 32, 64] if small else [channels, 32, 64, 128]
    layers = [
        nn.Sequential(nn.Conv2d(a, b, 3, padding=1), nn.BatchNorm2d(b), nn.ReLU(), nn.MaxPool2d(2))
        for a, b in pairwise(widths)
    ]
    return nn.Sequential(*layers, nn.Flatten(), nn.LazyLinear(c))


def record(run: str, root: Path | None) -> dict[str, np.ndarray]:
    name, _, rest = run.partition("_")
    noise_name, _, number = rest.partition("_")
    seed = int(number) if number.isdecimal() else zlib.crc32(run.encode()) % 10_000
    kind = noise_name if noise_name in cifar10.HUMAN else noise_name.rstrip("0123456789")
    people = cifar10.HUMAN if name == "cifar10" else ()
    known = name in NOISES and kind in (*people, "sym", "asym", "pair", "image")
    if not known or (number and not number.isdecimal()):
        raise SystemExit(f"--runs must be DATA_NOISE or DATA_NOISE_SEED, got {run!r}")
    if root is None and name != "digits":
        raise SystemExit(f"--data is needed for {run}")
    rate = int(noise_name[len(kind) :] or 0) / 100
    images, true = images_and_labels(name, root)
    torch.manual_seed(seed)
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float().div(255)
    x = (x - x.mean((0, 2, 3), keepdim=True)) / x.std((0, 2, 3), keepdim=True)
    c = int(true.max()) + 1
    if kind in cifar10.HUMAN:
        given = cifar10.human_labels(root, kind, true)[: len(true)]
    else:
        given = noisy(name, kind, rate, x, true, c, seed)
    y, wrong = torch.from_numpy(given).long(), given != true
    print(f"{run}: {len(y)} samples, seed {seed}, realised rate {wrong.mean():.3f}", flush=True)

    net = network(x.shape[1], c, small=name == "digits")
    net(x[:2])  # makes the last layer
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    shown = {"logits": [], "similarity": [], "decoy": []}
    for _ in range(EPOCHS[name]):
        net.train()
        for batch in torch.randperm(len(x)).split(BATCH[name]):
            inputs = x[batch]
            if name != "digits" and torch.rand(()) < 0.5:
                inputs = inputs.flip(3)
            optimizer.zero_grad()
            F.cross_entropy(net(inputs), y[batch]).backward()
            optimizer.step()
        net.eval()
        with torch.no_grad():
            logits = torch.cat([net(inputs) for inputs in x.split(500)])
        others = (y + torch.randint(1, c, y.shape)) % c
        shown["logits"].append(logits.half().numpy())
        shown["similarity"].append(cosine_label_similarity(logits, y).numpy())
        shown["decoy"].append(cosine_label_similarity(logits, others).numpy())
    return {key: np.stack(values) for key, values in shown.items()} | {
        "label": given.astype(np.uint8),
        "wrong": wrong,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path, metavar="DIR", help="folder for the *.npz")
    parser.add_argument("--data", type=Path, help="folder of CIFAR-10, its human labels, FERPlus")
    parser.add_argument("--runs", nargs="+", metavar="NAME", help="such as digits_sym40_7")
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.folder.mkdir(parents=True, exist_ok=True)
    names = NOISES if args.data else ["digits"]
    runs = args.runs or [f"{name}_{kind}" for name in names for kind in NOISES[name]]
    for run in runs:
        if not (path := args.folder / f"{run}.npz").exists():
            with whole(path) as file:
                np.savez_compressed(file, **record(run, args.data))


if __name__ == "__main__":
    main()
