"""What the mixtures are fitted to, gathered on a torch device inside a training step."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ._checks import check_number
from ._module import StateModule
from ._validation import check_logarithms, check_stacked
from .distributed import add_up, bounds
from .histogram import LOGIT_EDGES, N_BINS, Array, SimilarityHistogram
from .similarity import Signal, check_signal, log_signal

__all__ = ["DecoyAccumulator", "HistogramAccumulator"]


class Edges(StateModule):
    """Constant edges of bins on a device; they are not in the state dict."""

    edges: Tensor

    def __init__(self, values: Array) -> None:
        super().__init__()
        self.values = values
        edges = torch.tensor(values, dtype=torch.float32)
        self.register_buffer("edges", edges, persistent=False)

    def _load_from_state_dict(self, *args: Any) -> None:
        edges = torch.tensor(self.values, dtype=torch.float32)
        if self.edges.is_meta:  # a state that is loaded with assign=True brings none
            self.edges = edges
        else:  # perhaps made on the meta device
            self.edges.copy_(edges)
        super()._load_from_state_dict(*args)

    def forward(self, x: Tensor) -> Tensor:
        """Bin of each value."""
        return torch.bucketize(x, self.edges)


class Bins(StateModule):
    """The bins of :class:`resup.SimilarityHistogram` on a device, by their edges in logit S."""

    def __init__(self) -> None:
        super().__init__()
        self.edges = Edges(LOGIT_EDGES)

    def forward(self, log_s: Tensor, log_1ms: Tensor) -> tuple[Tensor, Tensor]:
        """Bin of each similarity, and its weight there: 1, or 0 where it is NaN; float64."""
        logit = (log_s - log_1ms).float()
        return self.edges(logit), (logit == logit).double()


class HistogramAccumulator(StateModule):
    """Fills similarity histograms on the device, without making the host wait.

    Parameters
    ----------
    groups : int, default=1
        How many histograms are kept side by side, such as one per network.

    Attributes
    ----------
    counts : Tensor of shape (groups, 2432), float64
        Summed weight in each bin; a buffer, so it follows ``.to(device)`` and is in the state dict.

    See Also
    --------
    resup.SimilarityHistogram : what it becomes on the host.

    Examples
    --------
    >>> import torch
    >>> from resup import BetaMixture, HistogramAccumulator, log_label_similarity
    >>> _ = torch.manual_seed(0)
    >>> accumulator = HistogramAccumulator()
    >>> for _ in range(20):  # a training epoch
    ...     logits, targets = 3 * torch.randn(64, 10), torch.randint(10, (64,))
    ...     accumulator.update(*log_label_similarity(logits, targets))
    >>> accumulator.histogram()
    SimilarityHistogram(total=1280)
    """

    counts: Tensor

    def __init__(self, groups: int = 1) -> None:
        super().__init__()
        check_number("groups", groups, 1, whole=True)
        self.bins = Bins()
        self.register_buffer("counts", torch.zeros(groups, N_BINS, dtype=torch.float64))

    @torch.no_grad()
    def update(self, log_s: Tensor, log_1ms: Tensor, weights: Tensor | None = None) -> None:
        """Add similarities given by their logarithms.

        Parameters
        ----------
        log_s, log_1ms : Tensor of shape (N,) or (groups, N)
            log S and log(1 - S), as :func:`resup.log_label_similarity` gives them. A sample with
            NaN is left out, one with -inf counts in the outermost bin.
        weights : Tensor of the same shape, optional
            Not negative; ones by default.

        Raises
        ------
        TypeError, ValueError
            If a value is no tensor, a shape does not fit, or, on the CPU, a logarithm is above 0.
        """
        check_logarithms(log_s=log_s, log_1ms=log_1ms)
        if not (weights is None or isinstance(weights, Tensor)):
            raise TypeError(f"weights must be a Tensor, got {type(weights).__name__}")
        groups = len(self.counts)
        shape = log_s.shape
        if shape != log_1ms.shape or not shape or shape[:-1] not in ((groups,), ()):
            raise ValueError(
                f"log_s and log_1ms must both have shape (N,) or ({groups}, N), "
                f"got {tuple(shape)} and {tuple(log_1ms.shape)}"
            )
        if weights is not None and weights.shape != shape:
            raise ValueError(f"weights must have shape {tuple(shape)}, got {tuple(weights.shape)}")
        log_s, log_1ms = log_s.expand(groups, -1), log_1ms.expand(groups, -1)
        index, ones = self.bins(log_s, log_1ms)
        if weights is not None:
            ones = torch.where(ones > 0, weights.double(), ones)
        self.add(index, ones)

    def add(self, index: Tensor, weights: Tensor) -> None:
        """Add similarities by their bins and weights there, (groups, N), as `bins` gives them."""
        self.counts.scatter_add_(1, index, weights)

    def reset(self) -> None:
        """Forget all samples."""
        self.counts.zero_()

    def histogram(self, group: int = 0) -> SimilarityHistogram:
        """Copy one histogram to the host (this waits for the device)."""
        return SimilarityHistogram(self.counts[group])


CONFIDENCE_BINS = 74  # of the highest probability
CONFIDENCE_EDGES = -np.logaddexp(0, 4.5 - np.arange(1, CONFIDENCE_BINS) / 4)  # its logarithm
FEW_CLASSES = 20  # of which all confusions can be counted


class DecoyAccumulator(StateModule):
    """Gathers on the device what `DecoyMixture` needs beside the similarities of an epoch.

    Each call takes one decoy per sample, its similarity to the label `shift` classes further on.
    The shift grows by one from call to call and draws no random number: over C - 1 calls decoys are
    uniform over the other labels. Over fewer, as in an epoch of few batches, they are not, which
    matters only for noise between particular classes. Classes without labels, as of a head that is
    wider than needed, are left out once `draw_from` has told which these are.

    Parameters
    ----------
    groups : int, default=1
        How many networks are kept side by side.
    signal : {"similarity", "loss"} or callable, default="similarity"
        What the histograms are of, as in :class:`resup.SampleWeigher`.

    Attributes
    ----------
    histograms : HistogramAccumulator
        Of the decoys.
    contradictions : Tensor of shape (groups, C, 74, 2), int32
        Samples by predicted class, by bin of the highest probability, and by whether the label
        contradicts the prediction; for :func:`resup.contradictions.contradiction_rate`. C is 0
        before the first call.
    confusions : Tensor of shape (groups, C, 74, C), int32
        Samples by predicted class, by this bin, and by label, of this process alone. Empty with
        more than 20 classes.
    n_drawn : Tensor of shape (), int64
        How many classes decoys are drawn from: the first so many of `order`.
    order, place : Tensor of shape (C,), int64
        The classes, those with labels first, and where in this order each is.
    disputes : Tensor of shape (groups, 74, 2), int32
        Samples that no network scores NaN by bin of the highest probability, and by whether the
        networks predict different classes.
    labels : Tensor of shape (C,), int32
        Samples by given label, but for those that every network scores NaN.
    probabilities : Tensor of shape (groups, C), float64
        Summed over the samples, but for those scored NaN; for
        :class:`resup.alignment.ClassAlignment`.
    """

    _by_class = (
        ("contradictions", 1), ("labels", 0), ("probabilities", 1), ("order", 0), ("place", 0),
    )  # fmt: skip
    shift: Tensor
    n_drawn: Tensor
    order: Tensor
    place: Tensor
    contradictions: Tensor
    confusions: Tensor
    disputes: Tensor
    labels: Tensor
    probabilities: Tensor

    def __init__(self, groups: int = 1, signal: Signal = "similarity") -> None:
        super().__init__()
        check_signal(signal)
        self.signal = signal
        self.began = False  # known to the host, unlike the counts
        self.histograms = HistogramAccumulator(groups)
        self.edges = Edges(CONFIDENCE_EDGES)
        self.register_buffer("shift", torch.zeros((), dtype=torch.int64))  # of the last decoys
        counts = torch.zeros(groups, CONFIDENCE_BINS, 2, dtype=torch.int32)
        self.register_buffer("disputes", counts)
        self.register_buffer("contradictions", counts.new_zeros(groups, 0, CONFIDENCE_BINS, 2))
        self.register_buffer("confusions", counts.new_zeros(groups, 0, CONFIDENCE_BINS, 0))
        self.register_buffer("labels", counts.new_zeros(0))
        self.register_buffer("probabilities", torch.zeros(groups, 0, dtype=torch.float64))
        self.register_buffer("n_drawn", torch.zeros_like(self.shift))
        self.register_buffer("order", self.shift.new_zeros(0))
        self.register_buffer("place", self.shift.new_zeros(0))

    @torch.no_grad()
    def draw_from(self, occurs: Tensor) -> None:
        """Draw decoys from the classes (C,) that occur, or from all if fewer than two do."""
        occurs = occurs | (occurs.sum() < 2)
        self.n_drawn.copy_(occurs.sum())
        self.order.copy_(occurs.logical_not().int().argsort(stable=True))
        self.place.copy_(self.order.argsort())

    def _make_room(self, n_classes: int) -> None:
        begins = len(self.labels) != n_classes
        super()._make_room(n_classes)
        if begins:
            n = n_classes if n_classes <= FEW_CLASSES else 0
            groups, _, bins, _ = self.confusions.shape
            with torch.inference_mode(False):
                self.confusions = self.confusions.new_zeros(groups, n, bins, n)
            self.draw_from(self.labels == 0)

    @torch.no_grad()
    def update(self, logits: Tensor, targets: Tensor) -> None:
        """Add a batch.

        Parameters
        ----------
        logits : Tensor of shape (groups, N, C)
            Class scores of each network. A network's scores that hold NaN are left out.
        targets : Tensor of shape (N,)
            Given labels.

        Raises
        ------
        TypeError, ValueError
            If logits or targets are of another kind or shape, or have another number of classes
            than since the last `reset`.
        """
        check_stacked(logits, targets, len(self.disputes))
        targets = targets.long()
        decoys = self.next_labels(targets, logits.shape[2])
        bins = self.histograms.bins(*log_signal(self.signal, logits, decoys))
        self.add(logits, targets, *bins)

    def next_labels(self, targets: Tensor, n_classes: int) -> Tensor:
        """Labels of the next decoys, (N,); the call counts."""
        before = len(self.labels)
        if before != n_classes and self.began:  # compiled code is to look at the first alone
            raise ValueError(
                f"logits must have {before} classes until the next reset, got {n_classes}"
            )
        self._make_room(n_classes)
        self.shift.remainder_(self.n_drawn - 1).add_(1)
        return self.order[(self.place[targets] + self.shift) % self.n_drawn]

    @torch.no_grad()
    def add(self, logits: Tensor, targets: Tensor, index: Tensor, weights: Tensor) -> None:
        """Add a batch whose decoys have these bins and weights, (groups, N)."""
        self.histograms.add(index, weights)
        self.began = True
        log_p = logits.float().log_softmax(-1)
        self.probabilities += log_p.exp().nan_to_num(0.0).sum(1, dtype=torch.float64)
        highest, predicted = log_p.max(-1)
        confidence = self.edges(highest)
        cell = torch.add(confidence, predicted, alpha=CONFIDENCE_BINS)
        index = torch.add(predicted != targets, cell, alpha=2)
        known = (highest == highest).int()
        by_all, by_one = known.aminmax(dim=0)
        self.contradictions.view(len(logits), -1).scatter_add_(1, index, known)
        if self.confusions.numel():
            index = torch.add(targets, cell, alpha=len(self.labels))
            self.confusions.view(len(logits), -1).scatter_add_(1, index, known)
        index = torch.add((predicted != predicted[0]).any(0), confidence, alpha=2)
        self.disputes.view(len(logits), -1).scatter_add_(1, index, by_all.expand_as(known))
        self.labels.scatter_add_(0, targets, by_one)

    def match_classes(self) -> None:
        """Count as many classes as the other processes, also where there was no batch yet."""
        n = len(self.labels)
        [(_, most), (least, _)] = bounds([n, n or 2**31], self.labels.device)
        if least < most:
            raise ValueError(
                f"logits must have as many classes in all processes, got {least} in one and {most} "
                "in another"
            )
        self._make_room(most)

    def predictions(self) -> Tensor:
        """Count samples by predicted class, (groups, C)."""
        return self.contradictions.sum((2, 3))

    def right_labels(self, spread_rate: float) -> Tensor:
        """Least number of right labels by class, (C,), if such a share is wrong and spread evenly.

        That is if all wrong ones come from other classes, as those of a rare class nearly do.
        """
        labels, others = self.labels.double(), ((self.labels > 0).sum() - 1).clamp(min=1)
        return (labels - spread_rate * labels.sum() / others).clamp(min=0)

    def counts(self) -> tuple[Tensor, ...]:
        """All that is counted, for sums over processes."""
        counts = self.histograms.counts, self.contradictions, self.disputes, self.labels
        return *counts, self.probabilities

    def confused(self, share: float, least: int) -> Tensor:
        """Count the samples of all processes by prediction and label, (groups, 2, C, C).

        Apart are the less sure samples, and the surest of each predicted class: this share, but at
        least so many. `contradictions` must have been summed over the processes before.
        """
        n = self.contradictions.sum(3)
        above = n.flip(2).cumsum(2).flip(2) - n
        all_ = n.sum(2, keepdim=True)
        sure = above < (share * all_).clamp(min=least).minimum(all_)
        surest = (self.confusions * sure[:, : self.confusions.shape[1], :, None]).sum(2)
        counts = torch.stack([self.confusions.sum(2) - surest, surest], 1)
        add_up(counts)
        return counts

    def reset(self) -> None:
        """Forget all samples; the shift goes on."""
        for counts in (*self.counts(), self.confusions):
            counts.zero_()
        self.began = False

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args)
        self.began = bool(self.contradictions.any())
