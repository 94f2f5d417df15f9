"""The data sets of the paper, read from the files their publishers give.

Every reader takes the folder that holds the unpacked files and returns a `Dataset` of unsigned
bytes and labels, all of it in memory; those of image files leave the images there with ``lazy``.
Nothing is downloaded; a missing or damaged file is named, with where to get it.
Several of the sets must be asked for, and none of them may be passed on. What to put where:

===========  =======================================================================  =============
reader       files under `root`                                                       training, test
===========  =======================================================================  =============
cifar10      cifar-10-batches-py/{data_batch_1 ... data_batch_5, test_batch}          50,000, 10,000
cifar100     cifar-100-python/{train, test, meta}                                     50,000, 10,000
ferplus      FER2013{Train, Valid, Test}/{label.csv, fer*.png}                        28,385, 3,545
fer2013_csv  fer2013.csv, fer2013new.csv                                              28,385, 3,545
raf_db       EmoLabel/list_patition_label.txt, Image/aligned/*_aligned.jpg            12,271, 3,068
affectnet    Manually_Annotated_file_lists/{training, validation}.csv,                283,901, 3,500
             Manually_Annotated_Images/                                               (7 classes)
expw         label/label.lst, image/origin/                                           91,793 in all
expw_raf_db  expw/ and rafdb/ with the files of both
===========  =======================================================================  =============

The classes of the face sets bear the same names everywhere, but stand in each publisher's order.
The faces of `affectnet` and `expw` are cut out by their published boxes and not aligned.
"""

from __future__ import annotations

import csv
import pickle
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from .images import ImageFiles, resized

AFFECTNET = "http://mohammadmahoor.com/affectnet/ (on request)"
CIFAR = "https://www.cs.toronto.edu/~kriz/cifar.html"
CIFAR_N = "https://github.com/UCSC-REAL/cifar-10-100n"
EXPW = "http://mmlab.ie.cuhk.edu.hk/projects/socialrelation/index.html"
FER2013 = "https://www.kaggle.com/c/challenges-in-representation-learning-facial-expression-recognition-challenge/data"
FERPLUS = "https://github.com/microsoft/FERPlus"
RAF_DB = "http://www.whdeng.cn/RAF/model1.html (on request)"
RAF_DB_NOISY = "the authors of the paper that used it"

FERPLUS_CLASSES = (
    "neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt",
)  # fmt: skip
RAF_DB_CLASSES = ("surprise", "fear", "disgust", "happiness", "sadness", "anger", "neutral")
AFFECTNET_CLASSES = ("neutral", "happiness", "sadness", "surprise", "fear", "disgust", "anger")
EXPW_CLASSES = ("anger", "disgust", "fear", "happiness", "sadness", "surprise", "neutral")

CIFAR_N_KEYS = {
    "aggre": "aggre_label",
    "random1": "random_label1",
    "random2": "random_label2",
    "random3": "random_label3",
    "worst": "worse_label",
    "noisy": "noisy_label",
}
LEGACY = pickle.dumps(0x1950A86A20F9469CFC6C, 2)  # what torch.save began with before 1.6
VOTES = (*FERPLUS_CLASSES, "unknown", "NF")


class Split(NamedTuple):
    """Images, (N, H, W, C) of uint8 with C = 1 or 3, and their labels, (N,) of int64."""

    images: np.ndarray | ImageFiles
    labels: np.ndarray


class Dataset(NamedTuple):
    """Training and test set, the names of the classes, and a validation set where there is one."""

    train: Split
    test: Split
    classes: tuple[str, ...]
    valid: Split | None = None


def cifar10(root: str | Path) -> Dataset:
    """CIFAR-10, `root` being ``cifar-10-batches-py/`` or the folder that holds it."""
    meta = _find(root, CIFAR, "cifar-10-batches-py/batches.meta", "batches.meta")
    [names] = _unpickle(meta, b"label_names")
    test, *train = (
        _cifar_split(_find(meta.parent, CIFAR, name), b"labels", len(names))
        for name in ("test_batch", *(f"data_batch_{i}" for i in range(1, 6)))
    )
    joined = Split(*map(np.concatenate, zip(*train, strict=True)))
    return Dataset(joined, test, tuple(name.decode() for name in names))


def cifar100(root: str | Path) -> Dataset:
    """CIFAR-100 with its fine labels, `root` being ``cifar-100-python/`` or its parent."""
    meta = _find(root, CIFAR, "cifar-100-python/meta", "meta")
    [names] = _unpickle(meta, b"fine_label_names")
    train, test = (
        _cifar_split(_find(meta.parent, CIFAR, name), b"fine_labels", len(names))
        for name in ("train", "test")
    )
    return Dataset(train, test, tuple(name.decode() for name in names))


def cifar_n(path: str | Path, which: str, true: np.ndarray | None = None) -> np.ndarray:
    """Human labels of the CIFAR training images (Wei et al. 2022), in the order of the images.

    `path` is ``CIFAR-10_human`` or ``CIFAR-100_human``, as the published .pt, or as an .npz or a
    dictionary in an .npy with the same keys. `which` is "aggre", "random1", "random2", "random3"
    or "worst" for CIFAR-10 and "noisy" for CIFAR-100. `true` labels of the first images tell
    whether the order is theirs.
    """
    if which not in CIFAR_N_KEYS:
        raise ValueError(f"which must be one of {', '.join(CIFAR_N_KEYS)}, got {which!r}")
    path = _find(Path(path).parent, CIFAR_N, Path(path).name)
    with _reading(path, CIFAR_N):
        labels = {".npz": _load_npz, ".npy": _load_npy}.get(path.suffix, _load_pt)(path)
    key = CIFAR_N_KEYS[which]
    if key not in labels:
        raise ValueError(f"{path} has no labels {key!r}, only {', '.join(labels)}")
    given = _labels(labels[key], 100 if which == "noisy" else 10, path)
    if true is not None:
        clean = labels.get("clean_label", true)
        if (n := min(len(given), len(clean))) < len(true):
            raise ValueError(f"{path} must have {len(true)} labels, one an image, got {n}")
        if differ := np.count_nonzero(clean[: len(true)] != true):
            raise ValueError(
                f"{path}: clean_label differs from the labels of {differ} of {len(true)} images; "
                "are they in another order?"
            )
    return given


def ferplus(
    root: str | Path, size: int = 48, vote: str = "plurality", lazy: bool = False
) -> Dataset:
    """FERPlus: grey faces of 48×48 pixels, ten votes each, 8 classes.

    `root` holds ``FER2013Train/``, ``FER2013Valid/`` and ``FER2013Test/`` as the publisher's
    generate_training_data.py writes them: images, and a ``label.csv`` with rows of
    name, box, ten vote counts (the eight classes, unknown, not a face).

    `vote` settles the label:

    - "plurality": the class with the most votes. Faces with more votes for unknown or for
      not-a-face than for any class are dropped; a tie goes to the class that comes first, and
      about 5 % are ties. 28,385 training, 3,555 validation and 3,545 test faces; papers print
      the 28,709, 3,589 and 3,589 of FER2013, before anything is dropped.
    - "majority": the rule of the publisher's own training program. Single votes are struck out,
      then one class must have more than half of what is left. 25,045, 3,191 and 3,137 faces.
    """

    def split(name: str) -> Split:
        table = _find(root, FERPLUS, f"{name}/label.csv")
        rows = _rows(table, 2 + len(VOTES))
        keep, labels = _count_votes([row[2:] for row in rows], vote, table)
        paths = [table.parent / rows[i][0] for i in keep]
        return Split(_images(ImageFiles(paths, "L", size, FERPLUS), lazy, table), labels)

    return Dataset(
        split("FER2013Train"), split("FER2013Test"), FERPLUS_CLASSES, split("FER2013Valid")
    )


def fer2013_csv(root: str | Path, size: int = 48, vote: str = "plurality") -> Dataset:
    """The same as `ferplus`, from ``fer2013.csv`` with the pixels, ``fer2013new.csv`` with votes.

    The rows of the two files belong together in order.
    """
    pixels_path = _find(root, FER2013, "fer2013.csv", "fer2013/fer2013.csv")
    votes_path = _find(root, FERPLUS, "fer2013new.csv")
    faces = _rows(pixels_path, 3, header=["emotion", "pixels", "Usage"])
    votes = _rows(votes_path, 2 + len(VOTES), header=["Usage", "Image name", *VOTES])
    if [row[2] for row in faces] != [row[0] for row in votes]:
        raise ValueError(
            f"{pixels_path} ({len(faces)} rows) and {votes_path} ({len(votes)} rows) "
            "must have the same rows: their column Usage differs"
        )

    def split(usage: str) -> Split:
        places = [i for i, row in enumerate(votes) if row[0] == usage and row[1]]
        keep, labels = _count_votes([votes[i][2:] for i in places], vote, votes_path)
        images = np.empty((len(keep), size, size, 1), np.uint8)
        for image, k in zip(images, keep, strict=True):
            try:
                face = np.frombuffer(bytes(map(int, faces[places[k]][1].split())), np.uint8)
                image[:] = resized(face.reshape(48, 48), size)[..., None]
            except ValueError as error:
                raise ValueError(
                    f"{pixels_path}, image {places[k]}: pixels must be 48 × 48 numbers from 0 to "
                    f"255 ({error})"
                ) from error
        return Split(images, labels)

    return Dataset(split("Training"), split("PrivateTest"), FERPLUS_CLASSES, split("PublicTest"))


def raf_db(
    root: str | Path,
    size: int = 100,
    label_file: str | Path | None = None,
    lazy: bool = False,
) -> Dataset:
    """RAF-DB, the basic expressions: aligned colour faces of 100×100 pixels, 7 classes.

    `root` is the folder ``basic/`` or holds it. `label_file` is a published list of training
    labels with noise in the form of ``list_patition_label.txt``, such as those with the programs
    of ReSup and of EAC; its training labels take the place of the right ones. Rows on test images
    are passed over in it.
    """
    place = "EmoLabel/list_patition_label.txt"
    table = _find(root, RAF_DB, place, f"basic/{place}")
    folder = table.parent.parent / "Image" / "aligned"
    labels = _raf_db_labels(table)
    given = labels
    if label_file:
        label_file = Path(label_file)
        given = _raf_db_labels(_find(label_file.parent, RAF_DB_NOISY, label_file.name))
    if strange := [name for name in labels if not name.startswith(("train", "test"))]:
        raise ValueError(f"{table}: names must begin with train or test, got {strange[0]}")

    def split(part: str, labels_of: dict[str, int]) -> Split:
        names = [name for name in labels if name.startswith(part)]
        if absent := [name for name in names if name not in labels_of]:
            raise ValueError(
                f"{label_file} lacks {len(absent)} of the {len(names)} {part} images of {table}, "
                f"the first is {absent[0]}"
            )
        paths = [folder / name.replace(".jpg", "_aligned.jpg") for name in names]
        images = _images(ImageFiles(paths, "RGB", size, RAF_DB), lazy, table)
        return Split(images, np.array([labels_of[name] for name in names]))

    return Dataset(split("train", given), split("test", labels), RAF_DB_CLASSES)


def affectnet(root: str | Path, size: int = 100, lazy: bool = False) -> Dataset:
    """AffectNet, the part labelled by hand: colour faces, 7 classes.

    `root` holds ``Manually_Annotated_file_lists/`` and ``Manually_Annotated_Images/``. The
    validation set serves as test set, as in all papers, since no other is given out. Rows labelled
    contempt, none, uncertain or not a face are passed over. 283,901 training faces take 8.5 GB at
    100×100 pixels, and 43 GB at 224×224: `lazy` leaves them in their files.
    """
    place = "Manually_Annotated_Images"
    folder = _find(root, AFFECTNET, place, f"Manually_Annotated/{place}")
    columns = ["subDirectory_filePath", "face_x", "face_y", "face_width", "face_height",
               "facial_landmarks", "expression", "valence", "arousal"]  # fmt: skip

    def split(name: str) -> Split:
        place = f"{name}.csv"
        table = _find(root, AFFECTNET, f"Manually_Annotated_file_lists/{place}", place)
        rows = [row for row in _rows(table, len(columns)) if row != columns]
        labels = _labels([row[6] for row in rows], 11, table)
        keep = np.flatnonzero(labels < len(AFFECTNET_CLASSES))
        left, top, width, height = _integers([rows[i][1:5] for i in keep], table).reshape(-1, 4).T
        boxes = np.stack([left, top, left + width, top + height], 1)
        paths = [folder / rows[i][0] for i in keep]
        files = ImageFiles(paths, "RGB", size, AFFECTNET, boxes)
        return Split(_images(files, lazy, table), labels[keep])

    return Dataset(split("training"), split("validation"), AFFECTNET_CLASSES)


def expw(root: str | Path, size: int = 100, lazy: bool = False) -> Dataset:
    """ExpW: colour faces cut out of photographs, 7 classes.

    `root` holds ``label/label.lst`` and ``image/origin/``, or ``data/`` with these. The publisher
    gives no split: a fifth of the photographs, always the same, serves as test set, so that faces
    of one photograph never stand on both sides.
    """
    table = _find(root, EXPW, "label/label.lst", "data/label/label.lst", "label.lst")
    folder = _find(root, EXPW, "image/origin", "data/image/origin", "origin")
    rows = _rows(table, 8, delimiter=" ")
    labels = _labels([row[7] for row in rows], len(EXPW_CLASSES), table)
    top, left, right, bottom = _integers([row[2:6] for row in rows], table).T
    boxes = np.stack([left, top, right, bottom], 1)
    photographs, photograph = np.unique([row[0] for row in rows], return_inverse=True)
    drawn = np.random.default_rng(0).permutation(len(photographs))
    in_test = (drawn < round(0.2 * len(photographs)))[photograph]

    def split(chosen: np.ndarray) -> Split:
        paths = [folder / rows[i][0] for i in np.flatnonzero(chosen)]
        files = ImageFiles(paths, "RGB", size, EXPW, boxes[chosen])
        return Split(_images(files, lazy, table), labels[chosen])

    return Dataset(split(~in_test), split(in_test), EXPW_CLASSES)


def expw_raf_db(root: str | Path, size: int = 100, lazy: bool = False) -> Dataset:
    """ExpW to train on and RAF-DB to test on, with the classes of both in ExpW's order.

    `root` holds ``expw/`` and ``rafdb/``, each as its own reader takes it. The training set is that
    of `expw`, so without the photographs of its test set.
    """
    train = expw(Path(root) / "expw", size, lazy=True).train
    test = raf_db(Path(root) / "rafdb", size, lazy=True).test
    order = np.array([EXPW_CLASSES.index(name) for name in RAF_DB_CLASSES])
    return Dataset(
        Split(_images(train.images, lazy, root), train.labels),
        Split(_images(test.images, lazy, root), order[test.labels]),
        EXPW_CLASSES,
    )


def _raf_db_labels(path: Path) -> dict[str, int]:
    rows = _rows(path, 2, delimiter=" ")
    labels = _labels([label for _, label in rows], len(RAF_DB_CLASSES), path, first=1)
    named = {name: int(label) for (name, _), label in zip(rows, labels, strict=True)}
    if len(named) < len(rows):
        raise ValueError(f"{path} names {len(rows) - len(named)} of its {len(rows)} images twice")
    return named


def _count_votes(
    counts: Sequence[Sequence[str]], vote: str, path: Path
) -> tuple[np.ndarray, np.ndarray]:
    """Rows whose votes settle on one of the eight classes, and that class."""
    if vote not in ("plurality", "majority"):
        raise ValueError(f"vote must be 'plurality' or 'majority', got {vote!r}")
    votes = _integers(counts, path).reshape(-1, len(VOTES))
    if (negative := (votes < 0).any(1)).any():
        row = ",".join(counts[negative.argmax()])
        raise ValueError(f"{path}: votes must be at least 0, got {row} in the first of such rows")
    if vote == "majority":
        votes = np.where(votes > 1, votes, 0)
        settled = 2 * votes.max(1) > votes.sum(1)
    else:
        settled = votes.max(1) > 0
    labels = votes.argmax(1)
    keep = np.flatnonzero(settled & (labels < len(FERPLUS_CLASSES)))
    if not len(keep):
        raise ValueError(f"{path}: in one part of the data no votes settle on a class")
    return keep, labels[keep]


def _cifar_split(path: Path, key: bytes, n_classes: int) -> Split:
    labels, pixels = _unpickle(path, key, b"data")
    if pixels.shape != (len(labels), 3 * 32 * 32) or pixels.dtype != np.uint8:
        raise ValueError(
            f"{path}: pixels must be uint8 of shape ({len(labels)}, 3072), one row a label, "
            f"got {pixels.dtype} of {pixels.shape}"
        )
    images = pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return Split(np.ascontiguousarray(images), _labels(labels, n_classes, path))


def _images(files: ImageFiles, lazy: bool, place: str | Path) -> np.ndarray | ImageFiles:
    if not len(files):
        raise ValueError(
            f"{place}: a part of the data has no image; the publisher is {files.source}"
        )
    return files if lazy else np.asarray(files)


def _rows(
    path: Path, columns: int, delimiter: str = ",", header: list[str] | None = None
) -> list[list[str]]:
    """Rows of a table without its header; blank lines are passed over."""
    quotes = csv.QUOTE_NONE if delimiter == " " else csv.QUOTE_MINIMAL
    with _reading(path), path.open(newline="", encoding="utf-8-sig") as file:
        lines = (line.strip() for line in file)
        rows = list(csv.reader(lines, delimiter=delimiter, quoting=quotes))
    for number, row in enumerate(rows, 1):
        if row and len(row) != columns:
            raise ValueError(f"{path}, line {number}: expected {columns} columns, got {len(row)}")
    rows = [row for row in rows if row]
    if header is not None and rows[:1] != [header]:
        raise ValueError(f"{path} must begin with the line {','.join(header)}")
    rows = rows[header is not None :]
    if not rows:
        raise ValueError(f"{path} is empty")
    return rows


def _integers(values: Any, path: Path) -> np.ndarray:
    try:
        if np.size(values) and np.asarray(values).dtype.kind == "f":
            raise ValueError("got fractions")
        return np.array(values, np.int64)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{path}: expected whole numbers ({error})") from error


def _labels(values: Any, n_classes: int, path: Path, first: int = 0) -> np.ndarray:
    """Labels that start at `first`, brought to 0 ... C - 1."""
    labels = _integers(values, path)
    if labels.ndim != 1 or labels.size == 0:
        raise ValueError(f"{path}: labels must have shape (N,), N >= 1, got {labels.shape}")
    if labels.min() < first or labels.max() >= first + n_classes:
        raise ValueError(
            f"{path}: labels must lie in [{first}, {first + n_classes}), "
            f"got values from {labels.min()} to {labels.max()}"
        )
    return labels - first


def _find(root: str | Path, source: str, *places: str) -> Path:
    for place in places:
        if (path := Path(root) / place).exists():
            return path
    raise FileNotFoundError(f"{Path(root) / places[0]} is missing; its publisher is {source}")


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
        if key not in allowed:
            raise pickle.UnpicklingError(f"{module}.{name} is not allowed in it")
        return allowed[key]


@contextmanager
def _reading(path: Path, source: str | None = None) -> Iterator[None]:
    """Name a damaged file, which can make its reader fail in any way."""
    try:
        yield
    except Exception as error:
        if str(path) in str(error):
            raise
        where = f"; its publisher is {source}" if source else ""
        raise ValueError(f"{path} cannot be read: {error!r}{where}") from error


def _unpickle(path: Path, *keys: bytes) -> list[Any]:
    with _reading(path, CIFAR), path.open("rb") as file:
        content = _load_dict(file, path, "bytes")
        return [content[key] for key in keys]


def _load_npz(path: Path) -> dict[str, np.ndarray]:
    with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        return dict(arrays)


def _load_npy(path: Path) -> dict[str, np.ndarray]:
    """Read a dictionary of numpy arrays saved with ``np.save``: a pickle after a header."""
    with path.open("rb") as file:
        np.lib.format.read_magic(file)
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        if shape or not dtype.hasobject:
            raise ValueError(
                f"{path} must hold a dictionary, got an array of {dtype} of shape {shape}, which "
                "does not say which labels it has: np.savez it under its key, such as worse_label"
            )
        return _load_dict(file, path, "ASCII")


def _load_pt(path: Path) -> dict[str, np.ndarray]:
    """Read a dictionary of numpy arrays saved with ``torch.save``: a zip of one pickle.

    Before torch 1.6 it was pickles in a row: a magic number, a version, the machine, the content.
    """
    with path.open("rb") as file:
        if file.read(len(LEGACY)) == LEGACY:
            for _ in ("version", "machine"):
                _ArrayUnpickler(file).load()
            return _load_dict(file, path, "ASCII")
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{path} is neither an .npz nor a zip written by torch.save")
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            if name.endswith("/data.pkl"):
                with archive.open(name) as file:
                    return _load_dict(file, path, "ASCII")
    raise ValueError(f"{path} has no data.pkl, torch.save did not write it")


def _load_dict(file: IO[bytes], path: Path, encoding: str) -> dict[Any, Any]:
    content = _ArrayUnpickler(file, encoding=encoding).load()
    if isinstance(content, np.ndarray) and not content.shape:  # as np.save wraps it
        content = content.item()
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold a dictionary, got {type(content).__name__}")
    return content
