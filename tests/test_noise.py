import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from resup.noise import (
    apply_transition,
    asymmetric_transition,
    draw_labels,
    instance_transition,
    noise_matrix,
    noise_rate,
    symmetric_transition,
)

CIFAR = {9: 1, 2: 0, 4: 7, 3: 5, 5: 3}


@given(st.integers(2, 50), st.floats(0, 1), st.booleans())
def test_symmetric_rows_are_distributions(c, rate, include_true):
    matrix = symmetric_transition(c, rate, include_true)
    np.testing.assert_allclose(matrix.sum(1), 1)
    assert (matrix >= 0).all()
    wrong = rate * (c - 1) / c if include_true else rate
    np.testing.assert_allclose(1 - np.diag(matrix), wrong, atol=1e-12)


def test_realised_noise_follows_the_matrix():
    true = np.arange(100_000) % 10
    for matrix in (
        symmetric_transition(10, 0.4),
        symmetric_transition(10, 0.4, True),
        asymmetric_transition(10, 0.4, CIFAR),
    ):
        given = apply_transition(true, matrix, seed=3)
        np.testing.assert_allclose(noise_matrix(true, given, 10), matrix, atol=0.02)
        assert noise_rate(true, given) == pytest.approx(1 - np.diag(matrix).mean(), abs=0.01)


def test_seeds():
    true, matrix = np.arange(1000) % 4, symmetric_transition(4, 0.5)
    np.testing.assert_array_equal(
        apply_transition(true, matrix, 1), apply_transition(true, matrix, 1)
    )
    assert (apply_transition(true, matrix, 1) != apply_transition(true, matrix, 2)).any()


def test_certain_moves():
    true = np.array([0, 1, 2, 2])
    np.testing.assert_array_equal(
        apply_transition(true, np.roll(np.eye(3), 1, axis=1), 0), [1, 2, 0, 0]
    )
    np.testing.assert_array_equal(apply_transition(true, np.eye(3), 0), true)
    for nothing in ([], np.zeros(0, int)):
        assert apply_transition(nothing, np.eye(3), 0).shape == (0,)


@pytest.mark.parametrize(
    ("rate", "mean"), [(0.0, 0.0798), (0.1, 0.1288), (0.2, 0.2055), (0.5, 0.5), (1.0, 0.9202)]
)
def test_instance_noise_has_the_rate_of_the_truncated_normal(rate, mean):
    true = np.arange(20_000) % 5
    features = np.random.default_rng(0).normal(size=(len(true), 3))
    distributions = instance_transition(features, true, rate, 5, seed=2)
    np.testing.assert_allclose(distributions.sum(1), 1)
    assert (distributions >= 0).all()
    wrong = 1 - distributions[np.arange(len(true)), true]
    assert wrong.mean() == pytest.approx(mean, abs=0.003)
    # the seed of the distributions serves for the draw too, as in a script with one seed
    given = draw_labels(distributions, seed=2)
    assert noise_rate(true, given) == pytest.approx(wrong.mean(), abs=0.01)
    for low, high in ((0.0, rate), (rate, 1.0)):
        chosen = (low <= wrong) & (wrong < high)
        if chosen.sum() > 1000:
            assert noise_rate(true[chosen], given[chosen]) == pytest.approx(
                wrong[chosen].mean(), abs=0.02
            )


def test_instance_noise_follows_the_sample():
    n, c = 400, 6
    true = np.zeros(n, int)
    faces = np.random.default_rng(0).normal(size=(2, 4, 4)).repeat(n // 2, axis=0)
    rows = instance_transition(faces, true, 0.5, c, seed=0, spread=0.0)
    np.testing.assert_allclose(rows[:, 0], 0.5)
    # the same face twice: the same wrong classes; another face: others
    np.testing.assert_allclose(rows[: n // 2], rows[:1].repeat(n // 2, 0))
    np.testing.assert_allclose(rows[n // 2 :], rows[-1:].repeat(n // 2, 0))
    assert np.abs(rows[0] - rows[-1]).max() > 0.01
    # and of another true class: a matrix of its own
    other = instance_transition(faces, true + 1, 0.5, c, seed=0, spread=0.0)
    assert np.abs(rows[0, 2:] - other[0, 2:]).max() > 0.01
    # without features that tell, all wrong classes are alike
    flat = instance_transition(np.zeros((n, 4)), true, 0.3, c, seed=0, spread=0.0)
    np.testing.assert_allclose(flat, symmetric_transition(c, 0.3)[true])


def test_instance_noise_is_a_softmax_of_projections():
    true = np.array([2, 0, 2, 1])
    features = np.arange(12.0).reshape(4, 3) / 10
    rows = instance_transition(features, true, 1.0, 3, seed=4, spread=0.0)
    doubled = instance_transition(2 * features, true, 1.0, 3, seed=4, spread=0.0)
    for row, sharper, y in zip(rows, doubled, true, strict=True):
        assert row[y] == 0
        a, b = (j for j in range(3) if j != y)
        assert np.log(sharper[a] / sharper[b]) == pytest.approx(2 * np.log(row[a] / row[b]))


def test_instance_noise_is_drawn_by_its_seed():
    features, true = np.random.default_rng(0).normal(size=(50, 7)), np.arange(50) % 3
    first, again, other = (instance_transition(features, true, 0.3, 3, s) for s in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.1
    # a sample that changes leaves the others as they are
    features[0] += 1
    changed = instance_transition(features, true, 0.3, 3, 1)
    np.testing.assert_allclose(changed[1:], first[1:])
    assert np.abs(changed[0] - first[0]).max() > 1e-3
    np.testing.assert_array_equal(
        instance_transition(np.zeros((0, 7)), np.zeros(0, int), 0.3, 3, 1), np.zeros((0, 3))
    )


def test_a_transition_is_a_distribution_for_every_sample():
    true, matrix = np.arange(999) % 3, symmetric_transition(3, 0.5)
    np.testing.assert_array_equal(apply_transition(true, matrix, 7), draw_labels(matrix[true], 7))


def test_human_labels_need_no_transition():
    true, human = np.array([0, 0, 1, 1, 1, 2]), np.array([0, 2, 1, 1, 0, 2], np.uint8)
    assert noise_rate(true, human) == pytest.approx(1 / 3)
    np.testing.assert_allclose(
        noise_matrix(true, human, 4),
        [[1 / 2, 0, 1 / 2, 0], [1 / 3, 2 / 3, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]],
    )


def of_objects(*labels):
    """As a column of pandas holds names."""
    return np.array(labels, dtype=object)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: symmetric_transition(1, 0.5), "n_classes must be an integer of at least 2, got 1"),
        (lambda: symmetric_transition(3.0, 0.5), "n_classes must be an integer .* got 3.0"),
        (lambda: symmetric_transition(3, "0.5"), "rate must be a finite number .* got '0.5'"),
        (
            lambda: symmetric_transition(3, 1.5),
            r"rate must be a finite number in \[0, 1\], got 1.5",
        ),
        (lambda: asymmetric_transition(3, 1.5, {0: 1}), r"rate must be .* in \[0, 1\], got 1.5"),
        (lambda: asymmetric_transition(3, 0.5, {0: 0}), "partner must map a class .* got 0: 0"),
        (lambda: asymmetric_transition(3, 0.5, {0: 3}), "got 0: 3"),
        (lambda: asymmetric_transition(3, 0.5, [1, 2, 0]), "partner must map .* got list"),
        (lambda: asymmetric_transition(3, 0.5, {0.5: 1}), "partner must map a class .* got 0.5: 1"),
        (lambda: asymmetric_transition(3, 0.5, {"0": 1}), "partner must map a class .* got '0': 1"),
        (lambda: asymmetric_transition(3, 0.5, {0: None}), "partner must map .* got 0: None"),
        (lambda: asymmetric_transition(3, 0.5, {True: 0}), "partner must map .* got True: 0"),
        (
            lambda: asymmetric_transition(1, 0.5, {}),
            "n_classes must be an integer of at least 2, got 1",
        ),
        (
            lambda: apply_transition([0, 3], np.eye(3), 0),
            r"labels must lie in \[0, 3\), got values from 0 to 3",
        ),
        (lambda: apply_transition([0.0], np.eye(3), 0), "labels must be integers"),
        (lambda: apply_transition([[0]], np.eye(3), 0), "labels must be integers"),
        (lambda: apply_transition([0], np.ones((3, 3)), 0), "rows that are distributions.* 3$"),
        (lambda: apply_transition([0], np.ones((3, 2)), 0), r"transition must have shape \(C, C\)"),
        (
            lambda: apply_transition([0], np.eye(3), seed=1.5),
            r"seed must be an integer of at least 0, got 1\.5",
        ),
        (lambda: draw_labels([[1.0]], -1), "seed must be an integer of at least 0, got -1"),
        (
            lambda: instance_transition([[1.0]], [0], 0.5, 2, seed="a"),
            "seed must be an integer of at least 0, got 'a'",
        ),
        (lambda: noise_rate([0, 1], [0]), "must share a shape"),
        (lambda: noise_rate(["0", "1"], [0, 1]), "must both be numbers or names, got <U1, int64"),
        (lambda: noise_rate([b"0"], ["0"]), "must both be numbers or names, got \\|S1, <U1"),
        (lambda: noise_rate(of_objects("0", "1"), [0, 1]), "must both be numbers .* got object"),
        (lambda: noise_rate([0, np.nan], [0, 1]), "must not contain NaN"),
        (lambda: noise_rate(["a"], of_objects(np.nan)), "must not contain NaN"),
        (lambda: noise_rate(["a", "b"], of_objects("a", pd.NA)), "must not contain NaN"),
        (lambda: noise_rate(of_objects("a", None), ["a", "b"]), "must not contain NaN or None"),
        (lambda: noise_rate(*[np.array(["NaT", "2020"], "M8[Y]")] * 2), "must not contain NaN"),
        (lambda: noise_matrix([0, 1], [0], 2), "must share a shape"),
        (lambda: noise_matrix([0, 1], [0, 2], 2), r"given must lie in \[0, 2\)"),
        (lambda: draw_labels([0.5, 0.5], 0), r"distributions must have two dimensions.*\(2,\)"),
        (lambda: draw_labels([["0.5", "0.5"]], 0), "distributions must be real numbers, got .*U3"),
        (lambda: apply_transition([0], 1j * np.eye(2), 0), "transition must be real numbers, got"),
        (lambda: draw_labels([[0.5, 0.6]], 0), "distributions must have rows that are.* 1.1$"),
        (lambda: draw_labels([[np.nan, 1.0]], 0), "distributions must have rows that are.* nan$"),
        (lambda: instance_transition([[1.0]], [0], 1.1, 2, 0), r"rate must be .* got 1.1"),
        (lambda: instance_transition([[1.0]], [0], 0.5, 1, 0), "must be an integer of at least 2"),
        (lambda: instance_transition([[1.0]], [2], 0.5, 2, 0), r"labels must lie in \[0, 2\)"),
        (lambda: instance_transition([1.0], [0], 0.5, 2, 0), r"shape \(1, ...\).*got float64"),
        (lambda: instance_transition([[1.0]], [0, 1], 0.5, 2, 0), r"features must be .*\(2, ..."),
        (lambda: instance_transition([["a"]], [0], 0.5, 2, 0), "features must be real numbers"),
        (lambda: instance_transition([[np.inf]], [0], 0.5, 2, 0), "features must be finite"),
        (lambda: instance_transition([[1e308] * 9], [0], 0.5, 2, 0), "features must be smaller"),
        (lambda: apply_transition([0], [[1j, 0], [0, 1]], 0), "transition must be real numbers"),
        (lambda: apply_transition([0], [["a", "b"]] * 2, 0), "transition must be real numbers"),
        (
            lambda: apply_transition([0], [[1], [0, 1]], 0),
            "transition must be an array-like of one",
        ),
        (lambda: symmetric_transition(3, True), "rate must be a finite number .* got True"),
        (lambda: instance_transition([[1.0]], [0], 0.5, 2, 0, -1.0), "spread must be .* got -1.0"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_class_of_no_probability_is_never_drawn():
    assert draw_labels(np.tile([0.49999, 0.5, 0], (200_000, 1)), 0).max() == 1


def test_any_seed_of_numpy():
    features, labels = np.ones((4, 2)), [0, 1, 0, 1]
    for seed in (
        None,
        np.int64(3),
        np.array(3),
        np.random.default_rng(0),
        np.random.SeedSequence(0),
    ):
        assert instance_transition(features, labels, 0.3, 2, seed=seed).shape == (4, 2)


@pytest.mark.parametrize("seed", [3, [3, 4], np.array([3, 4]), np.random.SeedSequence(3)])
def test_one_seed_serves_for_distributions_and_for_the_draw(seed):
    true, features = np.zeros(20_000, int), np.ones((20_000, 2))
    distributions = instance_transition(features, true, 0.4, 2, seed, spread=0.3)
    given = draw_labels(distributions, seed)
    assert given.mean() == pytest.approx(distributions[:, 1].mean(), abs=0.01)
    np.testing.assert_array_equal(draw_labels(distributions, seed), given)


def test_a_generator_draws_itself():
    u = np.random.default_rng(3).random(50)
    given = draw_labels(np.full((50, 2), 0.5), np.random.default_rng(3))
    np.testing.assert_array_equal(given, u >= 0.5)


def test_a_seed_sequence_keeps_its_entropy_and_pool():
    rows = np.full((50, 2), 0.5)
    first, *others = (
        draw_labels(rows, np.random.SeedSequence(entropy, spawn_key=key, pool_size=size))
        for entropy, key, size in [(3, (), 8), (3, (), 4), (4, (), 8), (3, (1,), 8)]
    )
    assert all((first != other).any() for other in others)


def test_distributions_are_of_a_stream_of_their_own():
    """One that a user's default_rng([seed, 1]) does not draw from."""
    true = (np.random.default_rng([0, 1]).random(5000) * 10).astype(int)
    x = np.random.default_rng(1).normal(size=(5000, 4))
    right = instance_transition(x, true, 0.4, 10, seed=0, spread=0.3)[np.arange(5000), true]
    by_class = [1 - right[true == c].mean() for c in range(10)]
    assert by_class == pytest.approx([np.mean(by_class)] * 10, abs=0.06)


@pytest.mark.parametrize("seed", [0, 7, [3, 4], np.random.SeedSequence(3)])
def test_the_seed_that_drew_the_true_labels_makes_noise(seed):
    true = np.random.default_rng(seed).choice(10, 20_000, p=np.full(10, 0.1))
    matrix = symmetric_transition(10, 0.4)
    assert noise_rate(true, apply_transition(true, matrix, seed)) == pytest.approx(0.4, abs=0.02)
    assert noise_rate(true, draw_labels(matrix[true], seed)) == pytest.approx(0.4, abs=0.02)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_tensors_are_as_good_as_arrays(dtype):
    labels, rows = np.array([0, 1, 0, 1]), np.array([[0.25, 0.75], [0.5, 0.5]])
    for call, values in (
        (lambda v: apply_transition(torch.tensor(labels), v, 1), rows),
        (lambda v: draw_labels(v, 1), rows),
        (lambda v: instance_transition(v, labels, 0.3, 2, 1), np.ones((4, 2))),
    ):
        tensor = torch.tensor(values, dtype=dtype, requires_grad=True)
        np.testing.assert_array_equal(call(tensor), call(values))


def test_draws_are_those_of_one_row_a_sample():
    true, matrix = np.arange(300) % 7, symmetric_transition(7, 0.4)
    assert (apply_transition(true, matrix, 3) == draw_labels(matrix[true], 3)).all()
