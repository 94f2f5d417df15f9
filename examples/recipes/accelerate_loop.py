"""ReSup under Accelerate, with models that return an object with logits, as Transformers do."""

from types import SimpleNamespace

import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader

from resup import ConsistencyLoss, CrossWeightedLoss, SampleWeigher


class Net(nn.Sequential):
    def forward(self, features, labels=None):
        return SimpleNamespace(logits=super().forward(features))


torch.manual_seed(0)
x = torch.randn(2000, 10)
true = x[:, :4].argmax(1)
wrong = torch.rand(2000) < 0.3
given = torch.where(wrong, (true + torch.randint(1, 4, (2000,))) % 4, true)
data = [{"features": f, "labels": y} for f, y in zip(x, given, strict=True)]

accelerator = Accelerator()
net_a, net_b = (Net(nn.Linear(10, 64), nn.ReLU(), nn.Linear(64, 4)) for _ in "ab")
optimizer = torch.optim.Adam([*net_a.parameters(), *net_b.parameters()], lr=3e-3)
loader = DataLoader(data, 50, shuffle=True)
net_a, net_b, optimizer, loader = accelerator.prepare(net_a, net_b, optimizer, loader)
weigher = SampleWeigher().to(accelerator.device)  # not prepared: each process counts its own
accelerator.register_for_checkpointing(weigher)  # save_state and load_state hold it
cross_weighted, consistency = CrossWeightedLoss(), ConsistencyLoss()

for epoch in range(8):
    for batch in loader:
        a, b = net_a(**batch).logits, net_b(**batch).logits
        loss = cross_weighted(a, b, batch["labels"], *weigher(torch.stack([a, b]), batch["labels"]))
        if epoch > 0:
            loss = loss + 5 * consistency(a, b)
        optimizer.zero_grad()
        accelerator.backward(loss)
        optimizer.step()
    weigher.refit()

with torch.no_grad():
    logits = torch.stack([net.eval()(x.to(accelerator.device)).logits for net in (net_a, net_b)])
probability = weigher.judge(logits, given.to(accelerator.device)).mean(0).cpu()
accelerator.print(
    f"right labels {probability[~wrong].mean():.2f}, wrong labels {probability[wrong].mean():.2f}"
)
