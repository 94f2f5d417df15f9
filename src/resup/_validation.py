"""Checks on what comes in: every error names the argument, what came and what was expected."""

from __future__ import annotations

import torch
from torch import Tensor


def check_logits(logits: Tensor, name: str = "logits") -> None:
    """Raise unless `logits` is a floating (N, C) tensor with C >= 2."""
    if not isinstance(logits, Tensor) or not logits.is_floating_point():
        kind = getattr(logits, "dtype", type(logits).__name__)
        raise TypeError(f"{name} must be a floating-point tensor of shape (N, C), got {kind}")
    if logits.ndim != 2 or logits.shape[1] < 2:
        raise ValueError(
            f"{name} must have shape (N, C) with C >= 2 classes, got {tuple(logits.shape)}"
        )


def check_logits_targets(logits: Tensor, targets: Tensor, name: str = "logits") -> None:
    """Raise unless `targets` are class indices that belong to `logits`."""
    check_logits(logits, name)
    kind = getattr(targets, "dtype", type(targets).__name__)
    if (
        not isinstance(targets, Tensor)
        or targets.is_floating_point()
        or targets.is_complex()
        or targets.dtype == torch.bool
    ):
        raise TypeError(f"targets must be an integer tensor of class indices, got {kind}")
    n, c = logits.shape
    if targets.shape != (n,):
        raise ValueError(
            f"targets must have shape ({n},) to match {name} of shape ({n}, {c}), "
            f"got {tuple(targets.shape)}"
        )
    if targets.device != logits.device:
        raise ValueError(
            f"targets are on {targets.device} and {name} on {logits.device}; "
            "move them to one device"
        )
    # Looking at values on an accelerator would make the host wait for it.
    if n and targets.device.type == "cpu" and not torch.compiler.is_compiling():
        low, high = (int(v) for v in torch.aminmax(targets))
        if low < 0 or high >= c:
            raise ValueError(
                f"targets must lie in [0, {c}) for {name} of shape ({n}, {c}), "
                f"got values from {low} to {high}"
            )


def check_pair(logits_a: Tensor, logits_b: Tensor) -> None:
    """Raise unless the logits of the two networks have one shape and one device."""
    check_logits(logits_a, "logits_a")
    check_logits(logits_b, "logits_b")
    if logits_a.shape != logits_b.shape:
        raise ValueError(
            "logits_a and logits_b must have one shape, "
            f"got {tuple(logits_a.shape)} and {tuple(logits_b.shape)}"
        )
    if logits_a.device != logits_b.device:
        raise ValueError(
            f"logits_a are on {logits_a.device} and logits_b on {logits_b.device}; "
            "both networks must be on one device"
        )


def check_choice(name: str, value: object, choices: tuple[object, ...]) -> None:
    """Raise unless `value` is one of `choices`."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}")
