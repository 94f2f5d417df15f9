"""Base of the modules that hold counts and fitted mixtures."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn
from typing_extensions import Self


class StateModule(nn.Module):
    """Goes to another device with its parent, but keeps its own dtypes.

    ``model.half()`` is about the arithmetic of networks; counts in float16 would end at 2,048.
    """

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        def move(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            return moved if moved.dtype == tensor.dtype else tensor.to(moved.device)

        super()._apply(move, recurse)  # type: ignore[no-untyped-call]
        return self
