"""Facial expressions with wrong labels (Tables 1 to 4): one run.

    python examples/fer.py --dataset ferplus --data DATA --rate 0.3 --method resup-decoys

`DATA` is the folder of the data set in its publisher's layout (`paper/datasets.py`). A share
``--rate`` of the training labels moves to another class at random.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from functools import partial

from paper import batches, datasets
from paper.run import LateDecay, Protocol, arguments, run, thirds

from resup.noise import apply_transition, symmetric_transition

DATASETS = {
    "ferplus": datasets.ferplus,
}
SIZES = {"paper": 224, "cpu": 48}

PROTOCOLS = {
    "paper": Protocol(
        network="resnet18", epochs=30, batch=96, lr=2e-4, last=5, schedule=thirds,
        augment=(batches.flip, batches.crop(16), batches.erase()),
    ),
    "cpu": Protocol(
        network="cnn7", options={"width": 32, "stride": 3},
        epochs=12, batch=96, lr=1e-3, last=5, schedule=partial(LateDecay, beta1=0.9),
        augment=(batches.flip, batches.crop(4), batches.erase()),
    ),
}  # fmt: skip


def protocol(args: argparse.Namespace) -> Protocol:
    chosen = PROTOCOLS[args.size]
    return replace(chosen, epochs=args.epochs) if args.epochs else chosen


def main() -> None:
    parser = arguments(__doc__.splitlines()[0], "the data set")
    parser.add_argument("--dataset", choices=DATASETS, default="ferplus")
    args = parser.parse_args()
    data = DATASETS[args.dataset](args.data, size=SIZES[args.size])
    transition = symmetric_transition(len(data.classes), args.rate)
    given = apply_transition(data.train.labels, transition, args.seed)
    run(args, args.dataset, "symmetric" if args.rate else "clean", data, given, protocol(args))


if __name__ == "__main__":
    main()
