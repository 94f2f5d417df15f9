"""Time an epoch of `CoTrainer` against the plain two-network cross-entropy loop.

    python benchmarks/step_overhead.py [--device cpu] [--steps N] [--turns 4] [--out FILE.json]

Both train equal networks on the same batches, held in memory, with one Adam for both networks. They
take turns, each turn gives one ratio, and the median of the ratios counts, so that a busy machine
slows both alike: on a GPU, which must not be waited for in between, a turn is an epoch of STEPS, on
the CPU a step, and to its ratio comes what the fit of two mixtures at the end of an epoch takes of
each of 390 steps. `CoTrainer` is past its warm-up, so a turn holds everything else: similarities,
histograms, weights, both losses. Beside it stand the ratio of the fastest turn of each, which
other programs have disturbed least, and on the CPU the median ratio of processor times. With
``--compile`` the weigher is compiled, which makes a few kernels of its many small operations; the
compilation is not timed.

As the networks take nearly all of the time, a noisy machine hides what is added. So the parts that
`CoTrainer` adds are timed alone too, and their sum is set beside a step of the plain loop: the
"ratio from parts", for an epoch of 390 steps.

Last, the loss of one batch of 96 faces alone, against the loop over samples of published programs.
"""

import argparse
import ctypes
import json
import sys
import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))

from paper.networks import build
from paper.provenance import provenance

from resup import BetaMixture, ConsistencyLoss, CoTrainer, CrossWeightedLoss, SampleWeigher
from resup.progress import EpochProgress

GOALS = {"cpu": 1.03, "cuda": 1.05}
EPOCH_STEPS = 390  # of CIFAR-10 with a batch of 128

NETWORKS = ["cnn7", "resnet18-cifar"]
Batches = list[tuple[Tensor, Tensor]]
Seconds = tuple[float, float]  # wall, processor


# ---------------------------------------------------------------------------- an epoch


def plain_epoch(
    models: tuple[nn.Module, nn.Module], optimizer: torch.optim.Optimizer, batches: Batches
) -> float:
    """Run what anyone would write to train two networks, the mean loss included."""
    for model in models:
        model.train()
    total = torch.zeros((), device=batches[0][1].device)
    for inputs, targets in batches:
        optimizer.zero_grad(set_to_none=True)
        loss = sum(F.cross_entropy(model(inputs), targets) for model in models)
        loss.backward()
        optimizer.step()
        total += loss.detach()
    return total.item() / len(batches)


def by_epoch(
    plain: Callable[[Batches], object], trainer: CoTrainer, batches: Batches, turns: int
) -> list[tuple[Seconds, Seconds]]:
    """Seconds of an epoch of each, turn by turn; they take turns in going first too."""
    taken = []
    for turn in range(turns):
        runs = [partial(plain, batches), partial(trainer.fit, batches, trainer.epoch + 1)]
        order = 1 if turn % 2 == 0 else -1
        taken.append(tuple([clock(run, trainer.device) for run in runs[::order]][::order]))
    return taken


def by_step(
    plain: Callable[[Batches], object], trainer: CoTrainer, batches: Batches, turns: int
) -> list[tuple[Seconds, Seconds]]:
    """Seconds of a step of each, turn by turn: the loader of `trainer` takes the plain steps."""
    taken = []

    def loader() -> Iterator[tuple[Tensor, Tensor]]:
        for batch in batches * turns:
            first = clock(lambda batch=batch: plain([batch]), trainer.device)
            wall, cpu = time.perf_counter(), time.process_time()
            yield batch
            taken.append((first, (time.perf_counter() - wall, time.process_time() - cpu)))

    trainer.fit(loader(), trainer.epoch + 1)
    return taken


def keep_memory() -> None:
    """Let glibc keep what is freed.

    Else it gives much back to the system after each step, by luck of where things lie, and faulting
    it in again costs either contender some per cent.
    """
    trim_threshold, mmap_max = -1, -4  # of malloc.h
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(trim_threshold, -1)
        mallopt(mmap_max, 0)


def clock(run: Callable[[], object], device: torch.device) -> Seconds:
    """Wall and processor seconds of one run."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - wall, time.process_time() - cpu


def compare_epochs(network: str, args: argparse.Namespace) -> dict[str, object]:
    device = torch.device(args.device)
    torch.manual_seed(0)
    batches: Batches = [
        (
            torch.randn(args.batch, 3, 32, 32, device=device),
            torch.randint(10, (args.batch,), device=device),
        )
        for _ in range(args.steps)
    ]
    torch.set_flush_denormal(True)  # else speed depends on how far each has learned its batches

    def adam(models: tuple[nn.Module, nn.Module]) -> torch.optim.Optimizer:
        parameters = [p for model in models for p in model.parameters()]
        return torch.optim.Adam(parameters, lr=1e-3)

    # Where the parameters lie in memory may count too: the contenders change places.
    turns: list[tuple[Seconds, Seconds]] = []
    for pair in range(args.pairs):
        nets = tuple(build(network, classes=10).to(device) for _ in "ab")
        plain_nets = deepcopy(nets)
        if pair % 2:
            nets, plain_nets = plain_nets, nets
        trainer = CoTrainer(nets, adam(nets), progress=False)
        if args.compile:
            trainer.weigher.compile()
        plain = partial(plain_epoch, plain_nets, adam(plain_nets))
        trainer.fit(batches, 2)  # the warm-up epoch, and one of each that is not timed
        plain(batches)
        by = by_step if device.type == "cpu" else by_epoch
        turns += by(plain, trainer, batches, args.turns)
    taken = np.array(turns)  # (turn, contender, clock)
    plain_step = float(np.median(taken[:, 0, 0])) / (1 if device.type == "cpu" else args.steps)
    parts = added_parts(trainer, plain_nets, batches[0], device, args.compile)
    at_the_end = sum(parts["an epoch"].values()) / EPOCH_STEPS / plain_step
    ratios = taken[:, 1] / taken[:, 0] + (at_the_end if device.type == "cpu" else 0.0)
    fastest = taken[:, :, 0].min(0)
    return {
        "network": network,
        "device": args.device,
        "steps": args.steps,
        "turns": args.turns,
        "pairs": args.pairs,
        "compiled": args.compile,
        "seconds": {
            name: np.round(taken[:, i], 4).tolist() for i, name in enumerate(("plain", "CoTrainer"))
        },
        "plain_step_seconds": plain_step,
        "ratio_wall": float(np.median(ratios[:, 0])),
        "ratio_wall_quartiles": np.quantile(ratios[:, 0], [0.25, 0.75]).tolist(),
        "ratio_cpu": float(np.median(ratios[:, 1])) if device.type == "cpu" else None,
        "ratio_fastest": float(fastest[1] / fastest[0]),
        "ratio_from_parts": 1 + sum(parts["a step"].values()) / plain_step + at_the_end,
        "added_seconds": parts,
        "goal": GOALS.get(device.type),
    }


def added_parts(
    trainer: CoTrainer,
    models: tuple[nn.Module, nn.Module],
    batch: tuple[Tensor, Tensor],
    device: torch.device,
    compiled: bool,
) -> dict[str, dict[str, float]]:
    """Seconds of each thing that CoTrainer does and the plain loop does not, taken alone."""
    inputs, targets = batch
    with torch.no_grad():
        logits = [model(inputs).float() for model in models]
    a, b = (z.clone().requires_grad_() for z in logits)
    weigher = deepcopy(trainer.weigher)
    if compiled:  # the copy is not
        weigher.compile()
    w_a, w_b = weigher(torch.stack(logits), targets)
    values = {name: a.detach().sum() for name in ("loss", "ce", "con", "w_a", "w_b")}

    progress = EpochProgress().to(device)

    def bookkeeping() -> None:
        """Sums over the epoch and the check of the loss, as in `train_epoch`."""
        progress.add(values, len(targets))
        if device.type == "cpu":
            progress.first_bad.item()
            values["loss"].item()

    def plain() -> None:
        (F.cross_entropy(a, targets) + F.cross_entropy(b, targets)).backward()

    runs = {
        "similarity, histogram, weights": lambda: weigher(torch.stack(logits), targets),
        "weighted cross-entropy": lambda: CrossWeightedLoss()(a, b, targets, w_a, w_b).backward(),
        "consistency": lambda: (5.0 * ConsistencyLoss()(a, b)).backward(),
        "sums and checks": bookkeeping,
        "plain cross-entropy": plain,
    }
    taken = alone(runs, 50, device)
    taken["weighted cross-entropy"] -= taken.pop("plain cross-entropy")  # only what is more

    # The fit sees an epoch of random logits: a real one has as many bins to fit.
    torch.manual_seed(0)
    spread = 4 * torch.randn(2, 20_000, 10, device=device)
    labels = spread.argmax(-1)[0].where(
        torch.rand(20_000, device=device) < 0.6, torch.randint(10, (20_000,), device=device)
    )
    weigher(spread, labels)
    weigher.refit()
    refit = alone({"fit of two mixtures": weigher._fit}, 5, device)
    return {"a step": taken, "an epoch": refit}


def alone(
    runs: dict[str, Callable[[], object]], turns: int, device: torch.device
) -> dict[str, float]:
    """Median wall seconds of each; they take turns of five runs, the first not counted.

    On a GPU a short run is 20 in a row, else the time to start one would be taken for its own.
    """
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(turns):
        for name, run in runs.items():
            once, _ = clock(run, device)
            times = 1 if device.type == "cpu" or once > 0.01 else 20
            many = [clock(partial(repeat, run, times), device) for _ in range(4)]
            seconds[name] += [wall / times for wall, _ in many]
    return {name: median(values) for name, values in seconds.items()}


def repeat(run: Callable[[], object], times: int) -> None:
    for _ in range(times):
        run()


# ---------------------------------------------------------------------------- the loss alone


def per_sample_loss(
    logits: list[Tensor], targets: Tensor, tables: list[np.ndarray], consistency: float
) -> Tensor:
    """Eq. 6 as published programs compute it: sample by sample, the weight looked up on the host.

    `tables` hold the posterior in 100 bins, a network; to fit them is not counted.
    """
    weights: list[list[float]] = [[], []]
    for network in range(2):
        for i in range(len(targets)):
            p = torch.softmax(logits[network][i].detach(), 0)
            one_hot = F.one_hot(targets[i], len(p)).float()
            similarity = F.cosine_similarity(p, one_hot, dim=0).cpu().item()
            bin_ = min(int(similarity * 100), 99)
            weights[network].append(min(max(float(tables[network][bin_]), 1e-4), 1 - 1e-4))
    losses = []
    for i in range(len(targets)):
        target = targets[i : i + 1]
        losses.append(
            weights[1][i] * F.cross_entropy(logits[0][i : i + 1], target)
            + weights[0][i] * F.cross_entropy(logits[1][i : i + 1], target)
        )
    p, q = (torch.softmax(z, 1) for z in logits)
    return torch.stack(losses).mean() + consistency * F.mse_loss(p, q)


def compare_loss(turns: int, device: torch.device) -> dict[str, float]:
    """Milliseconds of the loss of 96 samples of 7 classes, and the largest difference found."""
    torch.manual_seed(0)
    targets = torch.randint(7, (96,), device=device)
    logits = [(3 * torch.randn(96, 7, device=device)).requires_grad_() for _ in range(2)]
    weigher = SampleWeigher(BetaMixture()).to(device)
    for _ in range(30):
        labels = torch.randint(7, (96,), device=device)
        weigher(3 * torch.randn(2, 96, 7, device=device), labels)
    weigher.refit()
    places = (np.arange(100) + 0.5) / 100
    tables = [mixture.predict_proba(places)[:, -1] for mixture in weigher.mixtures_]
    cross_weighted, consistency = CrossWeightedLoss(), ConsistencyLoss()

    def vectorised() -> Tensor:
        w_a, w_b = weigher(torch.stack(logits).detach(), targets)
        return cross_weighted(*logits, targets, w_a, w_b) + 5.0 * consistency(*logits)

    def loop() -> Tensor:
        return per_sample_loss(logits, targets, tables, 5.0)

    runs = {
        "vectorised": vectorised,
        "per-sample loop": loop,
        "vectorised, with backward": lambda: vectorised().backward(),
        "per-sample loop, with backward": lambda: loop().backward(),
    }
    found = {name: 1e3 * seconds for name, seconds in alone(runs, turns, device).items()}
    found["relative difference of the loss"] = abs(1 - loop().item() / vectorised().item())
    return found


# ---------------------------------------------------------------------------- output


def show(result: dict) -> None:
    low, high = result["ratio_wall_quartiles"]
    print(
        f"\n{result['network']} on {result['device']}: "
        f"a plain step takes {1e3 * result['plain_step_seconds']:.1f} ms"
    )
    print(f"  CoTrainer / plain, wall time   {result['ratio_wall']:.4f} ({low:.4f} to {high:.4f})")
    print(f"  CoTrainer / plain, fastest     {result['ratio_fastest']:.4f}")
    if result["ratio_cpu"]:
        print(f"  CoTrainer / plain, CPU time    {result['ratio_cpu']:.4f}")
    print(f"  from the parts below           {result['ratio_from_parts']:.4f}", end="")
    print(f"   (goal {result['goal']})" if result["goal"] else "")
    for per, parts in result["added_seconds"].items():
        for name, seconds in parts.items():
            print(f"    {name:<32} {1e3 * seconds:8.3f} ms {per}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", default="cpu", help="default: %(default)s")
    parser.add_argument("--networks", nargs="+", default=NETWORKS)
    parser.add_argument("--batch", type=int, default=128, help="default: %(default)s")
    parser.add_argument("--steps", type=int, help="to an epoch (default: 4; on a GPU 390)")
    parser.add_argument("--turns", type=int, default=4, help="of a pair (default: %(default)s)")
    parser.add_argument("--pairs", type=int, default=2, help="of networks (default: %(default)s)")
    parser.add_argument("--compile", action="store_true", help="compile the weigher")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the numbers as JSON")
    args = parser.parse_args()
    args.steps = args.steps or (4 if args.device == "cpu" else EPOCH_STEPS)
    keep_memory()
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
    origin = provenance()

    loss = compare_loss(15, torch.device(args.device))
    print("Loss of one batch of 96 samples, 7 classes (ms, forward unless said)")
    for name, value in loss.items():
        print(f"  {name:<34} {value:9.3g}")
    epochs = []
    for network in args.networks:
        epochs.append(compare_epochs(network, args))
        show(epochs[-1])
        if args.out:
            result = {**origin, "loss_milliseconds": loss, "epochs": epochs}
            args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
