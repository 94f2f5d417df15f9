"""On a CUDA device: the same numbers, and no wait of the host for the device in a step."""

import os
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from paper.batches import DeviceBatches, crop, erase, flip
from sklearn.mixture import GaussianMixture
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from resup import (
    CoTrainer,
    DecoyMixture,
    SampleWeigher,
    SymmetricKLLoss,
    log_label_similarity,
)
from resup.callbacks import Callback
from resup.losses import consistency_loss, cross_weighted_loss

pytestmark = pytest.mark.gpu

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read once, for deterministic runs


def compiles(test):
    """Let torch's compiler warn, where it says nothing of this library."""
    for message in (
        "ignore::DeprecationWarning",
        r"ignore:\s*Online softmax is disabled",  # for few classes
        "ignore:TensorFloat32 tensor cores",
        "ignore:Please use the new API settings to control TF32",
        "ignore:The CUDA Graph is empty",  # the first of all, of no network
    ):
        test = pytest.mark.filterwarnings(message)(test)
    return test


def net():
    return nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 3)).cuda()


def data(n=512, wrong=0.0):
    x = torch.randn(n, 6)
    y = x[:, :3].argmax(1)
    return x, torch.where(torch.rand(n) < wrong, (y + 1) % 3, y)


def trainer(**options):
    models = net(), net()
    optimizer = torch.optim.Adam([p for m in models for p in m.parameters()], 1e-2, fused=True)
    return CoTrainer(models, optimizer, progress=False, **options)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_same_numbers_as_on_the_cpu(dtype):
    a, b = (torch.randn(200, 7).to(dtype) for _ in "ab")
    y, weights = torch.randint(7, (200,)), torch.rand(2, 200)

    def everything(device):
        za, zb, t, (wa, wb) = a.to(device), b.to(device), y.to(device), weights.to(device)
        weigher = SampleWeigher(networks=1).to(device)
        weigher(za[None], t)
        weigher.refit()
        return [
            *log_label_similarity(za, t),
            cross_weighted_loss(za, zb, t, wa, wb),
            consistency_loss(za, zb),
            weigher(za[None], t),
        ]

    for cpu, gpu in zip(everything("cpu"), everything("cuda"), strict=True):
        torch.testing.assert_close(gpu.cpu(), cpu, rtol=1e-4, atol=1e-4)


@compiles
@pytest.mark.parametrize("batch", [128, 120])  # the last batch is of another size
def test_a_compiled_weigher_gives_the_same_history(batch):
    x, y = (v.cuda() for v in data(wrong=0.25))
    histories = []
    for compiled in (False, True):
        torch.manual_seed(0)
        t = trainer()
        if compiled:
            t.weigher.compile(fullgraph=True)
        histories.append(t.fit(list(zip(x.split(batch), y.split(batch), strict=True)), 3).history)
    assert histories[0][-1]["weight_a"] < 0.95
    for eager, other in zip(*histories, strict=True):
        assert other == pytest.approx(eager, rel=1e-3)


@pytest.mark.filterwarnings("ignore:Synchronization debug mode")  # "is a prototype"
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"autocast": torch.bfloat16},
        {"clip_grad_norm": 1.0},
        {"mixture": DecoyMixture()},
        {"mixture": GaussianMixture(2)},
        {"signal": "loss"},
        {"consistency": SymmetricKLLoss()},
    ],
    ids=lambda options: ", ".join(options) or "defaults",
)
def test_a_step_never_waits_for_the_device(options):
    t = trainer(**options)
    x, y = (v.cuda() for v in data(wrong=0.25))
    t.fit([(x, y)] * 4, 2)
    try:
        torch.cuda.set_sync_debug_mode("error")
        for balanced in (False, t.weigher.decoys is not None):
            t.weigher.balanced = balanced
            t.train_step(x, y)
            t.optimizer_step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.filterwarnings("ignore:Synchronization debug mode")  # "is a prototype"
@pytest.mark.parametrize("clip_grad_norm", [None, 1.0])
@pytest.mark.parametrize("fused", [True, False])
def test_a_scaler_waits_only_where_the_optimizer_is_not_fused(fused, clip_grad_norm):
    models = net(), net()
    optimizer = torch.optim.Adam([p for m in models for p in m.parameters()], 1e-2, fused=fused)
    options = {"scaler": torch.amp.GradScaler("cuda"), "clip_grad_norm": clip_grad_norm}
    t = CoTrainer(models, optimizer, autocast=torch.float16, progress=False, **options)
    x, y = (v.cuda() for v in data(wrong=0.25))
    t.fit([(x, y)] * 4, 2)
    try:
        torch.cuda.set_sync_debug_mode("error")
        t.train_step(x, y)
        with nullcontext() if fused else pytest.raises(RuntimeError, match="synchronizing CUDA"):
            t.optimizer_step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


class NoWaits(Callback):
    """Makes waiting an error from the end of the second step of an epoch to that of the last."""

    def __init__(self, n_batches):
        self.n_batches, self.step = n_batches, 0

    def on_step_end(self, trainer, values):
        self.step = self.step % self.n_batches + 1
        strict = 2 <= self.step < self.n_batches
        torch.cuda.set_sync_debug_mode("error" if strict else "default")


@pytest.mark.filterwarnings("ignore:Synchronization debug mode")  # "is a prototype"
@pytest.mark.parametrize("kept", ["on the device", "on the host"])
def test_the_loop_around_the_steps_does_not_wait_either(kept):
    labels = np.arange(480) % 3
    images = np.repeat(80 * labels, 64).reshape(480, 8, 8, 1).astype(np.uint8)
    if kept == "on the device":
        augment = (flip, crop(2), erase())
        loader = DeviceBatches(images, labels, 60, augment=augment, shuffle=True, device="cuda")
    else:
        x = torch.from_numpy(images).permute(0, 3, 1, 2) / 255
        loader = DataLoader(TensorDataset(x, torch.from_numpy(labels)), 60, shuffle=True)
    models = [nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).cuda() for _ in "ab"]
    optimizer = torch.optim.Adam([p for m in models for p in m.parameters()], 1e-2, fused=True)
    callback = NoWaits(len(loader))
    t = CoTrainer(models, optimizer, callbacks=[callback], progress=False)
    try:
        t.fit(loader, 3)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert callback.step == len(loader) == 8


def test_a_step_can_be_captured_in_a_graph():
    t = trainer()
    x, y = (v.cuda() for v in data(wrong=0.25))
    t.fit([(x, y)] * 4, 2)
    t.weigher.balanced = False  # what it counts grows with each step
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            t.train_step(x, y)
    torch.cuda.current_stream().wait_stream(stream)
    for m in t.models:
        m.zero_grad(set_to_none=True)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        values = t.train_step(x, y)
    graph.replay()
    captured = {name: value.item() for name, value in values.items()}
    eager = {name: value.item() for name, value in t.train_step(x, y).items()}
    assert captured["weight_a"] < 0.95
    assert captured == pytest.approx(eager, rel=1e-5)


@compiles
def test_networks_that_are_cuda_graphs_are_trained_as_others():
    loader, losses = DataLoader(TensorDataset(*data(wrong=0.25)), 128), []
    for options in ({}, {"mode": "reduce-overhead"}):
        torch.manual_seed(0)
        t = trainer()
        if options:
            t.models = [torch.compile(m, **options) for m in t.models]
        losses.append([record["loss"] for record in t.fit(loader, 3).history])
    assert losses[1] == pytest.approx(losses[0], rel=1e-2)


@compiles
def test_networks_that_are_cuda_graphs_are_judged_as_others():
    t, (x, y) = trainer(), data(wrong=0.25)
    loader = DataLoader(TensorDataset(x, y), 128)
    t.fit(loader, 2)
    expected = t.clean_probability(loader)
    t.models = [torch.compile(m, mode="reduce-overhead") for m in t.models]
    for _ in range(3):  # recorded, then replayed
        p = t.clean_probability(loader)
    torch.testing.assert_close(p, expected, rtol=1e-3, atol=1e-3)


def test_float16_with_a_scaler():
    x, y = data()
    t = trainer(autocast=torch.float16, scaler=torch.amp.GradScaler("cuda"))
    loader = DataLoader(TensorDataset(x, y), 64, shuffle=True)
    t.fit(loader, 6, loader)
    assert t.history[-1]["val_accuracy_a"] > 0.8


@pytest.mark.parametrize("autocast", [None, torch.bfloat16, torch.float16])
def test_a_run_that_was_broken_off_ends_as_one_that_was_not(autocast, tmp_path):
    def run(epochs, **paths):
        torch.manual_seed(0)
        samples = TensorDataset(*data(wrong=0.25))
        scaler = torch.amp.GradScaler("cuda") if autocast == torch.float16 else None
        t = trainer(autocast=autocast, scaler=scaler)
        return t.fit(DataLoader(samples, 64, shuffle=True), epochs, **paths)

    try:
        torch.use_deterministic_algorithms(True)
        whole, path = run(4), tmp_path / "run.pt"
        run(2, checkpoint=path)
        resumed = run(4, checkpoint=path, resume=path)
    finally:
        torch.use_deterministic_algorithms(False)
    assert resumed.history == whole.history
    for a, b in zip(whole.models, resumed.models, strict=True):
        for mine, other in zip(a.parameters(), b.parameters(), strict=True):
            assert torch.equal(mine, other)


def test_a_loss_that_is_not_finite_is_told_after_the_epoch():
    x, y = data()
    x[100] = torch.nan
    with pytest.raises(FloatingPointError, match="epoch 1, step 2"):
        trainer().fit(DataLoader(TensorDataset(x, y), 64), 1)


def test_clean_probability_comes_back_to_the_host():
    x, y = data()
    loader = DataLoader(TensorDataset(x, y), 64)
    p = trainer().fit(loader, 2).clean_probability(loader)
    assert p.device.type == "cpu"
    assert np.isfinite(p.numpy()).all()
