"""Two networks called alike, and what they and their mixtures say of the labels of a loader."""

from __future__ import annotations

import math
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from . import loaders
from ._checks import check_choice, check_methods
from ._validation import check_logits_targets, check_models, check_pair
from ._warnings import warn
from .checkpoint import random_states, set_random_states
from .distributed import alone, global_means, unwrap
from .fdr import HIDDEN
from .report import LabelReport
from .weigher import SampleWeigher


class NetworkPair:
    """The part of `CoTrainer` that calls the models and looks at data, and trains nothing."""

    weigher: SampleWeigher
    epoch: int
    warmup_epochs: float
    _stop: bool  # by SIGTERM
    _ending: int | None  # of the last epoch: 0 not validated, 1 and a callback told each; None all

    def __init__(
        self,
        models: Sequence[nn.Module],
        autocast: torch.dtype | None,
        unpack: Callable[[Any], tuple[Any, Tensor]] | None,
    ) -> None:
        self.models = check_models(models)
        check_choice("autocast", autocast, (None, torch.bfloat16, torch.float16))
        if unpack is not None:
            check_methods("unpack", unpack, "__call__")
        self.device = next(p.device for model in self.models for p in model.parameters())
        self.autocast = autocast
        self.unpack = unpack
        self._resting: tuple[list[nn.Module], ...] = ([], [])

    def forward(self, model: nn.Module, inputs: Any) -> Tensor:
        """Logits (N, C) of one model; to judge, of the module inside of DistributedDataParallel."""
        if isinstance(inputs, Mapping):
            output = model(**inputs)
        elif isinstance(inputs, (tuple, list)) and not isinstance(inputs, PackedSequence):
            output = model(*inputs)
        else:
            output = model(inputs)
        logits = output.get("logits") if isinstance(output, Mapping) else output
        logits = getattr(logits, "logits", logits)
        if not isinstance(logits, Tensor):
            raise TypeError(
                "a model must return logits, or an object or mapping with logits, got "
                f"{type(output).__name__}; override CoTrainer.forward for other models"
            )
        return logits

    def _predict(
        self, loader: Iterable[Any], rewind: bool = True
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Logits (2, N, C) and targets of each batch, in eval mode.

        With `rewind` the random states, the loader's too, are put back: training goes on as
        without.
        """
        modes = [(part, part.training) for model in self.models for part in _every(model)]
        generators = self._generators(loader)
        randomness = random_states(generators)
        for model in self.models:
            model.eval()
        try:
            for batch in loader:
                if self._stop and self._ending is not None:  # `fit` saves the epoch
                    raise SystemExit(128 + signal.SIGTERM)
                inputs, targets = self._to_device(batch)
                with self._autocast():  # the next call may overwrite the output of a CUDA graph
                    logits = [_copied(self.forward(alone(model), inputs)) for model in self.models]
                check_pair(*logits)
                check_logits_targets(logits[0], targets)
                yield torch.stack(logits), targets.long()
        finally:
            if rewind:  # a DataLoader draws a seed for its workers
                set_random_states(randomness, generators)
            for part, mode in modes:  # not only the flag: LoRA's layers merge weights in `eval`
                part.train(mode)

    def _generators(self, loader: Iterable[Any]) -> list[loaders.Generator]:
        """List the random generators of a loader and of the models."""
        parts = (part for model in self.models for part in model.modules())
        return loaders.generators(loader, parts)

    def _train_mode(self) -> None:
        for model, resting in zip(self.models, self._resting, strict=True):
            inner = unwrap(model)  # the flag of what wraps it may be another
            if inner.training:  # parts of it may be in eval mode on purpose
                resting[:] = [part for part in inner.modules() if not part.training]
            elif not any(p.requires_grad for p in model.parameters()):
                continue
            elif any(part.training for part in inner.modules()):  # not in eval mode as a whole
                resting[:] = [p for p in {*resting, *_frozen(inner)} if not p.training]
            model.train()  # in any case: a model's own `train` may freeze parts
            frozen = {*resting, *(part for part in model.modules() if not part.training)}
            for part in _every(model):
                part.train(part not in frozen)

    def _warn_of_resting(self) -> None:
        """Warn if what is trained is in eval mode, in which pretrained parts may come."""
        for network, model in zip("AB", self.models, strict=True):
            inner = unwrap(model)
            names = [
                name
                for name, part in inner.named_modules()
                if not part.training
                and any(p.requires_grad for p in part.parameters(recurse=False))
                and not hasattr(part, "running_mean")  # batch norm may rest and be scaled
            ]
            if inner.training and names:
                warn(
                    f"network {network} has trainable parts that are in eval mode and stay in it "
                    f"({len(names)}, such as {names[0]}): call their train(), or freeze them"
                )

    def _autocast(self) -> AbstractContextManager[Any]:
        if self.autocast is None:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.autocast)

    def _to_device(self, batch: Any) -> tuple[Any, Tensor]:
        if self.unpack is not None:
            batch = self.unpack(batch)
        if not isinstance(batch, (tuple, list)) or len(batch) != 2:
            size = f" of {len(batch)}" if isinstance(batch, (tuple, list)) else ""
            found = f"got {type(batch).__name__}{size}"
            if self.unpack is not None:
                raise TypeError(f"unpack must return a pair (inputs, targets), {found}")
            raise TypeError(f"a batch must be a pair (inputs, targets), {found}; pass unpack=")
        return _move(batch[0], self.device), _move(batch[1], self.device)

    @torch.no_grad()
    def evaluate(self, loader: Iterable[Any]) -> dict[str, float]:
        """Accuracy of each network on `loader`: ``accuracy_a``, ``accuracy_b``, in [0, 1].

        A sample for which a network gives NaN counts as wrong.
        With several processes every one must call it: they add up their samples.

        Raises
        ------
        TypeError
            If the loader gives no batches, such as a data set or tensors.
        ValueError
            If the loader gave no sample.
        """
        loaders.check_batches("loader", loader)
        right = torch.zeros(2, dtype=torch.int64, device=self.device)
        samples = 0
        for logits, targets in self._predict(loader):
            right += ((logits.argmax(-1) == targets) & ~logits.isnan().any(-1)).sum(1)
            samples += len(targets)
        means = global_means({"accuracy_a": (right[0], samples), "accuracy_b": (right[1], samples)})
        if math.isnan(means["accuracy_a"]):
            raise ValueError(
                "the loader to evaluate gave no sample; a val_loader is iterated every epoch"
            )
        return means

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
        TypeError
            If the loader gives no batches, such as a data set or tensors.
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
        RuntimeError, TypeError, ValueError
            As `clean_probability`, or if `probability` is not (N,), in [0, 1], or `hidden`
            not in [0, 1).
        """
        columns = self._judged(loader)
        return LabelReport.ranked(*columns, probability=probability, hidden=hidden)

    def _judged(self, loader: Iterable[Any]) -> list[Tensor]:
        """Given and suggested labels, agreement, and posteriors of A and of B, each (N,)."""
        if not self.weigher.mixtures_:
            if self.warmup_epochs == math.inf:
                raise RuntimeError(
                    "judging labels needs a fitted mixture, and warmup_epochs=inf fits none"
                )
            needed = max(1, self.warmup_epochs)
            if self.epoch >= needed:
                raise RuntimeError(
                    f"judging labels needs a fitted mixture, and in {self.epoch} epochs no step "
                    "has called self.weigher"
                )
            raise RuntimeError(
                "judging labels needs a fitted mixture: train for max(1, warmup_epochs) = "
                f"{needed} epochs first ({self.epoch} done)"
            )
        loaders.check_order(loader)
        columns: list[tuple[Tensor, ...]] = []
        for logits, targets in self._predict(loader):
            clean_a, clean_b = self.weigher.judge(logits, targets)
            predicted = logits.argmax(-1)
            suggested = logits.float().softmax(-1).mean(0).argmax(-1)
            agree, lost = predicted[0] == predicted[1], logits.isnan().any(-1).any(0)
            columns.append((targets.clone(), suggested, agree, clean_a, clean_b, lost))
        if not columns:
            raise ValueError("the loader gave no batch")
        *found, lost = (torch.cat(column).cpu() for column in zip(*columns, strict=True))
        if lost.any():
            raise ValueError(
                f"the networks gave NaN for {int(lost.sum())} of the loader's samples, first for "
                f"sample {int(lost.int().argmax())}; look for NaN in the inputs"
            )
        return found


def _every(model: nn.Module) -> list[nn.Module]:
    """List a module and its parts, each after all that hold it, whose `train` changes it too."""
    return [part for _, part in model.named_modules(remove_duplicate=False)]


def _frozen(model: nn.Module) -> list[nn.Module]:
    """List the parts in eval mode that have parameters but none to train, and what they hold."""
    found = []
    for part in model.modules():
        needs = {p.requires_grad for p in part.parameters()}
        if not part.training and needs == {False}:
            found += list(part.modules())
    return found


def _copied(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value


def _move(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    if callable(getattr(value, "to", None)):
        return value.to(device)
    if isinstance(value, Mapping):
        return {key: _move(item, device) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        moved = [_move(item, device) for item in value]
        if hasattr(value, "_fields"):
            return type(value)(*moved)
        return tuple(moved) if isinstance(value, tuple) else moved
    return value
