"""How far an epoch is, and what its steps have given so far."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from typing_extensions import Self

from .distributed import global_means


@dataclass
class EpochProgress:
    """Kept on the device until the end of the epoch; its fields are in the trainer's state."""

    steps: int = 0
    begun: int = 0
    """The last step begun; one more than `steps` within a step."""
    batches: int | None = None
    """How many the loader says that it has."""
    sums: dict[tuple[str, ...], Tensor] = field(default_factory=dict)
    """By the names of what a step gives, its values summed over the samples: one sum per step."""
    samples: dict[tuple[str, ...], int] = field(default_factory=dict)
    first_bad: Tensor = field(default_factory=lambda: torch.tensor(torch.inf, dtype=torch.float32))
    """The first step whose loss was not finite."""
    randomness: dict[str, Any] = field(default_factory=dict)
    """Random states at the start of the epoch."""
    lr: float = 0.0
    """Learning rate of the first optimizer at the start of the epoch."""

    def add(self, values: Mapping[str, Tensor], samples: int) -> None:
        """Count one step and the scalars that it gave."""
        named = isinstance(values, Mapping) and "loss" in values and "epoch" not in values
        if not (named and all(map(_is_scalar, values.values()))):
            raise TypeError(
                "train_step must return scalar tensors by name, 'loss' among them and 'epoch' not, "
                f"got {values}"
            )
        self.steps += 1
        loss = values["loss"]
        finite = loss - loss == 0  # isfinite takes more kernels
        self.first_bad = torch.where(finite, self.first_bad, self.first_bad.clamp(max=self.steps))
        if not samples:  # means of nothing
            return
        names, now = tuple(values), torch.stack([*values.values()])
        before = self.sums[names] if names in self.sums else now.new_zeros(len(names))
        self.sums[names] = torch.add(before, now, alpha=samples)
        self.samples[names] = self.samples.get(names, 0) + samples

    def to(self, device: torch.device) -> Self:
        """Move what is counted to the device of the steps."""
        self.sums = {names: totals.to(device) for names, totals in self.sums.items()}
        self.first_bad = self.first_bad.to(device)
        return self

    def means(self) -> dict[str, float]:
        """Means over the samples of all processes in whose steps there is such a value."""
        sums: dict[str, tuple[Tensor, int]] = {}
        for names, totals in self.sums.items():
            for name, total in zip(names, totals, strict=True):
                before, count = sums.get(name, (torch.zeros_like(total), 0))
                sums[name] = before + total, count + self.samples[names]
        return global_means(sums)

    def state(self) -> dict[str, Any]:
        """Its fields, which later steps do not change."""
        return {**vars(self), "sums": dict(self.sums), "samples": dict(self.samples)}


def _is_scalar(value: object) -> bool:
    return isinstance(value, Tensor) and not value.shape
