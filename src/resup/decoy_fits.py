"""The two fits of DecoyMixture, the contrast and the Betas, and what is made of both."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.special import expit, logit

from .em import Mixture, likeliest_shapes, self_labels
from .histogram import Array
from .odds import LogOdds

PRIOR, FLOOR = 0.1, 0.003  # pseudo-observations per sample: self-labels; uniform ones per component
RATE_WEIGHT, CONTRAST_RATE_WEIGHT = 0.3, 0.01  # of the seen rate, the same unit
RIDGE, CONTRAST_STEPS = 1e-4, 60
NEAR, SHARPNESS = 0.05, 4  # when two noise rates agree
LEAST_SHARE = 0.3  # of the contrast in the log-odds, where the rates do not agree


@dataclass(frozen=True)
class Values:
    """Values inside (0, 1), their weights, and log x over log(1 - x), (2, N)."""

    x: Array
    w: Array
    logs: Array

    @classmethod
    def of(cls, x: Array, w: Array, clip: float) -> Values:
        """Move values into [clip, 1 - clip], and let their weights sum to 1."""
        inside = np.clip(x, clip, 1 - clip)
        return cls(inside, w / w.sum(), np.stack([np.log(inside), np.log1p(-inside)]))

    def scaled(self, factor: float) -> Values:
        """Multiply the weights."""
        return replace(self, w=factor * self.w)


def contrast(
    samples: Values, decoys: Values, hit_rate: float, seen_rate: float | None
) -> tuple[Array, float]:
    """Log-odds (a, b, c) that a label is right, and the noise rate, by telling samples from decoys.

    The odds that a value is a sample's, not a decoy's, are f / g, which hold f_1 / f_0 and the
    noise rate but no density: a regression in four parameters, fitted by damped Fisher scoring.
    """
    logs, w = np.hstack([samples.logs, decoys.logs]), np.concatenate([samples.w, decoys.w])
    is_sample = np.repeat([1.0, 0.0], [len(samples.w), len(decoys.w)])
    rate, weight = (0.3, 0.0) if seen_rate is None else (seen_rate, CONTRAST_RATE_WEIGHT)
    diagonal = np.arange(4)

    def likelihood(theta: Array) -> tuple[float, Array, Array, float]:
        a, b, c = theta[:3]
        pi = np.clip(expit(theta[3]), 1e-6, 1 - 1e-6)
        slopes = np.array([np.exp(a), -np.exp(b)])
        ratio = np.exp(np.clip(slopes @ logs + c, -50, 50))
        f, g = pi + (1 - pi) * ratio, 1 + hit_rate * pi * (ratio - 1)
        odds = np.log(f) - np.log(g)
        by_ratio = (1 - pi) * ratio / f - hit_rate * pi * ratio / g
        by_rate = (1 - ratio) * (1 / f + hit_rate / g) * pi * (1 - pi)
        slope = np.stack([*(slopes[:, None] * logs * by_ratio), by_ratio, by_rate])
        p = expit(odds)
        gradient = slope @ (w * (is_sample - p))
        information = (slope * (w * p * (1 - p))) @ slope.T
        value = w @ (is_sample * odds - np.logaddexp(0, odds)) - RIDGE / 2 * (a**2 + b**2)
        value += weight * (rate * np.log(pi) + (1 - rate) * np.log1p(-pi))
        gradient += [-RIDGE * a, -RIDGE * b, 0, weight * (rate - pi)]
        information[diagonal, diagonal] += [RIDGE, RIDGE, 0, weight * pi * (1 - pi)]
        return float(value), gradient, information, float(pi)

    start = np.exp(np.minimum(decoys.logs[0] - decoys.logs[1], 50)) @ decoys.w
    theta = np.array([0, 0, max(-np.log(start), -20), logit(np.clip(rate, 0.05, 0.9))])
    now, damping = likelihood(theta), 1e-3
    for _ in range(CONTRAST_STEPS):
        value, gradient, information, _ = now
        scale = information[diagonal, diagonal] + 1e-6
        step = np.linalg.solve(information + damping * np.diag(scale), gradient)
        step /= max(1.0, np.abs(step).max() / 2)
        then = likelihood(theta + step)
        if then[0] >= value:
            theta, now, damping = theta + step, then, max(damping / 4, 1e-7)
            if then[0] - value < 1e-9:
                break
        else:
            damping *= 6
    pi = now[3]
    return np.array([np.exp(theta[0]), -np.exp(theta[1]), theta[2] - logit(pi)]), pi


def betas(
    samples: Values,
    decoys: Values,
    hit_rate: float,
    rate: float | None,
    max_iter: int,
    tol: float,
) -> tuple[Mixture, int]:
    """One mixture, weighed (pi, 1 - pi) in the samples and (1 - pi h, pi h) in the decoys."""
    guess = self_labels(samples.x, 2)
    n_prior = PRIOR * (guess @ samples.w) + FLOOR
    sums_prior = PRIOR * samples.logs @ (samples.w * guess).T - FLOOR  # E log u = -1
    known = np.zeros(2) if rate is None else RATE_WEIGHT * np.array([rate, 1 - rate])

    def m_step(r: Array, r_decoy: Array, shapes: Array) -> Mixture:
        n = r @ samples.w + r_decoy @ decoys.w + n_prior
        sums = samples.logs @ (samples.w * r).T + decoys.logs @ (decoys.w * r_decoy).T + sums_prior
        weights = r @ samples.w + known
        return Mixture(weights / weights.sum(), *likeliest_shapes(n, sums / n, shapes))

    all_wrong = np.outer([1.0, 0.0], np.ones_like(decoys.x))
    mixture = m_step(guess, all_wrong, np.ones((2, 2)))
    for iteration in range(1, max_iter + 1):
        before, shapes = mixture, np.stack([mixture.alphas, mixture.betas])
        hits = hit_rate * before.weights[0]
        decoy_mixture = Mixture(np.array([1 - hits, hits]), *shapes)
        r, r_decoy = before.responsibilities(samples.x), decoy_mixture.responsibilities(decoys.x)
        mixture = m_step(r, r_decoy, shapes)
        moved = np.abs(np.log([mixture.alphas, mixture.betas]) - np.log(shapes)).max()
        if moved + np.abs(mixture.weights - before.weights).max() < tol:
            return replace(mixture, converged=True), iteration
    return mixture, max_iter


def distance(samples: Values, decoys: Values) -> float:
    """How much higher the samples are, in standard deviations: Cohen's d, by the larger of both."""
    means = [values.w @ values.x for values in (samples, decoys)]
    spreads = [
        np.sqrt(values.w @ (values.x - mean) ** 2)
        for values, mean in zip((samples, decoys), means, strict=True)
    ]
    return float((means[0] - means[1]) / max(spreads))


@dataclass(frozen=True)
class TwoFits:
    """The contrast, its log-odds `ratio` and noise `rate`; the Betas; the `most` noise believed."""

    ratio: Array
    rate: float
    mixture: Mixture
    n_iter: int
    most: float

    @property
    def likely(self) -> float:
        """Noise rate of the Betas, as far as it is believed."""
        return min(self.of_betas, self.most)

    @property
    def of_betas(self) -> float:
        """Noise rate of the Betas."""
        return float(self.mixture.weights[0])

    @property
    def agreement(self) -> float:
        """How far the decoys account for that noise rate, in [0, 1]."""
        return float(min(1.0, (self.rate + NEAR) / (self.likely + NEAR)) ** SHARPNESS)

    def blend(self, samples: Values, clip: float) -> tuple[LogOdds, float]:
        """Mean of both log-odds, held to the noise rate of a second mean or to `most`."""

        def mean(share: float) -> LogOdds:
            a, b, c = (share * self.ratio + (1 - share) * self.mixture.log_odds).tolist()
            return LogOdds(a, b, c, clip, 1 - clip).rising()

        agreement = self.agreement
        rate = min(float(samples.w @ expit(-mean(agreement)(samples.x))), self.most)
        odds = mean(LEAST_SHARE + (1 - LEAST_SHARE) * agreement)
        return odds.held_to(rate, samples.x, samples.w), rate
