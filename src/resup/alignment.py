"""Predictions as they would be if a network predicted rare classes more often."""

from __future__ import annotations

import torch
from torch import Tensor

from ._module import StateModule

__all__ = ["ClassAlignment"]

MOST = 2.0  # times what is expected; with more, networks may come to predict a rare class alone
ALIKE = 1.5  # times an average share: wrong labels can make as much of a difference


class ClassAlignment(StateModule):
    r"""Divides the probabilities of each class by how much of a share the network gives to it.

    .. math:: \tilde z_{ic} = z_{ic} - \ell_c, \qquad
        \ell_c \leftarrow \frac12 \Bigl(\ell_c + \log \frac{s_c / \bar s}{e_c / \bar e}\Bigr), \quad
        s_c = 1 + \sum_j p_{jc}, \quad
        e_c = \frac{q_c}{\min(\max(q_c, 2/3), 3/2)}, \quad q_c = \frac{1 + r_c}{1 + \bar r}

    after each epoch, from 0 on, with a ratio between 1/2 and 2, where :math:`r_c` labels of the
    class are likely right. A class that is rare, or that a network has hardly learnt yet, gets
    little probability even where its label is right. By the similarity to such a prediction the
    label looks wrong, and gets no weight. Equal shares are expected of classes whose right labels
    are 2/3 to 3/2 of the average: wrong labels may have made one common and another rare. Of larger
    differences, what exceeds this factor is expected.

    Parameters
    ----------
    groups : int, default=1
        How many networks are kept side by side.

    Attributes
    ----------
    log_shares : Tensor of shape (groups, C), float32
        What is subtracted; C is 0 before the first call.

    Notes
    -----
    Beyond the paper. Relatives: distribution alignment (ReMixMatch, Berthelot et al. 2020, arXiv
    1911.09785), logit adjustment (Menon et al. 2021, arXiv 2007.07314).

    Examples
    --------
    >>> import torch
    >>> from resup.alignment import ClassAlignment
    >>> alignment = ClassAlignment()
    >>> logits = torch.tensor([[[2.0, 0.0], [0.5, 0.0], [0.5, 0.0]]])  # class 1 is never predicted
    >>> alignment(logits).argmax(-1)
    tensor([[0, 0, 0]])
    >>> for epoch in range(3):
    ...     alignment.learn(0, 100 * logits[0].softmax(-1).sum(0), torch.tensor([100.0, 200.0]))
    >>> alignment(logits).argmax(-1)
    tensor([[0, 1, 1]])
    """

    _by_class = (("log_shares", 1),)
    log_shares: Tensor

    def __init__(self, groups: int = 1) -> None:
        super().__init__()
        self.register_buffer("log_shares", torch.zeros(groups, 0, dtype=torch.float32))

    @torch.no_grad()
    def forward(self, logits: Tensor) -> Tensor:
        """Align logits (groups, N, C), in float32 at least."""
        self._make_room(logits.shape[2])
        return logits - self.log_shares[:, None]

    @torch.no_grad()
    def learn(self, group: int, probabilities: Tensor, right: Tensor) -> None:
        """Take in an epoch of a network: its summed probabilities and likely right labels, (C,)."""
        self._make_room(len(probabilities))
        shares, expected = 1 + probabilities.double(), 1 + right.double()
        expected /= (expected / expected.mean()).clamp(1 / ALIKE, ALIKE)
        ratio = (shares / shares.mean() * expected.mean() / expected).clamp(1 / MOST, MOST)
        self.log_shares[group].lerp_(ratio.log().float(), 0.5)
