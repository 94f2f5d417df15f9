"""ReSup as a LightningModule: the weigher is a submodule, so checkpoints hold it."""

import lightning as L
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from resup import ConsistencyLoss, CrossWeightedLoss, SampleWeigher


class ReSup(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.nets = nn.ModuleList(
            nn.Sequential(nn.Linear(10, 64), nn.ReLU(), nn.Linear(64, 4)) for _ in "ab"
        )
        self.cross_weighted, self.consistency = CrossWeightedLoss(), ConsistencyLoss()
        self.weigher = SampleWeigher()
        # Each process counts its own samples: DistributedDataParallel must not overwrite them.
        counts = [f"weigher.{name}" for name, _ in self.weigher.named_buffers()]
        self._ddp_params_and_buffers_to_ignore = counts

    def forward(self, x):
        return torch.stack([net(x) for net in self.nets])

    def training_step(self, batch, _):
        inputs, targets = batch
        logits = self(inputs)
        loss = self.cross_weighted(*logits, targets, *self.weigher(logits, targets))
        return loss + 5 * self.consistency(*logits) if self.current_epoch else loss

    def on_train_epoch_end(self):
        self.weigher.refit()

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=3e-3)


torch.manual_seed(0)
x = torch.randn(2000, 10)
true = x[:, :4].argmax(1)
wrong = torch.rand(2000) < 0.3
given = torch.where(wrong, (true + torch.randint(1, 4, (2000,))) % 4, true)

module = ReSup()
trainer = L.Trainer(max_epochs=8, logger=False, enable_checkpointing=False)
trainer.fit(module, DataLoader(TensorDataset(x, given), 50, shuffle=True))
with torch.no_grad():
    probability = module.weigher.judge(module.cpu().eval()(x), given).mean(0)
print(
    f"right labels {probability[~wrong].mean():.2f}, wrong labels {probability[wrong].mean():.2f}"
)
