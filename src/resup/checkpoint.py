"""Checkpoints that survive the death of the process that writes them."""

from __future__ import annotations

import json
import os
import pickle
import random
import re
import signal
import threading
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from operator import methodcaller
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.utils import check_random_state

from .loaders import Generator

__all__ = ["load_checkpoint"]

KIND = "resup.CoTrainer"


def save_checkpoint(state: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Write a state so that `path` holds either the old checkpoint or the new one, never a part.

    Parameters
    ----------
    state : mapping
        Of tensors and plain values, such as ``CoTrainer.state_dict`` gives.
    path : path
        Its folder is made if it is missing; a link stays one.

    Raises
    ------
    TypeError
        If the state holds what `load_checkpoint` would refuse.
    """
    path = check_path(path)
    unfinished = path.with_name(f"{path.name}.tmp")
    try:
        try:
            with open(unfinished, "wb") as file:
                torch.save({"kind": KIND, "checksums": _checksums(), **_plain(state)}, file)
                file.flush()
                os.fsync(file.fileno())
        except (OSError, RuntimeError) as error:  # torch may raise its own instead of the disk's
            reason = error if isinstance(error, OSError) else error.__context__
            if isinstance(reason, OSError) and reason.errno:
                raise OSError(reason.errno, reason.strerror, str(path)) from error
            raise
        try:
            torch.load(unfinished, map_location="cpu", weights_only=True, mmap=True)
        except pickle.UnpicklingError as error:
            raise TypeError(
                "the state must hold tensors and plain values only, such as a scheduler's, a "
                f"callback's or a record's: {_reason(error)}"
            ) from error
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def as_path(name: str, path: str | os.PathLike[str] | None) -> Path | None:
    """Make a path absolute, or raise unless it is one or None."""
    if path is None:
        return None
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"{name} must be a path, got {path!r}")
    return Path(path).absolute()


def check_path(path: str | os.PathLike[str]) -> Path:
    """Make the folder of a checkpoint, or raise if there can be none."""
    path = Path(path).resolve()  # else `os.replace` would take the place of a link
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        raise IsADirectoryError(f"checkpoint must be a file, got the folder {path}")
    if path.exists() and not path.is_file():
        raise ValueError(f"checkpoint must be a regular file, got {path}")
    if not os.access(path.parent, os.W_OK):
        raise PermissionError(f"the folder of checkpoint {path} cannot be written to")
    return path


def _plain(value: Any) -> Any:
    """Turn NumPy's numbers, in records and schedulers, into Python's."""
    if isinstance(value, np.generic):
        return value.item()
    if type(value) in (list, tuple):
        return type(value)(map(_plain, value))
    if type(value) in (dict, Counter):  # other mappings are the models', whose attributes count
        return type(value)({_plain(key): _plain(item) for key, item in value.items()})
    return value


def _reason(error: Exception) -> str:
    """Say what was wrong with a file; it stands far down, under torch's advice to trust it."""
    text = str(error) or type(error).__name__
    if named := re.search(r"GLOBAL (\S+)", text):
        return f"{named[1]} is not allowed"
    found = re.search(r"WeightsUnpickler error:\s*(.+)", text)
    return found[1] if found else text.splitlines()[0]


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
        with open(path, "rb") as file:
            if not zipfile.is_zipfile(file):
                size = os.path.getsize(path)
                raise ValueError(f"its {size} bytes are no whole archive; was it cut off?")
        state = torch.load(path, map_location="cpu", weights_only=True)
        if isinstance(state, dict) and state.pop("checksums", False):
            with zipfile.ZipFile(path) as archive:  # torch does not look at them
                if damaged := archive.testzip():
                    raise ValueError(f"{damaged} is not as it was written")
    except (FileNotFoundError, IsADirectoryError, PermissionError):
        raise
    except Exception as error:  # a damaged file can make the reader fail in any way
        raise ValueError(
            f"{path} is damaged or not a checkpoint of CoTrainer: {_reason(error)}"
        ) from error
    if not isinstance(state, dict) or state.pop("kind", None) != KIND:
        raise ValueError(f"{path} is not a checkpoint of CoTrainer")
    return state


def _checksums() -> bool:
    """Whether torch writes a checksum of each part."""
    return bool(getattr(torch.serialization, "get_crc32_options", lambda: True)())


def load_part(part: Any, saved: Mapping[str, Any], name: str) -> None:
    """Load the state of a model, an optimizer and so on; raise ValueError if it does not fit."""
    try:
        part.load_state_dict(saved)
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"the state of {name} does not fit: {error}") from error


def random_states(generators: Sequence[Generator]) -> dict[str, Any]:
    """States of the global generators and of a loader's own, as tensors and plain values."""
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
        "python": random.getstate(),
        "others": [_kind_and_state(own) for own in _with_global(generators)],
    }


def _with_global(generators: Sequence[Generator]) -> list[Generator]:
    """NumPy's global generator, then those of a loader."""
    return [check_random_state(None), *generators]


def _kind_and_state(generator: Generator) -> list[Any]:
    state, kind = _state(generator), type(generator)
    bits = [state["bit_generator"]] if isinstance(state, dict) else []  # NumPy's differ by theirs
    return [" ".join([f"{kind.__module__}.{kind.__name__}", *bits]), state]


def _state(generator: Generator) -> Any:
    if isinstance(generator, torch.Generator):
        return generator.get_state()
    if isinstance(generator, random.Random):
        return generator.getstate()
    state: Any
    if isinstance(generator, np.random.RandomState):
        state = generator.get_state(legacy=False)
    else:
        state = generator.bit_generator.state
    return json.loads(json.dumps(state, default=methodcaller("tolist")))  # has arrays


def _set_state(generator: Generator, state: Any) -> None:
    if isinstance(generator, torch.Generator):
        generator.set_state(state.cpu())
    elif isinstance(generator, random.Random):
        generator.setstate(state)
    elif isinstance(generator, np.random.RandomState):
        generator.set_state(state)
    else:
        generator.bit_generator.state = state


def set_random_states(states: Mapping[str, Any], generators: Sequence[Generator]) -> None:
    """Put the generators back; CUDA's only if there are as many devices as there were."""
    torch.set_rng_state(states["torch"].cpu())
    if states["cuda"] and len(states["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([state.cpu() for state in states["cuda"]])
    random.setstate(states["python"])
    for generator, (kind, state) in zip(_with_global(generators), states["others"], strict=False):
        if kind == _kind_and_state(generator)[0]:
            _set_state(generator, state)


@contextmanager
def on_sigterm(act: Callable[[], None]) -> Iterator[None]:
    """While inside, SIGTERM calls `act` and does not end the process; main thread only."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    owner = os.getpid()
    changed: list[tuple[int, Any]] = []

    def handle(*_: Any) -> None:
        if os.getpid() != owner:  # a process forked while inside: as if it had been before
            signal.signal(signal.SIGTERM, changed[0][1] or signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGTERM)
            return
        act()
        if hasattr(signal, "SIGCHLD"):  # a loader's workers may be told to stop too: no error then
            changed.append((signal.SIGCHLD, signal.signal(signal.SIGCHLD, signal.SIG_DFL)))

    changed.append((signal.SIGTERM, signal.signal(signal.SIGTERM, handle)))
    try:
        yield
    finally:
        for number, handler in reversed(changed):
            if handler is not None:  # None: it was not set from Python
                signal.signal(number, handler)
