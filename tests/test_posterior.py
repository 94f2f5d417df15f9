import numpy as np
import pytest
import torch
from scipy.special import expit

from resup import BetaMixture, DecoyMixture, Posterior, log_label_similarity

MIXTURES = {
    "default": BetaMixture(),
    "maximum likelihood": BetaMixture(prior=0),
    "published": BetaMixture.as_published(),
    "one component": BetaMixture(1),
}


@pytest.fixture(scope="module")
def similarities():
    rng = np.random.default_rng(0)
    return np.concatenate([rng.beta(0.6, 4, 600), rng.beta(6, 0.5, 1400)])


@pytest.mark.parametrize("name", MIXTURES)
def test_within_1e_5_of_the_float64_posterior(name, similarities):
    mixture = MIXTURES[name].fit(similarities)
    s = np.concatenate([np.linspace(0, 1, 2001), np.geomspace(1e-12, 1, 500)])
    with np.errstate(divide="ignore"):
        logs = [torch.tensor(v, dtype=torch.float32) for v in (np.log(s), np.log1p(-s))]
    got = Posterior().load(mixture)(*logs)
    np.testing.assert_allclose(got, mixture.predict_proba(s)[:, -1], atol=1e-5)


def test_decoy_mixtures_too(similarities):
    mixture = DecoyMixture().fit(similarities, np.random.default_rng(1).beta(0.6, 4, 2000))
    s = np.linspace(0.001, 0.999, 999)
    got = Posterior().load(mixture)(torch.tensor(np.log(s)), torch.tensor(np.log1p(-s)))
    np.testing.assert_allclose(got, mixture.predict_proba(s)[:, -1], atol=1e-5)


def test_saturated_logits_give_finite_weights(similarities):
    weigh = Posterior().load(BetaMixture().fit(similarities))
    logits = torch.tensor([[1e4, 0.0], [0.0, 1e4], [90.0, 0.0]])
    weights = weigh(*log_label_similarity(logits, torch.tensor([0, 0, 0])))
    assert torch.isfinite(weights).all()
    assert weights[0] > weights[1]


def test_compiles_without_a_break(similarities):
    weigh = Posterior().load(BetaMixture().fit(similarities))

    def step(logits, targets):
        return weigh(*log_label_similarity(logits, targets))

    logits, targets = 5 * torch.randn(64, 7), torch.randint(7, (64,))
    torch._dynamo.reset()
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(logits, targets), step(logits, targets))


def test_groups_are_independent(similarities):
    weigh = Posterior(2).load(BetaMixture().fit(similarities), group=1)
    s = torch.rand(2, 50)
    weights = weigh(s.log(), (-s).log1p())
    assert (weights[0] == 1).all()
    assert (weights[1] < 1).any()
    weigh.reset(1)
    assert (weigh(s.log(), (-s).log1p()) == 1).all()


@pytest.mark.parametrize("a", [-2.0, 0.0, 3.0])
@pytest.mark.parametrize("b", [-1.5, 0.0, 2.0])
def test_the_odds_are_cut_to_where_they_rise(a, b):
    from resup._base import LogOdds

    s = np.linspace(0, 1, 1001)
    odds = LogOdds(a, b, 0.3).rising()
    assert (np.diff(expit(odds(s))) >= 0).all()
    if a >= 0 >= b:
        assert (odds.low, odds.high) == (LogOdds(a, b, 0).low, LogOdds(a, b, 0).high)


def test_more_than_two_components_have_no_closed_form(similarities):
    with pytest.raises(ValueError, match="mixture must be a fitted BetaMixture of one or two"):
        Posterior().load(BetaMixture(3).fit(similarities))
