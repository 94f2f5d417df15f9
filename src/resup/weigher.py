"""How the logits of a pair of networks become sample weights, epoch by epoch."""

from __future__ import annotations

from typing import Any

import torch
from sklearn.base import clone
from torch import Tensor, nn

from .accumulator import HistogramAccumulator
from .distributed import add_up
from .histogram import SimilarityHistogram
from .mixture import BetaMixture
from .posterior import Posterior
from .similarity import log_label_similarity

__all__ = ["SampleWeigher"]


class SampleWeigher(nn.Module):
    """Weighs the samples of each batch by the mixture fitted to the epoch before (Eq. 2 to 5).

    Call it in the training step and `refit` it after every epoch. Until the first `refit` every
    weight is 1, which is the warm-up. A step touches device tensors only; the host waits once, in
    `refit`. Under ``torch.distributed`` `refit` adds the histograms of all processes first, so that
    every process holds the same mixtures.

    Parameters
    ----------
    mixture : estimator, default=BetaMixture()
        Cloned and fitted for each network.
    networks : int, default=2
        How many networks are weighed.

    Attributes
    ----------
    mixtures_ : list of estimator
        The last fitted mixtures, one a network; empty before the first `refit`. They are rebuilt
        from the state dict.
    noise_rates_ : list of float
        Mean posterior of a wrong label, one a network.

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

    def __init__(self, mixture: Any = None, networks: int = 2) -> None:
        super().__init__()
        self.mixture = BetaMixture() if mixture is None else mixture
        self.seen = HistogramAccumulator(networks)
        self.posterior = Posterior(networks)
        self.register_buffer("fitted_counts", torch.zeros_like(self.seen.counts))
        self.mixtures_: list[Any] = []
        self.noise_rates_: list[float] = []
        self.register_load_state_dict_post_hook(  # type: ignore[no-untyped-call]
            lambda module, _: module._fit()
        )

    @torch.no_grad()
    def forward(self, logits: Tensor, targets: Tensor, record: bool = True) -> Tensor:
        """Weights of a batch; remembers its similarities for the next `refit`.

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
        Tensor of shape (networks, N), float32
            Probability that the label is right, in [0, 1], as each network sees it.
        """
        networks, n, c = logits.shape
        logs = log_label_similarity(logits.reshape(-1, c), targets.repeat(networks))
        log_s, log_1ms = (v.view(networks, n) for v in logs)
        if record:
            self.seen.update(log_s, log_1ms)
        weights: Tensor = self.posterior(log_s, log_1ms)
        return weights

    def refit(self) -> None:
        """Fit a mixture to what each network has shown since the last call, then forget that."""
        add_up(self.seen.counts)
        self.fitted_counts.copy_(self.seen.counts)
        self.seen.reset()
        self._fit()

    def _fit(self) -> None:
        self.mixtures_, self.noise_rates_ = [], []
        for group, counts in enumerate(self.fitted_counts.cpu().numpy()):
            histogram = SimilarityHistogram(counts)
            if not histogram.total:
                continue
            mixture = clone(self.mixture).fit(histogram)
            clean = mixture.predict_proba(histogram.centres)[:, -1]
            self.mixtures_.append(mixture)
            self.noise_rates_.append(1 - float(counts @ clean) / histogram.total)
            self.posterior.load(mixture, group)
