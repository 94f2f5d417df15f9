import copy
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
import zipfile
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoint_worker import EPOCHS, make, outcome
from small import data, trainer
from torch.utils.data import DataLoader, Dataset

from resup import BetaMixture, ConsistencyLoss, CoTrainer, DecoyMixture, SymmetricKLLoss
from resup.callbacks import Callback, JSONLinesLogger
from resup.checkpoint import load_checkpoint, save_checkpoint
from resup.losses import consistency_loss

WORKER = str(Path(__file__).with_name("checkpoint_worker.py"))


@pytest.fixture(scope="module")
def undisturbed():
    trainer, loader = make()
    return outcome(trainer.fit(loader, EPOCHS))


def test_resuming_is_exact(tmp_path, undisturbed):
    path = tmp_path / "run" / "checkpoint.pt"
    for stop in (1, 2, 5, EPOCHS):
        trainer, loader = make()
        trainer.fit(loader, stop, checkpoint=path, resume=path)
    assert outcome(trainer) == undisturbed
    assert [p.name for p in path.parent.iterdir()] == ["checkpoint.pt"]


class RampUp(ConsistencyLoss):
    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, logits_a, logits_b):
        self.calls += 1
        return super().forward(logits_a, logits_b) * (self.calls / 40).clamp(max=1)


class Draws(Callback):
    def on_fit_start(self, trainer):
        torch.rand(3)


def test_losses_with_a_state_and_draws_of_callbacks_resume_exactly(tmp_path):
    samples = data()

    def run(epochs, **paths):
        t = trainer(consistency=RampUp(), callbacks=[Draws()])
        return t.fit(DataLoader(samples, 20, shuffle=True), epochs, **paths).history

    torch.manual_seed(0)
    straight = run(4)
    torch.manual_seed(0)
    run(2, checkpoint=tmp_path / "c.pt")
    assert run(4, resume=tmp_path / "c.pt") == straight


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's own compiler
def test_a_compiled_loss_is_saved_as_itself():
    loss, other = RampUp(), RampUp()
    loss.calls += 7
    trainer(consistency=other).load_state_dict(
        trainer(consistency=torch.compile(loss)).state_dict()
    )
    assert other.calls == 7


def run_until(out, checkpoint, steps, with_signal, workers=0):
    """Start the run and send it and its workers a signal after so many steps; its exit code."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, WORKER, str(checkpoint), str(out), str(workers)],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    )
    with process, process.stdout:
        for _ in range(steps):
            if not process.stdout.readline():
                break
        else:
            os.killpg(process.pid, with_signal)
        process.stdout.read()  # a step that is in hand may still speak
    return process.returncode


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="has no SIGKILL")
def test_killed_again_and_again(tmp_path, undisturbed):
    out, checkpoint = tmp_path / "out.pt", tmp_path / "checkpoint.pt"
    chance = random.Random(0)
    kills = 0
    while not out.exists():
        kills += run_until(out, checkpoint, chance.randint(16, 40), signal.SIGKILL) != 0
        assert kills < 20
    assert kills >= 2
    assert torch.load(out, weights_only=True) == undisturbed


KILLED = """
import os, resource, signal, sys
from resup import checkpoint
state = checkpoint.load_checkpoint(sys.argv[1]) | {"epoch": 2}
point = sys.argv[2]
if point.isdigit():  # a write beyond so many bytes is done in part; the next one kills
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(point),) * 2)
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
else:
    setattr(os, point, lambda *given: os.kill(os.getpid(), signal.SIGKILL))
checkpoint.save_checkpoint(state, sys.argv[1])
"""


@pytest.mark.skipif(sys.platform == "win32", reason="has no SIGKILL")
@pytest.mark.parametrize("point", [0, 9000, "fsync", "replace"])
def test_killed_while_it_writes(saved, point):
    trainer, loader, path = saved
    good = path.read_bytes()
    assert len(good) > 9000
    code = subprocess.run([sys.executable, "-c", KILLED, str(path), str(point)]).returncode
    assert code == -(signal.SIGKILL if isinstance(point, str) else signal.SIGXFSZ)
    assert path.read_bytes() == good
    assert load_checkpoint(path)["epoch"] == 1
    assert trainer.fit(loader, 2, checkpoint=path, resume=path).epoch == 2
    assert os.listdir(path.parent) == ["checkpoint.pt"]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="has no SIGTERM")
@pytest.mark.parametrize("workers", [0, 1])
def test_told_to_stop_in_the_middle_of_an_epoch(tmp_path, workers):
    trainer, loader = make(num_workers=workers)
    undisturbed = outcome(trainer.fit(loader, EPOCHS))
    out, checkpoint = tmp_path / "out.pt", tmp_path / "checkpoint.pt"
    assert run_until(out, checkpoint, 20, signal.SIGTERM, workers) == 128 + signal.SIGTERM
    state = load_checkpoint(checkpoint)
    assert state["epoch"] == 1
    assert state["epoch_so_far"]["steps"] > 0
    assert run_until(out, checkpoint, 10_000, signal.SIGTERM, workers) == 0
    assert torch.load(out, weights_only=True) == undisturbed


@pytest.mark.skipif(sys.platform == "win32", reason="has no SIGCHLD")
@pytest.mark.parametrize("stopped", [False, True])
def test_signals_are_handled_as_before_once_training_ends(stopped, tmp_path):
    class Stops(Callback):
        def on_step_end(self, trainer, values):
            signal.raise_signal(signal.SIGTERM)

    def own(*_):
        raise AssertionError("called")

    numbers = signal.SIGTERM, signal.SIGCHLD
    t = trainer(callbacks=[Stops()] if stopped else [])
    before = [signal.signal(number, own) for number in numbers]
    try:
        with pytest.raises(SystemExit) if stopped else nullcontext():
            t.fit(DataLoader(data(), 40), 1, checkpoint=tmp_path / "c.pt")
        assert [signal.getsignal(number) for number in numbers] == [own, own]
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def test_nothing_to_resume_from(tmp_path):
    trainer, loader = make()
    with pytest.raises(FileNotFoundError):
        trainer.fit(loader, 1, resume=tmp_path / "none.pt")


@pytest.fixture
def saved(tmp_path):
    """A trainer after its first epoch, its loader, and its checkpoint, alone in a folder."""
    path = tmp_path / "checkpoint.pt"
    trainer, loader = make()
    trainer.fit(loader, 1, checkpoint=path)
    return trainer, loader, path


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_a_truncated_file(saved, share):
    trainer, loader, path = saved
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(
        ValueError, match=r"checkpoint\.pt is damaged or not a checkpoint of CoTrainer"
    ):
        trainer.fit(loader, 2, resume=path)


@pytest.mark.parametrize("size", [0, 1, 2, 1000])
def test_a_file_that_was_cut_off_is_called_so(saved, size):
    _, _, path = saved
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ValueError, match=f"CoTrainer: its {size} bytes are no whole archive"):
        load_checkpoint(path)


def test_torchs_advice_to_trust_a_file_is_not_repeated(tmp_path):
    path = tmp_path / "c.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("c/data.pkl", "x")
        archive.writestr("c/version", "3")
    with pytest.raises(ValueError, match=r"c\.pt is damaged .*: Unsupported operand 120$"):
        load_checkpoint(path)


def test_a_damaged_weight(saved):
    trainer, loader, path = saved
    weights = trainer.models[0][0].weight.detach().numpy().tobytes()
    whole = path.read_bytes()
    assert weights in whole
    path.write_bytes(whole.replace(weights, weights[:-1] + bytes([weights[-1] ^ 1])))
    with pytest.raises(ValueError, match=r"checkpoint\.pt is damaged .* is not as it was written"):
        trainer.fit(loader, 2, resume=path)


def test_the_scale_of_float16_goes_on(tmp_path):
    path, loader = tmp_path / "c.pt", DataLoader(data(), 40)
    scales = [torch.amp.GradScaler("cpu", init_scale=scale) for scale in (1024.0, 8.0)]
    for epochs, scaler in enumerate(scales, 1):
        trainer(scaler=scaler).fit(loader, epochs, checkpoint=path, resume=path)
        assert scaler.get_scale() == 1024
    without = load_checkpoint(path)
    del without["scaler"]
    with pytest.raises(ValueError, match="state lacks scaler"):
        trainer(scaler=scales[0]).load_state_dict(without)


@pytest.mark.skipif(
    not hasattr(torch.serialization, "set_crc32_options"), reason="torch writes them always"
)
def test_a_file_without_checksums(tmp_path):
    torch.serialization.set_crc32_options(False)
    try:
        save_checkpoint({"weight": torch.ones(100)}, tmp_path / "c.pt")
    finally:
        torch.serialization.set_crc32_options(True)
    assert load_checkpoint(tmp_path / "c.pt")["weight"].sum() == 100


@pytest.mark.skipif(sys.platform == "win32", reason="has no pipes of the kind")
def test_a_path_that_can_be_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    trainer, loader = make()
    with pytest.raises(ValueError, match=r"checkpoint must be a regular file, got .*pipe"):
        trainer.fit(loader, 1, checkpoint=tmp_path / "pipe")


@pytest.mark.skipif(sys.platform == "win32", reason="has no limits")
@pytest.mark.parametrize("size", [1000, 9000])
def test_a_full_disk_is_named(saved, size):
    trainer, loader, path = saved
    code = """
import resource, sys
from resup.checkpoint import load_checkpoint, save_checkpoint
state = load_checkpoint(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)
save_checkpoint(state, sys.argv[1])
"""
    command = [sys.executable, "-c", code, str(path), str(size)]
    error = subprocess.run(command, capture_output=True, text=True).stderr
    assert error.splitlines()[-1] == f"OSError: [Errno 27] File too large: '{path}'"
    assert trainer.fit(loader, 2, resume=path).epoch == 2


def test_the_folder_may_change(tmp_path, monkeypatch):
    class Elsewhere(Callback):
        def on_epoch_end(self, trainer, record):
            monkeypatch.chdir(tmp_path)

    (tmp_path / "run").mkdir()
    monkeypatch.chdir(tmp_path / "run")
    t = trainer(callbacks=[Elsewhere(), JSONLinesLogger("log.jsonl")])
    t.fit(DataLoader(data(), 40), 2, checkpoint="c.pt")
    assert load_checkpoint(tmp_path / "run" / "c.pt")["epoch"] == t.epoch
    assert len((tmp_path / "run" / "log.jsonl").read_text().splitlines()) == t.epoch


def test_another_global_generator_of_numpy_resumes(tmp_path):
    class Noisy(Dataset):
        samples = data()

        def __len__(self):
            return len(self.samples)

        def __getitem__(self, i):
            x, y = self.samples[i]
            return x + np.random.normal(), y  # noqa: NPY002

    def run(epochs, **paths):
        torch.manual_seed(0)
        return trainer().fit(DataLoader(Noisy(), 40), epochs, **paths)

    default = np.random.get_bit_generator()
    try:
        np.random.set_bit_generator(np.random.PCG64(0))
        run(2, checkpoint=tmp_path / "c.pt")
        later = run(3, resume=tmp_path / "c.pt")
        np.random.set_bit_generator(np.random.PCG64(0))
        assert run(3).history == later.history
    finally:
        np.random.set_bit_generator(default)
    assert run(3, resume=tmp_path / "c.pt").epoch == 3


@pytest.mark.skipif(sys.platform == "win32", reason="does not fork")
def test_a_process_forked_in_training_ends_by_sigterm(tmp_path):
    codes = []

    class Forks(Callback):
        def on_epoch_end(self, trainer, record):
            fork = multiprocessing.get_context("fork")
            runs = fork.Event()  # Python itself drops a signal that comes before a fork is complete
            process = fork.Process(target=lambda: (runs.set(), time.sleep(60)))
            process.start()
            runs.wait()
            process.terminate()
            process.join()
            codes.append(process.exitcode)

    trainer(callbacks=[Forks()]).fit(DataLoader(data(), 40), 1, checkpoint=tmp_path / "c.pt")
    assert codes == [-signal.SIGTERM]


def test_what_is_no_path_and_no_state():
    trainer, loader = make()
    for name in ("checkpoint", "resume"):
        with pytest.raises(TypeError, match=f"{name} must be a path, got True"):
            trainer.fit(loader, 1, **{name: True})
    with pytest.raises(TypeError, match=r"state must be a mapping, got 'run.pt'; .* reads a file"):
        trainer.load_state_dict("run.pt")


def test_foreign_files(tmp_path):
    trainer, loader = make()
    torch.save({"model": torch.zeros(3)}, tmp_path / "foreign.pt")
    with pytest.raises(ValueError, match=r"foreign\.pt is not a checkpoint of CoTrainer"):
        trainer.fit(loader, 1, resume=tmp_path / "foreign.pt")
    (tmp_path / "text.pt").write_text("hello")
    with pytest.raises(ValueError, match=r"text\.pt is damaged or not a checkpoint"):
        trainer.fit(loader, 1, resume=tmp_path / "text.pt")
    torch.save(Path("code"), tmp_path / "code.pt")
    with pytest.raises(ValueError, match=r"code\.pt is damaged or not a checkpoint"):
        trainer.fit(loader, 1, resume=tmp_path / "code.pt")


@pytest.mark.parametrize("version", [0, 99])
def test_another_format_version(tmp_path, version):
    trainer, loader = make()
    save_checkpoint(trainer.state_dict() | {"format_version": version}, tmp_path / "other.pt")
    with pytest.raises(
        ValueError, match=f"format_version {version}, this version of resup reads 13"
    ):
        trainer.fit(loader, 1, resume=tmp_path / "other.pt")


def test_a_failed_write_keeps_the_last_checkpoint(saved, monkeypatch):
    trainer, loader, path = saved
    good = path.read_bytes()

    def full(*_):
        raise OSError("no space left")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="no space left"):
        trainer.fit(loader, 2, checkpoint=path)
    assert path.read_bytes() == good
    assert os.listdir(path.parent) == ["checkpoint.pt"]


class Score(Callback):
    def __init__(self, score):
        self.score = score

    def on_epoch_end(self, trainer, record):
        record["score"] = self.score


def test_numbers_of_numpy_come_back_as_numbers(tmp_path):
    path = tmp_path / "checkpoint.pt"
    trainer, loader = make([Score(np.float64(0.5))])
    stepped = torch.optim.lr_scheduler
    trainer.schedulers = [
        stepped.LambdaLR(trainer.optimizers[0], lambda epoch: np.cos(0.1 * epoch)),
        stepped.MultiStepLR(trainer.optimizers[0], np.array([5, 9])),
    ]
    trainer.fit(loader, 1, checkpoint=path)
    state = load_checkpoint(path)
    assert state["history"][0]["score"] == 0.5
    assert state["scheduler_0"]["_last_lr"] == pytest.approx([1e-2 * np.cos(0.1)])


def test_what_could_not_be_read_is_not_written(saved):
    trainer, loader, path = saved
    good = path.read_bytes()
    trainer.callbacks = [Score(Path("a"))]
    with pytest.raises(TypeError, match=r"tensors and plain values only, .*pathlib.* not allowed"):
        trainer.fit(loader, 2, checkpoint=path)
    assert path.read_bytes() == good
    assert os.listdir(path.parent) == ["checkpoint.pt"]


def test_a_state_of_another_kind(saved):
    trainer, loader, path = saved

    def other(model=None, optimizer=torch.optim.Adam, scheduler=None, **options):
        nets = [model() if model else copy.deepcopy(net) for net in trainer.models]
        stepper = optimizer([p for net in nets for p in net.parameters()], 1e-2)
        scheduler = scheduler or (lambda o: torch.optim.lr_scheduler.StepLR(o, 2, 0.5))
        return CoTrainer(nets, stepper, scheduler(stepper), progress=False, **options)

    for misfit, message in (
        (other(lambda: torch.nn.Linear(6, 3)), "the state of model_a does not fit"),
        (
            other(optimizer=torch.optim.SGD),
            "state is of .*, this trainer has SGD, StepLR",
        ),
        (
            other(scheduler=lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 9)),
            "state is of Adam, StepLR, .*, this trainer has Adam, CosineAnnealingLR",
        ),
        (other(mixture=BetaMixture()), "DecoyMixture, .* this trainer has .* BetaMixture"),
    ):
        with pytest.raises(ValueError, match=message):
            misfit.fit(loader, 2, resume=path)


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        ({"epoch": "1"}, "epoch of state must be int, got '1'"),
        ({"history": None}, "history of state must be list, got None"),
        ({"history": [1]}, "TypeError.*not iterable"),
        ({"epoch_so_far": [1]}, r"epoch_so_far of state must be Mapping or NoneType, got \[1\]"),
        ({"epoch_so_far": {"odd": 1}}, "TypeError.* unexpected keyword argument 'odd'"),
        ({"epoch_so_far": {"steps": 1}}, "its random states lack torch, cuda, python, others"),
        ({"callbacks": 1}, "callbacks of state must be Mapping, got 1"),
        ({"model_b": 1}, "the state of model_b does not fit: Expected state_dict"),
        ({"optimizer_0": {}}, "the state of optimizer_0 does not fit: 'param_groups'"),
        ({"scheduler_0": 1}, "the state of scheduler_0 does not fit"),
        ({"random": [{"torch": 1}]}, "its random states lack cuda, python, others"),
        ({"random": 1}, "TypeError"),
    ],
    ids=str,
)
def test_a_file_with_other_contents_is_named(saved, contents, message):
    trainer, loader, path = saved
    save_checkpoint(load_checkpoint(path) | contents, path)
    with pytest.raises(ValueError, match=rf"cannot go on from .*checkpoint\.pt: {message}"):
        trainer.fit(loader, 2, resume=path)


def test_other_settings_of_the_objective_are_told(tmp_path):
    path, loader = tmp_path / "c.pt", DataLoader(data(), 40)
    options = {"consistency_weight": np.float32(2), "weight_threshold": 0.5}
    trainer(**options).fit(loader, 1, checkpoint=path)
    trainer(**options).fit(loader, 2, resume=path)
    other = trainer(consistency=SymmetricKLLoss(), exchange="mean", weight_threshold=0.5)
    with pytest.warns(UserWarning, match="training goes on with other settings") as told:
        other.fit(loader, 2, resume=path)
    assert str(told[0].message).split(": ")[1].split(", ") == [
        "consistency_weight was 2.0 and is 5.0",
        "consistency was 'ConsistencyLoss' and is 'SymmetricKLLoss'",
        "exchange was 'swap' and is 'mean'",
    ]
    told_rate = trainer(mixture=DecoyMixture(noise_rate=0.1), **options)
    with pytest.warns(UserWarning, match="noise_rate of mixture was None and is 0.1"):
        told_rate.fit(loader, 2, resume=path)
    plain = trainer(consistency=consistency_loss, **options)
    with pytest.warns(UserWarning, match="was 'ConsistencyLoss' and is 'consistency_loss'"):
        plain.fit(loader, 2, resume=path)
    older = load_checkpoint(path)
    del older["settings"]
    save_checkpoint(older, path)
    trainer().fit(loader, 2, resume=path)


def test_paths(tmp_path):
    path = tmp_path / "checkpoint.pt"
    trainer, loader = make()
    trainer.fit(loader, 1, checkpoint=str(path), resume=path)
    with pytest.raises(IsADirectoryError, match="checkpoint must be a file, got the folder"):
        trainer.fit(loader, 2, checkpoint=tmp_path)
    assert trainer.epoch == 1


def test_one_file_by_two_names_restarts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trainer, loader = make()
    trainer.fit(loader, 1, checkpoint="here.pt", resume=tmp_path / "here.pt")
    assert (tmp_path / "here.pt").exists()


def test_a_state_without_random_states_or_parts(tmp_path):
    trainer, loader = make()
    trainer.fit(loader, 1)
    save_checkpoint(trainer.state_dict(), tmp_path / "own.pt")
    other, _ = make()
    assert other.fit(loader, 2, resume=tmp_path / "own.pt").epoch == 2
    state = trainer.state_dict()
    del state["model_a"], state["weigher"]
    with pytest.raises(ValueError, match="state lacks model_a, weigher"):
        other.load_state_dict(state)


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "disk").mkdir()
    link, file = tmp_path / "run.pt", tmp_path / "disk" / "run.pt"
    link.symlink_to(file)
    for epochs in (1, 2):
        trainer().fit(DataLoader(data(), 40), epochs, checkpoint=link, resume=link)
        assert link.is_symlink()
        assert load_checkpoint(file)["epoch"] == epochs


def test_a_run_that_is_further_is_not_replaced(tmp_path):
    path, loader = tmp_path / "c.pt", DataLoader(data(), 40)
    t = trainer().fit(loader, 3, checkpoint=path)
    for begun in (0, 1):
        other = trainer().fit(loader, begun)
        with pytest.raises(FileExistsError, match=rf"3 epochs .* after {begun + 1}: pass res"):
            other.fit(loader, 5, checkpoint=path)
        assert other.epoch == begun
    assert load_checkpoint(path)["epoch"] == 3
    assert t.fit(loader, 4, checkpoint=path).epoch == 4
    path.write_bytes(b"of another program")
    trainer().fit(loader, 1, checkpoint=path)
    assert load_checkpoint(path)["epoch"] == 1


def test_a_folder_to_resume_from(tmp_path):
    with pytest.raises(IsADirectoryError):
        trainer().fit(DataLoader(data(), 40), 1, resume=tmp_path)
