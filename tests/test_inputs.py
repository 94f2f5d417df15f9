"""Batches, inputs and outputs of all kinds."""

import pytest
import torch
from small import data, net, trainer
from torch import nn
from torch.utils.data import DataLoader, Dataset


class Wrapped(nn.Module):
    """A model in the style of Hugging Face: keyword inputs, an object as output."""

    def __init__(self, as_mapping):
        super().__init__()
        self.net, self.as_mapping = net(), as_mapping

    def forward(self, pixels, scale=None):
        logits = self.net(pixels * scale)
        return {"logits": logits} if self.as_mapping else type("Output", (), {"logits": logits})()


class DictData(Dataset):
    def __init__(self):
        self.x, self.y = data(64).tensors

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        return {"pixels": self.x[i], "scale": torch.ones(1), "labels": self.y[i]}


def unpack(batch):
    return {k: v for k, v in batch.items() if k != "labels"}, batch["labels"]


def test_mappings_in_and_objects_out():
    t = trainer((Wrapped(True), Wrapped(False)), unpack=unpack)
    t.fit(DataLoader(DictData(), 16), 2)
    assert t.clean_probability(DataLoader(DictData(), 16)).shape == (64,)


def test_batches_that_are_no_pair():
    with pytest.raises(TypeError, match=r"a batch must be a pair .*, got dict; pass unpack="):
        trainer().fit(DataLoader(DictData(), 16), 1)
    with pytest.raises(TypeError, match=r"a batch must be a pair .*, got Tensor; pass unpack="):
        trainer().fit([torch.randn(2, 6)], 1)
    with pytest.raises(TypeError, match=r"unpack must return a pair .*, got tuple of 3"):
        trainer(unpack=lambda batch: (*batch, None)).fit(DataLoader(data(), 16), 1)


class Inputs:
    """As tokenizers make them: no tensor, but it can be moved."""

    def __init__(self, x, moved_to=None):
        self.x, self.moved_to = x, moved_to

    def to(self, device):
        return Inputs(self.x.to(device), device)


class Moved(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = net()

    def forward(self, inputs):
        assert inputs.moved_to == torch.device("cpu")
        return self.net(inputs.x)


def test_inputs_of_any_kind_that_can_be_moved_are_moved():
    x, y = data(64).tensors
    assert trainer((Moved(), Moved())).fit([(Inputs(x), y)], 1).epoch == 1
