import numpy as np
import pytest
import torch
from hypothesis import settings

# Machines are shared: no example may fail for being slow.
settings.register_profile("resup", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("resup")

# The tensors are small, and exact comparisons across processes need one thread in each.
torch.set_num_threads(1)


def pytest_collection_modifyitems(items):
    if not torch.cuda.is_available():
        skip = pytest.mark.skip(reason="needs a CUDA device")
        for item in items:
            if "gpu" in item.keywords:
                item.add_marker(skip)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture
def rng():
    return np.random.default_rng(0)
