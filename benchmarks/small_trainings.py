"""What the benchmarks of small networks share: the training, the command line, the table."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))

from paper.provenance import provenance

from resup import CoTrainer


def network(inputs: int, classes: int, width: int = 256) -> nn.Module:
    def hidden(inputs: int) -> list[nn.Module]:
        return [nn.Linear(inputs, width), nn.BatchNorm1d(width), nn.ReLU()]

    return nn.Sequential(*hidden(inputs), *hidden(width), nn.Linear(width, classes))


def one_layer(inputs: int, classes: int, width: int = 64) -> nn.Module:
    return nn.Sequential(nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, classes))


def trainer_of(pair: tuple[nn.Module, nn.Module], warmup: int) -> CoTrainer:
    """Make a trainer with default settings; with a warm-up to the end it is plain training."""
    optimizer = torch.optim.Adam([p for net in pair for p in net.parameters()], 1e-3)
    return CoTrainer(pair, optimizer, warmup_epochs=warmup, progress=False)


@torch.no_grad()
def hits(net: nn.Module, x: Tensor, y: np.ndarray) -> np.ndarray:
    return net.eval()(x).argmax(1).numpy() == y


def auroc(wrong: np.ndarray, score: np.ndarray) -> float | None:
    """Of the wrong labels, whose scores should be the lower ones; None where there are none."""
    return float(roc_auc_score(~wrong, score)) if wrong.any() else None


def span(values: Iterable[float], digits: int) -> str:
    values = list(values)
    return f"{min(values):.{digits}f} to {max(values):.{digits}f}"


def arguments(doc: str, seeds: Sequence[int]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=seeds)
    parser.add_argument("--out", type=Path)
    return parser


def write_table(
    heads: Sequence[str],
    rows: Iterator[tuple[dict[str, Any], list[str]]],
    out: Path | None,
    packages: Sequence[str] = (),
) -> None:
    """Print a row, its cells, as soon as it is there; at the end write the records."""
    torch.set_num_threads(1)
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
    print("| " + " | ".join(heads) + " |\n" + "|---" * len(heads) + "|")
    records = []
    for record, cells in rows:
        records.append(record)
        print("| " + " | ".join(cells) + " |", flush=True)
    if out:
        out.write_text(json.dumps({"rows": records, **provenance(*packages)}, indent=1) + "\n")
