"""What is asked of a loader beside its batches."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import (
    DataLoader,
    RandomSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)


def length(loader: Iterable[Any]) -> int | None:
    """Count the batches of an epoch, if the loader can say it."""
    try:
        return len(loader)  # type: ignore[arg-type]
    except (TypeError, NotImplementedError):  # such as a DataLoader of an IterableDataset
        return None


def samplers(loader: Iterable[Any]) -> list[Any]:
    """List what decides the order: samplers and batch samplers, and what is inside of them."""
    found: list[Any] = []
    waiting = [getattr(loader, "sampler", None), getattr(loader, "batch_sampler", None)]
    while waiting:
        sampler = waiting.pop()
        if sampler is not None and not any(sampler is other for other in found):
            found.append(sampler)
            waiting.append(getattr(sampler, "sampler", None))
    return found


Generator = torch.Generator | np.random.Generator | np.random.RandomState | random.Random


def generators(loader: Iterable[Any]) -> list[Generator]:
    """List the random generators of a loader, its samplers and its data set."""
    owners, inner = [loader, *samplers(loader)], getattr(loader, "dataset", None)
    while inner is not None and not any(inner is other for other in owners):
        owners.append(inner)
        inner = getattr(inner, "dataset", None)  # of a Subset
    held = [getattr(owner, "generator", None) for owner in owners]  # also of what is wrapped
    held += [value for owner in owners for value in getattr(owner, "__dict__", {}).values()]
    stateless = random.SystemRandom
    return list(
        {
            id(g): g for g in held if isinstance(g, Generator) and not isinstance(g, stateless)
        }.values()
    )


def set_epoch(loader: Iterable[Any], epoch: int) -> None:
    """Tell a DistributedSampler, wherever it is, which order comes next."""
    for sampler in samplers(loader):
        if hasattr(sampler, "set_epoch"):
            sampler.set_epoch(epoch)


def start_workers(loader: Iterable[Any]) -> None:
    """Start workers that persist, as the first epoch does, which draws their seed."""
    if getattr(loader, "persistent_workers", False):
        iter(loader)


LOST = (RuntimeError, ConnectionError, EOFError)  # where a worker dies, and while it sends a batch


def is_lost_worker(error: BaseException) -> bool:
    """Whether an error of `LOST` may come from a worker that died."""
    return not isinstance(error, RuntimeError) or "DataLoader worker" in str(error)


def until_stopped(loader: Iterable[Any], stopped: Callable[[], bool]) -> Iterator[Any]:
    """Batches of a loader; ends also where its workers were told to stop with this process."""
    try:
        yield from loader
    except LOST:
        if not stopped():
            raise


def check_order(loader: Iterable[Any]) -> None:
    """Raise if a loader shuffles or drops samples, so that its order means nothing."""
    loader = getattr(loader, "iterable", loader)  # of a progress bar
    if not isinstance(loader, DataLoader):
        return
    shuffling = RandomSampler, SubsetRandomSampler, WeightedRandomSampler
    owners = [loader, *samplers(loader)]
    for owner in owners:
        if isinstance(owner, shuffling) or getattr(owner, "shuffle", False) is True:
            raise ValueError(
                f"loader shuffles ({type(owner).__name__}), so its order means nothing; use "
                "shuffle=False"
            )
    for owner in owners:
        inner, size = getattr(owner, "sampler", None), getattr(owner, "batch_size", None)
        if getattr(owner, "drop_last", False) and size and inner is not None:
            samples = length(inner)
            if samples is None or samples % size:
                raise ValueError("loader drops its last samples; use drop_last=False")
