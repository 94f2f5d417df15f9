"""Backbones by name, with one call for all: ``build("resnet18", classes=7, channels=1)``."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from zlib import crc32

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Layers(nn.Sequential):
    """A Sequential that ``compile()`` compiles: it leaves the forward of torch's own as it is."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)


def cnn7(
    classes: int, channels: int = 3, size: int = 32, width: int = 64, stride: int = 1
) -> nn.Module:
    """Build the seven-layer CNN of JoCoR and of Table 5; a smaller `width` makes it cheaper."""
    side = -(-size // stride)
    if side < 8:
        raise ValueError(f"size must be over {7 * stride} for a stride of {stride}, got {size}")

    def conv(inputs: int, outputs: int, stride: int = 1) -> list[nn.Module]:
        return [
            nn.Conv2d(inputs, outputs, 3, stride, 1), nn.BatchNorm2d(outputs), nn.ReLU()
        ]  # fmt: skip

    third = 196 * width // 64
    return Layers(
        *(*conv(channels, width, stride), *conv(width, width), nn.MaxPool2d(2)),
        *(*conv(width, 2 * width), *conv(2 * width, 2 * width), nn.MaxPool2d(2)),
        *(*conv(2 * width, third), *conv(third, 16), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(16 * (side // 8) ** 2, classes)),
    )


def cnn2(classes: int, channels: int = 1, size: int = 8, width: int = 16) -> nn.Module:
    """Build a network for images as small as scikit-learn's digits."""
    return Layers(
        nn.Conv2d(channels, width, 3, 1, 1), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(width, 2 * width, 3, 1, 1), nn.BatchNorm2d(2 * width), nn.ReLU(),
        nn.MaxPool2d(2), nn.Flatten(), nn.Linear(2 * width * (size // 4) ** 2, classes),
    )  # fmt: skip


class Block(nn.Module):
    """Two 3×3 convolutions, or 1×1, 3×3 and 1×1 with ``expansion=4``, beside a shortcut."""

    def __init__(self, inputs: int, width: int, stride: int, expansion: int) -> None:
        super().__init__()
        outputs = width * expansion
        if expansion == 1:
            shapes = [(inputs, width, 3, stride), (width, outputs, 3, 1)]
        else:
            shapes = [(inputs, width, 1, 1), (width, width, 3, stride), (width, outputs, 1, 1)]
        self.depth = len(shapes)
        for i, (a, b, kernel, step) in enumerate(shapes, 1):
            setattr(self, f"conv{i}", nn.Conv2d(a, b, kernel, step, kernel // 2, bias=False))
            setattr(self, f"bn{i}", nn.BatchNorm2d(b))
        self.downsample = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for i in range(1, self.depth + 1):
            y = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(y))
            if i < self.depth:
                y = F.relu(y)
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet(nn.Module):
    """ResNet whose parameters bear the names of torchvision's, so that its weight files load.

    The stem is that for images of 32×32 (3×3, no pooling) or that of ImageNet (7×7, pooling).
    """

    def __init__(
        self,
        classes: int,
        blocks: tuple[int, ...],
        expansion: int,
        channels: int = 3,
        small: bool = False,
    ) -> None:
        super().__init__()
        kernel, stride = (3, 1) if small else (7, 2)
        self.conv1 = nn.Conv2d(channels, 64, kernel, stride, kernel // 2, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.pool = nn.Identity() if small else nn.MaxPool2d(3, 2, 1)
        inputs = 64
        for i, count in enumerate(blocks):
            width, layer = 64 << i, nn.Sequential()
            for j in range(count):
                layer.append(Block(inputs, width, 2 if i and not j else 1, expansion))
                inputs = width * expansion
            setattr(self, f"layer{i + 1}", layer)
        self.stages = len(blocks)
        self.fc = nn.Linear(inputs, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(F.relu(self.bn1(self.conv1(x))))
        for i in range(self.stages):
            x = getattr(self, f"layer{i + 1}")(x)
        return self.fc(x.mean((2, 3)))


def _resnet(blocks: tuple[int, ...], expansion: int, small: bool) -> Callable[..., nn.Module]:
    def make(classes: int, channels: int = 3, size: int = 32) -> nn.Module:
        return ResNet(classes, blocks, expansion, channels, small)

    return make


def _torchvision(name: str, first: str, last: str) -> Callable[..., nn.Module]:
    """Make a torchvision model with `classes` outputs in its layer `last`."""

    def make(classes: int, channels: int = 3, size: int = 224) -> nn.Module:
        network = _torchvision_models().get_model(name)
        head = network.get_submodule(last)
        _replace(network, last, nn.Linear(head.in_features, classes))
        if channels != 3:
            stem = network.get_submodule(first)
            new = nn.Conv2d(
                channels, stem.out_channels, stem.kernel_size, stem.stride, stem.padding,
                bias=stem.bias is not None,
            )  # fmt: skip
            _replace(network, first, new)
        return network

    return make


def _replace(network: nn.Module, place: str, new: nn.Module) -> None:
    owner, _, name = place.rpartition(".")
    setattr(network.get_submodule(owner), name, new)


NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "cnn7": cnn7,
    "cnn2": cnn2,
    "resnet18": _resnet((2, 2, 2, 2), 1, small=False),
    "resnet50": _resnet((3, 4, 6, 3), 4, small=False),
    "resnet18-cifar": _resnet((2, 2, 2, 2), 1, small=True),
    "resnet50-cifar": _resnet((3, 4, 6, 3), 4, small=True),
    "mobilenet": _torchvision("mobilenet_v2", "features.0.0", "classifier.1"),
    "vgg16": _torchvision("vgg16_bn", "features.0", "classifier.6"),
}


def build(
    name: str,
    classes: int,
    channels: int = 3,
    size: int = 32,
    weights: str | Path | None = None,
    **options: Any,
) -> nn.Module:
    """Build a backbone.

    `weights` is ``"imagenet"`` (torchvision fetches its ``IMAGENET1K_V1``) or a local file, such as
    one trained on MS-Celeb-1M: a state dict, or a mapping with ``state_dict``, with torchvision's
    names, with or without ``module.`` before them. A head or stem of another shape stays random; a
    stem for colours goes into one for grey images by the sum of its kernels over the colours.
    """
    if name not in NETWORKS:
        raise ValueError(f"network must be one of {', '.join(NETWORKS)}, got {name!r}")
    network = NETWORKS[name](classes, channels, size, **options)
    if weights is not None:
        state = _imagenet(name) if weights == "imagenet" else _read(Path(weights))
        loaded = load_matching(network, state)
        print(f"{name}: {loaded} of {len(network.state_dict())} tensors from {weights}")
    return network


def load_matching(network: nn.Module, state: dict[str, Tensor]) -> int:
    """Copy the tensors whose name and shape fit; returns how many.

    Raises if a tensor has none, unless it is of the first or the last layer.
    """
    own, fit = network.state_dict(), {}
    for key, value in state.items():
        name = key.removeprefix("module.")
        if name in own:
            grey = value.ndim == 4 and (own[name].shape[1], value.shape[1]) == (1, 3)
            value = value.sum(1, keepdim=True) if grey else value
            if value.shape == own[name].shape:
                fit[name] = value
    first, *_, last = (name.rpartition(".")[0] for name in own)
    bare = [
        name
        for name in own
        if name not in fit
        and name.rpartition(".")[0] not in (first, last)
        and not name.endswith("num_batches_tracked")  # not in files from before torch 0.4.1
    ]
    if bare:
        raise ValueError(
            f"the weights are of another network: {bare[0]} and {len(bare) - 1} more of its "
            "tensors are missing or have another shape"
        )
    network.load_state_dict(fit, strict=False)
    return len(fit)


def _read(path: Path) -> dict[str, Tensor]:
    if not path.exists():
        raise FileNotFoundError(f"there is no weight file {path}")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can make the reader fail in any way
        if isinstance(error, pickle.UnpicklingError) and "GLOBAL" in str(error):
            raise ValueError(
                f"weights must be a file of tensors only, which {path} is not: load it once in an "
                'environment where you trust it, and save {"state_dict": ...} alone'
            ) from error
        raise ValueError(
            f"{path} cannot be read as weights: it is damaged, or holds more than tensors"
        ) from error
    state = state.get("state_dict", state) if isinstance(state, dict) else state
    if not isinstance(state, dict):
        raise ValueError(f"{path} must hold a state dict, got {type(state).__name__}")
    return {name: value for name, value in state.items() if isinstance(value, Tensor)}


def checksums(weights: Sequence[str] | None) -> dict[str, list[int]]:
    """Tell weight files of one name apart; empty if there are none."""
    files = [Path(name) for name in weights or () if name != "imagenet"]
    sums = [crc32(file.read_bytes()) for file in files if file.is_file()]
    return {"weight_files": sums} if sums else {}


def _imagenet(name: str) -> dict[str, Tensor]:
    names = {"mobilenet": "mobilenet_v2", "vgg16": "vgg16_bn"}
    name = names.get(name, name.removesuffix("-cifar"))
    return _torchvision_models().get_model(name, weights="IMAGENET1K_V1").state_dict()


def _torchvision_models() -> Any:
    try:
        from torchvision import models
    except ImportError as error:
        raise ImportError(
            "mobilenet, vgg16 and weights of ImageNet need torchvision: pip install torchvision"
        ) from error
    return models
