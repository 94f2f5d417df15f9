"""The similarity histogram on a torch device, filled inside a training step."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .histogram import FIRST, N_BINS, SHIFT, SMALLEST, SimilarityHistogram

__all__ = ["HistogramAccumulator"]


def device_bin_index(log_s: Tensor, log_1ms: Tensor) -> Tensor:
    """Bin of each similarity, as :func:`resup.histogram.bin_index`, from log S and log(1 - S)."""
    upper = log_s > log_1ms
    x = torch.minimum(log_s, log_1ms).float().exp().clamp(SMALLEST, 0.49999997)
    lower_bin = (x.view(torch.int32) >> SHIFT) - FIRST
    return torch.where(upper, N_BINS - 1 - lower_bin, lower_bin).long().clamp(0, N_BINS - 1)


class HistogramAccumulator(nn.Module):
    """Fills similarity histograms on the device, without making the host wait.

    Parameters
    ----------
    groups : int, default=1
        How many histograms are kept side by side, such as one a network.

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
        self.register_buffer("counts", torch.zeros(groups, N_BINS, dtype=torch.float64))

    @torch.no_grad()
    def update(self, log_s: Tensor, log_1ms: Tensor, weights: Tensor | None = None) -> None:
        """Add similarities given by their logarithms.

        Parameters
        ----------
        log_s, log_1ms : Tensor of shape (N,) or (groups, N)
            log S and log(1 - S), as :func:`resup.log_label_similarity` gives them. A sample whose
            value is not finite is left out.
        weights : Tensor of the same shape, optional
            Not negative; ones by default.
        """
        groups = len(self.counts)
        if log_s.shape != log_1ms.shape or log_s.shape[:-1] not in ((groups,), ()):
            raise ValueError(
                f"log_s and log_1ms must both have shape (N,) or ({groups}, N), "
                f"got {tuple(log_s.shape)} and {tuple(log_1ms.shape)}"
            )
        log_s, log_1ms = log_s.expand(groups, -1), log_1ms.expand(groups, -1)
        index = device_bin_index(log_s, log_1ms)
        ones = (~(log_s.isnan() | log_1ms.isnan())).to(self.counts.dtype)
        self.counts.scatter_add_(1, index, ones if weights is None else ones * weights)

    def reset(self) -> None:
        """Forget all samples."""
        self.counts.zero_()

    def histogram(self, group: int = 0) -> SimilarityHistogram:
        """Copy one histogram to the host (this waits for the device)."""
        return SimilarityHistogram(self.counts[group].cpu().numpy())
