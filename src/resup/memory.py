"""What the weigher remembers of wrong labels: they become no fewer, but are learnt by heart."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from ._module import StateModule
from .accumulator import DecoyAccumulator
from .balance import given_up
from .contradictions import LEAST, SURE, contradiction_rate, even_rate, of_surest
from .decoy import BELIEVED
from .histogram import Array

__all__ = ["NoiseMemory"]

DISPUTED, MOSTLY_DISPUTED = 0.35, 0.5  # of the surest predictions, where networks know too little
MAJORITY = 0.5
FEW = 100  # samples a class: an epoch of fewer is a short one, which leaves classes unlearnt
STILL = 4  # times what the surest predictions show now is believed at most of other signs
FIRST_SURPLUS = 0.05  # of the rate seen after the first epoch, when a network still errs most
FIRST_DOUBT = 0.4  # of its share of errors then: no label is less likely right


def are_few(labels: Tensor) -> Tensor:
    """Whether an epoch of so many labels by class, (C,), is a short one."""
    return labels.sum() < FEW * (labels > 0).sum()


def first_impression(rate: float, contradicted: float) -> tuple[float, float]:
    """Noise rate to believe, and least probability of a right label, where nothing is remembered.

    Of the noise rate that the surest predictions show and the share of all labels contradicted.
    """
    seen = max(0.0, rate - FIRST_SURPLUS)  # 0 if that is NaN
    errors = max(0.0, contradicted - seen) / (1 - seen)
    return seen, FIRST_DOUBT * errors


class NoiseMemory(StateModule):
    """Noise rates that the epochs of a training run have shown, for each network.

    Wrong labels are no fewer once they are memorised, so two noise rates are remembered. The one
    *seen*: the highest that two epochs in a row have shown, among the surest predictions or as
    noise spread evenly (from 100 samples a class on, once every class has been predicted, and up to
    four times the former), or that the decoys account for if this is more, but at most four times
    what the next epoch still showed. The one *found*: the highest that three fits in a row have
    reached; later fits find no less, up to twice the one seen.

    Networks that know little must not choose what to learn from. In a network's first fit, or while
    its rates are forgotten, no label is taken to be less likely right than 0.4 of the share of
    right labels that it contradicts. In training, the mean posterior of a wrong label is at most
    one half until three fits in a row have found more. And networks that contradict each other know
    too little to contradict labels: a rate is forgotten after its epoch until they differ on at
    most 0.35 of the surest tenth of either's predictions, and every weight stays 1 while they
    differ on more than half of it and on less than ever before. Right labels of a class that a
    network does not predict look like decoys. So if it finds most labels right, and has always
    given up some common class, the rate of the decoys is forgotten after each epoch, and where
    there are fewer than 100 samples a class, from the second epoch on the one seen too. Once every
    class has been predicted, no rate is taken in while the network gives up a class for two epochs
    or more, unless all have been forgotten.

    Parameters
    ----------
    networks : int
        How many networks are kept side by side.

    Attributes
    ----------
    seen : Tensor of shape (networks, 2), float64
        Noise rates that the last two epochs showed; NaN, as `of_decoys` and `contradicted`, before
        the first epoch.
    seen_held : Tensor of shape (networks,), float64
        Highest that is held of those seen before.
    hit_rate : Tensor of shape (), float64
        That of the decoys of the last epoch.
    of_decoys : Tensor of shape (networks,), float64
        Noise rate of the decoys in the last fit.
    contradicted : Tensor of shape (networks,), float64
        Share of the labels of the last epoch that the network contradicts.
    found : Tensor of shape (networks, 2), float64
        Noise rates of the last two fits.
    found_held : Tensor of shape (networks,), float64
        Highest that three fits in a row have found.
    given_up : Tensor of shape (networks, 2), bool
        Whether any class was, in the last two epochs, see :func:`resup.balance.given_up`.
    known : Tensor of shape (networks, C), bool
        Classes that were not given up in some epoch so far; C is 0 before the first.
    disputed : Tensor of shape (), float64
        Lowest share so far of their surest predictions on which the networks differ.
    waiting : Tensor of shape (), bool
        Whether every weight stays 1.

    Notes
    -----
    Beyond the paper.
    """

    _by_class = (("known", 1),)
    seen: Tensor
    seen_held: Tensor
    hit_rate: Tensor
    of_decoys: Tensor
    contradicted: Tensor
    found: Tensor
    found_held: Tensor
    given_up: Tensor
    known: Tensor
    disputed: Tensor
    waiting: Tensor

    def __init__(self, networks: int) -> None:
        super().__init__()
        rates = torch.zeros(networks, dtype=torch.float64)
        self.register_buffer("of_decoys", torch.full_like(rates, torch.nan))
        self.register_buffer("contradicted", torch.full_like(rates, torch.nan))
        self.register_buffer("seen", rates.new_full((networks, 2), torch.nan))
        self.register_buffer("seen_held", rates)
        self.register_buffer("hit_rate", torch.zeros((), dtype=torch.float64))
        self.register_buffer("found", rates.new_zeros(networks, 2))
        self.register_buffer("found_held", rates.clone())
        self.register_buffer("given_up", torch.zeros(networks, 2, dtype=torch.bool))
        self.register_buffer("known", torch.zeros(networks, 0, dtype=torch.bool))
        self.register_buffer("disputed", torch.tensor(torch.inf, dtype=torch.float64))
        self.register_buffer("waiting", torch.tensor(True))

    @property
    def believes(self) -> bool:
        """Whether the networks have agreed enough for what they show to be remembered."""
        return self.disputed.item() <= DISPUTED

    def gives_up(self) -> Tensor:
        """Whether each network has given up a class, though not always the same, for two epochs."""
        return self.given_up.all(1)

    def misled(self) -> Tensor:
        """Whether each network finds most labels right though it does not know a class."""
        return (~self.known.all(1) | self.gives_up()) & ~(self.seen[:, 1] > MAJORITY)

    def is_new(self, network: int) -> bool:
        """Whether fewer than two epochs in a row are remembered."""
        return math.isnan(self.seen[network, 0].item())

    def look(self, epoch: DecoyAccumulator) -> None:
        """Take in what an epoch has shown, summed over all processes."""
        self._make_room(len(epoch.labels))
        self.hit_rate.copy_(1 / (epoch.n_drawn.double() - 1))
        self._forget(epoch.labels)
        self._look_at_classes(epoch)
        self._look_at_disputes(epoch.disputes.cpu().numpy())
        skips = self.misled() & self.known.all(1) & self.seen.isfinite().any(1)
        even = self._even_rates(epoch)
        for network, counts in enumerate(epoch.contradictions.cpu().numpy()):
            if counts.any() and not skips[network]:  # an epoch that showed nothing says nothing
                self._look_at_contradictions(network, counts, even[network])

    def _forget(self, labels: Tensor) -> None:
        """Forget the rates of the epochs before where what they showed is not to be trusted."""
        doubtful = ~self.known.all(1) & self.misled()
        few = doubtful & self.gives_up() & are_few(labels)
        self.of_decoys[doubtful | (not self.believes)] = torch.nan
        self.seen[few | (not self.believes)] = torch.nan

    def _look_at_classes(self, epoch: DecoyAccumulator) -> None:
        now = given_up(epoch.predictions(), epoch.labels)
        self.given_up.copy_(torch.stack([self.given_up[:, 1], now.any(1)], 1))
        self.known |= ~now

    def _look_at_disputes(self, disputes: Array) -> None:
        if disputes.any():
            disputed = float(of_surest(disputes).max())
            self.waiting &= MOSTLY_DISPUTED < disputed < self.disputed.item()
            self.disputed.clamp_(max=disputed)

    def _even_rates(self, epoch: DecoyAccumulator) -> list[float]:
        """Noise rates spread evenly; 0 where a network errs too much to tell, or C is large."""
        if not epoch.confusions.numel():
            return [0.0] * len(self.found)
        confusions = epoch.confused(SURE, LEAST).cpu().numpy()
        tells = (self.known.all(1) & ~are_few(epoch.labels)).tolist()
        return [even_rate(c) if told else 0.0 for c, told in zip(confusions, tells, strict=True)]

    def _look_at_contradictions(self, network: int, counts: Array, even: float) -> None:
        rate, (before, last) = contradiction_rate(counts), self.seen[network].tolist()
        rate = max(rate, min(even, STILL * rate))
        held, of_decoys = self.seen_held[network].item(), self.of_decoys[network].item()
        shown = np.min([before, last])  # NaN where one is not known
        if of_decoys >= last:
            shown = np.fmax(shown, of_decoys)
        self.seen_held[network] = np.fmax(held, np.min([shown, STILL * rate]))
        self.seen[network] = self.seen.new_tensor([last, rate])
        self.contradicted[network] = counts[..., 1].sum() / counts.sum()

    def hints(self, network: int) -> dict[str, float]:
        """Tell `DecoyMixture.fit` what it cannot see in similarities and decoys."""
        before, last = self.seen[network].tolist()
        if self.is_new(network):
            seen, doubt = first_impression(last, self.contradicted[network].item())
        else:
            seen, doubt = max(self.seen_held[network].item(), min(before, last)), 0.0
        return {
            "hit_rate": self.hit_rate.item(),
            "seen_rate": seen,
            "least_rate": min(self.found_held[network].item(), BELIEVED * seen),
            "least_probability": doubt,
        }

    def find(self, network: int, rate: float) -> None:
        """Take in the noise rate that a fit has found."""
        if self.believes and not self.misled()[network]:
            held = min(*self.found[network].tolist(), rate)
            self.found_held[network].clamp_(min=held)
            self.found[network] = self.found.new_tensor([self.found[network, 1], rate])

    def most(self, network: int) -> float:
        """Noise rate that is believed in training: one half until three fits have found more."""
        return max(MAJORITY, self.found_held[network].item())
