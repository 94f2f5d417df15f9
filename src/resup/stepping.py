"""How gradients become a step: the scaler, the optimizers and the schedulers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from .pair import NetworkPair
from .progress import EpochProgress

_CURES = (
    "try a smaller learning rate, clip_grad_norm=1.0, bfloat16 in place of float16, or look for "
    "NaN in the inputs"
)


class SteppingPair(NetworkPair):
    """The part of `CoTrainer` that changes parameters, and looks whether they are finite."""

    optimizers: list[Optimizer]
    schedulers: list[Any]
    scheduler_interval: str
    scaler: torch.amp.GradScaler | None
    clip_grad_norm: float | None
    epoch: int
    _done: EpochProgress

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of `loss`, scaled where there is a scaler."""
        (self.scaler.scale(loss) if self.scaler else loss).backward()

    def optimizer_step(self) -> None:
        """Clip the gradients, step the optimizers and, by the step, the schedulers."""
        optimizers = self.optimizers
        if self.scaler:  # it refuses one without gradients, such as that of a frozen network
            optimizers = [each for each in optimizers if _has_gradients(each)]
        if self.clip_grad_norm is not None:
            if self.scaler:
                for optimizer in optimizers:
                    self.scaler.unscale_(optimizer)
            for model in self.models:
                nn.utils.clip_grad_norm_(model.parameters(), self.clip_grad_norm)
        for optimizer in optimizers:
            if self.scaler:
                self.scaler.step(optimizer)
            else:
                optimizer.step()
        if self.scaler:
            self.scaler.update()
        self._zero_grad()
        if self.scheduler_interval == "step":
            self._step_schedulers()

    def _zero_grad(self) -> None:
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)

    def _step_schedulers(self) -> None:
        for scheduler in self.schedulers:
            if not isinstance(scheduler, ReduceLROnPlateau):
                scheduler.step()

    def _check_plateaus(self, val_loader: Any) -> None:
        plateaus = [each for each in self.schedulers if isinstance(each, ReduceLROnPlateau)]
        if val_loader is None and any(scheduler.mode == "max" for scheduler in plateaus):
            raise ValueError(
                "val_loader must be given for a ReduceLROnPlateau of mode 'max', got None"
            )

    def _step_plateaus(self, record: Mapping[str, float]) -> None:
        for scheduler in self.schedulers:
            if isinstance(scheduler, ReduceLROnPlateau):
                if scheduler.mode == "min":
                    scheduler.step(record["loss"])
                else:
                    scheduler.step((record["val_accuracy_a"] + record["val_accuracy_b"]) / 2)

    def _check_loss(self) -> None:
        step = self._done.first_bad.item()
        if step != torch.inf:
            raise FloatingPointError(
                f"the loss is not finite at epoch {self.epoch + 1}, step {int(step)}: {_CURES}"
            )

    def _check_finite(self) -> None:
        """Raise rather than save networks that hold NaN or infinity."""
        self._check_loss()
        for name, model in zip("AB", self.models, strict=True):
            trained = (p.detach() for p in model.parameters() if p.requires_grad)
            finite = [p.isfinite().all() for p in trained]
            if finite and not torch.stack(finite).all():
                raise FloatingPointError(
                    f"the parameters of network {name} are not finite in epoch {self.epoch + 1}, "
                    f"as a gradient was not: {_CURES}"
                )


def _has_gradients(optimizer: Optimizer) -> bool:
    return any(p.grad is not None for group in optimizer.param_groups for p in group["params"])
