"""Checks on tensors, networks and optimizers, as those of `_checks`."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim import LBFGS, Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from ._checks import check_methods
from ._warnings import warn


def check_logits(logits: Tensor, name: str = "logits") -> None:
    """Raise unless `logits` is a floating (N, C) tensor with C >= 2."""
    if not isinstance(logits, Tensor) or not logits.is_floating_point():
        raise TypeError(
            f"{name} must be a floating-point tensor of shape (N, C), got {_kind(logits)}"
        )
    if logits.ndim != 2 or logits.shape[1] < 2:
        raise ValueError(
            f"{name} must have shape (N, C) with C >= 2 classes, got {tuple(logits.shape)}"
        )


def check_logits_targets(logits: Tensor, targets: Tensor, name: str = "logits") -> None:
    """Raise unless `targets` are class indices that belong to `logits`."""
    check_logits(logits, name)
    if (
        not isinstance(targets, Tensor)
        or targets.is_floating_point()
        or targets.is_complex()
        or targets.dtype == torch.bool
    ):
        raise TypeError(f"targets must be an integer tensor of class indices, got {_kind(targets)}")
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
    low, high = _bounds(targets.long()) or (0, 0)
    if low < 0 or high >= c:
        raise ValueError(
            f"targets must lie in [0, {c}) for {name} of shape ({n}, {c}), "
            f"got values from {low} to {high}"
        )


LOG_ROUNDING = 0.01  # a logarithm in bfloat16 of what is 1 may be as far above 0


def check_logarithms(**logs: Any) -> None:
    """Raise unless the values are tensors of logarithms, of what is at most 1 or NaN."""
    for name, values in logs.items():
        if not isinstance(values, Tensor):
            raise TypeError(f"{name} must be a Tensor, got {_kind(values)}")
        _, high = _bounds(values) or (0, 0)
        if not high <= LOG_ROUNDING and len(above := values[values > LOG_ROUNDING]):
            raise ValueError(
                f"{name} must be logarithms, at most 0, got values up to {above.max().item():.4g}; "
                "are these similarities?"
            )


def check_stacked(logits: Tensor, targets: Tensor, networks: int) -> None:
    """Raise unless `logits` (networks, N, C) hold the scores of each network for `targets` (N,)."""
    shape = f"({networks}, N, C)"
    if not isinstance(logits, Tensor):
        raise TypeError(
            f"logits must be a tensor of shape {shape}, such as torch.stack gives, got "
            f"{_kind(logits)}"
        )
    if logits.ndim != 3 or len(logits) != networks:
        raise ValueError(f"logits must have shape {shape}, got {tuple(logits.shape)}")
    check_logits_targets(logits[0], targets)


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


def check_models(models: Sequence[nn.Module]) -> tuple[nn.Module, nn.Module]:
    """Return the models as a pair, or raise unless they are two networks on one device."""
    one = isinstance(models, nn.Sequential) or not isinstance(models, Iterable)
    pair = (models,) if one else tuple(models)
    if len(pair) != 2 or not all(isinstance(model, nn.Module) for model in pair):
        kinds = ", ".join(type(model).__name__ for model in pair)
        raise TypeError(f"models must be a pair of nn.Module, got ({kinds})")
    if pair[0] is pair[1]:
        raise ValueError("models must be two different networks, got the same one twice")
    devices = {p.device for model in pair for p in model.parameters()}
    if len(devices) != 1:
        found = ", ".join(sorted(map(str, devices))) or "no parameters"
        raise ValueError(f"models must be on one device, got {found}")
    a, b = (dict(model.named_parameters()) for model in pair)
    if a.keys() == b.keys() and all(
        not (is_lazy(p) or is_lazy(b[name])) and torch.equal(p, b[name]) for name, p in a.items()
    ):
        warn("the models are equal in every parameter and may stay so: initialise them differently")
    return pair


def check_gradients(models: Sequence[nn.Module], counts: nn.Module) -> None:
    """Raise where nothing can be trained, or was made where nothing can."""
    trained = (
        p for model in models for p in model.parameters() if p.requires_grad and not is_lazy(p)
    )
    if not torch.is_grad_enabled() or any(t.is_inference() for t in (*trained, *counts.buffers())):
        raise RuntimeError(
            "fit must be called outside of torch.no_grad() and torch.inference_mode(), and models "
            "and trainer be made outside of the latter"
        )


def check_optimizers(models: Sequence[nn.Module], optimizers: Sequence[Optimizer]) -> None:
    """Raise unless the optimizers own each trainable parameter of the models once, and no other."""
    if not optimizers or not all(isinstance(optimizer, Optimizer) for optimizer in optimizers):
        kinds = ", ".join(type(optimizer).__name__ for optimizer in optimizers)
        raise TypeError(f"optimizer must be an Optimizer or a sequence of them, got ({kinds})")
    if any(isinstance(optimizer, LBFGS) for optimizer in optimizers):
        raise TypeError("optimizer must step without a closure, got LBFGS")
    names = {
        p: f"models[{i}].{name}"
        for i, model in enumerate(models)
        for name, p in model.named_parameters()
    }
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    owned = [p for group in groups for p in group["params"]]
    held = set(owned)
    if missing := [name for p, name in names.items() if p.requires_grad and p not in held]:
        raise ValueError(
            f"optimizer misses {len(missing)} trainable parameters, such as {missing[0]}; give it "
            "the parameters of both models"
        )
    if foreign := sum(p not in names for p in owned):
        raise ValueError(f"optimizer holds {foreign} parameters that belong to neither model")
    if len(held) != len(owned):
        raise ValueError(
            "optimizers must own each parameter once; list those that both models share only once"
        )


def check_schedulers(schedulers: Sequence[Any], optimizers: Sequence[Optimizer]) -> None:
    """Raise unless these are schedulers that `fit` can step, of one of these optimizers if any."""
    stepped = {id(group) for optimizer in optimizers for group in optimizer.param_groups}
    for scheduler in schedulers:
        check_methods("scheduler", scheduler, "step", "state_dict", "load_state_dict")
        if not isinstance(scheduler, ReduceLROnPlateau):
            _check_step(scheduler)
        own = getattr(getattr(scheduler, "optimizer", None), "param_groups", ())
        if own and not stepped & {id(group) for group in own}:  # of a wrapped optimizer, the same
            raise ValueError(
                "scheduler must be of the optimizer that is given, got a "
                f"{type(scheduler).__name__} of another one"
            )


def _check_step(scheduler: Any) -> None:
    """Raise unless a scheduler steps by itself."""
    try:
        signature = inspect.signature(scheduler.step)
    except ValueError:  # of a step that is not written in Python
        return
    try:
        signature.bind()
    except TypeError as error:
        raise TypeError(
            "scheduler must have a step() that needs no argument, unless it is a "
            f"ReduceLROnPlateau, got {type(scheduler).__name__} with step{signature}"
        ) from error


def check_scalar(name: str, value: Any) -> None:
    """Raise unless a loss returned a tensor of one number."""
    if not isinstance(value, Tensor) or value.shape:
        found = getattr(value, "shape", type(value).__name__)
        raise ValueError(f"{name} must return a scalar Tensor, got {found}")


def warn_of_probabilities(logits: Tensor) -> None:
    """Warn if logits (2, N, C) look like the outputs of a softmax."""
    rows = (logits >= 0).all(-1) & ((logits.sum(-1) - 1).abs() < 1e-3)
    shares = rows.float().mean(1).tolist()  # NaN where there is no sample
    if names := [f"network {x}" for x, share in zip("AB", shares, strict=True) if share == 1]:
        warn(
            f"the outputs of {' and '.join(names)} look like probabilities, but models must give "
            "logits: leave out the softmax at their end"
        )


def _bounds(values: Tensor) -> tuple[float, float] | None:
    """Least and greatest value; None where there is none, or looking would make the host wait."""
    if not values.numel() or values.device.type != "cpu" or torch.compiler.is_compiling():
        return None
    try:
        low, high = torch.aminmax(values)
        return low.item(), high.item()
    except RuntimeError:  # under vmap, which shows none
        return None


def _kind(value: Any) -> Any:
    return value.dtype if isinstance(value, Tensor) else type(value).__name__
