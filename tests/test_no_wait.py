"""A step asks no value of its device: on torch's meta device, which has none, a look raises."""

from contextlib import nullcontext

import pytest
import small
import torch
from sklearn.mixture import GaussianMixture
from torch.nn.functional import softmax

from resup import BetaMixture, SymmetricKLLoss


@pytest.fixture(autouse=True)
def _no_autocast(monkeypatch):
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # meta has none


def looks(logits, targets):
    probability = softmax(logits, -1)
    return probability[:, 0] if probability.sum() > 0 else probability[:, 1]


def two_steps(**options):
    trainer = small.trainer([model.to("meta") for model in small.pair()], **options)
    trainer.epoch = 1  # after the warm-up
    x, y = (v.to("meta") for v in small.data(64).tensors)
    for balanced in (False, trainer.weigher.decoys is not None):
        trainer.weigher.balanced = balanced
        values = trainer.train_step(x, y)
        trainer.optimizer_step()
        trainer._done.add(values, len(y))
    return values


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"autocast": torch.bfloat16},
        {"clip_grad_norm": 1.0},
        {"mixture": BetaMixture()},
        {"mixture": GaussianMixture(2)},
        {"signal": "loss"},
        {"exchange": "own"},
        {"exchange": "mean"},
        {"weight_threshold": 0.5},
        {"consistency": SymmetricKLLoss()},
    ],
    ids=lambda options: ", ".join(options) or "defaults",
)
def test_a_step_reads_nothing_back(options):
    assert {value.device.type for value in two_steps(**options).values()} == {"meta"}


def test_a_look_would_be_seen():
    with pytest.raises(RuntimeError, match="meta"):
        two_steps(signal=looks)
