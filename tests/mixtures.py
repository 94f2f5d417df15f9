"""Mixtures that are known, and similarities and logits that are drawn."""

import numpy as np
import torch

from resup import BetaMixture
from resup.em import Mixture

TWO = Mixture(*np.array([[0.35, 0.65], [2.0, 8.0], [6.0, 2.0]]))
THREE = Mixture(*np.array([[0.3, 0.3, 0.4], [2.0, 6.0, 20.0], [20.0, 6.0, 2.0]]))
GRID = np.unique(np.r_[0, 1e-300, 2.0 ** -np.arange(8, 50), np.linspace(0, 1, 300), 1 - 1e-12])
RIGHT, WRONG = (6.0, 0.8), (0.6, 6.0)


def exactly(mixture, **options):
    """Return a fitted estimator that holds the parameters of `mixture`."""
    init = mixture.weights, mixture.alphas, mixture.betas
    options = {"n_components": len(mixture.weights), **options}
    return BetaMixture(init=init, max_iter=0, **options).fit(np.linspace(0.01, 0.99, 9))


def draw(mixture, n, seed=0):
    return exactly(mixture, random_state=seed).sample(n)[0][:, 0]


def parameters(mixture):
    return np.concatenate([mixture.weights_, mixture.alphas_, mixture.betas_])


def similarities_of_a_network(seed, n=4000, classes=10, noise=0.3):
    """Return float32 similarities to given labels, and which labels are right."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(classes, size=n)
    right = rng.random(n) >= noise
    given = np.where(right, truth, (truth + rng.integers(1, classes, n)) % classes)
    logits = rng.normal(size=(n, classes)).astype(np.float32)
    logits[np.arange(n), truth] += rng.gamma(4, 2, n).astype(np.float32)
    p = np.exp(logits - logits.max(1, keepdims=True))
    return p[np.arange(n), given] / np.linalg.norm(p, axis=1), right


def logits_of_a_network(kind, n=4000, c=10, seed=0):
    """Logits of a network that half believes wrong labels, if these go from class to class."""
    rng = np.random.default_rng(seed)
    truth, right = rng.integers(c, size=n), rng.random(n) >= 0.4
    step = 1 if kind == "pairs" else rng.integers(1, c, n)
    given_label = np.where(right, truth, (truth + step) % c)
    logits = rng.normal(size=(n, c))
    logits[np.arange(n), truth] += rng.gamma(4, 1.5, n)
    if kind == "pairs":
        logits[np.arange(n), (truth + 1) % c] += rng.gamma(4, 0.75, n)
    return torch.tensor(logits)[None].float(), torch.tensor(given_label), right


def shown(weigher, logits, targets, batch=128):
    for part in torch.arange(len(targets)).split(batch):
        weigher(logits[:, part], targets[part])
    weigher.refit()
    return weigher


def drawn(noise=0.3, n=3000, hits=1 / 9, seed=0):
    """Similarities of samples and of decoys, and which labels are right, as the model has it."""
    rng = np.random.default_rng(seed)
    right, hit = rng.random(n) >= noise, rng.random(n) < noise * hits
    s, decoys = (np.where(v, rng.beta(*RIGHT, n), rng.beta(*WRONG, n)) for v in (right, hit))
    return s, decoys, right


def brier(mixture, s, right):
    return np.mean((mixture.predict_proba(s)[:, -1] - right) ** 2)
