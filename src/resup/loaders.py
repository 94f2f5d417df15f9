"""What is asked of a loader beside its batches."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch.utils.data import (
    DataLoader,
    Dataset,
    RandomSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

MOST_PARTS = 1000  # of a loader: an object that makes up attributes has no end


def length(loader: Iterable[Any]) -> int | None:
    """Count the batches of an epoch, if the loader can say it."""
    try:
        return len(loader)  # type: ignore[arg-type]
    except (TypeError, NotImplementedError):  # such as a DataLoader of an IterableDataset
        return None


def unwrapped(loader: Iterable[Any]) -> Any:
    """Take the loader out of a progress bar, or of another object that holds a DataLoader."""
    if not hasattr(loader, "__iter__"):
        return loader
    inner = _get(loader, "iterable")
    for name in ("loader", "dataloader"):
        if isinstance(held := _get(loader, name), DataLoader):
            inner = held
    return loader if inner is None else inner


def samplers(loader: Iterable[Any]) -> list[Any]:
    """List what decides the order: samplers and batch samplers, and what is inside of them."""
    return _parts(unwrapped(loader), "sampler", "batch_sampler")


def _parts(whole: Any, *names: str) -> list[Any]:
    """List what an object holds under these names, and what that holds."""
    found: list[Any] = []
    owners = [whole]
    while owners and len(found) < MOST_PARTS:
        owner = owners.pop()
        inner = [_get(owner, name) for name in names]
        several = [_get(owner, name) for name in ("datasets", "transforms")]  # of what combines
        lists = [[*each.values()] if isinstance(each, dict) else each for each in several]
        for part in chain(inner, *(each for each in lists if isinstance(each, (list, tuple)))):
            if part is not None and not any(part is other for other in found):
                found.append(part)
                owners.append(part)
    return found


def _get(owner: Any, name: str) -> Any:
    """Attribute of an object of any kind, whose `__getattr__` may raise what it likes."""
    try:
        return getattr(owner, name, None)
    except Exception:
        return None


Generator = torch.Generator | np.random.Generator | np.random.RandomState | random.Random

DATA = "dataset", "transform", "target_transform", "transforms", "collate_fn"


def _owners(loader: Iterable[Any]) -> list[Any]:
    """List what may hold an order: a loader, its samplers, its data sets and what changes these."""
    inner = unwrapped(loader)
    outer = [loader] if loader is not inner else []
    return [*outer, inner, *samplers(inner), *_parts(inner, *DATA)]


def generators(loader: Iterable[Any], others: Iterable[Any] = ()) -> list[Generator]:
    """List the random generators that a loader, its parts and other objects hold."""
    owners = [*_owners(loader), *others]
    held = [_get(owner, "generator") for owner in owners]  # also of what is wrapped
    held += [value for owner in owners for value in (_get(owner, "__dict__") or {}).values()]
    stateless = random.SystemRandom
    known = (g for g in held if isinstance(g, Generator) and not isinstance(g, stateless))
    return list(dict.fromkeys(known))


def set_epoch(loader: Iterable[Any], epoch: int) -> None:
    """Tell a loader, its samplers and its data sets which order comes next.

    Such as DistributedSampler, and Hugging Face's IterableDataset. The copies of a data set that
    persistent workers hold are not told.
    """
    for owner in _owners(loader):
        if (tell := _get(owner, "set_epoch")) is not None:
            tell(epoch)


def start_workers(loader: Iterable[Any]) -> None:
    """Start workers that persist, as the first epoch does, which draws their seed."""
    loader = unwrapped(loader)
    loader = getattr(loader, "base_dataloader", loader)  # of Accelerate's
    if getattr(loader, "persistent_workers", False):
        if isinstance(loader, DataLoader):  # a subclass's may be a generator, which starts nothing
            DataLoader.__iter__(loader)
        else:
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


def check_batches(name: str, loader: Any) -> None:
    """Raise if samples or whole tensors, or nothing iterable, are given in place of batches."""
    loader = unwrapped(loader)
    found = type(loader).__name__
    samples = isinstance(loader, Dataset) and not hasattr(loader, "__iter__")
    batches = hasattr(loader, "__iter__") or hasattr(loader, "__getitem__")
    if isinstance(loader, tuple) and loader and all(hasattr(part, "shape") for part in loader):
        found = f"({', '.join(type(part).__name__ for part in loader)})"
    elif batches and not samples and not hasattr(type(loader), "shape"):
        return
    raise TypeError(f"{name} must give batches, such as a DataLoader, got {found}")


def check_order(loader: Iterable[Any]) -> None:
    """Raise if a loader shuffles or drops samples, so that its order means nothing."""
    check_batches("loader", loader)
    loader = unwrapped(loader)
    if not isinstance(loader, DataLoader):
        return
    if loader.num_workers and not getattr(loader, "in_order", True):
        raise ValueError("loader gives batches as they are ready; use in_order=True")
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
