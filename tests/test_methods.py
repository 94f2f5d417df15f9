"""The methods of the paper's tables, by name, and their schedule."""

import numpy as np
import pytest
import torch
from paper import methods, run
from torch import nn


def toy(method, epochs=4, **settings):
    torch.manual_seed(0)
    x = torch.randn(256, 6)
    y = x[:, :3].argmax(1)
    y[:64] = (y[:64] + 1) % 3
    pair = [nn.Linear(6, 3), nn.Linear(6, 3)]
    optimizer = torch.optim.Adam([p for n in pair for p in n.parameters()], 0.05)
    trainer = methods.make(
        method, pair, optimizer, None, epochs=epochs, noise_rate=0.25, progress=False, **settings
    )
    return trainer.fit([(x[i : i + 64], y[i : i + 64]) for i in range(0, 256, 64)], epochs)


@pytest.mark.parametrize("method", methods.METHODS)
def test_every_method_trains(method):
    trainer = toy(method)
    assert trainer.history[-1]["loss"] < trainer.history[0]["loss"]
    assert np.isfinite([record["loss"] for record in trainer.history]).all()


def test_settings_of_the_methods():
    assert toy("plain", 1).consistency_weight == 0
    assert toy("jocowe", 1).consistency_weight == pytest.approx(0.5)
    assert toy("resup", 1, consistency_weight=2).consistency_weight == 2
    assert toy("similarity", 1, consistency_weight=2).consistency_weight == 0
    with pytest.raises(ValueError, match="method must be one of plain"):
        toy("mixup")


def test_small_losses_are_kept():
    """The share kept falls by the epoch, and what is left out does not move the networks."""
    trainer = toy("co-teaching", 0)
    trainer.epoch = 5
    assert trainer.kept(100) == 87
    trainer.epoch = 50
    assert trainer.kept(100) == 75
    assert trainer.kept(1) == 1
    for name in ("co-teaching", "jocor"):
        trainer = toy(name, 0)
        trainer.epoch = 50
        for model in trainer.models:  # sample 3 has by far the largest loss in both
            nn.init.zeros_(model.weight)
            model.bias.data = torch.tensor([5.0, 0.0, 0.0])
        x = torch.eye(4, 6)
        trainer.train_step(x, torch.tensor([0, 0, 0, 2]))
        for model in trainer.models:
            assert (model.weight.grad[:, 3] == 0).all()
            assert (model.weight.grad[:, 0] != 0).any()


def test_late_decay():
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.Adam([parameter], lr=1e-3)
    scheduler = run.LateDecay(optimizer, 200)
    rates, betas = [], []
    for _ in range(200):
        rates.append(optimizer.param_groups[0]["lr"])
        betas.append(optimizer.param_groups[0]["betas"][0])
        optimizer.step()
        scheduler.step()
    assert rates[80] == pytest.approx(1e-3)
    assert rates[140] == pytest.approx(0.5e-3)
    assert rates[199] == pytest.approx(1e-3 / 120)
    assert betas[79:81] == [0.9, 0.1]
