"""How good the lists of suspects are of the page on finding wrong labels, for other noise rates.

    python benchmarks/suspect_lists.py [--out FILE.json]

Runs the code of sections 1 and 2 of docs/find_wrong_labels.md as it stands there, with other values
of `rate` and `seed`. Each row is a noise rate, each cell lowest to highest over the seeds: wrong
labels, error rate of a network on the held-out digits, noise rate found, wrong labels among the 50
most suspicious and among those more likely wrong than right, and the length of lists with a stated
false discovery rate, with the percentage of right labels in them: first by default, then with
`hidden` fitted as in section 4. Runs on the CPU.
"""

import re
import warnings
from argparse import Namespace
from collections.abc import Iterator
from doctest import DocTestParser
from pathlib import Path

from small_trainings import arguments, span, write_table

PAGE = Path(__file__).resolve().parents[1] / "docs" / "find_wrong_labels.md"
RATES = 0.03, 0.1, 0.2, 0.3
STATED = 0.05, 0.1, 0.2


def run(rate: float, seed: int) -> dict:
    page = PAGE.read_text("utf-8").split("\n## 3. ")[0]
    code = "".join(example.source for example in DocTestParser().get_examples(page))
    code, settings = re.subn(r"(?m)^rate, seed = .*$", f"rate, seed = {rate}, {seed}", code)
    assert settings == 1
    names: dict = {}
    exec(code, names)
    trainer, report, wrong = names["trainer"], names["report"], names["wrong"]
    error = 1 - trainer.evaluate(names["val_loader"])["accuracy_a"]
    mean = names["history"].probability.mean(0)
    fitted = trainer.report(names["ordered_loader"], mean, hidden=min(0.015, 0.1 * error))
    lists = {"default, 0.1": report.suspects(0.1)}
    lists |= {f"fitted, {stated}": fitted.suspects(stated) for stated in STATED}
    return {
        "wrong": int(wrong.sum()),
        "error": error,
        "found": report.noise_rate,
        "top": float(wrong[report.index[:50]].mean()),
        "unlikely": float(wrong[report.index[report.clean_probability < 0.5]].mean()),
        "lists": {name: [len(found), int((~wrong[found]).sum())] for name, found in lists.items()},
    }


def list_cell(lists: list[list[int]]) -> str:
    right = [100 * right / length for length, right in lists if length]
    held = f" ({span(right, 0)} %)" if right else ""
    return span((length for length, _ in lists), 0) + held


def rows(args: Namespace) -> Iterator[tuple[dict, list[str]]]:
    for rate in RATES:
        runs = [run(rate, seed) for seed in args.seeds]
        cells = [f"{100 * rate:.0f} %", span((r["wrong"] for r in runs), 0)]
        cells.append(span((100 * r["error"] for r in runs), 1) + " %")
        cells.append(span((r["found"] for r in runs), 2))
        cells += [span((100 * r[key] for r in runs), 0) + " %" for key in ("top", "unlikely")]
        cells += [list_cell([r["lists"][name] for r in runs]) for name in runs[0]["lists"]]
        yield {"rate": rate, "seeds": args.seeds, "runs": runs}, cells


def main() -> None:
    heads = ["rate", "wrong", "error", "found", "wrong of top 50", "wrong of those below 0.5"]
    heads += ["list at 0.10, default", *(f"fitted, at {stated:.2f}" for stated in STATED)]
    args = arguments(__doc__, [0, 1, 2]).parse_args()
    warnings.filterwarnings("ignore", "no label can be listed")
    write_table(heads, rows(args), args.out)


if __name__ == "__main__":
    main()
