"""CIFAR-10 with wrong labels (Table 5), or CIFAR-100: one run.

    python examples/cifar10.py --data DATA --noise symmetric --rate 0.5
    python examples/cifar10.py --data DATA --dataset cifar100 --noise noisy

`DATA` holds ``cifar-10-batches-py`` or ``cifar-100-python``, and for the human labels of CIFAR-10N
and CIFAR-100N ``CIFAR-10_human.pt`` or ``CIFAR-100_human.pt`` (or ``.npz``, ``.npy``). Writes a
JSON line an epoch, a checkpoint from which the same command goes on, and in the end
``result.json``.
"""

from __future__ import annotations

from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from paper.datasets import cifar10, cifar100, cifar_n
from paper.run import LateDecay, Protocol, arguments, check_noise, run, wrong_labels

PARTNER = {9: 1, 2: 0, 4: 7, 3: 5, 5: 3}  # truck, bird, deer, cat, dog
DATASETS = {"cifar10": cifar10, "cifar100": cifar100}
HUMAN = ("aggre", "random1", "random2", "random3", "worst")
HUMAN_100 = "noisy"
NOISES = {
    "cifar10": ("clean", "symmetric", "asymmetric", *HUMAN),
    "cifar100": ("clean", "symmetric", HUMAN_100),
}

PROTOCOLS = {
    "paper": Protocol(
        network="cnn7", epochs=200, batch=128, lr=1e-3, last=10, schedule=LateDecay
    ),
    "cpu": Protocol(
        network="cnn7", options={"width": 32, "stride": 2}, samples=10_000, test_every=2,
        epochs=20, batch=128, lr=1e-3, last=5,
        schedule=partial(LateDecay, beta1=0.9),
    ),
}  # fmt: skip


def human_labels(folder: Path, which: str, true: NDArray[np.int64]) -> NDArray[np.int64]:
    """Labels that people gave to the training images, the first of which have these true ones."""
    classes = 100 if which == HUMAN_100 else 10
    files = [folder / f"CIFAR-{classes}_human.{kind}" for kind in ("pt", "npz", "npy")]
    return cifar_n(next((file for file in files if file.exists()), files[0]), which, true)


def main() -> None:
    parser = arguments(__doc__.splitlines()[0], "cifar-10-batches-py or cifar-100-python")
    parser.add_argument("--dataset", choices=DATASETS, default="cifar10")
    noises = dict.fromkeys(chain(*NOISES.values()))
    parser.add_argument("--noise", choices=noises, default="symmetric")
    args = parser.parse_args()
    if args.noise not in NOISES[args.dataset]:
        parser.error(f"--noise {args.noise} is not for {args.dataset}")
    check_noise(parser, args)
    data = DATASETS[args.dataset](args.data)
    if args.noise in (*HUMAN, HUMAN_100):
        given = human_labels(args.data, args.noise, data.train.labels)
    else:
        given = wrong_labels(args, data, args.noise, PARTNER)
    run(args, args.dataset, args.noise, data, given, PROTOCOLS[args.size])


if __name__ == "__main__":
    main()
