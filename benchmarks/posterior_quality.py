"""How good is the posterior of a right label, on similarities recorded from real trainings?

    python benchmarks/posterior_quality.py DIR [--rates] [--order SEED] [--out FILE.json]

DIR holds recorded runs, one a file NAME.npz: `logits` (epochs, N, C), `similarity` (epochs, N),
`decoy` (epochs, N; the similarity to a random other label), `label` (N,) and the truth, `wrong`
(N,). Every method is fitted to every recorded epoch without the truth. The score is the Brier score
of its posterior less that of the best monotone function of S, which isotonic regression on the
truth gives and which no method that looks at S alone can pass: 0 is perfect. The table, in
Markdown, has a row a method and a column a run, with mean / worst over the epochs. A second one has
the share of right labels among those listed by `q_values` at a stated false-discovery rate, and a
third the share of the wrong labels that are listed.
"""

import argparse
import json
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from scipy.special import betaln, digamma, expit, polygamma
from sklearn.exceptions import ConvergenceWarning
from sklearn.isotonic import isotonic_regression
from sklearn.mixture import GaussianMixture

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))

from paper.provenance import provenance

from resup import BetaMixture, DecoyMixture, SampleWeigher, q_values

STATED = 0.05, 0.1, 0.2  # false-discovery rates


class Epoch(NamedTuple):
    """What a method may see of one recorded epoch."""

    s: np.ndarray  # (N,) float64
    decoy: np.ndarray  # (N,) float64, the similarity to a uniformly random other label
    logits: np.ndarray  # (N, C) float16
    label: np.ndarray  # (N,)


class Fit(NamedTuple):
    """What a method says of it."""

    posterior: np.ndarray  # (N,) probability that the label is right
    noise_rate: float | None = None  # where the method gives one


# ---------------------------------------------------------------------------- methods


def beta_mixture(epoch: Epoch) -> Fit:
    mixture = BetaMixture().fit(epoch.s)
    posterior = mixture.predict_proba(epoch.s)[:, -1]
    return Fit(posterior, 1 - posterior.mean())


def gaussian_mixture(epoch: Epoch) -> Fit:
    mixture = GaussianMixture(2, random_state=0).fit(epoch.s[:, None])
    posterior = mixture.predict_proba(epoch.s[:, None])[:, mixture.means_[:, 0].argmax()]
    return Fit(posterior, 1 - posterior.mean())


# To add a method, write a function of an Epoch that returns a Fit and name it here.
METHODS: dict[str, Callable[[Epoch], Fit]] = {
    "**BetaMixture**": beta_mixture,
    # the EM of published programs, without the table that they read the posterior from
    "10 moment steps, clip 1e-3": lambda epoch: two_beta_em(epoch.s, moments, 10, 1e-3, 0),
    "converged moments, clip 1e-3": lambda epoch: two_beta_em(epoch.s, moments, 500, 1e-3, 1e-6),
    "maximum likelihood, clip 1e-6": lambda epoch: two_beta_em(epoch.s, likeliest, 500, 1e-6, 1e-6),
    "GaussianMixture(2)": gaussian_mixture,
    "S itself": lambda epoch: Fit(epoch.s),
    "prior's guess, (1 + 2S)/3": lambda epoch: Fit((1 + 2 * epoch.s) / 3),
}


def decoys_alone(epoch: Epoch) -> Fit:
    mixture = DecoyMixture().fit(epoch.s, epoch.decoy, hit_rate=1 / (epoch.logits.shape[1] - 1))
    return Fit(mixture.predict_proba(epoch.s)[:, -1], mixture.noise_rate_)


def decoys_in_training(seed: int | None = None) -> Callable[[Epoch], Fit]:
    """As `CoTrainer` uses them: decoys and the rate seen gathered in the step, remembered."""
    weigher = SampleWeigher(networks=1)
    rng = None if seed is None else np.random.default_rng(seed)

    def method(epoch: Epoch) -> Fit:
        logits, label = torch.from_numpy(epoch.logits).float(), torch.from_numpy(epoch.label)
        n = len(label)
        order = torch.from_numpy(rng.permutation(n)) if rng else torch.arange(n)
        for batch in order.split(128):
            weigher(logits[None, batch], label[batch])
        weigher.refit()
        mixture = weigher.mixtures_[0]
        return Fit(mixture.predict_proba(epoch.s)[:, -1], mixture.noise_rate_)

    return method


# Methods that look at more than S, made anew for each run; the table rules them off.
BEYOND_S: dict[str, Callable[[], Callable[[Epoch], Fit]]] = {
    "**DecoyMixture**": decoys_in_training,  # in the order of --order
    "DecoyMixture on arrays, no seen rate": lambda: decoys_alone,
}


# ---------------------------------------------------------------------------- plain two-Beta EM
# Written without resup, so that the baselines do not change with it.


def two_beta_em(s: np.ndarray, m_step: Callable, steps: int, clip: float, tol: float) -> Fit:
    """EM from (1, 2) and (2, 1); stops early if the mean log-likelihood moves by less than tol."""
    x = np.clip(s, clip, 1 - clip)
    log_x, log_1mx = np.log(x), np.log1p(-x)
    weights, shapes = [0.5, 0.5], [(1.0, 2.0), (2.0, 1.0)]

    def log_joint() -> list[np.ndarray]:
        return [
            np.log(max(weight, 1e-300)) + (a - 1) * log_x + (b - 1) * log_1mx - betaln(a, b)
            for weight, (a, b) in zip(weights, shapes, strict=True)
        ]

    before = -np.inf
    for _ in range(steps):
        wrong, right = log_joint()
        posterior = expit(right - wrong)
        now = float(np.logaddexp(wrong, right).mean()) if tol else 0.0
        if tol and abs(now - before) < tol:
            break
        before = now
        shares = [1 - posterior, posterior]
        weights = [share.mean() for share in shares]
        shapes = [
            m_step(x, log_x, log_1mx, share, *shape)
            for share, shape in zip(shares, shapes, strict=True)
        ]
    wrong, right = log_joint()
    means = [a / (a + b) for a, b in shapes]
    posterior = expit(right - wrong) if means[1] >= means[0] else expit(wrong - right)
    return Fit(posterior, 1 - posterior.mean())


def moments(x, log_x, log_1mx, share, a, b) -> tuple[float, float]:
    """Shapes of the weighted mean and variance."""
    n = share.sum() + 1e-300
    mean = (share @ x) / n
    variance = (share @ (x - mean) ** 2) / n
    total = mean * (1 - mean) / max(variance, 1e-12) - 1
    return max(mean * total, 1e-6), max((1 - mean) * total, 1e-6)


def likeliest(x, log_x, log_1mx, share, a, b) -> tuple[float, float]:
    """Shapes of highest weighted likelihood, by Newton's method in log a and log b."""
    n = share.sum()
    if n < 1e-9:
        return a, b
    target = np.array([share @ log_x, share @ log_1mx]) / n
    theta = np.log([a, b])

    def value(theta: np.ndarray) -> float:
        return float((np.exp(theta) - 1) @ target - betaln(*np.exp(theta)))

    for _ in range(20):
        shape = np.exp(theta)
        gradient = shape * (target - digamma(shape) + digamma(shape.sum()))
        fisher = np.diag(polygamma(1, shape)) - polygamma(1, shape.sum())
        step = np.linalg.solve(fisher * np.outer(shape, shape), gradient)
        if gradient @ step < 1e-10:
            break
        step /= max(1.0, np.abs(step).max())
        while value(theta + step) < value(theta) and np.abs(step).max() > 1e-12:
            step /= 2
        theta = theta + step
    return tuple(np.exp(theta).tolist())


# ---------------------------------------------------------------------------- scores


def recorded(folder: Path) -> Iterator[tuple[str, list[Epoch], np.ndarray]]:
    """Name, epochs and truth (True where the label is right) of each run."""
    for path in sorted(folder.glob("*.npz")):
        with np.load(path) as run:
            s, decoy, label = run["similarity"], run["decoy"], run["label"]
            logits, right = run["logits"], ~run["wrong"]
        epochs = [
            Epoch(s[e].astype(np.float64), decoy[e].astype(np.float64), logits[e], label)
            for e in range(len(s))
        ]
        yield path.stem, epochs, right


def best_brier(s: np.ndarray, right: np.ndarray) -> float:
    """Brier score of the best function of S that never falls, equal where S is equal."""
    _, place, count = np.unique(s, return_inverse=True, return_counts=True)
    rate = np.bincount(place, right) / count
    best = isotonic_regression(rate, sample_weight=count.astype(np.float64))
    return brier(best[place], right)


def brier(posterior: np.ndarray, right: np.ndarray) -> float:
    return float(np.mean((posterior - right) ** 2))


def listed(posterior: np.ndarray, right: np.ndarray) -> tuple[list[float], list[float]]:
    """Of the list at each stated rate: share that is right, share of all wrong labels in it.

    Both are 0 where none is listed.
    """
    lists = [q_values(posterior) <= rate for rate in STATED]
    false = [float(right[those].mean()) if those.any() else 0.0 for those in lists]
    return false, [float(those[~right].sum() / max((~right).sum(), 1)) for those in lists]


def markdown(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def spread(values: list[float]) -> str:
    return f"{np.mean(values):.3f} / {np.max(values):.3f}"


def slashed(values: np.ndarray) -> str:
    return " / ".join(f"{value:.2f}" for value in values)


def measured(folder: Path, chosen: dict[str, Callable]) -> tuple[dict[str, dict], dict[str, dict]]:
    """What the JSON holds of the methods, and of each method and run what `listed` says."""
    truth, seconds = {}, dict.fromkeys(chosen, 0.0)
    excess, rates, weights, lists = ({name: {} for name in chosen} for _ in range(4))
    for run, epochs, right in recorded(folder):
        truth[run] = float(1 - right.mean())
        best = [best_brier(epoch.s, right) for epoch in epochs]
        for name, method in chosen.items():
            fit = method() if name in BEYOND_S else method
            start = time.perf_counter()
            fits = [fit(epoch) for epoch in epochs]
            seconds[name] += time.perf_counter() - start
            posteriors, found = zip(*fits, strict=True)
            briers = [brier(posterior, right) for posterior in posteriors]
            excess[name][run] = (np.array(briers) - best).tolist()
            rates[name][run] = [rate if rate is None else float(rate) for rate in found]
            weights[name][run] = [float(posterior.mean()) for posterior in posteriors]
            lists[name][run] = [listed(posterior, right) for posterior in posteriors]
    scores = {
        "noise_rate": truth,
        "excess_brier": excess,
        "noise_rate_found": rates,
        "mean_weight": weights,
        "seconds": seconds,
    }
    return scores, lists


def show_excess(
    excess: dict[str, dict], seconds: dict[str, float], truth: dict[str, float]
) -> None:
    every = {name: list(chain.from_iterable(runs.values())) for name, runs in excess.items()}
    print(f"Excess Brier score, mean / worst over the epochs ({len(next(iter(every.values())))})\n")
    rows = []
    for name, runs in excess.items():
        if name in BEYOND_S and (not rows or rows[-1][0] in METHODS):
            rows.append(["*beyond S*"] + [""] * (len(truth) + 2))
        milliseconds = f"{1e3 * seconds[name] / len(every[name]):.1f}"
        rows.append([name, *map(spread, runs.values()), f"**{spread(every[name])}**", milliseconds])
    print(markdown(["method", *truth, "all", "ms a fit"], rows))


def show_weights(weights: dict[str, dict], clean: list[str]) -> None:
    print("\nMean weight where no label is wrong (1 is right), mean / lowest over the epochs\n")
    rows = [
        [name, *(f"{np.mean(w[run]):.3f} / {np.min(w[run]):.3f}" for run in clean)]
        for name, w in weights.items()
    ]
    print(markdown(["method", *clean], rows))


def show_lists(lists: dict[str, dict], wrong: list[str]) -> None:
    stated = " / ".join(map(str, STATED))
    false, found = [], []
    for name, runs in lists.items():
        shares = [np.array(runs[run]) for run in wrong]  # (epochs, 2, stated)
        false.append([name, *(f"{slashed(x.mean(0)[0])}, {slashed(x.max(0)[0])}" for x in shares)])
        found.append([name, *(slashed(x.mean(0)[1]) for x in shares)])
    print(f"\nRight labels in lists of wrong ones, stated {stated}: mean over the epochs, worst\n")
    print(markdown(["method", *wrong], false))
    print("\nWrong labels that are in these lists, of all wrong labels: mean over the epochs\n")
    print(markdown(["method", *wrong], found))


def show_rates(rates: dict[str, dict], truth: dict[str, float]) -> None:
    for run, rate in truth.items():
        print(f"\nNoise rate found in {run}, epoch by epoch (truth {rate:.3f})\n")
        epochs = range(1, len(next(iter(rates.values()))[run]) + 1)
        rows = [
            [name, *(f"{value:.3f}" for value in runs[run])]
            for name, runs in rates.items()
            if runs[run][0] is not None
        ]
        print(markdown(["method", *map(str, epochs)], rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path, metavar="DIR", help="folder of recorded *.npz")
    parser.add_argument("--rates", action="store_true", help="noise rates found, epoch by epoch")
    parser.add_argument("--methods", nargs="+", metavar="WORD", help="only names that hold a WORD")
    parser.add_argument(
        "--order", type=int, metavar="SEED", help="shuffle the batches that DecoyMixture trains on"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the numbers as JSON")
    args = parser.parse_args()
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
    origin = provenance()

    words = [word.lower() for word in args.methods or [""]]
    BEYOND_S["**DecoyMixture**"] = partial(decoys_in_training, args.order)
    chosen = {
        name: method
        for name, method in (METHODS | BEYOND_S).items()
        if any(word in name.lower() for word in words)
    }
    if not chosen:
        parser.error(f"--methods: no name holds any of {', '.join(args.methods)}")
    warnings.simplefilter("ignore", ConvergenceWarning)  # a degenerate fit is scored as it is
    scores, lists = measured(args.folder, chosen)
    truth = scores["noise_rate"]
    if not truth:
        parser.error(f"no *.npz in {args.folder}")
    show_excess(scores["excess_brier"], scores["seconds"], truth)
    if clean := [run for run, rate in truth.items() if rate == 0]:
        show_weights(scores["mean_weight"], clean)
    show_lists(lists, [run for run, rate in truth.items() if rate > 0])
    if args.rates:
        show_rates(scores["noise_rate_found"], truth)
    if args.out:
        args.out.write_text(json.dumps(rounded(origin | scores), indent=1) + "\n")


def rounded(value):
    """Five digits are plenty, and keep the file small."""
    if isinstance(value, float):
        return round(value, 5)
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    return [rounded(item) for item in value] if isinstance(value, list) else value


if __name__ == "__main__":
    main()
