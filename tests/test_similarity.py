import numpy as np
import pytest
import reference
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from resup import cosine_label_similarity, log_label_similarity
from resup.similarity import scaled_loss_signal

batches = st.tuples(st.integers(0, 6), st.integers(2, 12)).flatmap(
    lambda nc: st.tuples(
        arrays(np.float64, nc, elements=st.floats(-60, 60)),
        arrays(np.int64, nc[:1], elements=st.integers(0, nc[1] - 1)),
    )
)


@given(batches)
def test_equation_2(batch):
    logits, targets = batch
    expected = [reference.similarity(z, y) for z, y in zip(logits.tolist(), targets, strict=True)]
    got = cosine_label_similarity(torch.tensor(logits), torch.tensor(targets))
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-9, atol=1e-12)


@given(batches, st.floats(0.1, 100))
def test_the_loss_signal_is_the_cross_entropy_turned_round(batch, cap):
    logits, targets = batch
    losses = [reference.cross_entropy(z, y) for z, y in zip(logits.tolist(), targets, strict=True)]
    got = scaled_loss_signal(torch.tensor(logits), torch.tensor(targets), cap)
    expected = [1 - min(loss, cap) / cap for loss in losses]
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-9, atol=1e-9)
    assert ((got >= 0) & (got <= 1)).all()


@pytest.mark.parametrize("c", [2, 7, 1000])
def test_a_uniform_prediction_has_a_loss_signal_of_a_third(c):
    got = scaled_loss_signal(torch.zeros(2, c), torch.tensor([0, c - 1]))
    torch.testing.assert_close(got, torch.full((2,), 1 / 3))


@pytest.mark.parametrize("cap", [0.0, -1.0, float("nan"), float("inf"), True])
def test_a_cap_of_the_loss_that_is_not_positive_and_finite(cap):
    with pytest.raises(ValueError, match=f"cap must be larger than 0 and finite, got {cap}"):
        scaled_loss_signal(torch.zeros(1, 2), torch.tensor([0]), cap)


@given(batches)
def test_range_and_logs_agree(batch):
    log_s, log_1ms = log_label_similarity(torch.tensor(batch[0]), torch.tensor(batch[1]))
    assert torch.isfinite(log_s).all()
    assert torch.isfinite(log_1ms).all()
    s = log_s.exp()
    assert ((s >= 0) & (s <= 1)).all()
    torch.testing.assert_close(log_1ms.exp(), 1 - s, rtol=1e-9, atol=1e-12)


@given(batches, st.floats(-1000, 1000))
def test_adding_a_constant_changes_nothing(batch, shift):
    logits, targets = torch.tensor(batch[0]), torch.tensor(batch[1])
    torch.testing.assert_close(
        cosine_label_similarity(logits + shift, targets), cosine_label_similarity(logits, targets)
    )


@given(batches, st.randoms())
def test_permutation_and_rows(batch, random):
    logits, targets = torch.tensor(batch[0]), torch.tensor(batch[1])
    order = list(range(len(targets)))
    random.shuffle(order)
    whole = cosine_label_similarity(logits, targets)
    torch.testing.assert_close(cosine_label_similarity(logits[order], targets[order]), whole[order])
    rows = [cosine_label_similarity(logits[i : i + 1], targets[i : i + 1]) for i in order]
    if rows:
        torch.testing.assert_close(torch.cat(rows), whole[order])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_lower_precision_is_computed_in_float32(dtype):
    logits = (5 * torch.randn(200, 7)).to(dtype)
    targets = torch.randint(7, (200,))
    for signal in (cosine_label_similarity, scaled_loss_signal):
        got = signal(logits, targets)
        assert got.dtype == torch.float32
        torch.testing.assert_close(
            got.double(), signal(logits.double(), targets), atol=1e-6, rtol=1e-5
        )
        with torch.autocast("cpu", torch.bfloat16):
            torch.testing.assert_close(signal(logits, targets), got)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32])
def test_integer_targets_of_any_width(dtype):
    logits, targets = torch.randn(9, 4), torch.arange(9) % 4
    torch.testing.assert_close(
        cosine_label_similarity(logits, targets.to(dtype)), cosine_label_similarity(logits, targets)
    )


@pytest.mark.parametrize("margin", [20.0, 90.0, 1e4])
def test_saturated_logits_keep_their_distance_from_the_border(margin):
    logits = torch.tensor([[margin, 0.0, 0.0]])
    right, wrong = torch.tensor([0]), torch.tensor([1])
    log_s, log_1ms = log_label_similarity(logits, right)
    assert log_s.item() == pytest.approx(0, abs=1e-6)
    assert log_1ms.item() == pytest.approx(-2 * margin, rel=1e-6)  # 1 - S = e^(-2 margin)
    log_s, log_1ms = log_label_similarity(logits, wrong)
    assert log_s.item() == pytest.approx(-margin, rel=1e-6)
    assert log_1ms.item() == pytest.approx(0, abs=1e-6)


def test_gradients():
    logits = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    targets = torch.tensor([0, 1, 2, 3, 0])
    assert torch.autograd.gradcheck(lambda z: cosine_label_similarity(z, targets), logits)
    assert torch.autograd.gradcheck(lambda z: log_label_similarity(z, targets), logits)


def test_the_gradient_of_a_uniform_prediction():
    logits = torch.zeros(1, 4, dtype=torch.float64, requires_grad=True)  # S = 1/2
    cosine_label_similarity(logits, torch.tensor([0])).backward()
    expected = torch.tensor([[3 / 8, -1 / 8, -1 / 8, -1 / 8]], dtype=torch.float64)
    torch.testing.assert_close(logits.grad, expected)


def test_gradient_stays_finite_when_saturated():
    logits = torch.tensor([[100.0, 0.0], [0.0, 100.0]], requires_grad=True)
    sum(v.sum() for v in log_label_similarity(logits, torch.tensor([0, 0]))).backward()
    assert torch.isfinite(logits.grad).all()


def test_empty_batch():
    assert cosine_label_similarity(torch.zeros(0, 3), torch.zeros(0, dtype=torch.long)).shape == (
        0,
    )


@pytest.mark.parametrize(
    ("logits", "targets", "error", "message"),
    [
        (
            torch.zeros(3),
            torch.zeros(3).long(),
            ValueError,
            r"logits must have shape \(N, C\) with C >= 2",
        ),
        (torch.zeros(3, 1), torch.zeros(3).long(), ValueError, r"C >= 2 classes, got \(3, 1\)"),
        (torch.zeros(3, 2).long(), torch.zeros(3).long(), TypeError, "logits must be a floating"),
        (np.zeros((3, 2)), torch.zeros(3).long(), TypeError, "logits must be a floating"),
        (
            torch.zeros(3, 2),
            torch.zeros(3),
            TypeError,
            "targets must be an integer tensor .* got torch.float32",
        ),
        (torch.zeros(3, 2), torch.zeros(3).bool(), TypeError, "got torch.bool"),
        (torch.zeros(3, 2), [0, 1, 0], TypeError, "targets must be an integer tensor .* got list"),
        (
            torch.zeros(3, 2),
            torch.zeros(4).long(),
            ValueError,
            r"targets must have shape \(3,\) .* got \(4,\)",
        ),
        (
            torch.zeros(3, 2),
            torch.zeros(3, 1).long(),
            ValueError,
            r"targets must have shape \(3,\)",
        ),
        (
            torch.zeros(3, 2),
            torch.tensor([0, 2, 1]),
            ValueError,
            r"targets must lie in \[0, 2\) .* from 0 to 2",
        ),
        (torch.zeros(3, 2), torch.tensor([0, -1, 1]), ValueError, "from -1 to 1"),
        (
            torch.zeros(3, 2),
            torch.zeros(3, device="meta").long(),
            ValueError,
            "targets are on meta",
        ),
    ],
)
def test_bad_input(logits, targets, error, message):
    for signal in (cosine_label_similarity, scaled_loss_signal):
        with pytest.raises(error, match=message):
            signal(logits, targets)


@pytest.mark.parametrize("c", [2, 10, 1000])
@pytest.mark.parametrize("scale", [0.1, 1.0, 5.0])
def test_single_precision_keeps_both_logarithms(c, scale):
    """Each relative to itself, however near 0 or 1 S is."""
    logits, targets = scale * torch.randn(2000, c), torch.randint(c, (2000,))
    exact = log_label_similarity(logits.double(), targets)
    single = log_label_similarity(logits, targets)
    for logarithm, expected in zip(single, exact, strict=True):
        torch.testing.assert_close(logarithm.double(), expected, rtol=1e-5, atol=1e-30)
