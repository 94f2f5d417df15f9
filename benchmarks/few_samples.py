"""What a short warm-up costs where samples are few: digits, one hidden layer, default settings.

    python benchmarks/few_samples.py [--warmup 1 2 5] [--out FILE.json]

Networks that have seen a few hundred samples once contradict most labels, right or wrong. Each row
is a number of samples and a noise, each cell lowest to highest over the seeds: the realised noise
rate, the one found at the end, the area under the ROC curve of the wrong labels, and the accuracy
on the other digits, beside that of one network with plain cross-entropy. Runs on the CPU.
"""

import argparse
import json
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))

from paper.provenance import provenance

from resup import CoTrainer, noise

PARTNERS = {7: 1, 3: 8, 9: 4, 5: 6, 2: 7}
NOISES = {
    "none": np.eye(10),
    "symmetric 30 %": noise.symmetric_transition(10, 0.3),
    "symmetric 50 %": noise.symmetric_transition(10, 0.5),
    "5 pairs 40 %": noise.asymmetric_transition(10, 0.4, PARTNERS),
}
SIZES = {300: 32, 600: 32, 1300: 128}  # samples: batch size
EPOCHS, RATE = 20, 1e-3


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


def accuracy(net: nn.Module, x: torch.Tensor, y: np.ndarray) -> float:
    with torch.no_grad():
        return float((net(x).argmax(1).numpy() == y).mean())


def run(n: int, kind: str, seed: int, warmups: Iterable[int]) -> dict:
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(seed).permutation(len(labels))
    x, y = torch.tensor(images[order] / 16, dtype=torch.float32), labels[order]
    given = torch.as_tensor(noise.apply_transition(y[:n], NOISES[kind], seed))
    wrong = given.numpy() != y[:n]
    data = TensorDataset(x[:n], given)
    record = {"realised": noise.noise_rate(y[:n], given)}

    torch.manual_seed(seed)
    net = network()
    optimizer = torch.optim.Adam(net.parameters(), RATE)
    for _ in range(EPOCHS):
        for inputs, targets in DataLoader(data, SIZES[n], shuffle=True):
            optimizer.zero_grad()
            F.cross_entropy(net(inputs), targets).backward()
            optimizer.step()
    record["plain"] = accuracy(net, x[n:], y[n:])

    for warmup in warmups:
        torch.manual_seed(seed)
        nets = network(), network()
        optimizer = torch.optim.Adam([p for net in nets for p in net.parameters()], RATE)
        trainer = CoTrainer(nets, optimizer, warmup_epochs=warmup, progress=False)
        trainer.fit(DataLoader(data, SIZES[n], shuffle=True), EPOCHS)
        clean = trainer.clean_probability(DataLoader(data, 500)).numpy()
        record[f"warm-up {warmup}"] = {
            "found": float(np.mean(trainer.weigher.noise_rates_)),
            "auroc": float(roc_auc_score(~wrong, clean)) if wrong.any() else None,
            "accuracy": accuracy(nets[0], x[n:], y[n:]),
        }
    return record


def span(values: Iterable[float], digits: int) -> str:
    values = list(values)
    return f"{min(values):.{digits}f} to {max(values):.{digits}f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--warmup", type=int, nargs="+", default=[1, 5])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    heads = ["samples", "noise", "realised", "plain: accuracy"]
    for warmup in args.warmup:
        heads += [f"warm-up {warmup}: found", "AUROC", "accuracy"]
    print("| " + " | ".join(heads) + " |\n" + "|---" * len(heads) + "|")
    rows = []
    for n in SIZES:
        for kind in NOISES:
            runs = [run(n, kind, seed, args.warmup) for seed in args.seeds]
            rows.append({"samples": n, "noise": kind, "seeds": args.seeds, "runs": runs})
            cells = [str(n), kind, span((r["realised"] for r in runs), 2)]
            cells.append(span((100 * r["plain"] for r in runs), 0))
            for warmup in args.warmup:
                own = [r[f"warm-up {warmup}"] for r in runs]
                cells.append(span((r["found"] for r in own), 2))
                wrong = kind != "none"
                cells.append(span((r["auroc"] for r in own), 3) if wrong else "–")
                cells.append(span((100 * r["accuracy"] for r in own), 0))
            print("| " + " | ".join(cells) + " |", flush=True)
    if args.out:
        args.out.write_text(json.dumps({"rows": rows, **provenance()}, indent=1) + "\n")


if __name__ == "__main__":
    main()
