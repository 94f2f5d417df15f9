"""One process of test_distributed.py; started by torchrun."""

import sys

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset, DistributedSampler, TensorDataset

from resup import CoTrainer, SampleWeigher


def batch(n=3001, c=5, networks=2):
    generator = torch.Generator().manual_seed(0)
    targets = torch.randint(c, (n,), generator=generator)
    shown = torch.where(torch.rand(n, generator=generator) < 0.7, targets, (targets + 1) % c)
    logits = torch.randn(networks, n, c, generator=generator)
    logits[:, torch.arange(n), shown] += 4
    return logits, targets


def weigh(rank, world):
    """Uneven shards: rank r holds every sample whose index is r modulo world, rank 0 a few more."""
    logits, targets = batch()
    weigher = SampleWeigher()
    weigher(logits[:, rank::world], targets[rank::world])
    weigher.refit()
    return [[*m.alphas_, *m.betas_, *m.weights_] for m in weigher.mixtures_]


def data() -> Dataset:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(203, 6, generator=generator)
    return TensorDataset(x, x[:, :3].argmax(1))


def train(rank, world):
    torch.manual_seed(0)
    nets = [nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3)) for _ in "ab"]
    nets = [DistributedDataParallel(net) for net in nets]
    optimizer = torch.optim.Adam([p for net in nets for p in net.parameters()], 1e-2)
    trainer = CoTrainer(nets, optimizer, progress=False)
    sampler = DistributedSampler(data(), world, rank, shuffle=True)
    trainer.fit(DataLoader(data(), 16, sampler=sampler), 6, DataLoader(data(), 64))
    weights = [p.sum().item() for net in nets for p in net.parameters()]
    return [weights, trainer.history]


if __name__ == "__main__":
    dist.init_process_group("gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    mine = {"weigh": weigh, "train": train}[sys.argv[1]](rank, world)
    everyones = [None] * world
    dist.all_gather_object(everyones, mine)
    if rank == 0:
        torch.save(everyones, sys.argv[2])
    dist.destroy_process_group()
