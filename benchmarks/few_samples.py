"""What a short warm-up costs where samples are few: digits, one hidden layer, default settings.

    python benchmarks/few_samples.py [--warmup 1 2 5] [--out FILE.json]

Networks that have seen a few hundred samples once contradict most labels, right or wrong. Each row
is a number of samples and a noise, each cell lowest to highest over the seeds: the realised noise
rate, the one found at the end, the area under the ROC curve of the wrong labels, and the accuracy
on the other digits, beside that of plain cross-entropy. Runs on the CPU.
"""

from argparse import Namespace
from collections.abc import Iterable, Iterator

import numpy as np
import torch
from sklearn.datasets import load_digits
from small_trainings import arguments, auroc, hits, one_layer, span, trainer_of, write_table
from torch.utils.data import DataLoader, TensorDataset

from resup import noise

PARTNERS = {7: 1, 3: 8, 9: 4, 5: 6, 2: 7}
NOISES = {
    "none": np.eye(10),
    "symmetric 30 %": noise.symmetric_transition(10, 0.3),
    "symmetric 50 %": noise.symmetric_transition(10, 0.5),
    "5 pairs 40 %": noise.asymmetric_transition(10, 0.4, PARTNERS),
}
SIZES = {300: 32, 600: 32, 1300: 128}  # samples: batch size
EPOCHS = 20


def run(n: int, kind: str, seed: int, warmups: Iterable[int]) -> dict:
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(seed).permutation(len(labels))
    x, y = torch.tensor(images[order] / 16, dtype=torch.float32), labels[order]
    given = torch.as_tensor(
        noise.apply_transition(y[:n], NOISES[kind], np.random.default_rng(seed))
    )
    wrong = given.numpy() != y[:n]
    data = TensorDataset(x[:n], given)
    record = {"realised": noise.noise_rate(y[:n], given)}
    for name, warmup in {"plain": EPOCHS, **{f"warm-up {w}": w for w in warmups}}.items():
        torch.manual_seed(seed)
        trainer = trainer_of((one_layer(64, 10), one_layer(64, 10)), warmup)
        trainer.fit(DataLoader(data, SIZES[n], shuffle=True), EPOCHS)
        accuracy = float(hits(trainer.models[0], x[n:], y[n:]).mean())
        if name == "plain":
            record[name] = accuracy
            continue
        clean = trainer.clean_probability(DataLoader(data, 500)).numpy()
        record[name] = {
            "found": float(np.mean(trainer.weigher.noise_rates_)),
            "auroc": auroc(wrong, clean),
            "accuracy": accuracy,
        }
    return record


def rows(args: Namespace) -> Iterator[tuple[dict, list[str]]]:
    for n in SIZES:
        for kind in NOISES:
            runs = [run(n, kind, seed, args.warmup) for seed in args.seeds]
            cells = [str(n), kind, span((r["realised"] for r in runs), 2)]
            cells.append(span((100 * r["plain"] for r in runs), 0))
            for warmup in args.warmup:
                own = [r[f"warm-up {warmup}"] for r in runs]
                cells.append(span((r["found"] for r in own), 2))
                cells.append(span((r["auroc"] for r in own), 3) if kind != "none" else "–")
                cells.append(span((100 * r["accuracy"] for r in own), 0))
            yield {"samples": n, "noise": kind, "seeds": args.seeds, "runs": runs}, cells


def main() -> None:
    parser = arguments(__doc__, [0, 1, 2, 3, 4])
    parser.add_argument("--warmup", type=int, nargs="+", default=[1, 5])
    args = parser.parse_args()
    heads = ["samples", "noise", "realised", "plain: accuracy"]
    for warmup in args.warmup:
        heads += [f"warm-up {warmup}: found", "AUROC", "accuracy"]
    write_table(heads, rows(args), args.out)


if __name__ == "__main__":
    main()
