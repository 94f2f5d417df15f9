"""EM for mixtures of Beta distributions, as functions of weighted values (Eq. 3 and 4)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaln, binom, digamma, zeta

from .histogram import Array

PRIOR_CLIP = 1e-3  # how near the pseudo-data come to 0 and 1: one extreme value shapes nothing
TRUST = 1 / 3  # the prior takes a label as right with this probability, whatever its similarity
FLOOR, LEAST_FLOOR = 0.03, 1e-7  # uniform pseudo-data: a share of the prior, and of the data
WEAK_PRIOR = 0.1  # below it the start may decide which maximum is found


@dataclass(frozen=True)
class Mixture:
    """Parameters of K Beta components, each an array of shape (K,), and how they were found."""

    weights: Array
    alphas: Array
    betas: Array
    lower_bounds: tuple[float, ...] = ()
    converged: bool = False

    @property
    def means(self) -> Array:
        """Mean of each component."""
        return self.alphas / (self.alphas + self.betas)

    @property
    def log_constants(self) -> Array:
        """What `log_joint` holds beside the powers of x and 1 - x."""
        log_weights = np.log(np.maximum(self.weights, 1e-300))
        constants: Array = log_weights - betaln(self.alphas, self.betas)
        return constants

    @property
    def log_odds(self) -> Array:
        """Factors of log x, of log(1 - x) and constant of the log-odds of the last two, (3,)."""
        terms = self.alphas, self.betas, self.log_constants
        return np.array([term[-1] - term[-2] for term in terms])

    def log_joint(self, x: Array) -> Array:
        """Logarithm of weight times density of each component, (K, N), for x inside (0, 1)."""
        log_x, log_1mx = np.log(x), np.log1p(-x)
        powers: Array = np.outer(self.alphas - 1, log_x) + np.outer(self.betas - 1, log_1mx)
        return powers + self.log_constants[:, None]

    def log_density(self, x: Array) -> Array:
        """Logarithm of the density, (N,), for x inside (0, 1)."""
        density: Array = np.logaddexp.reduce(self.log_joint(x), 0)
        return density

    def responsibilities(self, x: Array) -> Array:
        """Posterior of each component, (K, N), for x inside (0, 1)."""
        joint = self.log_joint(x)
        posterior: Array = np.exp(joint - np.logaddexp.reduce(joint, 0))
        return posterior


def fit_mixture(
    x: Array,
    w: Array,
    start: Mixture | int,
    *,
    m_step: str = "ml",
    prior: float = 0.3,
    max_iter: int = 500,
    tol: float = 1e-6,
) -> Mixture:
    r"""Fit by EM to values `x` inside (0, 1) of weights `w`, from a start or a component count.

    With m_step="ml" the maximised bound, a unit of weight, is

    .. math::
        \sum_i w_i \log \sum_k \pi_k f_k(x_i)
        + \rho \sum_i w_i \sum_k q_k(x_i) \log f_k(x_i)
        + \rho_0 \sum_k \operatorname{E}_{u \sim U(0, 1)} \log f_k(u)

    subject to alphas that rise and betas that fall from component to component. Its second term,
    of weight `prior`, holds the *shapes* to what the network says by itself (`self_labels`); the
    third keeps them finite. The weights are free, so the noise rate may go to 0. The prior is
    conjugate: it enters as three numbers per component.
    """
    w = w / w.sum()
    log_x, log_1mx = np.log(x), np.log1p(-x)
    k = len(start.weights) if isinstance(start, Mixture) else start
    guess = self_labels(x, k)
    pseudo, floor = prior * w * guess, max(FLOOR * prior, LEAST_FLOOR)
    n_prior = pseudo.sum(1) + floor
    held = np.maximum(np.stack([log_x, log_1mx]), np.log(PRIOR_CLIP))
    prior_sums = (pseudo @ held.T).T - floor  # E log u = -1

    def shapes(r: Array, before: Array) -> Array:
        if m_step == "moments":
            return moment_shapes(x, w * r)
        n = r @ w + n_prior
        sums = np.stack([r @ (w * log_x), r @ (w * log_1mx)]) + prior_sums
        return likeliest_shapes(n, sums / n, before)

    def bound(mixture: Mixture, log_density: Array) -> float:
        value = float(w @ log_density)
        if m_step == "ml":
            now = np.log([mixture.alphas, mixture.betas])
            value += _expected_log_density(now, n_prior, prior_sums / n_prior)
        return value

    def started(guess: Array) -> Mixture:
        return Mixture(guess @ w, *shapes(guess, np.ones((2, k))))

    if isinstance(start, Mixture):
        mixture = start
    else:  # with more than two, the share trusted to the last would hide those in between
        mixture = started(self_labels(x, k, trust=0.0) if k > 2 else guess)
        if m_step == "ml" and prior < WEAK_PRIOR:  # values near each other still differ in rank
            values = [x, _ranks(x, w)] if k == 2 else [_ranks(x, w)]
            others = [started(self_labels(v, k, trust=0.0)) for v in values]
            mixture = max(mixture, *others, key=lambda m: bound(m, m.log_density(x)))
    bounds: list[float] = []
    while True:
        joint = mixture.log_joint(x)
        log_density = np.logaddexp.reduce(joint, 0)
        bounds.append(bound(mixture, log_density))
        converged = len(bounds) > 1 and abs(bounds[-1] - bounds[-2]) < tol
        if converged or len(bounds) > max_iter:
            break
        r = np.exp(joint - log_density)
        mixture = Mixture(r @ w, *shapes(r, np.stack([mixture.alphas, mixture.betas])))
    order = np.argsort(mixture.means, kind="stable")
    return Mixture(
        mixture.weights[order] / mixture.weights.sum(),
        mixture.alphas[order],
        mixture.betas[order],
        tuple(bounds),
        converged,
    )


def gain_over_last(mixture: Mixture, x: Array, w: Array) -> float:
    """Mean log-likelihood that the mixture has over its last component alone."""
    joint = mixture.log_joint(x)
    alone = joint[-1] - np.log(max(mixture.weights[-1], 1e-300))
    return float(w @ (np.logaddexp.reduce(joint, 0) - alone) / w.sum())


def self_labels(x: Array, n_components: int, trust: float = TRUST) -> Array:
    """Guess of each component's probability from the value alone, (K, N); columns sum to 1.

    With probability `trust` a label is right; else the components share it in the order of x.
    For two components the guess that a label is right is trust + (1 - trust) x.
    """
    k = np.arange(n_components)[:, None]
    last = n_components - 1
    guess: Array = (1 - trust) * binom(last, k) * x**k * (1 - x) ** (last - k)
    guess[-1] += trust
    return guess


def _ranks(x: Array, w: Array) -> Array:
    """Share of the weight below each value, half of its own included, (N,)."""
    _, place = np.unique(x, return_inverse=True)
    share = np.bincount(place, w)
    return (share.cumsum() - share / 2)[place]


def moment_shapes(x: Array, r: Array) -> Array:
    """Alphas and betas (2, K) of the weighted means and variances; no maximum of any likelihood."""
    n = r.sum(1) + 1e-300
    mean = np.clip(r @ x / n, 1e-6, 1 - 1e-6)
    variance = (r * (x - mean[:, None]) ** 2).sum(1) / n
    variance = np.clip(variance, 1e-9, 0.999 * mean * (1 - mean))
    total = mean * (1 - mean) / variance - 1
    return np.stack([mean * total, (1 - mean) * total])


def likeliest_shapes(n: Array, mean_logs: Array, before: Array) -> Array:
    """Alphas and betas (2, K) of highest likelihood with alphas rising and betas falling.

    The likelihood of components of weights `n` (K,) depends on the data only through their means
    of log x and log(1 - x), `mean_logs` (2, K). It is concave in (alpha, beta), so neighbours that
    come out in the wrong order share one value; they then stay together, which with more than two
    components may miss the maximum a little. Never worse than the shapes `before`.
    """
    start = np.log(before)
    group = np.arange(2 * len(n))
    while True:
        theta = _scoring(start, n, mean_logs, group)
        wrong = np.diff(theta, axis=1) * [[1], [-1]] < -1e-12
        if not wrong.any():
            break
        for j in np.flatnonzero(np.pad(wrong, ((0, 0), (0, 1)))):
            group[group == group[j + 1]] = group[j]
    in_order = (np.diff(start, axis=1) * [[1], [-1]] >= -1e-9).all()
    values = [_expected_log_density(t, n, mean_logs) for t in (start, theta)]
    return np.exp(start if in_order and values[0] > values[1] else theta)


def _expected_log_density(theta: Array, n: Array, mean_logs: Array) -> float:
    shapes = np.exp(theta)
    return float(n @ ((shapes - 1) * mean_logs).sum(0) - n @ betaln(*shapes))


def _scoring(theta: Array, n: Array, mean_logs: Array, group: NDArray[np.intp]) -> Array:
    """Fisher scoring over the logarithms of the shapes, equal inside each group.

    The trigamma function is zeta(2, .), which SciPy evaluates faster than polygamma(1, .).
    """
    k = len(n)
    member = (group[:, None] == np.unique(group)).astype(float)
    theta = (member @ (member.T @ theta.ravel() / member.sum(0))).reshape(2, k)
    value = _expected_log_density(theta, n, mean_logs)
    diagonal = np.arange(k)
    for _ in range(50):
        shapes = np.exp(theta)
        total = shapes.sum(0)
        gradient = n * shapes * (mean_logs - digamma(shapes) + digamma(total))
        own = n * shapes**2 * (zeta(2.0, shapes) - zeta(2.0, total))
        cross = -n * shapes.prod(0) * zeta(2.0, total)
        information = np.diag(own.ravel())
        information[diagonal, k + diagonal] = information[k + diagonal, diagonal] = cross
        g, h = member.T @ gradient.ravel(), member.T @ information @ member
        step = np.linalg.solve(h + 1e-12 * np.trace(h) * np.eye(len(g)), g)
        if g @ step <= 1e-9 * n.sum():
            break
        step /= max(1.0, np.abs(step).max() / 2)
        for shrink in 0.5 ** np.arange(30):
            candidate = theta + shrink * (member @ step).reshape(2, k)
            if (new_value := _expected_log_density(candidate, n, mean_logs)) >= value:
                break
        else:
            break
        theta, value = candidate, new_value
    return theta
