import copy

import pytest
import torch
from sklearn.datasets import make_classification
from sklearn.preprocessing import StandardScaler
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from resup import CoTrainer, SampleWeigher, noise
from resup.accumulator import DecoyAccumulator
from resup.balance import ClassBalance, given_up, unaccounted
from resup.callbacks import Callback


def batches(n=200, size=64, classes=4):
    """Weights of two networks that see little right in class 0, and labels."""
    for _ in range(n):
        targets = torch.randint(classes, (size,))
        weights = torch.rand(2, size) * torch.tensor([0.05, 0.3, 0.6, 0.9])[targets]
        yield weights, targets


def switched_on(groups=2):
    balance = ClassBalance(groups)
    balance.on.fill_(True)
    return balance


def test_each_class_weighs_the_same_and_ranks_stay():
    balance = switched_on()
    before, after, labels = [], [], []
    for weights, targets in batches():
        before.append(weights)
        after.append(balance(weights, targets, 4))
        labels.append(targets)
    before, after, labels = torch.cat(before, 1), torch.cat(after, 1), torch.cat(labels)
    late = torch.arange(len(labels)) > 6000
    assert before[:, late].mean() == pytest.approx(after[:, late].mean().item(), rel=0.05)
    for label in range(4):
        of_class = late & (labels == label)
        assert after[:, of_class].mean(1).tolist() == pytest.approx([0.225] * 2, rel=0.15)
        ratio = after[:, of_class] / before[:, of_class]
        assert ratio.std() < 0.1 * ratio.mean()
    assert after.max() <= 1


def test_it_counts_but_does_not_scale_until_switched_on():
    balance = ClassBalance(2)
    for weights, targets in batches(5):
        assert torch.equal(balance(weights, targets, 4), weights)
    assert balance.sums[..., 1].sum(1).tolist() == [320, 320]
    balance.on[1] = True
    after = balance(weights, targets, 4)
    assert torch.equal(after[0], weights[0])
    assert not torch.equal(after[1], weights[1])
    balance.reset()
    assert not balance.sums.any()


def test_each_class_begins_with_eight_samples_of_average_weight():
    balance = switched_on(1)
    weights, targets = torch.tensor([[0.1, 0.3, 0.8]]), torch.tensor([0, 0, 1])
    expected = [0.1 * 0.4 / 0.36, 0.3 * 0.4 / 0.36, 0.8 * 0.4 / (4 / 9)]
    assert balance(weights, targets, 2).tolist() == [pytest.approx(expected)]


def test_no_weight_at_all_stays_no_weight():
    weights, targets = torch.zeros(2, 8), torch.zeros(8, dtype=torch.int32)
    assert torch.equal(switched_on()(weights, targets, 3), weights)


def test_the_state_dict_knows_the_number_of_classes():
    balance = switched_on()
    for weights, targets in batches(3):
        balance(weights, targets, 4)
    other = ClassBalance(2)
    other.load_state_dict(copy.deepcopy(balance.state_dict()))
    assert torch.equal(other(weights, targets, 4), balance(weights, targets, 4))


def test_the_first_batch_may_come_in_inference_mode():
    balance, expected = switched_on(), switched_on()
    for i, (weights, targets) in enumerate(batches(3)):
        with torch.inference_mode(i == 0):
            got = balance(weights, targets, 4)
        assert torch.equal(got, expected(weights, targets, 4))


@pytest.mark.parametrize(
    ("predicted", "labels", "expected"),
    [
        ([50, 50, 0], [50, 40, 10], False),  # the third is rare
        ([83, 0, 17], [50, 33, 17], True),
        ([92, 8, 0], [50, 40, 10], False),  # a fifth of 40
        ([93, 7, 0], [50, 40, 10], True),
        ([0, 0, 0], [0, 0, 0], False),
        ([0] * 2 + [10] * 98, [10] * 100, False),  # a few of many classes
        ([0] * 3 + [10] * 97, [10] * 100, True),
    ],
)
def test_a_common_class_that_is_hardly_predicted_is_given_up(predicted, labels, expected):
    assert given_up(torch.tensor([predicted]), torch.tensor(labels)).any().item() == expected


@pytest.mark.parametrize(
    ("predicted", "labels", "right", "expected"),
    [
        ([100, 0], [90, 10], [90, 10], [0, 1]),
        ([96, 4], [90, 10], [90, 10], [0, 0.6]),
        ([96, 4], [90, 10], [87, 7], [0, 0.3]),
        ([85, 15], [90, 10], [90, 10], [0, 0]),
        ([100, 0, 0], [60, 24, 16], [60, 24, 16], [0, 0, 1]),  # 24 is not rare
        ([60, 40, 0], [60, 40, 0], [60, 40, 0], [0, 0, 0]),
        ([52, 0, 0, 0], [40, 12, 0, 0], [40, 12, 0, 0], [0, 1, 0, 0]),  # the average of two
        ([0, 0], [0, 0], [0, 0], [0, 0]),
    ],
)
def test_labels_of_a_rare_class_that_are_not_accounted_for(predicted, labels, right, expected):
    share = unaccounted(*(torch.tensor(counts) for counts in (predicted, labels, right)))
    torch.testing.assert_close(share, torch.tensor(expected, dtype=torch.float64))


def test_right_labels_where_wrong_ones_are_spread_evenly():
    logits, targets = torch.randn(1, 100, 3), torch.arange(100) % 2
    targets[:10] = 2
    decoys = DecoyAccumulator()
    decoys.update(logits, targets)
    assert decoys.right_labels(0.3).tolist() == pytest.approx([30, 30, 0])
    assert decoys.predictions().tolist() == [torch.bincount(logits[0].argmax(1)).tolist()]


def test_labels_of_an_unknown_rare_class_are_lifted_before_all_is_scaled():
    balance, targets, labels = ClassBalance(2), torch.tensor([0, 1, 1]), torch.tensor([90, 10])
    balance.learn(1, torch.tensor([95, 5]), labels, labels)
    weights = torch.tensor([[0.2, 0.4, 1.0]]).expand(2, -1)
    expected = torch.tensor([[0.2, 0.4, 1.0], [0.2, 0.7, 1.0]])
    torch.testing.assert_close(balance(weights, targets, 2), expected)
    summed = torch.tensor([[0.2, 1.4], [0.2, 1.7]], dtype=torch.float64)
    torch.testing.assert_close(balance.sums[..., 0], summed, rtol=1e-6, atol=0)


def test_all_labels_of_an_unknown_rare_class_count_for_two_epochs():
    balance, labels, right = ClassBalance(2), torch.tensor([900, 100]), torch.tensor([810, 10])
    lifted = []
    for predicted in (4, 4, 4, 5, 4):
        balance.learn(1, torch.tensor([1000 - predicted, predicted]), labels, right)
        lifted.append(balance.least[1, 1].item())
    assert lifted == pytest.approx([1, 1, 0.06, 0.05, 1])
    assert balance.lifted.tolist() == pytest.approx([0, 0.1])
    assert not balance.least[0].any()


def test_a_batch_weighs_no_less_than_was_found():
    balance, weights = ClassBalance(3), torch.tensor([[0.2, 0.6, 0.7], [0.2, 0.6, 0.7], [1, 1, 1]])
    balance.least_mean.copy_(torch.tensor([0.4, 0.8, 1.0]))
    expected = torch.tensor([[0.2, 0.6, 0.7], [0.68, 0.84, 0.88], [1, 1, 1]])
    torch.testing.assert_close(balance(weights, torch.tensor([0, 1, 1]), 2), expected)


@pytest.mark.slow
@pytest.mark.parametrize(("seed", "rate"), [(0, 0.1), (3, 0.1), (10, 0.2)])
def test_a_rare_class_with_mostly_wrong_labels_is_learnt_and_takes_over_no_other(seed, rate):
    x, y = make_classification(
        10_000, 30, n_informative=12, weights=[0.97], class_sep=1.3, flip_y=0, random_state=seed
    )
    x = torch.tensor(StandardScaler().fit_transform(x), dtype=torch.float32)
    given = torch.tensor(noise.apply_transition(y, noise.symmetric_transition(2, rate), seed))
    torch.manual_seed(seed)
    nets = [nn.Sequential(nn.Linear(30, 64), nn.ReLU(), nn.Linear(64, 2)) for _ in "ab"]
    optimizer = torch.optim.Adam([p for net in nets for p in net.parameters()], 3e-3)
    loader = DataLoader(TensorDataset(x[:7000], given[:7000]), 64, shuffle=True)
    CoTrainer(nets, optimizer, progress=False).fit(loader, 10)
    right = nets[0](x[7000:]).argmax(1).numpy() == y[7000:]
    assert right.mean() > 0.94  # it was 0.6 and less, or no label of the class was right
    assert right[y[7000:] == 1].mean() > 0.2


def test_compiles_without_a_break():
    balance, weights, targets = switched_on(), torch.rand(2, 16), torch.randint(3, (16,))
    balance(weights, targets, 3)
    expected = copy.deepcopy(balance)(weights, targets, 3)
    compiled = torch.compile(balance, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(weights, targets, 3), expected)


@pytest.mark.parametrize("option", [{"similarities": "pass"}, {"refit_every": 2}])
def test_it_counts_the_batches_of_every_epoch(option):
    counted = []

    class Look(Callback):
        def on_step_end(self, trainer, values):
            counted.append(trainer.weigher.balance.sums[0, :, 1].sum().item())

    x = torch.randn(96, 4)
    nets = nn.Linear(4, 3), nn.Linear(4, 3)
    optimizer = torch.optim.SGD([p for net in nets for p in net.parameters()], 0.1)
    trainer = CoTrainer(nets, optimizer, callbacks=[Look()], progress=False, **option)
    trainer.weigher.balanced = True
    trainer.epoch = 1  # which no refit follows where they are two epochs apart
    trainer.train_epoch(DataLoader(TensorDataset(x, x[:, :3].argmax(1)), 32))
    assert counted == [32, 64, 96]


@pytest.mark.parametrize("wrong", [0.3, 0.7])
@pytest.mark.parametrize("blind", [False, True])
def test_networks_blind_to_a_class_keep_its_labels(wrong, blind):
    weigher = SampleWeigher()
    for epoch in range(3):
        targets = torch.randint(5, (4000,))
        moved = torch.randint(1, 5, (4000,)) * (torch.rand(4000) < wrong)
        shown = (targets + moved) % 5
        logits = torch.randn(2, 4000, 5)
        seen = torch.where(shown == 0, 1, shown) if blind else shown
        logits[:, torch.arange(4000), seen] += 4
        if epoch < 2:
            weigher(logits, targets)
            weigher.refit()
        # a class may be missed for one epoch
        assert weigher.balanced == (wrong > 0.5 or (blind and epoch > 0))
    weights = weigher(logits, targets)
    assert weigher.alignment.log_shares.any() == (wrong < 0.5)  # else the balance is enough
    judged = weigher.judge(logits, targets)
    share, of_judged = (w[:, targets == 0].mean() / w.mean() for w in (weights, judged))
    if blind:
        assert share > 0.4
        assert of_judged < 0.2
    else:
        assert share == pytest.approx(1, abs=0.1)
