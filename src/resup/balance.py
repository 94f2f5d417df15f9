"""Weights that leave each class its share of the loss."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ._module import StateModule

__all__ = ["ClassBalance"]

PRIOR = 8.0  # samples of average weight that each class begins with
COMMON = 0.5  # of an average share of the labels: a class of more must not be given up
GIVEN_UP = 0.2  # of as many as its labels: a class that is predicted less often


def given_up(predictions: Tensor, labels: Tensor) -> Tensor:
    """Whether each network hardly ever predicts a class that is common among the labels.

    Parameters
    ----------
    predictions : Tensor of shape (groups, C)
        Samples by predicted class.
    labels : Tensor of shape (C,)
        Samples by given label.

    Returns
    -------
    Tensor of shape (groups,), bool

    Examples
    --------
    >>> import torch
    >>> from resup.balance import given_up
    >>> given_up(torch.tensor([[34, 66, 0], [95, 5, 0]]), torch.tensor([50, 40, 10]))
    tensor([False,  True])
    """
    common = labels >= COMMON * labels.sum() / len(labels)
    return (common & (predictions < GIVEN_UP * labels)).any(1)


class ClassBalance(StateModule):
    r"""Scales sample weights so that the labels of each class weigh the same on average.

    .. math:: w_i \leftarrow \min\Bigl(1, \; w_i \frac{\bar w}{\bar w_{y_i}}\Bigr)

    Networks that do not predict a class yet see nothing right in its labels, give them no weight,
    and so never learn it. Where few labels are right or samples few, this ends with classes that
    are never predicted. Within a class nothing changes.

    Parameters
    ----------
    groups : int, default=1
        How many networks are kept side by side.

    Attributes
    ----------
    on : Tensor of shape (groups,), bool
        Whose weights are scaled; none at first.
    sums : Tensor of shape (groups, C, 2), float64
        Of each class, its weights and its samples since the last `reset`, for the means in the
        formula; that of a class begins with eight samples of average weight. C is 0 before the
        first call.

    Notes
    -----
    Beyond the paper. A relative: the selection of as many samples of each class in UNICON (Karim
    et al. 2022, arXiv 2203.14542).

    Examples
    --------
    >>> import torch
    >>> from resup.balance import ClassBalance
    >>> balance = ClassBalance()
    >>> balance.on.fill_(True)
    tensor([True])
    >>> weights, targets = torch.tensor([[0.9, 0.1]]).repeat(1, 500), torch.arange(1000) % 2
    >>> balance(weights, targets, n_classes=2)[0, :2]
    tensor([0.5035, 0.4704])
    """

    on: Tensor
    sums: Tensor

    def __init__(self, groups: int = 1) -> None:
        super().__init__()
        self.register_buffer("on", torch.zeros(groups, dtype=torch.bool))
        self.register_buffer("sums", self._no_sums(0))

    def _no_sums(self, n_classes: int) -> Tensor:
        shape = len(self.on), n_classes, 2
        with torch.inference_mode(False):
            return torch.zeros(shape, dtype=torch.float64, device=self.on.device)

    @torch.no_grad()
    def forward(
        self, weights: Tensor, targets: Tensor, n_classes: int, record: bool = True
    ) -> Tensor:
        """Scale the weights of a batch.

        Parameters
        ----------
        weights : Tensor of shape (groups, N)
            In [0, 1].
        targets : Tensor of shape (N,)
            Given labels.
        n_classes : int
        record : bool, default=True
            Whether the batch counts towards the means of the batches to come.

        Returns
        -------
        Tensor of shape (groups, N)
            In [0, 1].
        """
        fits = self.sums.shape[1] == n_classes
        both = torch.stack([weights, torch.ones_like(weights)], -1).to(self.sums.dtype)
        sums = (self.sums if fits else self._no_sums(n_classes)).index_add(1, targets.long(), both)
        if record and not fits:
            self.sums = self._no_sums(n_classes)
        if record:
            self.sums.copy_(sums)
        total, n = sums.sum(1, keepdim=True).unbind(-1)
        mean = total / n
        of_class = (sums[..., 0] + PRIOR * mean) / (sums[..., 1] + PRIOR)
        scale = torch.where(self.on[:, None], mean / of_class.clamp(min=1e-12), 1.0)
        return (weights * scale.to(weights.dtype)[:, targets.long()]).clamp(max=1)

    def reset(self) -> None:
        """Forget all samples."""
        self.sums.zero_()

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        sums = state_dict.get(f"{prefix}sums")
        if sums is not None and sums.shape != self.sums.shape:
            self.sums = self._no_sums(sums.shape[1])  # C is known only from the first batch on
        super()._load_from_state_dict(state_dict, prefix, *args)
