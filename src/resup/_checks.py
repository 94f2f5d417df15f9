"""Checks on what comes in: every error names the argument, what came and what was expected."""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import NDArray


def check_choice(name: str, value: object, choices: tuple[object, ...]) -> None:
    """Raise unless `value` is one of `choices`."""
    value = value.item() if isinstance(value, np.generic) else value  # as of a grid of parameters
    if not any(isinstance(value, type(choice)) and value == choice for choice in choices):
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}")


def is_number(value: object) -> bool:
    """Whether it is a real number; True and False are none."""
    return isinstance(value, Real) and not isinstance(value, bool)


def check_number(
    name: str, value: Any, low: float, high: float = math.inf, *, whole: bool = False
) -> None:
    """Raise unless `value` is a finite number from `low` to `high`."""
    right = is_number(value) and (isinstance(value, Integral) or not whole)
    if not (right and low <= float(value) <= high and math.isfinite(value)):
        kind = "an integer" if whole else "a finite number"
        bounds = f"of at least {low}" if high == math.inf else f"in [{low}, {high}]"
        raise ValueError(f"{name} must be {kind} {bounds}, got {value!r}")


def check_counts(name: str, counts: NDArray[Any]) -> None:
    """Raise unless all counts are finite and none is negative."""
    if not np.isfinite(counts).all() or (counts < 0).any():
        raise ValueError(f"{name} must be finite and not negative")


def check_methods(name: str, value: Any, *methods: str, hint: str = "") -> None:
    """Raise unless `value` is an object that has the methods."""
    found = [method for method in methods if callable(getattr(value, method, None))]
    if isinstance(value, type) or len(found) != len(methods):
        kind = "callable" if methods == ("__call__",) else f"an object with {' and '.join(methods)}"
        if isinstance(value, type):
            hint = "; pass an object of this class"
        raise TypeError(f"{name} must be {kind}, got {value!r}{hint}")


def to_numpy(values: Any, name: str) -> NDArray[Any]:
    """Turn an array-like or a tensor of any device into an array, without importing torch."""
    if np.ma.isMaskedArray(values) and np.ma.is_masked(values):
        raise ValueError(
            f"{name} must not be masked; leave out masked samples, here and in what goes with them"
        )
    try:
        if hasattr(values, "detach"):
            values = values.detach().cpu()
            if str(values.dtype).startswith(("torch.bfloat16", "torch.float8")):  # NumPy has none
                values = values.float()
        return np.asarray(values)
    except (TypeError, ValueError, NotImplementedError) as error:
        raise ValueError(
            f"{name} must be an array-like of one shape or a dense tensor with values, got "
            f"{type(values).__name__}: {error}"
        ) from error


def as_numbers(values: Any, name: str) -> NDArray[Any]:
    """Turn real numbers into an array of their own dtype; of Python objects, into float64."""
    numbers = to_numpy(values, name)
    if numbers.dtype == object and all(isinstance(v, (Real, np.bool_)) for v in numbers.flat):
        numbers = numbers.astype(np.float64)
    if numbers.dtype.kind not in "fiub":
        raise ValueError(f"{name} must be real numbers, got dtype {numbers.dtype}")
    return numbers


def as_column(values: Any, name: str = "similarities") -> NDArray[Any]:
    """Real (N,) array of its own dtype; the range is left to `as_similarities`."""
    s = as_numbers(values, name)
    if s.ndim == 2 and s.shape[1] == 1:
        s = s[:, 0]
    if s.ndim != 1:
        raise ValueError(f"{name} must have shape (N,) or (N, 1), got {s.shape}")
    return s


ROUNDING = 1e-6  # a cosine in float32 may be as far outside of [0, 1]


def as_similarities(values: Any, name: str = "similarities") -> NDArray[np.floating]:
    """Values in [0, 1] as an (N,) array of float32 or wider.

    Raises a ValueError if one is NaN or outside by more than rounding.
    """
    s = as_column(values, name)
    if s.dtype.kind != "f" or s.dtype.itemsize < 4:
        s = s.astype(np.float64)
    if not len(s):
        return s
    low, high = s.min(), s.max()
    if low >= 0 and high <= 1:
        return s
    if np.isnan(low) or np.isnan(high):
        raise ValueError(f"{name} must not contain NaN, got {int(np.isnan(s).sum())} of them")
    if low < -ROUNDING or high > 1 + ROUNDING:
        raise ValueError(f"{name} must lie in [0, 1], got values from {low:.8g} to {high:.8g}")
    inside: NDArray[np.floating] = np.clip(s, 0, 1)
    return inside


def as_weights(values: Any, n: int, name: str = "sample_weight") -> NDArray[Any]:
    """Sample weights as a checked real (n,) array."""
    w = as_numbers(values, name)
    if w.shape != (n,):
        raise ValueError(f"{name} must have shape ({n},), got {w.shape}")
    if n and not (w.min() >= 0 and w.max() < np.inf):
        raise ValueError(f"{name} must be finite and not negative, got {w.min()} to {w.max()}")
    return w.astype(np.float64) if w.dtype.itemsize > 8 else w
