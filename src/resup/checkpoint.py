"""Checkpoints that survive the death of the process that writes them."""

from __future__ import annotations

import os
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

__all__ = ["load_checkpoint", "random_states", "save_checkpoint", "set_random_states"]

KIND = "resup.CoTrainer"


def save_checkpoint(state: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Write a state so that `path` holds either the old checkpoint or the new one, never a part.

    Parameters
    ----------
    state : mapping
        Of tensors and plain values, such as ``CoTrainer.state_dict`` gives.
    path : path
        Its folder is made if it is missing.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with open(unfinished, "wb") as file:
            torch.save({"kind": KIND, **state}, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def load_checkpoint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a checkpoint to the CPU, without running any code it may hold.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is damaged or is not a checkpoint of `CoTrainer`.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (FileNotFoundError, PermissionError):
        raise
    except Exception as error:  # a damaged file can make the reader fail in any way
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{path} is damaged or not a checkpoint of CoTrainer: {reason}") from error
    if not isinstance(state, dict) or state.pop("kind", None) != KIND:
        raise ValueError(f"{path} is not a checkpoint of CoTrainer")
    return state


def random_states(generator: torch.Generator | None = None) -> dict[str, Any]:
    """States of the global generators and of a loader's own, as tensors and plain values."""
    name, keys, *rest = np.random.get_state(legacy=True)  # noqa: NPY002
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": [name, torch.from_numpy(np.asarray(keys, np.int64)), *rest],
        "python": random.getstate(),
        "loader": None if generator is None else generator.get_state(),
    }


def set_random_states(states: Mapping[str, Any], generator: torch.Generator | None = None) -> None:
    """Put the generators back; CUDA's only if there are as many devices as there were."""
    torch.set_rng_state(states["torch"])
    if states["cuda"] and len(states["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(states["cuda"])
    name, keys, *rest = states["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002
    random.setstate(states["python"])
    if generator is not None and states["loader"] is not None:
        generator.set_state(states["loader"])
