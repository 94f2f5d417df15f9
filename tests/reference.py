"""The paper's equations, sample by sample in float64: slow, plain, and independent of resup."""

import math


def softmax(z):
    top = max(z)
    e = [math.exp(v - top) for v in z]
    return [v / sum(e) for v in e]


def cross_entropy(z, y):
    top = max(z)
    return top + math.log(sum(math.exp(v - top) for v in z)) - z[y]


def similarity(z, y):
    """Eq. 2: the cosine of the angle between prediction and one-hot label."""
    p = softmax(z)
    onehot = [1.0 if j == y else 0.0 for j in range(len(z))]
    dot = sum(a * b for a, b in zip(p, onehot, strict=True))
    return dot / (math.sqrt(sum(a * a for a in p)) * math.sqrt(sum(b * b for b in onehot)))


def beta_pdf(s, alpha, beta):
    """Eq. 3."""
    norm = math.gamma(alpha) * math.gamma(beta) / math.gamma(alpha + beta)
    return s ** (alpha - 1) * (1 - s) ** (beta - 1) / norm


def mixture_pdf(s, weights, alphas, betas):
    """Eq. 4."""
    return sum(w * beta_pdf(s, a, b) for w, a, b in zip(weights, alphas, betas, strict=True))


def posterior(s, weights, alphas, betas):
    """Eq. 5: the probability of the component of higher mean, the last one."""
    clean = weights[-1] * beta_pdf(s, alphas[-1], betas[-1])
    return clean / mixture_pdf(s, weights, alphas, betas)


def cross_weighted(za, zb, y, wa, wb):
    """Eq. 7."""
    n = len(y)
    return (
        sum(
            wb[i] * cross_entropy(za[i], y[i]) + wa[i] * cross_entropy(zb[i], y[i])
            for i in range(n)
        )
        / n
    )


def consistency(za, zb):
    """Eq. 8."""
    n, c = len(za), len(za[0])
    total = 0.0
    for a, b in zip(za, zb, strict=True):
        for p, q in zip(softmax(a), softmax(b), strict=True):
            total += (p - q) ** 2
    return total / (n * c)


def objective(za, zb, y, wa, wb, weight):
    """Eq. 6."""
    return cross_weighted(za, zb, y, wa, wb) + weight * consistency(za, zb)
