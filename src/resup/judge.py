"""What two networks and their mixtures say of the labels of a loader."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from . import loaders
from .distributed import global_means
from .fdr import HIDDEN
from .pair import NetworkPair
from .report import LabelReport
from .weigher import SampleWeigher


class JudgingPair(NetworkPair):
    """The part of `CoTrainer` that looks at data and trains nothing."""

    weigher: SampleWeigher
    epoch: int
    warmup_epochs: float

    @torch.no_grad()
    def evaluate(self, loader: Iterable[Any]) -> dict[str, float]:
        """Accuracy of each network on `loader`: ``accuracy_a``, ``accuracy_b``, in [0, 1].

        A sample for which a network gives NaN counts as wrong.
        With several processes every one must call it: they add up their samples.

        Raises
        ------
        ValueError
            If the loader gave no sample.
        """
        right = torch.zeros(2, dtype=torch.int64, device=self.device)
        samples = 0
        for logits, targets in self._predict(loader):
            right += ((logits.argmax(-1) == targets) & ~logits.isnan().any(-1)).sum(1)
            samples += len(targets)
        if not samples:
            raise ValueError(
                "the loader to evaluate gave no sample; a val_loader is iterated every epoch"
            )
        return global_means({"accuracy_a": (right[0], samples), "accuracy_b": (right[1], samples)})

    @torch.no_grad()
    def clean_probability(self, loader: Iterable[Any]) -> Tensor:
        """Probability that each label is right, as both networks see it.

        Parameters
        ----------
        loader : iterable of batches
            In a fixed order, and without augmentation for the clearest view: what it draws is the
            same in every call.

        Returns
        -------
        Tensor of shape (N,), float32, on the CPU
            Mean of the two networks' posteriors (Eq. 5) in eval mode, in loader order.

        Raises
        ------
        RuntimeError
            If no mixture has been fitted yet.
        ValueError
            If the loader is empty, or a DataLoader that drops its last samples, or one that
            shuffles by a sampler of torch's, so that its order would mean nothing (what other
            samplers do is not noticed), or if a network gives NaN for a sample.
        """
        *_, clean_a, clean_b = self._judged(loader)
        return (clean_a + clean_b).float() / 2

    @torch.no_grad()
    def report(
        self,
        loader: Iterable[Any],
        probability: ArrayLike | None = None,
        *,
        hidden: float = HIDDEN,
    ) -> LabelReport:
        """Ranked table of the labels of `loader`, the most suspicious first.

        Parameters
        ----------
        loader : iterable of batches
            In a fixed order, and without augmentation for the clearest view.
        probability : array-like of shape (N,), optional
            How likely each label is to be right, in loader order, in place of `clean_probability`.
            The mean over the epochs, ``ProbabilityHistory(loader).probability.mean(0)``, ranks and
            states false discoveries better: late epochs have learnt wrong labels by heart.
        hidden : float, default=0.015
            Share of the right labels that look just like wrong ones, for the q-values
            (:func:`resup.q_values`). For networks that get less than 15 % of a `val_loader` wrong,
            a tenth of that: ``0.1 * (1 - trainer.evaluate(val_loader)["accuracy_a"])``.

        Returns
        -------
        LabelReport
            With suggested labels, both networks' probabilities and q-values.

        Raises
        ------
        RuntimeError, ValueError
            As `clean_probability`, or if `probability` is not (N,), in [0, 1], or `hidden`
            not in [0, 1).
        """
        given, suggested, agree, a, b = (column.numpy() for column in self._judged(loader))
        return LabelReport.ranked(given, suggested, agree, a, b, probability, hidden)

    def _judged(self, loader: Iterable[Any]) -> list[Tensor]:
        """Given and suggested labels, agreement, and posteriors of A and of B, each (N,)."""
        if not self.weigher.mixtures_:
            if self.warmup_epochs == math.inf:
                raise RuntimeError(
                    "judging labels needs a fitted mixture, and warmup_epochs=inf fits none"
                )
            raise RuntimeError(
                "judging labels needs a fitted mixture: train for max(1, warmup_epochs) = "
                f"{max(1, self.warmup_epochs)} epochs first ({self.epoch} done)"
            )
        loaders.check_order(loader)
        columns: list[tuple[Tensor, ...]] = []
        for logits, targets in self._predict(loader):
            clean_a, clean_b = self.weigher.judge(logits, targets)
            predicted = logits.argmax(-1)
            suggested = logits.float().softmax(-1).mean(0).argmax(-1)
            agree, lost = predicted[0] == predicted[1], logits.isnan().any(-1).any(0)
            columns.append((targets, suggested, agree, clean_a, clean_b, lost))
        if not columns:
            raise ValueError("the loader gave no batch")
        *found, lost = (torch.cat(column).cpu() for column in zip(*columns, strict=True))
        if lost.any():
            raise ValueError(
                f"the networks gave NaN for {int(lost.sum())} of the loader's samples, first for "
                f"sample {int(lost.int().argmax())}; look for NaN in the inputs"
            )
        return found
