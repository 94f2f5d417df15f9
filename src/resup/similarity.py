"""From logits and labels to a signal in [0, 1]: the cosine similarity (Eq. 2) or another."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ._checks import is_number
from ._validation import check_logits_targets

__all__ = ["cosine_label_similarity", "log_label_similarity", "scaled_loss_signal"]

Signal = str | Callable[[Tensor, Tensor], Tensor]


def log_label_similarity(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    r"""Logarithms of the label similarity S and of 1 - S, straight from logits.

    With :math:`z` the logits and :math:`y` the label, Eq. 2 of the paper is

    .. math::
        \log S = z_y - \tfrac12 \operatorname{LSE}_j(2 z_j), \qquad
        \log(1 - S^2) = \operatorname{LSE}_{j \ne y}(2 z_j) - \operatorname{LSE}_j(2 z_j),

    where LSE is log-sum-exp, and :math:`1 - S = (1 - S^2) / (1 + S)`. Both stay finite where S
    itself rounds to 1, which in float32 happens from a logit margin of about 9, or to 0, from 104;
    each has a relative error below :math:`10^{-5}`, down to the smallest float32 of 1e-38.

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
        float32 for every other dtype, inside autocast too. Differentiable. A row with NaN or
        +inf, or twice a logit of which is, gives NaN; classes with -inf are ignored, and a label of
        -inf has S = 0.

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
    return _log_similarity(logits, targets)


def _log_similarity(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """As `log_label_similarity`, for shapes (..., N, C) and (..., N) that broadcast."""
    with torch.autocast(logits.device.type, enabled=False):
        z = full_precision(logits)
        log_p2 = torch.log_softmax(2 * z, -1)  # log p^2 / sum p^2; one kernel, logsumexp takes nine
        shape = torch.broadcast_shapes(labels.shape, logits.shape[:-1])
        log_p2, y = log_p2.expand(*shape, -1), labels.long().expand(shape)[..., None]
        log_s2 = log_p2.gather(-1, y)[..., 0]
        rest = log_p2.scatter(-1, y, torch.finfo(z.dtype).min)
        top, place = rest.max(-1, keepdim=True)
        log_rest = (top - torch.log_softmax(rest, -1).gather(-1, place))[..., 0]
        odds = log_s2 - log_rest  # log(S^2 / (1 - S^2)), exact at both ends
        log_s = F.logsigmoid(odds) / 2
        return log_s, F.logsigmoid(-odds) - log_s.exp().log1p()


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
        Device, dtype, gradients and errors as in :func:`~resup.log_label_similarity`.

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


def scaled_loss_signal(logits: Tensor, targets: Tensor, cap: float | None = None) -> Tensor:
    r"""Cross-entropy scaled to [0, 1] and turned round, so that right labels have the high values.

    .. math:: v = 1 - \min(\mathrm{CE}(z, y), \mathit{cap}) / \mathit{cap}

    The paper's ablations weigh samples by it in place of the similarity S (Table 2, "loss").

    Parameters
    ----------
    logits : Tensor of shape (N, C)
        Unnormalised class scores, C >= 2, of any floating dtype.
    targets : Tensor of shape (N,)
        Class indices in [0, C), of an integer dtype.
    cap : float, optional
        The cross-entropy from which on the signal is 0, finite and larger than 0; by default
        :math:`1.5 \log C`, so that a uniform prediction has signal 1/3 whatever the number of
        classes. Where a Beta mixture is fitted, much larger values leave most wrong labels above
        1/2, and smaller ones put hard but right labels on 0.

    Returns
    -------
    Tensor of shape (N,)
        In [0, 1]. Device, dtype and errors as in :func:`~resup.log_label_similarity`.

    Raises
    ------
    ValueError
        If `cap` is not finite and larger than 0.

    Examples
    --------
    >>> import torch
    >>> from resup.similarity import scaled_loss_signal
    >>> logits = torch.tensor([[9.0, 0.0], [0.0, 0.0], [0.0, 9.0]])
    >>> scaled_loss_signal(logits, torch.tensor([0, 0, 0]))
    tensor([0.9999, 0.3333, 0.0000])
    """
    check_logits_targets(logits, targets)
    cap = 1.5 * math.log(logits.shape[1]) if cap is None else cap
    if not (is_number(cap) and 0 < cap < math.inf):
        raise ValueError(f"cap must be larger than 0 and finite, got {cap!r}")
    with torch.autocast(logits.device.type, enabled=False):
        loss = F.cross_entropy(full_precision(logits), targets.long(), reduction="none")
        return 1 - loss.clamp(max=cap) / cap


def full_precision(logits: Tensor) -> Tensor:
    """Logits in float32 at least."""
    return logits if logits.dtype == torch.float64 else logits.float()


def check_signal(signal: Signal) -> None:
    """Raise unless `signal` is one of the names or a callable."""
    if signal not in ("similarity", "loss") and not callable(signal):
        raise ValueError(f"signal must be 'similarity', 'loss' or a callable, got {signal!r}")


def log_signal(signal: Signal, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Logarithms of the signal v and of 1 - v, for logits (networks, N, C) and labels (N,).

    Both (networks, N); or (K, networks, N), for logits (K, networks, N, C) and labels (K, N). NaN
    stays NaN; other values of a callable are clamped to [0, 1].
    """
    if signal == "similarity":
        return _log_similarity(logits, labels[..., None, :])
    logits = full_precision(logits)
    *shape, n, c = logits.shape
    measure = signal if callable(signal) else scaled_loss_signal
    sets = labels[..., None, :].expand(*shape, n).flatten(0, -2)
    values = [measure(*each) for each in zip(logits.flatten(0, -3), sets, strict=True)]
    for value in values:
        if not isinstance(value, Tensor):
            raise TypeError(f"signal must return a Tensor, got {type(value).__name__}")
        if value.shape != (n,) or value.device != logits.device:
            raise ValueError(
                f"signal must return shape ({n},) on {logits.device} for logits of shape "
                f"({n}, {c}), got {tuple(value.shape)} on {value.device}"
            )
    v = full_precision(torch.stack(values).detach()).clamp(0, 1).view(*shape, n)
    return v.log(), torch.log1p(-v)
