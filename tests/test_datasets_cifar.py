"""The readers of CIFAR and of its human labels, on tiny files laid out as published."""

import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from paper import datasets


def write_cifar(folder, n_classes=10, labels=b"labels", dtype=np.uint8):
    """Batches of three images, their pixels numbered through channels first."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"class{i}".encode() for i in range(n_classes)]
    pixels = (np.arange(3 * 3072) % 251).astype(dtype).reshape(3, 3072)

    def dump(name, content):
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))

    if labels == b"labels":
        dump("batches.meta", {b"label_names": names})
        for i in range(1, 6):
            dump(f"data_batch_{i}", {b"data": pixels, b"labels": [i, 0, n_classes - 1]})
        dump("test_batch", {b"data": pixels[:2], b"labels": [4, 2]})
    else:
        dump("meta", {b"fine_label_names": names})
        dump("train", {b"data": pixels, b"fine_labels": [0, 1, 99], b"coarse_labels": [0, 0, 0]})
        dump("test", {b"data": pixels[:1], b"fine_labels": [7]})
    return pixels


def test_cifar10(tmp_path):
    pixels = write_cifar(tmp_path / "cifar-10-batches-py")
    data = datasets.cifar10(tmp_path)
    assert data.train.images.shape == (15, 32, 32, 3)
    assert data.train.images.dtype == np.uint8
    assert data.train.labels.dtype == np.int64
    assert data.train.labels.tolist() == [1, 0, 9, 2, 0, 9, 3, 0, 9, 4, 0, 9, 5, 0, 9]
    assert data.test.labels.tolist() == [4, 2]
    assert data.classes == tuple(f"class{i}" for i in range(10))
    assert data.valid is None
    for row, column, channel in ((0, 0, 0), (0, 1, 0), (1, 0, 2), (31, 31, 1)):
        expected = pixels[1, channel * 1024 + row * 32 + column]
        assert data.train.images[4, row, column, channel] == expected
    itself = datasets.cifar10(str(tmp_path / "cifar-10-batches-py"))
    np.testing.assert_array_equal(itself.train.images, data.train.images)


def test_cifar10_as_python_2_pickled_it(tmp_path):
    pixels = write_cifar(tmp_path)[:2]
    (tmp_path / "test_batch").write_bytes(
        b"\x80\x02}(U\x04datacnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b"
        b"\x87R(K\x01K\x02M\x00\x0c\x86cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNN"
        b"J\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T"
        + pixels.nbytes.to_bytes(4, "little")
        + pixels.tobytes()
        + b"tbU\x06labels](K\x04K\x02eu."
    )
    test = datasets.cifar10(tmp_path).test
    assert test.labels.tolist() == [4, 2]
    np.testing.assert_array_equal(test.images.transpose(0, 3, 1, 2).reshape(2, 3072), pixels)


def test_cifar100(tmp_path):
    write_cifar(tmp_path / "cifar-100-python", 100, b"fine_labels")
    data = datasets.cifar100(tmp_path)
    assert data.train.labels.tolist() == [0, 1, 99]
    assert data.test.labels.tolist() == [7]
    assert len(data.classes) == 100


def test_cifar_that_is_not_whole(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"cifar-10-batches-py.batches.meta .*kriz"):
        datasets.cifar10(tmp_path)
    folder = tmp_path / "cifar-10-batches-py"
    write_cifar(folder)
    (folder / "data_batch_3").unlink()
    with pytest.raises(FileNotFoundError, match="data_batch_3 is missing"):
        datasets.cifar10(tmp_path)
    whole = (folder / "data_batch_2").read_bytes()
    (folder / "data_batch_3").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="data_batch_3 cannot be read"):
        datasets.cifar10(tmp_path)
    batch = {b"data": np.zeros((3, 3072), np.uint8), b"labels": [0, 1]}
    (folder / "data_batch_3").write_bytes(pickle.dumps(batch, protocol=2))
    with pytest.raises(ValueError, match=r"shape \(2, 3072\), one row a label, got uint8 of \(3"):
        datasets.cifar10(tmp_path)
    (folder / "data_batch_3").write_bytes(pickle.dumps({b"fine_labels": [0]}, protocol=2))
    with pytest.raises(ValueError, match=r"data_batch_3 cannot be read: KeyError\(b'labels'\)"):
        datasets.cifar10(tmp_path)
    batch[b"labels"] = [0, 1, 10]
    (folder / "data_batch_3").write_bytes(pickle.dumps(batch, protocol=2))
    with pytest.raises(ValueError, match=r"data_batch_3: labels must lie in \[0, 10\), .* 0 to 10"):
        datasets.cifar10(tmp_path)


def test_a_pickle_that_calls_a_function_is_refused(tmp_path):
    touched = tmp_path / "touched"

    class Touch:
        def __reduce__(self):
            return Path.touch, (touched,)

    torch.save({"a": Touch()}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    np.save(tmp_path / "dict.npy", {"a": Touch()})
    for name in ("old.pt", "dict.npy"):
        with pytest.raises(ValueError, match=f"{name} cannot be read: .* is not allowed"):
            datasets.cifar_n(tmp_path / name, "aggre")
    (tmp_path / "batches.meta").write_bytes(pickle.dumps({b"label_names": Touch()}, protocol=2))
    with pytest.raises(ValueError, match=r"batches.meta cannot be read: .* is not allowed"):
        datasets.cifar10(tmp_path)
    assert not touched.exists()


def write_human(path, **labels):
    labels = {key: np.array(value) for key, value in labels.items()}
    if path.suffix == ".npz":
        np.savez(path, **labels)
    elif path.suffix == ".npy":
        np.save(path, labels)
    else:
        legacy = path.suffixes == [".old", ".pt"]
        torch.save(labels, path, _use_new_zipfile_serialization=not legacy)
    return path


@pytest.mark.parametrize("suffix", [".pt", ".old.pt", ".npz", ".npy"])
def test_cifar_n(tmp_path, suffix):
    path = write_human(
        tmp_path / f"CIFAR-10_human{suffix}",
        clean_label=[0, 1, 9],
        aggre_label=[0, 1, 8],
        worse_label=[7, 1, 8],
        random_label1=[1, 1, 1],
        random_label2=[2, 2, 2],
        random_label3=[3, 3, 3],
    )
    read = {
        which: datasets.cifar_n(path, which) for which in datasets.CIFAR_N_KEYS if which != "noisy"
    }
    assert {which: labels.tolist() for which, labels in read.items()} == {
        "aggre": [0, 1, 8],
        "worst": [7, 1, 8],
        "random1": [1, 1, 1],
        "random2": [2, 2, 2],
        "random3": [3, 3, 3],
    }
    assert read["worst"].dtype == np.int64
    with pytest.raises(ValueError, match="no labels 'noisy_label', only clean_label, aggre_label"):
        datasets.cifar_n(path, "noisy")
    with pytest.raises(ValueError, match=r"which must be one of aggre, .*got 'clean'"):
        datasets.cifar_n(path, "clean")
    hundred = write_human(tmp_path / f"CIFAR-100_human{suffix}", noisy_label=[99, 0])
    assert datasets.cifar_n(hundred, "noisy").tolist() == [99, 0]
    bad = write_human(tmp_path / f"bad{suffix}", aggre_label=[0, 10])
    with pytest.raises(ValueError, match=r"labels must lie in \[0, 10\), got values from 0 to 10"):
        datasets.cifar_n(bad, "aggre")


def test_cifar_n_of_other_images(tmp_path):
    true = np.array([0, 1, 2])
    path = write_human(tmp_path / "human.npz", clean_label=[0, 1, 2, 3], aggre_label=[0, 1, 1, 1])
    assert datasets.cifar_n(path, "aggre", true).tolist() == [0, 1, 1, 1]
    with pytest.raises(ValueError, match=r"clean_label differs .* of 2 of 3 images"):
        datasets.cifar_n(path, "aggre", true[::-1])
    with pytest.raises(ValueError, match=r"human\.npz must have 5 labels, one an image, got 4"):
        datasets.cifar_n(path, "aggre", np.arange(5))
    path = write_human(tmp_path / "cut.npz", clean_label=[0, 1], aggre_label=[0, 1, 1, 1])
    with pytest.raises(ValueError, match=r"cut\.npz must have 3 labels, one an image, got 2"):
        datasets.cifar_n(path, "aggre", true)


def test_cifar_n_that_is_something_else(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"human.pt is missing; .*cifar-10-100n"):
        datasets.cifar_n(tmp_path / "human.pt", "aggre")
    (tmp_path / "human.pt").write_text("<html>")
    with pytest.raises(ValueError, match=r"neither an .npz nor a zip"):
        datasets.cifar_n(tmp_path / "human.pt", "aggre")
    torch.save([np.zeros(3)], tmp_path / "list.pt")
    with pytest.raises(ValueError, match="must hold a dictionary, got list"):
        datasets.cifar_n(tmp_path / "list.pt", "aggre")
    torch.save({"aggre_label": torch.zeros(3)}, tmp_path / "tensor.pt")
    with pytest.raises(ValueError, match=r"tensor.pt cannot be read"):
        datasets.cifar_n(tmp_path / "tensor.pt", "aggre")
    torch.save([0], tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    with pytest.raises(ValueError, match="must hold a dictionary, got list"):
        datasets.cifar_n(tmp_path / "old.pt", "aggre")
    np.save(tmp_path / "plain.npy", np.zeros(3, np.int64))
    with pytest.raises(
        ValueError, match=r"dictionary, got an array of int64 of shape \(3,\).*savez"
    ):
        datasets.cifar_n(tmp_path / "plain.npy", "aggre")
    with zipfile.ZipFile(tmp_path / "other.pt", "w") as archive:
        archive.writestr("readme", "nothing")
    with pytest.raises(ValueError, match=r"has no data.pkl"):
        datasets.cifar_n(tmp_path / "other.pt", "aggre")
    np.savez(tmp_path / "whole.npz", aggre_label=np.arange(5))
    (tmp_path / "cut.npz").write_bytes((tmp_path / "whole.npz").read_bytes()[:100])
    with pytest.raises(ValueError, match=r"cut.npz cannot be read: BadZipFile.*cifar-10-100n"):
        datasets.cifar_n(tmp_path / "cut.npz", "aggre")
