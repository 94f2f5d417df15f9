"""One process of test_distributed.py and test_recipes.py; started by torchrun or as it would."""

import functools
import os
import runpy
import sys
import time
import warnings
from datetime import timedelta
from pathlib import Path
from unittest import mock

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset, DistributedSampler, TensorDataset

from resup import BetaMixture, CoTrainer, DecoyMixture, SampleWeigher
from resup.callbacks import Callback
from resup.distributed import warn_if_apart

MIXTURES = {"beta": BetaMixture, "decoy": DecoyMixture}


def batch(n=3001, c=5, networks=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(c, (n,), generator=generator)
    shown = torch.where(torch.rand(n, generator=generator) < 0.7, targets, (targets + 1) % c)
    logits = torch.randn(networks, n, c, generator=generator)
    logits[:, torch.arange(n), shown] += 4
    return logits, targets


def weigh(rank, world, epochs=2, batches=3):
    """States of the weighers; rank r is given r + 1 shares of each batch."""
    states = {}
    for name, mixture in MIXTURES.items():
        weigher = SampleWeigher(mixture())
        for epoch in range(epochs):
            for i in range(batches):
                logits, targets = batch(seed=epoch * batches + i)
                first, end = (
                    len(targets) * r * (r + 1) // (world * (world + 1)) for r in (rank, rank + 1)
                )
                weigher(logits[:, first:end], targets[first:end])
            weigher.refit()
        states[name] = {k: v.clone() for k, v in weigher.state_dict().items()}
    return states


def traffic(rank, world):
    """Bytes that each process gives to all_reduce in an epoch of `CoTrainer`."""
    moved = []
    all_reduce = dist.all_reduce

    def counted(tensor, *args, **kwargs):
        moved.append(tensor.nbytes)
        return all_reduce(tensor, *args, **kwargs)

    table = {}
    for name, mixture in MIXTURES.items():
        for classes, samples in ((10, 200), (10, 2000), (100, 2000)):
            nets = nn.Linear(4, classes), nn.Linear(4, classes)
            optimizer = torch.optim.SGD([p for net in nets for p in net.parameters()], 0.1)
            trainer = CoTrainer(nets, optimizer, mixture=mixture(), progress=False)
            x, y = torch.randn(samples, 4), torch.randint(classes, (samples,))
            moved.clear()
            with mock.patch.multiple(dist, all_reduce=counted, all_gather_object=None):
                trainer.fit(DataLoader(TensorDataset(x, y), 100), 1)
            table[name, classes, samples] = sum(moved)
    return table


def data() -> Dataset:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(203, 6, generator=generator)
    return TensorDataset(x, x[:, :3].argmax(1))


def train(rank, world, callbacks=(), stream=lambda loader: loader):
    torch.manual_seed(0)
    nets = [nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3)) for _ in "ab"]
    nets = [DistributedDataParallel(net) for net in nets]
    optimizer = torch.optim.Adam([p for net in nets for p in net.parameters()], 1e-2)
    trainer = CoTrainer(nets, optimizer, callbacks=callbacks, progress=False)
    sampler = DistributedSampler(data(), world, rank, shuffle=True)
    loader = stream(DataLoader(data(), 16, sampler=sampler))
    trainer.fit(loader, 6, DataLoader(data(), 64))
    weights = [p.sum().item() for net in nets for p in net.parameters()]
    return [weights, trainer.history]


def uneven(rank, world):
    """What is said where one process has more batches than another."""
    nets = nn.Linear(6, 3), nn.Linear(6, 3)
    optimizer = torch.optim.SGD([p for net in nets for p in net.parameters()], 0.1)
    trainer = CoTrainer(nets, optimizer, progress=False)
    try:
        trainer.fit(DataLoader(data(), 20 + 20 * rank), 1)
    except ValueError as error:
        return str(error)


def absent(rank, world):
    """State of a weigher after an epoch in which only the first process had a batch."""
    weigher = SampleWeigher()
    for epoch in range(2):
        if rank == 0 or epoch:
            logits, targets = batch(seed=epoch)
            weigher(logits[:, rank::world], targets[rank::world])
        weigher.refit()
    return {k: v.clone() for k, v in weigher.state_dict().items() if "shift" not in k}


def differing(rank, world):
    """What is said where the processes are not about to do the same."""
    said = []
    loader = DataLoader(data(), 20)
    path = Path(sys.argv[2]).with_name("run.pt")
    cases = (
        (0, {"checkpoint": path}),
        (0, {"val_loader": loader}),
        (1, {"epochs": 2}),
        (0, {"epochs": 3}),
        (0, {}, {"consistency_weight": 0}),
        (0, {}, {"accumulate": 2}),
        (0, {}, {"mixture": BetaMixture()}),
    )
    for epoch, options, *settings in cases:
        nets = nn.Linear(6, 3), nn.Linear(6, 3)
        optimizer = torch.optim.SGD([p for net in nets for p in net.parameters()], 0.1)
        own = settings[0] if settings and rank == 0 else {}
        trainer = CoTrainer(nets, optimizer, progress=False, **own)
        trainer.epoch = epoch * rank
        try:
            trainer.fit(loader, **{"epochs": 2} | (options if rank == 0 else {}))
        except ValueError as error:
            said.append(str(error))
    return said


def evaluated(rank, world):
    """Accuracies where only the first process has samples."""
    nets = [nn.Linear(3, 3) for _ in "ab"]
    for net in nets:
        nn.init.eye_(net.weight)
    optimizer = torch.optim.SGD([p for net in nets for p in net.parameters()], 0.1)
    batches = [] if rank else [(torch.eye(3), torch.arange(3))]
    return CoTrainer(nets, optimizer, progress=False).evaluate(batches)


def alone(rank, world):
    """What only the first process looks at, with networks that have buffers."""
    torch.manual_seed(0)
    nets = [nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.Linear(16, 3)) for _ in "ab"]
    nets = [DistributedDataParallel(net) for net in nets]
    optimizer = torch.optim.Adam([p for net in nets for p in net.parameters()], 1e-2)
    trainer = CoTrainer(nets, optimizer, progress=False)
    sampler = DistributedSampler(data(), world, rank, shuffle=True)
    held_out = DataLoader(data(), 64) if rank == 0 else []
    trainer.fit(DataLoader(data(), 16, sampler=sampler), 2, held_out)
    if rank == 0:
        assert len(trainer.report(held_out).index) == 203
    buffers = [buffer.tolist() for net in nets for buffer in net.buffers()]
    return [trainer.history, buffers]


class Extra(CoTrainer):
    """Gives another value in every second step, and one more in the first process only."""

    given = 0

    def train_step(self, inputs, targets):
        self.given += 1
        tens = (self.given + dist.get_rank()) % 2
        more = {"tens": torch.tensor(10.0)} if tens else {"ones": torch.tensor(1.0)}
        if dist.get_rank() == 0:
            more["first"] = torch.tensor(3.0)
        return super().train_step(inputs, targets) | more


def means(rank, world):
    """Means of values that the processes give in another order, or not at all."""
    nets = nn.Linear(6, 3), nn.Linear(6, 3)
    optimizer = torch.optim.SGD([p for net in nets for p in net.parameters()], 0.1)
    trainer = Extra(nets, optimizer, progress=False).fit(DataLoader(data(), 20), 1)
    return {name: trainer.history[0][name] for name in ("ones", "tens", "first")}


def classes(rank, world):
    """What is said where the processes see another number of classes."""
    weigher = SampleWeigher()
    weigher(*batch(c=3 + 2 * rank))
    try:
        weigher.refit()
    except ValueError as error:
        return str(error)


class Lost(Callback):
    """Rank 1 leaves in the middle of the third epoch."""

    def __init__(self, how):
        self.how = how

    def on_step_end(self, trainer, values):
        if dist.get_rank() == 1 and trainer.epoch == 2:
            if self.how == "dies":
                os._exit(1)
            time.sleep(600)


def recipe(rank, world, path):
    """Run a recipe; whether each refit had exactly the counts of this process's own batches."""
    exact, own = [], torch.zeros(())
    forward, refit = SampleWeigher.forward, SampleWeigher.refit

    def counted(self, *args, **kwargs):
        nonlocal own
        before = self.seen.counts.clone()
        weights = forward(self, *args, **kwargs)
        own = own + self.seen.counts - before
        return weights

    def checked(self):
        nonlocal own
        exact.append([torch.equal(own, self.seen.counts), self.seen.counts.sum(1).tolist()])
        own = torch.zeros(())
        refit(self)

    SampleWeigher.forward, SampleWeigher.refit = counted, checked
    if "lightning" in path:
        import lightning

        lightning.Trainer = functools.partial(
            lightning.Trainer, accelerator="cpu", devices=world, strategy="ddp"
        )
    os.chdir(Path(sys.argv[2]).parent)  # Lightning writes checkpoints
    names = runpy.run_path(path)
    return [exact, names["probability"]]


class Averaging(CoTrainer):
    """Averages gradients by hand."""

    def optimizer_step(self):
        for p in (p for model in self.models for p in model.parameters()):
            dist.all_reduce(p.grad)
            p.grad /= dist.get_world_size()
        super().optimizer_step()


def apart(rank, world):
    """What `fit` warns of by how gradients are exchanged, and of shards, which differ."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FullyShardedDataParallel

    try:
        from torch.distributed.fsdp import fully_shard
    except ImportError:  # before torch 2.6
        from torch.distributed._composable.fsdp import fully_shard

    said = {}
    loader = DataLoader(data(), 16, sampler=DistributedSampler(data(), world, rank))
    for name, kind, wrap in (
        ("not", CoTrainer, lambda net: net),
        ("by hand", Averaging, lambda net: net),
        ("wrapped", CoTrainer, DistributedDataParallel),
        ("one", CoTrainer, lambda net: DistributedDataParallel(net) if len(net) == 3 else net),
    ):
        torch.manual_seed(0)
        hidden = nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3)
        nets = [wrap(net) for net in (nn.Sequential(nn.Linear(6, 3)), nn.Sequential(*hidden))]
        optimizer = torch.optim.SGD([p for net in nets for p in net.parameters()], 0.1)
        with warnings.catch_warnings(record=True) as told:
            kind(nets, optimizer, progress=False).fit(loader, 2)
        said[name] = [(str(each.message), each.filename == __file__) for each in told]
    sharded = nn.Linear(6, 3), nn.Linear(6, 3)
    for net in sharded:
        fully_shard(net, mesh=init_device_mesh("cpu", (world,)))
    flat = [FullyShardedDataParallel(nn.Linear(6, 3), device_id=torch.device("cpu")) for _ in "ab"]
    with warnings.catch_warnings(record=True) as told:
        warn_if_apart(sharded, torch.device("cpu"))
        warn_if_apart(flat, torch.device("cpu"))
        torch.manual_seed(0)
        warn_if_apart([nn.Linear(6, 3, dtype=torch.complex64) for _ in "ab"], torch.device("cpu"))
    said["shards"] = [str(each.message) for each in told]
    for name, nets in {"fully_shard": sharded, "flat": flat}.items():
        trainer = CoTrainer(nets, torch.optim.SGD([p for n in nets for p in n.parameters()], 0.1))
        for option in ("checkpoint", "resume"):
            try:
                trainer.fit(loader, 1, **{option: "run.pt"})
            except ValueError as error:
                said["shards"].append(f"{name}: {error}")
    try:
        CoTrainer(flat, trainer.optimizers, clip_grad_norm=1.0)
    except ValueError as error:
        said["shards"].append(str(error))
    return said


def sharded(rank, world):
    """Histories of a run and of one that was broken off, the state of Adam being shared out."""
    from torch.distributed.optim import ZeroRedundancyOptimizer  # its import warns

    def run(epochs, **paths):
        torch.manual_seed(0)
        nets = [DistributedDataParallel(nn.Linear(6, 3)) for _ in "ab"]
        parameters = [p for net in nets for p in net.parameters()]
        optimizer = ZeroRedundancyOptimizer(parameters, torch.optim.Adam, lr=1e-2)
        sampler = DistributedSampler(data(), world, rank)
        trainer = CoTrainer(nets, optimizer, progress=False)
        return trainer.fit(DataLoader(data(), 16, sampler=sampler), epochs, **paths).history

    path = Path(sys.argv[2]).with_name("zero.pt")
    run(2, checkpoint=path)
    return run(4), run(4, checkpoint=path, resume=path)


class Unsized:
    def __init__(self, loader):
        self.loader = loader

    def __iter__(self):
        yield from self.loader


def lose(how):
    timeout = timedelta(seconds=40) if how == "hangs" else None
    dist.init_process_group("gloo", timeout=timeout)
    stream = {"stream": Unsized} if how == "dies" else {}
    train(dist.get_rank(), dist.get_world_size(), [Lost(how)], **stream)


if __name__ == "__main__":
    what, *arguments = sys.argv[1:]
    if what in ("dies", "hangs"):
        sys.exit(lose(what))
    dist.init_process_group("gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    everyones = [None] * world
    works = (
        weigh,
        traffic,
        train,
        uneven,
        absent,
        differing,
        evaluated,
        alone,
        means,
        classes,
        apart,
        sharded,
        recipe,
    )
    work = {f.__name__: f for f in works}
    out, *arguments = arguments
    mine = {name: work[name](rank, world, *arguments) for name in what.split(",")}
    dist.all_gather_object(everyones, mine)
    if rank == 0:
        torch.save(everyones, out)
    dist.destroy_process_group()
    sys.stdout.flush()
    os._exit(0)  # threads of gloo outlive the group: one that waits for the interpreter aborts
