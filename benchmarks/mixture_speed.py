"""Time `BetaMixture` against the EM that everyone copies and against scikit-learn's mixture.

    python benchmarks/mixture_speed.py [--sizes 1e4 1e5 1e6] [--stream 1e8] [--out DIR]

All contenders fit the same float32 values, drawn from two Beta distributions with some mass exactly
at 0 and 1, and take turns, so that a busy machine slows all of them alike. Each turn gives a ratio,
of wall times and of processor times, which feel other programs less; the medians count. Set
OMP_NUM_THREADS=1 for processor times that mean the same for all.

BetaMixture        `BetaMixture().fit(array)`, until it has converged
fill               the part of it that grows with N: filling a `SimilarityHistogram`
textbook EM        10 moment steps on the samples themselves, densities from scipy.stats.beta.pdf
GaussianMixture    `GaussianMixture(2)`, until it has converged
sum                `values.sum()`, one pass over memory

Then: what the summary costs in log-likelihood against the same fit to the samples themselves, the
extra memory of each, and a stream of values that are never in memory together. With --out a chart
and the numbers as JSON are written into that folder.
"""

import argparse
import json
import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy import stats
from sklearn.mixture import GaussianMixture

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))

from paper.provenance import provenance

from resup import BetaMixture, SimilarityHistogram
from resup.em import fit_mixture

COMPARED = 10**6  # the size at which the goals hold
GOALS = {"textbook EM": 100, "GaussianMixture": 50}


def draw(rng: np.random.Generator, n: int) -> np.ndarray:
    """Similarities late in a training: 40 % wrong labels, 3 % of all at 1 and 2 % at 0."""
    values = np.empty(n, np.float32)
    for start in range(0, n, 1 << 20):
        part = values[start : start + (1 << 20)]
        wrong = int(0.4 * len(part))
        part[:wrong] = rng.beta(0.6, 3.0, wrong)
        part[wrong:] = rng.beta(5.0, 0.5, len(part) - wrong)
        rng.shuffle(part)
        border = rng.random(len(part), np.float32)
        part[border < 0.05] = 1
        part[border < 0.02] = 0
    return values


# ---------------------------------------------------------------------------- contenders


def textbook_em(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ten moment steps on raw samples, as published programs make them."""
    x = np.clip(values, 1e-4, 1 - 1e-4)
    weights, alphas, betas = np.array([0.5, 0.5]), np.array([1.0, 2.0]), np.array([2.0, 1.0])
    for _ in range(10):
        r = np.stack([weights[k] * stats.beta.pdf(x, alphas[k], betas[k]) for k in range(2)])
        r /= r.sum(0) + 1e-12
        for k in range(2):
            mean = np.average(x, weights=r[k])
            variance = np.average((x - mean) ** 2, weights=r[k])
            alphas[k] = mean * (mean * (1 - mean) / variance - 1)
            betas[k] = alphas[k] * (1 - mean) / mean
        weights = r.sum(1) / r.sum()
    return weights, alphas, betas


CONTENDERS: dict[str, Callable[[np.ndarray], object]] = {
    "BetaMixture": lambda values: BetaMixture().fit(values),
    "textbook EM": textbook_em,
    "GaussianMixture": lambda values: GaussianMixture(2, random_state=0).fit(values[:, None]),
    "fill": lambda values: SimilarityHistogram().update(values),
    "sum": np.sum,
}
SLOW = ("textbook EM", "GaussianMixture")


def times(values: np.ndarray, turns: int, with_slow: bool) -> dict[str, np.ndarray]:
    """Wall and processor seconds of each contender, (turns, 2).

    A turn is the median of five runs, but for the slow ones a single run.
    """
    found: dict[str, list[np.ndarray]] = {}
    for _ in range(turns):
        for name, fit in CONTENDERS.items():
            if name in SLOW and not with_slow:
                continue
            runs = []
            for _ in range(1 if name in SLOW else 5):
                wall, cpu = time.perf_counter(), time.process_time()
                fit(values)
                runs.append((time.perf_counter() - wall, time.process_time() - cpu))
            found.setdefault(name, []).append(np.median(runs, 0))
    return {name: np.array(seconds) for name, seconds in found.items()}


def extra_memory(fit: Callable[[np.ndarray], object], values: np.ndarray) -> int:
    """Most bytes that `fit` holds at a time beside its input (arrays report to tracemalloc)."""
    tracemalloc.start()
    fit(values)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def cost_of_summary(values: np.ndarray, prior: float) -> dict[str, float]:
    """Mean log-likelihood of the summarised fit, less that of the same fit to the samples."""
    mixture = BetaMixture(prior=prior).fit(values)
    x = np.clip(values.astype(np.float64), mixture.clip, 1 - mixture.clip)
    ones = np.ones(len(x))
    start = time.perf_counter()
    exact = fit_mixture(x, ones, 2, prior=prior, max_iter=mixture.max_iter, tol=mixture.tol)
    seconds = time.perf_counter() - start
    scores = mixture.score(values), float(exact.log_density(x).mean())
    return {
        "n": len(values),
        "prior": prior,
        "summarised": scores[0],
        "exact": scores[1],
        "difference": scores[0] - scores[1],
        "exact_seconds": seconds,
        "iterations": mixture.n_iter_,
    }


def stream(n: int, rng: np.random.Generator) -> dict[str, float]:
    """Fill one histogram with `n` values, a chunk at a time; drawing them is not timed."""
    chunk, filling, done = 1 << 20, 0.0, 0
    tracemalloc.start()
    histogram = SimilarityHistogram()
    while done < n:
        values = draw(rng, min(chunk, n - done))
        start = time.perf_counter()
        histogram.update(values)
        filling += time.perf_counter() - start
        done += len(values)
    start = time.perf_counter()
    mixture = BetaMixture().fit(histogram)
    fitting = time.perf_counter() - start
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return {
        "n": n,
        "total": histogram.total,
        "fill_seconds": filling,
        "fit_seconds": fitting,
        "converged": mixture.converged_,
        "peak_bytes": peak,
        "chunk_bytes": 4 * chunk,
    }


# ---------------------------------------------------------------------------- output


def chart(medians: dict[int, dict[str, float]], path: Path) -> None:
    import matplotlib.pyplot as plt

    looks = {
        "textbook EM": ("textbook EM, 10 steps (scipy.stats.beta.pdf)", "tab:red", "o-"),
        "GaussianMixture": ("sklearn GaussianMixture(2)", "tab:orange", "s-"),
        "BetaMixture": ("resup BetaMixture, converged", "tab:blue", "D-"),
        "fill": ("   of it: filling the histogram", "tab:cyan", "v--"),
        "sum": ("one pass over memory, values.sum()", "0.5", "x:"),
    }
    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    for name, (label, color, style) in looks.items():
        points = [(n, found[name]) for n, found in medians.items() if name in found]
        axes.loglog(*zip(*points, strict=True), style, label=label, color=color)
    axes.set(xlabel="number of samples", ylabel="seconds", title="Time to fit two components")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    figure.savefig(path, dpi=120)


def compare(
    sizes: list[int], slow: int, turns: int, rng: np.random.Generator
) -> tuple[dict, dict, dict, list]:
    """Print a row a contender and size; return seconds, ratios, memory and costs."""
    header = (
        f"{'N':>12} {'contender':<16} {'seconds':>9} {'ns each':>9} {'x sum':>8} {'extra MB':>9}"
    )
    print(f"{header}   times slower than BetaMixture (wall, CPU)")
    medians: dict[int, dict[str, float]] = {}
    ratios: dict[int, dict[str, dict[str, float]]] = {}
    memory: dict[int, dict[str, int]] = {}
    costs = []
    for n in sorted(sizes):
        values = draw(rng, n)
        times(values[:5000], 1, True)  # loads what is loaded late
        found = times(values, turns, n <= slow)
        medians[n] = {name: float(np.median(seconds[:, 0])) for name, seconds in found.items()}
        memory[n] = {name: extra_memory(CONTENDERS[name], values) for name in found}
        ratios[n] = {}
        for name, seconds in medians[n].items():
            row = f"{n:>12,} {name:<16} {seconds:>9.5f} {1e9 * seconds / n:>9.2f}"
            row += f" {seconds / medians[n]['sum']:>8.1f} {memory[n][name] / 1e6:>9.2f}"
            if name in SLOW:
                wall, cpu = np.median(found[name] / found["BetaMixture"], 0).tolist()
                ratios[n][name] = {"wall": wall, "cpu": cpu}
                row += f"   {wall:>4.0f} {cpu:>4.0f}"
            print(row, flush=True)
        if n in (10**5, COMPARED):
            costs += [cost_of_summary(values, prior) for prior in (BetaMixture().prior, 0.0)]
        del values
    return medians, ratios, memory, costs


def show_goals(ratios: dict[int, dict[str, dict[str, float]]], costs: list) -> None:
    if COMPARED in ratios:
        print(f"\nAt N = {COMPARED:,}, converged:")
        for name, ratio in ratios[COMPARED].items():
            wall, cpu = ratio["wall"], ratio["cpu"]
            print(f"  {wall:.0f} (CPU: {cpu:.0f}) times faster than {name}, goal {GOALS[name]}")
    if costs:
        print("\nMean log-likelihood, summarised fit less exact fit (goal 1e-4):")
    for cost in costs:
        print(
            f"  N = {cost['n']:>9,}, prior {cost['prior']}: {cost['difference']:+.1e}"
            f"   ({cost['iterations']} iterations; exact fit: {cost['exact_seconds']:.1f} s)"
        )


def show_stream(streamed: dict[str, float]) -> None:
    print(
        f"\nStream of {streamed['total']:,.0f} values through one SimilarityHistogram: "
        f"filled in {streamed['fill_seconds']:.1f} s "
        f"({1e9 * streamed['fill_seconds'] / streamed['n']:.1f} ns each), "
        f"fitted in {1e3 * streamed['fit_seconds']:.0f} ms, never more than "
        f"{streamed['peak_bytes'] / 1e6:.0f} MB held, the drawing of chunks of "
        f"{streamed['chunk_bytes'] / 1e6:.0f} MB included"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    number = lambda text: int(float(text))  # noqa: E731
    sizes = [10**4, 10**5, 10**6]
    parser.add_argument("--sizes", type=number, nargs="+", default=sizes, help="up to 1e8")
    parser.add_argument("--slow", type=number, default=10**6, help="largest N of the slow ones")
    parser.add_argument("--stream", type=number, default=10**8, help="0 to leave it out")
    parser.add_argument("--turns", type=int, default=5, help="default: %(default)s")
    parser.add_argument("--out", type=Path, metavar="DIR", help="write mixture_speed.json, .png")
    args = parser.parse_args()
    origin = provenance()
    rng = np.random.default_rng(0)
    medians, ratios, memory, costs = compare(args.sizes, args.slow, args.turns, rng)
    show_goals(ratios, costs)
    streamed = stream(args.stream, rng) if args.stream else None
    if streamed:
        show_stream(streamed)
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        result = {
            **origin,
            "turns": args.turns,
            "median_seconds": medians,
            "times_slower_than_BetaMixture": ratios,
            "goals": GOALS,
            "extra_bytes": memory,
            "summary_against_exact": costs,
            "stream": streamed,
        }
        (args.out / "mixture_speed.json").write_text(json.dumps(result, indent=1) + "\n")
        chart(medians, args.out / "mixture_speed.png")


if __name__ == "__main__":
    main()
