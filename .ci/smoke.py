"""Use an installed resup a little; run where the source tree cannot be seen."""

import sys
from pathlib import Path

import resup

assert "site-packages" in Path(resup.__file__).parts, resup.__file__
for name in resup.__all__:
    getattr(resup, name)
assert "matplotlib" not in sys.modules, "an extra was imported"

import torch  # noqa: E402

torch.manual_seed(0)
noisy, clean = torch.rand(200) * 0.4, 0.7 + torch.rand(300) * 0.3
mixture = resup.BetaMixture().fit(torch.cat([noisy, clean]))
posterior = mixture.predict_proba(torch.tensor([0.05, 0.95]))
assert posterior.shape == (2, 2), posterior.shape
assert posterior[0, -1] < 0.5 < posterior[1, -1], posterior

logits = torch.randn(2, 8, 10, requires_grad=True)
targets, weights = torch.randint(10, (8,)), torch.rand(2, 8)
loss = resup.CrossWeightedLoss()(*logits, targets, *weights) + 5 * resup.ConsistencyLoss()(*logits)
loss.backward()
assert logits.grad is not None, "no gradient"
assert logits.grad.isfinite().all(), logits.grad
print(f"resup {resup.__version__} works on torch {torch.__version__}")
