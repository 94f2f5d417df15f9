"""What an error in the middle of training leaves behind."""

import json
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from small import adam, assert_same, data, pair, trainer
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau, StepLR
from torch.utils.data import DataLoader, TensorDataset

from resup import CoTrainer
from resup.callbacks import Callback, JSONLinesLogger, ProbabilityHistory
from resup.checkpoint import load_checkpoint
from resup.progress import EpochProgress


class RaiseAt(Callback):
    def __init__(self, step, error=KeyboardInterrupt):
        self.step, self.error, self.steps = step, error, 0

    def on_step_end(self, trainer, values):
        self.steps += 1
        if self.steps == self.step:
            raise self.error


class Stop(Callback):
    """Tell training to stop after a step, as SIGTERM does."""

    def __init__(self, step):
        self.step, self.steps = step, 0

    def on_step_end(self, trainer, values):
        self.steps += 1
        if self.steps == self.step:
            trainer._stop_soon()


def all_finite(state):
    values = [*state["model_a"].values(), *state["model_b"].values()]
    return all(v.isfinite().all() for v in values)


@pytest.mark.parametrize("other", [DataLoader(data(240), 60), DataLoader(data(150), 30)])
def test_after_an_error_the_epoch_begins_anew(other):
    t = trainer(callbacks=[RaiseAt(6)])
    with pytest.raises(KeyboardInterrupt):
        t.fit(DataLoader(data(240), 30), 2)
    assert t.state_dict()["epoch_so_far"] is None
    t.fit(other, 2)
    assert t.weigher.fitted_counts.sum(1).tolist() == [len(other.dataset)] * 2


def test_a_batch_whose_step_failed_counts_once():
    class Once(nn.Module):
        failed = False

        def forward(self, a, b):
            if not self.failed:
                self.failed = True
                raise RuntimeError("out of memory")
            return (a - b).square().mean()

    t = trainer(consistency=Once())
    loader = DataLoader(data(), 40)
    with pytest.raises(RuntimeError, match="out of memory"):
        t.fit(loader, 3)
    assert t.epoch == 1
    t.fit(loader, 3)
    assert t.weigher.fitted_counts.sum(1).tolist() == [160, 160]


class OffTheCPU(CoTrainer):
    """Looks at the loss as late as on a GPU."""

    def _check_loss(self):
        if self._late:
            super()._check_loss()

    def _check_finite(self):
        self._late = True
        try:
            super()._check_finite()
        finally:
            self._late = False

    _late = False


@pytest.mark.parametrize("stop", [None, 7, 8])
def test_networks_with_nan_are_not_saved(tmp_path, stop):
    x, y = data().tensors
    good = [*zip(x.split(40), y.split(40), strict=True)]
    bad = [*good[:2], (x[80:120] * torch.nan, y[80:120]), good[3]]
    models = pair()
    t = OffTheCPU(models, adam(*models), progress=False)
    t.fit(good, 1, checkpoint=(path := tmp_path / "c.pt"))
    if stop:
        t.callbacks.append(Stop(stop - 4))
    for _ in range(2):
        with pytest.raises(FloatingPointError, match=r"not finite at epoch 2, step [13]"):
            t.fit(bad, 3, checkpoint=path)
        assert (state := load_checkpoint(path))["epoch"] == 1
        assert all_finite(state)


def test_a_gradient_of_nan_is_found_before_the_next_checkpoint(tmp_path):
    class Root(nn.Linear):
        calls = 0

        def forward(self, x):
            self.calls += self.training
            z = super().forward(x)
            return z + 0 * (0 * z).abs().sqrt() if self.calls == 8 else z

    t = trainer((Root(6, 3), Root(6, 3)))
    with pytest.raises(FloatingPointError, match="parameters of network A are not finite in epoch"):
        t.fit(DataLoader(data(), 40), 3, checkpoint=(path := tmp_path / "c.pt"))
    assert (state := load_checkpoint(path))["epoch"] == 1
    assert all_finite(state)


def test_a_callback_that_fails_does_not_lose_the_epoch(tmp_path):
    class Full(Callback):
        def on_epoch_end(self, trainer, record):
            raise OSError("disk full")

    t = trainer(callbacks=[Full()])
    with pytest.raises(OSError, match="disk full"):
        t.fit(DataLoader(data(), 40), 3, checkpoint=(path := tmp_path / "c.pt"))
    assert load_checkpoint(path)["epoch"] == t.epoch == 1


@pytest.mark.parametrize("resumes", [False, True])
def test_every_callback_hears_of_an_epoch_in_which_one_failed(resumes, tmp_path):
    heard = []

    class Hears(Callback):
        def __init__(self, name):
            self.name = name

        def on_epoch_end(self, trainer, record):
            heard.append(f"{self.name}{record['epoch']}")
            if heard == ["a1", "b1", "c1", "a2", "b2"]:
                raise OSError("disk full")

    def fresh():
        return trainer(callbacks=[Hears(name) for name in "abc"])

    t, path = fresh(), tmp_path / "c.pt"
    with pytest.raises(OSError, match="disk full"):
        t.fit(DataLoader(data(), 40), 3, checkpoint=path)
    if resumes:
        t = fresh()
    t.fit(DataLoader(data(), 40), 3, resume=path if resumes else None)
    assert heard[5:] == ["b2", "c2", "a3", "b3", "c3"]
    assert t.epoch == 3


def test_a_callback_may_stop_training_after_an_epoch():
    class Enough(Callback):
        def on_epoch_end(self, trainer, record):
            trainer.should_stop = record["epoch"] == 2

    t = trainer(callbacks=[Enough()])
    assert t.fit(DataLoader(data(), 40), 5).epoch == 2
    assert t.fit(DataLoader(data(), 40), 5).epoch == 5


def test_what_callbacks_recorded_comes_back(tmp_path):
    path, loader = tmp_path / "c.pt", DataLoader(data(), 40)
    histories = [ProbabilityHistory(loader), ProbabilityHistory(DataLoader(data(50), 25))]
    first = trainer(callbacks=histories).fit(loader, 2, checkpoint=path)
    again = [ProbabilityHistory(loader), ProbabilityHistory(DataLoader(data(50), 25))]
    trainer(callbacks=again).fit(loader, 3, resume=path)
    assert again[0].epochs == [1, 2, 3]
    for before, after in zip(histories, again, strict=True):
        np.testing.assert_array_equal(before.probability, after.probability[:2])
    assert trainer().fit(loader, 3, resume=path).epoch == 3
    added = ProbabilityHistory(loader)
    trainer(callbacks=[*histories, added]).fit(loader, 3, resume=path)
    assert added.epochs == [3]
    assert first.epoch == 2


def test_a_run_begun_anew_logs_after_a_broken_line(tmp_path):
    (tmp_path / "log.jsonl").write_text('{"epoch": 1}\n{"epo')
    logger = JSONLinesLogger(tmp_path / "log.jsonl")
    trainer(callbacks=[logger]).fit(DataLoader(data(), 40), 1)
    logged = map(json.loads, (tmp_path / "log.jsonl").read_text().splitlines())
    assert [record["epoch"] for record in logged] == [1, 1]


@pytest.mark.parametrize("text", ['{"lr": 0.1}\n', "notes\nof mine\n", '{"epoch": 7}'])
def test_what_others_wrote_stays_in_the_log(text, tmp_path):
    log = tmp_path / "log.jsonl"
    log.write_text(text)
    trainer(callbacks=[JSONLinesLogger(log)]).fit(DataLoader(data(), 40), 1)
    *others, last = log.read_text().splitlines()
    assert others == text.splitlines()
    assert json.loads(last)["epoch"] == 1


def test_numbers_of_numpy_and_torch_are_logged(tmp_path):
    class Mine(Callback):
        def on_epoch_end(self, trainer, record):
            record |= {"a": np.float32(0.5), "b": torch.tensor(2)}

    log = tmp_path / "log.jsonl"
    trainer(callbacks=[Mine(), JSONLinesLogger(log)]).fit(DataLoader(data(), 40), 1)
    line = json.loads(log.read_text())
    assert (line["a"], line["b"]) == (0.5, 2)


def test_a_consistency_of_the_users_own_sees_full_precision():
    seen = set()

    def consistency(a, b):
        seen.add((a.dtype, b.dtype))
        return (a.softmax(1) - b.softmax(1)).square().mean()

    def signal(logits, targets):
        seen.add((logits.dtype, logits.dtype))
        return logits.softmax(1).gather(1, targets[:, None])[:, 0]

    t = trainer(autocast=torch.bfloat16, consistency=consistency, signal=signal)
    loader = DataLoader(data(), 40)
    t.fit(loader, 2).clean_probability(loader)
    assert seen == {(torch.float32, torch.float32)}


def test_a_scaler_and_a_frozen_network():
    models = pair()
    models[1].requires_grad_(False)
    scaler = torch.amp.GradScaler("cpu")
    optimizers = [adam(m) for m in models]
    before = [v.clone() for v in models[1].parameters()]
    t = CoTrainer(models, optimizers, scaler=scaler, clip_grad_norm=1.0, progress=False)
    t.fit(DataLoader(data(), 40), 2)
    for a, b in zip(before, models[1].parameters(), strict=True):
        assert torch.equal(a, b)
    fresh = pair()
    with pytest.raises(AssertionError):
        assert_same(models[:1], fresh[:1])


def test_after_an_interrupt_in_clipping_a_scaler_goes_on(monkeypatch):
    t = trainer(scaler=torch.amp.GradScaler("cpu"), clip_grad_norm=1.0)
    with monkeypatch.context() as patch:
        patch.setattr(nn.utils, "clip_grad_norm_", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            t.fit(DataLoader(data(), 40), 1)
    assert t.fit(DataLoader(data(), 40), 1).epoch == 1


def test_unsigned_labels():
    x, y = data().tensors
    loader = DataLoader(TensorDataset(x, y.to(torch.uint16)), 40)
    t = trainer().fit(loader, 2, loader)
    assert t.report(loader).given.max() == 2


def test_a_state_of_another_signal_is_refused():
    state = trainer().state_dict()
    with pytest.raises(ValueError, match=r"signal similarity, this trainer has .* signal loss"):
        trainer(signal="loss").load_state_dict(state)


class FailsAt:
    def __init__(self, loader, time):
        self.loader, self.time, self.times = loader, time, 0

    def __iter__(self):
        self.times += 1
        if self.times == self.time:
            raise OSError("a broken image")
        return iter(self.loader)


@pytest.mark.parametrize("resumes", [False, True])
def test_a_validation_that_failed_is_made_up_for(resumes, tmp_path):
    loader, path = DataLoader(data(), 40), tmp_path / "run.pt"

    def fresh():
        torch.manual_seed(0)
        models = pair()
        optimizer = adam(*models)
        plateau = ReduceLROnPlateau(optimizer, "max", 0.5, patience=0, threshold=9.0)
        logger = JSONLinesLogger(tmp_path / "log.jsonl")
        return CoTrainer(models, optimizer, plateau, progress=False, callbacks=[logger])

    expected = fresh().fit(loader, 4, loader)
    (tmp_path / "log.jsonl").unlink()
    t = fresh()
    with pytest.raises(OSError, match="a broken image"):
        t.fit(loader, 4, FailsAt(loader, 2), checkpoint=path)
    assert load_checkpoint(path)["epoch"] == t.epoch == 2
    if resumes:
        t = fresh()
    t.fit(loader, 4, loader, resume=path if resumes else None)
    assert t.history == expected.history
    logged = map(json.loads, (tmp_path / "log.jsonl").read_text().splitlines())
    assert [record["epoch"] for record in logged] == [1, 2, 3, 4]
    assert_same(t.models, expected.models)


@pytest.mark.parametrize("ending", [0, 1])
def test_told_to_stop_in_validation_or_a_callback(ending, tmp_path):
    loader, path = DataLoader(data(), 40, shuffle=True), tmp_path / "run.pt"

    class Stopping:
        def __iter__(self):
            for batch in loader:
                drawn.append(batch)
                if len(drawn) == stop:
                    t._stop_soon()
                yield batch

    def fresh():
        torch.manual_seed(0)
        return trainer(callbacks=[ProbabilityHistory(Stopping())] if ending else [])

    def fit(**paths):
        return t.fit(loader, 2, None if ending else Stopping(), **paths)

    t, drawn, stop = fresh(), [], None
    straight = fit()
    t, drawn, stop = fresh(), [], 2
    with pytest.raises(SystemExit, match="143"):
        fit(checkpoint=path)
    assert len(drawn) == 2
    assert load_checkpoint(path)["ending"] == ending
    assert t.evaluate(loader)  # as ever
    t = fresh()
    assert fit(resume=path).history == straight.history
    assert_same(t.models, straight.models)


def test_a_loaded_state_is_left_as_it_is():
    loader = DataLoader(data(), 40)
    t = trainer(callbacks=[Stop(6)])
    with pytest.raises(SystemExit):
        t.fit(loader, 2)
    so_far = t.state_dict()["epoch_so_far"]
    before = dict(so_far["samples"])
    again = trainer()
    again.load_state_dict(t.state_dict() | {"epoch_so_far": so_far})
    again.fit(loader, 2)
    assert so_far["samples"] == before


ONE = torch.tensor(1.0)


@pytest.mark.parametrize(
    "values",
    [{"loss": 0.5}, {"loss": ONE.expand(2)}, {"accuracy": ONE}, {"loss": ONE, "epoch": ONE}, None],
    ids=str,
)
def test_what_a_step_must_return(values, monkeypatch):
    t = trainer()
    monkeypatch.setattr(t, "train_step", lambda *_: values)
    with pytest.raises(TypeError, match="train_step must return scalar tensors by name"):
        t.fit(DataLoader(data(), 40), 1)


def test_an_epoch_interrupted_at_its_end_steps_no_scheduler(monkeypatch):
    def interrupted(progress):
        monkeypatch.undo()
        raise KeyboardInterrupt

    monkeypatch.setattr(EpochProgress, "means", interrupted)
    models = pair()
    optimizer = adam(*models)
    scheduler = StepLR(optimizer, 1, 0.5)
    t = CoTrainer(models, optimizer, scheduler, progress=False)
    with pytest.raises(KeyboardInterrupt):
        t.fit(DataLoader(data(), 40), 2)
    t.fit(DataLoader(data(), 40), 2)
    assert t.epoch == scheduler.last_epoch == 2


@pytest.mark.parametrize("off", [torch.inference_mode, torch.no_grad])
def test_where_gradients_are_off_no_epoch_begins(off):
    t = trainer()
    with off(), pytest.raises(RuntimeError, match=r"called outside of torch.no_grad\(\)"):
        t.fit(DataLoader(data(), 32), 1)
    assert t.fit(DataLoader(data(), 32), 1).epoch == 1


def test_lazy_models_are_trained():
    lazy = torch.nn.LazyLinear(3), torch.nn.LazyLinear(3)
    assert trainer(lazy).fit(DataLoader(data(), 32), 1).epoch == 1


def test_what_was_made_in_inference_mode_is_not_trained():
    models, batches = pair(), DataLoader(data(), 32)
    with torch.inference_mode():
        judge, others = trainer(models), pair()
        assert judge.evaluate(batches)
    for made in (judge, trainer(others)):
        with pytest.raises(RuntimeError, match="trainer be made outside of the latter"):
            made.fit(batches, 1)


def test_a_recorder_wants_the_same_labels_every_epoch():
    history = ProbabilityHistory(DataLoader(data(40), 20))
    t = trainer(callbacks=[history]).fit(DataLoader(data(), 40), 1)
    history.loader = DataLoader(data(60), 20)
    with pytest.raises(ValueError, match="the same labels every epoch, got 60 after 40"):
        t.fit(DataLoader(data(), 40), 2)
    assert history.probability.shape == (1, 40)


@pytest.mark.parametrize("given", [None, 3, {}])
def test_what_an_epoch_must_return(given, tmp_path):
    class Careless(CoTrainer):
        def train_epoch(self, loader):
            super().train_epoch(loader)
            return given

    models = pair()
    t = Careless(models, adam(*models), progress=False)
    with pytest.raises(
        TypeError, match=f"train_epoch must return a mapping with loss, got {given}"
    ):
        t.fit(DataLoader(data(), 40), 3)


def test_statistics_that_are_not_finite_are_not_saved(tmp_path):
    x, y = data(160).tensors
    x[7] = 1e25  # the loss stays finite
    loader = DataLoader(TensorDataset(x, y), 40)
    with pytest.raises(FloatingPointError, match="the running statistics of network A are not fi"):
        trainer([nn.Sequential(nn.BatchNorm1d(6), nn.Linear(6, 3)) for _ in "ab"]).fit(
            loader, 2, checkpoint=tmp_path / "c.pt"
        )
    assert not (tmp_path / "c.pt").exists()


def test_steps_that_never_call_the_weigher_are_named_when_labels_are_judged():
    class Plain(CoTrainer):
        def train_step(self, inputs, targets):
            loss = sum(nn.functional.cross_entropy(net(inputs), targets) for net in self.models)
            loss.backward()
            return {"loss": loss.detach()}

    models, loader = pair(), DataLoader(data(), 40)
    t = Plain(models, adam(*models), progress=False).fit(loader, 2)
    with pytest.raises(RuntimeError, match=r"in 2 epochs no step has called self.weigher"):
        t.report(loader)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int8, torch.uint8])
def test_a_loss_of_ones_own_is_given_labels_that_torch_takes(dtype):
    x, y = data().tensors

    def smoothed(a, b, targets, weights_a, weights_b):
        return nn.functional.cross_entropy(a + b, targets, label_smoothing=0.1)

    loader = DataLoader(TensorDataset(x, y.to(dtype)), 40)
    assert trainer(cross_weighted=smoothed).fit(loader, 1).epoch == 1


def test_an_optimizer_whose_zero_grad_takes_nothing():
    class Own(torch.optim.SGD):
        def zero_grad(self):
            super().zero_grad()

    models = pair()
    own = Own([p for model in models for p in model.parameters()], lr=0.1)
    assert CoTrainer(models, own, progress=False).fit(DataLoader(data(), 40), 1).epoch == 1
