"""Checks on what comes in: every error names the argument, what came and what was expected."""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import Any


def check_choice(name: str, value: object, choices: tuple[object, ...]) -> None:
    """Raise unless `value` is one of `choices`."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}")


def check_number(
    name: str, value: Any, low: float, high: float = math.inf, *, whole: bool = False
) -> None:
    """Raise unless `value` is a finite number from `low` to `high`."""
    right = isinstance(value, Real)
    if whole:
        right = isinstance(value, Integral) and not isinstance(value, bool)
    if not (right and low <= float(value) <= high and math.isfinite(value)):
        kind = "an integer" if whole else "a finite number"
        bounds = f"of at least {low}" if high == math.inf else f"in [{low}, {high}]"
        raise ValueError(f"{name} must be {kind} {bounds}, got {value!r}")


def check_methods(name: str, value: Any, *methods: str) -> None:
    """Raise unless `value` is an object that has the methods."""
    found = [method for method in methods if callable(getattr(value, method, None))]
    if isinstance(value, type) or len(found) != len(methods):
        kind = "callable" if methods == ("__call__",) else f"an object with {' and '.join(methods)}"
        raise TypeError(f"{name} must be {kind}, got {value!r}")
