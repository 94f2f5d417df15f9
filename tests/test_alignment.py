"""Rare classes are not taken for wrong labels."""

import pytest
import torch
from small import logits_like_a_network
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from resup import BetaMixture, CoTrainer, SampleWeigher
from resup.alignment import ClassAlignment


def test_equal_shares_change_nothing():
    alignment, logits = ClassAlignment(2), torch.randn(2, 30, 4)
    alignment.learn(1, torch.full((4,), 250.0), torch.full((4,), 200.0))
    torch.testing.assert_close(alignment(logits), logits)


def test_probabilities_are_divided_by_the_shares_they_settle_on():
    alignment, logits = ClassAlignment(), torch.randn(1, 30, 3)
    right = torch.tensor([399.0, 99.0, 99.0])
    for _ in range(30):
        alignment.learn(0, torch.tensor([1899.0, 899.0, 199.0]), right)
    # 1.9, 0.9 and 0.2 of an average share over 4/3, 3/4 and 3/4, or 24/17 and 27/34 relative to
    # their mean; the last is bounded
    expected = logits.softmax(-1) / torch.tensor([1.9 * 17 / 24, 0.9 * 34 / 27, 1 / 2])
    expected /= expected.sum(-1, keepdim=True)
    torch.testing.assert_close(alignment(logits).softmax(-1), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_float32_at_least(dtype):
    aligned = ClassAlignment()(torch.zeros(1, 2, 3, dtype=dtype))
    assert aligned.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


def test_the_state_dict_knows_the_number_of_classes():
    first, second = ClassAlignment(2), ClassAlignment(2)
    first.learn(1, torch.rand(5), torch.rand(5))
    second.load_state_dict(first.state_dict())
    assert torch.equal(first.log_shares, second.log_shares)


def test_the_step_sums_the_probabilities():
    logits, targets, _ = logits_like_a_network()
    logits[0, 7] = torch.nan
    weigher = SampleWeigher()
    for part in zip(logits.split(300, 1), targets.split(300), strict=True):
        weigher(*part)
    expected = logits.double().softmax(-1).nan_to_num(0).sum(1)
    torch.testing.assert_close(weigher.decoys.probabilities, expected, rtol=1e-6, atol=0)


def test_only_decoys_and_named_signals_are_aligned():
    logits, targets, _ = logits_like_a_network()
    for weigher, aligns in (
        (SampleWeigher(), True),
        (SampleWeigher(signal="loss"), True),
        (SampleWeigher(signal=lambda z, y: z.softmax(1).gather(1, y[:, None])[:, 0]), False),
        (SampleWeigher(BetaMixture()), False),
    ):
        weigher(logits, targets)
        weigher.refit()
        before, judged = weigher(logits, targets, record=False), weigher.judge(logits, targets)
        if weigher.decoys is not None:
            for network in (0, 1):
                weigher.alignment.learn(network, torch.arange(5.0) ** 3, torch.ones(5))
        assert torch.equal(weigher(logits, targets, record=False), before) != aligns
        assert torch.equal(weigher.judge(logits, targets), judged)


def test_right_labels_of_a_rare_class_keep_weight():
    """Two classes of 400 samples and one of 40 between them. Not aligned it has 0.0 to 0.2."""
    y = torch.tensor([0] * 400 + [1] * 400 + [2] * 40)
    centres = torch.tensor([[2.0, 0, 0], [-2.0, 0, 0], [0, 1.6, 0]])
    x = centres[y] + torch.randn(len(y), 3)
    nets = [nn.Sequential(nn.Linear(3, 32), nn.ReLU(), nn.Linear(32, 3)) for _ in "ab"]
    optimizer = torch.optim.Adam([p for net in nets for p in net.parameters()], 1e-2)
    trainer = CoTrainer(nets, optimizer, progress=False)
    trainer.fit(DataLoader(TensorDataset(x, y), 32, shuffle=True), 15)
    clean = trainer.clean_probability(DataLoader(TensorDataset(x, y), 200))
    assert clean[y == 2].mean() > 0.3
