"""Train through wrong labels, and learn which labels are wrong.

Names are imported when first used, so that ``import resup`` costs nothing and ``BetaMixture`` can
be used without loading torch.

The way of the data; a module imports only from those before it::

    input               _warnings _checks _module _validation loaders
    logits -> S         similarity
    S -> histograms     distributed histogram accumulator
    -> mixtures         em odds _base mixture decoy_fits contradictions decoy
    -> probabilities    posterior
    -> losses           losses
    -> weights          alignment balance memory weigher
    -> suspect labels   fdr report
    training            progress callbacks checkpoint pair saved stepping trainer
    apart               noise plotting
"""

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .accumulator import HistogramAccumulator
    from .decoy import DecoyMixture
    from .fdr import q_values
    from .histogram import SimilarityHistogram
    from .losses import ConsistencyLoss, CrossWeightedLoss, SymmetricKLLoss
    from .mixture import BetaMixture
    from .posterior import Posterior
    from .report import LabelReport
    from .similarity import cosine_label_similarity, log_label_similarity
    from .trainer import CoTrainer
    from .weigher import SampleWeigher

__version__ = "0.1.0"

_HOME = {
    "BetaMixture": "mixture",
    "CoTrainer": "trainer",
    "ConsistencyLoss": "losses",
    "CrossWeightedLoss": "losses",
    "DecoyMixture": "decoy",
    "HistogramAccumulator": "accumulator",
    "Posterior": "posterior",
    "SampleWeigher": "weigher",
    "SimilarityHistogram": "histogram",
    "LabelReport": "report",
    "SymmetricKLLoss": "losses",
    "cosine_label_similarity": "similarity",
    "log_label_similarity": "similarity",
    "q_values": "fdr",
}

__all__ = [
    "BetaMixture",
    "CoTrainer",
    "ConsistencyLoss",
    "CrossWeightedLoss",
    "DecoyMixture",
    "HistogramAccumulator",
    "LabelReport",
    "Posterior",
    "SampleWeigher",
    "SimilarityHistogram",
    "SymmetricKLLoss",
    "cosine_label_similarity",
    "log_label_similarity",
    "q_values",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(import_module(f".{_HOME[name]}", __name__), name)
        globals()[name] = value
        return value
    if not name.startswith("_") and find_spec(f"{__name__}.{name}"):
        return import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
