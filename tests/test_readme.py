"""Every Python block of the README runs."""

import re
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

README = Path(__file__).parents[1] / "README.md"
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.parametrize("block", BLOCKS, ids=["trainer", "own loop", "predictions", "mixture"])
def test_block(block):
    x, place = torch.randn(256, 6), torch.arange(600)
    data = TensorDataset(x, x[:, :3].argmax(1))
    nets = nn.Linear(6, 3), nn.Linear(6, 3)
    names = {
        "net_a": nets[0],
        "net_b": nets[1],
        "optimizer": torch.optim.Adam([p for n in nets for p in n.parameters()], 1e-2),
        "train_loader": DataLoader(data, 4, shuffle=True),
        "val_loader": DataLoader(data, 64),
        "ordered_loader": DataLoader(data, 64),
        "device": "cpu",
        "epochs": 3,
        "probabilities": (4 * torch.eye(3)[place % 3] + torch.randn(600, 3)).softmax(1),
        "labels": torch.where(place < 120, place + 1, place) % 3,
    }
    exec(block, names)
    if "trainer" in names:
        assert len(names["report"].index) == 256
    elif "report" in names:
        assert names["report"].noise_rate == pytest.approx(0.2, abs=0.05)
        assert (names["report"].index[:100] < 120).mean() > 0.95
    if "weigher" in names:
        assert len(names["weigher"].mixtures_) == 2
    if "right" in names:
        assert (names["right"][:3] < 0.5).all()
        assert (names["right"][-3:] > 0.5).all()
