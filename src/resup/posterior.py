"""A fitted mixture as weights on any device: the posterior of Eq. 5 in closed form."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn
from typing_extensions import Self

from ._base import ALWAYS_RIGHT, LogOdds

__all__ = ["Posterior"]


class _HasLogOdds(Protocol):
    log_odds_: LogOdds


class Posterior(nn.Module):
    r"""Probability that a label is right, as a function of its similarity S (Eq. 5).

    .. math:: w(S) = \sigma\bigl(a \log S + b \log(1 - S) + c\bigr), \qquad S \in [s_0, s_1]

    where S is first clamped to the range on which the fitted function rises. For a two-component
    Beta mixture a and b are the differences of the components' parameters; no table, special
    function or copy to the host is needed. A new `Posterior` gives every label weight 1.

    Parameters
    ----------
    groups : int, default=1
        How many mixtures are kept side by side, such as one a network.

    Attributes
    ----------
    coefficients : Tensor of shape (groups, 7), float32
        a, b, c and the bounds of log S and of log(1 - S); a buffer, so it follows ``.to(device)``
        and is in the state dict. `load` writes into it in place: a captured CUDA graph or a
        compiled step sees the new values.

    Examples
    --------
    >>> import torch
    >>> from resup import BetaMixture, Posterior, log_label_similarity
    >>> mixture = BetaMixture().fit([0.05, 0.1, 0.1, 0.2, 0.8, 0.9, 0.9, 0.95])
    >>> weigh = Posterior().load(mixture)
    >>> logits = torch.tensor([[4.0, 0.0], [0.0, 4.0]])
    >>> weigh(*log_label_similarity(logits, torch.tensor([0, 0]))) > 0.5
    tensor([ True, False])
    """

    coefficients: Tensor

    def __init__(self, groups: int = 1) -> None:
        super().__init__()
        self.register_buffer("coefficients", torch.empty(groups, 7))
        for group in range(groups):
            self._write(ALWAYS_RIGHT, group)

    def _write(self, odds: LogOdds, group: int) -> None:
        row = torch.tensor([odds.a, odds.b, odds.c, *odds.log_bounds()], dtype=torch.float32)
        self.coefficients[group].copy_(row)

    def load(self, mixture: _HasLogOdds, group: int = 0) -> Self:
        """Take over a fitted mixture.

        Parameters
        ----------
        mixture : BetaMixture with at most two components, or DecoyMixture
            Fitted, so that it has `log_odds_`.
        group : int, default=0
            Which of the side-by-side mixtures to replace.

        Returns
        -------
        self
        """
        odds = getattr(mixture, "log_odds_", None)
        if odds is None:
            raise ValueError(
                "mixture must be a fitted BetaMixture of one or two components or a fitted "
                f"DecoyMixture, got {mixture!r}"
            )
        self._write(odds, group)
        return self

    def reset(self, group: int = 0) -> None:
        """Give every label weight 1 again."""
        self._write(ALWAYS_RIGHT, group)

    def forward(self, log_s: Tensor, log_1ms: Tensor) -> Tensor:
        """Weigh similarities given by their logarithms.

        Parameters
        ----------
        log_s, log_1ms : Tensor of shape (N,) or (groups, N)
            log S and log(1 - S), as :func:`resup.log_label_similarity` gives them; -inf is allowed.

        Returns
        -------
        Tensor of the same shape, or (groups, N) where groups > 1
            Weights in [0, 1], not differentiated.
        """
        with torch.no_grad():
            coefficients = self.coefficients if len(self.coefficients) > 1 else self.coefficients[0]
            a, b, c, s_low, s_high, r_low, r_high = coefficients[..., None].unbind(-2)
            log_s = torch.clamp(log_s, s_low, s_high)
            log_1ms = torch.clamp(log_1ms, r_low, r_high)
            return torch.sigmoid(a * log_s + b * log_1ms + c)
