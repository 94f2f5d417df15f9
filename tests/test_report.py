import copy
import csv
import json
import time
from unittest.mock import Mock

import numpy as np
import pytest
import small
import torch
from sklearn.neighbors import KNeighborsClassifier
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from resup import CoTrainer, LabelReport, q_values
from resup.callbacks import Callback, JSONLinesLogger, ProbabilityHistory, TensorBoardLogger


@pytest.fixture(scope="module")
def run():
    """Train on labels of which 30 % are wrong; also which are right, and the true ones."""
    torch.manual_seed(0)
    x = torch.randn(600, 6)
    true = x[:, :3].argmax(1)
    right = torch.rand(600) > 0.3
    given = torch.where(right, true, (true + 1) % 3)
    nets = nn.Linear(6, 3), nn.Linear(6, 3)
    optimizer = torch.optim.Adam([p for n in nets for p in n.parameters()], 3e-2)
    data = TensorDataset(x, given)
    trainer = CoTrainer(nets, optimizer, progress=False)
    trainer.fit(DataLoader(data, 30, shuffle=True), 5)
    return trainer, DataLoader(data, 64), right.numpy(), true.numpy()


def test_q_values_are_running_means_of_the_sorted_probabilities():
    p = np.random.default_rng(0).random(50)
    order = np.argsort(p)
    expected = [p[order[: k + 1]].mean() for k in range(50)]
    np.testing.assert_allclose(q_values(p, caution=1, hidden=0)[order], expected)
    np.testing.assert_allclose(q_values(torch.tensor(p)), q_values(p))


def test_ties_share_a_q_value_and_order_does_not_matter():
    q = q_values([0.4, 0.0, 0.4, 1.0], caution=1, hidden=0)
    np.testing.assert_allclose(q, [0.8 / 3, 0, 0.8 / 3, 1.8 / 4])
    assert q_values([]).shape == (0,)


def test_caution_multiplies_the_odds_that_a_label_is_right():
    q = q_values([1 / 3, 1.0, 0.0], caution=2, hidden=0)
    np.testing.assert_allclose(q, [1 / 4, 1 / 2, 0])


@pytest.mark.parametrize("noise", [0.05, 0.2, 0.5])
def test_right_labels_that_look_wrong_are_counted(noise):
    wrong, hidden = noise * 1000, 0.04 * (1 - noise) * 1000
    seen = np.r_[np.zeros(round(wrong + hidden)), np.ones(1000 - round(wrong + hidden))]
    q = q_values(seen, caution=1, hidden=0.04)
    assert q[0] == pytest.approx(hidden / (wrong + hidden), rel=1e-2)
    assert (q_values(np.ones(5)) == 1).all()  # nothing is suspect


def test_calibrated_probabilities_keep_the_stated_rate(rng):
    p = rng.beta(0.5, 0.5, 100_000)
    right = rng.random(100_000) < p
    plain, cautious = q_values(p, caution=1, hidden=0), q_values(p)
    for stated in (0.01, 0.05, 0.2, 0.4):
        assert right[plain <= stated].mean() == pytest.approx(stated, abs=0.01)
        listed = right[cautious <= stated]
        assert listed.sum() <= stated * len(listed)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([0.5, np.nan], "clean_probability must not contain NaN"),
        ([2.0], r"clean_probability must lie"),
    ],
)
def test_bad_probabilities(values, message):
    with pytest.raises(ValueError, match=message):
        q_values(values)


@pytest.mark.parametrize("name", ["caution", "hidden"])
@pytest.mark.parametrize("value", [-1, np.nan, np.inf, "1"])
def test_bad_parameters_of_q_values_are_named(name, value):
    with pytest.raises(ValueError, match=f"{name} must"):
        q_values([0.5], **{name: value})


def test_the_most_suspicious_labels_come_first(run):
    trainer, loader, right, true = run
    report = trainer.report(loader)
    assert (np.diff(report.clean_probability) >= 0).all()
    assert sorted(report.index) == list(range(600))
    np.testing.assert_allclose(
        report.clean_probability, trainer.clean_probability(loader).numpy()[report.index], rtol=1e-6
    )
    np.testing.assert_array_equal(report.given, loader.dataset.tensors[1].numpy()[report.index])
    assert right[report.index[:100]].mean() < 0.1
    assert (report.suggested == true[report.index])[:100].mean() > 0.9
    assert report.agree.mean() > 0.9
    assert report.noise_rate == pytest.approx(0.3, abs=0.15)
    assert set(report.noise_rate_by_class()) == {0, 1, 2}
    assert report.noise_rate_by_class(least=1000) == {}


def test_the_suggested_label_is_that_of_both_networks(run):
    trainer, loader = copy.deepcopy(run[0]), run[1]
    with torch.no_grad():
        for model in trainer.models:  # they agree too often
            model.weight.normal_()
        a, b = (model(loader.dataset.tensors[0]).softmax(1) for model in trainer.models)
    suggested = torch.from_numpy(trainer.report(loader).in_order()["suggested"])
    assert torch.equal(suggested, (a + b).argmax(1))
    for alone in (a, b):
        assert not torch.equal(suggested, alone.argmax(1))


def test_suspects_are_a_head_of_the_list(run):
    report = run[0].report(run[1])
    few, many = report.suspects(0.1), report.suspects(0.3)
    np.testing.assert_array_equal(few, report.index[: len(few)])
    assert 0 < len(few) < len(many) < 600


def test_tables_in_files(run, tmp_path):
    report = run[0].report(run[1])
    report.to_csv(tmp_path / "report.csv")
    report.to_npz(tmp_path / "report.npz")
    with open(tmp_path / "report.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == list(vars(report))
    assert [int(row["index"]) for row in rows] == report.index.tolist()
    with np.load(tmp_path / "report.npz") as archive:
        for name, column in vars(report).items():
            np.testing.assert_array_equal(archive[name], column)


def test_report_refuses_what_clean_probability_refuses(run):
    with pytest.raises(ValueError, match="loader shuffles"):
        run[0].report(DataLoader(run[1].dataset, 64, shuffle=True))
    with pytest.raises(ValueError, match="gave no batch"):
        run[0].report([])


def test_a_sample_with_nan_is_named_and_counts_as_wrong(run):
    trainer, loader, _, _ = run
    x, given = (tensor.clone() for tensor in loader.dataset.tensors)
    x[3] = torch.nan
    broken = DataLoader(TensorDataset(x, given), 64)
    for judge in (trainer.clean_probability, trainer.report):
        with pytest.raises(ValueError, match=r"NaN for 1 of the loader's samples, .* sample 3;"):
            judge(broken)
    right = trainer.models[0](x).argmax(1) == given
    assert trainer.evaluate(broken)["accuracy_a"] == pytest.approx(
        right[torch.arange(600) != 3].sum().item() / 600
    )


def test_report_by_another_probability(run):
    trainer, loader, *_ = run
    probability = torch.linspace(1, 0, 600, dtype=torch.float64)
    report = trainer.report(loader, probability)
    assert report.index.tolist() == list(range(599, -1, -1))
    np.testing.assert_array_equal(report.clean_probability, probability.flip(0))
    np.testing.assert_array_equal(report.q_value, q_values(probability.flip(0)))
    np.testing.assert_array_equal(
        np.sort(report.clean_probability_a), np.sort(trainer.report(loader).clean_probability_a)
    )
    with pytest.raises(ValueError, match=r"probability must have shape \(600,\), got \(3,\)"):
        trainer.report(loader, [0.1, 0.2, 0.3])


def test_report_from_columns():
    report = LabelReport.ranked([2, 1], [0, 1], [True, False], [0.1, 0.9], [0.3, 0.7])
    assert report.index.tolist() == [0, 1]
    np.testing.assert_allclose(report.q_value, q_values([0.2, 0.8]))


def test_columns_in_the_order_of_the_loader(run):
    trainer, loader, *_ = run
    columns = trainer.report(loader).in_order()
    assert list(columns) == list(vars(trainer.report(loader)))
    np.testing.assert_array_equal(columns["index"], np.arange(600))
    np.testing.assert_array_equal(columns["given"], loader.dataset.tensors[1])
    np.testing.assert_allclose(columns["clean_probability"], trainer.clean_probability(loader))


def test_the_report_takes_a_hidden_share_of_its_own(run):
    trainer, loader, *_ = run
    report = trainer.report(loader, hidden=0.001)
    expected = q_values(report.clean_probability, hidden=0.001)
    np.testing.assert_array_equal(report.q_value, expected)
    assert (report.q_value <= trainer.report(loader).q_value).all()
    for option in ("caution", "hidden"):
        with pytest.raises(ValueError, match=f"{option} must .*, got False"):
            q_values([0.5], **{option: False})
    with pytest.raises(ValueError, match=r"hidden must lie in \[0, 1\), got 2"):
        trainer.report(loader, hidden=2)


def test_the_report_as_the_label_issues_of_cleanlab(run):
    """As in the docs: a classifier trained without the suspects beats one trained on all."""
    pandas = pytest.importorskip("pandas")
    classification = pytest.importorskip("cleanlab.classification")
    from cleanlab import rank

    trainer, loader, right, true = run
    report = trainer.report(loader)
    frame = pandas.DataFrame(report.in_order())
    issues = pandas.DataFrame(
        {
            "is_label_issue": frame["q_value"] <= 0.1,
            "label_quality": frame["clean_probability"],
            "given_label": frame["given"],
            "predicted_label": frame["suggested"],
        }
    )
    x, given = (column.numpy() for column in loader.dataset.tensors)
    np.testing.assert_array_equal(issues["given_label"], given)
    assert right[issues["is_label_issue"]].mean() < 0.1

    cleaned = classification.CleanLearning(KNeighborsClassifier())
    cleaned.fit(x, given, label_issues=issues)
    kept = cleaned.get_label_issues()
    np.testing.assert_array_equal(kept["label_quality"], frame["clean_probability"])
    plain = KNeighborsClassifier().fit(x, given)
    assert cleaned.score(x, true) > plain.score(x, true) + 0.03

    worst = rank.find_top_issues(frame["clean_probability"].to_numpy(), top=20)
    np.testing.assert_array_equal(np.sort(worst), np.sort(report.index[:20]))


class Counter(Callback):
    def __init__(self):
        self.calls = []

    def on_fit_start(self, trainer):
        self.calls.append("start")

    def on_step_end(self, trainer, values):
        self.calls.append("step")
        assert values["loss"].ndim == 0

    def on_epoch_end(self, trainer, record):
        self.calls.append(f"epoch {record['epoch']}")
        assert record is trainer.history[-1]

    def on_fit_end(self, trainer):
        self.calls.append("end")


def short_run(callbacks, x=None):
    x = torch.randn(40, 4) if x is None else x
    nets = nn.Linear(4, 2), nn.Linear(4, 2)
    optimizer = torch.optim.SGD([p for n in nets for p in n.parameters()], 1)
    trainer = CoTrainer(nets, optimizer, callbacks=callbacks, progress=False)
    return trainer.fit(DataLoader(TensorDataset(x, (x[:, 0] > 0).long()), 20), 2)


def test_callbacks_are_told_in_order():
    counter = Counter()
    short_run([counter])
    assert counter.calls == ["start", "step", "step", "epoch 1", "step", "step", "epoch 2", "end"]


def test_callbacks_are_told_of_the_end_after_an_error():
    counter = Counter()
    with pytest.raises(FloatingPointError):
        short_run([counter], torch.full((40, 4), torch.nan))
    assert counter.calls == ["start", "end"]


def test_json_lines(tmp_path):
    path = tmp_path / "logs" / "run.jsonl"
    start = time.perf_counter()
    trainer = short_run([JSONLinesLogger(path)])
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    seconds = [line.pop("seconds") for line in lines]
    assert min(seconds) >= 0
    assert sum(seconds) <= time.perf_counter() - start + 0.01  # they are rounded
    assert lines == trainer.history


def test_lines_of_epochs_that_come_again_are_dropped(tmp_path):
    path = tmp_path / "run.jsonl"
    t = small.trainer(callbacks=[JSONLinesLogger(path)])
    batches = DataLoader(small.data(), 40)
    t.fit(batches, 2)
    state = t.state_dict()
    t.fit(batches, 4)
    with path.open("a") as file:
        file.write('{"epoch": 5, "lo')  # cut off by the death of the machine
    t.load_state_dict(state)
    t.fit(batches, 3)
    assert [json.loads(line)["epoch"] for line in path.read_text().splitlines()] == [1, 2, 3]
    path.write_text('{"epoch": 4}\n')  # none is left
    t.load_state_dict(state)
    t.fit(batches, 3)
    assert [json.loads(line)["epoch"] for line in path.read_text().splitlines()] == [3]


def test_reports_can_be_compared_and_hashed(run):
    report = run[0].report(run[1])
    assert report == report
    assert len({report, run[0].report(run[1])}) == 2


def test_tensorboard(tmp_path):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    history = short_run([TensorBoardLogger(tmp_path)]).history
    assert list(tmp_path.glob("events.*"))
    written = events.EventAccumulator(str(tmp_path)).Reload()
    for key in history[-1]:
        values = {event.step: event.value for event in written.Scalars(key)}
        expected = {record["epoch"]: record[key] for record in history if key in record}
        assert values == pytest.approx(expected, rel=1e-6)


def test_tensorboard_is_given_numbers_only(tmp_path):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")

    class Notes(Callback):
        def on_epoch_end(self, trainer, record):
            record |= {"note": "best", "none": None, "two": torch.ones(2), "list": [1.0]}
            record |= {"text": np.array("best"), "complex": torch.tensor(1j)}
            record |= {"one": torch.ones(1), "half": np.float32(0.5), "yes": True}

    t = short_run([Notes(), TensorBoardLogger(tmp_path)])
    written = events.EventAccumulator(str(tmp_path)).Reload()
    others = {"note", "none", "two", "list", "text", "complex"}
    assert set(written.Tags()["scalars"]) == set(t.history[-1]) - others
    assert [written.Scalars(key)[-1].value for key in ("one", "half", "yes")] == [1, 0.5, 1]


def test_probabilities_of_other_labels_each_epoch():
    x = torch.randn(100, 4)
    y = (x[:, 0] > 0).long()
    shrinking = [[(x, y)], [(x[:90], y[:90])]]

    class Changes:
        def __iter__(self):
            return iter(shrinking.pop(0))

    with pytest.raises(ValueError, match=r"loader must give the same labels .* got 90 after 100"):
        short_run([ProbabilityHistory(Changes())])


def test_probabilities_over_the_epochs():
    x = torch.randn(100, 4)
    loader = DataLoader(TensorDataset(x, (x[:, 0] > 0).long()), 30)
    history = ProbabilityHistory(loader)
    seen = []

    class Look(Callback):
        def on_epoch_end(self, trainer, record):
            seen.append(trainer.clean_probability(loader))

    assert history.probability.shape == (0, 0)
    short_run([history, Look()], x)
    assert history.epochs == [1, 2]
    assert history.probability.dtype == np.float32
    np.testing.assert_array_equal(history.probability, torch.stack(seen).numpy())


def test_epochs_that_come_again_are_recorded_once():
    x = torch.randn(100, 4)
    loader = DataLoader(TensorDataset(x, (x[:, 0] > 0).long()), 30)
    history = ProbabilityHistory(loader)
    trainer = short_run([history], x)
    first = copy.deepcopy(trainer.state_dict())
    trainer.fit(loader, 4)
    trainer.load_state_dict(first)
    trainer.fit(loader, 3)
    assert history.epochs == [1, 2, 3]
    assert len(history.probability) == 3
    short_run([history], x)  # another trainer, which begins anew
    assert history.epochs == [1, 2]
    assert len(history.probability) == 2


def test_an_epoch_whose_record_was_interrupted_is_recorded_later(monkeypatch):
    x = torch.randn(100, 4)
    loader = DataLoader(TensorDataset(x, (x[:, 0] > 0).long()), 30)
    history = ProbabilityHistory(loader)
    trainer = short_run([history], x)
    monkeypatch.setattr(trainer, "clean_probability", Mock(side_effect=KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        trainer.fit(loader, 3)
    monkeypatch.undo()
    missing = trainer.clean_probability(loader)
    trainer.fit(loader, 4)
    assert history.epochs == [1, 2, 3, 4]
    np.testing.assert_array_equal(history.probability[2], missing)


def test_an_epoch_whose_validation_failed_is_recorded_once():
    class Lost:
        def __iter__(self):
            raise OSError("lost")

    x = torch.randn(100, 4)
    loader = DataLoader(TensorDataset(x, (x[:, 0] > 0).long()), 30)
    history = ProbabilityHistory(loader)
    trainer = short_run([history], x)
    with pytest.raises(OSError, match="lost"):
        trainer.fit(loader, 3, Lost())
    trainer.fit(loader, 4, loader)
    assert history.epochs == [1, 2, 3, 4]


def test_recording_probabilities_leaves_training_alone():
    def weights(record):
        torch.manual_seed(3)
        x = torch.randn(100, 4)
        data = TensorDataset(x, (x[:, 0] > 0).long())
        nets = nn.Sequential(nn.Dropout(0.3), nn.Linear(4, 2)), nn.Linear(4, 2)
        optimizer = torch.optim.SGD([p for n in nets for p in n.parameters()], 0.1)
        callbacks = [ProbabilityHistory(DataLoader(data, 30))] if record else []
        trainer = CoTrainer(nets, optimizer, callbacks=callbacks, warmup_epochs=2, progress=False)
        trainer.fit(DataLoader(data, 20, shuffle=True), 4)
        if record:
            assert callbacks[0].epochs == [2, 3, 4]
        return [p.tolist() for n in nets for p in n.parameters()], trainer.history

    assert weights(True) == weights(False)


def test_a_shuffling_loader_is_refused_by_the_recorder():
    x = torch.randn(100, 4)
    shuffled = DataLoader(TensorDataset(x, (x[:, 0] > 0).long()), 30, shuffle=True)
    with pytest.raises(ValueError, match="loader shuffles"):
        ProbabilityHistory(shuffled).on_fit_start(None)  # not only once there is a mixture


@pytest.mark.parametrize("rate", [10, -0.1, np.nan])
def test_a_rate_that_is_no_share(rate):
    report = LabelReport.ranked([0], [1], [True], [0.1], [0.2])
    with pytest.raises(
        ValueError, match=r"discovery_rate must be a finite number in \[0, 1\], got"
    ):
        report.suspects(rate)


@pytest.mark.parametrize("name", ["given", "suggested", "agree"])
def test_columns_of_another_length(name):
    columns = {"given": [0, 1], "suggested": [1, 1], "agree": [True, False]}
    columns[name] = columns[name] + columns[name][:1]
    with pytest.raises(ValueError, match=rf"{name} must have shape \(2,\), got \(3,\)"):
        LabelReport.ranked(**columns, clean_a=[0.1, 0.2], clean_b=[0.3, 0.1])


def report_of(noise, n=1000):
    clean = (np.arange(n) >= noise * n).astype(float)
    return LabelReport.ranked(np.zeros(n), np.ones(n), np.ones(n), clean, clean)


@pytest.mark.parametrize(("rate", "least"), [(0.05, 0.2335), (0.10, 0.1322), (0.20, 0.0708)])
def test_the_noise_rate_from_which_on_suspects_can_be_listed(rate, least):
    """As `suspects` and `q_values` state it."""
    assert len(report_of(least + 0.002).suspects(rate)) > 0
    with pytest.warns(UserWarning, match="no label can be listed"):
        assert len(report_of(least - 0.002).suspects(rate)) == 0


def test_an_empty_list_is_not_taken_for_no_wrong_labels():
    with pytest.warns(UserWarning, match=r"at a .* of 0.1: the noise rate is 0.050") as caught:
        report_of(0.05).suspects(0.1)
    assert "smallest q-value 0.289; `report.index` ranks all" in str(caught[0].message)
    assert caught[0].filename == __file__
    nearly_right = np.full((2, 100), 0.995)  # less than one wrong label: nothing to say
    for report in (LabelReport.ranked(*np.zeros((3, 100)), *nearly_right), report_of(0, n=0)):
        assert len(report.suspects(0.1)) == 0


def test_a_report_prints_its_head():
    report = LabelReport.ranked([2, 1], [0, 1], [True, False], [0.1, 0.9], [0.3, 0.7])
    assert repr(report).splitlines() == [
        "LabelReport of 2 labels, noise rate 0.500",
        "index  given  suggested  clean_probability  q_value",
        "    0      2          0                0.2    0.287",
        "    1      1          1                0.8    0.574",
    ]
    assert len(report) == 2
    assert len(repr(report_of(0.3)).splitlines()) == 7
    assert repr(report_of(0, n=0)).startswith("LabelReport of 0 labels\n")


def test_columns_that_are_no_probabilities():
    columns = {"given": [0, 1], "suggested": [1, 1], "agree": [True, False]}
    with pytest.raises(ValueError, match=r"clean_b must lie in \[0, 1\], got values from -0.1"):
        LabelReport.ranked(**columns, clean_a=[0.1, 0.2], clean_b=[0.3, -0.1])
    with pytest.raises(ValueError, match=r"given must be integers, got 1\.5"):
        LabelReport.ranked([1, 1.5], [0, 1], [True, True], [0.5, 0.5], [0.5, 0.5])
    with pytest.raises(ValueError, match=r"clean_b must have shape \(2,\), got \(3,\)"):
        LabelReport.ranked(**columns, clean_a=[0.1, 0.2], clean_b=[0.3, 0.1, 0.2])
    with pytest.raises(ValueError, match=r"ties must have shape \(2,\), got \(3,\)"):
        LabelReport.ranked(**columns, clean_a=[0.1, 0.2], clean_b=[0.3, 0.1], ties=[1, 2, 3])
    with pytest.raises(ValueError, match="agree must be real numbers, got dtype <U3"):
        LabelReport.ranked([0, 1], [0, 1], ["yes", "no"], [0.5, 0.5], [0.5, 0.5])
    with pytest.raises(ValueError, match="given must not be masked; leave out masked samples"):
        LabelReport.ranked(np.ma.masked_array([0, 1], [0, 1]), [0, 1], [1, 1], [0.5] * 2, [0.5] * 2)
    with pytest.raises(ValueError, match="least must be a finite number of at least 0, got 'x'"):
        report_of(0.3).noise_rate_by_class("x")
    half = torch.tensor([0.5, 0.25], dtype=torch.bfloat16, requires_grad=True)
    report = LabelReport.ranked(*map(torch.tensor, columns.values()), half, half)
    assert report.index.tolist() == [1, 0]


class StopAtOnce(Callback):
    def on_fit_start(self, trainer):
        trainer.should_stop = True


def test_a_callback_may_stop_before_the_first_epoch():
    assert short_run([StopAtOnce()]).epoch == 0
