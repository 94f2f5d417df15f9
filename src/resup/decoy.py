"""DecoyMixture: what a wrong label looks like, measured instead of guessed."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit
from sklearn.exceptions import ConvergenceWarning
from typing_extensions import Self

from ._base import MANY, SimilarityMixture, share_at_zero, weighted_values
from ._checks import as_numbers, check_counts, check_number
from ._warnings import silent, warn
from .contradictions import tail_rate
from .decoy_fits import TwoFits, Values, betas, contrast, distance
from .histogram import SMALLEST, Array
from .mixture import BetaMixture
from .odds import ALWAYS_RIGHT

__all__ = ["DecoyMixture", "hit_rate", "transition"]

DECOY_WEIGHT = 0.2  # of all decoys in the Betas' fit where nothing was seen; samples weigh 1
ENOUGH = 50  # decoys that are the predicted class, for a rate from them
BELIEVED, TRACES = 2, 0.01  # at most so many times what either fit shows is found, or this
UNTOLD, SAME = 0.9, 0.05  # decoys tell nothing: likeness of samples to them, distance of the means
CUT = 0.05  # noise that the Betas find beyond what is believed, where a BetaMixture may be right
MUCH, MUCH_MORE = 0.1, 0.15  # noise, and twice as much as another: without and with a seen rate
UNCLEAR = "samples are hard, or wrong labels look right"
CHECK = "a noise_rate from labels checked by hand would tell"


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
    *Betas* assume Beta densities; their noise rate is pulled towards `seen_rate`, what the
    network's surest predictions show, or towards the contrast's if that is higher. The log-odds are
    a mean of both fits, in which the contrast weighs the more, and at least 0.3, the nearer its
    noise rate is to the Betas'. All are then shifted alike to the noise rate of a second mean, in
    which the contrast may weigh nothing; if a seen rate is given, to no more than twice the higher
    of that and the contrast's, since hard samples alone are no noise.

    Parameters
    ----------
    noise_rate : float, optional
        Share of wrong labels, where it is known: the fit then finds this one, whatever `seen_rate`
        and `least_rate` (unless all similarities are alike, when it finds 0). In training it is
        that of the samples as they are drawn, which a sampler may repeat, and one below
        `SampleWeigher.negligible_noise` changes no weight.
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
        How near the noise rates of contrast and Betas are, from 0 to 1, the latter at most what
        `fit` believes (`seen_rate`): the weight of the contrast in finding the noise rate.
    weights_, alphas_, betas_, means_ : ndarray of shape (2,)
        Of the Betas: wrong, then right; the weights are the noise rate and the rest.
    n_iter_ : int
        EM iterations made by the Betas.
    converged_ : bool
        Whether `tol` was reached.
    degenerate_ : bool
        True, with a `ConvergenceWarning`, if there is no `seen_rate` and the decoys do not account
        for the noise (`agreement_` below one half); if decoys and samples are alike, and there is
        no `seen_rate` or the decoys are more similar; or if the data hold fewer than two distinct
        values, so that every posterior is 1. Where decoys and samples are alike, or much more noise
        would be found than by a `BetaMixture`, the posterior is that of the latter, shifted to
        `noise_rate` or `least_rate` if given. `noise_rate` is a `seen_rate` too.
    log_odds_ : LogOdds
        The posterior in closed form, for :class:`resup.Posterior`: a function of similarities with
        the coefficients `a`, `b`, `c` and the range `low` to `high` as attributes.
    n_features_in_ : int
        Always 1.

    See Also
    --------
    resup.contradictions.contradiction_rate : gives `seen_rate`.
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
    >>> similarities = np.concatenate([rng.beta(6, 1, 700), rng.beta(1, 6, 300)])
    >>> decoys = np.concatenate([rng.beta(6, 1, 100), rng.beta(1, 6, 900)])  # of four classes
    >>> mixture = DecoyMixture().fit(similarities, decoys, hit_rate=1 / 3)
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
            decoys drawn uniformly from the other C - 1 classes; see `hit_rate` for others. 0 is for
            decoys that are never the true class: of uniform ones of few classes it makes the noise
            rate much too high, with two classes about 0.40 for 0.30.
        seen_rate : float, optional
            Noise rate that the network's surest predictions show, see
            :func:`resup.contradictions.contradiction_rate`. It counts up to 1 / (1 + hit_rate),
            where labels are no better than chance, and no more noise is found than twice this,
            twice `decoy_rate_`, or 0.01. Without it no more than 1 / (1 + hit_rate) is found (but
            where decoys and samples are alike), and the highest similarities show it, less exactly,
            if there are decoys enough: 50 / hit_rate. Else the Betas are fitted to the decoys too.
            Without it noise between a few classes, or learnt by heart, is taken for none, with a
            warning if a `BetaMixture` finds over 0.1 more, and twice as much (or so much less):
            similarities and decoys do not tell such noise from hard samples. If there is noise, use
            that one.
        least_rate : float, default=0.0
            Noise rate known from before. Where the fit finds less, as it does once wrong labels
            are learnt by heart, all odds are shifted alike until `noise_rate_` is this.
        least_probability : float, default=0.0
            No label is less likely right than this, before odds are shifted: for the first epoch
            of a network, which is sure of much that is wrong.
        sample_weight, decoy_weight : array-like of shape (N,) and (M,), optional
            Not negative; a weight of 2 is the sample or the decoy twice. So weights that sum to 1
            count as one decoy, too few for a rate (`seen_rate`).

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If values are missing, hold NaN or leave [0, 1], or a rate, shape, weight or parameter
            is wrong.

        Warns
        -----
        ConvergenceWarning
            If the fit is degenerate, `agreement_` is below one half, or decoys and samples are
            alike, as where a network has learnt nothing; if no `seen_rate` is given and a
            `BetaMixture` finds much more noise or less; if less noise is found than lies at 0, as
            where most values are 0 or 1 exactly; or if EM did not converge in `max_iter`.
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
        if decoys is None:
            raise ValueError("decoys must be similarities to labels that were not given, got None")
        x_decoy, w_decoy = weighted_values(decoys, decoy_weight, "decoys", "decoy_weight")
        samples = Values.of(x, w, self.clip)
        others = Values.of(x_decoy, w_decoy, self.clip)
        told = self.noise_rate
        if told is not None:
            seen_rate = least_rate = told
        fits = self._fit_both(samples, others, w_decoy.sum(), hit_rate, seen_rate)
        odds, blended, found, agreement, alone = ALWAYS_RIGHT, 0.0, 0.0, 0.0, None
        constant, swapped, untold = len(np.unique(samples.x)) < 2, False, False
        if not constant:
            agreement = fits.agreement
            odds, blended = fits.blend(samples, self.clip)
            likeness = fits.rate * (1 + hit_rate)  # of samples to decoys, at most 1 but for chance
            all_wrong = likeness > 0.999 or blended > 0.99
            gap, chance = distance(samples, others), 5 * np.sqrt(1 / w.sum() + 1 / w_decoy.sum())
            untold = bool(all_wrong or (likeness > UNTOLD and gap < max(SAME, chance)))
            swapped = all_wrong and gap <= 0
            if swapped or told is None:
                with silent():
                    alone = BetaMixture(clip=self.clip).fit(x, sample_weight=w)
                too_much = agreement < 0.5 and _far_above(blended, alone.noise_rate_)
                if swapped or (seen_rate is None and (untold or too_much)):
                    odds = alone.log_odds_ or ALWAYS_RIGHT
            odds = odds.not_below(least_probability)
            found = samples.w @ expit(-odds(samples.x))
            if told is not None or found < least_rate:
                found, odds = least_rate, odds.held_to(least_rate, samples.x, samples.w)
        self.agreement_, self.decoy_rate_ = agreement, fits.rate
        self.n_iter_, self.converged_ = fits.n_iter, fits.mixture.converged
        unsupported = untold or agreement < 0.5
        self.degenerate_ = constant or swapped or (seen_rate is None and unsupported)
        self._take(fits.mixture)
        self.log_odds_ = odds
        self.noise_rate_ = min(float(found), 1.0)  # rounding may take it over
        self.weights_ = np.array([self.noise_rate_, 1 - self.noise_rate_])
        self._untold, differs, self._missed = untold, "", ""
        if alone:
            shown, other = max(blended, self.noise_rate_), alone.noise_rate_
            if seen_rate is None:
                differs = _differing(shown, other)
            elif least_probability:  # a first look errs too much for the Betas to tell
                self._missed = _missing(shown, other)
            else:
                self._missed = _missing(shown, other, fits)
        at_zero = share_at_zero(x, w, self.clip)
        if doubt := self._doubt(constant, fits.likely, differs, at_zero):
            warn(doubt, ConvergenceWarning)
        return self

    def _fit_both(
        self,
        samples: Values,
        decoys: Values,
        n_decoys: float,
        hit_rate: float,
        seen_rate: float | None,
    ) -> TwoFits:
        """Fit contrast and Betas, and say how high a noise rate is believed."""
        most = 1 / (1 + hit_rate)  # where labels are no better than chance
        shown = seen_rate
        if shown is None and hit_rate * n_decoys >= ENOUGH:
            shown = tail_rate(samples, decoys, hit_rate)
        if shown is not None:
            shown = min(shown, most)
        ratio, rate = contrast(samples, decoys, hit_rate, shown)
        if seen_rate is not None and shown is not None:
            most = max(TRACES, BELIEVED * max(shown, rate))
        if shown is not None and self.noise_rate is None:
            shown = max(shown, rate)
        beside = decoys.scaled(DECOY_WEIGHT if shown is None else 0.0)
        mixture, n_iter = betas(samples, beside, hit_rate, shown, self.max_iter, self.tol)
        return TwoFits(ratio, rate, mixture, n_iter, most)

    def _doubt(self, constant: bool, likely: float, differs: str, at_zero: float) -> str | None:
        """Say what the user should know of a fit."""
        if constant:
            return "all similarities are alike; every posterior is 1"
        if self._untold:
            return (
                "samples and decoys look alike; are X and decoys swapped, or has the network "
                "learnt nothing?"
            )
        if self.agreement_ < 0.5:
            return (
                f"the decoys account for a noise rate of {self.decoy_rate_:.2f} where "
                f"{likely:.2f} is likelier; they count for less"
            )
        if self.noise_rate is None and at_zero > MANY and self.noise_rate_ < 0.9 * at_zero:
            return (
                f"{at_zero:.0%} of the values lie within {self.clip:g} of 0, and only "
                f"{self.noise_rate_:.0%} are found wrong"
                + ("; try clip=0.01" if self.clip < 0.01 else "")
            )
        if differs:
            return differs
        if self.tol and not self.converged_:
            return f"EM did not converge in {self.max_iter} iterations; raise max_iter or tol"
        return None

    def fit_predict(self, X: Any, decoys: Any, **fit_params: Any) -> NDArray[np.intp]:
        """Fit, then predict the same samples."""
        return self.fit(X, decoys, **fit_params).predict(X)

    def _check_parameters(self) -> None:
        if self.noise_rate is not None:
            check_number("noise_rate", self.noise_rate, 0, 1)
        check_number("max_iter", self.max_iter, 1, whole=True)
        check_number("tol", self.tol, 0)
        self._check_shared()


def _differing(shown: float, other: float) -> str:
    """Say that a BetaMixture finds a very different noise rate, if it does."""
    if not (_far_above(other, shown) or _far_above(shown, other)):
        return ""
    return (
        f"the decoys tell a noise rate of {shown:.2f}, BetaMixture one of {other:.2f}: {UNCLEAR}; "
        f"a seen_rate may tell, {CHECK}"
    )


def _missing(shown: float, other: float, fits: TwoFits | None = None) -> str:
    """Say that a BetaMixture, or the Betas, find much more than a seen rate lets be believed."""
    of_betas = fits.of_betas if fits and fits.of_betas > fits.most + CUT else 0.0
    if not (of_betas or _far_above(other, shown, MUCH_MORE)):
        return ""
    return (
        f"finds a noise rate of {shown:.2f}, and {max(other, of_betas):.2f} without what the "
        f"surest predictions say: {UNCLEAR}, as those of one class; {CHECK}"
    )


def _far_above(rate: float, other: float, by: float = MUCH) -> bool:
    return rate > other + max(by, other)


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

    Raises
    ------
    ValueError
        If `confusion` has another shape, a count is negative or not finite, or `smoothing` is
        negative.

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

    Raises
    ------
    ValueError
        If a shape is wrong, a count is negative or not finite, or a row of `decoys` is no
        distribution.

    Examples
    --------
    >>> from resup.decoy import hit_rate
    >>> hit_rate([[8, 2], [1, 9]], [[0, 1], [1, 0]])
    1.0
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
    counts: Array = as_numbers(values, name).astype(np.float64)
    if counts.ndim != 2 or counts.shape[0] != counts.shape[1] or len(counts) < 2:
        raise ValueError(f"{name} must have shape (C, C) with C >= 2, got {counts.shape}")
    check_counts(name, counts)
    return counts
