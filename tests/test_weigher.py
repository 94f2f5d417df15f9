import copy

import numpy as np
import pytest
import torch

from resup import BetaMixture, Posterior, SampleWeigher, log_label_similarity


def logits_like_a_network(n=2000, c=5, networks=2):
    targets = torch.randint(c, (n,))
    logits = torch.randn(networks, n, c)
    right = torch.rand(n) < 0.7
    shown = torch.where(right, targets, (targets + 1) % c)
    logits[:, torch.arange(n), shown] += 4
    return logits, targets, right


def test_weights_follow_equation_5_after_a_refit():
    logits, targets, right = logits_like_a_network()
    weigher = SampleWeigher()
    assert (weigher(logits, targets) == 1).all()
    weigher.refit()
    weights = weigher(logits, targets)
    for mixture, z, w in zip(weigher.mixtures_, logits, weights, strict=True):
        s = log_label_similarity(z, targets)[0].exp()
        np.testing.assert_allclose(w, mixture.predict_proba(s)[:, -1], atol=1e-5)
        assert w[right].mean() > w[~right].mean() + 0.5
    assert weigher.noise_rates_ == pytest.approx([0.3, 0.3], abs=0.1)


def test_a_refit_looks_only_at_what_came_since_the_last():
    logits, targets, _ = logits_like_a_network()
    once, twice = SampleWeigher(), SampleWeigher()
    twice(2 * logits, targets.flip(0))
    twice.refit()
    for weigher in (once, twice):
        weigher(logits, targets)
        weigher(logits, targets, record=False)
        weigher.refit()
    torch.testing.assert_close(once.posterior.coefficients, twice.posterior.coefficients)
    assert once.fitted_counts.sum() == 2 * 2000


def test_a_refit_without_samples_keeps_unit_weights():
    weigher = SampleWeigher()
    weigher.refit()
    logits, targets, _ = logits_like_a_network()
    assert (weigher(logits, targets) == 1).all()
    assert weigher.mixtures_ == []


def test_the_state_dict_brings_the_mixtures_back():
    logits, targets, _ = logits_like_a_network()
    weigher = SampleWeigher()
    weigher(logits, targets)
    weigher.refit()
    other = SampleWeigher()
    other.load_state_dict(copy.deepcopy(weigher.state_dict()))
    assert torch.equal(other(logits, targets), weigher(logits, targets))
    np.testing.assert_array_equal(other.mixtures_[1].alphas_, weigher.mixtures_[1].alphas_)
    assert other.noise_rates_ == weigher.noise_rates_


def test_the_callers_mixture_stays_unfitted():
    mine = BetaMixture()
    weigher = SampleWeigher(mine)
    logits, targets, _ = logits_like_a_network()
    weigher(logits, targets)
    weigher.refit()
    assert not hasattr(mine, "alphas_")


def test_posterior_refuses_what_has_no_closed_form():
    with pytest.raises(ValueError, match="mixture must be a fitted BetaMixture of one or two"):
        Posterior().load(BetaMixture())


def test_negligible_noise_leaves_training_alone_but_is_still_judged():
    targets = torch.randint(5, (2000,))
    logits = torch.randn(2, 2000, 5)
    logits[:, torch.arange(2000), targets] += 8
    wrong = targets.clone()
    wrong[:6] = (wrong[:6] + 1) % 5
    for negligible, kept in ((0.01, True), (0.0, False)):
        weigher = SampleWeigher(negligible_noise=negligible)
        weigher(logits, wrong)
        weigher.refit()
        assert max(weigher.noise_rates_) < 0.01
        assert bool((weigher(logits, wrong) == 1).all()) == kept
        assert weigher.judge(logits, wrong)[:, :6].max() < 0.5
