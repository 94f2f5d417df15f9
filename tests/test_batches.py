"""Batches cut on the device, and those of files."""

import numpy as np
import pytest
import torch
from paper import batches
from paper.images import ImageFiles


def make_batches(rng, n=10, **options):
    images = rng.integers(256, size=(n, 8, 8, 3)).astype(np.uint8)
    return images, batches.DeviceBatches(images, np.arange(n), 4, **options)


def test_batches_in_order(rng):
    images, loader = make_batches(rng)
    assert len(loader) == 3
    x, y = (torch.cat(column) for column in zip(*loader, strict=True))
    assert y.tolist() == list(range(10))
    pixels = torch.tensor(images / 255, dtype=torch.float32)
    expected = (pixels - pixels.mean((0, 1, 2))) / pixels.std((0, 1, 2), correction=0)
    torch.testing.assert_close(x, expected.permute(0, 3, 1, 2), atol=1e-5, rtol=0)


def test_epochs_differ_and_repeat_with_the_seed(rng):
    options = {"shuffle": True, "augment": (batches.flip, batches.crop(2)), "seed": 3}
    images, loader = make_batches(rng, **options)
    again = batches.DeviceBatches(images, np.arange(10), 4, **options)
    first, second = list(loader), list(loader)
    assert sorted(torch.cat([y for _, y in first]).tolist()) == list(range(10))
    assert not torch.equal(first[0][0], second[0][0])
    for (x, y), (x2, y2) in zip(first + second, list(again) + list(again), strict=True):
        assert torch.equal(x, x2)
        assert torch.equal(y, y2)


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_of_files_are_those_of_memory(rng, tmp_path, workers):
    image = pytest.importorskip("PIL.Image")
    paths = [tmp_path / f"{i}.png" for i in range(10)]
    pixels = rng.integers(256, size=(10, 9, 12, 3)).astype(np.uint8)
    for path, one in zip(paths, pixels, strict=True):
        image.fromarray(one).save(path)
    boxes = np.tile([2, 1, 10, 9], (10, 1))
    files = ImageFiles(paths, "RGB", 8, "its publisher", boxes)
    decoded = np.asarray(files)
    assert np.array_equal(decoded, pixels[:, 1:9, 2:10])
    assert np.array_equal(np.asarray(files[3:7]), decoded[3:7])

    options = {"shuffle": True, "augment": (batches.flip, batches.crop(2)), "seed": 3}
    state = torch.get_rng_state()
    lazy = batches.FileBatches(files, np.arange(10), 4, workers=workers, **options)
    eager = batches.DeviceBatches(decoded, np.arange(10), 4, **options)
    for _ in range(2):
        for (x, y), (x2, y2) in zip(lazy, eager, strict=True):
            assert torch.equal(x, x2)
            assert torch.equal(y, y2)
    assert torch.equal(torch.get_rng_state(), state)
    (x, _), (x2, _) = (next(iter(kind(data, np.arange(10), 10))) for kind, data in (
        (batches.FileBatches, files), (batches.DeviceBatches, decoded)))  # fmt: skip
    assert torch.equal(x, x2)


def test_bad_images():
    with pytest.raises(ValueError, match="images must be uint8"):
        batches.DeviceBatches(np.zeros((4, 8, 8, 3)), np.zeros(4, int), 2)
    with pytest.raises(ValueError, match="and 3 labels"):
        batches.DeviceBatches(np.zeros((4, 8, 8, 3), np.uint8), np.zeros(3, int), 2)


def test_flip():
    x = torch.rand(2, 3, 4, 4)
    flipped = batches.flip(x, torch.tensor([[0.4], [0.6]]))
    assert torch.equal(flipped[0], x[0].flip(2))
    assert torch.equal(flipped[1], x[1])


def test_crop():
    x = torch.rand(3, 1, 5, 5)
    numbers = torch.tensor([[0.5, 0.5], [0.0, 0.5], [0.99, 0.0]])
    centre, up, down = batches.crop(1)(x, numbers)
    assert torch.equal(centre, x[0])
    assert torch.equal(up[:, 1:], x[1, :, :-1])
    assert (up[:, 0] == 0).all()
    assert torch.equal(down[:, :-1, 1:], x[2, :, 1:, :-1])


def test_erase():
    x = torch.ones(4000, 1, 20, 20)
    numbers = torch.rand(4000, batches.DRAWS)
    erased = (batches.erase(0.5, (0.1, 0.3))(x, numbers) == 0).float().mean((1, 2, 3))
    hit = erased[erased > 0]
    assert len(hit) / 4000 == pytest.approx(0.5, abs=0.05)
    assert float(hit.mean()) == pytest.approx(0.2, abs=0.02)
    assert float(hit.max()) < 0.4
