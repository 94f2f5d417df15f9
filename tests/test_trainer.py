import copy
import math
from contextlib import nullcontext

import numpy as np
import pytest
import reference
import torch
import torch.nn.functional as F
from sklearn.mixture import GaussianMixture
from small import adam, assert_same, data, net, pair, trainer
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.data import DataLoader, TensorDataset
from tqdm import tqdm

from resup import BetaMixture, CoTrainer, SampleWeigher, SymmetricKLLoss
from resup.callbacks import Callback


@pytest.mark.parametrize(
    "options", [{"consistency_weight": 0.0, "warmup_epochs": 3}, {"warmup_epochs": 3}]
)
@pytest.mark.parametrize("joint", [True, False])
def test_warmup_is_bit_for_bit_two_plain_loops(options, joint):
    mine, theirs, train = pair(), None, data()
    theirs = copy.deepcopy(mine)
    torch.manual_seed(1)
    optimizer = adam(*mine) if joint else [adam(m) for m in mine]
    t = CoTrainer(mine, optimizer, progress=False, **options)
    t.fit(DataLoader(train, 24, shuffle=True), 3)
    assert len(t.weigher.mixtures_) == 2
    for model in theirs:
        torch.manual_seed(1)
        optimizer = adam(model)
        for _ in range(3):
            for x, y in DataLoader(train, 24, shuffle=True):
                optimizer.zero_grad()
                F.cross_entropy(model(x), y).backward()
                optimizer.step()
    assert_same(mine, theirs)


def test_a_weighted_step_is_equation_6():
    train = data(64)
    t = trainer()
    t.weigher.negligible_noise = 0.0
    t.fit(DataLoader(train, 64), 20)
    x, y = train.tensors
    a, b = (m(x).detach() for m in t.models)
    weights = copy.deepcopy(t.weigher)(torch.stack([a, b]), y)
    assert (weights < 1).any()
    expected = reference.objective(*(v.tolist() for v in (a, b, y, *weights)), weight=5)
    got = t.train_step(x, y)
    assert got["loss"].item() == pytest.approx(expected, rel=1e-5)
    assert got["weight_a"].item() == pytest.approx(weights[0].mean().item())


class OnOneDevice(TorchDispatchMode):
    """Raises where an operation sees another device than meta."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        tensors = [v for v in tree_leaves((args, kwargs, result)) if isinstance(v, torch.Tensor)]
        assert {t.device.type for t in tensors} <= {"meta"}, f"{func} leaves the device"
        return result


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"mixture": BetaMixture()},
        {"mixture": GaussianMixture(2)},
        {"signal": "loss"},
        {"consistency": SymmetricKLLoss()},
        {"exchange": "mean", "weight_threshold": 0.5},
        {"accumulate": 2},
        {"clip_grad_norm": 1.0},
    ],
    ids=lambda options: ", ".join(map(str, options)) or "defaults",
)
def test_a_step_looks_at_no_value(options, monkeypatch):
    """Tensors of the meta device have none: a look raises, as it would make a GPU's host wait."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # knows no meta
    with torch.device("meta"):
        models = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)), nn.Linear(6, 3)
        x, y = torch.randn(20, 6), torch.randint(3, (20,))
    optimizer = torch.optim.SGD([p for m in models for p in m.parameters()], 0.1)
    t = CoTrainer(models, optimizer, progress=False, **options)
    t.epoch = 1
    for balanced in (False, t.weigher.decoys is not None):
        t.weigher.balanced = balanced
        with OnOneDevice():
            values = t.train_step(x, y)
            t._done.add(values, len(y))
        t.optimizer_step()
    assert "consistency" in values
    with pytest.raises(RuntimeError, match="meta"):
        values["loss"].item()


def test_history_and_epochs_as_a_total():
    t = trainer(warmup_epochs=2)
    t.weigher.negligible_noise = 0.0
    loader = DataLoader(data(), 32, shuffle=True)
    val = DataLoader(data(50), 20)
    t.fit(loader, 3, val)
    assert (t.epoch, len(t.history)) == (3, 3)
    with pytest.warns(UserWarning, match="epochs counts all epochs, got 3 with 3 done: nothing is"):
        t.fit(loader, 3)
    assert t.epoch == 3
    t.fit(loader, 4)
    assert [r["epoch"] for r in t.history] == [1, 2, 3, 4]
    assert [r["weight_a"] == 1 for r in t.history] == [True, True, False, False]
    assert ["consistency" in r for r in t.history] == [False, False, True, True]
    assert ["noise_rate_b" in r for r in t.history] == [False, True, True, True]
    assert ["val_accuracy_a" in r for r in t.history] == [True, True, True, False]
    assert all(isinstance(v, int | float) for r in t.history for v in r.values())
    assert 0.8 < t.history[2]["val_accuracy_b"] <= 1


def test_a_trainer_says_how_far_it_is():
    t = trainer()
    assert repr(t) == "<CoTrainer of Sequential, Sequential: 0 epochs done>"
    t.weigher.noise_rates_ = [0.2, 0.314]
    assert repr(t).endswith(": 0 epochs done, noise rates 0.20 and 0.31>")


def test_evaluate_counts_right_and_leaves_modes():
    t = trainer()
    t.models[1].eval()
    x, y = data(50).tensors
    t.models[0].eval()
    expected = [(m(x).argmax(1) == y).float().mean().item() for m in t.models]
    t.models[0].train()
    got = t.evaluate(DataLoader(TensorDataset(x, y), 7))
    assert [got["accuracy_a"], got["accuracy_b"]] == pytest.approx(expected)
    assert [m.training for m in t.models] == [True, False]


def test_counts_are_exact_whatever_the_default_dtype():
    t, loader = trainer(), DataLoader(data(2000), 100)
    t.fit(loader, 3)
    accuracies, coefficients = t.evaluate(loader), t.weigher.posterior.coefficients
    torch.set_default_dtype(torch.bfloat16)
    try:
        assert t.evaluate(loader) == accuracies
        assert SampleWeigher().posterior.coefficients.dtype == coefficients.dtype == torch.float32
    finally:
        torch.set_default_dtype(torch.float32)


def test_clean_probability_in_loader_order():
    t, train = trainer(), data()
    t.fit(DataLoader(train, 32, shuffle=True), 2)
    whole = t.clean_probability(DataLoader(train, 160))
    assert whole.shape == (160,)
    assert ((whole >= 0) & (whole <= 1)).all()
    torch.testing.assert_close(t.clean_probability(DataLoader(train, 33)), whole)


def test_clean_probability_refuses_orders_that_mean_nothing():
    t, train = trainer(), data()
    with pytest.raises(RuntimeError, match=r"train for max\(1, warmup_epochs\) = 1 epochs first"):
        t.clean_probability(DataLoader(train, 32))
    with pytest.raises(RuntimeError, match="and warmup_epochs=inf fits none"):
        trainer(warmup_epochs=math.inf).report(DataLoader(data(), 40))
    t.fit(DataLoader(train, 32), 1)
    with pytest.raises(ValueError, match="loader shuffles"):
        t.clean_probability(DataLoader(train, 32, shuffle=True))
    with pytest.raises(ValueError, match="loader shuffles"):
        t.clean_probability(tqdm(DataLoader(train, 32, shuffle=True), disable=True))
    with pytest.raises(ValueError, match="loader drops its last samples"):
        t.clean_probability(DataLoader(train, 33, drop_last=True))
    with pytest.raises(ValueError, match="the loader gave no batch"):
        t.clean_probability([])


@pytest.mark.parametrize(
    "options",
    [
        {"scheduler_interval": "epoch"},
        {"scheduler_interval": "step"},
        {"mixture": GaussianMixture(2), "signal": "loss"},
    ],
    ids=str,
)
def test_state_dict_goes_on_as_if_nothing_had_happened(options, tmp_path):
    train = data()
    loader = DataLoader(train, 32)  # unshuffled: no random state to restore

    def make():
        torch.manual_seed(5)
        models = pair()
        optimizer = adam(*models)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5)
        return CoTrainer(models, optimizer, scheduler, progress=False, **options)

    straight = make().fit(loader, 5)
    first = make().fit(loader, 3)
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second = make()
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    second.fit(loader, 5)
    assert_same(straight.models, second.models)
    assert straight.history == second.history
    reports = (vars(t.report(loader)) for t in (straight, second))
    torch.testing.assert_close(*reports, rtol=0, atol=0)


def test_a_foreign_state_is_refused():
    t = trainer()
    with pytest.raises(ValueError, match="format_version None, this version of resup reads 13"):
        t.load_state_dict({})
    state = t.state_dict()
    other = CoTrainer(models := pair(), [adam(m) for m in models], progress=False)
    with pytest.raises(ValueError, match=r"state is of Adam, Decoy.* has Adam, Adam"):
        other.load_state_dict(state)


def test_schedulers_by_epoch_and_by_step():
    for interval, expected in (("epoch", 2), ("step", 10)):
        models = pair()
        optimizer = adam(*models)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1000)
        t = CoTrainer(models, optimizer, scheduler, scheduler_interval=interval, progress=False)
        t.fit(DataLoader(data(), 32), 2)
        assert scheduler.last_epoch == expected


def test_accumulation_sees_the_same_gradient_as_a_larger_batch():
    train = data(64)
    finals = []
    for size, accumulate in ((32, 1), (8, 4)):
        torch.manual_seed(3)
        models = nn.Linear(6, 3), nn.Linear(6, 3)
        sgd = torch.optim.SGD([p for m in models for p in m.parameters()], lr=0.1)
        CoTrainer(models, sgd, accumulate=accumulate, warmup_epochs=2, progress=False).fit(
            DataLoader(train, size), 2
        )
        finals.append(torch.cat([p.detach().flatten() for m in models for p in m.parameters()]))
    torch.testing.assert_close(*finals)


def test_an_incomplete_last_accumulation_is_a_step_too():
    batches = list(DataLoader(data(24), 8))
    models = nn.Linear(6, 3), nn.Linear(6, 3)
    theirs = copy.deepcopy(models)
    sgd = torch.optim.SGD([p for m in models for p in m.parameters()], lr=0.1)
    CoTrainer(models, sgd, accumulate=2, progress=False).fit(batches, 1)
    for mine, model in zip(models, theirs, strict=True):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for together in (batches[:2], batches[2:]):
            optimizer.zero_grad()
            sum(F.cross_entropy(model(x), y) / 2 for x, y in together).backward()
            optimizer.step()
        torch.testing.assert_close(mine.weight, model.weight)


def scaled(scaler):
    return torch.amp.GradScaler("cpu", init_scale=1024.0) if scaler else None


@pytest.mark.parametrize("scaler", [False, True])
def test_gradient_clipping_holds_for_each_network(scaler):
    models = nn.Linear(6, 3), nn.Linear(6, 3)
    before = copy.deepcopy(models)
    sgd = torch.optim.SGD([p for m in models for p in m.parameters()], lr=1.0)
    t = CoTrainer(models, sgd, scaler=scaled(scaler), clip_grad_norm=0.01, progress=False)
    t.fit(DataLoader(data(64), 64), 1)
    for model, old in zip(models, before, strict=True):
        moved = [a - b for a, b in zip(model.parameters(), old.parameters(), strict=True)]
        norm = torch.cat([m.flatten() for m in moved]).norm()
        assert norm.item() == pytest.approx(0.01, rel=1e-3)


def test_a_scaler_takes_its_scale_off_again():
    finals = []
    for scaler in (False, True):
        torch.manual_seed(3)
        models, train = pair(), data()
        sgd = torch.optim.SGD([p for m in models for p in m.parameters()], lr=0.1)
        t = CoTrainer(models, sgd, scaler=scaled(scaler), progress=False)
        t.fit(DataLoader(train, 32), 2)
        finals.append(torch.cat([p.detach().flatten() for m in models for p in m.parameters()]))
    torch.testing.assert_close(*finals)


def test_bfloat16_autocast():
    t = trainer(autocast=torch.bfloat16)
    t.fit(DataLoader(data(), 32), 6, DataLoader(data(), 32))
    assert t.history[-1]["val_accuracy_a"] > 0.8


def test_networks_are_judged_under_autocast_too():
    class Seen(nn.Linear):
        def forward(self, x):
            z = super().forward(x)
            kinds.append(z.dtype)
            return z

    kinds, loader = [], DataLoader(data(), 40)
    t = trainer((Seen(6, 3), Seen(6, 3)), autocast=torch.bfloat16).fit(loader, 1)
    for judge in (t.evaluate, t.report):
        kinds.clear()
        judge(loader)
        assert kinds == [torch.bfloat16] * 8


def test_frozen_parameters_may_be_left_out():
    models = pair()
    models[0][0].requires_grad_(False)
    trainable = [p for m in models for p in m.parameters() if p.requires_grad]
    frozen = models[0][0].weight.clone()
    optimizer = torch.optim.Adam(trainable, 1e-2)
    CoTrainer(models, optimizer, progress=False).fit(DataLoader(data(), 32), 2)
    assert torch.equal(models[0][0].weight, frozen)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # inside torch.compile
def test_compiled_models():
    models = tuple(torch.compile(m, backend="eager") for m in pair())
    t = trainer(models)
    t.fit(DataLoader(data(96), 32), 2)
    plain = trainer(pair())
    plain.load_state_dict(t.state_dict())
    x = data(8).tensors[0]
    torch.testing.assert_close(plain.models[0].eval()(x), models[0].eval()(x))


def test_outputs_that_the_next_call_overwrites():
    """As those of CUDA graphs that share their memory."""

    class Graph(nn.Linear):
        def forward(self, x):
            z = super().forward(x)
            return z if self.training else shared.copy_(z)

    shared, loader = torch.empty(40, 3), DataLoader(data(), 40)
    t = trainer((Graph(6, 3), Graph(6, 3))).fit(loader, 1)
    plain = trainer((nn.Linear(6, 3), nn.Linear(6, 3)))
    plain.load_state_dict(t.state_dict())
    assert t.evaluate(loader) == plain.evaluate(loader)
    assert torch.equal(t.clean_probability(loader), plain.clean_probability(loader))


def test_a_generator_of_batches_is_a_loader():
    class Stream:
        def __iter__(self):
            yield from DataLoader(data(64), 16)

    assert trainer().fit(Stream(), 2).epoch == 2


def test_models_must_be_a_pair():
    with pytest.raises(TypeError, match=r"models must be a pair of nn.Module, got \(Sequential\)"):
        CoTrainer([net()], None)
    with pytest.raises(TypeError, match=r"models must be a pair of nn.Module, got \(Sequential\)"):
        CoTrainer(torch.nn.Sequential(net(), net()), None)
    one = net()
    with pytest.raises(ValueError, match="two different networks"):
        CoTrainer((one, one), adam(one))


def test_models_on_different_devices():
    models = net(), net().to("meta")
    with pytest.raises(ValueError, match="models must be on one device, got cpu, meta"):
        CoTrainer(models, adam(*models))


def test_optimizers_must_own_the_models():
    models = pair()
    with pytest.raises(
        ValueError, match=r"optimizer misses 6 trainable parameters, such as models\[1\].0.weight"
    ):
        CoTrainer(models, adam(models[0]))
    with pytest.raises(ValueError, match="optimizer holds 6 parameters that belong to neither"):
        CoTrainer(models, adam(*models, net()))
    with pytest.raises(ValueError, match="optimizers must own each parameter once"):
        CoTrainer(models, [adam(*models), adam(models[1])])
    for optimizer, kind in (([1], "int"), (None, "NoneType"), ("adam", "str")):
        with pytest.raises(TypeError, match=rf"optimizer must be an Optimizer .* got \({kind}\)"):
            CoTrainer(models, optimizer)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (
            {"consistency_weight": -1},
            "consistency_weight must be a finite number of at least 0, got -1",
        ),
        ({"warmup_epochs": -1}, "warmup_epochs must be an integer of at least 0"),
        ({"warmup_epochs": 1.5}, "warmup_epochs must be an integer of at least 0, got 1.5"),
        ({"accumulate": 0}, "accumulate must be an integer of at least 1"),
        ({"accumulate": 1.5}, "accumulate must be an integer of at least 1"),
        ({"refit_every": 0}, "refit_every must be an integer of at least 1"),
        ({"weight_threshold": 5}, r"weight_threshold must be a finite number in \[0, 1\], got 5"),
        ({"weight_threshold": 1}, "weight_threshold must be less than 1, got 1: no weight is"),
        ({"clip_grad_norm": -1.0}, "clip_grad_norm must be larger than 0, got -1.0"),
        ({"clip_grad_norm": True}, "clip_grad_norm must be larger than 0, got True"),
        ({"clip_grad_norm": "1"}, "clip_grad_norm must be larger than 0, got '1'"),
        ({"autocast": "bf16"}, "autocast must be one of None, torch.bfloat16.*, got 'bf16'"),
        (
            {"scheduler_interval": "batch"},
            "scheduler_interval must be one of 'epoch', 'step', got 'batch'",
        ),
        ({"exchange": np.ones(2)}, r"exchange must be one of 'swap', .*, got array\(\[1., 1.\]\)"),
    ],
)
def test_settings_out_of_range(option, message):
    with pytest.raises(ValueError, match=message):
        trainer(**option)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"cross_weighted": 1.0}, "cross_weighted must be callable, got 1.0"),
        ({"consistency": "kl"}, "consistency must be callable, got 'kl'"),
        ({"unpack": "x"}, "unpack must be callable, got 'x'"),
        ({"scaler": True}, "scaler must be an object with scale and unscale_ and .*, got True"),
        (
            {"callbacks": 1},
            "each of callbacks must be an object with on_fit_start .*, got 1; derive it from",
        ),
        (
            {"callbacks": [Callback]},
            "each of callbacks must be an object .*, got <class .*; pass an object of this",
        ),
    ],
)
def test_settings_of_another_kind(option, message):
    with pytest.raises(TypeError, match=message):
        trainer(**option)


def test_equal_networks_are_noticed():
    net = nn.Linear(6, 3)
    with pytest.warns(UserWarning, match="the models are equal in every parameter"):
        trainer((net, copy.deepcopy(net)))
    trainer((net, nn.LazyLinear(3)))


def test_an_empty_loader():
    none = torch.empty(0, 6), torch.empty(0, dtype=torch.int64)
    for empty in ([], [none]):
        t = trainer((nn.Linear(6, 3), nn.Linear(6, 3)))
        with pytest.raises(ValueError, match=r"train_loader gave no sample$"):
            t.fit(empty, 1)
        with pytest.raises(ValueError, match="gave no sample"):
            t.evaluate(empty)
    once = (batch for batch in DataLoader(data(), 32))
    with pytest.raises(ValueError, match="train_loader gave no sample; it is iterated anew"):
        trainer().fit(once, 2)
    once = (batch for batch in DataLoader(data(), 32))
    with pytest.raises(ValueError, match="train_loader gave no sample to the pass"):
        trainer(similarities="pass").fit(once, 1)


def test_a_loss_that_is_not_finite_names_its_step():
    x, y = data(96).tensors
    x[40] = torch.nan
    with pytest.raises(
        FloatingPointError, match=r"not finite at epoch 1, step 2: try a smaller learning rate"
    ):
        trainer().fit(DataLoader(TensorDataset(x, y), 32), 2)


@pytest.mark.parametrize(("signal", "apart"), [("similarity", 0.4), ("loss", 0.2)])
def test_learns_through_wrong_labels(signal, apart):
    x, y = data(2000).tensors
    wrong = torch.rand(2000) < 0.4
    given = torch.where(wrong, (y + torch.randint(1, 3, (2000,))) % 3, y)
    t = trainer(signal=signal)
    t.fit(DataLoader(TensorDataset(x, given), 50, shuffle=True), 6, DataLoader(data(500), 500))
    assert t.history[-1]["val_accuracy_a"] > 0.9
    p = t.clean_probability(DataLoader(TensorDataset(x, given), 500))
    assert p[~wrong].mean() > p[wrong].mean() + apart
