"""From 2 to 100 classes: overlapping Gaussian clusters, a small network, default settings.

    python benchmarks/many_classes.py [--out FILE.json]

Each row is a number of classes and a noise, each cell lowest to highest over the seeds: the
realised noise rate, the accuracy of plain cross-entropy and of `CoTrainer` on true labels that
neither has seen, the noise rate found at the end, and the area under the ROC curve of the wrong
labels. Pairs: every class to the next. Runs on the CPU.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch
from few_samples import accuracy, span
from sklearn.metrics import roc_auc_score
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))

from paper.provenance import provenance

from resup import CoTrainer, noise

CLUSTERS = {2: (2000, 8, 2.0), 10: (500, 16, 1.8), 100: (100, 32, 1.4)}  # each, dimensions, spread
RATE, EPOCHS, BATCH, TEST = 0.3, 20, 128, 5000
HEADS = "classes", "noise", "realised", "plain", "resup", "found", "AUROC"


def network(inputs: int, classes: int, width: int = 256) -> nn.Module:
    def hidden(inputs: int) -> list[nn.Module]:
        return [nn.Linear(inputs, width), nn.BatchNorm1d(width), nn.ReLU()]

    return nn.Sequential(*hidden(inputs), *hidden(width), nn.Linear(width, classes))


def transitions(classes: int) -> dict[str, np.ndarray]:
    kinds = {"none": np.eye(classes), "symmetric": noise.symmetric_transition(classes, RATE)}
    if classes > 2:
        following = {c: (c + 1) % classes for c in range(classes)}
        kinds["pairs"] = noise.asymmetric_transition(classes, RATE, following)
    return kinds


def run(classes: int, transition: np.ndarray, seed: int) -> dict:
    each, inputs, spread = CLUSTERS[classes]
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(classes, inputs))

    def draw(n: int) -> tuple[torch.Tensor, np.ndarray]:
        y = rng.permutation(np.arange(n) % classes)
        x = centres[y] + spread * rng.normal(size=(n, inputs))
        return torch.tensor(x, dtype=torch.float32), y

    (x, y), test = draw(each * classes), draw(TEST)
    given = torch.as_tensor(noise.apply_transition(y, transition, seed))
    wrong = given.numpy() != y
    data = TensorDataset(x, given)
    record = {"realised": noise.noise_rate(y, given)}
    for name, warmup in (("plain", EPOCHS), ("resup", 1)):
        torch.manual_seed(seed)
        pair = network(inputs, classes), network(inputs, classes)
        optimizer = torch.optim.Adam([p for net in pair for p in net.parameters()], 1e-3)
        trainer = CoTrainer(pair, optimizer, warmup_epochs=warmup, progress=False)
        trainer.fit(DataLoader(data, BATCH, shuffle=True), EPOCHS)
        record[name] = accuracy(pair[0].eval(), *test)
    clean = trainer.clean_probability(DataLoader(data, 500)).numpy()
    record["found"] = float(np.mean(trainer.weigher.noise_rates_))
    record["auroc"] = float(roc_auc_score(~wrong, clean)) if wrong.any() else None
    return record


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    print("| " + " | ".join(HEADS) + " |\n" + "|---" * len(HEADS) + "|")
    rows = []
    for classes in CLUSTERS:
        for kind, transition in transitions(classes).items():
            runs = [run(classes, transition, seed) for seed in args.seeds]
            rows.append({"classes": classes, "noise": kind, "seeds": args.seeds, "runs": runs})
            cells = [str(classes), kind, span((r["realised"] for r in runs), 2)]
            cells += [span((100 * r[name] for r in runs), 1) for name in ("plain", "resup")]
            cells.append(span((r["found"] for r in runs), 2))
            cells.append("–" if kind == "none" else span((r["auroc"] for r in runs), 3))
            print("| " + " | ".join(cells) + " |", flush=True)
    if args.out:
        args.out.write_text(json.dumps({"rows": rows, **provenance()}, indent=1) + "\n")


if __name__ == "__main__":
    main()
