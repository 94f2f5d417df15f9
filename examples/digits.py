"""Handwritten digits of scikit-learn with wrong labels: one run, in seconds, with no data to fetch.

python examples/digits.py --noise symmetric --rate 0.4
"""

from __future__ import annotations

import numpy as np
from paper.datasets import Dataset, Split
from paper.run import Protocol, arguments, check_noise, run, wrong_labels
from sklearn.datasets import load_digits

TEST_SAMPLES = 500
LOOKALIKES = {1: 7, 7: 1, 3: 8, 8: 3, 4: 9, 9: 4, 5: 6, 6: 5}
PROTOCOL = Protocol(network="cnn2", epochs=30, batch=64, lr=3e-3, last=5)


def images_and_labels() -> Split:
    data = load_digits()
    return Split((data.images[..., None] * 255 / 16).astype(np.uint8), data.target)


def digits(seed: int) -> Dataset:
    """1,297 images to train on and 500 to test on, split by the seed."""
    images, labels = images_and_labels()
    order = np.random.default_rng(seed).permutation(len(images))
    train, test = order[TEST_SAMPLES:], order[:TEST_SAMPLES]
    parts = (Split(images[part], labels[part]) for part in (train, test))
    return Dataset(*parts, classes=tuple("0123456789"))


def main() -> None:
    parser = arguments(__doc__.splitlines()[0], None)
    parser.add_argument("--noise", choices=("clean", "symmetric", "asymmetric"), required=True)
    args = parser.parse_args()
    check_noise(parser, args)
    data = digits(args.seed)
    given = wrong_labels(args, data, args.noise, LOOKALIKES)
    run(args, "digits", args.noise, data, given, PROTOCOL)


if __name__ == "__main__":
    main()
