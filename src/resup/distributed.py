"""The little that resup needs of torch.distributed; with one process nothing happens."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any
from zlib import crc32

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ._warnings import warn


def is_distributed() -> bool:
    """Whether there are several processes."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def rank() -> int:
    """Place of this process among all."""
    return dist.get_rank() if is_distributed() else 0


def world_size() -> int:
    """Count the processes."""
    return dist.get_world_size() if is_distributed() else 1


def add_up(values: Tensor) -> None:
    """Replace `values` by their sum over all processes."""
    if is_distributed():
        dist.all_reduce(values)


def bounds(values: Sequence[int], device: torch.device) -> list[tuple[int, int]]:
    """Lowest and highest of each value over all processes."""
    both = torch.tensor([[-value for value in values], values], device=device)
    if is_distributed():
        dist.all_reduce(both, dist.ReduceOp.MAX)
    low, high = both.tolist()
    return [(-a, b) for a, b in zip(low, high, strict=True)]


def check_alike(
    epoch: int,
    steps: int,
    total: int,
    batches: int | None,
    given: Mapping[str, Any],
    settings: Mapping[str, Any],
    device: torch.device,
) -> None:
    """Raise in every process unless all are about to train alike."""
    values = [epoch, steps, total, batches or 0, *(each is not None for each in given.values())]
    of_settings = crc32(repr(settings).encode())
    epochs, done, totals, lengths, *asked, hashes = bounds([*values, of_settings], device)
    if epochs[0] != epochs[1] or done[0] != done[1]:
        raise ValueError(
            "every process must go on from the same point, got epochs {} to {}, steps {} to {} "
            "done; a checkpoint must be on storage that all can read".format(*epochs, *done)
        )
    if totals[0] != totals[1]:
        raise ValueError("epochs must be the same in every process, got {} to {}".format(*totals))
    if lengths[0] != lengths[1]:
        raise ValueError(
            "train_loader must give every process as many batches, since they exchange "
            "gradients after each, got {} to {}; use a DistributedSampler".format(*lengths)
        )
    for name, (low, high) in zip(given, asked, strict=True):
        if low != high:
            raise ValueError(f"{name} must be given in every process or in none")
    if hashes[0] != hashes[1]:
        others = everyones(dict(settings))
        name = next(key for key in settings if len({repr(each.get(key)) for each in others}) > 1)
        found = ", ".join(dict.fromkeys(repr(each.get(name)) for each in others))
        raise ValueError(f"{name} must be the same in every process, got {found}")


def everyones(value: Any) -> list[Any]:
    """Collect the value of each process, in the order of the ranks."""
    if not is_distributed():
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def global_means(sums: Mapping[str, tuple[Tensor, int]]) -> dict[str, float]:
    """Means over all processes of named (sum, number of samples) pairs, of one at least.

    NaN where there is no sample in any process.
    """
    none = torch.zeros_like(next(iter(sums.values()))[0]), 0
    names = _names_of_all([*sums], none[0].device)
    pairs = [sums.get(name, none) for name in names]
    totals = torch.stack([total for total, _ in pairs]).double()
    samples = totals.new_tensor([count for _, count in pairs])
    both = torch.stack([totals, samples])
    add_up(both)
    means = (both[0] / both[1]).tolist()
    return dict(zip(names, means, strict=True))


def _names_of_all(names: list[str], device: torch.device) -> list[str]:
    """Names that any process has, in one order for all; gathered only where they differ."""
    [(low, high)] = bounds([crc32(repr(names).encode())], device)
    return names if low == high else [*dict.fromkeys(chain(*everyones(names)))]


@torch.no_grad()
def share_buffers(model: nn.Module) -> None:
    """Give every process the buffers of the first, as DistributedDataParallel does at a step."""
    model = _uncompiled(model)
    if isinstance(model, nn.parallel.DistributedDataParallel) and model.broadcast_buffers:
        first = dist.get_global_rank(model.process_group, 0)
        for name, buffer in model.module.named_buffers():
            if name not in model.parameters_to_ignore:
                dist.broadcast(buffer, first, model.process_group)


def warn_if_apart(models: Sequence[nn.Module], device: torch.device) -> None:
    """Warn in the first process if the networks that it trains are its own."""
    if not is_distributed():
        return
    norms = torch.stack([_norms(model, device) for model in models])
    both = torch.stack([-norms, norms])
    dist.all_reduce(both, dist.ReduceOp.MAX)
    bounds_of_each = zip("AB", *both.tolist(), strict=True)
    found = [f"network {x}" for x, low, high in bounds_of_each if -low < high * (1 - 1e-12)]
    if found and rank() == 0:
        warn(
            f"the parameters of {' and '.join(found)} differ from process to process: each trains "
            "its own, and the first one's are saved; wrap both networks in DistributedDataParallel"
        )


def _norms(model: nn.Module, device: torch.device) -> Tensor:
    """Sum of the norms of what is trained; 0 if processes hold it alike anyway, or only shards.

    A sum of the values would not do: a step leaves that of a classifier's last layer as it is.
    """
    wrapped = any(isinstance(m, nn.parallel.DistributedDataParallel) for m in model.modules())
    alike = wrapped or is_sharded(model)
    trained = [] if alike else [p.detach() for p in model.parameters() if p.requires_grad]
    reals = (torch.view_as_real(p) if p.is_complex() else p for p in trained)
    norms = (torch.linalg.vector_norm(p, dtype=torch.float64) for p in reals)
    return sum(norms, torch.zeros((), dtype=torch.float64, device=device))


def is_sharded(model: nn.Module) -> bool:
    """Whether each process holds a part of the parameters, by `fully_shard` or its older form."""
    return is_flat(model) or any(hasattr(p, "placements") for p in model.parameters())


def is_flat(model: nn.Module) -> bool:
    """Whether a part of the model is wrapped in FullyShardedDataParallel."""
    fsdp = sys.modules.get("torch.distributed.fsdp")  # takes long to import
    wrapper = getattr(fsdp, "FullyShardedDataParallel", ())
    return any(isinstance(part, wrapper) for part in model.modules())


def explain_loss(error: Exception, doing: str, batches: int | None) -> None:
    """Raise a clearer error if `error` comes from a collective call, which needs every process.

    Where the number of `batches` is not known, it may be another one in another process.
    NCCL's watchdog may end this process before Python sees an error.
    """
    reason = str(error)
    collective = isinstance(error, dist.DistError) or _COLLECTIVE.search(reason)
    if is_distributed() and collective:
        unequal = "; or its train_loader, which has no length, gave another number of batches"
        raise RuntimeError(
            f"process {rank()} of {dist.get_world_size()} could not go on {doing}: another process "
            f"has ended or hangs, and its own output says why{unequal if batches is None else ''} "
            f"({reason.splitlines()[0]})"
        ) from error


_COLLECTIVE = re.compile(r"\b(gloo|nccl|pair closure)\b", re.IGNORECASE)


def unwrap(model: nn.Module) -> nn.Module:
    """Return the module inside torch.compile and DistributedDataParallel."""
    model = _uncompiled(model)
    if isinstance(model, (nn.parallel.DistributedDataParallel, nn.DataParallel)):
        return unwrap(model.module)
    return model


def alone(model: nn.Module) -> nn.Module:
    """Return a model whose forward pass exchanges nothing with other processes."""
    inner = _uncompiled(model)
    return inner.module if isinstance(inner, nn.parallel.DistributedDataParallel) else model


def _uncompiled(model: nn.Module) -> nn.Module:
    """Return the module inside torch.compile."""
    inner: nn.Module = getattr(model, "_orig_mod", model)
    return inner
