"""Callbacks of `CoTrainer.fit`: their base, loggers and a history of probabilities."""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Iterable, Mapping
from numbers import Real
from operator import methodcaller
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ._warnings import warn
from .distributed import rank
from .loaders import check_order

__all__ = ["Callback", "JSONLinesLogger", "ProbabilityHistory", "TensorBoardLogger"]


class Callback:
    """Base of callbacks; override what is needed. Each process calls its own.

    The state of one with `state_dict` and `load_state_dict` is in the trainer's, and so in
    checkpoints.
    """

    def on_fit_start(self, trainer: Any) -> None:
        """Before the first epoch of a call of `fit`."""

    def on_step_end(self, trainer: Any, values: Mapping[str, Tensor]) -> None:
        """After each batch: `accumulate` times for each step of the optimizers.

        `values` are on the device, and reading one waits for it.
        """

    def on_epoch_end(self, trainer: Any, record: Mapping[str, Any]) -> None:
        """After each epoch and its refit, with the record that joined `trainer.history`.

        Where it was interrupted, by an error too, the next `fit` calls it again.
        """

    def on_fit_end(self, trainer: Any) -> None:
        """After the last epoch, and also when training ends by an error."""


class JSONLinesLogger(Callback):
    """Append the record of each epoch, and the seconds it took, to a file of JSON lines.

    Where training goes on from an earlier epoch, the lines of later ones are dropped first; a run
    that starts at epoch 0 appends to what is there.

    Parameters
    ----------
    path : path
        Its folder is made if it is missing.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path).absolute()

    def on_fit_start(self, trainer: Any) -> None:
        """Start the clock."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if trainer.is_main_process and self.path.exists():
            lines = self.path.read_text(encoding="utf-8").splitlines(keepends=True)
            last = trainer.epoch or sys.float_info.max  # of another run only a broken line goes
            kept = lines.copy()
            while kept and _epoch(kept[-1]) > last:
                kept.pop()
            if kept and not kept[-1].endswith("\n"):
                kept[-1] += "\n"
            if kept != lines:
                self.path.write_text("".join(kept), encoding="utf-8")
        self._start = time.perf_counter()

    def on_epoch_end(self, trainer: Any, record: Mapping[str, Any]) -> None:
        """Write a line."""
        now = time.perf_counter()
        record = {**record, "seconds": round(now - self._start, 3)}
        line = json.dumps(record, default=methodcaller("item"))  # NumPy's and torch's numbers
        self._start = now
        if trainer.is_main_process:
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(line + "\n")


def _epoch(line: str) -> float:
    """Epoch of a record; that of a line broken off is still to come, a line of others has none."""
    try:
        return float(json.loads(line)["epoch"])
    except ValueError:
        return -math.inf if line.endswith("\n") else math.inf
    except (KeyError, TypeError):
        return -math.inf


class ProbabilityHistory(Callback):
    """Record after each epoch how likely each label is to be right.

    It takes a pass over the loader per epoch, and 4 bytes per label and epoch, in checkpoints too
    (those of several processes hold what the first recorded); training goes on as without it. Where
    training goes on from an earlier epoch, later ones are dropped.

    Parameters
    ----------
    loader : iterable of batches
        In a fixed order, as for `CoTrainer.clean_probability`. With several processes each
        records its own loader.

    Attributes
    ----------
    epochs : list of int
        The epochs recorded. Those before the first mixture are left out.
    probability : ndarray of shape (epochs, N), float32
        ``CoTrainer.clean_probability`` after each of them.

    See Also
    --------
    resup.plotting.plot_probability : a picture of it.

    Examples
    --------
    >>> import torch
    >>> from torch.utils.data import DataLoader, TensorDataset
    >>> from resup import CoTrainer
    >>> from resup.callbacks import ProbabilityHistory
    >>> _ = torch.manual_seed(0)
    >>> x = torch.randn(256, 8)
    >>> data = TensorDataset(x, (x[:, 0] > 0).long())
    >>> nets = torch.nn.Linear(8, 2), torch.nn.Linear(8, 2)
    >>> optimizer = torch.optim.Adam([*nets[0].parameters(), *nets[1].parameters()], lr=0.1)
    >>> history = ProbabilityHistory(DataLoader(data, 64))
    >>> trainer = CoTrainer(nets, optimizer, callbacks=[history], warmup_epochs=2, progress=False)
    >>> trainer = trainer.fit(DataLoader(data, 32, shuffle=True), epochs=4)
    >>> history.epochs, history.probability.shape
    ([2, 3, 4], (3, 256))
    """

    def __init__(self, loader: Iterable[Any]) -> None:
        self.loader = loader
        self.epochs: list[int] = []
        self._rows: list[NDArray[np.float32]] = []

    @property
    def probability(self) -> NDArray[np.float32]:
        """How likely each label is to be right, (epochs, N)."""
        return np.stack(self._rows) if self._rows else np.empty((0, 0), np.float32)

    def state_dict(self) -> dict[str, Any]:
        """All that was recorded."""
        return {"epochs": list(self.epochs), "rows": [torch.from_numpy(r) for r in self._rows]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave, in the process that gave it."""
        if rank():
            warn(
                f"process {rank()} begins its probabilities anew: the checkpoint holds those of "
                "the first process"
            )
            return
        self.epochs = list(state["epochs"])
        self._rows = [row.cpu().numpy() for row in state["rows"]]

    def on_fit_start(self, trainer: Any) -> None:
        """Check the loader, and drop epochs that come again."""
        check_order(self.loader)
        kept = sum(epoch <= trainer.epoch for epoch in self.epochs)
        del self.epochs[kept:], self._rows[kept:]

    def on_epoch_end(self, trainer: Any, record: Mapping[str, Any]) -> None:
        """Judge the labels, once there is a mixture."""
        if trainer.weigher.mixtures_:
            row = trainer.clean_probability(self.loader).numpy()
            if self._rows and len(row) != len(self._rows[-1]):
                raise ValueError(
                    f"loader must give the same labels every epoch, got {len(row)} after "
                    f"{len(self._rows[-1])}"
                )
            self._rows.append(row)
            self.epochs.append(record["epoch"])


class TensorBoardLogger(Callback):
    """Write the record of each epoch for TensorBoard (needs the extra ``logging``).

    Parameters
    ----------
    folder : path
        The folder of this run.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = folder

    def on_fit_start(self, trainer: Any) -> None:
        """Open the writer."""
        from torch.utils.tensorboard import SummaryWriter

        main = trainer.is_main_process
        again = trainer.epoch + 1 if trainer.epoch else None
        self._writer = SummaryWriter(self.folder, purge_step=again) if main else None

    def on_epoch_end(self, trainer: Any, record: Mapping[str, Any]) -> None:
        """Write each number of the record; what else callbacks put there is left out."""
        if self._writer is not None:
            for key, value in record.items():
                if _is_number(value):
                    self._writer.add_scalar(key, value, record["epoch"])

    def on_fit_end(self, trainer: Any) -> None:
        """Close the writer."""
        if self._writer is not None:
            self._writer.close()


def _is_number(value: Any) -> bool:
    """Whether it is one real number of Python, NumPy or torch."""
    if isinstance(value, Tensor):
        return value.numel() == 1 and not value.is_complex()
    if isinstance(value, np.ndarray):
        return value.size == 1 and value.dtype.kind in "biuf"
    return isinstance(value, (Real, np.bool_))
