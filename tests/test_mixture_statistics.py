import numpy as np
import pytest
import reference
from mixtures import (
    THREE,
    TWO,
    draw,
    exactly,
    parameters,
    similarities_of_a_network,
)

from resup import (
    BetaMixture,
)
from resup.em import Mixture, fit_mixture, moment_shapes


@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("prior", [0.0, 0.3])
@pytest.mark.parametrize("n", [30, 2000, 20000])
def test_the_likelihood_never_falls(k, prior, n):
    s = draw(THREE, n)
    mixture = BetaMixture(k, prior=prior, tol=0, max_iter=60).fit(s)
    assert len(mixture.lower_bounds_) == 61
    assert (np.diff(mixture.lower_bounds_) >= -1e-11).all()


def standard_errors(mixture, n):
    """Cramér–Rao bounds of (weights but the last, alphas, betas), the information integrated."""
    k = len(mixture.weights)
    x = (np.arange(200_000) + 0.5) / 200_000
    theta = np.concatenate([mixture.weights[:-1], mixture.alphas, mixture.betas])

    def density(theta):
        weights, shapes = theta[: k - 1], theta[k - 1 :].reshape(2, k)
        joint = Mixture(np.append(weights, 1 - weights.sum()), *shapes).log_joint(x)
        return np.exp(joint).sum(0)

    steps = 1e-4 * theta
    slopes = [
        (density(theta + d) - density(theta - d)) / (2 * step)
        for d, step in zip(np.diag(steps), steps, strict=True)
    ]
    information = np.array(slopes) / (density(theta) + 1e-300) @ np.array(slopes).T / len(x)
    return theta, np.sqrt(np.diag(np.linalg.inv(n * information)))


@pytest.mark.parametrize(
    "mixture",
    [
        Mixture(*np.array([[1.0], [4.0], [1.5]])),
        TWO,
        THREE,
        Mixture(*np.array([[1.0], [200.0], [2000.0]])),
        Mixture(*np.array([[0.4, 0.6], [20.0, 200.0], [200.0, 20.0]])),
    ],
    ids=["1", "2", "3", "narrow 1", "narrow 2"],
)
def test_samples_give_the_parameters_back_within_the_cramer_rao_scale(mixture):
    n, k = 20_000, len(mixture.weights)
    theta, errors = standard_errors(mixture, n)
    z = []
    for seed in range(12):
        fitted = BetaMixture(k, prior=0, tol=1e-10, max_iter=5000).fit(draw(mixture, n, seed))
        z.append((np.delete(parameters(fitted), k - 1) - theta) / errors)
    assert np.abs(z).max() < 4
    assert 0.3 < np.square(z).mean() < 2


@pytest.mark.parametrize("m_step", ["ml", "moments"])
@pytest.mark.parametrize("n", [400, 4000])
def test_a_weight_is_repetition(rng, m_step, n):
    s, repeats = draw(TWO, n), rng.integers(0, 4, n)
    weighted = BetaMixture(m_step=m_step).fit(s, sample_weight=repeats)
    repeated = BetaMixture(m_step=m_step).fit(np.repeat(s, repeats))
    # at n = 400 all 600 or so samples are fitted one by one, at 4000 both are summarised
    np.testing.assert_allclose(parameters(weighted), parameters(repeated), rtol=1e-6)
    scaled = BetaMixture(m_step=m_step).fit(s, sample_weight=1e-6 * repeats)
    np.testing.assert_allclose(parameters(scaled), parameters(weighted), rtol=1e-6)


@pytest.mark.parametrize("m_step", ["ml", "moments"])
@pytest.mark.parametrize("k", [1, 2, 3])
def test_warm_start_goes_on(m_step, k):
    s = draw(THREE, 1000)
    longer = BetaMixture(k, m_step=m_step, tol=0, max_iter=10).fit(s)
    twice = BetaMixture(k, m_step=m_step, tol=0, max_iter=5, warm_start=True).fit(s).fit(s)
    np.testing.assert_allclose(parameters(twice), parameters(longer), rtol=1e-8)
    np.testing.assert_allclose(twice.lower_bounds_, longer.lower_bounds_[5:], rtol=1e-8)
    cold = twice.set_params(warm_start=False).fit(s)
    np.testing.assert_allclose(cold.lower_bounds_, longer.lower_bounds_[:6])


def test_warm_start_begins_anew_with_another_number_of_components():
    s = draw(THREE, 1000)
    changed = BetaMixture(warm_start=True).fit(s).set_params(n_components=3).fit(s)
    np.testing.assert_array_equal(parameters(changed), parameters(BetaMixture(3).fit(s)))


def test_no_iteration_leaves_the_start():
    mixture = exactly(TWO)
    np.testing.assert_allclose(parameters(mixture), np.ravel([TWO.weights, TWO.alphas, TWO.betas]))
    assert (mixture.n_iter_, mixture.converged_, len(mixture.lower_bounds_)) == (0, False, 1)
    guess = BetaMixture(max_iter=0).fit(draw(TWO, 500))
    assert guess.means_[1] > guess.means_[0] + 0.1


def test_init_weights_are_shares():
    s = draw(TWO, 200)
    some = [BetaMixture(init=[w, [1, 2], [2, 1]]).fit(s) for w in ([1, 3], [0.25, 0.75])]
    assert some[0].lower_bounds_ == some[1].lower_bounds_


def published(s):
    """Ten moment steps, sample by sample, as the authors' program makes them."""
    s = [min(max(float(v), 1e-3), 1 - 1e-3) for v in s]
    weights, alphas, betas = [0.5, 0.5], [1.0, 2.0], [2.0, 1.0]
    for _ in range(10):
        r = []
        for v in s:
            joint = [
                w * reference.beta_pdf(v, a, b)
                for w, a, b in zip(weights, alphas, betas, strict=True)
            ]
            r.append([j / sum(joint) for j in joint])
        for k in (0, 1):
            n = sum(row[k] for row in r)
            mean = sum(row[k] * v for row, v in zip(r, s, strict=True)) / n
            variance = sum(row[k] * (v - mean) ** 2 for row, v in zip(r, s, strict=True)) / n
            weights[k] = n / len(s)
            alphas[k] = mean * (mean * (1 - mean) / variance - 1)
            betas[k] = alphas[k] * (1 - mean) / mean
    return weights, alphas, betas


@pytest.mark.parametrize("seed", range(3))
def test_as_published_is_ten_moment_steps(seed):
    s, _ = similarities_of_a_network(seed, n=800)
    fitted = BetaMixture.as_published().fit(s)
    assert fitted.n_iter_ == 10
    np.testing.assert_allclose(parameters(fitted), np.ravel(published(s)), rtol=1e-7)


@pytest.mark.parametrize("n", [200, 5000])
def test_order_does_not_matter(rng, n):
    s = draw(TWO, n)
    shuffled = BetaMixture().fit(rng.permutation(s))
    np.testing.assert_allclose(parameters(shuffled), parameters(BetaMixture().fit(s)), rtol=1e-6)


@pytest.mark.parametrize("prior", [0.0, 0.3])
@pytest.mark.parametrize("source", ["mixture", "network"])
def test_the_summary_costs_no_likelihood(prior, source):
    s = draw(TWO, 20_000) if source == "mixture" else similarities_of_a_network(0, 20_000)[0]
    summarised = BetaMixture(prior=prior, tol=1e-9).fit(s)
    inside = np.clip(s.astype(np.float64), summarised.clip, 1 - summarised.clip)
    exact = fit_mixture(inside, np.ones(len(s)), 2, prior=prior, tol=1e-9)
    assert summarised.score(s) == pytest.approx(exactly(exact).score(s), abs=1e-4)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    (
        "recorded",
        "slack",
    ),  # weights, alphas, betas: fitted with the truth to an epoch of a training
    [
        pytest.param([[0.40, 0.60], [0.23, 0.43], [0.61, 0.24]], 0.04, id="CIFAR-10, human labels"),
        pytest.param([[0.50, 0.50], [0.34, 0.65], [1.96, 0.32]], 0.04, id="CIFAR-10, symmetric"),
        pytest.param([[0.29, 0.71], [0.21, 0.49], [1.58, 0.15]], 0.04, id="FERPlus, symmetric"),
        pytest.param([[0.40, 0.60], [0.20, 31.3], [1.46, 0.17]], 0.09, id="digits"),
    ],
)
def test_the_default_is_near_the_true_posterior(recorded, slack, seed):
    truth = exactly(Mixture(*np.array(recorded)), random_state=seed)
    s, right = truth.sample(4000)
    s = s[:, 0].astype(np.float32)
    fitted = BetaMixture().fit(s)
    briers = [((m.predict_proba(s)[:, 1] - right) ** 2).mean() for m in (fitted, truth)]
    assert briers[0] < briers[1] + slack
    assert not fitted.degenerate_


def test_moments_at_the_border_stay_a_beta():
    alphas, betas = moment_shapes(np.array([0.0, 1.0]), np.array([[0.2, 0.2], [0.3, 0.1]]))
    np.testing.assert_allclose(alphas / (alphas + betas), [0.5, 0.25])
    np.testing.assert_allclose(alphas + betas, 1 / 0.999 - 1)  # of the largest variance there is
