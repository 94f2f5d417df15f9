"""Classes from common to rare: digits and Gaussian clusters, a small network, default settings.

    python benchmarks/rare_classes.py [--out FILE.json]

Each row is a data set, a ratio of its largest class to the smallest (geometric between them) and a
noise, each cell lowest to highest over the seeds: the realised noise rate, the one found at the
end, then mean accuracy of all classes / of the three rarest, of plain cross-entropy, of
`CoTrainer`, and of the same without `resup.alignment`; at last the percentage of right labels that
`CoTrainer` judges more likely wrong at the end, of all / of the three rarest. Runs on the CPU.
"""

from collections.abc import Iterator
from functools import partial

import numpy as np
import torch
from sklearn.datasets import load_digits
from small_trainings import arguments, hits, network, one_layer, span, trainer_of, write_table
from torch.utils.data import DataLoader, TensorDataset

from resup import noise

CLASSES = 10
RATIOS = 10, 50
NOISES = {"none": np.eye(CLASSES), "symmetric 30 %": noise.symmetric_transition(CLASSES, 0.3)}
EPOCHS = 20
METHODS = "plain", "resup", "not aligned"


def sizes(largest: int, ratio: int) -> np.ndarray:
    return np.rint(largest * ratio ** (-np.arange(CLASSES) / (CLASSES - 1))).astype(int)


def clusters(rng: np.random.Generator, ratio: int) -> tuple[np.ndarray, ...]:
    """Draw up to 1,000 samples of each class to train on, and 500 to test on."""
    centres = rng.normal(size=(CLASSES, 16))
    y = rng.permutation(np.repeat(np.arange(CLASSES), sizes(1000, ratio)))
    y_test = np.repeat(np.arange(CLASSES), 500)
    x, x_test = (
        centres[labels] + 1.8 * rng.normal(size=(len(labels), 16)) for labels in (y, y_test)
    )
    return x, y, x_test, y_test


def digits(rng: np.random.Generator, ratio: int) -> tuple[np.ndarray, ...]:
    """Take up to 124 samples of each digit to train on, and 50 to test on."""
    images, labels = load_digits(return_X_y=True)
    by_class = [rng.permutation(np.flatnonzero(labels == c)) for c in rng.permutation(CLASSES)]
    test = np.stack([of_class[:50] for of_class in by_class])
    train = [c[50 : 50 + n] for c, n in zip(by_class, sizes(124, ratio), strict=True)]
    y = np.repeat(np.arange(CLASSES), [len(of_class) for of_class in train])
    x, x_test = images[np.concatenate(train)] / 16, images[test.ravel()] / 16
    return x, y, x_test, np.repeat(np.arange(CLASSES), 50)


DATA = {digits: (partial(one_layer, width=128), 32), clusters: (network, 128)}  # with batch size


def run(data, ratio: int, transition: np.ndarray, seed: int) -> dict:
    x, y, x_test, y_test = data(np.random.default_rng(seed), ratio)
    x, x_test = (torch.tensor(values, dtype=torch.float32) for values in (x, x_test))
    given = torch.as_tensor(noise.apply_transition(y, transition, np.random.default_rng(seed)))
    record = {"samples": len(y), "realised": noise.noise_rate(y, given)}
    make, batch = DATA[data]
    for name in METHODS:
        torch.manual_seed(seed)
        pair = make(x.shape[1], CLASSES), make(x.shape[1], CLASSES)
        trainer = trainer_of(pair, warmup=EPOCHS if name == "plain" else 1)
        if name == "not aligned":
            trainer.weigher.alignment.learn = lambda *_: None
        samples = TensorDataset(x, given)
        trainer.fit(DataLoader(samples, batch, shuffle=True), EPOCHS)
        right = hits(pair[0], x_test, y_test)
        classes = [float(right[y_test == c].mean()) for c in range(CLASSES)]
        suspected = trainer.clean_probability(DataLoader(samples, 1000)).numpy() < 0.5
        clean = given.numpy() == y
        record[name] = {
            "found": float(np.mean(trainer.weigher.noise_rates_)),
            "classes": classes,
            "suspected": [float(suspected[clean & (y >= c)].mean()) for c in (0, CLASSES - 3)],
        }
    return record


def rows(seeds: list[int]) -> Iterator[tuple[dict, list[str]]]:
    for data in DATA:
        for ratio in RATIOS:
            for kind, transition in NOISES.items():
                runs = [run(data, ratio, transition, seed) for seed in seeds]
                head = {"data": data.__name__, "ratio": ratio, "noise": kind, "seeds": seeds}
                cells = [data.__name__, str(ratio), kind, span((r["realised"] for r in runs), 2)]
                cells.append(span((r["resup"]["found"] for r in runs), 2))
                for name in METHODS:
                    all_, rare = (
                        span((100 * np.mean(r[name]["classes"][-n:]) for r in runs), 0)
                        for n in (CLASSES, 3)
                    )
                    cells.append(f"{all_} / {rare}")
                of_all, of_rare = zip(*(r["resup"]["suspected"] for r in runs), strict=True)
                cells.append(" / ".join(span(100 * np.array(s), 0) for s in (of_all, of_rare)))
                yield {**head, "runs": runs}, cells


def main() -> None:
    args = arguments(__doc__, [0, 1, 2]).parse_args()
    heads = ["data", "ratio", "noise", "realised", "found", *METHODS, "right labels suspected"]
    write_table(heads, rows(args.seeds), args.out)


if __name__ == "__main__":
    main()
