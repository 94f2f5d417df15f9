"""Networks that contradict each other know too little to contradict labels."""

import copy

import numpy as np
import pytest
import torch
from mixtures import shown
from sklearn.datasets import load_digits
from small import logits_like_a_network
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from resup import CoTrainer, SampleWeigher
from resup.accumulator import CONFIDENCE_EDGES, DecoyAccumulator
from resup.contradictions import of_surest
from resup.memory import FIRST_SURPLUS, NoiseMemory


def disputed(share, n=2000, c=5):
    """Logits of two sure networks that differ on this share of the samples, and random labels."""
    predicted = torch.randint(c, (n,)).repeat(2, 1)
    predicted[1] = (predicted[1] + (torch.rand(n) < share)) % c
    return 6 * nn.functional.one_hot(predicted, c) + torch.randn(2, n, c), torch.randint(c, (n,))


def test_disputes_are_counted_by_confidence():
    logits, targets = 3 * torch.randn(3, 400, 4), torch.randint(4, (400,))
    logits[:, 200:] = logits[0, 200:] * torch.tensor([1, 2, 3])[:, None, None]
    logits[1, 7, 0] = torch.nan
    accumulator = DecoyAccumulator(3)
    accumulator.update(logits, targets)
    p, predicted = logits.double().softmax(-1).max(-1)
    alone = (predicted != predicted[0]).any(0).long()
    for group, counts in enumerate(accumulator.disputes.numpy()):
        known = ~p.isnan().any(0)
        places = np.searchsorted(CONFIDENCE_EDGES, p[group][known].log().numpy())
        expected = np.zeros_like(counts)
        np.add.at(expected, (places, alone[known].numpy()), 1)
        np.testing.assert_array_equal(counts.sum(0), expected.sum(0))
        assert np.abs(np.cumsum(counts - expected, 0)).max() <= 1
    accumulator.reset()
    assert not accumulator.disputes.any()


def test_the_surest_tenth():
    counts = np.zeros((1, 5, 2), int)
    counts[0, 4], counts[0, 3], counts[0, 0] = (3, 1), (5, 1), (0, 90)
    assert of_surest(counts) == pytest.approx([0.2])  # four are no tenth of a hundred yet
    assert of_surest(np.zeros((2, 5, 2))).tolist() == [0, 0]


@pytest.mark.filterwarnings("ignore:network . tells given labels from others hardly")
def test_weights_wait_while_disputes_are_many_and_become_fewer():
    weigher = SampleWeigher()
    for share, waits in ((0.9, True), (0.7, True), (0.75, False), (0.6, False)):
        shown(weigher, *disputed(share))
        weights = weigher(*disputed(share), record=False)
        assert bool((weights == 1).all()) == waits
        assert len(weigher.mixtures_) == 2  # it can be asked all the same
        other = SampleWeigher()
        other.load_state_dict(copy.deepcopy(weigher.state_dict()))
        batch = disputed(share)
        assert torch.equal(other(*batch, record=False), weigher(*batch, record=False))


@pytest.mark.filterwarnings("ignore:network . tells given labels from others hardly")
def test_what_disputing_networks_showed_is_forgotten():
    logits, targets, _ = logits_like_a_network()
    late, fresh = SampleWeigher(), SampleWeigher()
    for share in (0.9, 0.8, 0.9, 0.9):
        shown(late, *disputed(share))
    assert min(late.noise_rates_) > 0.6
    for weigher in (late, fresh):
        for _ in range(3):
            weigher.decoys.shift.fill_(0)
            shown(weigher, logits, targets)
    assert late.noise_rates_ == fresh.noise_rates_
    for name in ("seen", "seen_held", "of_decoys", "found", "found_held"):
        assert torch.equal(getattr(late.memory, name), getattr(fresh.memory, name))


def epoch(rates, disputed, c=4, n=100):
    """What n samples a class show, of whose labels these shares are contradicted."""
    shown_ = DecoyAccumulator(len(rates))
    shown_._make_room(c)
    shown_.labels.fill_(n)
    for group, (rate, share) in enumerate(zip(rates, disputed, strict=True)):
        shown_.contradictions[group, :, -1] = torch.tensor([n - n * rate, n * rate]).int()
        shown_.disputes[group, -1] = torch.tensor([400 - 400 * share, 400 * share]).int()
    return shown_


def gives_up(shown_, network, lost=0):
    """Let a network predict another class in place of one."""
    shown_.contradictions[network, lost + 1] += shown_.contradictions[network, lost]
    shown_.contradictions[network, lost] = 0


def test_what_is_remembered_epoch_by_epoch():
    memory = NoiseMemory(2)
    first = FIRST_SURPLUS  # taken off where there is no epoch before
    for rates, disputed, waiting, believes, believed in [
        ((0.4, 0.3), (0.8, 0.1), True, False, (0.4 - first, 0.3 - first)),
        ((0.2, 0.2), (0.6, 0.6), True, False, (0.2 - first, 0.2 - first)),  # fewer than before
        ((0.3, 0.3), (0.2, 0.6), False, False, (0.3 - first, 0.3 - first)),  # no fewer
        ((0.3, 0.3), (0.36, 0.2), False, False, (0.3 - first, 0.3 - first)),
        ((0.3, 0.25), (0.35, 0.1), False, True, (0.3 - first, 0.25 - first)),  # it is remembered
        ((0.2, 0.4), (0.9, 0.9), False, True, (0.2, 0.25)),  # to have agreed once is enough
        ((0.02, 0.4), (0.0, 0.0), False, True, (0.08, 0.4)),  # four times 0.02
        ((0.0, 0.1), (0.0, 0.0), False, True, (0.08, 0.4)),
    ]:
        memory.look(epoch(rates, disputed))
        assert bool(memory.waiting) == waiting
        assert memory.believes == believes
        assert memory.seen[:, 1].tolist() == pytest.approx(rates)
        hints = [memory.hints(network)["seen_rate"] for network in (0, 1)]
        assert hints == pytest.approx(believed)
    memory.of_decoys.fill_(0.05)
    memory.look(epoch((0.0, 0.1), (0, 0)))
    assert memory.seen_held.tolist() == pytest.approx([0.08, 0.4])
    memory.of_decoys.fill_(0.3)
    memory.look(epoch((0.1, 0.1), (0, 0)))
    assert memory.seen_held.tolist() == pytest.approx([0.3, 0.4])
    before = copy.deepcopy(memory.state_dict())
    nothing = epoch((0.5, 0.5), (0.5, 0.5))
    nothing.contradictions.zero_()
    nothing.disputes.zero_()
    memory.look(nothing)
    before["given_up"][:, 1] = True
    for name, value in memory.state_dict().items():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize(("disputed", "waits"), [(0.51, True), (0.49, False)])
def test_no_waiting_once_most_is_agreed_on(disputed, waits):
    memory = NoiseMemory(2)
    memory.look(epoch((0.4, 0.4), (0.9, 0.9)))
    memory.look(epoch((0.4, 0.4), (0.1, disputed)))
    assert bool(memory.waiting) == waits


def test_decoys_of_which_too_little_is_seen_next_are_not_held():
    memory = NoiseMemory(1)
    for rate, held in ((0.2, 0.0), (0.01, 0.04), (0.0, 0.04), (0.1, 0.3)):
        memory.look(epoch([rate], [0]))
        assert memory.seen_held.item() == pytest.approx(held)
        memory.of_decoys.fill_(0.3)


def test_decoys_are_forgotten_with_the_rest():
    memory = NoiseMemory(1)
    memory.look(epoch([0.4], [0.9]))
    memory.of_decoys.fill_(0.6)
    for _ in range(3):
        memory.look(epoch([0.2], [0.2]))
    assert memory.seen_held.item() == pytest.approx(0.2)


@pytest.mark.parametrize(("n", "held"), [(80, 0.0), (100, 0.3)])
def test_what_few_samples_showed_before_every_class_was_predicted_is_forgotten(n, held):
    memory = NoiseMemory(2)
    for first, second in ((1, 0), (1, 1), (1, 1), (0, 0), (0, 0)):
        shown_ = epoch((0.3, 0.3), (0, 0), n=n)
        for network in np.flatnonzero([first, second]):
            gives_up(shown_, network)
        memory.look(shown_)
        for network in (0, 1):
            memory.find(network, 0.4)
        memory.of_decoys.fill_(0.4 if first else 0.2)
    assert memory.seen_held.tolist() == pytest.approx([held, 0.4])
    memory.look(epoch((0.3, 0.3), (0, 0), n=n))
    assert memory.seen_held.tolist() == pytest.approx([0.3, 0.4])


@pytest.mark.parametrize(
    ("n", "lost", "surest", "seen"),
    [(100, (), 0.1, 0.3), (100, (), 0.05, 0.2), (90, (), 0.1, 0.1), (100, [1], 0.1, 0.1)],
)
def test_even_noise_counts_with_enough_samples_once_all_classes_are_known(n, lost, surest, seen):
    memory = NoiseMemory(2)
    for _ in range(2):
        shown_ = epoch((surest, surest), (0, 0), n=n)
        even = 0.7 * torch.eye(4) + 0.1 * (1 - torch.eye(4))
        shown_.confusions[:, :, -1] = (10 * n * even).int()
        for network in lost:
            gives_up(shown_, network)
        memory.look(shown_)
    assert memory.seen[1].tolist() == pytest.approx([seen, seen])


def test_what_is_shown_while_a_class_is_given_up_is_not_taken_in():
    memory = NoiseMemory(1)
    for rate, without in ((0.2, 0), (0.2, 0), (0.2, 1), (0.4, 1), (0.4, 1), (0.4, 1), (0.2, 0)):
        shown_ = epoch([rate], [0])
        if without:
            gives_up(shown_, 0)
        memory.look(shown_)
        memory.find(0, rate)
    assert memory.seen_held.item() == pytest.approx(0.2)
    assert memory.found_held.item() == pytest.approx(0.2)


def test_a_network_that_loses_one_class_after_another_knows_them_all():
    memory = NoiseMemory(1)
    for rate, lost in ((0.4, 0), (0.3, 1), (0.2, 2), (0.1, 1)):
        shown_ = epoch([rate], [0])
        gives_up(shown_, 0, lost)
        memory.look(shown_)
        assert memory.hints(0)["seen_rate"] == pytest.approx(0.4 - FIRST_SURPLUS)


def test_a_network_whose_rates_are_all_forgotten_shows_new_ones():
    memory = NoiseMemory(1)
    for rate, lost, seen in ((0.4, 0, 0.4), (0.3, 0, 0.3), (0.25, 1, 0.25), (0.1, 2, 0.25)):
        shown_ = epoch([rate], [0], n=80)
        gives_up(shown_, 0, lost)
        memory.look(shown_)
        first = 0 if rate == 0.3 else FIRST_SURPLUS  # two epochs are remembered then
        assert memory.hints(0)["seen_rate"] == pytest.approx(seen - first)


def test_hints_of_a_network_that_showed_nothing_are_finite():
    memory, shown_ = NoiseMemory(2), epoch((0.3, 0.3), (0, 0))
    shown_.contradictions[0].zero_()
    memory.look(shown_)
    for network in (0, 1):
        hints = memory.hints(network)
        assert all(0 <= hint < 1 for hint in hints.values())
        assert hints["hit_rate"] == pytest.approx(1 / 3)


def test_one_network_has_none_to_differ_from():
    weigher = SampleWeigher(networks=1)
    logits, targets = disputed(0.9)
    targets[::2] = logits[0, ::2].argmax(1)  # it knows half of them
    shown(weigher, logits[:1], targets)
    assert weigher(logits[:1], targets).mean() < 0.9


def test_few_clean_samples_are_left_alone():
    """A noise rate of the first epochs, when each network guesses, used to be held for good."""
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(labels))
    x, y = torch.tensor(images[order] / 16, dtype=torch.float32), torch.tensor(labels[order])
    nets = [nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)) for _ in "ab"]
    optimizer = torch.optim.Adam([p for net in nets for p in net.parameters()], 1e-3)
    trainer = CoTrainer(nets, optimizer, progress=False)
    trainer.fit(DataLoader(TensorDataset(x[:600], y[:600]), 32, shuffle=True), 20)
    assert max(trainer.weigher.noise_rates_) < 0.15
    assert (nets[0](x[600:]).argmax(1) == y[600:]).float().mean() > 0.85
