import warnings

import numpy as np
import pytest
import reference
import torch
from hypothesis import given
from hypothesis import strategies as st
from mixtures import RIGHT, WRONG, brier, drawn, logits_of_a_network, shown
from scipy.special import digamma, expit
from sklearn.exceptions import ConvergenceWarning

import resup.decoy
from resup import (
    BetaMixture,
    DecoyMixture,
    SampleWeigher,
    SimilarityHistogram,
    cosine_label_similarity,
)
from resup.contradictions import OWN_ERROR, contradiction_rate, even_rate, tail_rate
from resup.decoy import DECOY_WEIGHT, hit_rate, transition
from resup.decoy_fits import (
    CONTRAST_RATE_WEIGHT,
    FLOOR,
    PRIOR,
    RATE_WEIGHT,
    RIDGE,
    Values,
    betas,
    contrast,
)
from resup.odds import LogOdds


def values(x):
    x = np.asarray(x, np.float64)
    return Values.of(x, np.ones(len(x)), 1e-6)


@pytest.mark.parametrize(
    ("noise", "hits"),
    [(0.1, 1 / 9), (0.3, 1 / 9), (0.5, 1 / 9), (0.1, 1.0), (0.3, 1.0), (0.1, 0.0), (0.3, 0.0)],
)
def test_samples_give_the_noise_rate_and_means_back(noise, hits):
    s, decoys, right = drawn(noise, 20_000, hits)
    mixture = DecoyMixture().fit(s, decoys, hit_rate=hits)
    assert mixture.noise_rate_ == pytest.approx(noise, abs=0.05)
    means = [a / (a + b) for a, b in (WRONG, RIGHT)]
    if noise > 0.1 or not hits:  # else decoys do not enter the Betas, which see few wrong labels
        # and leaves the right component a tail of doubtful labels
        np.testing.assert_allclose(mixture.means_, means, atol=0.12)
    truth = BetaMixture(init=[[noise, 1 - noise], *np.transpose([WRONG, RIGHT])], max_iter=0).fit(s)
    assert brier(mixture, s, right) < brier(truth, s, right) + 0.012


@pytest.mark.parametrize(("hits", "seen"), [(0.5, None), (0.1, None), (0.5, 0.45), (0.5, 0.0)])
def test_the_fit_is_where_em_stands_still(hits, seen):
    s, decoys, _ = drawn(n=400, hits=hits)
    samples, others = values(s), values(decoys)
    beside = others.scaled(DECOY_WEIGHT if seen is None else 0.0)
    mixture, _ = betas(samples, beside, hits, seen, 5000, 1e-10)
    shapes = list(zip(mixture.alphas, mixture.betas, strict=True))

    def responsibilities(x, shares):
        joint = [p * reference.beta_pdf(x, *shape) for p, shape in zip(shares, shapes, strict=True)]
        return np.array(joint) / sum(joint)

    rate = mixture.weights[0]
    n, logs = np.full(2, FLOOR), np.full((2, 2), -FLOOR)
    total = np.zeros(2)
    for x in s:
        right = 1 / 3 + 2 / 3 * x
        r = responsibilities(x, mixture.weights)
        total += r / 400
        share = (r + PRIOR * np.array([1 - right, right])) / 400
        n, logs = n + share, logs + np.outer([np.log(x), np.log1p(-x)], share)
    for x in decoys if seen is None else []:
        share = DECOY_WEIGHT * responsibilities(x, [1 - rate * hits, rate * hits]) / 400
        n, logs = n + share, logs + np.outer([np.log(x), np.log1p(-x)], share)
    expected = digamma([mixture.alphas, mixture.betas]) - digamma(mixture.alphas + mixture.betas)
    np.testing.assert_allclose(logs / n, expected, atol=1e-4)
    known = 0.0 if seen is None else RATE_WEIGHT
    assert rate == pytest.approx((total[0] + known * (seen or 0.0)) / (1 + known), abs=1e-6)


@pytest.mark.parametrize("seen", [None, 0.0, 0.2, 0.6])
def test_no_nearby_regression_tells_samples_from_decoys_better(seen):
    s, decoys, _ = drawn(n=400, hits=0.2)
    samples, others = values(s), values(decoys)
    (a, b, c), pi = contrast(samples, others, 0.2, seen)
    assert a > 0 > b

    def likelihood(a, b, c, pi):
        def density_ratio(x):
            ratio = np.exp(a * np.log(x) + b * np.log1p(-x) + c) * pi / (1 - pi)
            return (pi + (1 - pi) * ratio) / (1 - 0.2 * pi + 0.2 * pi * ratio)

        is_sample = np.log(1 / (1 + 1 / density_ratio(np.asarray(s)))).mean()
        value = is_sample + np.log(1 / (1 + density_ratio(np.asarray(decoys)))).mean()
        if seen is not None:
            value += CONTRAST_RATE_WEIGHT * (seen * np.log(pi) + (1 - seen) * np.log(1 - pi))
        return value - RIDGE / 2 * (np.log(a) ** 2 + np.log(-b) ** 2)

    best = likelihood(a, b, c, pi)
    for k, step in enumerate(np.diag([0.02 * a, 0.02 * b, 0.02, 0.02 * pi])):
        for sign in (-1, 1):
            assert likelihood(*(np.array([a, b, c, pi]) + sign * step)) < best + 1e-7, (k, sign)


@pytest.mark.parametrize("noise", [0.1, 0.3, 0.5])
def test_the_contrast_finds_the_noise_rate_without_a_form_of_the_densities(noise):
    rng = np.random.default_rng(0)
    right = rng.random(20_000) >= noise
    # uniform on two steps: no Beta, but a ratio that rises
    low, high = rng.random(20_000) * 0.5, 0.5 + rng.random(20_000) * 0.5
    wrong_like = np.where(rng.random(20_000) < 0.98, low, high)
    s = np.where(right, np.where(rng.random(20_000) < 0.95, high, low), wrong_like)
    decoys = rng.permutation(np.where(rng.random(20_000) < 0.98, low, high))
    mixture = DecoyMixture().fit(s, decoys, seen_rate=noise)
    assert mixture.noise_rate_ == pytest.approx(noise, abs=0.1)


@pytest.mark.parametrize("hits", [1 / 9, 1.0])
def test_labels_are_never_taken_for_worse_than_chance(hits):
    s, decoys, _ = drawn()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        capped, at_cap = (
            DecoyMixture().fit(s, decoys, hit_rate=hits, seen_rate=seen)
            for seen in (1.0, 1 / (1 + hits))
        )
    assert capped.noise_rate_ == at_cap.noise_rate_ < 0.9


@pytest.mark.parametrize("seed", range(3))
def test_hard_but_right_labels_are_kept_by_decoys_only(seed):
    rng = np.random.default_rng(seed)
    s, decoys = rng.beta(1.2, 0.5, 4000), rng.beta(0.4, 6, 4000)
    with pytest.warns(
        ConvergenceWarning, match=r"of 0.00, BetaMixture one of 0.1\d: .*a seen_rate"
    ):
        mixture = DecoyMixture().fit(s, decoys, hit_rate=1 / 9)
    DecoyMixture().fit(s, decoys, hit_rate=1 / 9, seen_rate=0.0)  # no warning
    assert mixture.predict_proba(s)[:, -1].mean() > 0.98
    assert BetaMixture().fit(s).predict_proba(s)[:, -1].mean() < 0.95
    assert not mixture.degenerate_


@pytest.mark.parametrize("n", [2000, 20_000])
def test_no_more_noise_than_betamixture_where_decoys_look_like_sure_predictions(n):
    """Decoys this high, and so many, are of no softmax: they show a noise rate near one half."""
    rng = np.random.default_rng(1)
    s, decoys = rng.beta(3, 1, n), rng.beta(1, 1.5, 9 * n)
    with pytest.warns(ConvergenceWarning, match="decoys account for a noise rate of 0.0"):
        mixture = DecoyMixture().fit(s, decoys, hit_rate=1 / 9)
    assert mixture.degenerate_
    alone = BetaMixture().fit(s)
    np.testing.assert_allclose(mixture.predict_proba(s), alone.predict_proba(s), atol=1e-9)


@pytest.mark.parametrize(("hits", "noise"), [(1.0, 0.46), (1 / 3, 0.7), (1 / 9, 0.85)])
def test_labels_that_are_nearly_random_are_told_apart(hits, noise):
    s, decoys, right = drawn(noise, 20_000, hits)
    mixture = DecoyMixture().fit(s, decoys, hit_rate=hits)
    assert not mixture.degenerate_
    assert mixture.noise_rate_ == pytest.approx(noise, abs=0.03)
    assert brier(mixture, s, right) < 0.6 * brier(BetaMixture().fit(s), s, right)


@pytest.mark.filterwarnings("ignore:the decoys account")
@pytest.mark.parametrize(("seen", "most"), [(0.0, 0.01), (0.01, 0.02)])
def test_no_more_noise_is_found_than_twice_what_was_shown(seen, most, monkeypatch):
    margin = 10 + 6 * np.random.default_rng(0).standard_normal(4000)  # some samples are hard
    s, decoys = expit(margin), expit(-margin)
    s, decoys = s / np.hypot(s, decoys), decoys / np.hypot(s, decoys)

    def found(**options):
        return DecoyMixture().fit(s, decoys, hit_rate=0.5, seen_rate=seen, **options).noise_rate_

    assert found() == pytest.approx(most, abs=1e-4)
    assert found(least_rate=0.2) == pytest.approx(0.2)
    monkeypatch.setattr(resup.decoy, "BELIEVED", np.inf)
    assert found() > 0.04


@pytest.mark.parametrize("kind", ["uniform", "pairs"])
def test_the_highest_similarities_show_the_noise_rate(kind):
    logits, targets, right = logits_of_a_network(kind, n=20_000)
    others = (targets + torch.randint(1, 10, targets.shape)) % 10
    s, decoys = (values(cosine_label_similarity(logits[0], y)) for y in (targets, others))
    assert tail_rate(s, decoys, 1 / 9) == pytest.approx(1 - right.mean(), abs=0.06)


@pytest.mark.parametrize("seed", range(5))
def test_few_decoys_of_predicted_classes_show_nothing(seed):
    rng = np.random.default_rng(seed)
    n, c = 1000, 100
    truth, wrong = rng.integers(c, size=n), rng.random(n) < 0.3
    given_labels = np.where(wrong, (truth + rng.integers(1, c, n)) % c, truth)
    logits = rng.normal(size=(n, c))
    logits[np.arange(n), truth] += rng.gamma(4, 2, n) + 2
    others = (given_labels + rng.integers(1, c, n)) % c
    s, decoys = (
        cosine_label_similarity(torch.tensor(logits), torch.tensor(y))
        for y in (given_labels, others)
    )
    mixture = DecoyMixture().fit(s, decoys, hit_rate=1 / (c - 1))
    assert mixture.noise_rate_ == pytest.approx(wrong.mean(), abs=0.08)


@pytest.mark.parametrize("order", [slice(None), slice(None, None, -1)])
def test_highest_similarities_that_are_equal_count_together(order):
    s, decoys = np.repeat([1.0, 0.0], [60, 40]), np.repeat([1.0, 0.0], [10, 90])
    # 0.6 of the labels agree with their prediction; 0.1 of the decoys, each for 4, contradict it
    surest = 0.4 / (0.6 + 0.4)
    expected = (surest - OWN_ERROR * surest) / (1 - OWN_ERROR)
    assert tail_rate(values(s[order]), values(decoys[order]), 1 / 4) == pytest.approx(expected)
    assert tail_rate(values(1 - s), values(np.zeros(9)), 1 / 4) == 0
    assert 0 <= tail_rate(values([0.5]), values([0.5]), 5e-324) <= 1


@pytest.mark.parametrize(
    ("surest", "sure", "counted"),  # decoys that are the predicted class; the samples: 250 and 850
    [(5, 65, 0), (20, 80, 1), (10, 70, 0.708)],
)
def test_contradictions_that_the_surest_predictions_lack_are_own_errors(surest, sure, counted):
    s = np.repeat([1.0, 0.5, 0.0], [250, 600, 150])
    decoys = np.repeat([1.0, 0.5, 0.0], [surest, sure - surest, 1000 - sure])
    top, all_ = surest / (surest + 250 / 4), sure / (sure + 850 / 4)
    expected = counted * (top - OWN_ERROR * all_) / (1 - OWN_ERROR)
    assert tail_rate(values(s), values(decoys), 1 / 4) == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("seed", range(3))
def test_decoys_that_explain_too_little_are_left_out(seed):
    logits, targets, right = logits_of_a_network("pairs", seed=seed)
    weigher = shown(SampleWeigher(DecoyMixture(), 1), logits, targets)
    s = cosine_label_similarity(logits[0], targets).numpy()
    seen = weigher.memory.seen[0, 1].item()
    assert 0.25 < seen < 0.45
    decoys = SimilarityHistogram(weigher.fitted_decoys[0].numpy())
    trusting = DecoyMixture().fit(s, decoys, hit_rate=1 / 9, seen_rate=0.0)
    assert trusting.noise_rate_ < 0.75 * seen
    with pytest.warns(ConvergenceWarning, match=r"noise rate of 0\.\d\d where 0\.\d\d is likelier"):
        mixture = DecoyMixture().fit(s, decoys, hit_rate=1 / 9, seen_rate=seen)
    assert mixture.agreement_ < 0.5
    assert not mixture.degenerate_  # the seen rate stands in
    assert not weigher.mixtures_[0].degenerate_
    with pytest.warns(ConvergenceWarning, match=r"noise rate of 0\.\d\d where 0\.\d\d is likelier"):
        assert DecoyMixture().fit(s, decoys, hit_rate=1 / 9).degenerate_
    assert abs(mixture.noise_rate_ - 0.4) < abs(trusting.noise_rate_ - 0.4)
    assert brier(mixture, s, right) < brier(trusting, s, right)
    assert brier(mixture, s, right) < brier(BetaMixture().fit(s), s, right) + 0.01


def test_decoys_that_explain_enough_are_kept():
    logits, targets, _ = logits_of_a_network("uniform")
    mixture = shown(SampleWeigher(DecoyMixture(), 1), logits, targets).mixtures_[0]
    assert not mixture.degenerate_
    assert mixture.noise_rate_ == pytest.approx(0.4, abs=0.05)


@given(
    values=st.lists(st.floats(0, 1), min_size=1, max_size=20),
    slopes=st.tuples(st.floats(0, 200), st.floats(-200, 0)),
    c=st.floats(-500, 500),
    rate=st.floats(1e-6, 1 - 1e-6),
)
def test_odds_shifted_to_a_rate(values, slopes, c, rate):
    histogram = SimilarityHistogram().update(values)
    odds = LogOdds(*slopes, c)
    shifted = odds.held_to(rate, histogram.centres, histogram.counts)
    wrong = expit(-shifted(histogram.centres))
    assert histogram.counts @ wrong / histogram.total == pytest.approx(rate, abs=1e-6)
    assert (shifted.a, shifted.b) == slopes


def test_no_less_noise_is_found_than_is_known(rng):
    s = np.r_[rng.beta(1, 6, 200), rng.beta(6, 1, 800)]
    decoys = rng.beta(1, 6, 1000)
    free = DecoyMixture().fit(s, decoys)
    assert free.noise_rate_ == pytest.approx(free.decoy_rate_, abs=0.05)
    held = DecoyMixture().fit(s, decoys, least_rate=0.4)
    assert held.noise_rate_ == 0.4
    assert 1 - held.predict_proba(s)[:, -1].mean() == pytest.approx(0.4, abs=1e-6)
    less = DecoyMixture().fit(s, decoys, least_rate=0.05)
    np.testing.assert_array_equal(less.predict_proba(s), free.predict_proba(s))


# ---------------------------------------------------------------------------- rates and decoys


def naive_contradiction_rate(counts):
    total, sum_of_rates = 0, 0.0
    for bins in np.asarray(counts).tolist():
        size = sum(map(sum, bins))
        taken = contradicting = 0
        for agree, contradict in reversed(bins):
            taken, contradicting = taken + agree + contradict, contradicting + contradict
            if taken >= min(size, max(0.1 * size, 10)):
                break
        share = contradicting / taken if taken else 0.0
        error = sum(contradict for _, contradict in bins) / size if size else 0.0
        sum_of_rates += size * min(1.0, max(0.0, share - error / 4) / 0.75)
        total += size
    return sum_of_rates / total if total else 0.0


@pytest.mark.parametrize("seed", range(5))
def test_contradiction_rate_is_that_of_the_surest_tenth_of_each_class(seed):
    rng = np.random.default_rng(seed)
    counts = rng.poisson(10 ** rng.uniform(-1, 2, (6, 20, 2)))
    counts[2], counts[3, :10] = 0, 0
    assert contradiction_rate(counts) == pytest.approx(naive_contradiction_rate(counts), abs=1e-12)
    assert contradiction_rate(1e6 * counts) == pytest.approx(contradiction_rate(1e3 * counts))


@pytest.mark.parametrize(
    ("counts", "rate"),
    [
        (np.zeros((3, 5, 2)), 0),
        (np.zeros((0, 5, 2)), 0),
        ([[[0, 7]], [[0, 0]]], 1),  # all contradicted, and a class that is never predicted
        ([[[60, 40], [38, 2]]], 0),  # no more than the network's own mistakes
        ([[[0, 90], [10, 0]]], 0),  # only the surest count
        ([[[90, 0], [0, 10]]], 1),
        ([[[2, 0], [4, 4], [2, 0]]], (0.4 - 1 / 12) / 0.75),  # ten, where a tenth would be of one
    ],
)
def test_contradiction_rate_at_its_ends(counts, rate):
    assert contradiction_rate(counts) == pytest.approx(rate)


def confusions_of(c, errors, noise, n=10_000):
    """Counts (2, C, C) where a network errs on its less sure half and labels are drawn anew."""
    sure, unsure = ((1 - share) * np.eye(c) + share * errors for share in (0.1, 0.6))
    return n * np.stack([unsure @ noise, sure @ noise])


def evenly(c, rate):
    return (1 - rate) * np.eye(c) + rate / (c - 1) * (1 - np.eye(c))


@pytest.mark.parametrize("c", [4, 7, 10])
@pytest.mark.parametrize("rate", [0.0, 0.1, 0.3, 0.6])
def test_even_noise_is_told_from_errors_and_from_confusions(c, rate):
    to_next = np.roll(np.eye(c), 1, 1)
    confusions = confusions_of(c, to_next, evenly(c, rate))
    contradicted = 1 - confusions.trace(0, 1, 2).sum() / confusions.sum()
    expected = max(0, rate - contradicted / 10) / 0.9
    assert even_rate(confusions) == pytest.approx(expected, abs=1e-9)
    wider = np.pad(confusions, ((0, 0), (1, 1), (1, 1)))  # by classes that never occur
    assert even_rate(wider) == pytest.approx(expected, abs=1e-9)
    assert even_rate(confusions[:, :3, :3]) == even_rate(0 * confusions) == 0
    pairs = (1 - rate) * np.eye(c) + rate * to_next
    assert even_rate(confusions_of(c, to_next, pairs)) == 0


def test_saturated_similarities_that_are_missed_are_told():
    s, decoys = np.repeat([0.0, 1.0], [300, 700]), np.zeros(100)
    with pytest.warns(ConvergenceWarning, match=r"30% .* and only 17% are found .*; try clip=0.01"):
        DecoyMixture().fit(s, decoys)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        clipped, known = DecoyMixture(clip=0.01).fit(s, decoys), DecoyMixture(noise_rate=0.1)
        assert clipped.noise_rate_ == pytest.approx(0.3, abs=0.03)
        assert known.fit(s, decoys).noise_rate_ == 0.1
        DecoyMixture(clip=0.05).fit(np.repeat([0.0, 0.5], [300, 700]), np.full(100, 0.5))
    assert not any("try clip" in str(each.message) for each in told)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_labels_at_chance_are_found_no_worse_than_that():
    for classes in (2, 10):
        for seed in range(5):
            s, decoys = np.random.default_rng(seed).beta(0.3, 0.3, (2, 1000))
            mixture = DecoyMixture().fit(s, decoys, hit_rate=1 / (classes - 1))
            assert mixture.noise_rate_ <= 1 - 1 / classes + 1e-6


@pytest.mark.parametrize("c", range(4, 14))
def test_a_third_of_the_labels_need_not_be_confused(c):
    own_errors = np.zeros((c, c))
    for step in range(1, c - -(-(c - 1) // 3)):
        own_errors += np.roll(np.eye(c), step, 1) / c
    confusions = np.stack([np.eye(c) + own_errors] * 2)
    assert even_rate(confusions) == 0
    confusions[1] += 0.1
    assert even_rate(confusions) > 0.1


@pytest.mark.parametrize("smoothing", [0.0, 0.02, 1.0])
def test_transition_shares_out_what_lies_off_the_diagonal(rng, smoothing):
    counts = rng.integers(0, 50, (5, 5))
    rows = transition(counts, smoothing)
    for t in range(5):
        off = [0 if t == j else counts[t, j] + smoothing * counts.sum() / 20 for j in range(5)]
        np.testing.assert_allclose(rows[t], np.array(off) / sum(off), atol=1e-9)


def test_transition_of_nothing_is_uniform():
    for counts in (np.zeros((4, 4)), np.diag([5, 0, 3, 1])):
        for smoothing in (0.0, 0.02):
            np.testing.assert_allclose(transition(counts, smoothing), (1 - np.eye(4)) / 3)
    np.testing.assert_array_equal(transition([[3, 1], [0, 2]]), [[0, 1], [1, 0]])


def hit_rate_of_uniform(confusion):
    return hit_rate(confusion, [[0, 1], [1, 0]])


@pytest.mark.parametrize("function", [transition, hit_rate_of_uniform])
@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (1, 1), (0, 0)])
def test_what_is_no_confusion_matrix(function, shape):
    with pytest.raises(ValueError, match=r"confusion must have shape \(C, C\) with C >= 2, got"):
        function(np.zeros(shape))


@pytest.mark.parametrize("function", [transition, hit_rate_of_uniform])
@pytest.mark.parametrize("values", [[["1", "2"], ["3", "4"]], [[1, 2j], [3, 4]], [[1, None]] * 2])
def test_a_confusion_matrix_of_no_numbers(function, values):
    with pytest.raises(ValueError, match="confusion must be real numbers, got dtype"):
        function(values)


@pytest.mark.parametrize(
    ("decoys", "message"),
    [
        ([0, 1], r"decoys must have shape \(C, C\) with C >= 2, got \(2,\)"),
        (np.eye(3), r"decoys must have shape \(2, 2\), got \(3, 3\)"),
        ([[0, 1], [0.5, 0]], r"decoys must have rows that sum to 1, got sums of \[1\.  0\.5\]"),
        ([[0, 1], [2, -1]], "decoys must be finite and not negative"),
    ],
)
def test_decoys_of_no_distribution(decoys, message):
    with pytest.raises(ValueError, match=message):
        hit_rate([[5, 2], [1, 5]], decoys)


def test_hit_rate_is_the_chance_to_draw_the_true_class(rng):
    counts = rng.integers(0, 50, (5, 5))
    rows = transition(counts)
    expected = n = 0.0
    for true in range(5):
        for label in range(5):
            if true != label:
                expected += counts[true, label] * rows[label, true]
                n += counts[true, label]
    assert hit_rate(counts, rows) == pytest.approx(expected / n)


def test_hit_rate_at_its_ends(rng):
    uniform = (1 - np.eye(5)) / 4
    assert hit_rate(rng.integers(1, 50, (5, 5)), uniform) == pytest.approx(1 / 4)
    for nothing in (np.zeros((5, 5)), np.eye(5)):
        assert hit_rate(nothing, uniform) == 1 / 4
    assert hit_rate([[5, 2], [1, 5]], transition([[5, 2], [1, 5]])) == pytest.approx(1)
    cycle = np.roll(np.eye(3), 1, axis=1)  # each class is taken for the next one
    assert hit_rate(cycle, transition(cycle, 0.0)) == pytest.approx(0)
    assert hit_rate(cycle, transition(cycle.T, 0.0)) == pytest.approx(1)


@pytest.mark.parametrize("least", [0.2, 0.999])
def test_no_label_is_less_likely_right_than_is_said(rng, least):
    s = np.r_[rng.beta(1, 6, 200), rng.beta(6, 1, 800)]
    decoys = rng.beta(1, 6, 1000)
    free = DecoyMixture().fit(s, decoys).predict_proba(s)[:, -1]
    mixture = DecoyMixture().fit(s, decoys, least_probability=least)
    proba = mixture.predict_proba(s)[:, -1]
    np.testing.assert_allclose(proba, np.maximum(free, least), rtol=1e-9)
    assert mixture.noise_rate_ == pytest.approx(1 - proba.mean(), abs=1e-6)


@pytest.mark.parametrize("function", [transition, hit_rate_of_uniform])
@pytest.mark.parametrize("count", [np.nan, np.inf, -1])
def test_what_are_no_counts(function, count):
    with pytest.raises(ValueError, match="confusion must be finite and not negative"):
        function([[8, count], [1, 9]])
