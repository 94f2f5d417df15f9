"""Decoys gathered in the step, and what the weigher and the trainer make of them."""

import copy

import numpy as np
import pytest
import torch
from mixtures import logits_of_a_network, shown

from resup import (
    BetaMixture,
    DecoyMixture,
    SampleWeigher,
    SimilarityHistogram,
    cosine_label_similarity,
)
from resup.accumulator import CONFIDENCE_BINS, DecoyAccumulator
from resup.memory import FIRST_DOUBT, FIRST_SURPLUS

# ---------------------------------------------------------------------------- gathered in the step


@pytest.mark.parametrize("c", [2, 3, 10])
@pytest.mark.parametrize("groups", [1, 2])
def test_decoys_go_round_all_other_labels(c, groups):
    logits, targets = 3 * torch.randn(groups, 40, c), torch.randint(c, (40,))
    accumulator = DecoyAccumulator(groups)
    state = torch.get_rng_state()
    for _ in range(c - 1):
        accumulator.update(logits, targets)
    assert torch.equal(torch.get_rng_state(), state)
    for group in range(groups):
        expected = SimilarityHistogram()
        for z, label in zip(logits[group].double(), targets.tolist(), strict=True):
            for other in set(range(c)) - {label}:
                p = z.softmax(0)
                expected.update([min(1.0, float(p[other] / p.norm()))])
        got = accumulator.histograms.histogram(group)
        assert got.total == 40 * (c - 1)
        # float32 may put a value that lies on an edge into the bin beside it
        assert np.abs(np.cumsum(got.counts - expected.counts)).max() <= 1


@pytest.mark.parametrize("c", [2, 3, 10, 20])
def test_contradictions_are_counted_by_class_and_confidence(c):
    logits, targets = 4 * torch.randn(2, 300, c), torch.randint(c, (300,))
    accumulator = DecoyAccumulator(2)
    accumulator.update(logits, targets)
    expected = np.zeros((2, c, CONFIDENCE_BINS, 2), int)
    for group, rows in enumerate(logits.double().numpy()):
        for z, label in zip(rows, targets.tolist(), strict=True):
            top = z.argmax()
            logit = -np.log(np.exp(np.delete(z - z[top], top)).sum())  # of the highest probability
            place = int(np.clip(4 * (logit + 4.5), 0, CONFIDENCE_BINS - 1))
            expected[group, top, place, int(top != label)] += 1
    got = accumulator.contradictions.numpy()
    assert (np.abs(np.cumsum(got - expected, axis=2)) <= 1).all()
    np.testing.assert_array_equal(got.sum(2), expected.sum(2))
    assert got[..., 0].any()
    assert got[..., 1].any()
    by_label = accumulator.confusions.numpy()
    np.testing.assert_array_equal(by_label.sum(3), got.sum(3))
    np.testing.assert_array_equal(by_label[:, range(c), :, range(c)], got[..., 0].swapaxes(0, 1))
    labels = np.bincount(targets, minlength=c)
    np.testing.assert_array_equal(by_label.sum((1, 2)), [labels, labels])
    unsure, sure = accumulator.confused(0.4, 10).numpy().swapaxes(0, 1)
    np.testing.assert_array_equal(unsure + sure, by_label.sum(2))
    for group, top in np.ndindex(2, c):
        from_top = got[group, top].sum(1)[::-1].cumsum()
        n = from_top[-1]
        assert sure[group, top].sum() == from_top[from_top >= min(max(0.4 * n, 10), n)][0]


def test_confusions_of_many_classes_are_not_counted():
    accumulator = DecoyAccumulator(2)
    accumulator.update(torch.randn(2, 30, 21), torch.randint(21, (30,)))
    assert accumulator.confusions.shape == (2, 0, CONFIDENCE_BINS, 0)
    accumulator.reset()
    accumulator.update(torch.randn(2, 30, 4), torch.randint(4, (30,)))
    assert accumulator.confusions.sum() == 60


def test_samples_of_nan_are_left_out():
    logits, targets = torch.randn(2, 30, 4), torch.randint(4, (30,))
    hurt = torch.cat([logits, torch.full((2, 2, 4), torch.nan)], 1)
    hurt[:, -1, 1:] = 0.0
    clean, other = DecoyAccumulator(2), DecoyAccumulator(2)
    clean.update(logits, targets)
    other.update(hurt, torch.cat([targets, torch.tensor([0, 1])]))
    assert torch.equal(clean.histograms.counts, other.histograms.counts)
    assert torch.equal(clean.contradictions, other.contradictions)
    assert torch.equal(clean.confusions, other.confusions)
    assert torch.equal(clean.disputes, other.disputes)
    assert torch.equal(clean.labels, other.labels)


@pytest.mark.parametrize("lost", [0, 1])
def test_a_sample_that_one_network_cannot_score_is_no_dispute(lost):
    logits = torch.randn(1, 30, 4).repeat(2, 1, 1)
    logits[lost, :5] = torch.nan
    accumulator = DecoyAccumulator(2)
    accumulator.update(logits, torch.randint(4, (30,)))
    assert accumulator.disputes.sum((1, 2)).tolist() == [25, 25]
    assert not accumulator.disputes[..., 1].any()
    assert accumulator.contradictions[1 - lost].sum() == accumulator.labels.sum() == 30


def test_saturated_logits_are_the_surest():
    accumulator = DecoyAccumulator()
    accumulator.update(torch.tensor([[[1e4, 0, 0], [0, -torch.inf, 200]]]), torch.tensor([0, 1]))
    counts = accumulator.contradictions[0, :, -1]
    assert counts.tolist() == [[1, 0], [0, 0], [0, 1]]


def test_the_state_dict_knows_the_number_of_classes():
    accumulator, other = DecoyAccumulator(2), DecoyAccumulator(2)
    accumulator.update(torch.randn(2, 20, 4), torch.randint(4, (20,)))
    other.load_state_dict(copy.deepcopy(accumulator.state_dict()))
    assert torch.equal(other.contradictions, accumulator.contradictions)
    assert torch.equal(other.confusions, accumulator.confusions)
    assert other.shift == accumulator.shift == 1


def test_after_a_reset_the_decoys_go_on():
    accumulator = DecoyAccumulator()
    logits, targets = torch.randn(1, 20, 4), torch.randint(4, (20,))
    accumulator.update(logits, targets)
    first = accumulator.histograms.counts.clone()
    accumulator.reset()
    assert not accumulator.contradictions.any()
    assert accumulator.histograms.counts.sum() == 0
    accumulator.update(logits, targets)
    assert not torch.equal(accumulator.histograms.counts, first)


def test_decoys_are_of_classes_that_have_labels():
    accumulator = DecoyAccumulator()
    targets = torch.tensor([1, 4, 5, 1])
    accumulator.update(torch.randn(1, 4, 7), targets)
    accumulator.draw_from(accumulator.labels > 0)
    drawn = {tuple(accumulator.next_labels(targets, 7).tolist()) for _ in range(4)}
    assert drawn == {(4, 5, 1, 4), (5, 1, 4, 5)}
    assert set(accumulator.next_labels(torch.tensor([0, 2, 3, 6]), 7).tolist()) <= {1, 4, 5}
    accumulator.draw_from(torch.arange(7) == 3)  # from all, as there is no other
    drawn = {accumulator.next_labels(torch.tensor([3]), 7).item() for _ in range(6)}
    assert drawn == {0, 1, 2, 4, 5, 6}
    accumulator.draw_from((torch.arange(7) == 3) | (torch.arange(7) == 5))
    assert accumulator.next_labels(torch.tensor([3, 5, 3]), 7).tolist() == [5, 3, 5]


def test_wrong_labels_are_spread_over_classes_that_occur():
    accumulator = DecoyAccumulator()
    accumulator._make_room(4)
    accumulator.labels.copy_(torch.tensor([50, 0, 30, 20]))
    right = accumulator.right_labels(0.5)  # 25 wrong ones of each
    assert right.tolist() == [25, 0, 5, 0]


def test_an_unknown_signal_of_decoys_is_refused_at_once():
    with pytest.raises(ValueError, match=r"signal must be .* got 'distance'"):
        DecoyAccumulator(signal="distance")


# ---------------------------------------------------------------------------- SampleWeigher


def assert_same_state(first, second):
    first, second = first.state_dict(), second.state_dict()
    assert first.keys() == second.keys()
    for name, value in first.items():
        torch.testing.assert_close(second[name], value, rtol=0, atol=0, equal_nan=True)


def test_weights_are_those_of_a_fit_to_all_decoys():
    logits, targets, right = logits_of_a_network("uniform", n=1800)
    weigher = SampleWeigher(DecoyMixture(), 1)
    for _ in range(9):
        assert (weigher(logits, targets) == 1).all()
    weigher.refit()
    s = cosine_label_similarity(logits[0].repeat(9, 1), targets.repeat(9))
    others = torch.cat([(targets + k) % 10 for k in range(1, 10)])
    decoys = cosine_label_similarity(logits[0].repeat(9, 1), others)
    seen = weigher.memory.seen[0, 1].item() - FIRST_SURPLUS
    errors = ((logits[0].argmax(1) != targets).double().mean().item() - seen) / (1 - seen)
    mixture = DecoyMixture().fit(
        s, decoys, hit_rate=1 / 9, seen_rate=seen, least_probability=FIRST_DOUBT * errors
    )
    weights = weigher(logits, targets)[0]
    assert weights.min() == pytest.approx(FIRST_DOUBT * errors, rel=1e-5)
    s = cosine_label_similarity(weigher.alignment(logits)[0], targets)
    np.testing.assert_allclose(weights, mixture.predict_proba(s)[:, -1], atol=1e-3)
    assert weights[right].mean() > weights[~right].mean() + 0.5
    assert weigher.noise_rates_ == pytest.approx([0.4], abs=0.05)


def test_a_head_that_is_wider_than_needed_changes_little():
    logits, targets, right = logits_of_a_network("uniform")
    wide = torch.full((1, len(targets), 30), -9.0)
    wide[..., ::3] = logits
    found = []
    for z, y in ((logits, targets), (wide, 3 * targets)):
        weigher = SampleWeigher(DecoyMixture(), 1)
        for _ in range(2):
            shown(weigher, z, y)
        assert weigher.memory.hints(0)["hit_rate"] == pytest.approx(1 / 9)
        found.append(weigher.mixtures_[0])
    narrow, other = found
    assert other.decoy_rate_ == pytest.approx(narrow.decoy_rate_, abs=0.01)
    assert other.agreement_ > 0.9
    assert other.noise_rate_ == pytest.approx((~right).mean(), abs=0.03)


@pytest.mark.parametrize("epochs", [0, 1, 3])
@pytest.mark.parametrize("halfway", [False, True])
def test_the_state_dict_brings_everything_back(epochs, halfway):
    logits, targets, _ = logits_of_a_network("uniform", n=1000)
    logits = torch.cat([logits, 0.7 * logits])
    weigher = SampleWeigher(DecoyMixture())
    for _ in range(epochs):
        shown(weigher, logits, targets)
    if halfway:
        weigher(logits[:, :100], targets[:100])
    other = SampleWeigher(DecoyMixture())
    other.load_state_dict(copy.deepcopy(weigher.state_dict()))
    for _ in range(2):
        assert_same_state(weigher, other)
        assert other.noise_rates_ == weigher.noise_rates_
        assert torch.equal(other(logits, targets, False), weigher(logits, targets, False))
        shown(weigher, logits, targets)
        shown(other, logits, targets)


def test_a_state_dict_of_another_mixture_is_refused():
    batch = logits_of_a_network("uniform", n=1000)[:2]
    betas, decoys = (shown(SampleWeigher(m, 1), *batch) for m in (BetaMixture(), DecoyMixture()))
    with pytest.raises(RuntimeError, match=r"Missing key.*fitted_decoys.*memory"):
        decoys.load_state_dict(betas.state_dict())
    with pytest.raises(RuntimeError, match=r"Unexpected key.*memory"):
        betas.load_state_dict(decoys.state_dict())


@pytest.mark.parametrize("still", [0.5, 0.0])
def test_the_rate_that_two_epochs_showed_is_remembered_if_the_next_shows_some_of_it(still):
    logits, targets, right = logits_of_a_network("uniform", n=2000)
    truth = torch.where(torch.tensor(right), targets, logits[0].argmax(1))
    some = torch.where(torch.rand(2000) < still, targets, truth)
    weigher = SampleWeigher(DecoyMixture(), 1)
    history = []
    for labels in (truth, targets, targets, some, truth, truth):
        of_decoys = weigher.memory.of_decoys.item()  # of the last fit
        shown(weigher, logits, labels)
        hints = weigher.memory.hints(0)
        history.append([weigher.memory.seen[0, 1].item(), hints["seen_rate"], of_decoys])
        assert hints["hit_rate"] == 1 / 9
    seen, believed, of_decoys = np.transpose(history)
    shown_twice = seen[1]
    np.testing.assert_allclose(seen[[0, 1, 2, 4, 5]], [0, shown_twice, shown_twice, 0, 0])
    assert 0.3 < shown_twice < 0.5
    # one epoch alone is not believed, unless the decoys account for what it showed
    np.testing.assert_allclose(believed[:3], [0, of_decoys[1], max(shown_twice, of_decoys[2])])
    accounted = of_decoys[3] if of_decoys[3] >= shown_twice else 0
    held = max(shown_twice, accounted) if still else max(accounted, of_decoys[1])
    np.testing.assert_allclose(believed[4:], held)


def test_a_refit_without_samples_changes_no_weights_and_forgets_no_rate():
    logits, targets, _ = logits_of_a_network("uniform", n=1000)
    weigher = SampleWeigher(DecoyMixture(), 1)
    weigher.refit()
    assert weigher.mixtures_ == []
    assert (weigher(logits, targets, record=False) == 1).all()
    assert weigher.memory.seen.isnan().all()
    assert shown(weigher, logits, targets).memory.seen[0, 1] > 0.05
    mixtures, weights = weigher.mixtures_, weigher(logits, targets, record=False)
    memory = copy.deepcopy(weigher.memory)
    weigher.refit()
    assert weigher.mixtures_ is mixtures
    assert torch.equal(weigher(logits, targets, record=False), weights)
    assert_same_state(weigher.memory, memory)


def test_what_is_not_recorded_is_no_decoy():
    logits, targets, _ = logits_of_a_network("uniform", n=100)
    weigher = SampleWeigher(DecoyMixture(), 1)
    weigher(logits, targets, record=False)
    assert weigher.decoys.histograms.counts.sum() == 0
    assert weigher.decoys.shift == 0
