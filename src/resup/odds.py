"""The posterior of a right label in closed form: three scalars, and the range where they hold."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq
from scipy.special import expit, logit

from .histogram import SMALLEST, Array

__all__ = ["LogOdds"]


@dataclass(frozen=True)
class LogOdds:
    """Log-odds that a label is right, a·log S + b·log(1 - S) + c, constant outside [low, high].

    Two Beta densities have such a posterior (Eq. 5), and :class:`resup.Posterior` evaluates it.

    Parameters
    ----------
    a, b, c : float
        Coefficients.
    low, high : float
        Inside (0, 1).

    Examples
    --------
    >>> from resup.odds import LogOdds
    >>> LogOdds(5.0, -5.0, 0.0)([0.1, 0.5, 0.9]).round(1)
    array([-11.,   0.,  11.])
    """

    a: float
    b: float
    c: float
    low: float = SMALLEST
    high: float = 1 - SMALLEST

    def __call__(self, s: ArrayLike) -> Array:
        """Evaluate at similarities in [0, 1]."""
        inside = np.clip(np.asarray(s, np.float64), self.low, self.high)
        return self.a * np.log(inside) + self.b * np.log1p(-inside) + self.c

    def rising(self) -> LogOdds:
        """Cut to the range where it rises, so that it is flat before and after."""
        low, high = self.low, self.high
        if self.a <= 0 <= self.b and self.a != self.b:  # only falls: the odds of a typical sample
            low = high = 0.5
        elif self.a < 0:
            low = float(np.clip(self.a / (self.a + self.b), low, high))
        elif self.b > 0:
            high = float(np.clip(self.a / (self.a + self.b), low, high))
        return LogOdds(self.a, self.b, self.c, low, high)

    def scaled(self, factor: float) -> LogOdds:
        """Multiply the log-odds by a factor of at least 0."""
        return replace(self, a=factor * self.a, b=factor * self.b, c=factor * self.c)

    def not_below(self, probability: float) -> LogOdds:
        """Cut to the range where it does not say less than this; made for odds that rise."""
        least = float(logit(min(probability, 1 - 1e-12)))
        if self(self.low) >= least:
            return self
        if self(self.high) <= least:
            return LogOdds(0.0, 0.0, least, self.low, self.high)
        low = brentq(lambda s: float(self(s)) - least, self.low, self.high, xtol=1e-15)
        return replace(self, low=low)

    def held_to(self, rate: float, x: Array, weights: Array) -> LogOdds:
        """Shift all odds alike until the mean posterior of a wrong label is `rate`."""
        log_odds, rate = self(x), float(np.clip(rate, 1e-6, 1 - 1e-6))
        weights = weights / weights.sum()

        def missing(shift: float) -> float:
            return rate - float(weights @ expit(shift - log_odds))

        shift = brentq(missing, log_odds.min() + logit(rate) - 1, log_odds.max() + logit(rate) + 1)
        return replace(self, c=self.c - shift)

    def log_bounds(self) -> tuple[float, float, float, float]:
        """Bounds of log S, then of log(1 - S)."""
        ends = np.array([self.low, self.high])
        return (*np.log(ends).tolist(), *np.log1p(-ends[::-1]).tolist())


ALWAYS_RIGHT = LogOdds(0.0, 0.0, 40.0)  # expit(40) is 1 in float32 and in float64
