"""On a device other than the CPU, for which `far_device` stands in; `test_gpu` has a real one."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from far_device import FarDevice
from paper.batches import DeviceBatches, crop, erase, flip
from small import assert_same, data, pair, trainer
from torch.utils.data import DataLoader

from resup.callbacks import Callback


@pytest.fixture
def far():
    with FarDevice().on() as device:
        yield device


def labels_partly_wrong(n=256):
    samples = data(n)
    samples.tensors[1][: n // 4] = torch.randint(3, (n // 4,))
    return samples


def fitted(device, samples, epochs=4, checkpoint=None, **options):
    torch.manual_seed(1)
    t = trainer([model.to(device) for model in pair()], **options)
    loader = DataLoader(samples, 64, shuffle=True)
    return t.fit(loader, epochs, loader, checkpoint=checkpoint, resume=checkpoint)


def test_training_and_judging_are_as_on_the_cpu(far):
    samples = labels_partly_wrong()
    near, away = fitted("cpu", samples), fitted("meta", samples)
    assert away.history == near.history
    assert away.history[-1]["noise_rate_a"] > 0.1
    loader = DataLoader(samples, 100)
    assert away.clean_probability(loader).equal(near.clean_probability(loader))
    assert (away.report(loader).index == near.report(loader).index).all()


def test_no_step_of_a_run_waits_for_the_device(far):
    class Waits(Callback):
        def on_step_end(self, trainer, values):
            by_step.append(list(far.waits))
            far.waits.clear()

    by_step = []
    fitted("meta", labels_partly_wrong(), callbacks=[Waits()])
    assert [by_step[step] for step in range(16) if step % 4] == [[]] * 12
    assert all(by_step[4::4])  # the refits before these steps


def test_a_step_asks_the_device_for_few_kernels_more(far):
    samples = labels_partly_wrong()
    inputs, targets = (tensor[:64].to("meta") for tensor in samples.tensors)
    t = fitted("meta", samples, 2)
    far.kernels.clear()
    t.train_step(inputs, targets)
    step = far.kernels.copy()
    far.kernels.clear()
    sum(F.cross_entropy(model(inputs), targets) for model in t.models).backward()
    assert len(step) - len(far.kernels) <= 75  # small networks wait for each on a GPU


def test_a_wait_and_a_tensor_of_the_cpu_are_noticed(far):
    near = torch.ones(3)
    x = near.to("meta")
    assert far.waits == ["aten::_to_copy"]
    x[x > 0] = 2.0
    assert bool((x == 2).all())
    assert far.waits[1:] == ["aten::index_put_", "aten::_local_scalar_dense"]
    with pytest.raises(RuntimeError, match="different devices"):
        x + near


def test_a_run_goes_on_from_its_checkpoint(far, tmp_path):
    samples, path = labels_partly_wrong(), tmp_path / "run.pt"
    fitted("meta", samples, 1, checkpoint=path)
    resumed, whole = fitted("meta", samples, 2, checkpoint=path), fitted("meta", samples, 2)
    assert resumed.history == whole.history
    assert_same(resumed.models, whole.models)


def test_images_are_cut_and_augmented_on_the_device(far, rng):
    images = rng.integers(256, size=(10, 8, 8, 3)).astype(np.uint8)
    options = {"shuffle": True, "augment": (flip, crop(2), erase()), "seed": 3}
    near, away = (
        DeviceBatches(images, np.arange(10), 4, device=device, **options)
        for device in ("cpu", "meta")
    )
    far.waits.clear()
    taken = list(away)
    assert far.waits == []
    for (x, y), (expected, labels) in zip(taken, near, strict=True):
        assert x.device.type == "meta"
        assert x.cpu().equal(expected)
        assert y.tolist() == labels.tolist()
