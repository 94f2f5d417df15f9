"""Tabular data: a rare positive class, and small clean tables, a small network, default settings.

    python benchmarks/tables.py [--out FILE.json]

Each row is a table and a share of labels moved to another class at random, each cell lowest to
highest over the seeds: the realised noise rate, the one found at the end, then accuracy on clean
labels and, where one class is rare, recall of that class / average precision, of plain
cross-entropy and of `CoTrainer`; and of the labels that the latter lists as wrong by the mean over
the epochs, with at most a fifth of them right stated, how many there are and what share is right.
Runs on the CPU.
"""

from collections.abc import Iterator

import numpy as np
import torch
from sklearn.datasets import make_classification
from sklearn.metrics import average_precision_score, recall_score
from sklearn.preprocessing import StandardScaler
from small_trainings import arguments, one_layer, span, trainer_of, write_table
from torch.utils.data import DataLoader, TensorDataset

from resup import noise, q_values
from resup.callbacks import ProbabilityHistory

TABLES = {  # samples, share of the positive class of two; or of three balanced classes
    "3 % positive": (7000, 0.03),
    "5 % positive": (7000, 0.05),
    "10 % positive": (7000, 0.1),
    "three classes": (2000, None),
}
RATES = 0.0, 0.05, 0.1, 0.2
EPOCHS = 10
TESTED = 3000
STATED = 0.2


def table(n: int, positive: float | None, seed: int) -> tuple[np.ndarray, np.ndarray]:
    x, y = make_classification(
        n + TESTED,
        30,
        n_informative=15,
        n_classes=2 if positive else 3,
        weights=[1 - positive] if positive else None,
        n_clusters_per_class=2 if positive else 1,
        class_sep=1.5,
        flip_y=0,
        random_state=seed,
    )
    return StandardScaler().fit_transform(x), y


def run(n: int, positive: float | None, rate: float, seed: int) -> dict:
    x, y = table(n, positive, seed)
    x, classes = torch.tensor(x, dtype=torch.float32), y.max() + 1
    transition = noise.symmetric_transition(classes, rate)
    given = torch.as_tensor(noise.apply_transition(y[:n], transition, np.random.default_rng(seed)))
    ordered = DataLoader(TensorDataset(x[:n], given), 500)
    record = {"realised": noise.noise_rate(y[:n], given)}
    for name in ("plain", "resup"):
        torch.manual_seed(seed)
        pair = one_layer(30, classes), one_layer(30, classes)
        trainer = trainer_of(pair, warmup=EPOCHS if name == "plain" else 1)
        trainer.callbacks = [history := ProbabilityHistory(ordered)]
        trainer.fit(DataLoader(TensorDataset(x[:n], given), 64, shuffle=True), EPOCHS)
        with torch.no_grad():
            probability = pair[0].eval()(x[n:]).softmax(1).numpy()
        predicted, truth = probability.argmax(1), y[n:]
        record[name] = {
            "found": float(np.mean(trainer.weigher.noise_rates_)),
            "accuracy": float((predicted == truth).mean()),
        }
        if positive:
            record[name] |= {
                "recall": float(recall_score(truth, predicted)),
                "precision": float(average_precision_score(truth, probability[:, 1])),
            }
    right = (given.numpy() == y[:n])[q_values(history.probability.mean(0)) <= STATED]
    record["listed"] = {"labels": len(right), "right": float(right.mean()) if len(right) else 0.0}
    return record


def rows(seeds: list[int]) -> Iterator[tuple[dict, list[str]]]:
    for kind, (n, positive) in TABLES.items():
        for rate in RATES:
            runs = [run(n, positive, rate, seed) for seed in seeds]
            cells = [kind, str(n), span((r["realised"] for r in runs), 2)]
            cells.append(span((r["resup"]["found"] for r in runs), 2))
            for name in ("plain", "resup"):
                own = [r[name] for r in runs]
                cells.append(span((100 * r["accuracy"] for r in own), 1))
                both = (span((r[k] for r in own), 2) for k in ("recall", "precision"))
                cells.append(" / ".join(both) if positive else "–")
            for name, digits in (("labels", 0), ("right", 2)):
                cells.append(span((r["listed"][name] for r in runs), digits))
            yield {"table": kind, "rate": rate, "seeds": seeds, "runs": runs}, cells


def main() -> None:
    args = arguments(__doc__, [0, 1, 2]).parse_args()
    heads = ["table", "samples", "realised", "found"]
    for name in ("plain", "resup"):
        heads += [f"{name}: accuracy", "recall / average precision"]
    heads += [f"listed at {STATED}", "right ones"]
    write_table(heads, rows(args.seeds), args.out)


if __name__ == "__main__":
    main()
