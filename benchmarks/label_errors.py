"""Which human labels of CIFAR-10N are wrong: one ReSup run against cleanlab on cross-validation.

    python benchmarks/label_errors.py --data DATA --size cpu --labels worst aggre random1

`DATA` holds ``cifar-10-batches-py`` and ``CIFAR-10_human.npz`` or ``.pt``. Both sides train the
network of Table 5 by its protocol (`examples/cifar10.py`):

resup      a pair of networks, once, on all images. Its score of a label is `clean_probability`
           after the last epoch, or the mean over the epochs after the warm-up, which takes a pass
           over the images an epoch.
cleanlab   one network with plain cross-entropy in each of 5 folds, stratified by the given labels.
           The predictions of held-out images, after the last epoch or by the mean over the epochs
           after the first, go to cleanlab's label quality scores, and to `find_label_issues` as it
           comes, which names a set and ranks it by self-confidence.
from_predictions
           what `LabelReport.from_predictions` says of the same held-out predictions.

A wrong label is the positive class. Precision and recall are those of the set that
`find_label_issues` names, or of the labels that are more likely wrong than right. The area and the
average precision of `find_label_issues` count all labels outside of its set as tied. *False at*
has the share of right labels among those that `resup.q_values` lists at a stated rate, *listed* the
share of the wrong labels that is among them. With several seeds the table holds means, of the areas
with their standard deviation.

Each finished training is kept under --runs and not run again; ``--only resup`` or ``--only folds``
trains one side. The numbers are printed when both are there, with ``--only resup`` those of resup
alone where the folds are missing, and written to ``OUT/label_errors-SIZE.json``; those of other
than the default settings go to a file of their own.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from time import perf_counter, process_time
from typing import Any
from zlib import crc32

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, precision_score, recall_score, roc_auc_score
from sklearn.model_selection import StratifiedKFold

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))

import cifar10
from paper import methods
from paper.batches import DeviceBatches
from paper.datasets import Split
from paper.provenance import ROOT, provenance
from paper.run import (
    AUTOCAST,
    DEVICE,
    DTYPE,
    Protocol,
    check_folder,
    make_network,
    positive,
    whole,
    whole_number,
    write_json,
)
from posterior_quality import STATED, listed

from resup import CoTrainer, LabelReport
from resup.callbacks import Callback

CLASSES, FOLDS = 10, 5
LABELS = ["worst", "aggre", "random1"]
SEEDS = [0, 1, 2]
SCORES = "self_confidence", "normalized_margin", "confidence_weighted_entropy"
OVER = ("last", "last epoch", "seconds"), ("mean", "mean of epochs", "seconds_mean")
Arrays = dict[str, Any]


def now() -> NDArray[np.float64]:
    """Wall and processor seconds, the device having done all it was told."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return np.array([perf_counter(), process_time()])


class Memory(Callback):
    """Sums `clean_probability` over the epochs after the warm-up, and the seconds that takes."""

    def __init__(self, ordered: DeviceBatches) -> None:
        self.ordered, self.epochs = ordered, 0
        self.total, self.seconds = np.zeros(len(ordered.labels)), np.zeros(2)

    def on_epoch_end(self, trainer: CoTrainer, record: dict[str, Any]) -> None:
        if trainer.epoch <= trainer.warmup_epochs:
            return
        start = now()
        self.total += trainer.clean_probability(self.ordered).numpy()
        self.epochs += 1
        self.seconds += now() - start


def train_resup(args: argparse.Namespace, protocol: Protocol, data: Split, seed: int) -> Arrays:
    """Train a pair; `data` has the given labels."""
    start = now()
    torch.manual_seed(seed)
    train = DeviceBatches(
        *data, protocol.batch,
        augment=protocol.augment, shuffle=True, seed=seed, device=args.device,
    )  # fmt: skip
    ordered = train.in_order(500)
    pair = [make_network(protocol, data, CLASSES, args.device) for _ in range(2)]
    memory = Memory(ordered)
    trainer = methods.make(
        args.method,
        pair,
        *protocol.adam(pair),
        epochs=protocol.epochs,
        noise_rate=np.nan,  # for methods that must be told it, which are not offered here
        autocast=AUTOCAST[args.dtype],
        progress=sys.stderr.isatty(),
        callbacks=[memory],
    ).fit(train, protocol.epochs)
    last = trainer.clean_probability(ordered).numpy()
    seconds = now() - start
    return {
        "last": last,
        "mean": memory.total / memory.epochs,
        "seconds": seconds - memory.seconds,
        "seconds_mean": seconds,
    }


def train_fold(
    args: argparse.Namespace,
    protocol: Protocol,
    data: Split,
    kept: NDArray[np.intp],
    held_out: NDArray[np.intp],
    seed: int,
) -> Arrays:
    """Train one network on the rows `kept`, and predict the rows `held_out`."""
    start = now()
    torch.manual_seed(seed)
    train = DeviceBatches(
        data.images[kept], data.labels[kept], protocol.batch,
        augment=protocol.augment, shuffle=True, seed=seed, device=args.device,
    )  # fmt: skip
    test = DeviceBatches(
        data.images[held_out], data.labels[held_out], 500,
        device=args.device, statistics=train.statistics,
    )  # fmt: skip
    network = make_network(protocol, data, CLASSES, args.device)
    optimizer, scheduler = protocol.adam([network])
    dtype = AUTOCAST[args.dtype]
    autocast = partial(torch.autocast, args.device.split(":")[0], dtype, enabled=dtype is not None)
    total, seconds = torch.zeros(len(held_out), CLASSES, device=args.device), np.zeros(2)
    for epoch in range(protocol.epochs):
        network.train()
        for images, labels in train:
            with autocast():
                logits = network(images)
            optimizer.zero_grad()
            F.cross_entropy(logits.float(), labels).backward()
            optimizer.step()
        scheduler.step()
        if epoch == 0:
            continue
        before = now()
        network.eval()
        with torch.no_grad(), autocast():
            last = torch.cat([network(images).float().softmax(1) for images, _ in test])
        total += last
        took = now() - before
        seconds += took
    all_seconds = now() - start
    return {
        "held_out": held_out,
        "last": last.cpu().numpy(),
        "mean": (total / (protocol.epochs - 1)).cpu().numpy(),
        "seconds": all_seconds - seconds + took,
        "seconds_mean": all_seconds,
    }


def trainings(
    args: argparse.Namespace, protocol: Protocol, data: Split, seed: int
) -> Iterator[tuple[str, Callable[[], Arrays]]]:
    """Names of the trainings and what does them."""
    if args.only != "folds":
        yield args.method, partial(train_resup, args, protocol, data, seed)
    if args.only != "resup":
        folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
        for i, (kept, held_out) in enumerate(folds.split(data.labels, data.labels)):
            own = seed + 1000 * (i + 1)
            yield f"fold{i}", partial(train_fold, args, protocol, data, kept, held_out, own)


def train(args: argparse.Namespace, noise: str, protocol: Protocol, data: Split, seed: int) -> Path:
    """Do what is not done yet; returns the folder with a file a training."""
    folder = args.runs / f"{args.size}-{protocol.epochs}-{args.dtype}-{noise}-{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    settings = {"labels": crc32(data.labels.tobytes()), "images": crc32(data.images.tobytes())}
    check_folder(folder / "settings.json", settings, "--runs")
    write_json(folder / "settings.json", settings)
    for name, training in trainings(args, protocol, data, seed):
        path = folder / f"{name}.npz"
        if not path.exists():
            arrays = training()
            with whole(path) as file:
                np.savez_compressed(file, **arrays, provenance=json.dumps(provenance()))
            print(f"{noise} {name}, seed {seed}: {arrays['seconds'][0]:.0f} s", flush=True)
    return folder


def evaluate(
    wrong: NDArray[np.bool_],
    clean: Arrays,
    folds: list[Arrays],
    given: NDArray[np.int64],
    method: str = "resup",
) -> Iterator[dict[str, Any]]:
    """Rows of the table, of what `train` has left for one set of labels; maybe without folds."""

    def row(
        name: str, suspicion: NDArray[Any], seconds: NDArray[Any], named: Any = None
    ) -> dict[str, Any]:
        found = {
            "method": name,
            "auroc": float(roc_auc_score(wrong, suspicion)),
            "average_precision": float(average_precision_score(wrong, suspicion)),
            "seconds": float(seconds[0]),
            "cpu_seconds": float(seconds[1]),
        }
        if named is not None:
            found["named"] = int(named.sum())
            found["precision"] = float(precision_score(wrong, named, zero_division=0))
            found["recall"] = float(recall_score(wrong, named))
        return found

    def judged(
        name: str, suspicion: NDArray[Any], seconds: NDArray[Any], probability: NDArray[Any]
    ) -> dict[str, Any]:
        false, share = listed(probability, ~wrong)
        found = row(name, suspicion, seconds, probability < 0.5)
        return found | {"listed_falsely": false, "listed": share}

    for key, which, took in OVER:
        yield judged(f"{method}, {which}", -clean[key], clean[took], clean[key])

    if not folds:
        return
    from cleanlab.filter import find_label_issues
    from cleanlab.rank import get_label_quality_scores

    for key, which, took in OVER:
        probabilities = np.empty((len(wrong), folds[0][key].shape[1]))
        for fold in folds:
            probabilities[fold["held_out"]] = fold[key]
        trained = np.sum([fold[took] for fold in folds], 0)
        for score in SCORES:
            start = now()
            quality = get_label_quality_scores(given, probabilities, method=score)
            yield row(f"cleanlab, {score}, {which}", -quality, trained + now() - start)
        start = now()
        issues = find_label_issues(
            given, probabilities, return_indices_ranked_by="self_confidence", n_jobs=1
        )
        seconds, suspicion = trained + now() - start, by_rank(issues, len(wrong))
        yield row(f"cleanlab, find_label_issues, {which}", suspicion, seconds, suspicion > 0)
        start = now()
        report = LabelReport.from_predictions(given, probabilities)
        seconds, place = trained + now() - start, np.argsort(report.index)
        yield judged(f"from_predictions, {which}", -place, seconds, report.clean_probability[place])


def by_rank(issues: NDArray[np.intp], n: int) -> NDArray[np.float64]:
    """Suspicion of n labels, of which `issues` are listed most suspicious first; others have 0."""
    suspicion = np.zeros(n)
    suspicion[issues] = np.arange(len(issues), 0, -1)
    return suspicion


def markdown(results: Sequence[dict[str, Any]]) -> str:
    lines = [
        "| labels | wrong | method | AUROC | average precision | named | precision | recall "
        f"| false at {' / '.join(map(str, STATED))} | listed | seconds | CPU seconds | seeds |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for labels, method in dict.fromkeys((r["labels"], r["method"]) for r in results):
        rows = [r for r in results if (r["labels"], r["method"]) == (labels, method)]
        forms = {
            "auroc": ".4f", "average_precision": ".4f", "named": ",.0f", "precision": ".3f",
            "recall": ".3f", "listed_falsely": ".3f", "listed": ".3f", "seconds": ",.0f",
            "cpu_seconds": ",.0f",
        }  # fmt: skip
        cells = [mean(rows, key, form) for key, form in forms.items()]
        noise = mean(rows, "noise_rate", ".1%")
        seeds = " ".join(str(row["seed"]) for row in rows)
        lines.append(f"| {' | '.join([labels, noise, method, *cells, seeds])} |")
    return "\n".join(lines)


def mean(rows: Sequence[dict[str, Any]], key: str, form: str) -> str:
    """Mean over the seeds; with their standard deviation where it is one of the areas."""
    if key not in rows[0]:
        return "–"
    values = np.array([row[key] for row in rows])
    text = " / ".join(format(value, form) for value in np.atleast_1d(values.mean(0)))
    if key in ("auroc", "average_precision") and len(rows) > 1:
        text += f" ± {values.std(ddof=1):{form}}"
    return text


def read(path: Path) -> Arrays:
    with np.load(path) as file:
        return dict(file)


def rated(
    args: argparse.Namespace, protocol: Protocol, data: Split
) -> tuple[list[dict[str, Any]], list[str], bool]:
    """Rows of all labels and seeds, what trained them, and whether resup stands alone in some.

    `data` has the true labels.
    """
    results, trained, alone = [], [], False
    for noise in args.labels:
        given = cifar10.human_labels(args.data, noise, data.labels)[: protocol.samples]
        wrong = given != data.labels
        for seed in args.seeds:
            folder = train(args, noise, protocol, data._replace(labels=given), seed)
            names = args.method, *map("fold{}".format, range(FOLDS))
            paths = [folder / f"{name}.npz" for name in names]
            if missing := [path.name for path in paths if not path.exists()]:
                if args.only != "resup":
                    print(f"{noise}: no numbers yet, {', '.join(missing)} missing in {folder}")
                    continue
                paths, alone = paths[:1], True
            clean, *folds = map(read, paths)
            trained += [str(arrays["provenance"]) for arrays in (clean, *folds)]
            common = {"labels": noise, "noise_rate": float(wrong.mean()), "seed": seed}
            results += [common | row for row in evaluate(wrong, clean, folds, given, args.method)]
    return results, trained, alone


def file_name(args: argparse.Namespace, alone: bool) -> str:
    """Name the file of the results by the settings that are not the default ones."""
    trial = [f"{args.epochs}-epochs"] * bool(args.epochs)
    trial += args.labels if args.labels != LABELS else []
    trial += [args.method] * (args.method != "resup") + [args.dtype] * (args.dtype != "bfloat16")
    trial += [f"seed-{seed}" for seed in args.seeds] * (args.seeds != SEEDS) + ["alone"] * alone
    return f"{'-'.join(['label_errors', args.size, *trial])}.json"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--data", type=Path, required=True, help="folder that holds cifar-10-batches-py")
    add("--labels", nargs="+", choices=cifar10.HUMAN, default=LABELS)
    add("--size", choices=cifar10.PROTOCOLS, default="paper", help="protocol")
    add("--method", choices=methods.RESUP, default="resup")
    add("--only", choices=("resup", "folds"), help="train one side only")
    add("--epochs", type=positive, help="other than the protocol's")
    add("--seeds", type=whole_number, nargs="+", default=SEEDS)
    add("--device", default=DEVICE)
    add("--dtype", choices=AUTOCAST, default=DTYPE, help="of the networks' arithmetic")
    add("--runs", type=Path, default=Path("runs/label_errors"), help="finished trainings")
    add("--out", type=Path, default=ROOT / "benchmarks" / "results")
    args = parser.parse_args(arguments)
    if args.epochs is not None and args.epochs < 2:
        parser.error(f"--epochs must be at least 2, of which one is the warm-up, got {args.epochs}")
    if args.only is None:
        import cleanlab  # noqa: F401, now rather than after all trainings
    if args.device == "cpu":
        torch.set_num_threads(1)
    protocol = cifar10.PROTOCOLS[args.size].but(epochs=args.epochs)
    data = Split(*(column[: protocol.samples] for column in cifar10.cifar10(args.data).train))
    results, trained, alone = rated(args, protocol, data)
    if not results:
        return
    print(markdown(results))
    record = {
        **provenance(*(() if alone else ("cleanlab",))),
        "trained_by": [json.loads(text) for text in dict.fromkeys(trained)],
        "size": args.size,
        "samples": len(data.labels),
        "epochs": protocol.epochs,
        "folds": FOLDS,
        "seeds": args.seeds,
        "resup": args.method,
        "dtype": args.dtype,
        "results": results,
    }
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / file_name(args, alone)).write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
