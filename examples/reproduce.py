"""Run whole tables and figures of the paper, and print them beside the published numbers.

    python examples/reproduce.py --table 5 --data DATA                     # full size, on a GPU
    python examples/reproduce.py --table 2 --data DATA --size cpu --jobs 2
    python examples/reproduce.py --table 5 --size cpu --dtype bfloat16 --print     # what is done
    python examples/reproduce.py --figure 5 --data DATA --size cpu         # then draws it

`DATA` holds ``cifar-10-batches-py``, ``CIFAR-10_human.pt`` and the folders ``ferplus``, ``rafdb``,
``affectnet``, ``expw`` of what is to be run. A run that is in ``benchmarks/results`` already is
skipped, one that was broken off goes on, and ``--jobs`` run side by side. Runs that tell most come
first: all columns of the first rows, then more rows, then more seeds. ``--network resnet18-cifar``
gives ``--table human`` at full size the backbone of its field.

Figures go to ``--out``, by default to the docs, but those of some rows or columns only, trials and
those in float32 to ``--runs``. There 3 and 4 always go, which show faces that may not be passed on.
3, 4 and 7 are drawn from files that the run of the first seed has left in ``--runs``.

At full size the paper's networks for faces start from MS-Celeb-1M and ImageNet; here they start at
random unless ``--weights`` are given.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from threading import Lock

import numpy as np
from paper.methods import METHODS
from paper.networks import NETWORKS
from paper.published import FIGURES, PLACES, TABLES, Column, Table
from paper.run import AUTOCAST, DTYPE, SNAPSHOTS, positive, whole_number

EXAMPLES = Path(__file__).resolve().parent
RESULTS = EXAMPLES.parent / "benchmarks" / "results"
PICTURES = EXAMPLES.parent / "docs" / "_static" / "results"
LEFT = {  # files of a run itself that a figure is drawn from
    "3": ("labels",),
    "4": ("labels",),
    "7": ("labels", *map("epoch{}".format, SNAPSHOTS)),
}


class Results:
    """The records of finished runs, one file of JSON lines for each data set and size."""

    def __init__(self, folder: Path, size: str) -> None:
        self.folder, self.size, self.lock = folder, size, Lock()

    def path(self, dataset: str) -> Path:
        return self.folder / f"{dataset}-{self.size}.jsonl"

    def read(self, dataset: str) -> list[dict]:
        path = self.path(dataset)
        with self.lock:
            lines = path.read_text().splitlines() if path.exists() else []
        records = []
        for number, line in enumerate(lines, 1):
            try:
                records.append(json.loads(line))
            except ValueError:
                raise SystemExit(f"{path}, line {number} is no record: delete it") from None
        return records

    def find(self, column: Column, method: str) -> list[dict]:
        """Records of a cell, one a seed."""
        wanted = {"method": method, **column.wanted()}
        found = {
            record["seed"]: record
            for record in self.read(column.dataset)
            if all(record.get(key) == value for key, value in wanted.items())
        }
        return list(found.values())

    def add(self, dataset: str, record: Path) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        with self.lock, self.path(dataset).open("ab", buffering=0) as file:
            file.write(record.read_bytes())  # at once, as other runners may write too


def runs(table: Table, seeds: Iterable[int]) -> Iterator[tuple[Column, str, int]]:
    """Every run of a table, those that tell most first."""
    for seed in dict.fromkeys(seeds):
        for method in table.rows:
            for column in table.columns:
                yield column, method, seed


def trial(args: argparse.Namespace) -> dict[str, int]:
    """What is asked for in place of the protocol's own."""
    return {name: n for name in ("epochs", "samples") if (n := getattr(args, name))}


def size(args: argparse.Namespace) -> str:
    """Name of the protocol; trials of other sizes and in float32 stay apart from its results."""
    parts = [f"{n}-{name}" for name, n in trial(args).items()]
    return "-".join([args.size, *parts, *[args.dtype] * (args.dtype != "bfloat16")])


def flags(name: str) -> str:
    """What to ask for to get this `size`; nothing where it is none."""
    trial = r"(-(?P<epochs>\d+)-epochs)?(-(?P<samples>\d+)-samples)?"
    parts = re.fullmatch(f"(?P<size>paper|cpu){trial}(-(?P<dtype>float32))?", name)
    if not parts:
        return ""
    asked = parts.groupdict(default="") | {"dtype": parts["dtype"] or "bfloat16"}
    return " ".join(f"--{flag} {value}" for flag, value in asked.items() if value)


def folder(args: argparse.Namespace, column: Column, method: str, seed: int) -> Path:
    name = f"{column.dataset}-{column.name}-{method}-{seed}-{size(args)}"
    return args.runs / name.replace(" ", "_")


def start(
    args: argparse.Namespace,
    results: Results,
    running: set[subprocess.Popen],
    column: Column,
    method: str,
    seed: int,
) -> bool:
    """Run one cell in a process of its own, unless all is there; returns whether it is now."""
    out = folder(args, column, method, seed)
    there = any(record["seed"] == seed for record in results.find(column, method))
    needed = LEFT.get(args.figure, ()) if seed == args.seeds[0] else ()
    if there and all((out / f"{name}.npz").exists() for name in needed):
        return True
    out.mkdir(parents=True, exist_ok=True)
    if there:  # files are missing, and the script must not say that all is done
        (out / "result.json").unlink(missing_ok=True)
    command = [
        sys.executable, str(EXAMPLES / column.script), *column.arguments(args.data),
        "--method", method, "--seed", str(seed), "--size", args.size, "--out", str(out),
        "--dtype", args.dtype,
        *chain.from_iterable((f"--{name}", str(n)) for name, n in trial(args).items()),
        *["--compile"] * args.compile,
    ]  # fmt: skip
    with (out / "log.txt").open("a") as log:
        begin = log.tell()
        share = max(1, (os.cpu_count() or 1) // args.jobs)  # runs side by side share the cores
        threads = {"OMP_NUM_THREADS": "1", "TORCHINDUCTOR_COMPILE_THREADS": str(share)}
        environment = threads | os.environ
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)
    running.add(process)
    code = process.wait()
    running.remove(process)
    if code:
        with (out / "log.txt").open() as log:
            log.seek(begin)
            said = log.read().strip().rpartition("\n")[2]
        print(f"{out.name} ended with {code}: {said} (all in {out / 'log.txt'})", flush=True)
        return False
    if not there:
        results.add(column.dataset, out / "result.json")
    score = json.loads((out / "result.json").read_text())["score"]
    print(f"{out.name}: {score:.2f}", flush=True)
    return True


def run_all(args: argparse.Namespace, table: Table, results: Results) -> bool:
    """Run what is missing; returns whether all is there. When told to end, ends the runs too."""
    running: set[subprocess.Popen] = set()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with ThreadPoolExecutor(args.jobs) as pool:
        started = [
            pool.submit(start, args, results, running, *run) for run in runs(table, args.seeds)
        ]
        try:
            return all([run.result() for run in started])
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            told: set[subprocess.Popen] = set()
            while any(run.running() for run in started):  # one may be about to start its process
                for process in running - told:
                    process.terminate()
                    told.add(process)
                time.sleep(0.1)
            raise


def markdown(table: Table, results: Results) -> str:
    """The table: mean ± standard deviation over the seeds, and what the paper has."""
    lines = [
        "| | " + " | ".join(column.name for column in table.columns) + " |",
        "|---" * (len(table.columns) + 1) + "|",
    ]
    for method in table.rows:
        cells = [cell(results.find(column, method)) for column in table.columns]
        if any(cells):
            lines.append(f"| {method} | " + " | ".join(c or "–" for c in cells) + " |")
        if method in table.paper:
            lines.append(published(method, table))
    others = [name for name, row in table.paper.items() if name not in table.rows and any(row)]
    lines += [published(name, table) for name in others]
    return "\n".join(lines)


def published(name: str, table: Table) -> str:
    numbers = (f"{n:.2f}" if n else "–" for n in table.paper[name])
    return f"| *{name}, paper* | " + " | ".join(numbers) + " |"


def cell(records: list[dict]) -> str:
    scores = [record["score"] for record in records]
    if len(scores) < 2:
        return f"{scores[0]:.2f}" if scores else ""
    return f"{np.mean(scores):.2f} ± {np.std(scores, ddof=1):.2f} ({len(scores)})"


def protocols(table: Table, results: Results) -> list[str]:
    """By what protocols the records of a table were made, a line each."""
    cells = ((column, method) for column in table.columns for method in table.rows)
    records = chain.from_iterable(results.find(*cell) for cell in cells)
    return list(dict.fromkeys(map(protocol, records)))


def protocol(record: dict) -> str:
    own = record["protocol"]
    network = record.get("network") or own["network"]
    options = [f"{key} {n}" for key, n in own["options"].items()] * (network == own["network"])
    network += f" ({', '.join(options)})" if options else ""
    images = f"the first {own['samples']:,}" if "samples" in own else "all"
    return (
        f"{record['dataset']}, --size {record['size']}: {network}, {images} images, "
        f"{own['epochs']} epochs in batches of {own['batch']}, mean of the last {own['last']}, "
        f"{record['dtype']}"
    )


def none_done(args: argparse.Namespace, table: Table, results: Results) -> str:
    """Say that a table has no run of this size, and of which others it has some."""
    there = {}
    for column in table.columns:
        for path in sorted(results.folder.glob(f"{column.dataset}-*.jsonl")):
            other = Results(results.folder, path.stem.removeprefix(f"{column.dataset}-"))
            if flags(other.size) and any(other.find(column, method) for method in table.rows):
                there[flags(other.size)] = None
    what = f"figure {args.figure}" if args.figure else f"table {args.table}"
    none = f"no run of {what} is done with {flags(results.size)}"
    if there:
        return f"{none}: there are runs with {', and with '.join(there)}"
    return f"{none}: start it without --print" if args.print else none


def draw(args: argparse.Namespace, table: Table, results: Results) -> Path:
    """Draw a figure from what is done, and say where it is."""
    from paper import figures  # needs matplotlib

    column, method = table.columns[0], table.rows[0]
    cells = {c.name: {m: results.find(c, m) for m in table.rows} for c in table.columns}
    run = folder(args, column, method, args.seeds[0])
    if args.figure in ("3", "4"):
        from fer import DATASETS, SIZES

        found = written(run, "labels")
        if "clean_probability" not in found:
            raise SystemExit(
                f"figure {args.figure} needs a method that judges labels, not {method}"
            )
        data = DATASETS[column.dataset](args.data / PLACES[column.dataset], size=SIZES[args.size])
        figure = figures.faces(
            data.train.images, found["given"], found["true"], found["clean_probability"],
            data.classes, figures.spread if column.rate else figures.lowest,
        )  # fmt: skip
    elif args.figure == "6":
        scores = {
            m: {
                c.consistency_weight: [record["score"] for record in cells[c.name][m]]
                for c in table.columns
            }
            for m in table.rows
        }
        figure = figures.against(scores, "λ", "test accuracy (%)")
    elif args.figure == "7":
        found = written(run, "labels")
        snapshots = {epoch: written(run, f"epoch{epoch}") for epoch in SNAPSHOTS}
        figure = figures.histograms(snapshots, found["given"] != found["true"])
    elif args.figure == "noise":
        figure = figures.curves(cells, "noise_found_by_epoch", "noise rate found", "realised_rate")
    else:
        height = 4.2 if len(table.columns) == 1 else 3.2
        figure = figures.curves(cells, "accuracy_by_epoch", "test accuracy (%)", height=height)
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / f"figure-{args.figure}-{size(args)}.png"
    figure.savefig(path, dpi=figures.DPI)
    return path


def written(run: Path, name: str) -> dict[str, np.ndarray]:
    """Arrays that a run has left."""
    path = run / f"{name}.npz"
    if not path.exists():
        raise SystemExit(
            f"{path} is missing: the figure needs this run itself, not only its result; without "
            "--print it is run again"
        )
    with np.load(path) as file:
        return dict(file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--table", choices=TABLES)
    what.add_argument("--figure", choices=FIGURES)
    parser.add_argument("--data", type=Path, help="needed to run, and for figures 3 and 4")
    parser.add_argument("--size", choices=("paper", "cpu"), default="paper")
    parser.add_argument("--seeds", type=whole_number, nargs="+", default=[0])
    parser.add_argument("--methods", nargs="+", choices=METHODS, help="these rows only")
    parser.add_argument("--columns", nargs="+", help="these columns only, by their names")
    parser.add_argument("--network", choices=NETWORKS, help="another backbone for all columns")
    parser.add_argument("--weights", nargs="+", help="as of the scripts of single runs")
    parser.add_argument("--epochs", type=positive, help="other than the protocol's, for a trial")
    parser.add_argument("--samples", type=positive, help="as of the scripts of single runs")
    parser.add_argument("--dtype", choices=AUTOCAST, default=DTYPE, help="as of the single runs")
    parser.add_argument("--compile", action="store_true", help="as of the scripts of single runs")
    parser.add_argument("--jobs", type=positive, default=1, help="runs side by side")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="checkpoints and logs")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--out", type=Path, help="for figures; those of the docs by default")
    parser.add_argument("--print", action="store_true", help="run nothing")
    args = parser.parse_args()
    table = TABLES[args.table] if args.table else FIGURES[args.figure]
    if args.network and any(column.network for column in table.columns):
        parser.error("--network is not for a table whose columns have networks of their own")
    other = args.methods or args.columns or args.network or args.weights or size(args) != args.size
    faces = args.figure in ("3", "4")
    if args.out and faces:
        parser.error(
            f"--out is not for figure {args.figure}, whose faces may not be passed on: it goes to "
            "--runs"
        )
    args.out = args.out or (args.runs if other or faces else PICTURES)
    if args.results.exists() and not args.results.is_dir():
        parser.error(f"--results must be a folder, got {args.results}")
    table = table.only(args.methods, args.columns).starting(args.network, args.weights)
    least = {"3": 1, "4": 1, "6": 1, "7": max(SNAPSHOTS)}.get(args.figure, 2)  # else one point
    if args.figure and (args.epochs or least) < least:
        parser.error(
            f"--epochs must be at least {least} for figure {args.figure}, got {args.epochs}"
        )
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")  # λ is not in every encoding
    results = Results(args.results, size(args))
    fetched = any(column.dataset != "digits" for column in table.columns)
    if args.data is None and fetched and (not args.print or faces):
        parser.error("--data is needed")
    if args.data is not None and not args.print and not args.data.is_dir():
        parser.error(f"--data must be a folder, got {args.data}")
    complete = args.print or run_all(args, table, results)
    made_by = protocols(table, results)
    if not made_by:
        made_by = [none_done(args, table, results)]
        if args.figure:
            raise SystemExit(made_by[0])
    print(markdown(table, results), "", *made_by, sep="\n")
    if args.figure:
        print(draw(args, table, results))
    if not complete:
        sys.exit(1)


if __name__ == "__main__":
    main()
