import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from distributed_worker import batch

from resup import SampleWeigher

pytestmark = [pytest.mark.distributed, pytest.mark.slow]


def torchrun(world, what, out):
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        f"--nproc-per-node={world}",
    ]
    worker = str(Path(__file__).with_name("distributed_worker.py"))
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([*command, worker, what, str(out)], check=True, timeout=240, env=environment)
    return torch.load(out, weights_only=False)


@pytest.mark.parametrize("world", [2, 4])
def test_every_process_holds_the_mixture_of_all_samples(world, tmp_path):
    weigher = SampleWeigher()
    weigher(*batch())
    weigher.refit()
    alone = [[*m.alphas_, *m.betas_, *m.weights_] for m in weigher.mixtures_]
    for theirs in torchrun(world, "weigh", tmp_path / "out.pt"):
        np.testing.assert_allclose(theirs, alone, rtol=1e-6)


def test_data_parallel_training_agrees_on_everything(tmp_path):
    first, second = torchrun(2, "train", tmp_path / "out.pt")
    assert first == second
    assert len(first[1]) == 6
    assert first[1][-1]["val_accuracy_a"] > 0.7
