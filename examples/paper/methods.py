"""Training methods by name, every one of them a `CoTrainer`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resup import BetaMixture, CoTrainer, DecoyMixture, SymmetricKLLoss
from resup.losses import symmetric_kl_loss


class SmallLoss(CoTrainer):
    """Base of the methods that train on the samples of small loss only.

    The share that is left out of each batch rises over `ramp` epochs to `forget`, the noise rate,
    which these methods must be told.
    """

    ramp = 10

    def __init__(self, *args: Any, forget: float, **kwargs: Any) -> None:
        super().__init__(*args, consistency_weight=0, **kwargs)
        self.forget = forget

    def kept(self, n: int) -> int:
        """How many samples of a batch of n are trained on in this epoch."""
        return max(1, int((1 - self.forget * min(self.epoch / self.ramp, 1)) * n))

    def losses(self, logits: Sequence[Tensor], targets: Tensor) -> Tensor:
        """Losses that each network's samples are chosen by, and trained on, (2, N)."""
        raise NotImplementedError

    def train_step(self, inputs: Any, targets: Tensor) -> dict[str, Tensor]:
        with self._autocast():
            logits = [self.forward(model, inputs).float() for model in self.models]
        losses = self.losses(logits, targets)
        small = losses.detach().topk(self.kept(len(targets)), largest=False).indices
        loss = losses.gather(1, small.flip(0)).mean(1).sum()
        self.backward(loss)
        return {"loss": loss.detach()}


class CoTeaching(SmallLoss):
    """Each network trains on the samples of small loss that the other names.

    Han et al., *Co-teaching*, NeurIPS 2018, arXiv 1804.06872.
    """

    def losses(self, logits: Sequence[Tensor], targets: Tensor) -> Tensor:
        return torch.stack([F.cross_entropy(z, targets, reduction="none") for z in logits])


class JoCoR(SmallLoss):
    """Both networks train on the samples of small joint loss, and are drawn to agree.

    Wei et al., *Combating noisy labels by agreement*, CVPR 2020, arXiv 2003.02752: with μ = 0.9
    the joint loss of a sample is (1 − μ)(CE_A + CE_B) + μ(KL(A‖B) + KL(B‖A)).
    """

    agreement = 0.9  # μ

    def losses(self, logits: Sequence[Tensor], targets: Tensor) -> Tensor:
        a, b = logits
        supervised = F.cross_entropy(a, targets, reduction="none")
        supervised = supervised + F.cross_entropy(b, targets, reduction="none")
        agreed = symmetric_kl_loss(a, b, reduction="none")
        joint = (1 - self.agreement) * supervised + self.agreement * agreed
        return (joint / 2).expand(2, -1)


# the paper's Table 2: signal, exchange, consistency; all else is the defaults, so with decoys
ABLATIONS: dict[str, dict[str, Any]] = {
    "resup": {},
    "loss": {"signal": "loss", "exchange": "own", "consistency_weight": 0},
    "similarity": {"exchange": "own", "consistency_weight": 0},
    "loss+exchange": {"signal": "loss", "consistency_weight": 0},
    "similarity+exchange": {"consistency_weight": 0},
    "loss+exchange+consistency": {"signal": "loss"},
}
# the estimator of the authors' program, and its way to the similarities
AS_PUBLISHED = {"mixture": BetaMixture.as_published(), "similarities": "pass"}
RESUP: dict[str, dict[str, Any]] = {
    **ABLATIONS,
    **{f"{name}-published": own | AS_PUBLISHED for name, own in ABLATIONS.items()},
    "resup-beta": {"mixture": BetaMixture()},
    "resup-pass": {"similarities": "pass"},
    # of Figure 5
    "jocowe": {"exchange": "mean", "consistency": SymmetricKLLoss(), "consistency_scale": 0.1},
}
METHODS = ("plain", *RESUP, "resup-told", "jocor", "co-teaching")


def make(
    method: str,
    networks: Sequence[nn.Module],
    optimizer: torch.optim.Optimizer,
    scheduler: Any,
    *,
    epochs: int,
    noise_rate: float,
    consistency_weight: float = 5.0,
    **settings: Any,
) -> CoTrainer:
    """Build the trainer of a method.

    `noise_rate` is for the methods that must be told it, `consistency_weight` is λ for those that
    have one, and `settings` go to `CoTrainer`.
    """
    if method == "plain":
        settings |= {"warmup_epochs": epochs, "consistency_weight": 0}
        return CoTrainer(networks, optimizer, scheduler, **settings)
    if method in ("jocor", "co-teaching"):
        kind = JoCoR if method == "jocor" else CoTeaching
        return kind(networks, optimizer, scheduler, forget=noise_rate, **settings)
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    if method == "resup-told":
        settings |= {"mixture": DecoyMixture(noise_rate=noise_rate)}
    own = dict(RESUP.get(method, {}))
    scale = own.pop("consistency_scale", 1)
    return CoTrainer(
        networks,
        optimizer,
        scheduler,
        **{"consistency_weight": scale * consistency_weight, **own, **settings},
    )
