"""Small networks, data for them, and a trainer of a pair."""

import torch
from torch import nn
from torch.utils.data import TensorDataset

from resup import CoTrainer


def net(width=16, features=6, classes=3):
    return nn.Sequential(
        nn.Linear(features, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, classes)
    )


def pair():
    return net(), net(24)


def data(n=160):
    x = torch.randn(n, 6)
    return TensorDataset(x, x[:, :3].argmax(1))


def adam(*models, lr=1e-2):
    return torch.optim.Adam([p for m in models for p in m.parameters()], lr=lr)


def trainer(models=None, **options):
    models = models or pair()
    return CoTrainer(models, adam(*models), progress=False, **options)


def states(models):
    return [v for m in models for v in m.state_dict().values()]


def assert_same(first, second):
    for a, b in zip(states(first), states(second), strict=True):
        assert torch.equal(a, b)


def logits_like_a_network(n=2000, c=5, networks=2):
    targets = torch.randint(c, (n,))
    logits = torch.randn(networks, n, c)
    right = torch.rand(n) < 0.7
    shown = torch.where(right, targets, (targets + 1) % c)
    logits[:, torch.arange(n), shown] += 4
    return logits, targets, right


def label_probability(logits, targets):
    return logits.softmax(1).gather(1, targets[:, None])[:, 0]
