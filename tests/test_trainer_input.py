"""What a user may give a trainer by mistake, and what an error leaves behind."""

import copy
import pickle
from typing import NamedTuple

import pytest
import torch
from small import adam, data, pair, trainer
from torch import nn
from torch.optim import lr_scheduler
from torch.utils.data import DataLoader, Dataset, TensorDataset

from resup import CoTrainer, SampleWeigher
from resup.callbacks import Callback


def scheduled(scheduler, optimizer=torch.optim.Adam, lr=0.1, **options):
    models = pair()
    stepper = optimizer([p for m in models for p in m.parameters()], lr)
    return CoTrainer(models, stepper, scheduler(stepper), progress=False, **options)


def loader(n=160, batch=40):
    return DataLoader(data(n), batch)


class Missing(Dataset):
    def __len__(self):
        return 10

    def __getitem__(self, i):
        raise OSError("image is missing")


def test_an_error_in_validation_does_not_train_an_epoch_twice():
    t = scheduled(lambda o: lr_scheduler.OneCycleLR(o, 0.1, total_steps=12),
                  scheduler_interval="step")  # fmt: skip
    with pytest.raises(OSError, match="image is missing"):
        t.fit(loader(), 3, DataLoader(Missing(), 5))
    assert (t.epoch, len(t.history), t.schedulers[0].last_epoch) == (1, 1, 4)
    assert t.fit(loader(), 3, loader()).epoch == 3


def test_float64_throughout():
    torch.set_default_dtype(torch.float64)
    try:
        assert trainer().fit(loader(), 3).epoch == 3
    finally:
        torch.set_default_dtype(torch.float32)


def test_a_learning_rate_as_a_tensor():
    t = scheduled(lambda o: lr_scheduler.ExponentialLR(o, 0.1), lr=torch.tensor(0.1)).fit(
        loader(), 3
    )
    assert [record["lr"] for record in t.history] == pytest.approx([0.1, 0.01, 0.001])


def test_a_scheduler_of_another_optimizer():
    other = torch.optim.Adam([torch.zeros(1, requires_grad=True)])
    with pytest.raises(ValueError, match="optimizer that is given, got a StepLR of another one"):
        scheduled(lambda _: lr_scheduler.StepLR(other, 1))


@pytest.mark.parametrize("mode", ["min", "max"])
def test_plateaus(mode):
    t = scheduled(lambda o: lr_scheduler.ReduceLROnPlateau(o, mode, patience=0, threshold=9.0))
    if mode == "max":
        with pytest.raises(ValueError, match="val_loader must be given for a ReduceLROnPlateau"):
            t.fit(loader(), 1)
    t.fit(loader(), 4, loader())
    assert t.history[-1]["lr"] < 0.02


@pytest.mark.parametrize("mode", ["min", "max"])
def test_what_plateaus_see(mode):
    t = scheduled(lambda o: lr_scheduler.ReduceLROnPlateau(o, mode)).fit(loader(), 1, loader())
    [record] = t.history
    accuracy = (record["val_accuracy_a"] + record["val_accuracy_b"]) / 2
    assert t.schedulers[0].best == {"min": record["loss"], "max": accuracy}[mode]


def test_steppers_that_need_more():
    for it, found in ((lr_scheduler.StepLR, "<class .*StepLR"), (nn.Linear(1, 1), "Linear")):
        with pytest.raises(TypeError, match=f"scheduler must be an object .*, got {found}"):
            scheduled(lambda o, it=it: it)
    with pytest.raises(TypeError, match="optimizer must step without a closure, got LBFGS"):
        scheduled(lambda o: None, torch.optim.LBFGS)


def test_a_scheduler_whose_step_needs_an_argument_is_refused_at_once():
    class Timms:
        def __init__(self, optimizer):
            self.optimizer = optimizer

        def step(self, epoch, metric=None): ...

        def state_dict(self): ...

        def load_state_dict(self, state): ...

    class Told(lr_scheduler.StepLR):
        def step(self, epoch=None, **more):
            super().step()

    message = r"scheduler must have a step\(\) that needs no .*, got Timms with step\(epoch, metric"
    with pytest.raises(TypeError, match=message):
        scheduled(Timms)
    for interval, steps in (("epoch", 1), ("step", 4)):
        t = scheduled(lambda o: Told(o, 1), scheduler_interval=interval).fit(loader(), 1)
        assert t.schedulers[0].last_epoch == steps


def test_without_warm_up_the_first_epoch_is_fitted():
    assert trainer(warmup_epochs=0, refit_every=5).fit(loader(), 1).weigher.mixtures_


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (lambda z: (z, z), "a model must return logits, .*, got tuple"),
        (lambda z: {"scores": z}, "a model must return logits, .*, got dict"),
        (
            lambda z: z[:, :1],
            r"logits_a must have shape \(N, C\) with C >= 2 classes, got \(40, 1\)",
        ),
        (lambda z: z[:, 0], r"logits_a must have shape .*, got \(40,\)"),
        (lambda z: z[:, :, None], r"logits_a must have shape .*, got \(40, 3, 1\)"),
    ],
)
def test_outputs_that_are_no_logits(output, message):
    class Net(nn.Linear):
        def forward(self, x):
            return output(super().forward(x))

    with pytest.raises((TypeError, ValueError), match=message):
        trainer((Net(6, 3), Net(6, 3))).fit(loader(), 1)


def test_probabilities_in_place_of_logits_are_noticed_once():
    models = [nn.Sequential(model, nn.Softmax(1)) for model in pair()]
    t = trainer(models)
    with pytest.warns(
        UserWarning, match="of network A and network B look like prob.* logits"
    ) as told:
        t.fit(loader(), 2)
    assert [warning.filename for warning in told] == [__file__]
    t.fit(loader(), 3)
    trainer([nn.Sequential(model, nn.LogSoftmax(1)) for model in pair()]).fit(loader(), 1)
    fresh = trainer(models)
    fresh.train_step(*data(40).tensors)  # a loop of one's own does not wait


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda y: y[:, None], r"targets must have shape \(40,\) .*, got \(40, 1\)"),
        (lambda y: torch.eye(3)[y], "targets must be an integer tensor .*, got torch.float32"),
        (lambda y: y + 1, r"targets must lie in \[0, 3\) .*, got values from 1 to 3"),
        (lambda y: y.tolist(), "targets must be an integer tensor .*, got list"),
        (lambda y: y.numpy(), "targets must be an integer tensor .*, got ndarray"),
    ],
)
def test_targets_that_are_no_classes(change, message):
    x, y = data(40).tensors
    t = trainer()
    for use in (lambda batches: t.fit(batches, 1), t.evaluate):
        with pytest.raises((TypeError, ValueError), match=message):
            use([(x, change(y))])


def test_data_sets_and_tensors_are_no_loaders():
    t, samples = trainer().fit(loader(), 1), data(40)
    for given, found in (
        (samples, "TensorDataset"),
        (samples.tensors, r"\(Tensor, Tensor\)"),
        ((samples.tensors[0].numpy(), samples.tensors[1]), r"\(ndarray, Tensor\)"),
        (samples.tensors[0], "Tensor"),
        (2, "int"),
    ):
        message = f"loader must give batches, such as a DataLoader, got {found}"
        for use in (t.evaluate, t.clean_probability, t.report):
            with pytest.raises(TypeError, match=f"^{message}"):
                use(given)
        for name, given_loaders in (("train", (given, 2)), ("val", (loader(), 2, given))):
            with pytest.raises(TypeError, match=f"^{name}_{message}"):
                t.fit(*given_loaders)
    for batches in ([samples.tensors], (samples.tensors,)):
        assert len(t.clean_probability(batches)) == 40


def test_a_bad_batch_does_not_reach_the_networks():
    x, y = data(160).tensors
    x[100] = torch.nan
    t = trainer((nn.Linear(6, 3), nn.Linear(6, 3)))
    with pytest.raises(FloatingPointError, match="epoch 1, step 3"):
        t.fit(DataLoader(TensorDataset(x, y), 40), 1)
    assert all(p.isfinite().all() for m in t.models for p in m.parameters())


@pytest.mark.filterwarnings("ignore:You are using `torch.load`")  # torch 2.4, of its own pickles
def test_pickles():
    batches = loader()
    t = trainer().fit(batches, 2)
    again = pickle.loads(pickle.dumps(t))
    assert torch.equal(again.clean_probability(batches), t.clean_probability(batches))
    assert pickle.loads(pickle.dumps(SampleWeigher())).mixtures_ == []


def test_epochs_are_counted():
    with pytest.raises(ValueError, match=r"epochs must be an integer of at least 0, got 1\.5"):
        trainer().fit(loader(), 1.5)


def test_all_callbacks_are_told_of_the_end():
    told = []

    class End(Callback):
        def __init__(self, name):
            self.name = name

        def on_fit_end(self, trainer):
            told.append(self.name)
            raise RuntimeError(self.name)

    models = pair()
    t = CoTrainer(models, adam(*models), callbacks=map(End, "ab"), progress=False)
    with pytest.raises(RuntimeError):
        t.fit(loader(), 0)
    assert sorted(told) == ["a", "b"]


def test_a_loss_that_is_no_scalar_is_named():
    with pytest.raises(
        ValueError, match=r"consistency must return a scalar Tensor, got torch.Size\(\[40, 3\]\)"
    ):
        trainer(consistency=nn.MSELoss(reduction="none"), warmup_epochs=0).fit(loader(), 1)
    with pytest.raises(
        ValueError, match="cross_weighted must return a scalar Tensor, got NoneType"
    ):
        trainer(cross_weighted=lambda *given: None).fit(loader(), 1)


def test_frozen_parts_stay_in_eval_mode():
    models = pair()
    for model in models:
        model[1].eval().requires_grad_(False)
    before = models[0][1].running_mean.clone()
    t = trainer(models).fit(loader(), 2, loader())
    t.report(loader())
    for epochs in (3, 4):
        assert torch.equal(models[0][1].running_mean, before)
        assert [part.training for part in models[0].modules()] == [True, True, False, True, True]
        models[0].eval()
        t.fit(loader(), epochs)


def test_parts_that_a_model_freezes_itself_stay_frozen():
    class Frozen(nn.Sequential):
        def train(self, mode=True):
            super().train(mode)
            self[1].eval()
            return self

    models = [Frozen(*model) for model in pair()]
    trainer(models).fit(loader(), 2, loader())
    assert not models[0][1].training
    assert not models[0][1].running_mean.any()


def test_a_part_in_train_mode_within_one_in_eval_mode_stays_in_it():
    models = [nn.Sequential(nn.Sequential(*model[:3]), model[3]) for model in pair()]
    for model in models:
        model[0].eval()
        model[0][2].train()
    with pytest.warns(UserWarning, match=r"eval mode and stay in it \(1, such as 0\.0\)") as told:
        trainer(models).fit(loader(), 2, loader())
    assert [str(each.message)[:9] for each in told] == ["network A", "network B"]  # each once
    assert [part.training for part in models[0].modules()] == [
        True,
        False,
        False,
        False,
        True,
        True,
    ]


class Shared(nn.Module):
    """Layers that have two parents, the second of which is in train mode."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU())
        self.features = nn.Sequential(*self.body[:2])
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.features(x))


def test_a_frozen_part_with_two_parents_stays_in_eval_mode():
    models = [Shared() for _ in "ab"]
    for model in models:
        model.body[1].eval().requires_grad_(False)
    t = trainer(models)
    t.evaluate(loader())
    assert not models[0].body[1].training
    t.fit(loader(), 2, loader())
    assert [part.training for part in models[0].body] == [True, False, True]
    assert not models[0].body[1].running_mean.any()


@pytest.mark.filterwarnings("ignore:network . tells given labels from others hardly")
def test_a_frozen_backbone_stays_in_eval_mode_when_only_the_head_is_put_in_train_mode():
    models = [nn.Sequential(nn.Sequential(*model[:3]), nn.Dropout(), model[3]) for model in pair()]
    for model in models:
        model.eval()[0].requires_grad_(False)
        model[2].train()
    t = trainer(models).fit(loader(), 2, loader())
    assert [part.training for part in models[0]] == [False, True, True]
    assert not any(part.training for part in models[0][0].modules())
    models[0].eval()
    models[0][0].requires_grad_(True)
    with pytest.warns(UserWarning, match=r"network A .* stay in it \(1, such as 0\.0\)"):
        t.fit(loader(), 3)


def test_a_trainable_batch_norm_rests_on_when_only_the_head_is_put_in_train_mode():
    models = pair()
    models[0][1].eval()
    t = trainer(models).fit(loader(), 1)
    models[0].eval()[3].train()
    t.fit(loader(), 2)
    assert [part.training for part in models[0]] == [True, False, True, True]


def test_a_loader_may_use_its_memory_again():
    samples = data(80)

    class Reused:
        def __iter__(self):
            x, y = torch.empty(20, 6), torch.empty(20, dtype=torch.int64)
            for start in range(0, 80, 20):
                for new, old in zip((x, y), samples[start : start + 20], strict=True):
                    new.copy_(old)
                yield x, y

    t = trainer().fit(DataLoader(samples, 20), 2)
    assert t.report(Reused()).in_order()["given"].tolist() == samples.tensors[1].tolist()


def test_a_network_that_comes_in_eval_mode_is_trained():
    models = pair()
    models[0].eval()
    trainer(models).fit(loader(), 1)
    assert all(part.training for part in models[0].modules())


@pytest.mark.parametrize("inside", ["before", "between"])
def test_a_network_that_is_in_eval_mode_inside_its_wrapper_is_trained(inside, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)  # it would move the networks
    models = pair()
    if inside == "before":
        models[0].eval()
    t = trainer([nn.DataParallel(model) for model in models])
    if inside == "between":
        t.fit(loader(), 1)
        models[0].eval()
    t.fit(loader(), 2)
    assert all(part.training for part in t.models[0].modules())


def test_a_frozen_network_stays_in_eval_mode():
    models = pair()
    models[1].eval().requires_grad_(False)
    before = copy.deepcopy(models[1].state_dict())
    CoTrainer(models, adam(models[0]), progress=False).fit(loader(), 2, loader())
    assert not any(part.training for part in models[1].modules())
    assert all(torch.equal(v, before[key]) for key, v in models[1].state_dict().items())


class Merging(nn.Linear):
    """As LoRA's layers, it adds an offset to its weights in eval mode and trains the offset."""

    def __init__(self, n_in, n_out):
        super().__init__(n_in, n_out)
        self.weight.requires_grad_(False)
        self.offset = nn.Parameter(torch.zeros(n_out, n_in))
        self.merged = False

    def train(self, mode=True):
        if mode == self.merged:
            self.weight.data += self.offset.data * (-1 if self.merged else 1)
            self.merged = not mode
        return super().train(mode)

    def forward(self, x):
        return super().forward(x) + (0 if self.merged else x @ self.offset.T)


def test_validation_changes_nothing_where_eval_mode_changes_layers():
    ends = []
    for validates in (False, True):
        torch.manual_seed(0)
        models = [nn.Sequential(Merging(6, 8), nn.ReLU(), nn.Linear(8, 3)) for _ in "ab"]
        trainer(models).fit(loader(), 3, loader() if validates else None)
        ends.append([model[0].offset for model in models])
    for without, validated in zip(*ends, strict=True):
        torch.testing.assert_close(validated, without, rtol=0, atol=1e-5)
        assert without.abs().max() > 0.02


def test_a_network_without_parameters():
    class Fixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("rows", torch.randn(3, 6))

        def forward(self, x):
            return x @ self.rows.T

    models = pair()[0], Fixed()
    assert CoTrainer(models, adam(models[0]), progress=False).fit(loader(), 2).epoch == 2


def test_parameters_unfrozen_between_fits_must_be_in_the_optimizer():
    models = pair()
    models[0][0].requires_grad_(False)
    rest = [p for m in models for p in m.parameters() if p.requires_grad]
    t = CoTrainer(models, torch.optim.Adam(rest), progress=False).fit(loader(), 1)
    models[0][0].requires_grad_(True)
    with pytest.raises(ValueError, match=r"misses 2 trainable parameters, such as models\[0\].0"):
        t.fit(loader(), 2)


def test_named_tuples_stay_named():
    class Views(NamedTuple):
        plain: torch.Tensor
        mask: torch.Tensor

    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = pair()[0]

        def forward(self, views):
            return self.net(views.plain * views.mask)

    x, y = data().tensors
    batch = {"views": Views(x, torch.ones_like(x))}, y
    assert trainer((Masked(), Masked())).fit([batch], 2).epoch == 2


def test_validation_leaves_a_shared_generator_alone():
    losses = []
    for validates in (False, True):
        torch.manual_seed(0)
        shared = torch.Generator().manual_seed(1)
        samples = data()
        t = trainer()
        t.fit(
            DataLoader(samples, 20, shuffle=True, generator=shared),
            3,
            DataLoader(samples, 20, generator=shared) if validates else None,
        )
        losses.append([record["loss"] for record in t.history])
    assert losses[0] == losses[1]


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.gru, self.head = nn.GRU(6, 8), nn.Linear(8, 3)

    def forward(self, sequences):
        return self.head(self.gru(sequences)[1][0])


def test_objects_as_inputs():
    x = nn.utils.rnn.pack_sequence([torch.randn(3, 6), torch.randn(2, 6)])
    t = trainer((Recurrent(), Recurrent())).fit([(x, torch.tensor([0, 1]))], 2)
    assert len(t.clean_probability([(x, torch.tensor([0, 1]))])) == 2


def test_a_value_of_some_steps_only_is_their_mean():
    class Sometimes(CoTrainer):
        def train_step(self, inputs, targets):
            values = super().train_step(inputs, targets)
            odd = self._done.steps % 2
            return {**values, "odd": torch.tensor(4.0)} if odd else values

    models = pair()
    t = Sometimes(models, adam(*models), progress=False).fit(loader(), 1)
    assert t.history[0]["odd"] == 4
    assert 0 < t.history[0]["loss"] < 10


def test_a_state_in_the_middle_of_an_epoch_stays_as_it_was():
    class Keep(Callback):
        def on_step_end(self, trainer, values):
            now.append(trainer.state_dict()["epoch_so_far"])
            then.append(copy.deepcopy(now[-1]))

    now, then = [], []
    trainer(callbacks=[Keep()]).fit(loader(), 1)
    assert [state["steps"] for state in now] == [1, 2, 3, 4]
    assert list(map(str, now)) == list(map(str, then))
