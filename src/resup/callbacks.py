"""What can be hung on `CoTrainer.fit`, and the loggers that are."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

__all__ = ["Callback", "JSONLinesLogger", "TensorBoardLogger"]


class Callback:
    """Base of callbacks; override what is needed. Each process calls its own."""

    def on_fit_start(self, trainer: Any) -> None:
        """Before the first epoch of a call of `fit`."""

    def on_step_end(self, trainer: Any, values: Mapping[str, Tensor]) -> None:
        """After each batch; `values` are on the device, and reading one waits for it."""

    def on_epoch_end(self, trainer: Any, record: Mapping[str, Any]) -> None:
        """After each epoch, with the record that joined `trainer.history`; its mixtures are new."""

    def on_fit_end(self, trainer: Any) -> None:
        """After the last epoch, and also when training ends by an error."""


class JSONLinesLogger(Callback):
    """Append the record of each epoch, and the seconds it took, to a file of JSON lines.

    Parameters
    ----------
    path : path
        Its folder is made if it is missing.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def on_fit_start(self, trainer: Any) -> None:
        """Start the clock."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._start = time.perf_counter()

    def on_epoch_end(self, trainer: Any, record: Mapping[str, Any]) -> None:
        """Write a line."""
        now = time.perf_counter()
        line = json.dumps({**record, "seconds": round(now - self._start, 3)})
        self._start = now
        if trainer.is_main_process:
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(line + "\n")


class TensorBoardLogger(Callback):
    """Write the record of each epoch for TensorBoard (``pip install resup[logging]``).

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
        self._writer = SummaryWriter(self.folder) if main else None

    def on_epoch_end(self, trainer: Any, record: Mapping[str, Any]) -> None:
        """Write each number of the record."""
        if self._writer is not None:
            for key, value in record.items():
                self._writer.add_scalar(key, value, record["epoch"])

    def on_fit_end(self, trainer: Any) -> None:
        """Close the writer."""
        if self._writer is not None:
            self._writer.close()
