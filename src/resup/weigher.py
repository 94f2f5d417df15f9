"""How the logits of a pair of networks become sample weights, epoch by epoch."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from sklearn.base import clone
from torch import Tensor

from ._base import SimilarityMixture
from ._checks import check_number
from ._module import StateModule
from ._validation import check_stacked
from ._warnings import silent, warn
from .accumulator import DecoyAccumulator, HistogramAccumulator
from .alignment import ClassAlignment
from .balance import ClassBalance
from .decoy import DecoyMixture
from .distributed import add_up
from .histogram import SimilarityHistogram
from .memory import MAJORITY, NoiseMemory, are_few
from .posterior import AnyMixture, Posterior, TablePosterior
from .similarity import Signal, check_signal, log_signal

__all__ = ["SampleWeigher"]

LEARNT_NOTHING, MISSED = 2, 3  # epochs in a row, after which a network's doubts are told
UNSEEN = 0.3  # of the noise rate, added in training where the decoys account for none of it
MOST = 1.5  # under `balanced` a batch may lose this many times the noise rate of its weight


def _fit_again(weigher: SampleWeigher, _: Any) -> None:
    if weigher._whole:  # else torch is about to name what is missing
        weigher._fit(again=True)


class SampleWeigher(StateModule):
    """Weighs the samples of each batch by the mixture fitted to the epoch before (Eq. 2 to 5).

    Call it in the training step and `refit` it after every epoch. Until the first `refit` every
    weight is 1, which is the warm-up. A step touches device tensors only; the host waits only in
    `refit`. Under ``torch.distributed`` `refit` adds the histograms of all processes first, so that
    every process holds the same mixtures.

    Parameters
    ----------
    mixture : estimator, default=DecoyMixture()
        `DecoyMixture`, for which more is done (see Notes), `BetaMixture` or any object with `fit`
        and `predict_proba`, such as ``sklearn.mixture.GaussianMixture(2)``: see
        :class:`resup.posterior.AnyMixture`. Cloned and fitted for each network.
    networks : int, default=2
        How many networks are weighed.
    negligible_noise : float, default=0.02
        While a network finds a lower noise rate than this, the weights it gives in training stay
        1: what it takes for wrong then are hard samples, which training needs. `judge` is not
        affected.
    signal : {"similarity", "loss"} or callable, default="similarity"
        What is fitted, higher for labels more likely right: the label similarity S (Eq. 2), the
        cross-entropy scaled to [0, 1] (:func:`resup.similarity.scaled_loss_signal`), or a function
        of one network's logits (N, C) and of targets (N,) that returns a Tensor (N,). Its values
        are clamped to [0, 1]; a sample with NaN is left out of the fit and keeps the weight 1.
    sharpness : float, default=4.0
        Training multiplies the log-odds of a `DecoyMixture` by 1 + (sharpness - 1) * `agreement_`:
        a wrong label of weight 0.2 still teaches, and pulls harder than a right one, so weights go
        to 0 and 1 as far as the decoys account for the noise, where the posterior is most exact.
        Where they do not, wrong labels look plausible, and there are more of them than the surest
        predictions show: the odds are then shifted to a noise rate up to 1.3 times as high, but not
        above one half, unless it is known. Not after a network's first fit, nor while its rates are
        forgotten or it gives up a class. With 1 every weight is the posterior (Eq. 5) at the
        aligned prediction. `judge` is not affected.
    n_classes : int, optional
        How many classes the logits have, for those who need to know the shapes of all buffers
        before the first batch, which otherwise tells: ``torch.optim.swa_utils.AveragedModel`` and
        ``torch.distributed.checkpoint``. Logits of another number are then refused.

    Attributes
    ----------
    mixtures_ : list of BetaMixture, DecoyMixture or AnyMixture
        The last fitted mixtures, one per network; empty before the first `refit`. They are rebuilt
        from the state dict.
    noise_rates_ : list of float
        Mean posterior of a wrong label, one per network.
    fitted_counts : Tensor of shape (networks, 2432), float64
        The histograms that `mixtures_` were fitted to, for
        ``SimilarityHistogram(weigher.fitted_counts[0])``.
    balanced : bool
        Whether a network finds most labels wrong, gives up a class or does not know a rare one, so
        that classes are kept their share. If you capture the step in a CUDA graph, do so after a
        first step, and again whenever a `refit` changes this.

    Warns
    -----
    UserWarning
        If similarities are all alike or an estimator calls itself degenerate, so that a network
        weighs every sample 1; if for two epochs in a row a network tells given labels from others
        hardly better than chance, which may be so too; if for three epochs in a row of 100 samples
        a class the similarities show much more noise than a `DecoyMixture` finds: samples are hard,
        or wrong labels look right, as those of one class with most labels wrong, or of samples of
        no class; in `judge`, if nothing has been fitted yet.

    Raises
    ------
    TypeError
        If `mixture` is no estimator with `fit` and `predict_proba`; in a step, if logits or targets
        are not tensors of the right kind, or `signal` returns no Tensor.
    ValueError
        If `signal` is unknown or a number is out of range; in a step, if a shape or a target is
        wrong, that of `signal` too; in `refit`, if the signal was NaN for all samples of one
        network only, or the mixture gives probabilities that are not finite.

    Notes
    -----
    For a `DecoyMixture`:

    - a step gathers decoys and how often the surest predictions contradict their labels
      (:class:`resup.accumulator.DecoyAccumulator`);
    - noise rates are remembered from epoch to epoch (:class:`resup.memory.NoiseMemory`); a rate is
      held by adding one constant to all log-odds;
    - weights are those of aligned predictions (:class:`resup.alignment.ClassAlignment`), but for a
      `signal` of one's own and where most labels are found wrong, and are sharpened (`sharpness`);
    - weights leave classes their share (:class:`resup.balance.ClassBalance`): the labels of each
      class weigh the same on average while a network finds most labels wrong, or has hardly ever
      predicted a common class for two epochs; and the labels of a rare class keep weight while a
      network does not know it.

    Examples
    --------
    >>> import torch
    >>> from resup import SampleWeigher
    >>> _ = torch.manual_seed(0)
    >>> weigher = SampleWeigher(networks=1)
    >>> logits, targets = 4 * torch.randn(1, 500, 10), torch.randint(10, (500,))
    >>> weigher(logits, targets).mean()  # before the first refit
    tensor(1.)
    >>> weigher.refit()
    >>> bool(weigher(logits, targets).mean() < 0.9)
    True
    """

    fitted_counts: Tensor
    fitted_decoys: Tensor

    def __init__(
        self,
        mixture: Any = None,
        networks: int = 2,
        *,
        negligible_noise: float = 0.02,
        signal: Signal = "similarity",
        sharpness: float = 4.0,
        n_classes: int | None = None,
    ) -> None:
        super().__init__()
        check_signal(signal)
        check_number("networks", networks, 1, whole=True)
        check_number("negligible_noise", negligible_noise, 0)
        check_number("sharpness", sharpness, 1)
        self.signal = signal
        self.negligible_noise = negligible_noise
        self.sharpness = sharpness
        self.mixture = DecoyMixture() if mixture is None else mixture
        kind: type[Posterior | TablePosterior] = TablePosterior
        if isinstance(self.mixture, SimilarityMixture):  # raises now rather than after an epoch
            self.mixture._check_parameters()
            if self.mixture.n_components <= 2:
                kind = Posterior
        else:
            AnyMixture(self.mixture)
        self.posterior, self.weight = kind(networks), kind(networks)
        self.seen = HistogramAccumulator(networks)
        self.register_buffer("fitted_counts", torch.zeros_like(self.seen.counts))
        takes_decoys = isinstance(self.mixture, DecoyMixture)
        self.decoys = DecoyAccumulator(networks, signal) if takes_decoys else None
        if self.decoys is not None:
            self.register_buffer("fitted_decoys", torch.zeros_like(self.fitted_counts))
            self.alignment = ClassAlignment(networks)
            self.memory = NoiseMemory(networks)
            self.balance = ClassBalance(networks)
        self.n_classes = n_classes
        if n_classes is not None:
            check_number("n_classes", n_classes, 2, whole=True)
            for part in self.children():
                if isinstance(part, StateModule):
                    part._make_room(n_classes)
        self.balanced = False  # known to the host, so that a step may leave the balance out
        self.mixtures_: list[Any] = []
        self._doubts: list[Counter[str]] = [Counter() for _ in range(networks)]  # epochs in a row
        self.noise_rates_: list[float] = []
        self.register_load_state_dict_post_hook(_fit_again)  # type: ignore[no-untyped-call]

    @torch.no_grad()
    def forward(self, logits: Tensor, targets: Tensor, record: bool = True) -> Tensor:
        """Weights of a batch to train on; remembers its similarities for the next `refit`.

        Eval mode changes nothing: to leave a batch out, use ``record=False`` or `judge`.

        Parameters
        ----------
        logits : Tensor of shape (networks, N, C)
            Class scores of each network.
        targets : Tensor of shape (N,)
            Given labels.
        record : bool, default=True
            Whether the batch counts towards the next `refit`.

        Returns
        -------
        Tensor of shape (networks, N), float32, or float64 for float64 logits
            In [0, 1]: the sharpened probability that the label is right as each network sees it, or
            1 where its noise rate is negligible or the networks still learn to agree.
        """
        self._check(logits, targets)
        targets = targets.long()
        if self.decoys is not None and record:
            logs = self._record(logits, targets, self.decoys)
        else:
            logs = log_signal(self.signal, self._aligned(logits), targets)
            if record:
                self.seen.update(*logs)
        weights: Tensor = self.weight(*logs).nan_to_num(1.0)
        if self.balanced:
            weights = self.balance(weights, targets, logits.shape[-1], record)
        return weights

    @torch.no_grad()
    def judge(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Probability that each label is right, by the last fit; nothing is counted.

        Parameters
        ----------
        logits : Tensor of shape (networks, N, C)
            Class scores of each network, best in eval mode.
        targets : Tensor of shape (N,)
            Given labels.

        Returns
        -------
        Tensor of shape (networks, N), float32, or float64 for float64 logits
            In [0, 1]; 1 before the first `refit`, with a warning, and for logits that hold NaN.
        """
        self._check(logits, targets)
        if not self.mixtures_:
            warn("nothing has been fitted yet, every probability is 1: call refit() after an epoch")
        probability: Tensor = self.posterior(*log_signal(self.signal, logits, targets.long()))
        return probability.nan_to_num(1.0)

    def _check(self, logits: Tensor, targets: Tensor) -> None:
        check_stacked(logits, targets, len(self.fitted_counts))
        if self.n_classes not in (None, logits.shape[2]):
            raise ValueError(f"logits must have {self.n_classes} classes, got {logits.shape[2]}")

    def refit(self) -> None:
        """Fit a mixture to what each network has shown since the last call, then forget that.

        Where nothing was shown, the last mixtures stay.
        """
        add_up(self.seen.counts)
        shown = self.seen.counts.any(1).tolist()
        if not all(shown):
            self.reset()
            if any(shown):
                name = self._name(shown.index(False))
                raise ValueError(f"the signal of network {name} is NaN for every sample")
            return
        self.fitted_counts.copy_(self.seen.counts)
        if self.decoys is not None:
            self.decoys.match_classes()
            for counts in self.decoys.counts():
                add_up(counts)
            self.fitted_decoys.copy_(self.decoys.histograms.counts)
            self.memory.look(self.decoys)
            self.decoys.draw_from(self.decoys.labels > 0)
        try:
            self._fit()
        finally:
            self.reset()

    def reset(self) -> None:
        """Forget what was shown since the last `refit`."""
        self.seen.reset()
        if self.decoys is not None:
            self.decoys.reset()
            self.balance.reset()

    def _aligned(self, logits: Tensor) -> Tensor:
        """Logits whose signal training weighs by."""
        if self.decoys is None or callable(self.signal):
            return logits
        aligned: Tensor = self.alignment(logits)
        return aligned

    def _record(
        self, logits: Tensor, targets: Tensor, decoys: DecoyAccumulator
    ) -> tuple[Tensor, Tensor]:
        """Count a batch towards the next `refit`; returns the logarithms to weigh by."""
        # all at once: the fewer kernels the better
        scores = [logits, logits]
        labels = [targets, decoys.next_labels(targets, logits.shape[-1])]
        if (aligned := self._aligned(logits)) is not logits:
            scores, labels = [aligned, *scores], [targets, *labels]
        log_v, log_1mv = log_signal(self.signal, torch.stack(scores), torch.stack(labels))
        (index, decoy_index), (known, decoy_known) = self.seen.bins(log_v[-2:], log_1mv[-2:])
        self.seen.add(index, known)
        decoys.add(logits, targets, decoy_index, decoy_known)
        return log_v[0], log_1mv[0]

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        self._whole = all(f"{prefix}{key}" in state_dict for key in self.state_dict())
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _fit(self, again: bool = False) -> None:
        histograms = [SimilarityHistogram(counts) for counts in self.fitted_counts]
        mixtures: list[Any] = []
        if any(histogram.total for histogram in histograms):
            with silent():
                mixtures = [self._fitted(*each) for each in enumerate(histograms)]
        # an estimator of one's own may have raised; from here on nothing does
        self.mixtures_, self.noise_rates_, self.balanced = mixtures, [], False
        degenerate: list[int] = []
        for network, mixture in enumerate(mixtures):
            self.noise_rates_.append(mixture.noise_rate_)
            self.posterior.load(mixture, network)
            if mixture.degenerate_ and not getattr(mixture, "_untold", False):
                degenerate.append(network)
            if mixture.degenerate_:
                self.weight.reset(network)
                continue
            if self.decoys is not None and not again:
                self._learn(network, mixture, self.decoys)
            self._load_weights(network, mixture, histograms[network])
        for network in degenerate:
            warn(
                f"the mixture of network {self._name(network)} is degenerate; it weighs every "
                "sample 1 until the next fit"
            )
        if self.decoys is not None and not again:
            self._tell(mixtures)

    def _tell(self, mixtures: list[DecoyMixture]) -> None:
        """Warn, once, of networks that have been in doubt for some epochs."""
        few = self.decoys is None or bool(are_few(self.decoys.labels))
        for network, mixture in enumerate(mixtures):
            name, doubts = self._name(network), self._doubts[network]
            doubts["untold"] = doubts["untold"] + 1 if mixture._untold else 0
            doubts["missed"] = doubts["missed"] + 1 if mixture._missed and not few else 0
            if doubts["untold"] == LEARNT_NOTHING:
                ones = "; it weighs every sample 1" if mixture.degenerate_ else ""
                warn(
                    f"network {name} tells given labels from others hardly better than chance: it "
                    f"has learnt nothing yet, or the labels are random{ones}"
                )
            if doubts["missed"] == MISSED:
                warn(f"the mixture of network {name} {mixture._missed}")

    def _name(self, network: int) -> str:
        return "AB"[network] if len(self.fitted_counts) == 2 else str(network)

    def _learn(self, network: int, mixture: DecoyMixture, epoch: DecoyAccumulator) -> None:
        """Keep what the fit and the classes of its epoch tell the epochs to come."""
        right = epoch.right_labels(mixture.decoy_rate_)
        self.memory.find(network, mixture.noise_rate_)
        self.alignment.learn(network, epoch.probabilities[network], right)
        self.balance.learn(network, epoch.predictions()[network], epoch.labels, right)

    def _load_weights(self, network: int, mixture: Any, histogram: SimilarityHistogram) -> None:
        """Set what training weighs with: odds that are held and sharpened, or 1 for all."""
        odds, rate, waiting = mixture, mixture.noise_rate_, False
        if self.decoys is not None:
            waiting = bool(self.memory.waiting)
            given_up = bool(self.memory.gives_up()[network])
            most = max(self.memory.most(network), self.mixture.noise_rate or 0.0)
            majority = max(rate, most) > MAJORITY
            self._set_balance(network, rate, majority, (given_up or majority) and not waiting)
            odds, over = mixture.log_odds_, (histogram.centres, histogram.counts)
            if rate > most:
                odds = odds.held_to(most, *over)
            if self.sharpness > 1 and not (given_up or self.memory.is_new(network)):
                odds = odds.scaled(1 + (self.sharpness - 1) * mixture.agreement_)
                if not majority and self.mixture.noise_rate is None:
                    more = min(MAJORITY, (1 + UNSEEN * (1 - mixture.agreement_)) * rate)
                    more = max(rate, more - self.balance.lifted[network].item())
                    odds = odds.held_to(more, *over)
        if waiting or rate < self.negligible_noise:
            self.weight.reset(network)
        else:
            self.weight.load(odds, network)

    def _set_balance(self, network: int, rate: float, majority: bool, unfair: bool) -> None:
        self.balance.on[network] = unfair
        self.balance.least_mean[network] = 1 - MOST * rate
        if majority:  # equal weights of all classes do it then
            self.alignment.log_shares[network] = 0
            self.balance.least[network] = 0
        self.balanced |= unfair or bool(self.balance.least[network].any())

    def _fitted(self, network: int, histogram: SimilarityHistogram) -> Any:
        if not isinstance(self.mixture, SimilarityMixture):
            return AnyMixture(self.mixture).fit(histogram)
        mixture = clone(self.mixture)
        if self.decoys is None:
            return mixture.fit(histogram)
        decoys = SimilarityHistogram(self.fitted_decoys[network])
        mixture.fit(histogram, decoys, **self.memory.hints(network))
        self.memory.of_decoys[network] = mixture.decoy_rate_
        return mixture
