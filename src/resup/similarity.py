"""From logits and labels to the cosine similarity of prediction and label (Eq. 2)."""

from __future__ import annotations

import torch
from torch import Tensor

from ._validation import check_logits_targets

__all__ = ["cosine_label_similarity", "log_label_similarity"]


def log_label_similarity(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    r"""Logarithms of the label similarity S and of 1 - S, straight from logits.

    With :math:`z` the logits and :math:`y` the label, Eq. 2 of the paper is

    .. math::
        \log S = z_y - \tfrac12 \operatorname{LSE}_j(2 z_j), \qquad
        \log(1 - S^2) = \operatorname{LSE}_{j \ne y}(2 z_j) - \operatorname{LSE}_j(2 z_j),

    where LSE is log-sum-exp, and :math:`1 - S = (1 - S^2) / (1 + S)`. Both stay finite where S
    itself rounds to 0 or 1, which in float32 happens from a logit margin of about 15.

    Parameters
    ----------
    logits : Tensor of shape (N, C)
        Unnormalised class scores, C >= 2, of any floating dtype.
    targets : Tensor of shape (N,)
        Class indices in [0, C), of an integer dtype.

    Returns
    -------
    log_s, log_1ms : Tensor of shape (N,)
        log S and log(1 - S), both <= 0, on the device of `logits`; float64 for float64 logits and
        float32 for every other dtype, inside autocast too. Differentiable. A row of logits that is
        not finite gives a value that is not finite.

    Raises
    ------
    TypeError
        If `logits` is not floating or `targets` is not integer.
    ValueError
        If the shapes do not match, C < 2, or (checked on CPU, where it costs no synchronisation)
        a target lies outside [0, C).

    Examples
    --------
    >>> import torch
    >>> from resup import log_label_similarity
    >>> log_s, log_1ms = log_label_similarity(torch.tensor([[0.0, 50.0]]), torch.tensor([1]))
    >>> log_s.exp(), log_1ms
    (tensor([1.]), tensor([-100.6931]))
    """
    check_logits_targets(logits, targets)
    with torch.autocast(logits.device.type, enabled=False):
        z = logits if logits.dtype == torch.float64 else logits.float()
        z = z - z.detach().amax(1, keepdim=True) if len(z) else z
        y = targets.long()[:, None]
        log_norm2 = torch.logsumexp(2 * z, 1)
        log_rest2 = torch.logsumexp(2 * z.scatter(1, y, -torch.inf), 1)
        log_s = (z.gather(1, y)[:, 0] - log_norm2 / 2).clamp(max=0)
        log_1ms = (log_rest2 - log_norm2).clamp(max=0) - log_s.exp().log1p()
        return log_s, log_1ms


def cosine_label_similarity(logits: Tensor, targets: Tensor) -> Tensor:
    r"""Cosine similarity between the predicted distribution and the one-hot label (Eq. 2).

    .. math:: S = \frac{p_y}{\lVert p \rVert_2}, \qquad p = \operatorname{softmax}(z).

    Parameters
    ----------
    logits : Tensor of shape (N, C)
        Unnormalised class scores, C >= 2, of any floating dtype.
    targets : Tensor of shape (N,)
        Class indices in [0, C), of an integer dtype.

    Returns
    -------
    Tensor of shape (N,)
        S in [0, 1]: 1 for a certain prediction of the label, :math:`1/\sqrt C` for a uniform one.
        Device, dtype, gradients and errors as in :func:`log_label_similarity`.

    References
    ----------
    Zhang et al., *ReSup: Reliable Label Noise Suppression for Facial Expression Recognition*,
    arXiv 2305.17895.

    Examples
    --------
    >>> import torch
    >>> from resup import cosine_label_similarity
    >>> cosine_label_similarity(torch.zeros(2, 4), torch.tensor([0, 3]))
    tensor([0.5000, 0.5000])
    """
    return log_label_similarity(logits, targets)[0].exp()
