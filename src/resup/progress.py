"""How far an epoch is, and what its steps have given so far."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .distributed import global_means


@dataclass
class EpochProgress:
    """Kept on the device until the end of the epoch; its fields are in the trainer's state."""

    steps: int = 0
    batches: int | None = None
    """How many the loader says that it has."""
    samples: int = 0
    sums: dict[tuple[str, ...], Tensor] = field(default_factory=dict)
    """By the names of what a step gives, its values summed over the samples: one sum a step."""
    randomness: dict[str, Any] | None = None
    """Random states at the start of the epoch."""
    lr: float = 0.0
    """Learning rate of the first optimizer at the start of the epoch."""

    def add(self, values: Mapping[str, Tensor], samples: int) -> None:
        """Count one step and the scalars that it gave."""
        self.steps += 1
        if not samples:  # means of nothing
            return
        self.samples += samples
        names, now = tuple(values), torch.stack([*values.values()])
        before = self.sums.get(names, now.new_zeros(len(names)))
        self.sums[names] = torch.add(before, now, alpha=samples)

    def means(self) -> dict[str, float]:
        """Means over all samples of all processes."""
        sums: dict[str, Tensor] = {}
        for names, totals in self.sums.items():
            for name, total in zip(names, totals, strict=True):
                sums[name] = sums[name] + total if name in sums else total
        return global_means(sums, self.samples)
