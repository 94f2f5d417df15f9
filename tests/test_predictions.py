import warnings

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import cross_val_predict

from resup import DecoyMixture, LabelReport, noise

N, C = 3000, 5


def predictions(rate, seed=0, kind="symmetric", sure=0.8):
    """Held-out predictions, the given labels, and which of these are right."""
    rng = np.random.default_rng(seed)
    true = rng.integers(0, C, N)
    logits = rng.normal(size=(N, C)) + 5 * (rng.random((N, 1)) < sure) * np.eye(C)[true]
    rows = noise.symmetric_transition(C, rate)
    if kind == "pairs":
        rows = noise.asymmetric_transition(C, rate, {y: (y + 1) % C for y in range(C)})
    labels = noise.apply_transition(true, rows, seed)
    p = np.exp(logits)
    return labels, p / p.sum(1, keepdims=True), labels == true


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("rate", [0.0, 0.1, 0.3, 0.5])
def test_the_noise_rate_is_found_and_lists_keep_what_they_state(rate, seed):
    labels, p, right = predictions(rate, seed)
    report = LabelReport.from_predictions(labels, p)
    assert report.noise_rate == pytest.approx(rate, abs=0.06)
    for stated in (0.1, 0.2):
        listed = report.index[report.q_value <= stated]
        assert not len(listed) or right[listed].mean() <= stated
    named = report.index[report.clean_probability < 0.5]
    if not rate:
        assert len(named) < 0.02 * N
    else:  # a sixth of the predictions are wrong themselves
        assert right[named].mean() < 0.4
        assert (~right[named]).sum() >= 0.6 * (~right).sum()


@pytest.mark.parametrize("kind", ["symmetric", "pairs"])
def test_wrong_labels_are_ranked_better_than_by_their_own_probability(kind):
    labels, p, right = predictions(0.2, kind=kind)
    report = LabelReport.from_predictions(labels, p)
    place = np.empty(N)
    place[report.index] = np.arange(N)
    own = roc_auc_score(right, p[np.arange(N), labels])
    assert roc_auc_score(right, place) > own > 0.85


def test_the_columns_are_those_of_one_classifier_or_of_two():
    labels, p, _ = predictions(0.2)
    _, other, _ = predictions(0.2, seed=1)
    one = LabelReport.from_predictions(labels, p)
    assert one.agree.all()
    np.testing.assert_array_equal(one.clean_probability_a, one.clean_probability_b)
    np.testing.assert_array_equal(one.suggested, p.argmax(1)[one.index])
    np.testing.assert_array_equal(one.given, labels[one.index])
    two = LabelReport.from_predictions(labels, np.stack([p, other]))
    agree = p.argmax(1) == other.argmax(1)
    np.testing.assert_array_equal(two.agree, agree[two.index])
    np.testing.assert_allclose(
        two.clean_probability, (two.clean_probability_a + two.clean_probability_b) / 2
    )
    assert roc_auc_score(agree[two.index], two.clean_probability_b) > 0.5


def test_labels_of_equal_probability_are_in_the_order_of_their_similarity():
    labels, p, _ = predictions(0.2)
    report = LabelReport.from_predictions(labels, p)
    similarity = (p[np.arange(N), labels] / np.linalg.norm(p, axis=1))[report.index]
    falls = np.diff(similarity) < -1e-12
    assert (np.diff(report.clean_probability) >= 0).all()
    assert not falls[np.diff(report.clean_probability) == 0].any()


def test_any_array_will_do_and_no_random_number_is_drawn():
    labels, p, _ = predictions(0.2)
    states = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    expected = LabelReport.from_predictions(labels, p)
    assert torch.equal(torch.get_rng_state(), states[0])
    np.testing.assert_array_equal(np.random.get_state()[1], states[1])  # noqa: NPY002
    for given in (labels.tolist(), torch.as_tensor(labels), labels.astype(float)):
        for values in (p.tolist(), torch.as_tensor(p)):
            report = LabelReport.from_predictions(given, values)
            np.testing.assert_array_equal(report.index, expected.index)
    half = LabelReport.from_predictions(labels, torch.as_tensor(p).half())
    assert half.noise_rate == pytest.approx(expected.noise_rate, abs=0.01)


def test_noise_that_the_surest_predictions_miss_is_told():
    """Samples of no class: three of ten digits, under labels of the others."""
    x, y = load_digits(return_X_y=True)
    labels = np.where(y < 7, y, np.random.default_rng(0).integers(0, 7, len(y)))
    p = cross_val_predict(
        LogisticRegression(max_iter=300), x / 16, labels, cv=5, method="predict_proba"
    )
    with pytest.warns(UserWarning, match=r"rate of 0.00, and 0.2\d without .* by hand"):
        report = LabelReport.from_predictions(labels, p)
    assert report.noise_rate < 0.05 < (y >= 7).mean()


@pytest.mark.parametrize("n", [500, N])
def test_the_order_of_the_samples_does_not_matter(n):
    labels, p, _ = predictions(0.2)
    for order in (np.argsort(labels[:n], kind="stable"), np.arange(n)[::-1]):
        report = LabelReport.from_predictions(labels[:n][order], p[:n][order])
        expected = LabelReport.from_predictions(labels[:n], p[:n])
        assert report.noise_rate == pytest.approx(expected.noise_rate, abs=1e-6)
        np.testing.assert_array_equal(order[report.index], expected.index)


def test_classes_without_labels_are_left_out():
    labels, p, _ = predictions(0.2)
    wide = LabelReport.from_predictions(labels, np.pad(p, ((0, 0), (0, 20))))
    expected = LabelReport.from_predictions(labels, p)
    np.testing.assert_allclose(wide.clean_probability, expected.clean_probability, rtol=1e-9)


def test_what_is_given_stays_as_it_is():
    labels, p, _ = predictions(0.2)
    given = labels.copy(), p.copy()
    LabelReport.from_predictions(labels, p)
    np.testing.assert_array_equal(given[0], labels)
    np.testing.assert_array_equal(given[1], p)


@pytest.mark.filterwarnings("ignore:all labels are equally similar")
@pytest.mark.parametrize("n", [1, 2, 5])
@pytest.mark.parametrize("classes", [2, 10])
def test_few_samples(n, classes):
    rng = np.random.default_rng(n)
    p = rng.dirichlet(np.ones(classes), n)
    report = LabelReport.from_predictions(rng.integers(0, classes, n), p)
    assert np.isfinite(report.clean_probability).all()
    assert sorted(report.index) == list(range(n))


def test_predictions_that_are_all_alike_say_nothing():
    with pytest.warns(UserWarning, match="all labels are equally similar"):
        report = LabelReport.from_predictions(np.arange(100) % 4, np.full((100, 4), 0.25))
    assert (report.clean_probability == 1).all()


def test_certain_predictions():
    labels, p, _ = predictions(0.3, sure=1.0)
    certain = np.eye(C)[p.argmax(1)]
    message = (
        r"all predictions are 0 or 1, so a classifier's own errors cannot be told from wrong "
        r"labels; pass graded probabilities \(not of a decision tree or 1-NN\)"
    )
    with pytest.warns(UserWarning, match=message):
        report = LabelReport.from_predictions(labels, certain)
    assert np.isfinite(report.clean_probability).all()
    assert report.noise_rate == pytest.approx(0.3, abs=0.06)
    with pytest.warns(UserWarning, match=message):
        LabelReport.from_predictions(labels, np.stack([p, certain]))
    certain[0] = p[0]
    LabelReport.from_predictions(labels, certain)  # and no warning


def test_filters_of_warnings_stay_as_they_are(monkeypatch):
    """All threads share them."""
    during, fit = [], DecoyMixture.fit

    def look(*args, **kwargs):
        during.append(warnings.filters[:])
        return fit(*args, **kwargs)

    monkeypatch.setattr(DecoyMixture, "fit", look)
    LabelReport.from_predictions(*predictions(0.4, kind="pairs")[:2])  # degenerate
    assert during == [warnings.filters]


@pytest.mark.parametrize("empty", [0, 20])
def test_decoys_are_all_other_labels_that_occur(empty, monkeypatch):
    labels, p, _ = predictions(0.2)
    fit = DecoyMixture.fit

    def look(mixture, s, decoys, **hints):
        assert hints["hit_rate"] == 1 / (C - 1)
        assert (len(s), decoys.total) == (N, N * (C - 1))
        return fit(mixture, s, decoys, **hints)

    monkeypatch.setattr(DecoyMixture, "fit", look)
    LabelReport.from_predictions(labels, np.pad(p, ((0, 0), (0, empty))))


def test_rounding_beyond_0_and_1_is_taken_back():
    labels, p, _ = predictions(0.2)
    p[0], p[1] = np.eye(C)[0], [0, 0.25, 0.25, 0.25, 0.25]
    expected = LabelReport.from_predictions(labels, p)
    p[0] += [5e-7, -5e-7, 0, 0, 0]
    p[1, 0] -= 9e-7  # nearly twice as much in a similarity
    got = LabelReport.from_predictions(labels, p)
    np.testing.assert_array_equal(got.clean_probability, expected.clean_probability)


GOOD = np.full((4, 2), 0.5)


@pytest.mark.parametrize(
    ("labels", "probabilities", "message"),
    [
        ([0, 1, 1], GOOD, r"labels must have shape \(4,\), got \(3,\)"),
        ([0, 1, 1, 2], GOOD, r"labels must lie in \[0, 2\), got values from 0 to 2"),
        ([0, 1, 1, -1], GOOD, r"labels must lie in \[0, 2\), got values from -1 to 1"),
        ([0, 1, 1, 0.5], GOOD, r"labels must be integers, got 0\.5"),
        (
            ["cat"] * 4,
            GOOD,
            r"labels must be integers, the columns of the classes, got dtype <U3; `classes, "
            r"labels = np\.unique\(labels, return_inverse=True\)` gives those of cross_val_predict",
        ),
        (
            [0, 1, 1, 0],
            2 * GOOD,
            r"sum to 1 for each sample, got values from 1 to 1 and a sum of 2 in row 0, "
            r"the first of 4",
        ),
        ([0, 1, 1, 0], np.full((4, 2), np.nan), r"probabilities must be in \[0, 1\].*from nan"),
        ([0, 1, 1, 0], GOOD - 1, r"probabilities must be in \[0, 1\].*from -0\.5 to -0\.5"),
        (
            [0, 1, 1, 0],
            [[0.5, 0.5], [0.5, 0.5], [np.nan, 0.5], [0.5, 0.5]],
            r"probabilities must be in \[0, 1\] and sum to 1 for each sample, got values from nan "
            r"to nan and a sum of nan in row 2, the first of 1",
        ),
        ([0, 1, 1, 0], GOOD[:, 0], r"shape \(N, C\) or \(2, N, C\) with N >= 1.*got \(4,\)"),
        ([0, 1, 1, 0], GOOD[:, :1], r"shape \(N, C\) or \(2, N, C\) with N >= 1.*got \(4, 1\)"),
        ([0, 1, 1, 0], np.stack([GOOD] * 3), r"got \(3, 4, 2\)"),
        ([], GOOD[:0], r"with N >= 1 and C >= 2, got \(0, 2\)"),
        (GOOD, [0, 1, 1, 0], r"labels must be integers, got 0\.5"),
    ],
)
def test_bad_input_is_named(labels, probabilities, message):
    with pytest.raises(ValueError, match=message):
        LabelReport.from_predictions(labels, probabilities)
