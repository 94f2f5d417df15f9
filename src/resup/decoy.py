"""DecoyMixture: what a wrong label looks like, measured instead of guessed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq
from scipy.special import expit, logit
from typing_extensions import Self

from ._base import ALWAYS_RIGHT, LogOdds, SimilarityMixture, warn, weighted_values
from ._checks import check_number
from .em import Array, Mixture, likeliest_shapes, self_labels
from .histogram import SMALLEST, to_numpy

__all__ = ["DecoyMixture", "contradiction_rate", "hit_rate", "transition"]

DECOY_WEIGHT = 0.2  # of all decoys in the Betas' fit where nothing was seen; samples weigh 1
PRIOR, FLOOR = 0.1, 0.003  # pseudo-observations per sample: self-labels; uniform ones per component
RATE_WEIGHT, CONTRAST_RATE_WEIGHT = 0.3, 0.01  # of the seen rate, the same unit
NEAR, SHARPNESS = 0.05, 4  # when two noise rates agree
LEAST_SHARE = 0.3  # of the contrast in the log-odds, where the rates do not agree
RIDGE, CONTRAST_STEPS = 1e-4, 60
SUREST, OWN_ERROR = 0.1, 0.25  # share of each class; its error as a share of the class's
SUREST_TAIL, SURE_TAIL = 0.25, 0.7  # shares of all samples, where their predictions are not known
ENOUGH = 50  # decoys that are the predicted class, for a rate from them
DOUBTED = 0.1  # noise rate seen there that may be of a network's own errors; twice that counts


class DecoyMixture(SimilarityMixture):
    r"""Posterior of right labels from similarities and decoys: similarities to another label.

    The shape of S alone does not tell hard but right labels from wrong ones. Decoys do: with
    :math:`f_0, f_1` the densities of wrong and of right labels, :math:`\pi` the noise rate and h
    the hit rate, samples and decoys are drawn from

    .. math::
        f = \pi f_0 + (1 - \pi) f_1, \qquad g = (1 - \pi h) f_0 + \pi h f_1.

    Two fits look at them. The *contrast* takes no form of the densities, only that of the posterior
    (Eq. 5), and finds :math:`\pi` and :math:`f_1 / f_0` by telling samples from decoys. It is the
    better one where wrong labels look like decoys. Where they do not, because they are plausible
    (people, or one class taken for another) or learnt by heart, it finds too little noise. The
    *Betas* take a form, and their noise rate from `seen_rate`, what the network's surest
    predictions show, or from the contrast if that finds more. The log-odds are a mean of both, in
    which the contrast weighs the more, and at least 0.3, the nearer its noise rate is to the
    Betas'. They are shifted to the noise rate of a mean in which it may weigh nothing.

    Parameters
    ----------
    noise_rate : float, optional
        Share of wrong labels, where it is known: the fit then finds this one.
    clip : float, default=2**-20
        Similarities are moved into [clip, 1 - clip] first.
    max_iter : int, default=200
        Largest number of EM iterations.
    tol : float, default=3e-4
        EM stops when the largest moves of a weight and of a logarithm of a parameter add up to
        less. With 0 all `max_iter` iterations are made.
    random_state : int, RandomState or None, default=None
        For `sample`; the fit draws nothing.

    Attributes
    ----------
    noise_rate_ : float
        Estimated share of wrong labels: the mean posterior.
    decoy_rate_ : float
        Share of wrong labels that the decoys account for: the noise rate of the contrast.
    agreement_ : float
        How near the noise rates of contrast and Betas are, from 0 to 1: the weight of the contrast
        in finding the noise rate.
    weights_, alphas_, betas_, means_ : ndarray of shape (2,)
        Of the Betas: wrong, then right; the weights are the noise rate and the rest.
    n_iter_ : int
        EM iterations made by the Betas.
    converged_ : bool
        Whether `tol` was reached.
    degenerate_ : bool
        True if the decoys do not account for the noise (`agreement_` below one half), if they are
        more similar than the samples, so that all of these look wrong, or if the data hold fewer
        than two distinct values, so that every posterior is 1; with a `ConvergenceWarning`.
    log_odds_ : LogOdds
        The posterior in closed form, for :class:`resup.Posterior`.
    n_features_in_ : int
        Always 1.

    See Also
    --------
    contradiction_rate : gives `seen_rate`.
    SampleWeigher : gathers decoys and the seen rate during training.

    Notes
    -----
    Beyond the paper. Relatives: target-decoy search in proteomics (Elias & Gygi 2007), the
    mislabelled threshold samples of AUM (Pleiss et al. 2020, arXiv 2001.10528), mixture proportion
    estimation (Scott, Blanchard & Handy 2013, arXiv 1303.1208), positive-unlabelled learning
    (Elkan & Noto 2008), and confident learning for the seen rate (Northcutt, Jiang & Chuang 2021).

    Examples
    --------
    >>> import numpy as np
    >>> from resup import DecoyMixture
    >>> rng = np.random.default_rng(0)
    >>> right, wrong = rng.beta(6, 1, 700), rng.beta(1, 6, 300)
    >>> decoys = rng.beta(1, 6, 1000)
    >>> mixture = DecoyMixture().fit(np.concatenate([right, wrong]), decoys)
    >>> round(mixture.noise_rate_, 1)
    0.3
    """

    n_components = 2

    def __init__(
        self,
        *,
        noise_rate: float | None = None,
        clip: float = SMALLEST,
        max_iter: int = 200,
        tol: float = 3e-4,
        random_state: Any = None,
    ) -> None:
        self.noise_rate = noise_rate
        self.clip = clip
        self.max_iter = max_iter
        self.tol = tol
        self.random_state = random_state

    def fit(
        self,
        X: Any,
        decoys: Any,
        *,
        hit_rate: float = 0.0,
        seen_rate: float | None = None,
        least_rate: float = 0.0,
        least_probability: float = 0.0,
        sample_weight: Any = None,
        decoy_weight: Any = None,
    ) -> Self:
        """Fit to similarities and decoys.

        Parameters
        ----------
        X : array-like or Tensor of shape (N,) or (N, 1), or SimilarityHistogram
            Similarities to the given labels, in [0, 1].
        decoys : array-like or Tensor of shape (M,) or (M, 1), or SimilarityHistogram
            Similarities to other labels, in [0, 1]. M need not be N. They stand where other
            estimators have `y`, so give them as `y` to a Pipeline.
        hit_rate : float, default=0.0
            Chance that the decoy of a wrongly labelled sample is its true class: 1 / (C - 1) for
            decoys drawn uniformly from the other C - 1 classes; see `hit_rate` for others.
        seen_rate : float, optional
            Noise rate that the network's surest predictions show (`contradiction_rate`). It counts
            up to 1 / (1 + hit_rate), where labels are no better than chance. Without it the highest
            similarities show it, less exactly, if there are decoys enough: 50 / hit_rate. Else the
            Betas are fitted to the decoys too.
        least_rate : float, default=0.0
            Noise rate known from before. Where the fit finds less, as it does once wrong labels
            are learnt by heart, all odds are shifted alike until `noise_rate_` is this.
        least_probability : float, default=0.0
            No label is less likely right than this, before odds are shifted: for the first epoch
            of a network, which is sure of much that is wrong.
        sample_weight, decoy_weight : array-like of shape (N,) and (M,), optional
            Not negative.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If values are empty, hold NaN or leave [0, 1], or a rate, shape, weight or parameter is
            wrong.

        Warns
        -----
        ConvergenceWarning
            If the fit is degenerate, or EM did not converge in `max_iter` iterations.
        """
        self._check_parameters()
        rates = {
            "hit_rate": hit_rate,
            "seen_rate": 0.0 if seen_rate is None else seen_rate,
            "least_rate": least_rate,
            "least_probability": least_probability,
        }
        for name, rate in rates.items():
            check_number(name, rate, 0, 1)
        x, w = weighted_values(self._column(X, reset=True), sample_weight)
        x_decoy, w_decoy = weighted_values(decoys, decoy_weight, "decoys", "decoy_weight")
        samples = _Values.of(x, w, self.clip)
        others = _Values.of(x_decoy, w_decoy, self.clip)
        if (told := self.noise_rate) is not None:
            seen_rate = least_rate = told
        if seen_rate is None and hit_rate * w_decoy.sum() >= ENOUGH:
            seen_rate = _tail_rate(samples, others, hit_rate)
        if seen_rate is not None:
            seen_rate = min(seen_rate, 1 / (1 + hit_rate))
        ratio, rate = _contrast(samples, others, hit_rate, seen_rate)
        beside = others.scaled(DECOY_WEIGHT if seen_rate is None else 0.0)
        known = seen_rate if told is not None or seen_rate is None else max(seen_rate, rate)
        mixture, self.n_iter_ = _em(samples, beside, hit_rate, known, self.max_iter, self.tol)

        odds, found, agreement, swapped = ALWAYS_RIGHT, 0.0, 0.0, False
        unsupported = len(np.unique(samples.x)) < 2
        if not unsupported:

            def blend(share: float) -> LogOdds:
                a, b, c = (share * ratio + (1 - share) * mixture.log_odds).tolist()
                return LogOdds(a, b, c, self.clip, 1 - self.clip).rising()

            agreement = min(1.0, (rate + NEAR) / (mixture.weights[0] + NEAR)) ** SHARPNESS
            found = samples.w @ expit(-blend(agreement)(samples.x))
            all_wrong = rate * (1 + hit_rate) > 0.999 or found > 0.99
            swapped = bool(all_wrong and others.w @ others.x > samples.w @ samples.x)
            share = LEAST_SHARE + (1 - LEAST_SHARE) * agreement
            odds = held_to_rate(blend(share), samples.x, samples.w, found)
            odds = odds.not_below(least_probability)
            found = samples.w @ expit(-odds(samples.x))
            if told is not None or found < least_rate:
                found, odds = least_rate, held_to_rate(odds, samples.x, samples.w, least_rate)
        self.agreement_, self.decoy_rate_ = float(agreement), rate
        self.degenerate_ = self.agreement_ < 0.5 or swapped
        self.converged_ = mixture.converged
        self._take(mixture)
        self.log_odds_ = odds
        self.noise_rate_ = min(float(found), 1.0)  # rounding may take it over
        self.weights_ = np.array([self.noise_rate_, 1 - self.noise_rate_])
        if unsupported:
            warn("all similarities are alike; every posterior is 1")
        elif swapped:
            warn("the decoys are more similar than the samples; are X and decoys swapped?")
        elif self.degenerate_:
            warn(
                f"the decoys account for a noise rate of {rate:.2f} where {mixture.weights[0]:.2f} "
                "is likelier; they count for less"
            )
        elif self.tol and not self.converged_:
            warn(f"EM did not converge in {self.max_iter} iterations; raise max_iter or tol")
        return self

    def _check_parameters(self) -> None:
        if self.noise_rate is not None:
            check_number("noise_rate", self.noise_rate, 0, 1)
        check_number("max_iter", self.max_iter, 1, whole=True)
        check_number("tol", self.tol, 0)
        self._check_clip()


def held_to_rate(odds: LogOdds, x: Array, weights: Array, rate: float) -> LogOdds:
    """Shift the odds of every sample alike until the mean posterior of a wrong label is `rate`."""
    log_odds, rate = odds(x), float(np.clip(rate, 1e-6, 1 - 1e-6))
    weights = weights / weights.sum()

    def missing(shift: float) -> float:
        return rate - float(weights @ expit(shift - log_odds))

    shift = brentq(missing, log_odds.min() + logit(rate) - 1, log_odds.max() + logit(rate) + 1)
    return replace(odds, c=odds.c - shift)


@dataclass(frozen=True)
class _Values:
    """Values inside (0, 1), their weights, and log x over log(1 - x), (2, N)."""

    x: Array
    w: Array
    logs: Array

    @classmethod
    def of(cls, x: Array, w: Array, clip: float) -> _Values:
        inside = np.clip(x, clip, 1 - clip)
        return cls(inside, w / w.sum(), np.stack([np.log(inside), np.log1p(-inside)]))

    def scaled(self, factor: float) -> _Values:
        return replace(self, w=factor * self.w)


def _contrast(
    samples: _Values, decoys: _Values, hit_rate: float, seen_rate: float | None
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


def _em(
    samples: _Values,
    decoys: _Values,
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


def _tail_rate(samples: _Values, decoys: _Values, hit_rate: float) -> float:
    """Noise rate that the surest predictions show, where only similarities are known.

    The highest are to predicted classes. So those of samples stand for labels that agree with a
    prediction, and those of decoys for labels that contradict it, each for 1 / h of them.
    """
    values, place = np.unique(np.concatenate([samples.x, decoys.x]), return_inverse=True)
    is_decoy = np.repeat([0, 1], [len(samples.x), len(decoys.x)])
    w = np.concatenate([hit_rate * samples.w, decoys.w])
    counts = np.bincount(2 * place + is_decoy, w, 2 * len(values)).astype(np.float64)
    of_samples = hit_rate / (1 + hit_rate)
    surest, sure = (
        of_surest(counts.reshape(1, -1, 2), of_samples * share)
        for share in (SUREST_TAIL, SURE_TAIL)
    )
    rate = float(_without_own_errors(surest, sure)[0])
    return min(rate, 2 * max(rate - DOUBTED, 0.0))


def contradiction_rate(counts: ArrayLike) -> float:
    """Noise rate that the surest predictions show: the share of labels that they contradict.

    Of each predicted class the surest tenth is taken, so that noise between a few classes shows
    too. A network errs there as well, about a quarter as often as on the whole class; that part is
    taken off.

    Parameters
    ----------
    counts : array-like of shape (C, B, 2)
        Samples by predicted class, by bin of the highest probability (ascending), and by whether
        the given label is the predicted one (0) or contradicts it (1).

    Returns
    -------
    float
        In [0, 1].

    Examples
    --------
    >>> from resup.decoy import contradiction_rate
    >>> round(contradiction_rate([[[400, 400], [120, 80]], [[600, 200], [120, 80]]]), 3)
    0.407
    """
    samples = np.asarray(counts, np.float64)
    if samples.ndim != 3 or samples.shape[1] < 1 or samples.shape[2] != 2:
        raise ValueError(f"counts must have shape (C, B, 2) with B >= 1, got {samples.shape}")
    if not np.isfinite(samples).all() or (samples < 0).any():
        raise ValueError("counts must be finite and not negative")
    n = samples.sum((1, 2))
    all_ = samples[..., 1].sum(1) / np.where(n > 0, n, 1)
    by_class = _without_own_errors(of_surest(samples), all_)
    return float(n @ by_class / (n.sum() or 1))


def of_surest(counts: Array, surest: float = SUREST) -> Array:
    """Share of the second kind in the surest part of each group, for counts (groups, B, 2)."""
    from_top = counts[:, ::-1].cumsum(1)
    n = from_top.sum(2)
    cut = (n < surest * n[:, -1:]).sum(1)  # the bin at which it is reached
    groups = np.arange(len(n))
    second, both = from_top[groups, cut, 1], n[groups, cut]
    shares: Array = second / np.where(both > 0, both, 1)
    return shares


def _without_own_errors(surest: Array, all_: Array) -> Array:
    """Take off the share of contradictions that a network's own errors make."""
    shares: Array = np.clip((surest - OWN_ERROR * all_) / (1 - OWN_ERROR), 0, 1)
    return shares


def transition(confusion: ArrayLike, smoothing: float = 0.02) -> Array:
    """Probabilities with which to draw decoys of plausible labels.

    Parameters
    ----------
    confusion : array-like of shape (C, C)
        Counts of predicted (row) and given (column) labels.
    smoothing : float, default=0.02
        Share of an average class that is spread evenly over the other labels of each row.

    Returns
    -------
    ndarray of shape (C, C)
        Row t: the distribution of the decoy of a sample labelled t; the diagonal is 0.

    Examples
    --------
    >>> from resup.decoy import transition
    >>> transition([[8, 2, 0], [0, 10, 0], [1, 1, 8]], smoothing=0.0)[0].round(3)
    array([0., 1., 0.])
    """
    check_number("smoothing", smoothing, 0)
    counts = _as_counts("confusion", confusion)
    c = len(counts)
    other = 1 - np.eye(c)
    off = counts * other + (smoothing * counts.sum() / c + 1e-12) * other / (c - 1)
    rows: Array = off / off.sum(1, keepdims=True)
    return rows


def hit_rate(confusion: ArrayLike, decoys: ArrayLike) -> float:
    """Chance that a decoy of a wrongly labelled sample is its true class.

    Parameters
    ----------
    confusion : array-like of shape (C, C)
        Counts of predicted (row) and given (column) labels; off the diagonal they stand for the
        true and the given class of wrong labels.
    decoys : array-like of shape (C, C)
        Row t: the distribution of the decoy of a sample labelled t, such as `transition` gives.

    Returns
    -------
    float
        1 / (C - 1) for uniform decoys.
    """
    counts, rows = _as_counts("confusion", confusion), _as_counts("decoys", decoys)
    if rows.shape != counts.shape:
        raise ValueError(f"decoys must have shape {counts.shape}, got {rows.shape}")
    if not np.allclose(rows.sum(1), 1):
        raise ValueError(f"decoys must have rows that sum to 1, got sums of {rows.sum(1)}")
    off = counts * (1 - np.eye(len(counts)))
    return float((off * rows.T).sum() / off.sum()) if off.any() else 1 / (len(counts) - 1)


def _as_counts(name: str, values: ArrayLike) -> Array:
    """Values as a (C, C) matrix of numbers that are not negative."""
    counts: Array = to_numpy(values).astype(np.float64)
    if counts.ndim != 2 or counts.shape[0] != counts.shape[1] or len(counts) < 2:
        raise ValueError(f"{name} must have shape (C, C) with C >= 2, got {counts.shape}")
    if not np.isfinite(counts).all() or (counts < 0).any():
        raise ValueError(f"{name} must be finite and not negative")
    return counts
