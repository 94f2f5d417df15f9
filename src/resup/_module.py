"""Base of the modules that hold counts and fitted mixtures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import Self


class StateModule(nn.Module):
    """Goes to another device with its parent, but keeps its own dtypes.

    ``model.half()`` is about the arithmetic of networks; counts in float16 would end at 2,048.
    """

    _by_class: tuple[tuple[str, int], ...] = ()
    """Buffers of a module that learns only from its first batch what C is, and their axes of C."""

    def _make_room(self, n_classes: int) -> None:
        """Begin anew with `n_classes`, if there were others."""
        for name, axis in self._by_class:
            buffer = getattr(self, name)
            if buffer.shape[axis] != n_classes:
                shape = *buffer.shape[:axis], n_classes, *buffer.shape[axis + 1 :]
                with torch.inference_mode(False):  # unlike a first batch, later ones may not
                    setattr(self, name, buffer.new_zeros(shape))

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        for name, axis in self._by_class:
            if prefix + name in state_dict:
                self._make_room(state_dict[prefix + name].shape[axis])
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        def move(tensor: Tensor) -> Tensor:
            moved = fn(tensor).contiguous()  # channels_last restrides what has four dimensions
            return moved if moved.dtype == tensor.dtype else tensor.to(moved.device)

        super()._apply(move, recurse)  # type: ignore[no-untyped-call]
        return self
