import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resup.noise import (
    apply_transition,
    asymmetric_transition,
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
    assert apply_transition(np.zeros(0, int), np.eye(3), 0).shape == (0,)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: symmetric_transition(1, 0.5), "n_classes must be at least 2, got 1"),
        (lambda: symmetric_transition(3, 1.5), r"rate must lie in \[0, 1\], got 1.5"),
        (lambda: asymmetric_transition(3, 0.5, {0: 0}), "partner must map a class .* got 0: 0"),
        (lambda: asymmetric_transition(3, 0.5, {0: 3}), "got 0: 3"),
        (
            lambda: apply_transition([0, 3], np.eye(3), 0),
            r"labels must lie in \[0, 3\), got values from 0 to 3",
        ),
        (lambda: apply_transition([0.0], np.eye(3), 0), "labels must be integers"),
        (lambda: apply_transition([0], np.ones((3, 3)), 0), "rows that are distributions"),
        (lambda: apply_transition([0], np.ones((3, 2)), 0), r"transition must have shape \(C, C\)"),
        (lambda: noise_rate([0, 1], [0]), "must share a shape"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
