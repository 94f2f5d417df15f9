"""Images in files, decoded all at once or each when it is asked for."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


class ImageFiles:
    """Images of one size, (N, H, W, C) of uint8, that stay in their files.

    ``files[i]`` decodes one, ``files[a:b]`` and ``files[rows]`` are again `ImageFiles`, and
    ``np.asarray(files)`` decodes all.

    Parameters
    ----------
    paths : sequence of Path
    mode : {"L", "RGB"}
        Grey or colour.
    size : int
        Height and width that images are brought to.
    source : str
        Where the publisher gives them, for the error that names a missing one.
    boxes : ndarray of shape (N, 4), optional
        Left, top, right and bottom of the part of each image that is taken.
    """

    ndim, dtype = 4, np.dtype(np.uint8)

    def __init__(
        self,
        paths: Sequence[Path],
        mode: str,
        size: int,
        source: str,
        boxes: NDArray[np.int64] | None = None,
    ) -> None:
        try:
            import PIL  # noqa: F401
        except ImportError as error:
            raise ImportError("reading image files needs Pillow: pip install pillow") from error
        if missing := [path for path in paths if not path.exists()]:
            raise FileNotFoundError(
                f"{len(missing)} of {len(paths)} images are missing, the first is {missing[0]}; "
                f"the publisher gives them at {source}"
            )
        self.paths, self.boxes = np.array(paths, object), boxes
        self.mode, self.size, self.source = mode, size, source

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return len(self.paths), self.size, self.size, len(self.mode)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, rows: Any) -> Any:
        paths, boxes = self.paths[rows], None if self.boxes is None else self.boxes[rows]
        if isinstance(paths, Path):
            return self._decoded(paths, boxes)
        part = copy.copy(self)
        part.paths, part.boxes = paths, boxes
        return part

    def __array__(self, dtype: Any = None, copy: Any = None) -> NDArray[np.uint8]:
        images = np.empty(self.shape, np.uint8)
        for i in range(len(self)):
            images[i] = self[i]
        return images

    def _decoded(self, path: Path, box: NDArray[np.int64] | None) -> NDArray[np.uint8]:
        from PIL import Image

        try:
            with Image.open(path) as image:
                if image.mode[0] in "IF":  # `convert` would clip them
                    raise ValueError(f"pixels of mode {image.mode} have more than 8 bits")
                part = image if box is None else image.crop(clip(box, image.size))
                pixels = np.asarray(part.convert(self.mode))
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise ValueError(f"{path} cannot be read as an image: {error}") from error
        return np.array(resized(pixels, self.size)).reshape(self.shape[1:])


def clip(box: NDArray[np.int64], size: tuple[int, int]) -> tuple[int, int, int, int]:
    """The part of a box that lies in an image of this width and height."""
    left, top, right, bottom = box.tolist()
    clipped = max(left, 0), max(top, 0), min(right, size[0]), min(bottom, size[1])
    if clipped[0] >= clipped[2] or clipped[1] >= clipped[3]:
        raise ValueError(f"its box {(left, top, right, bottom)} has no pixel of {size}")
    return clipped


def resized(pixels: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Bring an image to (size, size), or (size, size, C)."""
    if pixels.shape[:2] == (size, size):
        return pixels
    from PIL import Image

    return np.asarray(Image.fromarray(pixels).resize((size, size), Image.Resampling.BILINEAR))
