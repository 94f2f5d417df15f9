"""ReSup in a plain training loop: 30 % of the labels are wrong, and training finds out which."""

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from resup import ConsistencyLoss, CrossWeightedLoss, SampleWeigher

torch.manual_seed(0)
x = torch.randn(2000, 10)
true = x[:, :4].argmax(1)
wrong = torch.rand(2000) < 0.3
given = torch.where(wrong, (true + torch.randint(1, 4, (2000,))) % 4, true)

device = "cuda" if torch.cuda.is_available() else "cpu"
net_a, net_b = (
    nn.Sequential(nn.Linear(10, 64), nn.ReLU(), nn.Linear(64, 4)).to(device) for _ in "ab"
)
optimizer = torch.optim.Adam([*net_a.parameters(), *net_b.parameters()], lr=3e-3)
cross_weighted, consistency = CrossWeightedLoss(), ConsistencyLoss()
weigher = SampleWeigher().to(device)  # every weight is 1 until the first refit

for epoch in range(8):
    for inputs, targets in DataLoader(TensorDataset(x, given), 50, shuffle=True):
        inputs, targets = inputs.to(device), targets.to(device)
        a, b = net_a(inputs), net_b(inputs)
        weights_a, weights_b = weigher(torch.stack([a, b]), targets)
        loss = cross_weighted(a, b, targets, weights_a, weights_b)
        if epoch > 0:
            loss = loss + 5 * consistency(a, b)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    weigher.refit()

with torch.no_grad():
    logits = torch.stack([net.eval()(x.to(device)) for net in (net_a, net_b)])
probability = weigher.judge(logits, given.to(device)).mean(0).cpu()
print(
    f"right labels {probability[~wrong].mean():.2f}, wrong labels {probability[wrong].mean():.2f}"
)
