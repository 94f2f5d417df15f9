"""Handwritten digits of scikit-learn with wrong labels: one run, in seconds, with no data to fetch.

python examples/digits.py --noise symmetric --rate 0.4
"""

from __future__ import annotations

import numpy as np
from paper.datasets import Dataset, Split
from paper.run import Protocol, arguments, run
from sklearn.datasets import load_digits

from resup.noise import apply_transition, asymmetric_transition, symmetric_transition

TEST_SAMPLES = 500
LOOKALIKES = {1: 7, 7: 1, 3: 8, 8: 3, 4: 9, 9: 4, 5: 6, 6: 5}
PROTOCOL = Protocol(network="cnn2", epochs=30, batch=64, lr=3e-3, last=5)


def digits(seed: int) -> Dataset:
    """1,297 images to train on and 500 to test on, split by the seed."""
    data = load_digits()
    images = (data.images[..., None] * 255 / 16).astype(np.uint8)
    order = np.random.default_rng(seed).permutation(len(images))
    train, test = order[TEST_SAMPLES:], order[:TEST_SAMPLES]
    names = tuple(map(str, data.target_names))
    return Dataset(
        Split(images[train], data.target[train]), Split(images[test], data.target[test]), names
    )


def labels(noise: str, rate: float, data: Dataset, seed: int) -> np.ndarray:
    if noise == "asymmetric":
        transition = asymmetric_transition(10, rate, LOOKALIKES)
    else:
        transition = symmetric_transition(10, rate)
    return apply_transition(data.train.labels, transition, seed)


def main() -> None:
    parser = arguments(__doc__.splitlines()[0], None)
    parser.add_argument("--noise", choices=("clean", "symmetric", "asymmetric"), required=True)
    args = parser.parse_args()
    data = digits(args.seed)
    rate = 0.0 if args.noise == "clean" else args.rate
    protocol = PROTOCOL.lasting(args.epochs)
    run(args, "digits", args.noise, data, labels(args.noise, rate, data, args.seed), protocol)


if __name__ == "__main__":
    main()
