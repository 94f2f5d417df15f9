"""How the logits of a pair of networks become sample weights, epoch by epoch."""

from __future__ import annotations

import math
import warnings
from typing import Any

import torch
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

from ._base import SimilarityMixture
from ._checks import check_number
from ._module import StateModule
from ._validation import check_stacked
from .accumulator import DecoyAccumulator, HistogramAccumulator
from .balance import ClassBalance, given_up
from .decoy import DecoyMixture, contradiction_rate, held_to_rate, of_surest
from .distributed import add_up
from .histogram import SimilarityHistogram
from .posterior import AnyMixture, Posterior, TablePosterior
from .similarity import Signal, check_signal, log_signal

__all__ = ["SampleWeigher"]


DISPUTED, MOSTLY_DISPUTED = 0.3, 0.5  # of the surest predictions, where networks know too little
MAJORITY = 0.5
BELIEVED = 2  # times the noise rate seen: as much of a rate found before is held
FIRST_SURPLUS = 0.05  # of the rate seen after the first epoch, when a network still errs most
FIRST_DOUBT = 0.4  # of its share of errors then: no label is less likely right


def _fit_again(weigher: SampleWeigher, incompatible: Any) -> None:
    if not incompatible.missing_keys:  # else torch is about to name them
        weigher._fit(again=True)


class SampleWeigher(StateModule):
    """Weighs the samples of each batch by the mixture fitted to the epoch before (Eq. 2 to 5).

    Call it in the training step and `refit` it after every epoch. Until the first `refit` every
    weight is 1, which is the warm-up. A step touches device tensors only; the host waits once, in
    `refit`. Under ``torch.distributed`` `refit` adds the histograms of all processes first, so that
    every process holds the same mixtures.

    Parameters
    ----------
    mixture : estimator, default=DecoyMixture()
        `DecoyMixture`, `BetaMixture` or any object with `fit` and `predict_proba`, such as
        ``sklearn.mixture.GaussianMixture(2)``: see :class:`resup.posterior.AnyMixture`. Cloned and
        fitted for each network. For a `DecoyMixture` the step gathers decoys and how often the
        surest predictions contradict their labels. Wrong labels are no fewer once they are
        memorised, so two noise rates are remembered. The one seen: the highest that two epochs in a
        row have shown, or that the decoys account for where this is more. The one found: the
        highest of three fits in a row; the next fit finds no less, up to twice the one seen.
        Both count from the epoch on in which the networks differ on at most 0.3 of their surest
        predictions, and the weights stay 1 while these are more than one half and become fewer:
        networks that contradict each other know too little to contradict labels.
        In a network's first fit no label is taken to be less likely right than 0.4 of the share of
        right labels that it contradicts. In training, the mean posterior of a wrong label is at
        most one half until three fits in a row have found more, since networks that know little
        yet must not choose what to learn from. To hold a rate, all odds are shifted alike. While a
        network finds that most labels are wrong, or hardly ever predicts a class that is common
        among them, its weights are scaled so that the labels of each class weigh the same on
        average (:class:`resup.balance.ClassBalance`); a CUDA graph has to be captured anew when a
        `refit` has changed `balanced`.
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
        Whether a network finds most labels wrong or gives up a class, so that classes are kept
        their share.

    Warns
    -----
    UserWarning
        If the data of an epoch do not support a mixture, so that a network weighs every sample 1.

    Raises
    ------
    TypeError
        If `mixture` is no estimator with `fit` and `predict_proba`.
    ValueError
        If `signal` is unknown or, in a step, gives another shape than (N,); or, in `refit`, if it
        was NaN for all samples of one network only, or the mixture gives probabilities that are not
        finite.

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
    rates: Tensor
    found: Tensor
    disputed: Tensor
    given_up: Tensor
    waiting: Tensor

    def __init__(
        self,
        mixture: Any = None,
        networks: int = 2,
        negligible_noise: float = 0.02,
        signal: Signal = "similarity",
    ) -> None:
        super().__init__()
        check_signal(signal)
        check_number("networks", networks, 1, whole=True)
        check_number("negligible_noise", negligible_noise, 0)
        self.signal = signal
        self.negligible_noise = negligible_noise
        self.mixture = DecoyMixture() if mixture is None else mixture
        self.closed_form = isinstance(self.mixture, SimilarityMixture) and (
            self.mixture.n_components <= 2
        )
        if not self.closed_form:
            AnyMixture(self.mixture)  # raises now rather than after an epoch
        kind = Posterior if self.closed_form else TablePosterior
        self.posterior, self.weight = kind(networks), kind(networks)
        self.seen = HistogramAccumulator(networks)
        self.register_buffer("fitted_counts", torch.zeros_like(self.seen.counts))
        takes_decoys = isinstance(self.mixture, DecoyMixture)
        self.decoys = DecoyAccumulator(networks, signal) if takes_decoys else None
        if self.decoys is not None:
            self.register_buffer("fitted_decoys", torch.zeros_like(self.fitted_counts))
            # of each network: hit rate, rate seen last, rate remembered, rate of the decoys, share
            # of labels contradicted
            self.register_buffer("rates", torch.full((networks, 5), torch.nan, dtype=torch.float64))
            # lowest share so far of their surest predictions on which the networks differ
            self.register_buffer("disputed", torch.tensor(torch.inf))
            self.register_buffer("waiting", torch.tensor(True))  # meanwhile every weight is 1
            # noise rates of each network: the last two found, the highest found three times
            self.register_buffer("found", torch.zeros(networks, 3, dtype=torch.float64))
            self.register_buffer("given_up", torch.zeros(networks, dtype=torch.bool))
            self.balance = ClassBalance(networks)
        self.balanced = False  # known to the host, so that a step may leave the balance out
        self.mixtures_: list[Any] = []
        self.noise_rates_: list[float] = []
        self.register_load_state_dict_post_hook(_fit_again)  # type: ignore[no-untyped-call]

    @torch.no_grad()
    def forward(self, logits: Tensor, targets: Tensor, record: bool = True) -> Tensor:
        """Weights of a batch to train on; remembers its similarities for the next `refit`.

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
            In [0, 1]: the probability that the label is right as each network sees it, or 1 where
            its noise rate is negligible.
        """
        check_stacked(logits, targets, len(self.fitted_counts))
        targets = targets.long()
        if self.decoys is None or not record:
            log_s, log_1ms = log_signal(self.signal, logits, targets)
            if record:
                self.seen.update(log_s, log_1ms)
        else:  # the samples and their decoys at once
            labels = torch.stack([targets, self.decoys.next_labels(targets, logits.shape[-1])])
            both = log_signal(self.signal, logits, labels)
            (index, decoy_index), (known, decoy_known) = self.seen.bins(*both)
            self.seen.add(index, known)
            self.decoys.add(logits, targets, decoy_index, decoy_known)
            log_s, log_1ms = both[0][0], both[1][0]
        weights: Tensor = self.weight(log_s, log_1ms).nan_to_num(1.0)
        if self.balanced:
            weights = self.balance(weights, targets, logits.shape[-1], record)
        return weights

    @torch.no_grad()
    def judge(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Probability that each label is right, (networks, N), as each network sees it."""
        check_stacked(logits, targets, len(self.fitted_counts))
        probability: Tensor = self.posterior(*log_signal(self.signal, logits, targets.long()))
        return probability.nan_to_num(1.0)

    def refit(self) -> None:
        """Fit a mixture to what each network has shown since the last call, then forget that.

        Where nothing was shown, the last mixtures stay.
        """
        add_up(self.seen.counts)
        if not self.seen.counts.any():
            self.reset()
            return
        self.fitted_counts.copy_(self.seen.counts)
        if self.decoys is not None:
            for counts in self.decoys.counts():
                add_up(counts)
            self.fitted_decoys.copy_(self.decoys.histograms.counts)
            predictions = self.decoys.contradictions.sum((2, 3))
            self.given_up.copy_(given_up(predictions, self.decoys.labels))
            if not self._know_enough():  # what they showed until now is no evidence
                self.rates.fill_(torch.nan)
            self._remember_disputes(self.decoys.disputes)
            self._remember_rates(self.decoys.contradictions)
        self.reset()
        self._fit()

    def reset(self) -> None:
        """Forget what was shown since the last `refit`."""
        self.seen.reset()
        if self.decoys is not None:
            self.decoys.reset()
            self.balance.reset()

    def _know_enough(self) -> bool:
        return self.disputed.item() <= DISPUTED

    def _remember_disputes(self, disputes: Tensor) -> None:
        if not disputes.any():
            return
        now = float(of_surest(disputes.cpu().numpy()).max())
        self.waiting &= MOSTLY_DISPUTED < now < self.disputed.item()
        self.disputed.clamp_(max=now)

    def _remember_rates(self, contradictions: Tensor) -> None:
        for network, counts in enumerate(contradictions.cpu().numpy()):
            if not counts.any():  # an epoch that showed nothing says nothing
                continue
            _, last, held, of_decoys, _ = self.rates[network].tolist()
            rate = contradiction_rate(counts)
            if not math.isnan(last):
                held = max(min(rate, last), 0.0 if math.isnan(held) else held)
                if of_decoys >= last:
                    held = max(held, of_decoys)
            contradicted = counts[..., 1].sum() / counts.sum()
            now = [1 / (len(counts) - 1), rate, held, of_decoys, contradicted]
            self.rates[network] = self.rates.new_tensor(now)

    def _fit(self, again: bool = False) -> None:
        self.mixtures_, self.noise_rates_, self.balanced = [], [], False
        histograms = [SimilarityHistogram(counts) for counts in self.fitted_counts]
        if not any(histogram.total for histogram in histograms):
            return
        for network, histogram in enumerate(histograms):
            counts = histogram.counts
            if not histogram.total:
                raise ValueError(f"the signal of network {network} is NaN for every sample")
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)
                mixture = self._fitted(network, histogram)
            clean = mixture.predict_proba(histogram.centres)[:, -1]
            self.mixtures_.append(mixture)
            rate = 1 - float(counts @ clean) / histogram.total
            # the very number that was held, so that a fit after loading holds the same
            self.noise_rates_.append(rate if self.decoys is None else mixture.noise_rate_)
            self.posterior.load(mixture, network)
            if mixture.degenerate_ and (self.decoys is None or clean.min() == 1):
                self.weight.reset(network)
                warnings.warn(
                    f"the mixture of network {network} is degenerate; it weighs every sample 1 "
                    "until the next fit",
                    stacklevel=3,
                )
            else:
                self._load_weights(network, mixture, histogram, again)

    def _remember_found(self, network: int, rate: float) -> None:
        before, last, held = self.found[network].tolist()
        held = max(held, min(before, last, rate))
        self.found[network] = self.found.new_tensor([last, rate, held])

    def _load_weights(
        self, network: int, mixture: Any, histogram: SimilarityHistogram, again: bool
    ) -> None:
        rate, most, waiting = self.noise_rates_[-1], 1.0, False
        if self.decoys is not None:
            if not again and self._know_enough():
                self._remember_found(network, rate)
            most = max(MAJORITY, self.found[network, 2].item())
            waiting = bool(self.waiting)
            unfair = max(rate, most) > MAJORITY or bool(self.given_up[network])
            self.balance.on[network] = unfair and not waiting
            self.balanced |= unfair and not waiting
        if waiting or rate < self.negligible_noise:
            self.weight.reset(network)
        elif rate > most:
            odds = held_to_rate(mixture.log_odds_, histogram.centres, histogram.counts, most)
            self.weight.load(odds, network)
        else:
            self.weight.load(mixture, network)

    def _fitted(self, network: int, histogram: SimilarityHistogram) -> Any:
        if not self.closed_form:
            return AnyMixture(self.mixture).fit(histogram)
        mixture = clone(self.mixture)
        if self.decoys is None:
            return mixture.fit(histogram)
        hits, last, held, _, contradicted = self.rates[network].tolist()
        first = math.isnan(held)
        seen = max(last - FIRST_SURPLUS, 0.0) if first else held
        errors = max(contradicted - seen, 0.0) / (1 - seen) if first else 0.0
        decoys = SimilarityHistogram(self.fitted_decoys[network])
        mixture.fit(
            histogram,
            decoys,
            hit_rate=hits,
            seen_rate=seen,
            least_rate=min(self.found[network, 2].item(), BELIEVED * seen),
            least_probability=FIRST_DOUBT * errors,
        )
        self.rates[network, 3] = mixture.decoy_rate_
        return mixture
