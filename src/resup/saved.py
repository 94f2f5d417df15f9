"""All of a trainer that is saved, and how it goes on from there."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from copy import deepcopy
from numbers import Real
from pathlib import Path
from typing import Any

import torch
from sklearn.base import BaseEstimator
from torch import nn
from torch.optim import Optimizer

from . import loaders
from ._warnings import warn
from .callbacks import Callback
from .checkpoint import load_checkpoint, load_part, random_states, save_checkpoint
from .distributed import everyones, is_sharded, rank, unwrap, world_size
from .pair import NetworkPair
from .progress import EpochProgress

FORMAT_VERSION = 13

_OWN: dict[str, tuple[type, ...]] = {  # of a state, beside those of parts
    "kinds": (list,),
    "settings": (Mapping,),
    "epoch": (int,),
    "history": (list,),
    "ending": (int, type(None)),
    "epoch_so_far": (Mapping, type(None)),
    "callbacks": (Mapping,),
}

_SETTINGS = (
    "consistency_weight",
    "cross_weighted",
    "consistency",
    "warmup_epochs",
    "similarities",
    "exchange",
    "weight_threshold",
    "refit_every",
)


class SavedPair(NetworkPair):
    """The part of `CoTrainer` that is saved and loaded."""

    optimizers: list[Optimizer]
    schedulers: list[Any]
    scaler: torch.amp.GradScaler | None
    callbacks: list[Callback]
    history: list[dict[str, Any]]
    _done: EpochProgress

    @property
    def is_main_process(self) -> bool:
        """Whether this process is the one that writes files and shows progress."""
        return rank() == 0

    def state_dict(self) -> dict[str, Any]:
        """All that a later `load_state_dict` needs to go on, of tensors and plain values.

        As in torch, tensors are those that training goes on to change: deep-copy it to keep it.

        The state of network A is ``model_a``, that of B ``model_b``. Callbacks that have a
        `state_dict`, and losses that are modules with a state, are in it. The current random states
        are not: in the middle of an epoch those of its start are, and the checkpoints of `fit`
        store the current ones beside it.
        Gradients are not in it either, so with `accumulate` take it after an optimizer step.
        """
        return {
            "format_version": FORMAT_VERSION,
            "kinds": self._kinds(),
            "settings": self._settings(),
            "epoch": self.epoch,
            "history": [dict(record) for record in self.history],
            "ending": self._ending,
            "epoch_so_far": self._done.state() if self._done.steps else None,
            "callbacks": {name: each.state_dict() for name, each in self._remembering().items()},
            **{name: part.state_dict() for name, part in self._parts().items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave; warns if other settings would change the objective.

        Raises
        ------
        TypeError
            If `state` is no mapping.
        ValueError
            If `state` is not of this format version, or does not fit the models, the optimizers,
            the schedulers, the scaler or the kind of mixture, which keeps this trainer's parameters
            and is fitted again. Parts loaded before the one that does not fit keep their new state.
        """
        if not isinstance(state, Mapping):
            raise TypeError(
                f"state must be a mapping, got {state!r}; resup.checkpoint.load_checkpoint reads a "
                "file"
            )
        version = state.get("format_version")
        if version != FORMAT_VERSION:
            raise ValueError(
                f"state has format_version {version!r}, this version of resup reads "
                f"{FORMAT_VERSION}"
            )
        parts = self._parts()
        for name, types in _OWN.items():
            if name in state and not isinstance(state[name], types):
                wanted = " or ".join(each.__name__ for each in types)
                raise ValueError(f"{name} of state must be {wanted}, got {state[name]!r}")
        if (kinds := state.get("kinds", self._kinds())) != self._kinds():
            raise ValueError(
                f"state is of {', '.join(kinds)}, this trainer has {', '.join(self._kinds())}"
            )
        if missing := [n for n in (*_OWN, *parts) if n not in state and n != "settings"]:
            raise ValueError(f"state lacks {', '.join(missing)}")
        for name, part in parts.items():
            load_part(part, state[name], name)
        for name, callback in self._remembering().items():
            if name in state["callbacks"]:
                load_part(callback, state["callbacks"][name], name)
        now, saved = self._settings(), state.get("settings", {})  # older states have none
        other = [name for name in now if name in saved and saved[name] != now[name]]
        if other:
            changes = (f"{name} was {saved[name]!r} and is {now[name]!r}" for name in other)
            warn(
                "training goes on with other settings than those of the state: "
                f"{', '.join(changes)}"
            )
        self.epoch = state["epoch"]
        self.history = [dict(record) for record in state["history"]]
        self._ending = state["ending"]
        self._done = EpochProgress(**deepcopy(state["epoch_so_far"] or {})).to(self.device)

    def _parts(self) -> dict[str, Any]:
        """Name all that has a state of its own."""
        parts: dict[str, Any] = {
            f"model_{x}": unwrap(m) for x, m in zip("ab", self.models, strict=True)
        }
        parts |= {f"optimizer_{i}": optimizer for i, optimizer in enumerate(self.optimizers)}
        parts |= {f"scheduler_{i}": scheduler for i, scheduler in enumerate(self.schedulers)}
        for name in ("cross_weighted", "consistency"):
            loss = getattr(self, name)
            if isinstance(loss, nn.Module) and loss.state_dict():
                parts[name] = unwrap(loss)
        return parts | ({"scaler": self.scaler} if self.scaler else {}) | {"weigher": self.weigher}

    def _kinds(self) -> list[str]:
        """Name what would take over the state of another kind without an error."""
        parts = [*self.optimizers, *self.schedulers, *([self.scaler] if self.scaler else [])]
        kinds = [type(part).__name__ for part in (*parts, self.weigher.mixture)]
        signal = self.weigher.signal
        return [*kinds, f"signal {'of a callable' if callable(signal) else signal}"]

    def _settings(self) -> dict[str, Any]:
        """Name what changes the objective and no state tells."""
        settings = {name: getattr(self, name) for name in _SETTINGS}
        if isinstance(mixture := self.weigher.mixture, BaseEstimator):
            settings |= {f"{name} of mixture": v for name, v in mixture.get_params().items()}
        for name, value in settings.items():
            if isinstance(value, Real):
                settings[name] = float(value)
            elif value is not None and not isinstance(value, str):
                settings[name] = getattr(value, "__name__", type(unwrap(value)).__name__)
        return settings

    def _alike(self) -> dict[str, Any]:
        """Name what must be the same in every process."""
        own = {
            name: getattr(self, name)
            for name in ("accumulate", "clip_grad_norm", "scheduler_interval")
        }
        return {**self._settings(), **own, "mixture and optimizers": self._kinds()}

    def _check_whole(self, **paths: Path | None) -> None:
        """Raise if there is a path, but this process holds only a part of a network."""
        for name, path in paths.items():
            if path is not None and any(map(is_sharded, self.models)):
                raise ValueError(
                    f"{name} must be None for networks that processes share out (fully_shard, "
                    "FullyShardedDataParallel), of which each would save its part"
                )

    def _check_ahead(self, path: Path) -> None:
        """Raise rather than replace a checkpoint that is further than this run."""
        try:
            epochs = load_checkpoint(path).get("epoch")
        except (FileNotFoundError, ValueError):  # nothing to lose
            return
        if isinstance(epochs, int) and epochs > self.epoch:
            raise FileExistsError(
                f"checkpoint {path} holds {epochs} epochs and would be replaced after "
                f"{self.epoch + 1}: pass resume={str(path)!r} to go on from there, or delete it"
            )

    def _remembering(self) -> dict[str, Any]:
        """Name the callbacks that have a state, by their types and places among these."""
        found: dict[str, Any] = {}
        for callback in self.callbacks:
            if hasattr(callback, "state_dict") and hasattr(callback, "load_state_dict"):
                kind = type(callback).__name__
                found[f"{kind}_{sum(name.startswith(f'{kind}_') for name in found)}"] = callback
        return found

    def _save(self, path: str | os.PathLike[str] | None, loader: Iterable[Any]) -> None:
        randomness = everyones(random_states(self._generators(loader)))
        if path is None:
            return
        for optimizer in self.optimizers:
            if hasattr(optimizer, "consolidate_state_dict"):  # a ZeroRedundancyOptimizer
                optimizer.consolidate_state_dict()
        if self.is_main_process:
            save_checkpoint({**self.state_dict(), "random": randomness}, path)

    def _resume(self, path: str | os.PathLike[str], loader: Iterable[Any]) -> Any:
        """Load a checkpoint; returns the random states to go on with, if it has them."""
        state = load_checkpoint(path)
        randomness = state.get("random", [])  # only `fit` writes it
        try:
            self.load_state_dict(state)
            for states in [*randomness, *([self._done.randomness] if self._done.steps else [])]:
                if missing := [name for name in random_states([]) if name not in states]:
                    raise ValueError(f"its random states lack {', '.join(missing)}")
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            reason = error if isinstance(error, ValueError) else repr(error)
            raise ValueError(f"training cannot go on from {path}: {reason}") from error
        if self.epoch:
            loaders.start_workers(loader)
        if self._done.steps and len(randomness) not in (0, world_size()):
            warn(
                f"epoch {self.epoch + 1} begins anew, as its samples are shared out otherwise: "
                f"it was begun with {len(randomness)} processes, got {world_size()}"
            )
            self._done = EpochProgress().to(self.device)
            self.weigher.reset()
        return randomness[rank()] if rank() < len(randomness) else None
