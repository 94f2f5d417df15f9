"""CoTrainer: two networks trained through wrong labels."""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from tqdm.auto import tqdm
from typing_extensions import Self

from . import loaders, stepping
from ._checks import check_choice, check_methods, check_number, is_number
from ._validation import (
    check_gradients,
    check_optimizers,
    check_pair,
    check_scalar,
    check_schedulers,
    warn_of_probabilities,
)
from ._warnings import warn
from .callbacks import Callback
from .checkpoint import as_path, check_path, on_sigterm, random_states, set_random_states
from .distributed import (
    check_alike,
    explain_loss,
    is_distributed,
    is_flat,
    share_buffers,
    unwrap,
    warn_if_apart,
)
from .losses import ConsistencyLoss, CrossWeightedLoss
from .progress import EpochProgress
from .saved import SavedPair
from .similarity import Signal, full_precision
from .weigher import SampleWeigher

__all__ = ["CoTrainer"]


class CoTrainer(SavedPair):
    r"""Train a pair of networks that weigh each other's samples (Eq. 6).

    .. math:: L = L_{\mathrm{cross\text{-}weighted}} + \lambda \, L_{\mathrm{consistency}}

    After `warmup_epochs` of plain cross-entropy, each network's similarities of the last epoch are
    fitted with a mixture, whose posterior (by default sharpened and more, see `SampleWeigher`)
    weighs the samples for the *other* network.

    The models, optimizer and scheduler stay the caller's: they may be compiled, wrapped in
    DistributedDataParallel, or in any memory format, and are called, never copied or moved. Parts
    that are in eval mode, such as a frozen backbone, stay in it, even if the whole model was put in
    eval mode between two epochs; `fit` warns of those with trainable parameters, but for batch
    norm. A model in eval mode as a whole is put back in train mode, unless all its parameters are
    frozen.

    Parameters
    ----------
    models : pair of nn.Module
        Network A and network B, on one device, initialised differently: equal ones would stay
        equal. Best of one kind: a weaker network holds the other one back. Each maps inputs to
        logits (N, C), not probabilities, or returns an object or mapping with ``logits``. A mapping
        as input is passed as keyword arguments, a tuple or list as positional ones. Both networks
        are given the same input, so they must not change it.
    optimizer : Optimizer or sequence of Optimizer
        Owns exactly the parameters of both models (frozen ones may be left out).
    scheduler : learning-rate scheduler or sequence of them, optional
        Stepped without an argument, once an epoch, or once an optimizer step with
        ``scheduler_interval="step"``.
        ``ReduceLROnPlateau`` always once an epoch: in mode "min" it sees the training loss, in
        mode "max" the mean accuracy of both networks on the `val_loader`.
    consistency_weight : float, default=5.0
        :math:`\lambda`; with 0 the consistency loss is not computed.
    cross_weighted : callable, default=CrossWeightedLoss()
        Maps logits of A and B, targets, and weights given by A and by B to a scalar; another one
        may smooth labels, say.
    consistency : callable, default=ConsistencyLoss()
        Maps the logits of both networks to a scalar.
    warmup_epochs : int or math.inf, default=1
        Epochs of plain cross-entropy, without consistency, before the first mixture; with infinity
        no mixture is ever fitted. Where networks are hardly above chance after one epoch, as with
        a few hundred samples, give more. With 0 only the consistency loss begins an epoch earlier.
    mixture : estimator, optional
        Fitted to the similarities of each network; `DecoyMixture()` by default. `BetaMixture()`
        sees what the paper's does, ``BetaMixture.as_published()`` is the authors' program; any
        estimator with ``fit`` and ``predict_proba`` will do (:class:`resup.posterior.AnyMixture`).
    signal : {"similarity", "loss"} or callable, default="similarity"
        What the mixtures are fitted to, as in :class:`~resup.SampleWeigher`.
    similarities : {"step", "pass"}, default="step"
        Where the similarities for the mixture come from: the training steps of the epoch, at no
        cost, or a pass in eval mode over the training data after it, as the authors' program does.
    exchange : {"swap", "own", "mean"}, default="swap"
        Whether each network is weighed by the other's posterior, its own, or the mean of both.
    weight_threshold : float, optional
        Use weights of 1 where the weight (with a `sharpness` of 1) is above this, else of 0.
        Less than 1.
    refit_every : int, default=1
        Epochs from one fit of the mixtures to the next.
    scheduler_interval : {"epoch", "step"}, default="epoch"
        When the schedulers step.
    autocast : torch.dtype, optional
        Run the models under autocast in bfloat16 or float16. The losses stay in float32.
    scaler : torch.amp.GradScaler, optional
        For float16. Torch's makes the host wait for the device at each step of an optimizer, to see
        whether a gradient was infinite, unless the optimizer is made with ``fused=True``.
    clip_grad_norm : float, optional
        Largest gradient norm of each network.
    accumulate : int, default=1
        Batches to an optimizer step; the loss of each is divided by it, also where the last step of
        an epoch has fewer.
    unpack : callable, optional
        Maps a batch of the loader to ``(inputs, targets)``; by default a batch is such a pair.
    callbacks : sequence of Callback, default=()
        Told of each step and epoch; `resup.callbacks` has loggers. Checkpoints hold the state of
        those that have ``state_dict`` and ``load_state_dict``.
    progress : bool, default=True
        Whether to show a progress bar, with the noise found and the loss; off the CPU that of the
        epoch before, since reading it would make the host wait.

    Attributes
    ----------
    epoch : int
        Epochs done.
    history : list of dict
        One record an epoch, of plain numbers: ``epoch``, ``loss``, ``cross_entropy``,
        ``consistency``, ``weight_a``, ``weight_b`` (mean weight that each network gives, before
        `weight_threshold`), ``noise_rate_a``, ``noise_rate_b`` (of the mixtures in use after the
        epoch), ``lr`` (of the first parameter group, at the start of the epoch), and with a
        `val_loader` ``val_accuracy_a``, ``val_accuracy_b``.
        ``consistency`` is there after `warmup_epochs`, unless its weight is 0, the noise rates once
        there are mixtures.
    should_stop : bool
        Set to True, in every process, it ends `fit` after the epoch; the next `fit` goes on.
    weigher : SampleWeigher
        Holds the fitted mixtures (``weigher.mixtures_``). Where the networks are so small that its
        many small operations show, or the classes so many (thousands) that its passes over the
        logits do, ``trainer.weigher.compile()`` makes a few kernels of them.

    Raises
    ------
    TypeError, ValueError
        If there are not two different models on one device, the optimizers miss or repeat a
        trainable parameter or own a foreign one, a scheduler is of another optimizer or needs an
        argument to step, or a setting is out of range.

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
        cross_weighted: Callable[..., Tensor] | None = None,
        consistency: Callable[[Tensor, Tensor], Tensor] | None = None,
        warmup_epochs: float = 1,
        mixture: Any = None,
        signal: Signal = "similarity",
        similarities: str = "step",
        exchange: str = "swap",
        weight_threshold: float | None = None,
        refit_every: int = 1,
        scheduler_interval: str = "epoch",
        autocast: torch.dtype | None = None,
        scaler: torch.amp.GradScaler | None = None,
        clip_grad_norm: float | None = None,
        accumulate: int = 1,
        unpack: Callable[[Any], tuple[Any, Tensor]] | None = None,
        callbacks: Sequence[Callback] = (),
        progress: bool = True,
    ) -> None:
        super().__init__(models, autocast, unpack)
        self.optimizers = _listed(optimizer)
        check_optimizers(self.models, self.optimizers)
        self.schedulers = [] if scheduler is None else _listed(scheduler)
        check_schedulers(self.schedulers, self.optimizers)
        check_number("consistency_weight", consistency_weight, 0)
        if warmup_epochs != math.inf:
            check_number("warmup_epochs", warmup_epochs, 0, whole=True)
        check_number("accumulate", accumulate, 1, whole=True)
        check_number("refit_every", refit_every, 1, whole=True)
        if weight_threshold is not None:
            check_number("weight_threshold", weight_threshold, 0, 1)
            if weight_threshold == 1:
                raise ValueError("weight_threshold must be less than 1, got 1: no weight is above")
        if clip_grad_norm is not None and not (is_number(clip_grad_norm) and clip_grad_norm > 0):
            raise ValueError(f"clip_grad_norm must be larger than 0, got {clip_grad_norm!r}")
        for name, loss in {"cross_weighted": cross_weighted, "consistency": consistency}.items():
            if loss is not None:
                check_methods(name, loss, "__call__")
        if scaler is not None:
            check_methods("scaler", scaler, "scale", "unscale_", "step", "update")
        self.callbacks = _listed(callbacks)
        hooks = [name for name in vars(Callback) if name.startswith("on_")]
        for callback in self.callbacks:
            hint = "; derive it from resup.callbacks.Callback"
            check_methods("each of callbacks", callback, *hooks, hint=hint)
        if clip_grad_norm is not None and any(map(is_flat, self.models)):
            raise ValueError(
                "clip_grad_norm must be None for FullyShardedDataParallel, of which each process "
                "would clip by the norm of its part: use fully_shard, or clip in optimizer_step"
            )
        check_choice("scheduler_interval", scheduler_interval, ("epoch", "step"))
        check_choice("similarities", similarities, ("step", "pass"))
        check_choice("exchange", exchange, ("swap", "own", "mean"))
        self.consistency_weight = consistency_weight
        self.cross_weighted = CrossWeightedLoss() if cross_weighted is None else cross_weighted
        self.consistency = ConsistencyLoss() if consistency is None else consistency
        self.warmup_epochs = warmup_epochs
        self.similarities = similarities
        self.exchange = exchange
        self.weight_threshold = weight_threshold
        self.refit_every = refit_every
        self.scheduler_interval = scheduler_interval
        self.scaler = scaler
        self.clip_grad_norm = clip_grad_norm
        self.accumulate = accumulate
        self.progress = progress

        self.weigher = SampleWeigher(mixture, signal=signal).to(self.device)
        if weight_threshold is not None:
            self.weigher.sharpness = 1.0  # the threshold is on posteriors
        self.epoch = 0
        self.history = []
        self.should_stop = False
        self._done = EpochProgress().to(self.device)
        self._stop = False
        self._ending = None

    def __repr__(self) -> str:
        names = ", ".join(type(unwrap(model)).__name__ for model in self.models)
        rates = self.weigher.noise_rates_
        noise = f", noise rates {rates[0]:.2f} and {rates[1]:.2f}" if rates else ""
        return f"<{type(self).__name__} of {names}: {self.epoch} epochs done{noise}>"

    # ------------------------------------------------------------------ training

    def fit(
        self,
        train_loader: Iterable[Any],
        epochs: int,
        val_loader: Iterable[Any] | None = None,
        *,
        checkpoint: str | os.PathLike[str] | None = None,
        resume: str | os.PathLike[str] | None = None,
    ) -> Self:
        """Train until `epochs` epochs are done in all.

        Parameters
        ----------
        train_loader : iterable of batches
            ``(inputs, targets)``, or what `unpack` takes. It is iterated once an epoch; before,
            what it holds that has a `set_epoch` is told the epoch, from 0 on: its samplers and data
            sets (but not the copies that persistent workers hold).
        epochs : int
            The total: a second call, or one after `load_state_dict`, goes on to it. Where so many
            are done already, nothing is trained, which warns unless `resume` is given.
        val_loader : iterable of batches, optional
            Its accuracy joins the history, and a ``ReduceLROnPlateau`` of mode "max" sees it; it
            changes nothing else.
        checkpoint : path, optional
            Written after every epoch, whole or not at all, but not over a run that is further. On
            SIGTERM it is written at once, in the middle of the epoch or of the validation and
            callbacks after it, and the process exits. (The pass of ``similarities="pass"`` is
            completed first. The checkpoint of the last epoch is kept instead with several
            processes, or if a worker of the loader has ended before accumulation or that pass got
            the batches it needs.)
        resume : path, optional
            Go on from this checkpoint, exactly: random states too are taken from it, among them
            those of torch's, NumPy's and Python's generators that are attributes of the models and
            their parts, the loader, its samplers, data sets, transforms and ``collate_fn``. It may
            be missing only if it is the `checkpoint` path itself, so that one command both starts
            and restarts a run. Settings that change the objective are this trainer's, which warns
            if others were saved. (Workers of a DataLoader that persist have random states of their
            own, which no checkpoint holds; a data set that shuffles while it is read needs a
            generator that training does not draw from, else an epoch that was interrupted goes on
            with other samples; on a GPU many kernels differ in the last bits each time, unless
            ``torch.use_deterministic_algorithms`` is set, which wants
            ``CUBLAS_WORKSPACE_CONFIG=:4096:8`` in the environment.)

        Returns
        -------
        self

        Raises
        ------
        TypeError
            If a loader gives no batches, such as a data set or tensors, `checkpoint` or `resume` is
            no path, a batch is no pair, targets are not integers, or what a model returns is no
            logits.
        ValueError
            If logits or targets have another shape than (N, C) and (N,), or, on the CPU, a label is
            not in [0, C); if a loader gives no sample, or another number of batches than in the
            other processes or in the epoch that was interrupted; if only some processes are given a
            `val_loader` or `checkpoint`, have other settings or would resume from different epochs;
            if the file to resume from is damaged or does not fit; or if `checkpoint` or `resume` is
            given for networks whose parameters processes share out.
        FileExistsError
            If `checkpoint` holds a run that is further than this one.
        FileNotFoundError
            If there is nothing to resume from.
        FloatingPointError
            If the loss or, at the end of an epoch, a parameter or a running statistic is not
            finite; no checkpoint is written then.
        RuntimeError
            If another process has died or hangs, or gradients are off, as in
            ``torch.inference_mode()``.
        """
        check_gradients(self.models, self.weigher)
        loaders.check_batches("train_loader", train_loader)
        check_number("epochs", epochs, 0, whole=True)
        if val_loader is not None:
            loaders.check_batches("val_loader", val_loader)
        checkpoint, resume = as_path("checkpoint", checkpoint), as_path("resume", resume)
        self._check_whole(checkpoint=checkpoint, resume=resume)
        check_optimizers(self.models, self.optimizers)  # parameters may be unfrozen since
        stepping.check_plateaus(self.schedulers, val_loader)
        randomness, restarts = None, False
        if resume is not None:
            restarts = checkpoint is not None and checkpoint.resolve() == resume.resolve()
            if not restarts or resume.exists():
                randomness = self._resume(resume, train_loader)
        elif 0 < epochs <= self.epoch and self._ending is None:
            warn(
                f"epochs counts all epochs, got {epochs} with {self.epoch} done: nothing is trained"
            )
        if checkpoint is not None and self.is_main_process:
            check_path(checkpoint)
            if not restarts:  # else it is where this run stands
                self._check_ahead(checkpoint)
        self._stop = self.should_stop = False
        with ExitStack() as ends:
            for callback in self.callbacks:
                callback.on_fit_start(self)
                ends.callback(callback.on_fit_end, self)
            if randomness is not None:  # whatever callbacks have drawn
                set_random_states(randomness, self._generators(train_loader))
            ends.callback(setattr, self, "_stop", False)  # callbacks may look at data at the end
            if checkpoint is not None and not is_distributed():
                ends.enter_context(on_sigterm(self._stop_soon))
            try:
                given = {"val_loader": val_loader, "checkpoint": checkpoint}
                length = loaders.length(train_loader)
                check_alike(
                    self.epoch,
                    self._done.steps,
                    min(epochs, 2**53),
                    length,
                    given,
                    self._alike(),
                    self.device,
                )
                if self._ending is not None:
                    self._end_epoch(train_loader, val_loader, checkpoint)
                if self.epoch < epochs:
                    self._train_mode()
                    self._warn_of_resting()
                begun = self.epoch
                while self.epoch < epochs and not (self._stop or self.should_stop):
                    means = self.train_epoch(train_loader)
                    if means is None and self._stop:
                        self._save(checkpoint, train_loader)
                        break
                    if not isinstance(means, Mapping) or "loss" not in means:
                        raise TypeError(
                            f"train_epoch must return a mapping with loss, got {means!r}; an "
                            "override must return what super().train_epoch(loader) does"
                        )
                    if self.epoch == begun:
                        warn_if_apart(self.models, self.device)
                    self.epoch += 1
                    self.history.append({"epoch": self.epoch, **means})
                    self._ending = 0
                    self._end_epoch(train_loader, val_loader, checkpoint)
            except loaders.LOST as error:
                if not (self._stop and loaders.is_lost_worker(error)):  # told to stop too
                    batches = loaders.length(train_loader)
                    explain_loss(error, f"after {self.epoch} epochs", batches)
                    raise
            if self._stop:
                raise SystemExit(128 + signal.SIGTERM)
        return self

    def _end_epoch(
        self,
        train_loader: Iterable[Any],
        val_loader: Iterable[Any] | None,
        checkpoint: str | os.PathLike[str] | None,
    ) -> None:
        """Validate the last epoch, tell schedulers and callbacks, and save; each once."""
        record = self.history[-1]
        try:
            if not self._ending:
                if val_loader is not None:
                    accuracies = self.evaluate(val_loader)
                    record |= {f"val_{key}": value for key, value in accuracies.items()}
                stepping.step_plateaus(self.schedulers, record)
                self._ending = 1
            for callback in self.callbacks[self._ending - 1 :]:
                callback.on_epoch_end(self, record)
                self._ending += 1
            self._ending = None
        finally:  # what fails here costs no epoch, if no process waits in `evaluate`
            if checkpoint is not None and not (self._ending == 0 and is_distributed()):
                self._save(checkpoint, train_loader)

    def train_epoch(self, loader: Iterable[Any]) -> dict[str, float] | None:
        """Run one epoch, or the rest of one, then refit the mixtures; `fit` counts the epochs.

        Returns the means of what `train_step` gives, or None if it was told to stop before the end.
        After an error within a step the next call begins the epoch anew; what steps have changed,
        in the models and in schedulers stepped by the step, stays.
        """
        self._train_mode()
        stepping.zero_grad(self.optimizers)
        done, resumed = self._done, self._done.steps
        try:
            if not self._train_batches(loader):
                return None
            for model in self.models:
                share_buffers(model)
            self._refit(loader)
            means = done.means()
        except BaseException:
            if done.begun > resumed:
                self._done = EpochProgress().to(self.device)
                self.weigher.reset()
            raise
        if self.scheduler_interval == "epoch":
            stepping.step_schedulers(self.schedulers)
        self._done = EpochProgress().to(self.device)
        rates = dict(zip(("noise_rate_a", "noise_rate_b"), self.weigher.noise_rates_, strict=False))
        return {**means, **rates, "lr": done.lr}

    def _train_batches(self, loader: Iterable[Any]) -> bool:
        """Train on the batches of the epoch that are not done; False if told to stop before."""
        generators = self._generators(loader)
        done, resumed, step = self._done, self._done.steps, 0
        pending = False
        now = random_states(generators)
        if resumed:
            set_random_states(done.randomness, generators)
        else:
            done.randomness = now
            done.lr = float(self.optimizers[0].param_groups[0]["lr"])
        batches = loaders.until_stopped(loader, lambda: self._stop and not pending)
        with self._progress_bar(loader) as bar:
            try:
                loaders.set_epoch(loader, self.epoch)
                for _ in islice(batches, resumed):
                    step += 1
                    bar.update()
            finally:
                if resumed:
                    set_random_states(now, self._generators(loader))
            if resumed and done.batches != (length := loaders.length(loader)):
                raise ValueError(
                    f"train_loader must give {done.batches} batches as when this epoch was begun, "
                    f"got {length}; it goes on only with the loader that it was begun with"
                )
            for step, batch in enumerate(batches, resumed + 1):
                bar.update()
                if step == 1:  # some lengths are known only now
                    done.batches = bar.total = loaders.length(loader)
                inputs, targets = self._to_device(batch)
                done.begun = step
                values = self.train_step(inputs, targets)
                done.add(values, len(targets))
                if self.device.type == "cpu":  # elsewhere a look would make the host wait
                    self._check_loss()
                    bar.set_postfix(loss=f"{values['loss'].item():.3f}", refresh=False)
                pending = step % self.accumulate != 0
                if not pending:
                    self.optimizer_step()
                for callback in self.callbacks:
                    callback.on_step_end(self, values)
                if self._stop and not pending:
                    break
        if self._stop and not pending:
            if not done.steps:
                set_random_states(done.randomness, generators)
            self._check_finite()
            return False
        if step < resumed:
            raise ValueError(
                f"train_loader gave {step} batches, but {resumed} of this epoch are done: go on "
                "with the loader that it was begun with"
            )
        if not done.samples:
            again = "; it is iterated anew each epoch" if self.epoch else ""
            raise ValueError(f"train_loader gave no sample{again}")
        if pending:
            self.optimizer_step()
        self._check_finite()
        return True

    def train_step(self, inputs: Any, targets: Tensor) -> dict[str, Tensor]:
        """Forward and backward of one batch; returns detached scalars, ``loss`` among them."""
        with self._autocast():
            outputs = [self.forward(model, inputs) for model in self.models]
        check_pair(*outputs)
        logits_a, logits_b = map(full_precision, outputs)
        stacked = torch.stack([logits_a.detach(), logits_b.detach()])
        # the first batch of all alone: the look makes the host wait
        if not torch.compiler.is_compiling() and self.epoch == 0 and self._done.begun == 1:
            warn_of_probabilities(stacked)
        # the balance counts in any epoch; `_refit` forgets what no fit is to see
        record = self.weigher.balanced or (self.similarities == "step" and self._refit_follows)
        posteriors = self.weigher(stacked, targets, record=record)
        weights_a, weights_b = self.weights(posteriors)
        labels = targets.long()  # a loss of one's own may take no other integers
        cross_entropy = self.cross_weighted(logits_a, logits_b, labels, weights_a, weights_b)
        check_scalar("cross_weighted", cross_entropy)
        values = {"cross_entropy": cross_entropy}
        loss = cross_entropy
        if self.consistency_weight and self.epoch >= self.warmup_epochs:
            values["consistency"] = consistency = self.consistency(logits_a, logits_b)
            check_scalar("consistency", consistency)
            loss = loss + self.consistency_weight * consistency
        self.backward(loss / self.accumulate if self.accumulate > 1 else loss)
        weight_a, weight_b = posteriors.mean(1)
        values |= {"loss": loss, "weight_a": weight_a, "weight_b": weight_b}
        return {key: value.detach() for key, value in values.items()}

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of `loss`, scaled where there is a scaler."""
        (self.scaler.scale(loss) if self.scaler else loss).backward()

    def optimizer_step(self) -> None:
        """Clip the gradients, step the optimizers and, by the step, the schedulers."""
        stepping.step(self.models, self.optimizers, self.scaler, self.clip_grad_norm)
        stepping.zero_grad(self.optimizers)
        if self.scheduler_interval == "step":
            stepping.step_schedulers(self.schedulers)

    def weights(self, posteriors: Tensor) -> tuple[Tensor, Tensor]:
        """Weights that A and B give, of the posteriors (2, N); the loss crosses them over."""
        if self.exchange == "own":
            posteriors = posteriors.flip(0)
        elif self.exchange == "mean":
            posteriors = posteriors.mean(0, keepdim=True).expand_as(posteriors)
        if self.weight_threshold is not None:
            posteriors = (posteriors > self.weight_threshold).to(posteriors.dtype)
        return posteriors[0], posteriors[1]

    # ------------------------------------------------------------------ helpers

    @property
    def _refit_follows(self) -> bool:
        weighed = self.epoch + 1 - max(self.warmup_epochs, 1)
        return weighed >= 0 and weighed % self.refit_every == 0

    def _refit(self, loader: Iterable[Any]) -> None:
        if not self._refit_follows:
            self.weigher.reset()
            return
        if self.similarities == "pass":
            self.weigher.reset()
            with torch.no_grad():
                seen = 0
                for logits, targets in self._predict(loader, rewind=False):
                    self.weigher(logits, targets)
                    seen += len(targets)
            if not seen:
                raise ValueError(
                    "train_loader gave no sample to the pass of similarities='pass', which "
                    "iterates it a second time"
                )
        self.weigher.refit()

    def _check_loss(self) -> None:
        stepping.check_loss(self._done.first_bad, self.epoch + 1)

    def _check_finite(self) -> None:
        self._check_loss()
        stepping.check_finite(self.models, self.epoch + 1)

    def _stop_soon(self) -> None:
        self._stop = True

    def _progress_bar(self, loader: Iterable[Any]) -> Any:
        # The bar is not given the loader: some versions of tqdm start an iteration of their own,
        # which draws from the global random state.
        rates = self.weigher.noise_rates_
        noise = f", noise {sum(rates) / len(rates):.2f}" if rates else ""
        return tqdm(
            total=loaders.length(loader),
            desc=f"epoch {self.epoch + 1}{noise}",
            postfix={"loss": f"{self.history[-1]['loss']:.3f}"} if self.history else None,
            disable=not self.progress or not self.is_main_process,
            leave=False,
        )


def _listed(given: Any) -> list[Any]:
    """Several objects, or one, as a list."""
    return list(given) if isinstance(given, Iterable) and not isinstance(given, str) else [given]
