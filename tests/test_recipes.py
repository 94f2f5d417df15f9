"""Each recipe runs as the script it is, stays short, and finds the wrong labels."""

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from test_distributed import torchrun

import resup

RECIPES = Path(__file__).parents[1] / "examples" / "recipes"


def needs(package, name):
    missing = find_spec(package) is None
    skip = pytest.mark.skipif(missing, reason=f"could not import {package!r}")
    return pytest.param(RECIPES / f"{name}.py", marks=skip, id=name)


LIGHTNING, ACCELERATE = (
    needs("lightning", "lightning_module"),
    needs("accelerate", "accelerate_loop"),
)

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("script", [needs("torch", "plain_loop"), LIGHTNING, ACCELERATE])
def test_script(script, tmp_path):
    lines = re.sub(r'^""".*"""$', "", script.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert len(re.findall(r"^ *[^#\s]", lines, re.MULTILINE)) < 40
    source = str(Path(resup.__file__).parents[1])
    said = subprocess.run(
        [sys.executable, script],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        timeout=240,
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": source},
    ).stdout
    right, wrong = re.search(r"right labels (0\.\d\d), wrong labels (0\.\d\d)", said).groups()
    assert float(right) > 0.9
    assert float(wrong) < 0.4


@pytest.mark.distributed
@pytest.mark.parametrize("script", [LIGHTNING, ACCELERATE])
def test_each_process_counts_its_own_samples(script, tmp_path):
    """DistributedDataParallel around the weigher would overwrite its counts by those of rank 0."""
    out = tmp_path / "out.pt"
    first, second = torchrun(2, "recipe", out, str(script), ACCELERATE_USE_CPU="1")
    for exact, _ in (first["recipe"], second["recipe"]):
        assert exact == [[True, [1000, 1000]]] * 8
    assert first["recipe"][1].equal(second["recipe"][1])
