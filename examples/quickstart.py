"""Handwritten digits with wrong labels: plain cross-entropy beside ReSup, in under a minute.

    python examples/quickstart.py --noise 0.4 --kind symmetric --seed 0

trains the same pair of networks twice on scikit-learn's digits, after a share of the training
labels has been made wrong, prints a table and saves one picture.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from resup import CoTrainer, SimilarityHistogram, noise
from resup.plotting import plot_history, plot_mixture, plot_suspects

CLASSES, TEST_SAMPLES, EARLY = 10, 500, 2
BATCH, LEARNING_RATE, CONSISTENCY = 64, 3e-3, 50.0  # settled on seeds 10 to 14
LOOKALIKES = {1: 7, 7: 1, 3: 8, 8: 3, 4: 9, 9: 4, 5: 6, 6: 5}


def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(32 * 4, CLASSES),
    )  # fmt: skip


class Digits:
    """Images with true and given labels, split into training and test set."""

    def __init__(self, rate: float, kind: str, seed: int) -> None:
        digits = load_digits()
        order = np.random.default_rng(seed).permutation(len(digits.target))
        train, test = order[TEST_SAMPLES:], order[:TEST_SAMPLES]
        if kind == "symmetric":
            transition = noise.symmetric_transition(CLASSES, rate)
        else:
            transition = noise.asymmetric_transition(CLASSES, rate, LOOKALIKES)
        self.images = digits.images[train]
        self.true = digits.target[train]
        self.given = noise.apply_transition(self.true, transition, np.random.default_rng(seed))
        self.right = self.given == self.true
        pixels = torch.tensor(digits.images / 16, dtype=torch.float32)[:, None]
        self.train = TensorDataset(pixels[train], torch.tensor(self.given))
        self.test = TensorDataset(pixels[test], torch.tensor(digits.target[test]))


def train(digits: Digits, epochs: int, seed: int, plain: bool) -> tuple[CoTrainer, list]:
    """Train one pair; plain cross-entropy is a warm-up that never ends."""
    torch.manual_seed(seed)
    networks = network(), network()
    optimizer = torch.optim.Adam([p for n in networks for p in n.parameters()], LEARNING_RATE)
    trainer = CoTrainer(
        networks,
        optimizer,
        consistency_weight=CONSISTENCY,
        warmup_epochs=epochs if plain else 1,
    )
    loader = DataLoader(digits.train, BATCH, shuffle=True)
    snapshots = []
    for stop in (EARLY, epochs):
        trainer.fit(loader, stop, DataLoader(digits.test, TEST_SAMPLES))
        if trainer.weigher.mixtures_:
            seen = SimilarityHistogram(trainer.weigher.fitted_counts[0])
            snapshots.append((stop, trainer.weigher.mixtures_[0], seen))
    return trainer, snapshots


def report(name: str, trainer: CoTrainer, digits: Digits, weights: np.ndarray) -> str:
    accuracy = np.mean([record["val_accuracy_a"] for record in trainer.history[-5:]])
    wrong_weight = auroc = "–"
    if not digits.right.all():
        wrong_weight = f"{weights[~digits.right].mean():.3f}"
        auroc = f"{roc_auc_score(digits.right, weights):.3f}"
    right_weight = f"{weights[digits.right].mean():.3f}"
    return f"{name:20s} {100 * accuracy:9.2f} {right_weight:>12s} {wrong_weight:>12s} {auroc:>8s}"


def draw(path: Path, digits: Digits, runs: dict, weights: np.ndarray) -> None:
    figure = plt.figure(figsize=(13, 7.5), layout="constrained")
    top, bottom = figure.subfigures(2, 1, height_ratios=[1, 0.85])
    axes = top.subplots(1, 3)
    for ax, (epoch, mixture, seen) in zip(axes, runs["ReSup"][1], strict=False):
        plot_mixture(mixture, seen, ax=ax).set_title(f"network A after epoch {epoch}")
    plot_history({name: trainer.history for name, (trainer, _) in runs.items()}, ax=axes[2])
    axes[2].set(title="test accuracy", ylabel="network A")
    bottom.suptitle("the 16 most suspicious training images", fontsize=11)
    plot_suspects(
        digits.images, digits.given, weights, true=digits.true, axes=bottom.subplots(2, 8).flat
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--noise", type=float, default=0.4, help="share of labels made wrong")
    parser.add_argument("--kind", choices=["symmetric", "asymmetric"], default="symmetric")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--out", type=Path, default=Path("quickstart.png"), help="the picture")
    args = parser.parse_args()
    if args.epochs <= EARLY:
        parser.error(f"--epochs must be more than {EARLY}")

    torch.set_num_threads(1)  # these networks are too small for more to help
    digits = Digits(args.noise, args.kind, args.seed)
    rate = noise.noise_rate(digits.true, digits.given)
    print(f"{len(digits.given)} digits, {args.kind} noise {args.noise}, realised {rate:.3f}")

    runs, lines = {}, []
    for name in ("plain cross-entropy", "ReSup"):
        print(f"training: {name}")
        runs[name] = train(digits, args.epochs, args.seed, plain=name != "ReSup")
        weights = runs[name][0].clean_probability(DataLoader(digits.train, TEST_SAMPLES)).numpy()
        lines.append(report(name, runs[name][0], digits, weights))
    print(f"\n{'':20s} {'test acc.':>9s} {'weight right':>12s} {'weight wrong':>12s} {'AUROC':>8s}")
    print("\n".join(lines))
    print(
        "(test accuracy of network A, %, mean of the last 5 epochs; AUROC of finding wrong labels)"
    )
    draw(args.out, digits, runs, weights)
    print(f"picture: {args.out}")


if __name__ == "__main__":
    main()
