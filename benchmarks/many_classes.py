"""From 2 to 1,000 classes: overlapping Gaussian clusters, a small network, default settings.

    python benchmarks/many_classes.py [--out FILE.json]

Each row is a number of classes and a noise, each cell lowest to highest over the seeds: the
realised noise rate, the accuracy of plain cross-entropy and of `CoTrainer` on true labels that
neither has seen, the noise rate found at the end, and the area under the ROC curve of the wrong
labels. Pairs: every class to the next. Runs on the CPU.
"""

from collections.abc import Iterator

import numpy as np
import torch
from small_trainings import arguments, auroc, hits, network, span, trainer_of, write_table
from torch.utils.data import DataLoader, TensorDataset

from resup import noise

CLUSTERS = {  # samples of each, dimensions, spread
    2: (2000, 8, 2.0),
    10: (500, 16, 1.8),
    100: (100, 32, 1.4),
    1000: (20, 64, 1.2),
}
RATE, EPOCHS, BATCH, TEST = 0.3, 20, 128, 5000
HEADS = "classes", "noise", "realised", "plain", "resup", "found", "AUROC"


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
    given = torch.as_tensor(noise.apply_transition(y, transition, np.random.default_rng(seed)))
    wrong = given.numpy() != y
    data = TensorDataset(x, given)
    record = {"realised": noise.noise_rate(y, given)}
    for name, warmup in (("plain", EPOCHS), ("resup", 1)):
        torch.manual_seed(seed)
        trainer = trainer_of((network(inputs, classes), network(inputs, classes)), warmup)
        trainer.fit(DataLoader(data, BATCH, shuffle=True), EPOCHS)
        record[name] = float(hits(trainer.models[0], *test).mean())
    clean = trainer.clean_probability(DataLoader(data, 500)).numpy()
    record["found"] = float(np.mean(trainer.weigher.noise_rates_))
    record["auroc"] = auroc(wrong, clean)
    return record


def rows(seeds: list[int]) -> Iterator[tuple[dict, list[str]]]:
    for classes in CLUSTERS:
        for kind, transition in transitions(classes).items():
            runs = [run(classes, transition, seed) for seed in seeds]
            cells = [str(classes), kind, span((r["realised"] for r in runs), 2)]
            cells += [span((100 * r[name] for r in runs), 1) for name in ("plain", "resup")]
            cells.append(span((r["found"] for r in runs), 2))
            cells.append("–" if kind == "none" else span((r["auroc"] for r in runs), 3))
            yield {"classes": classes, "noise": kind, "seeds": seeds, "runs": runs}, cells


def main() -> None:
    args = arguments(__doc__, [0, 1, 2]).parse_args()
    write_table(HEADS, rows(args.seeds), args.out)


if __name__ == "__main__":
    main()
