"""How gradients become a step, and whether what comes of it is finite."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

_CURES = (
    "try a smaller learning rate, clip_grad_norm=1.0, float32 in place of bfloat16 or float16, or "
    "look for NaN in the inputs"
)


def step(
    models: Iterable[nn.Module],
    optimizers: Iterable[Optimizer],
    scaler: torch.amp.GradScaler | None,
    clip_grad_norm: float | None,
) -> None:
    """Clip the gradients of each model, and step the optimizers."""
    if scaler is None:
        _clip(models, clip_grad_norm)
        for optimizer in optimizers:
            optimizer.step()
        return
    # a scaler refuses an optimizer without gradients, such as that of a frozen network
    optimizers = [each for each in optimizers if _has_gradients(each)]
    try:
        if clip_grad_norm is not None:
            for optimizer in optimizers:
                scaler.unscale_(optimizer)
        _clip(models, clip_grad_norm)
        for optimizer in optimizers:
            scaler.step(optimizer)
    except BaseException:
        with suppress(AssertionError):  # of a scaler that has looked at no gradient yet
            scaler.update()  # else it would unscale none again
        raise
    scaler.update()


def _clip(models: Iterable[nn.Module], clip_grad_norm: float | None) -> None:
    if clip_grad_norm is not None:
        for model in models:
            nn.utils.clip_grad_norm_(model.parameters(), clip_grad_norm)


def zero_grad(optimizers: Iterable[Optimizer]) -> None:
    """Forget all gradients."""
    for optimizer in optimizers:
        optimizer.zero_grad()


def step_schedulers(schedulers: Iterable[Any]) -> None:
    """Step the schedulers that need no metric."""
    for scheduler in schedulers:
        if not isinstance(scheduler, ReduceLROnPlateau):
            scheduler.step()


def step_plateaus(schedulers: Iterable[Any], record: Mapping[str, float]) -> None:
    """Step the others by the record of an epoch."""
    for scheduler in schedulers:
        if isinstance(scheduler, ReduceLROnPlateau):
            if scheduler.mode == "min":
                scheduler.step(record["loss"])
            else:
                scheduler.step((record["val_accuracy_a"] + record["val_accuracy_b"]) / 2)


def check_plateaus(schedulers: Iterable[Any], val_loader: Any) -> None:
    """Raise if one of them will lack its metric."""
    plateaus = [each for each in schedulers if isinstance(each, ReduceLROnPlateau)]
    if val_loader is None and any(scheduler.mode == "max" for scheduler in plateaus):
        raise ValueError("val_loader must be given for a ReduceLROnPlateau of mode 'max', got None")


def check_loss(first_bad: Tensor, epoch: int) -> None:
    """Raise if there is a first step of the epoch whose loss was not finite."""
    bad = first_bad.item()
    if bad != torch.inf:
        raise FloatingPointError(
            f"the loss is not finite at epoch {epoch}, step {bad:.0f}: {_CURES}"
        )


def check_finite(models: Sequence[nn.Module], epoch: int) -> None:
    """Raise rather than save networks whose parameters or batch statistics hold NaN or infinity."""
    for name, model in zip("AB", models, strict=True):
        trained = [p.detach() for p in model.parameters() if p.requires_grad]
        running = [b for key, b in model.named_buffers() if ".running_" in f".{key}"]
        for what, values, cause in (
            ("parameters", trained, f"a gradient was not: {_CURES}"),
            ("running statistics", running, "an input was too large, or not finite"),
        ):
            finite = [value.isfinite().all() for value in values]
            if finite and not torch.stack(finite).all():
                raise FloatingPointError(
                    f"the {what} of network {name} are not finite in epoch {epoch}, as {cause}"
                )


def _has_gradients(optimizer: Optimizer) -> bool:
    return any(p.grad is not None for group in optimizer.param_groups for p in group["params"])
