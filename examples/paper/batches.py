"""Batches of images, bytes on the device or files, augmented a whole batch at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import copy
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader
from typing_extensions import Self

from .images import ImageFiles

Augmentation = Callable[[Tensor, Tensor], Tensor]
"""Takes images (N, C, H, W) and numbers (N, DRAWS), uniform in [0, 1)."""

DRAWS = 8


class DeviceBatches:
    """Batches ``(images, labels)`` of a data set that fits into the memory of the device.

    The bytes are sent there once. An epoch draws its order and the numbers for its augmentation
    from `generator`, on the CPU, and sends them in one piece; so the same seed gives the same
    batches on every device, and a checkpoint of `CoTrainer` holds the generator's state.

    Parameters
    ----------
    images : ndarray of shape (N, H, W, C), uint8
    labels : ndarray of shape (N,)
    batch_size : int
    augment : sequence of Augmentation, default=()
        Applied in order to the normalised images.
    shuffle : bool, default=False
    seed : int, default=0
    device : device, default="cpu"
    statistics : pair of sequences of float, optional
        Mean and standard deviation of each channel, in [0, 1]; by default those of `images`.
    """

    def __init__(
        self,
        images: NDArray[np.uint8],
        labels: NDArray[np.int64],
        batch_size: int,
        *,
        augment: Sequence[Augmentation] = (),
        shuffle: bool = False,
        seed: int = 0,
        device: torch.device | str = "cpu",
        statistics: tuple[Sequence[float], Sequence[float]] | None = None,
    ) -> None:
        if images.ndim != 4 or images.dtype != np.uint8 or len(images) != len(labels):
            raise ValueError(
                "images must be uint8 of shape (N, H, W, C) with one label each, got "
                f"{images.dtype} of {images.shape} and {len(labels)} labels"
            )
        self.labels = torch.from_numpy(labels).to(device)
        self.images = self._keep(images)
        self.batch_size, self.augment, self.shuffle = batch_size, augment, shuffle
        self.generator = torch.Generator().manual_seed(seed)
        self.statistics = mean, std = statistics or mean_and_std(images)
        shape = 1, -1, 1, 1
        self.scale = torch.tensor([1 / (255 * s) for s in std], device=device).view(shape)
        self.offset = torch.tensor(
            [-m / s for m, s in zip(mean, std, strict=True)], device=device
        ).view(shape)

    def __len__(self) -> int:
        return -(-len(self.labels) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        n, device = len(self.labels), self.labels.device
        order = numbers = None
        if self.shuffle:
            order = torch.randperm(n, generator=self.generator).to(device, non_blocking=True)
        if self.augment:
            numbers = torch.rand(len(self.augment), n, DRAWS, generator=self.generator)
            numbers = numbers.to(device, non_blocking=True)
        rows = [slice(i, i + self.batch_size) for i in range(0, n, self.batch_size)]
        taken = rows if order is None else [order[batch] for batch in rows]
        for batch, which, pixels in zip(rows, taken, self._pixels(taken), strict=True):
            images = torch.addcmul(self.offset, pixels.float(), self.scale)
            for i, augmentation in enumerate(self.augment):
                images = augmentation(images, numbers[i, batch])
            yield images, self.labels[which]

    def in_order(self, batch_size: int) -> Self:
        """Return the same images, in the same memory, in order and not augmented."""
        other = copy(self)
        other.batch_size, other.augment, other.shuffle = batch_size, (), False
        return other

    def _keep(self, images: Any) -> Any:
        kept = torch.from_numpy(images).permute(0, 3, 1, 2).to(self.labels.device)
        return kept.contiguous(memory_format=torch.channels_last)

    def _pixels(self, taken: list[Any]) -> Iterable[Tensor]:
        """Bytes of each batch, (N, C, H, W), on the device."""
        return (self.images[which] for which in taken)


class FileBatches(DeviceBatches):
    """The same batches of images that are read from their files by worker processes.

    For data that do not fit into memory: only the batches in hand are there.

    Parameters
    ----------
    images : ImageFiles
    *args, **kwargs
        As of `DeviceBatches`; the statistics are by default those of a thousand images.
    workers : int, default=0
        Processes that decode, as ``num_workers`` of ``torch.utils.data.DataLoader``.
    """

    def __init__(self, images: ImageFiles, *args: Any, workers: int = 0, **kwargs: Any) -> None:
        self.workers = workers
        super().__init__(images, *args, **kwargs)

    def _keep(self, images: Any) -> Any:
        return images

    def _pixels(self, taken: list[Any]) -> Iterable[Tensor]:
        device = self.labels.device
        every = torch.arange(len(self.images), device=device)
        loader = DataLoader(
            self.images,
            batch_sampler=[every[which].tolist() for which in taken],
            num_workers=self.workers,
            pin_memory=device.type == "cuda",
            generator=torch.Generator(),  # else each epoch draws from the global random state
        )
        return (pixels.to(device, non_blocking=True).permute(0, 3, 1, 2) for pixels in loader)


def mean_and_std(images: NDArray[np.uint8] | ImageFiles) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel, of values in [0, 1]."""
    if isinstance(images, ImageFiles):
        images = np.asarray(images[:: max(1, len(images) // 1000)])
    counts = np.zeros((images.shape[3], 256))
    for start in range(0, len(images), 1000):  # bincount takes 8 bytes a pixel
        part = images[start : start + 1000]
        counts += [np.bincount(part[..., c].ravel(), minlength=256) for c in range(len(counts))]
    values, means, stds = np.arange(256) / 255, [], []
    for count in counts:
        mean = float(np.average(values, weights=count))
        means.append(mean)
        stds.append(float(np.average((values - mean) ** 2, weights=count)) ** 0.5 or 1.0)
    return means, stds


def flip(images: Tensor, numbers: Tensor) -> Tensor:
    """Mirror one image in two."""
    return torch.where(numbers[:, :1, None, None] < 0.5, images.flip(3), images)


def crop(padding: int) -> Augmentation:
    """Shift each image by up to `padding` pixels both ways, with the mean colour past its edge."""

    def shift(images: Tensor, numbers: Tensor) -> Tensor:
        n, _, height, width = images.shape
        padded = F.pad(images, [padding] * 4)
        corner = (numbers[:, :2] * (2 * padding + 1)).long()
        rows = corner[:, :1] + torch.arange(height, device=images.device)
        columns = corner[:, 1:] + torch.arange(width, device=images.device)
        sample = torch.arange(n, device=images.device)[:, None, None]
        cut = padded.permute(0, 2, 3, 1)[sample, rows[:, :, None], columns[:, None]]
        return cut.permute(0, 3, 1, 2)

    return shift


def erase(probability: float = 0.5, area: tuple[float, float] = (0.02, 0.25)) -> Augmentation:
    """Put 0, the mean colour, into a random rectangle of a share `probability` of the images."""

    def put(images: Tensor, numbers: Tensor) -> Tensor:
        n, _, height, width = images.shape
        which, size, shape, top, left = numbers[:, :5].unbind(1)
        size = (area[0] + size * (area[1] - area[0])) * height * width
        low, high = np.log(0.3), np.log(3.3)  # of height / width
        shape = torch.exp(low + shape * (high - low))
        h = (size * shape).sqrt().clamp(max=height)
        w = (size / shape).sqrt().clamp(max=width)
        top, left = top * (height - h), left * (width - w)
        y = torch.arange(height, device=images.device).expand(n, -1)
        x = torch.arange(width, device=images.device).expand(n, -1)
        rows = (y >= top[:, None]) & (y < (top + h)[:, None])
        columns = (x >= left[:, None]) & (x < (left + w)[:, None])
        hit = rows[:, :, None] & columns[:, None] & (which < probability)[:, None, None]
        return torch.where(hit[:, None], 0, images)  # masked_fill would undo channels_last

    return put
