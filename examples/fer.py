"""Facial expressions with wrong labels (Tables 1 to 4): one run.

    python examples/fer.py --dataset ferplus --data DATA --rate 0.3

`DATA` is the folder of the data set in its publisher's layout (`paper/datasets.py`). A share
``--rate`` of the training labels moves to another class at random.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

from paper import batches, datasets
from paper.run import (
    LateDecay,
    Protocol,
    arguments,
    positive,
    run,
    tenths,
    whole_number,
    wrong_labels,
)

DATASETS = {
    "ferplus": datasets.ferplus,
    "fer2013-csv": datasets.fer2013_csv,
    "rafdb": datasets.raf_db,
    "affectnet": datasets.affectnet,
    "expw": datasets.expw,
    "expw-rafdb": datasets.expw_raf_db,
}
SIZES = {"paper": 224, "cpu": 48}

PROTOCOLS = {
    "paper": Protocol(
        network="resnet18", epochs=30, batch=96, lr=2e-4, last=5, schedule=tenths,
        augment=(batches.flip, batches.crop(16), batches.erase()),
    ),
    "cpu": Protocol(  # small networks that start from nothing: a high rate for long, only flips
        network="cnn7", options={"width": 32, "stride": 3},
        epochs=12, batch=96, lr=1e-3, last=5, schedule=partial(LateDecay, beta1=0.9),
        augment=(batches.flip,),
    ),
}  # fmt: skip


def main() -> None:
    parser = arguments(__doc__.splitlines()[0], "the images and labels, such as ferplus")
    parser.add_argument("--dataset", choices=DATASETS, default="ferplus")
    parser.add_argument(
        "--image-size", type=positive, help="224, or 48 with --size cpu, by default"
    )
    parser.add_argument("--labels", type=Path, help="a published list of noisy labels (RAF-DB)")
    parser.add_argument(
        "--workers",
        type=whole_number,
        help="leave the images in their files, to so many reading processes",
    )
    args = parser.parse_args()
    if args.labels and (args.rate or args.dataset != "rafdb"):
        parser.error("--labels is for RAF-DB, and in place of --rate")
    if args.workers is not None and args.dataset == "fer2013-csv":
        parser.error("--workers is for images in files; fer2013.csv holds the pixels themselves")
    size = args.image_size or SIZES[args.size]
    lazy = {} if args.workers is None else {"lazy": True}
    data = DATASETS[args.dataset](args.data, size=size, **lazy)
    if args.labels:
        noise = args.labels.stem
        given = datasets.raf_db(args.data, label_file=args.labels, lazy=True).train.labels
    else:
        noise = "symmetric" if args.rate else "clean"
        given = wrong_labels(args, data, noise)
    protocol = PROTOCOLS[args.size]
    if (args.dataset, args.size) == ("affectnet", "paper"):
        protocol = replace(protocol, epochs=20, schedule=partial(tenths, after=(1 / 4, 1 / 2)))
    run(args, args.dataset, noise, data, given, protocol)


if __name__ == "__main__":
    main()
