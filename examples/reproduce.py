"""Run whole tables and figures of the paper, and print them beside the published numbers.

    python examples/reproduce.py --table 5 --data DATA                     # full size, on a GPU
    python examples/reproduce.py --table 2 --data DATA --size cpu --jobs 2
    python examples/reproduce.py --table 5 --size cpu --print              # only what is done

`DATA` holds ``cifar-10-batches-py``, ``CIFAR-10_human.npz`` and the folders ``ferplus``, ``rafdb``,
``affectnet`` of what is to be run. A run that is in ``benchmarks/results`` already is skipped, one
that was broken off goes on, and ``--jobs`` run side by side. Runs that tell most come first: all
columns of the first rows, then more rows, then more seeds.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock

import numpy as np
from paper.methods import METHODS
from paper.published import FIGURES, TABLES, Column, Table

EXAMPLES = Path(__file__).resolve().parent
RESULTS = EXAMPLES.parent / "benchmarks" / "results"


class Results:
    """The records of finished runs, one file of JSON lines for each data set and size."""

    def __init__(self, folder: Path, size: str) -> None:
        self.folder, self.size, self.lock = folder, size, Lock()

    def path(self, dataset: str) -> Path:
        return self.folder / f"{dataset}-{self.size}.jsonl"

    def read(self, dataset: str) -> list[dict]:
        path = self.path(dataset)
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def find(self, column: Column, method: str) -> list[dict]:
        """Records of a cell, one a seed."""
        return [
            record
            for record in self.read(column.dataset)
            if record["method"] == method
            and all(record[key] == value for key, value in column.wanted().items())
        ]

    def add(self, dataset: str, record: Path) -> None:
        with self.lock, self.path(dataset).open("a") as file:
            file.write(record.read_text())


def runs(table: Table, seeds: Iterable[int]) -> Iterator[tuple[Column, str, int]]:
    """Every run of a table, those that tell most first."""
    for seed in seeds:
        for method in table.rows:
            for column in table.columns:
                yield column, method, seed


def start(
    args: argparse.Namespace, results: Results, column: Column, method: str, seed: int
) -> None:
    """Run one cell in a process of its own, unless its result is there."""
    if any(record["seed"] == seed for record in results.find(column, method)):
        return
    name = f"{column.dataset}-{column.name}-{method}-{seed}-{args.size}".replace(" ", "_")
    out = args.runs / name
    out.mkdir(parents=True, exist_ok=True)
    command = [
        sys.executable, str(EXAMPLES / column.script), *column.arguments(args.data),
        "--method", method, "--seed", str(seed), "--size", args.size, "--out", str(out),
        *(["--epochs", str(args.epochs)] if args.epochs else []),
    ]  # fmt: skip
    with (out / "log.txt").open("w") as log:
        code = subprocess.call(command, stdout=log, stderr=subprocess.STDOUT)
    if code:
        print(f"{name} ended with {code}: see {out / 'log.txt'}", flush=True)
        return
    results.add(column.dataset, out / "result.json")
    score = json.loads((out / "result.json").read_text())["score"]
    print(f"{name}: {score:.2f}", flush=True)


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
            numbers = (f"{n:.2f}" if n else "–" for n in table.paper[method])
            lines.append(f"| *{method}, paper* | " + " | ".join(numbers) + " |")
    for name in [name for name in table.paper if name not in table.rows]:
        numbers = (f"{n:.2f}" if n else "–" for n in table.paper[name])
        lines.append(f"| *{name}, paper* | " + " | ".join(numbers) + " |")
    return "\n".join(lines)


def cell(records: list[dict]) -> str:
    scores = [record["score"] for record in records]
    if len(scores) < 2:
        return f"{scores[0]:.2f}" if scores else ""
    return f"{np.mean(scores):.2f} ± {np.std(scores, ddof=1):.2f} ({len(scores)})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--table", choices=TABLES)
    what.add_argument("--figure", choices=FIGURES)
    parser.add_argument("--data", type=Path, help="needed unless --print")
    parser.add_argument("--size", choices=("paper", "cpu"), default="paper")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--methods", nargs="+", choices=METHODS, help="these rows only")
    parser.add_argument("--columns", nargs="+", help="these columns only, by their names")
    parser.add_argument("--epochs", type=int, help="other than the protocol's, for a trial")
    parser.add_argument("--jobs", type=int, default=1, help="runs side by side")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="checkpoints and logs")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--print", action="store_true", help="run nothing")
    args = parser.parse_args()
    table = TABLES[args.table] if args.table else FIGURES[args.figure].table
    table = table.only(args.methods, args.columns)
    results = Results(args.results, args.size)
    if not args.print:
        if args.data is None:
            parser.error("--data is needed")
        with ThreadPoolExecutor(args.jobs) as pool:
            for run in runs(table, args.seeds):
                pool.submit(start, args, results, *run)
    print(markdown(table, results))


if __name__ == "__main__":
    main()
