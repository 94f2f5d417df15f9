"""Which of my labels are wrong: a ranked table of suspect labels."""

from __future__ import annotations

import csv
import os
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._checks import ROUNDING, as_numbers, as_similarities, check_number, to_numpy
from ._warnings import silent, warn
from .accumulator import CONFIDENCE_BINS, CONFIDENCE_EDGES
from .contradictions import contradiction_rate
from .decoy import DecoyMixture
from .fdr import HIDDEN, q_values
from .histogram import Array, SimilarityHistogram
from .memory import first_impression

__all__ = ["LabelReport"]

SUM_ROUNDING = 0.01  # of probabilities in half precision


@dataclass(frozen=True, eq=False)  # arrays have no one truth
class LabelReport:
    """One row per label, the least likely to be right first; each column an array of shape (N,).

    ``CoTrainer.report`` makes it, and `from_predictions`. ``vars(report)`` is a dict of columns,
    ready for a data frame, and `in_order` the same in the order of the loader.
    """

    index: NDArray[np.int64]
    """Place of the sample in the loader."""
    given: NDArray[np.int64]
    """Given label."""
    suggested: NDArray[np.int64]
    """Class of highest mean probability of both networks."""
    clean_probability: NDArray[np.float64]
    """Probability that the given label is right: mean of the two networks', or `probability`."""
    clean_probability_a: NDArray[np.float64]
    """Posterior of network A, whatever `probability` was given."""
    clean_probability_b: NDArray[np.float64]
    """Posterior of network B, likewise."""
    agree: NDArray[np.bool_]
    """Whether both networks predict the same class."""
    q_value: NDArray[np.float64]
    """Expected share of right labels among the labels up to this row (`resup.q_values`)."""

    @classmethod
    def ranked(
        cls,
        given: Any,
        suggested: Any,
        agree: Any,
        clean_a: Any,
        clean_b: Any,
        *,
        probability: Any = None,
        hidden: float = HIDDEN,
        ties: Any = None,
    ) -> LabelReport:
        """Make the table from columns in loader order, array-like or Tensor of shape (N,).

        Parameters
        ----------
        given, suggested : int
            Labels.
        agree : bool
            Whether both networks predict the same class.
        clean_a, clean_b : float in [0, 1]
            Posteriors of the networks.
        probability : float in [0, 1], optional
            To rank by, in place of their mean.
        hidden : float, default=0.015
            See :func:`resup.q_values`.
        ties : float, optional
            Ranks equal ones, ascending.

        Raises
        ------
        ValueError
            If a column has another length or is no numbers, labels are not whole, or a probability
            leaves [0, 1].
        """
        a, b = _probability("clean_a", clean_a), _probability("clean_b", clean_b)
        given, suggested = _labels("given", given), _labels("suggested", suggested)
        agree = as_numbers(agree, "agree")
        columns = {"clean_b": b, "given": given, "suggested": suggested, "agree": agree}
        if probability is not None:
            columns["probability"] = _probability("probability", probability)
        if ties is not None:
            columns["ties"] = as_numbers(ties, "ties")
        for name, column in columns.items():
            if column.shape != a.shape:
                raise ValueError(f"{name} must have shape {a.shape}, got {column.shape}")
        clean = columns.get("probability", (a + b) / 2)
        order = np.lexsort((columns.get("ties", np.zeros_like(clean)), clean))
        return cls(
            index=order,
            given=given[order],
            suggested=suggested[order],
            clean_probability=clean[order],
            clean_probability_a=a[order],
            clean_probability_b=b[order],
            agree=np.asarray(agree, np.bool_)[order],
            q_value=q_values(clean, hidden=hidden)[order],
        )

    @classmethod
    def from_predictions(
        cls, labels: Any, probabilities: Any, *, hidden: float = HIDDEN
    ) -> LabelReport:
        """Make the table from held-out predictions of a classifier, without training.

        `DecoyMixture` is fitted to the similarities of the predictions to the given label and to
        all others, with the noise rate that the surest predictions show. As in the first fit of a
        training run, no label is less likely right than 0.4 of the classifier's estimated share of
        errors.

        Parameters
        ----------
        labels : array-like or Tensor of shape (N,)
            Given labels, in [0, C): columns of `probabilities`. Of names,
            ``classes, labels = np.unique(labels, return_inverse=True)`` makes those of
            ``cross_val_predict``.
        probabilities : array-like or Tensor of shape (N, C) or (2, N, C)
            Class probabilities, of one classifier or of two. Each sample's must come from a fit
            without it, as from ``cross_val_predict(..., method="predict_proba")``: a classifier
            that has learnt wrong labels by heart no longer shows them. They must be graded: by 0
            and 1 alone, as of a decision tree or one nearest neighbour, a wrong prediction looks
            just like a wrong label, and most of the suspects may be right.
        hidden : float, default=0.015
            Share of the right labels that look just like wrong ones (:func:`resup.q_values`).

        Returns
        -------
        LabelReport
            Labels of equal probability follow in the order of their similarity. Of one classifier,
            both networks' columns are the same.

        Raises
        ------
        ValueError
            If a shape does not fit, probabilities leave [0, 1] or do not sum to 1 for each sample,
            or a label is no integer in [0, C).

        Warns
        -----
        UserWarning
            If all labels are equally similar to their predictions, so that each counts as right;
            if all probabilities of a classifier are 0 or 1; or if the similarities show much more
            noise than is found: samples are hard, or wrong labels look right.

        Notes
        -----
        A classifier that errs often looks like wrong labels: the noise rate is then too high. Where
        one class is often labelled as another it can be too low.

        Examples
        --------
        >>> from sklearn.datasets import load_digits
        >>> from sklearn.ensemble import RandomForestClassifier
        >>> from sklearn.model_selection import cross_val_predict
        >>> from resup import LabelReport
        >>> x, labels = load_digits(return_X_y=True)
        >>> labels[::10] = (labels[::10] + 1) % 10  # a tenth is wrong
        >>> forest = RandomForestClassifier(random_state=0)
        >>> p = cross_val_predict(forest, x, labels, method="predict_proba")
        >>> report = LabelReport.from_predictions(labels, p)
        >>> bool((report.index[:100] % 10 == 0).mean() > 0.9)  # the hundred most suspicious
        True
        """
        y, p = _predictions(labels, probabilities)
        if (p.max(-1) == 1).all(-1).any():
            warn(
                "all predictions are 0 or 1, so a classifier's own errors cannot be told from "
                "wrong labels; pass graded probabilities (not of a decision tree or 1-NN)"
            )
        predicted = p.argmax(-1)
        agree, suggested = predicted[0] == predicted[-1], p.mean(0).argmax(-1)
        clean, similarity, doubts = zip(*(_judge(y, own) for own in p), strict=True)
        if any((own == 1).all() for own in clean):
            warn("all labels are equally similar to their predictions; each counts as right")
        elif doubt := max(doubts):
            warn(f"DecoyMixture {doubt}")
        return cls.ranked(
            y, suggested, agree, clean[0], clean[-1], hidden=hidden, ties=sum(similarity)
        )

    def suspects(self, false_discovery_rate: float) -> NDArray[np.int64]:
        """List the suspect labels by their place in the loader, the most suspicious first.

        At most a share `false_discovery_rate`, in [0, 1], of them is expected to be right. With few
        wrong labels nothing can be listed, which warns: with the default `hidden` share the noise
        rate that a training run finds must be over 23 % at 0.05, over 13 % at 0.10, over 7 % at
        0.20 (see :func:`resup.q_values`). `index` ranks all labels.

        Raises
        ------
        ValueError
            If `false_discovery_rate` is no number in [0, 1].

        Warns
        -----
        UserWarning
            If nothing can be listed though a label or more is expected to be wrong.
        """
        check_number("false_discovery_rate", false_discovery_rate, 0, 1)
        listed: NDArray[np.int64] = self.index[self.q_value <= false_discovery_rate]
        if not len(listed) and (1 - self.clean_probability).sum() >= 1:
            warn(
                f"no label can be listed at a false-discovery rate of {false_discovery_rate:g}: "
                f"the noise rate is {self.noise_rate:.3f} and the smallest q-value "
                f"{self.q_value.min():.3f}; `report.index` ranks all labels"
            )
        return listed

    def in_order(self) -> dict[str, NDArray[Any]]:
        """Columns by name, with the rows in the order of the loader.

        Examples
        --------
        >>> from resup import LabelReport
        >>> report = LabelReport.ranked([0, 1], [0, 0], [True, True], [0.9, 0.2], [0.7, 0.4])
        >>> report.index, report.clean_probability.round(1)
        (array([1, 0]), array([0.3, 0.8]))
        >>> report.in_order()["clean_probability"].round(1)
        array([0.8, 0.3])
        """
        order = np.argsort(self.index)
        return {name: column[order] for name, column in vars(self).items()}

    def __len__(self) -> int:
        return len(self.index)

    def __repr__(self) -> str:
        names = "index", "given", "suggested", "clean_probability", "q_value"
        lines = [f"LabelReport of {len(self)} labels", "  ".join(names)]
        if len(self):
            lines[0] += f", noise rate {self.noise_rate:.3f}"
        for row in zip(*(getattr(self, name)[:5].tolist() for name in names), strict=True):
            cells = (f"{round(v, 3):>{len(name)}}" for v, name in zip(row, names, strict=True))
            lines.append("  ".join(cells))
        return "\n".join(lines)

    @property
    def noise_rate(self) -> float:
        """Expected share of wrong labels."""
        return float(1 - self.clean_probability.mean()) if len(self) else 0.0

    def noise_rate_by_class(self, least: int = 20) -> dict[int, float]:
        """Estimate the share of wrong labels in each given class of at least `least` labels."""
        check_number("least", least, 0)
        classes, place, counts = np.unique(self.given, return_inverse=True, return_counts=True)
        rates = np.bincount(place, 1 - self.clean_probability) / counts
        columns = zip(classes.tolist(), rates.tolist(), counts.tolist(), strict=True)
        return {c: rate for c, rate, n in columns if n >= least}

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Write the table as CSV with a header."""
        with open(path, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(vars(self))
            writer.writerows(zip(*(column.tolist() for column in vars(self).values()), strict=True))

    def to_npz(self, path: str | os.PathLike[str]) -> None:
        """Write the columns as a compressed NumPy archive."""
        np.savez_compressed(path, **vars(self))


def _probability(name: str, values: Any) -> NDArray[np.float64]:
    return as_similarities(values, name).astype(np.float64)


def _labels(name: str, values: Any) -> NDArray[np.int64]:
    labels = to_numpy(values, name)
    try:
        labels = as_numbers(labels, name)
    except ValueError:
        raise ValueError(
            f"{name} must be integers, the columns of the classes, got dtype {labels.dtype}; "
            f"`classes, {name} = np.unique({name}, return_inverse=True)` gives those of "
            "cross_val_predict"
        ) from None
    with np.errstate(invalid="ignore"):
        whole = labels.astype(np.int64)
    if (whole != labels).any():
        raise ValueError(f"{name} must be integers, got {labels[whole != labels][0]}")
    return whole


def _predictions(labels: Any, probabilities: Any) -> tuple[NDArray[np.int64], Array]:
    """Labels (N,) and probabilities (networks, N, C) in float64, or raise."""
    y, p = _labels("labels", labels), as_numbers(probabilities, "probabilities").astype(np.float64)
    if p.ndim == 2:
        p = p[None]
    if p.ndim != 3 or len(p) not in (1, 2) or not p.shape[1] or p.shape[2] < 2:
        raise ValueError(
            "probabilities must have shape (N, C) or (2, N, C) with N >= 1 and C >= 2, got "
            f"{np.shape(probabilities)}"
        )
    low, high, sums = p.min(-1), p.max(-1), p.sum(-1)
    bad = ~((low >= -ROUNDING) & (np.abs(sums - 1) <= SUM_ROUNDING))  # so if one is NaN
    if bad.any():
        first = tuple(np.argwhere(bad)[0])
        raise ValueError(
            "probabilities must be in [0, 1] and sum to 1 for each sample, got values from "
            f"{low[first]:.4g} to {high[first]:.4g} and a sum of {sums[first]:.4g} in row "
            f"{first[-1]}, the first of {bad.sum()}"
        )
    np.clip(p, 0, 1, out=p)
    n, c = p.shape[1:]
    if y.shape != (n,):
        raise ValueError(f"labels must have shape ({n},), got {y.shape}")
    if y.min() < 0 or y.max() >= c:
        raise ValueError(f"labels must lie in [0, {c}), got values from {y.min()} to {y.max()}")
    return y, p


def _judge(labels: NDArray[np.int64], p: Array) -> tuple[Array, Array, str]:
    """How likely each label is to be right by one classifier's predictions, and its similarity.

    And a doubt to tell. Overwrites the predictions by similarities, which for many classes are
    large.
    """
    n_classes = p.shape[1]
    highest, predicted = p.max(1), p.argmax(1)
    contradicts = predicted != labels
    counts = np.zeros((n_classes, CONFIDENCE_BINS, 2))
    bins = np.searchsorted(CONFIDENCE_EDGES, np.log(highest))
    np.add.at(counts, (predicted, bins, contradicts.astype(int)), 1)
    seen, doubt = first_impression(contradiction_rate(counts), float(contradicts.mean()))

    p /= np.sqrt(np.einsum("nc,nc->n", p, p))[:, None]
    s = p[np.arange(len(labels)), labels]
    occurs = np.bincount(labels, minlength=n_classes) > 0
    if occurs.sum() < 2:
        occurs[:] = True
    given, all_, absent = (SimilarityHistogram().update(v.ravel()) for v in (s, p, p[:, ~occurs]))
    decoys = SimilarityHistogram(all_.counts - absent.counts - given.counts)
    with silent():
        mixture = DecoyMixture().fit(
            s, decoys, hit_rate=1 / (occurs.sum() - 1), seen_rate=seen, least_probability=doubt
        )
    return mixture.predict_proba(s)[:, -1], s, mixture._missed
