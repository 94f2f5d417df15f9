"""A training run that test_checkpoint.py kills and starts again."""

import random
import sys
import time

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from resup import CoTrainer
from resup.callbacks import Callback

EPOCHS = 6


class Slow(Callback):
    def on_step_end(self, trainer, values):
        print(f"step {trainer.epoch}", flush=True)
        time.sleep(0.01)


def augmented(batch):
    """Draws from all the global generators, as augmentation does."""
    x, y = batch
    return x + 0.1 * torch.randn_like(x) + 0.1 * random.random() + 0.1 * np.random.rand(), y  # noqa: NPY002


def make(callbacks=(), **loading):
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002
    x = torch.randn(300, 6)
    data = TensorDataset(
        x, torch.where(torch.rand(300) < 0.3, 2 - x[:, :3].argmax(1), x[:, :3].argmax(1))
    )
    nets = [
        nn.Sequential(
            nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 3)
        )
        for _ in "ab"
    ]
    optimizer = torch.optim.Adam([p for net in nets for p in net.parameters()], 1e-2)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5)
    trainer = CoTrainer(
        nets, optimizer, scheduler, unpack=augmented, callbacks=callbacks, progress=False
    )
    generator = torch.Generator().manual_seed(7)
    return trainer, DataLoader(data, 20, shuffle=True, generator=generator, **loading)


def outcome(trainer):
    return [
        p.tolist() for net in trainer.models for p in net.state_dict().values()
    ], trainer.history


if __name__ == "__main__":
    trainer, loader = make([Slow()], num_workers=int(sys.argv[3]))
    trainer.fit(loader, EPOCHS, checkpoint=sys.argv[1], resume=sys.argv[1])
    torch.save(outcome(trainer), sys.argv[2])
