"""The losses: cross-weighted cross-entropy (Eq. 7), consistency (Eq. 8), JoCoR's symmetric KL."""

from __future__ import annotations

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ._checks import check_choice
from ._validation import check_logits_targets, check_pair
from .similarity import full_precision

__all__ = [
    "ConsistencyLoss",
    "CrossWeightedLoss",
    "SymmetricKLLoss",
    "consistency_loss",
    "cross_weighted_loss",
    "symmetric_kl_loss",
]

Reduction = Literal["mean", "sum", "none"]
_REDUCTIONS = get_args(Reduction)


def _reduce(per_sample: Tensor, reduction: Reduction) -> Tensor:
    if reduction == "none":
        return per_sample
    return per_sample.mean() if reduction == "mean" and len(per_sample) else per_sample.sum()


def cross_weighted_loss(
    logits_a: Tensor,
    logits_b: Tensor,
    targets: Tensor,
    weights_a: Tensor | None = None,
    weights_b: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Cross-entropy of two networks, each weighted by what the other thinks of the label (Eq. 7).

    .. math:: L = \frac1N \sum_i w^B_i \, \mathrm{CE}(z^A_i, y_i) + w^A_i \, \mathrm{CE}(z^B_i, y_i)

    Without weights it is the plain cross-entropy of both networks (the warm-up).

    Parameters
    ----------
    logits_a, logits_b : Tensor of shape (N, C)
        Unnormalised class scores of network A and network B, of any floating dtype.
    targets : Tensor of shape (N,)
        Class indices in [0, C), of an integer dtype.
    weights_a, weights_b : Tensor of shape (N,), optional
        Each network's probability that the label is right, in [0, 1]; give both or neither. They
        are detached: no gradient flows through them.
    reduction : {"mean", "sum", "none"}, default="mean"
        "none" returns one loss per sample, (N,).

    Returns
    -------
    Tensor of shape () or (N,)
        On the device of the logits; float64 for float64 logits, float32 for every other dtype,
        inside autocast too. An empty batch gives 0, not NaN. A label whose logit is -inf has an
        infinite loss, and with a weight of 0 one of NaN, though its gradient is 0 then.

    Raises
    ------
    TypeError
        If logits are not floating, targets are not integer, or weights are no tensors.
    ValueError
        If shapes or devices do not match, targets are out of range (checked on CPU), only one of
        the weights is given, or `reduction` is unknown.

    Examples
    --------
    >>> import torch
    >>> from resup.losses import cross_weighted_loss
    >>> a, b = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 2.0]])
    >>> w_a, w_b = torch.tensor([0.1]), torch.tensor([0.9])
    >>> cross_weighted_loss(a, b, torch.tensor([0]), w_a, w_b)
    tensor(0.3269)
    """
    check_choice("reduction", reduction, _REDUCTIONS)
    check_pair(logits_a, logits_b)
    check_logits_targets(logits_a, targets, "logits_a")
    if (weights_a is None) != (weights_b is None):
        raise ValueError("weights_a and weights_b must both be given or both be left out")
    n = len(targets)
    with torch.autocast(logits_a.device.type, enabled=False):
        y = targets.long()
        ce_a = F.cross_entropy(full_precision(logits_a), y, reduction="none")
        ce_b = F.cross_entropy(full_precision(logits_b), y, reduction="none")
        if weights_a is None or weights_b is None:
            return _reduce(ce_a + ce_b, reduction)
        for name, weights in (("weights_a", weights_a), ("weights_b", weights_b)):
            if not isinstance(weights, Tensor):
                raise TypeError(f"{name} must be a Tensor, got {type(weights).__name__}")
            if weights.shape != (n,) or weights.device != logits_a.device:
                raise ValueError(
                    f"{name} must have shape ({n},) on {logits_a.device}, "
                    f"got {tuple(weights.shape)} on {weights.device}"
                )
        w_a, w_b = weights_a.detach().to(ce_b.dtype), weights_b.detach().to(ce_a.dtype)
        return _reduce(w_b * ce_a + w_a * ce_b, reduction)


def consistency_loss(logits_a: Tensor, logits_b: Tensor, reduction: Reduction = "mean") -> Tensor:
    r"""Mean squared difference of the two networks' predicted probabilities (Eq. 8).

    .. math::
        L = \frac1{NC} \sum_i \sum_c (p^A_{ic} - p^B_{ic})^2,
        \qquad p = \operatorname{softmax}(z)

    Parameters
    ----------
    logits_a, logits_b : Tensor of shape (N, C)
        Unnormalised class scores of network A and network B, of any floating dtype.
    reduction : {"mean", "sum", "none"}, default="mean"
        Over the samples; the mean over the classes is always taken.

    Returns
    -------
    Tensor of shape () or (N,)
        In [0, 2 / C] a sample; gradients reach both networks. Device, dtype and the empty batch as
        in :func:`~resup.losses.cross_weighted_loss`.

    Raises
    ------
    TypeError
        If logits are not floating.
    ValueError
        If shapes or devices do not match or `reduction` is unknown.

    Examples
    --------
    >>> import torch
    >>> from resup.losses import consistency_loss
    >>> consistency_loss(torch.tensor([[9.0, -9.0]]), torch.tensor([[-9.0, 9.0]]))
    tensor(1.)
    """
    check_choice("reduction", reduction, _REDUCTIONS)
    check_pair(logits_a, logits_b)
    with torch.autocast(logits_a.device.type, enabled=False):
        p_a, p_b = full_precision(logits_a).softmax(1), full_precision(logits_b).softmax(1)
        return _reduce(F.mse_loss(p_a, p_b, reduction="none").mean(1), reduction)


def symmetric_kl_loss(logits_a: Tensor, logits_b: Tensor, reduction: Reduction = "mean") -> Tensor:
    r"""Symmetric Kullback-Leibler divergence of the two networks' predictions, as in JoCoR.

    .. math::
        L = \frac1N \sum_i \mathrm{KL}(p^A_i \,\Vert\, p^B_i) + \mathrm{KL}(p^B_i \,\Vert\, p^A_i),
        \qquad p = \operatorname{softmax}(z)

    Parameters
    ----------
    logits_a, logits_b : Tensor of shape (N, C)
        Unnormalised class scores of network A and network B, of any floating dtype.
    reduction : {"mean", "sum", "none"}, default="mean"
        Over the samples; over the classes it is a sum, unlike in
        :func:`~resup.losses.consistency_loss`.

    Returns
    -------
    Tensor of shape () or (N,)
        Not negative, without upper bound; gradients reach both networks. Device, dtype and the
        empty batch as in :func:`~resup.losses.cross_weighted_loss`.

    Raises
    ------
    TypeError
        If logits are not floating.
    ValueError
        If shapes or devices do not match or `reduction` is unknown.

    References
    ----------
    Wei et al., *Combating Noisy Labels by Agreement: A Joint Training Method with
    Co-Regularization*, CVPR 2020, arXiv 2003.02752.

    Examples
    --------
    >>> import torch
    >>> from resup.losses import symmetric_kl_loss
    >>> symmetric_kl_loss(torch.tensor([[9.0, -9.0]]), torch.tensor([[-9.0, 9.0]]))
    tensor(36.)
    """
    check_choice("reduction", reduction, _REDUCTIONS)
    check_pair(logits_a, logits_b)
    with torch.autocast(logits_a.device.type, enabled=False):
        log_a = full_precision(logits_a).log_softmax(1)
        log_b = full_precision(logits_b).log_softmax(1)
        gap = (log_a - log_b).masked_fill(log_a == log_b, 0)  # for classes that both mask by -inf
        return _reduce(((log_a.exp() - log_b.exp()) * gap).sum(1), reduction)


class _PairLoss(nn.Module):
    """Base of losses of a pair of networks, with their reduction."""

    def __init__(self, reduction: Reduction = "mean") -> None:
        super().__init__()
        check_choice("reduction", reduction, _REDUCTIONS)
        self.reduction: Reduction = reduction


class CrossWeightedLoss(_PairLoss):
    """Module form of :func:`~resup.losses.cross_weighted_loss` (Eq. 7).

    Parameters
    ----------
    reduction : {"mean", "sum", "none"}, default="mean"
        As in :func:`~resup.losses.cross_weighted_loss`.

    Examples
    --------
    >>> import torch
    >>> from resup import CrossWeightedLoss
    >>> a, b = torch.zeros(3, 4), torch.zeros(3, 4)
    >>> CrossWeightedLoss()(a, b, torch.tensor([0, 1, 2]))  # no weights: log(4) twice
    tensor(2.7726)
    """

    def forward(
        self,
        logits_a: Tensor,
        logits_b: Tensor,
        targets: Tensor,
        weights_a: Tensor | None = None,
        weights_b: Tensor | None = None,
    ) -> Tensor:
        """Compute the loss; see :func:`~resup.losses.cross_weighted_loss`."""
        return cross_weighted_loss(
            logits_a, logits_b, targets, weights_a, weights_b, self.reduction
        )


class ConsistencyLoss(_PairLoss):
    """Module form of :func:`~resup.losses.consistency_loss` (Eq. 8).

    Parameters
    ----------
    reduction : {"mean", "sum", "none"}, default="mean"
        As in :func:`~resup.losses.consistency_loss`.

    Examples
    --------
    >>> import torch
    >>> from resup import ConsistencyLoss
    >>> ConsistencyLoss()(torch.zeros(3, 4), torch.zeros(3, 4))
    tensor(0.)
    """

    def forward(self, logits_a: Tensor, logits_b: Tensor) -> Tensor:
        """Compute the loss; see :func:`~resup.losses.consistency_loss`."""
        return consistency_loss(logits_a, logits_b, self.reduction)


class SymmetricKLLoss(_PairLoss):
    """Module form of :func:`~resup.losses.symmetric_kl_loss`.

    For ``CoTrainer(..., consistency=SymmetricKLLoss())``.

    Parameters
    ----------
    reduction : {"mean", "sum", "none"}, default="mean"
        As in :func:`~resup.losses.symmetric_kl_loss`.

    Examples
    --------
    >>> import torch
    >>> from resup import SymmetricKLLoss
    >>> SymmetricKLLoss()(torch.zeros(3, 4), torch.zeros(3, 4))
    tensor(0.)
    """

    def forward(self, logits_a: Tensor, logits_b: Tensor) -> Tensor:
        """Compute the loss; see :func:`~resup.losses.symmetric_kl_loss`."""
        return symmetric_kl_loss(logits_a, logits_b, self.reduction)
