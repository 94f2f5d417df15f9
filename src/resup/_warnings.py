"""Warnings, at the line of the user that led to them."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_BETWEEN = ("resup", "torch", "sklearn")  # calls of theirs lie between the user's and the warning
_warns = ContextVar("_warns", default=True)


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """Warn at the innermost line that is not of resup, torch or scikit-learn."""
    if not _warns.get():
        return
    level, frame = 1, sys._getframe()
    while frame.f_back and frame.f_globals.get("__name__", "").partition(".")[0] in _BETWEEN:
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)


@contextmanager
def silent() -> Iterator[None]:
    """Nothing warns in here; other threads keep their warnings, unlike by `catch_warnings`."""
    token = _warns.set(False)
    try:
        yield
    finally:
        _warns.reset(token)
