"""Any loader: what it is asked, and what it may not do."""

import copy
import os
import random
import signal

import numpy as np
import pytest
import torch
from small import data, trainer
from torch.utils.data import (
    BatchSampler,
    ChainDataset,
    ConcatDataset,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
    StackDataset,
    Subset,
    SubsetRandomSampler,
    WeightedRandomSampler,
)
from tqdm import tqdm

from resup import loaders
from resup.callbacks import Callback

DATA = range(240)


class Streamed(IterableDataset):
    """A data set without a length."""

    def __iter__(self):
        return iter(data(240))


class Numbered(Dataset):
    """Samples with their numbers."""

    def __init__(self):
        torch.manual_seed(1)
        self.samples = data(240)

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, i):
        return *self.samples[i], i


class WithoutLength(Sampler):
    """A sampler without a length."""

    def __iter__(self):
        return iter(DATA)


class Unsized(DataLoader):
    def __len__(self):
        raise NotImplementedError


@pytest.mark.parametrize("kind", [DataLoader, Unsized])
def test_a_loader_without_a_length(kind):
    t = trainer().fit(kind(Streamed(), 30), 2)
    assert t.epoch == 2
    assert t.clean_probability(DataLoader(Streamed(), 30)).shape == (240,)


def test_a_data_set_that_gives_batches_is_a_loader():
    class Batched(IterableDataset):
        def __iter__(self):
            return iter(DataLoader(data(240), 30))

    assert len(trainer().fit(Batched(), 1).clean_probability(Batched())) == 240


def test_errors_that_a_lost_worker_causes():
    lost = RuntimeError("DataLoader worker (pid 5) is killed"), ConnectionResetError(), EOFError()
    assert all(map(loaders.is_lost_worker, lost))
    assert not loaders.is_lost_worker(RuntimeError("shapes do not match"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 30, "shuffle": True}, r"shuffles \(RandomSampler\)"),
        ({"batch_sampler": BatchSampler(RandomSampler(DATA), 30, False)}, "shuffles"),
        ({"batch_size": 30, "sampler": SubsetRandomSampler(DATA)}, "shuffles"),
        ({"batch_size": 30, "sampler": WeightedRandomSampler(torch.ones(240), 240)}, "shuffles"),
        ({"batch_size": 30, "sampler": DistributedSampler(DATA, 1, 0)}, "shuffles"),
        ({"batch_size": 50, "drop_last": True}, "drops its last samples"),
        ({"batch_sampler": BatchSampler(SequentialSampler(DATA), 50, True)}, "drops"),
        ({"batch_sampler": BatchSampler(WithoutLength(), 60, True)}, "drops"),
    ],
)
def test_orders_that_mean_nothing(options, message):
    loader = DataLoader(data(240), **options)
    t = trainer().fit(loader, 1)
    with pytest.raises(ValueError, match=f"loader {message}"):
        t.clean_probability(loader)
    InOrder = type("InOrder", (SequentialSampler,), {"shuffle": lambda self: None})
    unshuffled = DistributedSampler(DATA, 1, 0, shuffle=False)
    for fine in ({"sampler": unshuffled}, {"sampler": InOrder(DATA)}, {"drop_last": True}):
        assert len(t.clean_probability(DataLoader(data(240), 60, **fine))) == 240


def test_batches_as_they_are_ready_mean_nothing():
    loader = DataLoader(data(), 40, num_workers=1)
    loader.in_order = False  # an option of newer versions of torch
    with pytest.raises(ValueError, match="loader gives batches as they are ready"):
        loaders.check_order(loader)
    in_process, with_workers = DataLoader(data(), 40), DataLoader(data(), 40, num_workers=1)
    in_process.in_order = False
    for fine in (in_process, with_workers):
        loaders.check_order(fine)


def test_a_loader_is_told_the_epoch():
    class Told(DataLoader):
        def set_epoch(self, epoch):
            epochs.append(epoch)

    epochs = []
    trainer().fit(tqdm(Told(data(), 40), disable=True), 3)
    assert epochs == [0, 1, 2]


def test_data_sets_are_told_the_epoch():
    class Told(Streamed):
        def set_epoch(self, epoch):
            epochs.append(epoch)

    epochs = []
    trainer().fit(DataLoader(ChainDataset([Told()]), 40), 3)
    assert epochs == [0, 1, 2]


class Generated(DataLoader):
    def __iter__(self):
        yield from super().__iter__()


class Adapter:
    """Holds a loader, as Accelerate's do."""

    persistent_workers = True

    def __init__(self, *args, **options):
        self.base_dataloader = DataLoader(*args, **options)

    def __iter__(self):
        yield from self.base_dataloader


@pytest.mark.parametrize("kind", [DataLoader, Generated, Adapter])
def test_workers_behind_a_progress_bar_are_started(kind):
    """As an epoch of an uninterrupted run does, before random states are put back."""
    loader = kind(data(), 40, num_workers=1, persistent_workers=True)
    loaders.start_workers(tqdm(loader, disable=True))
    before = torch.get_rng_state()
    next(iter(loader))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("inside", [False, True])
def test_a_distributed_sampler_is_told_the_epoch(inside):
    sampler, orders = DistributedSampler(DATA, 1, 0), []

    class Orders(Callback):
        def on_epoch_end(self, trainer, record):
            orders.append(list(sampler))

    plain = {"sampler": sampler, "batch_size": 30}
    options = {"batch_sampler": BatchSampler(sampler, 30, False)} if inside else plain
    trainer(callbacks=[Orders()]).fit(DataLoader(data(240), **options), 2)
    assert orders[0] != orders[1]


GENERATORS = {
    "numpy": lambda: np.random.Generator(np.random.MT19937(3)),  # its state has an array
    "python": lambda: random.Random(3),
    "legacy": lambda: np.random.RandomState(3),
}


class Shuffled(Sampler):
    """An order from a generator that is not torch's."""

    def __init__(self, rng):
        self.rng = rng

    def __iter__(self):
        order = list(range(len(DATA)))
        self.rng.shuffle(order)
        return iter(order)

    def __len__(self):
        return len(DATA)


class Redrawn(Shuffled):
    """An order that `set_epoch` draws from the global generator."""

    def set_epoch(self, epoch):
        self.order = torch.randperm(len(DATA)).tolist()

    def __iter__(self):
        return iter(self.order)


class Reseeded(Shuffled):
    """Draws sample by sample from a generator that `set_epoch` seeds."""

    def set_epoch(self, epoch):
        self.rng.seed(epoch)

    def __iter__(self):
        return (self.rng.randrange(len(DATA)) for _ in DATA)


class Uneven(Sampler):
    """Batches whose number is known once they are drawn; until then it is that of before."""

    batches = (DATA,)

    def __iter__(self):
        self.batches = torch.randperm(len(DATA)).split(int(torch.randint(20, 50, ())))
        return iter([batch.tolist() for batch in self.batches])

    def __len__(self):
        return len(self.batches)


SAMPLERS = {
    "own": lambda: RandomSampler(DATA, generator=torch.Generator().manual_seed(3)),
    "redrawn": lambda: Redrawn(None),
    "reseeded": lambda: Reseeded(random.Random(3)),
    **{name: lambda new=new: Shuffled(new()) for name, new in GENERATORS.items()},
}


@pytest.mark.skipif(os.name == "nt", reason="has no SIGTERM")
@pytest.mark.parametrize(
    "options",
    [
        {"shuffle": True},
        {"sampler": "redrawn"},
        {"sampler": "reseeded"},
        {"batch_sampler": Uneven},
        {"sampler": "own"},
        {"sampler": "numpy"},
        {"sampler": "python"},
        {"sampler": "legacy"},
        {"shuffle": True, "num_workers": 1, "persistent_workers": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("stopped_at", [4, 12, 16])
def test_an_interrupted_epoch_goes_on_with_the_samples_left(options, stopped_at, tmp_path):
    seen = []

    def unpack(batch):
        seen.append(batch[2])
        return batch[:2]

    class Stop(Callback):
        def on_step_end(self, trainer, values):
            if len(seen) == stopped_at:
                os.kill(os.getpid(), signal.SIGTERM)

    def run(callbacks=(), **paths):
        own = dict(options)
        if "sampler" in own:
            own["sampler"] = SAMPLERS[own["sampler"]]()
        if "batch_sampler" in own:
            own["batch_sampler"] = own["batch_sampler"]()
        else:
            own["batch_size"] = 30
        t = trainer(unpack=unpack, callbacks=callbacks)
        return t.fit(DataLoader(Numbered(), **own), 3, **paths)

    torch.manual_seed(0)
    straight = run()
    order = torch.cat(seen)
    seen.clear()
    path = tmp_path / "checkpoint.pt"
    torch.manual_seed(0)
    with pytest.raises(SystemExit):
        run([Stop()], checkpoint=path)
    torch.manual_seed(99)
    resumed = run(resume=path)
    assert torch.equal(torch.cat(seen), order)
    assert resumed.history == straight.history


def test_an_epoch_that_other_processes_began_begins_anew(tmp_path, monkeypatch):
    class Stop(Callback):
        def on_step_end(self, trainer, values):
            if trainer.epoch == 1:
                trainer._stop_soon()

    path = tmp_path / "c.pt"
    with pytest.raises(SystemExit):
        trainer(callbacks=[Stop()]).fit(DataLoader(data(240), 30), 2, checkpoint=path)
    monkeypatch.setattr("resup.saved.world_size", lambda: 2)
    with pytest.warns(UserWarning, match="epoch 2 begins anew, .* with 1 processes, got 2"):
        t = trainer().fit(DataLoader(data(120), 30), 2, resume=path)
    assert t.weigher.fitted_counts.sum(1).tolist() == [120, 120]


@pytest.mark.skipif(os.name == "nt", reason="has no SIGTERM")
def test_an_error_after_sigterm_is_raised(tmp_path, monkeypatch):
    class Stop(Callback):
        def on_step_end(self, trainer, values):
            os.kill(os.getpid(), signal.SIGTERM)

    def full(*_):
        raise RuntimeError("failed writing file")

    monkeypatch.setattr("resup.saved.save_checkpoint", full)
    with pytest.raises(RuntimeError, match="failed writing file"):
        trainer(callbacks=[Stop()]).fit(DataLoader(data(), 40), 2, checkpoint=tmp_path / "c.pt")


def test_going_on_with_a_shorter_loader():
    class Keep(Callback):
        def on_step_end(self, trainer, values):
            states.append(copy.deepcopy(trainer.state_dict()))

    states = []
    trainer(callbacks=[Keep()]).fit(DataLoader(data(240), 30), 1)
    t = trainer()
    t.load_state_dict(states[5])
    with pytest.raises(ValueError, match="must give 8 batches as when this epoch was begun, got 4"):
        t.fit(DataLoader(data(240), 60), 2)
    assert t._done.steps == 6  # which are not done again
    assert t.fit(DataLoader(data(240), 30), 2).epoch == 2


def test_looking_at_labels_draws_nothing():
    """A DataLoader draws a seed for its workers, which must not move the training."""
    weights = []
    for val_loader in (None, DataLoader(data(), 50)):
        torch.manual_seed(0)
        t = trainer().fit(DataLoader(data(), 40, shuffle=True), 3, val_loader)
        weights.append(t.models[0][0].weight)
    torch.testing.assert_close(*weights, rtol=0, atol=0)


def test_a_source_without_a_state_is_left_alone():
    loader = DataLoader(DATA, sampler=Shuffled(random.SystemRandom()))
    assert loaders.generators(loader) == []


def test_the_generator_of_a_wrapped_loader_is_found():
    class Wrapped:
        def __init__(self, loader):
            self.loader = loader

        def __getattr__(self, name):
            return getattr(self.loader, name)

    generator = torch.Generator()
    assert loaders.generators(Wrapped(DataLoader(DATA, generator=generator))) == [generator]


def test_generators_in_joined_data_sets_and_progress_bars_are_found():
    class Noisy(Numbered):
        def __init__(self):
            super().__init__()
            self.rng = np.random.default_rng(0)

    parts = [Noisy(), Noisy(), Noisy()]
    together = ConcatDataset([*parts[:2], StackDataset(x=parts[2], y=DATA)])
    loader = DataLoader(Subset(together, range(4)), generator=torch.Generator())
    found = loaders.generators(tqdm(loader, disable=True))
    assert {*map(id, found)} == {*map(id, (loader.generator, *(part.rng for part in parts)))}
    assert loaders.samplers(tqdm(loader, disable=True)) == loaders.samplers(loader)


class Failing(Dataset):
    """Fails once, at the sample numbered `fails_at`."""

    fails_at = None

    def __len__(self):
        return 240

    def __getitem__(self, i):
        if i == self.fails_at:
            self.fails_at = None
            raise OSError("network drive away")
        return torch.randn(6), i % 3


@pytest.mark.filterwarnings("ignore:network . tells given labels from others hardly")
def test_an_error_in_the_batches_that_are_done_changes_nothing(tmp_path):
    class Stop(Callback):
        def on_step_end(self, trainer, values):
            if trainer.epoch == 1 and trainer._done.steps == 5:
                trainer._stop_soon()

    def run(callbacks=(), samples=None, **paths):
        t = trainer(callbacks=callbacks)
        return t.fit(DataLoader(samples or Failing(), 30), 3, **paths)

    path = tmp_path / "c.pt"
    torch.manual_seed(0)
    straight = run()
    torch.manual_seed(0)
    with pytest.raises(SystemExit):
        run([Stop()], checkpoint=path)
    t, samples = trainer(), Failing()
    samples.fails_at = 40
    with pytest.raises(OSError, match="network drive away"):
        t.fit(DataLoader(samples, 30), 3, resume=path)
    assert t.fit(DataLoader(samples, 30), 3).history == straight.history


def test_a_loader_may_have_a_shape():
    loader = DataLoader(data(), 40)
    loader.shape = 160, 6
    assert trainer().fit(loader, 1).epoch == 1


def test_an_object_that_makes_up_attributes_ends():
    class Endless:
        def __getattr__(self, name):
            if name.startswith("__"):
                raise AttributeError(name)
            return Endless()

    assert loaders.generators(Endless()) == []


@pytest.mark.parametrize("kind", ["numpy", "another of numpy's"])
def test_a_loader_with_other_generators_resumes(kind, tmp_path):
    others = GENERATORS | {"another of numpy's": lambda: np.random.Generator(np.random.Philox(3))}

    def loader(kind):
        return DataLoader(data(240), 30, sampler=Shuffled(others[kind]()))

    first = "python" if kind == "numpy" else "numpy"
    trainer().fit(loader(first), 1, checkpoint=tmp_path / "c.pt")
    assert trainer().fit(loader(kind), 2, resume=tmp_path / "c.pt").epoch == 2


def test_an_empty_batch_counts_for_nothing():
    x, y = data(30).tensors
    histories = []
    for loader in ([(x, y)], [(x, y), (x[:0], y[:0])]):
        torch.manual_seed(0)
        models = torch.nn.Linear(6, 3), torch.nn.Linear(6, 3)
        histories.append(trainer(models).fit(loader, 1).history[0])
    assert histories[0]["loss"] == histories[1]["loss"]
    assert histories[1]["weight_a"] == 1
