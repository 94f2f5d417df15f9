"""Random generators that are not the loader's own, and loaders held by other objects."""

import numpy as np
import pytest
import torch
from small import data, trainer
from torch.utils.data import DataLoader, Dataset


class Noisy(Dataset):
    """Samples changed by a transform that draws."""

    def __init__(self, rng):
        self.samples, self.held = data(240), {"transform": Draws(rng)}

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, i):
        x, y = self.samples[i]
        return self.transform(x), y

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return self.held[name]  # careless: a KeyError for any other


class Draws:
    def __init__(self, rng):
        self.rng = rng

    def __call__(self, value):
        noise = float(self.rng.normal())
        return value + noise if isinstance(value, torch.Tensor) else [value[0] + noise, value[1]]


class Held:
    """A loader in an object of another kind."""

    def __init__(self, loader):
        self.loader = loader

    def __iter__(self):
        return iter(self.loader)


class Noise(torch.nn.Module):
    """A layer that draws from a generator of its own."""

    def __init__(self, seed):
        super().__init__()
        self.own = torch.Generator().manual_seed(seed)

    def forward(self, x):
        return x + torch.randn(x.shape, generator=self.own)


def with_noise():
    return [torch.nn.Sequential(Noise(i), torch.nn.Linear(6, 3)) for i in range(2)]


class Collated:
    def __init__(self):
        self.draws = Draws(np.random.default_rng(3))
        self.rng = self.draws.rng

    def __call__(self, batch):
        return self.draws(torch.utils.data.default_collate(batch))


HELD_DEEPER = {
    "transform": lambda: DataLoader(Noisy(np.random.default_rng(3)), 30),
    "collate_fn": lambda: DataLoader(data(240), 30, collate_fn=Collated()),
    "loader": lambda: Held(
        DataLoader(data(240), 30, shuffle=True, generator=torch.Generator().manual_seed(3))
    ),
    "model": lambda: DataLoader(data(240), 30),
}


@pytest.mark.parametrize("where", HELD_DEEPER)
def test_generators_of_parts_and_of_the_models_come_back(where, tmp_path):
    def run(epochs, val_loader=None, **paths):
        torch.manual_seed(0)
        t = trainer(with_noise() if where == "model" else None)
        return t.fit(HELD_DEEPER[where](), epochs, val_loader, **paths).history

    straight = run(4)
    run(2, checkpoint=tmp_path / "c.pt")
    assert run(4, resume=tmp_path / "c.pt") == straight
    for record, validated in zip(straight, run(4, DataLoader(data(), 50)), strict=True):
        assert record.items() <= validated.items()


def test_a_shuffling_loader_in_another_object_is_noticed():
    t = trainer().fit(DataLoader(data(), 40), 1)
    with pytest.raises(ValueError, match=r"loader shuffles \(RandomSampler\)"):
        t.report(Held(DataLoader(data(), 40, shuffle=True)))
