import ast
import subprocess
import sys
from pathlib import Path

import pytest

import resup

SOURCE = Path(resup.__file__).parent
ORDER = [
    module
    for line in resup.__doc__.splitlines()
    if line.startswith("    ")
    for module in line[24:].split()
]


def run(code):
    return subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout


def test_public_names():
    for name in resup.__all__:
        assert getattr(resup, name).__doc__
        assert name in dir(resup)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        resup.nothing  # noqa: B018


def test_modules_are_there_without_an_import_of_their_own():
    code = """
import resup
print(resup.noise.symmetric_transition.__name__, resup.checkpoint.__name__)
"""
    assert run(code).split() == ["symmetric_transition", "resup.checkpoint"]


def test_a_file_imports_only_from_files_above_it():
    assert {p.stem for p in SOURCE.glob("*.py")} == {*ORDER, "__init__"}
    for place, name in enumerate(ORDER):
        tree = ast.parse((SOURCE / f"{name}.py").read_text(encoding="utf-8"))
        imported = {
            n.module or alias.name
            for n in ast.walk(tree)
            if isinstance(n, ast.ImportFrom) and n.level == 1
            for alias in n.names
        }
        assert imported <= set(ORDER[:place]), name


def test_the_mixture_needs_no_torch():
    code = """
import sys
from resup import BetaMixture
BetaMixture().fit([0.1, 0.2, 0.8, 0.9])
print("torch" in sys.modules)
"""
    assert run(code).strip() == "False"


def test_importing_touches_no_global_state():
    code = """
import logging, random, warnings
import numpy, torch
def state():
    return (random.getstate(), numpy.random.get_state()[1].tolist(), torch.get_rng_state().tolist(),
            list(warnings.filters), list(logging.root.handlers), torch.get_num_threads())
before = state()
import resup
print(before == state())
"""
    assert run(code).strip() == "True"
