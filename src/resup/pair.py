"""Two networks called alike: what training and judging share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from . import loaders
from ._checks import check_choice, check_methods
from ._validation import check_logits_targets, check_models, check_pair
from .checkpoint import random_states, set_random_states


class NetworkPair:
    """The part of `CoTrainer` that calls the models, on its device and under its autocast."""

    def __init__(
        self,
        models: Sequence[nn.Module],
        autocast: torch.dtype | None,
        unpack: Callable[[Any], tuple[Any, Tensor]] | None,
    ) -> None:
        self.models = check_models(models)
        check_choice("autocast", autocast, (None, torch.bfloat16, torch.float16))
        if unpack is not None:
            check_methods("unpack", unpack, "__call__")
        self.device = next(p.device for model in self.models for p in model.parameters())
        self.autocast = autocast
        self.unpack = unpack
        self._resting: tuple[list[nn.Module], ...] = ([], [])

    def forward(self, model: nn.Module, inputs: Any) -> Tensor:
        """Logits (N, C) of one model."""
        if isinstance(inputs, Mapping):
            output = model(**inputs)
        elif isinstance(inputs, (tuple, list)) and not isinstance(inputs, PackedSequence):
            output = model(*inputs)
        else:
            output = model(inputs)
        logits = output.get("logits") if isinstance(output, Mapping) else output
        logits = getattr(logits, "logits", logits)
        if not isinstance(logits, Tensor):
            raise TypeError(
                "a model must return logits, or an object or mapping with logits, got "
                f"{type(output).__name__}; override CoTrainer.forward for other models"
            )
        return logits

    def _predict(
        self, loader: Iterable[Any], rewind: bool = True
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Logits (2, N, C) and targets of each batch, in eval mode.

        With `rewind` the random states, the loader's too, are put back: training goes on as
        without.
        """
        modes = [(part, part.training) for model in self.models for part in model.modules()]
        generators = loaders.generators(loader)
        randomness = random_states(generators)
        for model in self.models:
            model.eval()
        try:
            for batch in loader:
                inputs, targets = self._to_device(batch)
                with self._autocast():
                    logits = [self.forward(model, inputs) for model in self.models]
                check_pair(*logits)
                check_logits_targets(logits[0], targets)
                yield torch.stack(logits), targets.long()
        finally:
            if rewind:  # a DataLoader draws a seed for its workers
                set_random_states(randomness, generators)
            for part, mode in modes:  # not only the flag: LoRA's layers merge weights in `eval`
                part.train(mode)

    def _train_mode(self) -> None:
        for model, resting in zip(self.models, self._resting, strict=True):
            if model.training:  # parts of it may be in eval mode on purpose
                resting[:] = [part for part in model.modules() if not part.training]
            elif any(p.requires_grad for p in model.parameters()):
                model.train()
                for part in resting:
                    part.eval()

    def _autocast(self) -> AbstractContextManager[Any]:
        if self.autocast is None:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.autocast)

    def _to_device(self, batch: Any) -> tuple[Any, Tensor]:
        if self.unpack is not None:
            batch = self.unpack(batch)
        if not isinstance(batch, (tuple, list)) or len(batch) != 2:
            size = f" of {len(batch)}" if isinstance(batch, (tuple, list)) else ""
            found = f"got {type(batch).__name__}{size}"
            if self.unpack is not None:
                raise TypeError(f"unpack must return a pair (inputs, targets), {found}")
            raise TypeError(f"a batch must be a pair (inputs, targets), {found}; pass unpack=")
        return _move(batch[0], self.device), _move(batch[1], self.device)


def _move(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    if callable(getattr(value, "to", None)):
        return value.to(device)
    if isinstance(value, Mapping):
        return {key: _move(item, device) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        moved = [_move(item, device) for item in value]
        return type(value)(*moved) if hasattr(value, "_fields") else moved
    return value
