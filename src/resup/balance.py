"""Weights that leave each class its share of the loss."""

from __future__ import annotations

import torch
from torch import Tensor

from ._module import StateModule

__all__ = ["ClassBalance", "given_up"]

PRIOR = 8.0  # samples of average weight that each class begins with
COMMON = 0.5  # of an average share of the labels: a class of less is rare
GIVEN_UP = 0.2  # of as many as its labels: a class that is predicted less often
NOTABLE = 0.025  # of all labels: if classes given up have no more, they are a few of many
UNKNOWN, PATIENCE = 0.05, 2  # likewise, if it is rare; epochs for which all its labels count


def given_up(predictions: Tensor, labels: Tensor) -> Tensor:
    """Whether each network hardly ever predicts each class, if that is common among the labels.

    If these classes have at most a fortieth of all labels together, they are a few of many, and
    none counts as given up.

    Parameters
    ----------
    predictions : Tensor of shape (groups, C)
        Samples by predicted class.
    labels : Tensor of shape (C,)
        Samples by given label.

    Returns
    -------
    Tensor of shape (groups, C), bool

    Examples
    --------
    >>> import torch
    >>> from resup.balance import given_up
    >>> given_up(torch.tensor([[34, 66, 0], [95, 5, 0]]), torch.tensor([50, 40, 10]))
    tensor([[False, False, False],
            [False,  True, False]])
    """
    hardly = ~rare(labels) & (predictions < GIVEN_UP * labels)
    return hardly & ((hardly * labels).sum(-1, keepdim=True) > NOTABLE * labels.sum())


def rare(labels: Tensor) -> Tensor:
    """Whether each class has less than half an average share of the labels, (C,).

    The average is of the classes that have labels.
    """
    return labels < COMMON * labels.sum() / (labels > 0).sum().clamp(min=1)


def unaccounted(predictions: Tensor, labels: Tensor, right: Tensor) -> Tensor:
    r"""Share of each rare class's labels that should be right, but are not predicted.

    .. math:: f_c = \max\Bigl(0, \; \frac{r_c - m_c}{n_c}\Bigr)

    of :math:`n_c` labels, of which :math:`r_c` are likely right and a network predicts :math:`m_c`.
    A network cannot judge labels of a class that it does not know.

    Parameters
    ----------
    predictions, labels, right : Tensor of shape (C,)
        Samples by predicted class, by given label, and of these the right ones.

    Returns
    -------
    Tensor of shape (C,), float64
        In [0, 1]; 0 for classes that are not rare.

    Examples
    --------
    >>> import torch
    >>> from resup.balance import unaccounted
    >>> labels = torch.tensor([60, 30, 10])
    >>> unaccounted(torch.tensor([70, 28, 2]), labels, right=labels - 1)
    tensor([0.0000, 0.0000, 0.7000], dtype=torch.float64)
    """
    missing = (right - predictions).double().clamp(min=0) / labels.clamp(min=1)
    return torch.where(rare(labels), missing, 0.0)


class ClassBalance(StateModule):
    r"""Lifts the weights of rare classes, and scales all so that each class weighs the same.

    .. math:: w_i \leftarrow w_i + (1 - w_i) f_{y_i}, \qquad
        w_i \leftarrow w_i + (1 - w_i) \max\Bigl(0, \; \frac{m - \bar w}{1 - \bar w}\Bigr), \qquad
        w_i \leftarrow \min\Bigl(1, \; w_i \frac{\bar w}{\bar w_{y_i}}\Bigr)

    Networks that do not predict a class yet see nothing right in its labels, give them no weight,
    and so never learn it. Where few labels are right or samples few, this ends with classes that
    are never predicted. So rare classes keep weight as far as `unaccounted` tells (the first step),
    and all of it for the first two epochs in a row in which a class is predicted less than a
    twentieth as often as it is given: most of its labels may be wrong, and the right ones be learnt
    all the same. Networks that turn towards such a class take right labels of others for wrong,
    which turns them further, so no batch weighs less than m on average (the second). Where it is
    switched `on` the labels of each class weigh the same on average (the third). Within a class the
    order of the weights does not change.

    Parameters
    ----------
    groups : int, default=1
        How many networks are kept side by side.

    Attributes
    ----------
    least : Tensor of shape (groups, C), float32
        f in the formula; C is 0 before the first call.
    least_mean : Tensor of shape (groups,), float32
        m in the formula; 0 at first.
    lifted : Tensor of shape (groups,), float64
        Share of all labels that `least` lifts.
    on : Tensor of shape (groups,), bool
        Whose weights are scaled; none at first.
    unknown_for : Tensor of shape (groups, C), int32
        Epochs in a row in which a rare class was hardly predicted.
    sums : Tensor of shape (groups, C, 2), float64
        Of each class, its weights and its samples since the last `reset`, for the means in the
        formula; that of a class begins with eight samples of average weight.

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

    _by_class = (("least", 1), ("unknown_for", 1), ("sums", 1))
    least: Tensor
    least_mean: Tensor
    lifted: Tensor
    on: Tensor
    unknown_for: Tensor
    sums: Tensor

    def __init__(self, groups: int = 1) -> None:
        super().__init__()
        self.register_buffer("least", torch.zeros(groups, 0, dtype=torch.float32))
        self.register_buffer("least_mean", torch.zeros(groups, dtype=torch.float32))
        self.register_buffer("lifted", torch.zeros(groups, dtype=torch.float64))
        self.register_buffer("on", torch.zeros(groups, dtype=torch.bool))
        self.register_buffer("unknown_for", torch.zeros(groups, 0, dtype=torch.int32))
        self.register_buffer("sums", torch.zeros(groups, 0, 2, dtype=torch.float64))

    @torch.no_grad()
    def learn(self, group: int, predictions: Tensor, labels: Tensor, right: Tensor) -> None:
        """Take in what an epoch has shown of each class, (C,): see `unaccounted`."""
        self._make_room(len(labels))
        missing = unaccounted(predictions, labels, right)
        unknown = rare(labels) & (predictions < UNKNOWN * labels)
        self.unknown_for[group] = torch.where(unknown, self.unknown_for[group] + 1, 0)
        missing[unknown & (self.unknown_for[group] <= PATIENCE)] = 1.0
        self.least[group] = missing
        self.lifted[group] = missing @ labels.double() / labels.sum().clamp(min=1)

    @torch.no_grad()
    def forward(
        self, weights: Tensor, targets: Tensor, n_classes: int, record: bool = True
    ) -> Tensor:
        """Lift and scale the weights of a batch.

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
        self._make_room(n_classes)
        targets = targets.long()
        weights = weights + (1 - weights) * self.least.to(weights.dtype)[:, targets]
        mean = weights.mean(1, keepdim=True)
        short = (self.least_mean.to(weights.dtype)[:, None] - mean).clamp(min=0)
        weights = weights + (1 - weights) * short / (1 - mean).clamp(min=1e-6)
        both = torch.stack([weights, torch.ones_like(weights)], -1).to(self.sums.dtype)
        sums = self.sums.index_add(1, targets, both)
        if record:
            self.sums.copy_(sums)
        total, n = sums.sum(1, keepdim=True).unbind(-1)
        mean = total / n
        of_class = (sums[..., 0] + PRIOR * mean) / (sums[..., 1] + PRIOR)
        scale = torch.where(self.on[:, None], mean / of_class.clamp(min=1e-12), 1.0)
        return (weights * scale.to(weights.dtype)[:, targets]).clamp(max=1)

    def reset(self) -> None:
        """Forget all samples."""
        self.sums.zero_()
