"""Classes from common to rare: overlapping Gaussian clusters, a small network, default settings.

    python benchmarks/rare_classes.py [--out FILE.json]

Each row is a ratio of the largest class to the smallest (geometric between them) and a noise, each
cell lowest to highest over the seeds: the realised noise rate, the one found at the end, then mean
accuracy of all classes / of the three rarest, of plain cross-entropy, of `CoTrainer`, and of the
same without aligned predictions (`resup.alignment`). Runs on the CPU.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch
from few_samples import span
from many_classes import network
from torch.utils.data import DataLoader, TensorDataset

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))

from paper.provenance import provenance

from resup import CoTrainer, noise

CLASSES, INPUTS, SPREAD, LARGEST, TEST = 10, 16, 1.8, 1000, 5000
RATIOS = 10, 50
NOISES = {"none": np.eye(CLASSES), "symmetric 30 %": noise.symmetric_transition(CLASSES, 0.3)}
EPOCHS, BATCH = 20, 128
METHODS = {"plain": EPOCHS, "resup": 1, "not aligned": 1}  # epochs of warm-up


def run(ratio: int, transition: np.ndarray, seed: int) -> dict:
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(CLASSES, INPUTS))

    def draw(y: np.ndarray) -> tuple[torch.Tensor, np.ndarray]:
        x = centres[y] + SPREAD * rng.normal(size=(len(y), INPUTS))
        return torch.tensor(x, dtype=torch.float32), y

    sizes = np.rint(LARGEST * ratio ** (-np.arange(CLASSES) / (CLASSES - 1))).astype(int)
    x, y = draw(rng.permutation(np.repeat(np.arange(CLASSES), sizes)))
    x_test, y_test = draw(np.arange(TEST) % CLASSES)
    given = torch.as_tensor(noise.apply_transition(y, transition, seed))
    record = {"realised": noise.noise_rate(y, given)}
    for name, warmup in METHODS.items():
        torch.manual_seed(seed)
        pair = network(INPUTS, CLASSES), network(INPUTS, CLASSES)
        optimizer = torch.optim.Adam([p for net in pair for p in net.parameters()], 1e-3)
        trainer = CoTrainer(pair, optimizer, warmup_epochs=warmup, progress=False)
        if name == "not aligned":
            trainer.weigher.alignment.learn = lambda probabilities: None
        trainer.fit(DataLoader(TensorDataset(x, given), BATCH, shuffle=True), EPOCHS)
        with torch.no_grad():
            right = pair[0].eval()(x_test).argmax(1).numpy() == y_test
        classes = [float(right[y_test == c].mean()) for c in range(CLASSES)]
        record[name] = {"found": float(np.mean(trainer.weigher.noise_rates_)), "classes": classes}
    return record


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    heads = ["ratio", "noise", "realised", "found", *METHODS]
    print("| " + " | ".join(heads) + " |\n" + "|---" * len(heads) + "|")
    rows = []
    for ratio in RATIOS:
        for kind, transition in NOISES.items():
            runs = [run(ratio, transition, seed) for seed in args.seeds]
            rows.append({"ratio": ratio, "noise": kind, "seeds": args.seeds, "runs": runs})
            cells = [str(ratio), kind, span((r["realised"] for r in runs), 2)]
            cells.append(span((r["resup"]["found"] for r in runs), 2))
            for name in METHODS:
                all_, rare = (
                    span((100 * np.mean(r[name]["classes"][-n:]) for r in runs), 0)
                    for n in (CLASSES, 3)
                )
                cells.append(f"{all_} / {rare}")
            print("| " + " | ".join(cells) + " |", flush=True)
    if args.out:
        args.out.write_text(json.dumps({"rows": rows, **provenance()}, indent=1) + "\n")


if __name__ == "__main__":
    main()
