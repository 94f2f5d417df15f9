"""A mergeable summary of similarities: all that a mixture needs to know of any number of them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import logit
from typing_extensions import Self

from ._checks import as_column, as_numbers, as_similarities, as_weights, check_counts

__all__ = ["SimilarityHistogram"]

Array = NDArray[np.float64]

# A float32 keeps its exponent and leading mantissa bits on top, so shifting the rest away numbers
# bins of constant relative width: 64 to an octave of x = min(S, 1 - S), from 2**-20 to 1/2.
SHIFT = 23 - 6
SMALLEST = 2.0**-20
FIRST = int(np.float32(SMALLEST).view(np.int32)) >> SHIFT
HALF = (int(np.float32(0.5).view(np.int32)) >> SHIFT) - FIRST
N_BINS = 2 * HALF

_edges = (np.arange(FIRST, FIRST + HALF + 1, dtype=np.int32) << SHIFT).view(np.float32)
_centres = (_edges[:-1].astype(np.float64) + _edges[1:]) / 2
_centres[0] = SMALLEST
CENTRES: Array = np.concatenate([_centres, 1 - _centres[::-1]])
_lower = logit(_edges[1:-1].astype(np.float64))
LOGIT_EDGES: Array = np.concatenate([_lower, [0.0], -_lower[::-1]])
CENTRES.flags.writeable = LOGIT_EDGES.flags.writeable = False

# A key is the shifted bits of S - round(S): x, and a sign for S > 1/2. All below the first bin
# joins it.
_UPPER = 1 << (31 - SHIFT)
_lower_bin = np.clip(np.arange(_UPPER) - FIRST, 0, HALF - 1)
_BIN_OF_KEY = np.concatenate([_lower_bin, N_BINS - 1 - _lower_bin[: FIRST + HALF + 1]])
_BELOW_ONE = np.float32(1 - 2.0**-24)  # 1 itself would lose its sign

_CHUNK = 1 << 17  # samples; the work on a chunk stays in cache


def _workspace(size: int, dtype: Any) -> tuple[NDArray[Any], ...]:
    """Memory for `_keys`; asking for it anew for each chunk would cost more than the arithmetic."""
    x, nearest = np.empty((2, size), dtype)
    bits = x if x.dtype == np.float32 else np.empty(size, np.float32)
    return x, nearest, bits, np.empty(size, np.intp)


def _keys(s: NDArray[np.floating], workspace: tuple[NDArray[Any], ...]) -> NDArray[np.intp]:
    x, nearest, bits, keys = (array[: len(s)] for array in workspace)
    np.minimum(s, _BELOW_ONE, out=x)
    np.rint(x, out=nearest)
    np.subtract(x, nearest, out=bits, casting="same_kind")
    np.right_shift(bits.view(np.uint32), SHIFT, out=keys, dtype=np.uint32, casting="unsafe")
    return keys


def count(s: NDArray[Any], weights: NDArray[Any] | None, name: str = "similarities") -> Array:
    """Sum the weights in each bin, (2432,); raise if a value is NaN or outside [0, 1].

    Values and weights are taken a chunk at a time, so that their dtype asks for no copy of all.
    """
    counts = np.zeros(len(_BIN_OF_KEY))
    workspace = _workspace(min(len(s), _CHUNK), as_similarities(s[:0], name).dtype)
    for start in range(0, len(s), _CHUNK):
        part = slice(start, start + _CHUNK)
        w = None if weights is None else weights[part]
        try:
            values = as_similarities(s[part], name)
        except ValueError:
            as_similarities(s, name)  # says what is wrong with all of them
            raise
        counts += np.bincount(_keys(values, workspace), w, len(counts))
    return np.asarray(np.bincount(_BIN_OF_KEY, counts, N_BINS), np.float64)


class SimilarityHistogram:
    """Counts of similarities in bins of constant relative width towards both 0 and 1.

    With 64 bins an octave of min(S, 1 - S) every value is known to 0.8 %, and within 1e-6 of 0
    or 1, in the outermost bins, to 1.6 %. The 2,432 counts stand for any number of samples: they
    can be filled in parts, added across processes, stored, and passed to ``BetaMixture.fit`` in
    place of the samples.

    Parameters
    ----------
    counts : array-like or Tensor of shape (2432,), optional
        Summed weight in each bin; zeros by default. Copied.

    Attributes
    ----------
    counts : ndarray of shape (2432,), float64
        Summed weight in each bin.
    total : float
        Sum of the counts.

    See Also
    --------
    resup.HistogramAccumulator : the same on any torch device, filled without synchronisation.

    Notes
    -----
    Values nearer to 0 or 1 than 2**-20 share the outermost bins.

    Examples
    --------
    >>> from resup import SimilarityHistogram
    >>> first = SimilarityHistogram().update([0.1, 0.9])
    >>> (first + SimilarityHistogram().update([0.9])).total
    3.0
    """

    centres: Array = CENTRES
    """Similarity that stands for each bin, ascending."""

    def __init__(self, counts: ArrayLike | None = None) -> None:
        self.counts: Array = np.zeros(N_BINS)
        if counts is not None:
            self.counts = as_numbers(counts, "counts").astype(np.float64)
        if self.counts.shape != (N_BINS,):
            raise ValueError(f"counts must have shape ({N_BINS},), got {self.counts.shape}")
        check_counts("counts", self.counts)

    @property
    def total(self) -> float:
        """Sum of the counts."""
        return float(self.counts.sum())

    def update(self, similarities: Any, sample_weight: Any = None) -> Self:
        """Add similarities.

        Parameters
        ----------
        similarities : array-like or Tensor of shape (N,) or (N, 1)
            Values in [0, 1], of any real dtype and device; 1e-6 beyond are taken for rounding.
        sample_weight : array-like or Tensor of shape (N,), optional
            Not negative; ones by default.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            If a similarity is NaN or outside [0, 1], or a shape or weight is wrong. The histogram
            is then as it was before.
        """
        s = as_column(similarities)
        weights = None if sample_weight is None else as_weights(sample_weight, len(s))
        with np.errstate(over="ignore"):
            counts = self.counts + count(s, weights)
            if counts.sum() == np.inf:
                raise ValueError("sample_weight must leave the total finite, got inf")
        self.counts = counts
        return self

    def __add__(self, other: SimilarityHistogram) -> SimilarityHistogram:
        """Histogram of both sets of samples."""
        if not isinstance(other, SimilarityHistogram):
            return NotImplemented
        return SimilarityHistogram(self.counts + other.counts)

    def __radd__(self, other: int) -> SimilarityHistogram:
        """Begin a ``sum(histograms)``."""
        return self + SimilarityHistogram() if other == 0 else NotImplemented

    def __repr__(self) -> str:
        return f"SimilarityHistogram(total={self.total:g})"
