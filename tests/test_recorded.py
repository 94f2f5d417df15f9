"""DecoyMixture as training uses it, on similarities recorded from real trainings."""

import warnings
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
from mixtures import brier, shown
from sklearn.exceptions import ConvergenceWarning
from sklearn.isotonic import isotonic_regression

from resup import BetaMixture, DecoyMixture, SampleWeigher, cosine_label_similarity, q_values


@pytest.fixture(scope="module")
def recorded():
    """Run by run: logits (epochs, N, C), given labels and which are right, of real trainings.

    Some epochs of small networks on digits and CIFAR-10, symmetric and human label noise.
    """
    with np.load(Path(__file__).parent / "data" / "recorded.npz") as file:
        return {
            run: (
                torch.from_numpy(file[f"{run}_logits"]).float(),
                torch.from_numpy(file[f"{run}_label"]).long(),
                ~file[f"{run}_wrong"],
            )
            for run in ("digits_sym40", "digits_sym0", "cifar10_sym50", "cifar10_human40")
        }


@pytest.fixture(scope="module")
def fits(recorded):
    """Of each run, epoch by epoch: similarities, mixture as in training, which are right."""
    result = {}
    for run, (epochs, targets, right) in recorded.items():
        weigher, result[run] = SampleWeigher(DecoyMixture(), networks=1), []
        for logits in epochs:
            mixture = shown(weigher, logits[None], targets).mixtures_[0]
            s = cosine_label_similarity(logits, targets).double().numpy()
            result[run].append((s, mixture, right))
    return result


def excess_brier(mixture, s, right):
    """How far the posterior is from the best function of S that never falls."""
    _, place, count = np.unique(s, return_inverse=True, return_counts=True)
    rate = np.bincount(place, right) / count
    best = isotonic_regression(rate, sample_weight=count.astype(float))[place]
    return brier(mixture, s, right) - np.mean((best - right) ** 2)


def test_posteriors_are_near_the_best_that_similarities_allow(fits):
    ours, alone = {}, []
    for run, epochs in fits.items():
        ours[run] = [excess_brier(mixture, s, right) for s, mixture, right in epochs]
        alone += [excess_brier(BetaMixture().fit(s), s, right) for s, _, right in epochs]
    # one late epoch of human labels, without the memory of an earlier one
    assert max(ours.pop("cifar10_human40")) < 0.08
    assert max(chain.from_iterable(ours.values())) < 0.04
    assert np.mean(list(chain.from_iterable(ours.values()))) < np.mean(alone)


def test_arrays_alone_show_enough(recorded):
    """Without logits and memory the highest similarities tell how much noise there is."""
    ours, betas = [], []
    for epochs, targets, right in recorded.values():
        c = epochs.shape[-1]
        generator = torch.Generator().manual_seed(0)
        others = (targets + torch.randint(1, c, targets.shape, generator=generator)) % c
        for logits in epochs:
            s, decoys = (
                cosine_label_similarity(logits, y).double().numpy() for y in (targets, others)
            )
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)
                mixture = DecoyMixture().fit(s, decoys, hit_rate=1 / (c - 1))
            ours.append(excess_brier(mixture, s, right))
            betas.append(excess_brier(BetaMixture().fit(s), s, right))
    assert max(ours) < 0.05
    assert np.mean(ours) < np.mean(betas)


def test_right_labels_keep_their_weight(fits):
    for s, mixture, _ in fits["digits_sym0"]:
        assert mixture.predict_proba(s)[:, -1].mean() > 0.98


@pytest.mark.parametrize("rate", [0.05, 0.1, 0.2])
def test_suspect_lists_keep_their_false_discovery_rate(fits, rate):
    for s, mixture, right in fits["digits_sym40"] + fits["cifar10_sym50"]:
        listed = q_values(mixture.predict_proba(s)[:, -1]) <= rate
        assert right[listed].sum() <= rate * listed.sum()


@pytest.mark.parametrize("rate", [0.05, 0.1, 0.2])
def test_suspect_lists_find_most_wrong_digits(fits, rate):
    for s, mixture, right in fits["digits_sym40"][1:]:  # the first epoch knows too little
        listed = q_values(mixture.predict_proba(s)[:, -1]) <= rate
        assert (~right[listed]).sum() > (0.9 if rate > 0.05 else 0.25) * (~right).sum()
