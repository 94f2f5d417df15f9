"""CoTrainer: two networks trained through wrong labels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader, RandomSampler
from tqdm.auto import tqdm
from typing_extensions import Self

from ._validation import check_choice
from .losses import ConsistencyLoss, CrossWeightedLoss
from .weigher import SampleWeigher

__all__ = ["CoTrainer"]

FORMAT_VERSION = 1


class CoTrainer:
    r"""Train a pair of networks that weigh each other's samples (Eq. 6).

    .. math:: L = L_{\mathrm{cross\text{-}weighted}} + \lambda \, L_{\mathrm{consistency}}

    After `warmup_epochs` of plain cross-entropy, each network's similarities of the last epoch are
    fitted with a mixture, whose posterior weighs the samples for the *other* network.

    The models, optimizer and scheduler stay the caller's: they may be compiled, wrapped in
    DistributedDataParallel, or in any memory format, and are called, never copied or moved.

    Parameters
    ----------
    models : pair of nn.Module
        Network A and network B, on one device. Each maps inputs to logits (N, C), or returns an
        object or mapping with ``logits``. A mapping as input is passed as keyword arguments, a
        tuple or list as positional ones.
    optimizer : Optimizer or pair of Optimizer
        Owns exactly the parameters of both models (frozen ones may be left out).
    scheduler : learning-rate scheduler or sequence of them, optional
        Stepped once an epoch, or once an optimizer step with ``scheduler_interval="step"``.
    consistency_weight : float, default=5.0
        :math:`\lambda`; with 0 the consistency loss is not computed.
    warmup_epochs : int, default=1
        Epochs of plain cross-entropy, without consistency, before the first mixture.
    mixture : estimator, optional
        Fitted to the similarities of each network; `BetaMixture()` by default.
    scheduler_interval : {"epoch", "step"}, default="epoch"
        When the schedulers step.
    autocast : torch.dtype, optional
        Run the models under autocast in bfloat16 or float16. The losses stay in float32.
    scaler : torch.amp.GradScaler, optional
        For float16.
    clip_grad_norm : float, optional
        Largest gradient norm of each network.
    accumulate : int, default=1
        Batches to an optimizer step.
    unpack : callable, optional
        Maps a batch of the loader to ``(inputs, targets)``; by default a batch is such a pair.
    progress : bool, default=True
        Whether to show a progress bar.

    Attributes
    ----------
    epoch : int
        Epochs done.
    history : list of dict
        One record an epoch, of plain numbers: ``epoch``, ``loss``, ``cross_entropy``,
        ``consistency``, ``weight_a``, ``weight_b`` (mean weights given by each network),
        ``noise_rate_a``, ``noise_rate_b`` (of the mixtures fitted after the epoch), ``lr``, and
        with a `val_loader` ``val_accuracy_a``, ``val_accuracy_b``.
    weigher : SampleWeigher
        Holds the fitted mixtures (``weigher.mixtures_``).

    Raises
    ------
    TypeError, ValueError
        If there are not two different models on one device, the optimizers miss or repeat a
        trainable parameter or own a foreign one, or a setting is out of range.

    References
    ----------
    Zhang et al., *ReSup: Reliable Label Noise Suppression for Facial Expression Recognition*,
    arXiv 2305.17895.

    Examples
    --------
    >>> import torch
    >>> from torch.utils.data import DataLoader, TensorDataset
    >>> from resup import CoTrainer
    >>> _ = torch.manual_seed(0)
    >>> x = torch.randn(256, 8)
    >>> data = TensorDataset(x, (x[:, 0] > 0).long())
    >>> nets = torch.nn.Linear(8, 2), torch.nn.Linear(8, 2)
    >>> optimizer = torch.optim.Adam([*nets[0].parameters(), *nets[1].parameters()], lr=0.1)
    >>> trainer = CoTrainer(nets, optimizer, progress=False)
    >>> trainer = trainer.fit(DataLoader(data, 32, shuffle=True), epochs=3)
    >>> trainer.epoch, trainer.clean_probability(DataLoader(data, 64)).shape
    (3, torch.Size([256]))
    """

    def __init__(
        self,
        models: Sequence[nn.Module],
        optimizer: Optimizer | Sequence[Optimizer],
        scheduler: Any = None,
        *,
        consistency_weight: float = 5.0,
        warmup_epochs: int = 1,
        mixture: Any = None,
        scheduler_interval: str = "epoch",
        autocast: torch.dtype | None = None,
        scaler: torch.amp.GradScaler | None = None,
        clip_grad_norm: float | None = None,
        accumulate: int = 1,
        unpack: Callable[[Any], tuple[Any, Tensor]] | None = None,
        progress: bool = True,
    ) -> None:
        self.models = _check_models(models)
        self.optimizers = [optimizer] if isinstance(optimizer, Optimizer) else list(optimizer)
        _check_optimizers(self.models, self.optimizers)
        if scheduler is None:
            self.schedulers: list[Any] = []
        else:
            self.schedulers = list(scheduler) if isinstance(scheduler, Sequence) else [scheduler]
        for name, value, low in (
            ("consistency_weight", consistency_weight, 0),
            ("warmup_epochs", warmup_epochs, 0),
            ("accumulate", accumulate, 1),
        ):
            if not value >= low:
                raise ValueError(f"{name} must be at least {low}, got {value}")
        check_choice("scheduler_interval", scheduler_interval, ("epoch", "step"))
        self.consistency_weight = consistency_weight
        self.warmup_epochs = warmup_epochs
        self.scheduler_interval = scheduler_interval
        self.autocast = autocast
        self.scaler = scaler
        self.clip_grad_norm = clip_grad_norm
        self.accumulate = accumulate
        self.unpack = unpack
        self.progress = progress

        self.device = next(self.models[0].parameters()).device
        self.weigher = SampleWeigher(mixture).to(self.device)
        self.cross_weighted = CrossWeightedLoss()
        self.consistency = ConsistencyLoss()
        self.epoch = 0
        self.history: list[dict[str, Any]] = []

    # ------------------------------------------------------------------ training

    def fit(
        self, train_loader: Iterable[Any], epochs: int, val_loader: Iterable[Any] | None = None
    ) -> Self:
        """Train until `epochs` epochs are done in all.

        Parameters
        ----------
        train_loader : iterable of batches
            ``(inputs, targets)``, or what `unpack` takes. It is iterated once an epoch.
        epochs : int
            The total: a second call, or one after `load_state_dict`, goes on to it.
        val_loader : iterable of batches, optional
            Its accuracy joins the history; it changes nothing else.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If a loader gives no batch.
        FloatingPointError
            If the loss is not finite.
        """
        while self.epoch < epochs:
            record = self.train_epoch(train_loader)
            if val_loader is not None:
                record |= {f"val_{key}": value for key, value in self.evaluate(val_loader).items()}
            self.epoch += 1
            self.history.append({"epoch": self.epoch, **record})
        return self

    def train_epoch(self, loader: Iterable[Any]) -> dict[str, float]:
        """Run one epoch, then refit the mixtures; returns the means of what `train_step` gives."""
        for model in self.models:
            model.train()
        set_epoch = getattr(getattr(loader, "sampler", None), "set_epoch", None)
        if set_epoch is not None:  # of a DistributedSampler
            set_epoch(self.epoch)
        lr = self.optimizers[0].param_groups[0]["lr"]
        sums: dict[str, Tensor] = {}
        samples, steps, first_bad = 0, 0, torch.full((), torch.inf, device=self.device)
        pending = False
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        with self._progress_bar(loader) as bar:
            for batch in loader:
                inputs, targets = self._to_device(batch)
                steps += 1
                values = self.train_step(inputs, targets)
                pending = steps % self.accumulate != 0
                if not pending:
                    self.optimizer_step()
                n = len(targets)
                samples += n
                for key, value in values.items():
                    sums[key] = sums.get(key, 0) + value * n
                bad = torch.where(values["loss"].isfinite(), torch.inf, float(steps))
                first_bad = torch.minimum(first_bad, bad)
                if self.device.type == "cpu":  # elsewhere a look would make the host wait
                    self._check_finite(first_bad)
                    bar.set_postfix(loss=f"{values['loss'].item():.3f}", refresh=False)
                bar.update()
        if not steps:
            raise ValueError("train_loader gave no batch")
        if pending:
            self.optimizer_step()
        self._check_finite(first_bad)
        if self.scheduler_interval == "epoch":
            self._step_schedulers()
        if self.epoch + 1 >= self.warmup_epochs:
            self.weigher.refit()
        else:
            self.weigher.seen.reset()
        means = _global_means(sums, samples)
        rates = dict(zip(("noise_rate_a", "noise_rate_b"), self.weigher.noise_rates_, strict=False))
        return {**means, **rates, "lr": lr}

    def train_step(self, inputs: Any, targets: Tensor) -> dict[str, Tensor]:
        """Forward and backward of one batch; returns detached scalars, ``loss`` among them."""
        with self._autocast():
            logits_a, logits_b = (self.forward(model, inputs) for model in self.models)
        stacked = torch.stack([logits_a.detach(), logits_b.detach()])
        weights_a, weights_b = self.weigher(stacked, targets)
        cross_entropy = self.cross_weighted(logits_a, logits_b, targets, weights_a, weights_b)
        values = {"cross_entropy": cross_entropy}
        loss = cross_entropy
        if self.consistency_weight and self.epoch >= self.warmup_epochs:
            values["consistency"] = self.consistency(logits_a, logits_b)
            loss = loss + self.consistency_weight * values["consistency"]
        self.backward(loss / self.accumulate if self.accumulate > 1 else loss)
        values |= {"loss": loss, "weight_a": weights_a.mean(), "weight_b": weights_b.mean()}
        return {key: value.detach() for key, value in values.items()}

    def forward(self, model: nn.Module, inputs: Any) -> Tensor:
        """Logits (N, C) of one model."""
        if isinstance(inputs, Mapping):
            output = model(**inputs)
        elif isinstance(inputs, (tuple, list)):
            output = model(*inputs)
        else:
            output = model(inputs)
        if isinstance(output, Mapping):
            output = output["logits"]
        logits: Tensor = getattr(output, "logits", output)
        return logits

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of `loss`, scaled where there is a scaler."""
        (self.scaler.scale(loss) if self.scaler else loss).backward()

    def optimizer_step(self) -> None:
        """Clip the gradients, step the optimizers and, by the step, the schedulers."""
        if self.clip_grad_norm is not None:
            if self.scaler:
                for optimizer in self.optimizers:
                    self.scaler.unscale_(optimizer)
            for model in self.models:
                nn.utils.clip_grad_norm_(model.parameters(), self.clip_grad_norm)
        for optimizer in self.optimizers:
            if self.scaler:
                self.scaler.step(optimizer)
            else:
                optimizer.step()
        if self.scaler:
            self.scaler.update()
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        if self.scheduler_interval == "step":
            self._step_schedulers()

    # ------------------------------------------------------------------ looking

    @torch.no_grad()
    def evaluate(self, loader: Iterable[Any]) -> dict[str, float]:
        """Accuracy of each network on `loader`: ``accuracy_a``, ``accuracy_b``, in [0, 1]."""
        right = torch.zeros(2, device=self.device)
        samples = 0
        for logits, targets in self._predict(loader):
            right += (logits.argmax(-1) == targets).sum(1)
            samples += len(targets)
        if not samples:
            raise ValueError("the loader to evaluate gave no sample")
        means = _global_means({"accuracy_a": right[0], "accuracy_b": right[1]}, samples)
        return means

    @torch.no_grad()
    def clean_probability(self, loader: Iterable[Any]) -> Tensor:
        """Probability that each label is right, as both networks see it.

        Parameters
        ----------
        loader : iterable of batches
            In a fixed order, and without augmentation for the clearest view.

        Returns
        -------
        Tensor of shape (N,), float32, on the CPU
            Mean of the two networks' posteriors (Eq. 5) in eval mode, in loader order.

        Raises
        ------
        RuntimeError
            If no mixture has been fitted yet.
        ValueError
            If the loader shuffles or drops samples, so that its order would mean nothing, or is
            empty.
        """
        if not self.weigher.mixtures_:
            raise RuntimeError(
                "clean_probability needs a fitted mixture: train for more than warmup_epochs="
                f"{self.warmup_epochs} epochs first ({self.epoch} done)"
            )
        _check_order(loader)
        weights = [
            self.weigher(logits, targets, record=False).mean(0)
            for logits, targets in self._predict(loader)
        ]
        if not weights:
            raise ValueError("the loader gave no batch")
        return torch.cat(weights).cpu()

    def _predict(self, loader: Iterable[Any]) -> Iterable[tuple[Tensor, Tensor]]:
        """Logits (2, N, C) and targets of each batch, in eval mode."""
        modes = [model.training for model in self.models]
        for model in self.models:
            model.eval()
        try:
            for batch in loader:
                inputs, targets = self._to_device(batch)
                with self._autocast():
                    logits = [self.forward(model, inputs) for model in self.models]
                yield torch.stack(logits), targets
        finally:
            for model, mode in zip(self.models, modes, strict=True):
                model.train(mode)

    # ------------------------------------------------------------------ state

    def state_dict(self) -> dict[str, Any]:
        """All that a later `load_state_dict` needs to go on, of tensors and plain values.

        Random states are not in it: seed or save them beside it for a bit-identical continuation.
        """
        return {
            "format_version": FORMAT_VERSION,
            "epoch": self.epoch,
            "history": [dict(record) for record in self.history],
            "models": [_unwrap(model).state_dict() for model in self.models],
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "schedulers": [scheduler.state_dict() for scheduler in self.schedulers],
            "scaler": self.scaler.state_dict() if self.scaler else None,
            "weigher": self.weigher.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave.

        Raises
        ------
        ValueError
            If `state` is not of this format version, or holds another number of optimizers or
            schedulers, or lacks a scaler that this trainer has or the reverse.
        """
        version = state.get("format_version")
        if version != FORMAT_VERSION:
            raise ValueError(
                f"state has format_version {version!r}, this version of resup reads "
                f"{FORMAT_VERSION}"
            )
        for name in ("optimizers", "schedulers"):
            if len(state[name]) != len(getattr(self, name)):
                raise ValueError(
                    f"state holds {len(state[name])} {name}, this trainer has "
                    f"{len(getattr(self, name))}"
                )
        if (state["scaler"] is None) != (self.scaler is None):
            raise ValueError("state and trainer must both have a scaler or both have none")
        for model, saved in zip(self.models, state["models"], strict=True):
            _unwrap(model).load_state_dict(saved)
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        for scheduler, saved in zip(self.schedulers, state["schedulers"], strict=True):
            scheduler.load_state_dict(saved)
        if self.scaler:
            self.scaler.load_state_dict(state["scaler"])
        self.weigher.load_state_dict(state["weigher"])
        self.epoch = state["epoch"]
        self.history = [dict(record) for record in state["history"]]

    # ------------------------------------------------------------------ helpers

    def _progress_bar(self, loader: Iterable[Any]) -> Any:
        # The bar is not given the loader: some versions of tqdm start an iteration of their own,
        # which draws from the global random state.
        return tqdm(
            total=len(loader) if isinstance(loader, Sized) else None,
            desc=f"epoch {self.epoch + 1}",
            disable=not self.progress or _rank() > 0,
            leave=False,
        )

    def _autocast(self) -> AbstractContextManager[Any]:
        if self.autocast is None:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.autocast)

    def _to_device(self, batch: Any) -> tuple[Any, Tensor]:
        if self.unpack is not None:
            batch = self.unpack(batch)
        if not isinstance(batch, (tuple, list)) or len(batch) != 2:
            raise TypeError(
                "a batch must be a pair (inputs, targets); pass unpack= to make one of "
                f"{type(batch).__name__}"
            )
        inputs, targets = _move(batch[0], self.device), _move(batch[1], self.device)
        return inputs, targets

    def _step_schedulers(self) -> None:
        for scheduler in self.schedulers:
            scheduler.step()

    def _check_finite(self, first_bad: Tensor) -> None:
        step = first_bad.item()
        if step != torch.inf:
            raise FloatingPointError(
                f"the loss is not finite at epoch {self.epoch + 1}, step {int(step)}: "
                "try a smaller learning rate, clip_grad_norm=1.0, bfloat16 in place of float16, or "
                "look for NaN in the inputs of that batch"
            )


def _move(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    if isinstance(value, Mapping):
        return {key: _move(item, device) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [_move(item, device) for item in value]
    return value


def _unwrap(model: nn.Module) -> nn.Module:
    """Return the module inside torch.compile and DistributedDataParallel."""
    model = getattr(model, "_orig_mod", model)
    if isinstance(model, (nn.parallel.DistributedDataParallel, nn.DataParallel)):
        return _unwrap(model.module)
    return model


def _rank() -> int:
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def _global_means(sums: Mapping[str, Tensor], samples: int) -> dict[str, float]:
    """Means over all samples of all processes; the one copy to the host."""
    device = next(iter(sums.values())).device
    packed = torch.stack([*sums.values(), torch.tensor(float(samples), device=device)]).double()
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(packed)
    *totals, count = packed.tolist()
    return {key: total / count for key, total in zip(sums, totals, strict=True)}


def _check_models(models: Sequence[nn.Module]) -> tuple[nn.Module, nn.Module]:
    pair = tuple(models)
    if len(pair) != 2 or not all(isinstance(model, nn.Module) for model in pair):
        kinds = ", ".join(type(model).__name__ for model in pair)
        raise TypeError(f"models must be a pair of nn.Module, got ({kinds})")
    if pair[0] is pair[1]:
        raise ValueError("models must be two different networks, got the same one twice")
    devices = {p.device for model in pair for p in model.parameters()}
    if len(devices) != 1:
        found = ", ".join(sorted(map(str, devices))) or "no parameters"
        raise ValueError(f"models must be on one device, got {found}")
    return pair


def _check_optimizers(models: Sequence[nn.Module], optimizers: Sequence[Optimizer]) -> None:
    if not optimizers or not all(isinstance(optimizer, Optimizer) for optimizer in optimizers):
        kinds = ", ".join(type(optimizer).__name__ for optimizer in optimizers)
        raise TypeError(f"optimizer must be an Optimizer or a sequence of them, got ({kinds})")
    names = {
        id(p): f"models[{i}].{name}"
        for i, model in enumerate(models)
        for name, p in model.named_parameters()
    }
    owned = [
        id(p)
        for optimizer in optimizers
        for group in optimizer.param_groups
        for p in group["params"]
    ]
    held = set(owned)
    missing = [
        names[id(p)]
        for model in models
        for p in model.parameters()
        if p.requires_grad and id(p) not in held
    ]
    if missing:
        raise ValueError(
            f"optimizer misses {len(missing)} trainable parameters, such as {missing[0]}; give it "
            "the parameters of both models"
        )
    foreign = len([key for key in owned if key not in names])
    if foreign:
        raise ValueError(f"optimizer holds {foreign} parameters that belong to neither model")
    if len(held) != len(owned):
        raise ValueError("optimizers must not share parameters")


def _check_order(loader: Iterable[Any]) -> None:
    if not isinstance(loader, DataLoader):
        return
    sampler: Any = loader.sampler
    if isinstance(sampler, RandomSampler):
        raise ValueError("loader shuffles, so its order means nothing; use shuffle=False")
    if loader.drop_last and loader.batch_size and len(sampler) % loader.batch_size:
        raise ValueError("loader drops its last samples; use drop_last=False")
