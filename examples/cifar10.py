"""CIFAR-10 with wrong labels (Table 5): one run.

    python examples/cifar10.py --data DATA --noise symmetric --rate 0.5

`DATA` holds ``cifar-10-batches-py``, and ``CIFAR-10_human.npz`` or ``.pt`` for the human labels of
CIFAR-10N. Writes a JSON line an epoch, a checkpoint from which the same command goes on, and in the
end ``result.json``.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from paper.datasets import cifar10, cifar_n
from paper.run import LateDecay, Protocol, arguments, check_noise, run, wrong_labels

PARTNER = {9: 1, 2: 0, 4: 7, 3: 5, 5: 3}  # truck, bird, deer, cat, dog
HUMAN = ("aggre", "random1", "random2", "random3", "worst")
NOISES = ("clean", "symmetric", "asymmetric", *HUMAN)

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


def human_labels(folder: Path, which: str) -> NDArray[np.int64]:
    files = [folder / f"CIFAR-10_human.{kind}" for kind in ("pt", "npz")]
    return cifar_n(next((file for file in files if file.exists()), files[0]), which)


def main() -> None:
    parser = arguments(__doc__.splitlines()[0], "cifar-10-batches-py")
    parser.add_argument("--noise", choices=NOISES, default="symmetric")
    args = parser.parse_args()
    check_noise(parser, args)
    data = cifar10(args.data)
    if args.noise in HUMAN:
        given = human_labels(args.data, args.noise)
    else:
        given = wrong_labels(args, data, args.noise, PARTNER)
    protocol = PROTOCOLS[args.size].lasting(args.epochs)
    run(args, "cifar10", args.noise, data, given, protocol)


if __name__ == "__main__":
    main()
