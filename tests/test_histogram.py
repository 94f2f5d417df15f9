import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from resup import (
    BetaMixture,
    HistogramAccumulator,
    SimilarityHistogram,
    log_label_similarity,
)
from resup.accumulator import DecoyAccumulator
from resup.histogram import CENTRES, N_BINS, SMALLEST, count


def bin_index(values):
    return [count(np.array([value]), None).argmax() for value in values]


unit = arrays(np.float64, st.integers(0, 300), elements=st.floats(0, 1))


@given(unit)
@example(SMALLEST * np.array([0.5, 1, 1.0155, 1.016]))
@example(1 - SMALLEST * np.array([0.5, 1, 1.0155, 1.016]))
def test_every_value_is_known_to_under_one_percent_of_its_distance_from_either_end(s):
    index = np.array(bin_index(s), int)
    centre, clipped = CENTRES[index], np.clip(s, SMALLEST, 1 - SMALLEST)
    known_to = np.where((index == 0) | (index == N_BINS - 1), 0.016, 0.008)
    assert (np.abs(centre - clipped) <= known_to * np.minimum(clipped, 1 - clipped)).all()


def test_bins_are_in_order():
    assert (np.diff(CENTRES) > 0).all()
    np.testing.assert_array_equal(bin_index(CENTRES), np.arange(N_BINS))
    np.testing.assert_array_equal(bin_index([0, 0.5, 1.0]), [0, N_BINS // 2 - 1, N_BINS - 1])


@given(unit, unit)
def test_parts_add_up(first, second):
    whole = SimilarityHistogram().update(np.concatenate([first, second]))
    parts = SimilarityHistogram().update(first) + SimilarityHistogram().update(second)
    np.testing.assert_array_equal(whole.counts, parts.counts)
    assert whole.total == len(first) + len(second)
    np.testing.assert_array_equal(sum([parts, whole]).counts, 2 * whole.counts)


def test_weights_are_repetition(rng):
    s, repeats = rng.random(500), rng.integers(0, 4, 500)
    weighted = SimilarityHistogram().update(s, repeats)
    np.testing.assert_array_equal(
        weighted.counts, SimilarityHistogram().update(np.repeat(s, repeats)).counts
    )


@pytest.mark.parametrize(
    "values",
    [
        [0.1, 0.9],
        np.array([[0.1], [0.9]], np.float32),
        torch.tensor([0.1, 0.9]),
        np.array([0.1, 0.9], np.float16),
        np.array([0.1, 0.9], object),
        np.array([np.float32(0.1), True], object),
    ],
)
def test_arrays_lists_and_tensors(values):
    assert SimilarityHistogram().update(values).total == 2
    assert SimilarityHistogram().update([0.1, 0.9], np.ravel(values)).total > 0.9


def test_tensors_of_any_kind():
    s = torch.tensor([0.25, 0.75], dtype=torch.bfloat16, requires_grad=True)
    assert SimilarityHistogram().update(s).total == 2
    narrow = SimilarityHistogram().update(s.detach().to(torch.float8_e5m2))
    np.testing.assert_array_equal(narrow.counts, SimilarityHistogram().update([0.25, 0.75]).counts)
    assert SimilarityHistogram().update(torch.tensor([0, 1])).counts[[0, -1]].tolist() == [1, 1]


@pytest.mark.parametrize("groups", [1, 3])
def test_the_device_fills_the_same_bins(groups):
    accumulator = HistogramAccumulator(groups)
    hosts = [SimilarityHistogram() for _ in range(groups)]
    for _ in range(5):
        logits, targets = 8 * torch.randn(groups * 400, 6), torch.randint(6, (groups * 400,))
        logs = [v.view(groups, 400) for v in log_label_similarity(logits, targets)]
        accumulator.update(*logs)
        for host, log_s in zip(hosts, logs[0].double(), strict=True):
            host.update(log_s.exp())
    for group, host in enumerate(hosts):
        got = accumulator.histogram(group)
        assert got.total == 2000
        # float32 may put a value that lies on an edge into the bin beside it
        assert np.abs(np.cumsum(got.counts - host.counts)).max() <= 3


def test_the_device_takes_weights_and_skips_what_is_not_finite():
    accumulator = HistogramAccumulator()
    s = torch.tensor([0.0, 0.2, torch.nan, 1.0])
    accumulator.update(s.log(), (-s).log1p(), torch.tensor([1.0, 0.5, 9.0, 2.0]))
    counts = accumulator.histogram().counts
    assert (counts[0], counts[-1], counts.sum()) == (1, 2, 3.5)
    accumulator.reset()
    accumulator.update(s.log(), (-s).log1p(), torch.tensor([1, 2, torch.nan, 3]))
    assert accumulator.histogram().total == 6


def test_bad_input_of_the_accumulator():
    with pytest.raises(ValueError, match="groups must be an integer of at least 1, got 0"):
        HistogramAccumulator(groups=0)
    with pytest.raises(TypeError, match="log_1ms must be a Tensor, got list"):
        HistogramAccumulator().update(torch.tensor([-1.0]), [-1.0])
    with pytest.raises(TypeError, match="weights must be a Tensor, got ndarray"):
        HistogramAccumulator().update(torch.tensor([-1.0]), torch.tensor([-1.0]), np.ones(1))
    accumulator, s = HistogramAccumulator(), torch.tensor([0.2, 0.7])
    with pytest.raises(ValueError, match=r"log_s must be logarithms, at most 0, got .* up to 0.7"):
        accumulator.update(s, 1 - s)
    with pytest.raises(ValueError, match=r"log_1ms must be logarithms, .* got .* up to 0.8"):
        accumulator.update(s.log(), 1 - s)
    assert accumulator.histogram().total == 0


def test_the_accumulator_compiles_without_a_break():
    torch._dynamo.reset()
    plain, compiled = HistogramAccumulator(), HistogramAccumulator()
    s = torch.rand(64)
    plain.update(s.log(), (-s).log1p())
    torch.compile(compiled.update, fullgraph=True, backend="aot_eager")(s.log(), (-s).log1p())
    torch.testing.assert_close(compiled.counts, plain.counts)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([0.1, 1.5], r"similarities must lie in \[0, 1\], got values from 0.1 to 1.5"),
        ([-0.1], r"must lie in \[0, 1\]"),
        ([0.1, np.inf], r"must lie in \[0, 1\]"),
        ([0.1, np.nan, np.nan], "must not contain NaN, got 2 of them"),
        (np.tile([0.1, np.nan], 200_000), "must not contain NaN, got 200000 of them"),
        (np.ma.masked_array([0.1, 0.2], [False, True]), "similarities must not be masked"),
        ([[0.1, 0.2]], r"must have shape \(N,\) or \(N, 1\), got \(1, 2\)"),
        ([1 + 1.5e-6], "got values from 1.0000015 to 1.0000015"),
        (["a"], "must be real numbers"),
        (np.array(["0.5", 0.5], object), "must be real numbers, got dtype object"),
        (np.array([None, 0.5]), "must be real numbers, got dtype object"),
        (np.array([1j, 0.5], object), "must be real numbers, got dtype object"),
        ([1j], "must be real numbers"),
    ],
)
def test_bad_values_leave_it_as_it_was(values, message):
    histogram = SimilarityHistogram().update([0.5])
    with pytest.raises(ValueError, match=message):
        histogram.update(values)
    assert histogram.total == 1


@pytest.mark.parametrize("weights", [[1.0], [1.0, -1.0], [1.0, np.nan]])
def test_bad_weights(weights):
    with pytest.raises(ValueError, match="sample_weight must"):
        SimilarityHistogram().update([0.1, 0.2], weights)


def test_weights_of_no_finite_sum_leave_it_as_it_was():
    histogram = SimilarityHistogram().update([0.1], [1e308])
    for s, weights in (([0.1], [1e308]), ([0.2, 0.3], [1e308] * 2)):
        with pytest.raises(ValueError, match="sample_weight must leave the total finite, got inf"):
            histogram.update(s, weights)
    assert histogram.total == 1e308


def test_the_table_of_centres_cannot_be_written():
    with pytest.raises(ValueError, match="read-only"):
        SimilarityHistogram.centres[0] = 1


def test_bad_counts():
    with pytest.raises(ValueError, match=r"counts must have shape \(2432,\), got \(3,\)"):
        SimilarityHistogram([1, 2, 3])
    with pytest.raises(ValueError, match="not negative"):
        SimilarityHistogram(-np.ones(N_BINS))
    for bad in (np.nan, np.inf):
        with pytest.raises(ValueError, match="counts must be finite"):
            SimilarityHistogram(np.full(N_BINS, bad))
    with pytest.raises(TypeError, match="unsupported operand"):
        SimilarityHistogram() + 1
    with pytest.raises(ValueError, match="counts must be real numbers, got dtype complex128"):
        SimilarityHistogram(np.full(N_BINS, 1j))


@pytest.mark.parametrize("shape", [(3, 4), (), (1, 2, 4)])
def test_bad_shapes_on_the_device(shape):
    with pytest.raises(ValueError, match=r"must both have shape \(N,\) or \(2, N\)"):
        HistogramAccumulator(2).update(torch.zeros(shape), torch.zeros(shape))


def test_two_shapes_on_the_device():
    with pytest.raises(ValueError, match=r"must both have .* got \(2, 4\) and \(4,\)"):
        HistogramAccumulator(2).update(torch.zeros(2, 4), torch.zeros(4))


@pytest.mark.parametrize("shape", [(), (1,), (3, 2), (1, 3)])
def test_bad_weights_on_the_device(shape):
    with pytest.raises(ValueError, match=r"weights must have shape \(3,\), got"):
        HistogramAccumulator().update(torch.zeros(3), torch.zeros(3), torch.ones(shape))


def test_rounding_is_no_error():
    """A cosine in float32 may lie a little outside of [0, 1]."""
    s = np.float32([-1e-7, 0.2, 0.5, 1.0000001])
    inside = SimilarityHistogram().update(np.clip(s, 0, 1))
    np.testing.assert_array_equal(SimilarityHistogram().update(s).counts, inside.counts)
    mixture = BetaMixture().fit(s)
    assert mixture.predict_proba(s).max() <= 1
    np.testing.assert_array_equal(mixture.alphas_, BetaMixture().fit(np.clip(s, 0, 1)).alphas_)


@pytest.mark.parametrize("dtype", [np.float16, np.uint8, bool])
@pytest.mark.parametrize("weighted", [False, True])
def test_no_dtype_asks_for_a_copy_of_all(dtype, weighted):
    n = 2_000_000
    s = (np.arange(n) % 2).astype(dtype)
    weights = np.ones(n, np.float32) if weighted else None
    tracemalloc.start()
    histogram = SimilarityHistogram().update(s, weights)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8e6
    assert histogram.counts[[0, -1]].tolist() == [n / 2, n / 2]


@pytest.mark.parametrize(
    ("logits", "targets", "error", "message"),
    [
        (torch.zeros(4, 3), torch.zeros(4).long(), ValueError, r"shape \(1, N, C\), got \(4, 3\)"),
        (torch.zeros(2, 4, 3), torch.zeros(4).long(), ValueError, r"shape \(1, N, C\), got"),
        (torch.zeros(1, 4, 1), torch.zeros(4).long(), ValueError, "with C >= 2 classes"),
        (torch.zeros(1, 4, 3), torch.full((4,), 3), ValueError, r"targets must lie in \[0, 3\)"),
        (torch.zeros(1, 4, 3), torch.zeros(4), TypeError, "targets must be an integer tensor"),
    ],
)
def test_decoys_of_bad_batches(logits, targets, error, message):
    with pytest.raises(error, match=message):
        DecoyAccumulator().update(logits, targets)
