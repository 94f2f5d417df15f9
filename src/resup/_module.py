"""Base of the modules that hold counts and fitted mixtures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from typing_extensions import Self


class StateModule(nn.Module):
    """Goes to another device with its parent, but keeps its own dtypes.

    ``model.half()`` is about the arithmetic of networks; counts in float16 would end at 2,048.
    """

    _tells_classes = ""
    """Buffer (groups, C, ...) of a module that learns only from its first batch what C is."""

    def _make_room(self, n_classes: int) -> None:
        """Begin anew with `n_classes`, if there were others."""
        raise NotImplementedError

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        saved = state_dict.get(prefix + self._tells_classes) if self._tells_classes else None
        if saved is not None:
            self._make_room(saved.shape[1])
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        def move(tensor: Tensor) -> Tensor:
            moved = fn(tensor).contiguous()  # channels_last restrides what has four dimensions
            return moved if moved.dtype == tensor.dtype else tensor.to(moved.device)

        super()._apply(move, recurse)  # type: ignore[no-untyped-call]
        return self
