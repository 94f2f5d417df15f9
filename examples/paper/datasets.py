"""The data sets of the paper, read from the files their publishers give, all of it into memory.

Every reader takes the folder that holds the unpacked files and returns a `Dataset` of unsigned
bytes and labels; nothing is downloaded. A missing or damaged file is named, with where to get it.
"""

from __future__ import annotations

import csv
import pickle
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

CIFAR = "https://www.cs.toronto.edu/~kriz/cifar.html"
CIFAR_N = "https://github.com/UCSC-REAL/cifar-10-100n"
FERPLUS = "https://github.com/microsoft/FERPlus"

FERPLUS_CLASSES = (
    "neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt",
)  # fmt: skip
CIFAR_N_KEYS = {
    "aggre": "aggre_label",
    "random1": "random_label1",
    "random2": "random_label2",
    "random3": "random_label3",
    "worst": "worse_label",
    "noisy": "noisy_label",
}


class Split(NamedTuple):
    """Images, (N, H, W, C) of uint8 with C = 1 or 3, and their labels, (N,) of int64."""

    images: np.ndarray
    labels: np.ndarray


class Dataset(NamedTuple):
    """Training and test set, the names of the classes, and a validation set where there is one."""

    train: Split
    test: Split
    classes: tuple[str, ...]
    valid: Split | None = None


def cifar10(root: str | Path) -> Dataset:
    """CIFAR-10: 50,000 and 10,000 colour images of 32×32 pixels, 10 classes.

    `root` holds ``cifar-10-batches-py/`` or is that folder.
    """
    folder = _folder(root, "cifar-10-batches-py", CIFAR)
    names = _unpickle(folder / "batches.meta", CIFAR)[b"label_names"]
    train = [_cifar_split(folder / f"data_batch_{i}", b"labels", len(names)) for i in range(1, 6)]
    return Dataset(
        Split(*map(np.concatenate, zip(*train, strict=True))),
        _cifar_split(folder / "test_batch", b"labels", len(names)),
        tuple(name.decode() for name in names),
    )


def cifar100(root: str | Path) -> Dataset:
    """CIFAR-100: 50,000 and 10,000 colour images of 32×32 pixels, 100 fine classes.

    `root` holds ``cifar-100-python/`` or is that folder.
    """
    folder = _folder(root, "cifar-100-python", CIFAR)
    names = _unpickle(folder / "meta", CIFAR)[b"fine_label_names"]
    train, test = (_cifar_split(folder / s, b"fine_labels", len(names)) for s in ("train", "test"))
    return Dataset(train, test, tuple(name.decode() for name in names))


def cifar_n(path: str | Path, which: str) -> np.ndarray:
    """Human labels of the CIFAR training images (Wei et al. 2022), in the order of the images.

    `path` is ``CIFAR-10_human`` or ``CIFAR-100_human``, as the published .pt or as .npz with the
    same keys. `which` is "aggre", "random1", "random2", "random3" or "worst" for CIFAR-10,
    "noisy" for CIFAR-100.
    """
    path = _existing(path, CIFAR_N)
    if which not in CIFAR_N_KEYS:
        raise ValueError(f"which must be one of {', '.join(CIFAR_N_KEYS)}, got {which!r}")
    labels = np.load(path) if path.suffix == ".npz" else _load_pt(path)
    if CIFAR_N_KEYS[which] not in labels:
        raise ValueError(f"{path} has no {CIFAR_N_KEYS[which]!r}, only {', '.join(labels)}")
    human, clean = np.asarray(labels[CIFAR_N_KEYS[which]]), np.asarray(labels["clean_label"])
    if human.shape != clean.shape:
        raise ValueError(f"{path}: {human.shape} labels stand beside {clean.shape} clean ones")
    return _labels(human, 100 if which == "noisy" else 10, path)


def ferplus(root: str | Path, size: int = 48, vote: str = "plurality") -> Dataset:
    """FERPlus: grey faces of 48×48 pixels, 8 classes, ten votes a face.

    `root` holds ``FER2013Train/``, ``FER2013Valid/`` and ``FER2013Test/``, as the publisher's
    generate_training_data.py writes them: images and a ``label.csv`` of rows
    ``name, box, ten vote counts`` (the eight classes, unknown, not a face).

    `vote` decides the label:

    - "plurality": the most votes; faces with most votes for unknown or not-a-face are dropped, a
      tie goes to the class that comes first. 28,385 training, 3,555 validation and 3,545 test
      faces, near the 28,709, 3,589 and 3,589 of FER2013 that papers print. About 5 % are ties.
    - "majority": the rule of the publisher's program. Single votes are struck out, then more than
      half of the votes left must agree. 25,045, 3,191 and 3,137 faces.
    """
    train, valid, test = (
        _ferplus_split(_folder(root, f"FER2013{s}", FERPLUS), size, vote)
        for s in ("Train", "Valid", "Test")
    )
    return Dataset(train, test, FERPLUS_CLASSES, valid)


def _ferplus_split(folder: Path, size: int, vote: str) -> Split:
    table = _existing(folder / "label.csv", FERPLUS)
    with table.open(newline="") as file:
        rows = list(csv.reader(file))
    keep, labels = _vote([row[2:] for row in rows], vote, table)
    images = _images((folder / rows[i][0] for i in keep), "L", size, FERPLUS)
    return Split(images, labels)


def _vote(counts: Sequence[Sequence[str]], vote: str, path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Rows whose votes settle on one of the eight classes, and that class."""
    if vote not in ("plurality", "majority"):
        raise ValueError(f"vote must be 'plurality' or 'majority', got {vote!r}")
    try:
        votes = np.array(counts, dtype=np.int64).reshape(len(counts), 10)
    except ValueError as error:
        raise ValueError(f"{path}: every row must hold ten vote counts") from error
    if vote == "majority":
        votes = np.where(votes > 1, votes, 0)
        settled = 2 * votes.max(1) > votes.sum(1)
    else:
        settled = votes.max(1) > 0
    labels = votes.argmax(1)
    keep = np.flatnonzero(settled & (labels < len(FERPLUS_CLASSES)))
    return keep, labels[keep]


def _cifar_split(path: Path, key: bytes, n_classes: int) -> Split:
    batch = _unpickle(path, CIFAR)
    labels, pixels = batch[key], batch[b"data"]
    if pixels.shape != (len(labels), 3072):
        raise ValueError(f"{path}: {len(labels)} labels, but pixels of shape {pixels.shape}")
    images = pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return Split(np.ascontiguousarray(images), _labels(labels, n_classes, path))


def _images(paths: Iterable[Path], mode: str, size: int, source: str) -> np.ndarray:
    """Decode images into (N, size, size, C), C = 1 for mode "L" and 3 for "RGB"."""
    return np.stack([_image(path, mode, size, source) for path in paths])


def _image(path: Path, mode: str, size: int, source: str) -> np.ndarray:
    from PIL import Image

    try:
        with Image.open(_existing(path, source)) as image:
            face = image.convert(mode)
    except OSError as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise ValueError(f"{path} is not a readable image: {error}") from error
    if face.size != (size, size):
        face = face.resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(face).reshape(size, size, -1)


def _labels(labels: Any, n_classes: int, path: Path) -> np.ndarray:
    y = np.asarray(labels)
    if y.ndim != 1 or y.dtype.kind not in "iu" or not len(y):
        raise ValueError(f"{path}: labels must be integers of shape (N,), got {y.dtype} {y.shape}")
    if y.min() < 0 or y.max() >= n_classes:
        raise ValueError(
            f"{path}: labels must lie in [0, {n_classes}), got values from {y.min()} to {y.max()}"
        )
    return y.astype(np.int64)


def _existing(path: str | Path, source: str) -> Path:
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing; its publisher gives it at {source}")
    return path


def _folder(root: str | Path, name: str, source: str) -> Path:
    root = Path(root)
    return root if root.name == name and root.exists() else _existing(root / name, source)


class _ArrayUnpickler(pickle.Unpickler):
    """Reads pickled containers, numbers, strings and numpy arrays, and refuses everything else."""

    def find_class(self, module: str, name: str) -> Any:
        allowed = {
            ("numpy", "_reconstruct"): np.empty(0).__reduce__()[0],
            ("numpy", "ndarray"): np.ndarray,
            ("numpy", "dtype"): lambda kind, *_: np.dtype(kind),
            ("_codecs", "encode"): lambda text, encoding: text.encode(encoding),
            ("__builtin__", "bytes"): bytes,
        }
        key = module.split(".")[0], name
        if key in allowed:
            return allowed[key]
        raise pickle.UnpicklingError(f"{module}.{name} is not allowed")


def _unpickle(path: Path, source: str) -> Any:
    with _existing(path, source).open("rb") as file:
        return _read_pickle(file, path, "bytes")


def _load_pt(path: Path) -> Any:
    """Read a ``torch.save`` of numpy arrays, in torch's zip format."""
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{path} is neither .npz nor a file that torch.save of today writes")
    with zipfile.ZipFile(path) as archive:
        name = next(n for n in archive.namelist() if n.endswith("data.pkl"))
        with archive.open(name) as file:
            return _read_pickle(file, path, "ASCII")


def _read_pickle(file: IO[bytes], path: Path, encoding: str) -> Any:
    try:
        return _ArrayUnpickler(file, encoding=encoding).load()
    except (pickle.UnpicklingError, EOFError, ValueError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
