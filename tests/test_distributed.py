import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from distributed_worker import weigh

pytestmark = [pytest.mark.distributed, pytest.mark.slow]

WORKER = str(Path(__file__).with_name("distributed_worker.py"))
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}


def torchrun(world, what, out, *arguments, **environment):
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        f"--nproc-per-node={world}",
    ]
    subprocess.run(
        [*command, WORKER, what, str(out), *arguments],
        check=True,
        timeout=240,
        env=ENVIRONMENT | environment,
    )
    return torch.load(out, weights_only=False)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    what = "weigh,traffic,train,uneven,absent,differing,evaluated,alone,means,classes,apart,sharded"
    return torchrun(2, what, tmp_path_factory.mktemp("pair") / "out.pt")


@pytest.fixture(scope="module")
def four(tmp_path_factory):
    return torchrun(4, "weigh", tmp_path_factory.mktemp("four") / "out.pt")


@pytest.mark.parametrize("launch", ["pair", "four"])
def test_every_process_holds_the_mixture_of_all_samples(launch, request):
    alone = weigh(0, 1)
    assert alone["decoy"]["memory.seen_held"].isfinite().all()
    first, *others = (results["weigh"] for results in request.getfixturevalue(launch))
    torch.testing.assert_close(first, alone, rtol=1e-6, atol=0)
    for other in others:
        torch.testing.assert_close(other, first, rtol=0, atol=0)


def test_an_epoch_moves_little_whatever_the_number_of_samples(pair):
    table, same = (results["traffic"] for results in pair)
    assert table == same
    for mixture in ("beta", "decoy"):
        assert 30_000 < table[mixture, 10, 200] == table[mixture, 10, 2000] < 100_000
        assert table[mixture, 100, 2000] < 200_000


def test_data_parallel_training_agrees_on_everything(pair):
    first, second = (results["train"] for results in pair)
    assert first == second
    assert len(first[1]) == 6
    assert first[1][-1]["val_accuracy_a"] > 0.7


def test_loaders_of_different_length_are_refused_by_every_process(pair):
    for results in pair:
        assert "as many batches, since they exchange gradients" in results["uneven"]
        assert "got 6 to 11" in results["uneven"]


def test_a_process_without_a_batch_holds_the_mixture_too(pair):
    first, second = (results["absent"] for results in pair)
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    assert first["fitted_counts"].sum(1).tolist() == [3001, 3001]


def test_processes_that_would_not_do_the_same_are_told(pair):
    for results in pair:
        checkpoint, val_loader, epochs, total, *settings = results["differing"]
        assert checkpoint == "checkpoint must be given in every process or in none"
        assert val_loader == "val_loader must be given in every process or in none"
        assert "every process must go on from the same point, got epochs 0 to 1" in epochs
        assert total == "epochs must be the same in every process, got 2 to 3"
        assert settings[0] == "consistency_weight must be the same in every process, got 0.0, 5.0"
        assert settings[1] == "accumulate must be the same in every process, got 2, 1"
        assert "of mixture must be the same in every process, got" in settings[2]


def test_a_process_without_a_sample_may_evaluate(pair):
    first, second = (results["evaluated"] for results in pair)
    assert first == second == {"accuracy_a": 1.0, "accuracy_b": 1.0}


def test_one_process_may_look_at_data_alone(pair):
    first, second = (results["alone"] for results in pair)
    assert first == second
    assert first[0][-1]["val_accuracy_a"] > 0.5


def test_values_of_some_processes_or_steps_only_are_their_means(pair):
    for results in pair:
        assert results["means"] == {"ones": 1.0, "tens": 10.0, "first": 3.0}


def test_another_number_of_classes_is_told_to_every_process(pair):
    for results in pair:
        assert (
            "must have as many classes in all processes, got 3 in one and 5" in results["classes"]
        )


def test_networks_that_processes_train_apart_are_noticed_once(pair):
    first, second = (results["apart"] for results in pair)
    [(message, of_the_caller)] = first.pop("not")
    assert message.startswith("the parameters of network A and network B differ from process")
    assert message.endswith("wrap both networks in DistributedDataParallel")
    assert of_the_caller
    [(message, _)] = first.pop("one")
    assert message.startswith("the parameters of network A differ from process to")
    for said in (first.pop("shards"), second.pop("shards")):
        of_saving = ("checkpoint must be None", "resume must be None")
        assert [text.partition(" for networks")[0] for text in said] == [
            *(f"{name}: {refused}" for name in ("fully_shard", "flat") for refused in of_saving),
            said[-1],
        ]
        assert said[-1].startswith("clip_grad_norm must be None for FullyShardedDataParallel, of")
    assert set(second) == {"not", "by hand", "wrapped", "one"}
    assert not any([*first.values(), *second.values()])


def test_a_run_whose_optimizer_is_shared_out_goes_on_exactly(pair):
    for results in pair:
        whole, resumed = results["sharded"]
        assert len(whole) == 4
        assert resumed == whole


@pytest.mark.parametrize("how", ["dies", "hangs"])
def test_a_lost_process_ends_the_others(how, tmp_path):
    """As on three machines: no torchrun that ends the processes beside the lost one."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    place = {"WORLD_SIZE": "3", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    processes = [
        subprocess.Popen(
            [sys.executable, WORKER, how, str(tmp_path)],
            env=ENVIRONMENT | place | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(3)
    ]
    try:
        said = {rank: processes[rank].communicate(timeout=240)[1] for rank in (0, 2)}
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    for rank in (0, 2):
        # Python's own exit, or an abort of gloo's after it has said why
        assert processes[rank].returncode in (1, -signal.SIGABRT)
        assert (
            f"process {rank} of 3 could not go on after 2 epochs: another process has" in said[rank]
        )
        unequal = "; or its train_loader, which has no length, gave another number of batches ("
        assert (unequal in said[rank]) == (how == "dies")  # whose loaders have none
    # One of two that wait for a third runs out of time first, the other may only see it leave
    reason = r"timed out|timeout" if how == "hangs" else "peer"
    assert re.search(reason, "".join(said.values()), re.IGNORECASE)
