"""The readers of the face sets, on tiny files laid out as their publishers do."""

import sys

import numpy as np
import pytest
from paper import datasets

VOTES = "neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,unknown,NF"


@pytest.fixture
def image():
    return pytest.importorskip("PIL.Image", reason="reading images needs Pillow")


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def save(image, path, colour, size=(6, 6)):
    path.parent.mkdir(parents=True, exist_ok=True)
    image.new("RGB" if isinstance(colour, tuple) else "L", size, colour).save(path)


def colours(split):
    """The one colour of every image."""
    assert (split.images == split.images[:, :1, :1]).all()
    return split.images[:, 0, 0].tolist()


# FERPlus: what the votes say, what plurality makes of it, and what the majority rule does

BALLOTS = [
    ("6,0,1,1,0,0,0,0,2,0", 0, 0),
    ("4,0,0,4,0,0,0,0,2,0", 0, None),  # a tie
    ("0,3,3,4,0,0,0,0,0,0", 3, None),  # less than half
    ("1,1,1,1,1,0,5,0,0,0", 6, 6),  # half, but more than half without the single votes
    ("0,0,0,0,0,0,0,2,8,0", None, None),  # unknown
    ("0,0,0,0,0,0,0,4,0,6", None, None),  # not a face
    ("1,1,1,1,1,1,1,1,1,1", 0, None),  # only single votes
]
PLURALITY = [(i, label) for i, (_, label, _) in enumerate(BALLOTS) if label is not None]
MAJORITY = [(i, label) for i, (_, _, label) in enumerate(BALLOTS) if label is not None]


def write_ferplus(image, root, size=48):
    for shade, part in enumerate(("Train", "Valid", "Test")):
        folder = root / f"FER2013{part}"
        lines = []
        for i, (votes, _, _) in enumerate(BALLOTS):
            save(image, folder / f"fer{i:07}.png", 10 * i + shade, (size, size))
            lines.append(f'fer{i:07}.png,"(0, 0, 48, 48)",{votes}\n')
        write(folder / "label.csv", "".join(lines))


@pytest.mark.parametrize(("vote", "expected"), [("plurality", PLURALITY), ("majority", MAJORITY)])
def test_ferplus(tmp_path, image, vote, expected):
    write_ferplus(image, tmp_path)
    data = datasets.ferplus(tmp_path, vote=vote)
    for shade, split in enumerate((data.train, data.valid, data.test)):
        assert split.images.shape == (len(expected), 48, 48, 1)
        assert split.images.dtype == np.uint8
        assert split.labels.dtype == np.int64
        assert split.labels.tolist() == [label for _, label in expected]
        assert colours(split) == [[10 * i + shade] for i, _ in expected]
    assert len(data.classes) == 8
    assert datasets.ferplus(tmp_path, 20).train.images.shape[1:] == (20, 20, 1)


def test_ferplus_that_is_not_whole(tmp_path, image):
    with pytest.raises(FileNotFoundError, match=r"FER2013Train.label.csv is missing; .*FERPlus"):
        datasets.ferplus(tmp_path)
    write_ferplus(image, tmp_path)
    with pytest.raises(ValueError, match="vote must be 'plurality' or 'majority', got 'mean'"):
        datasets.ferplus(tmp_path, vote="mean")
    damaged = write(tmp_path / "FER2013Train" / "fer0000002.png", "not an image")
    with pytest.raises(ValueError, match=r"fer0000002.png cannot be read as an image"):
        datasets.ferplus(tmp_path)
    image.fromarray(np.full((48, 48), 9_000, np.uint16)).save(damaged)
    with pytest.raises(ValueError, match=r"fer0000002.png cannot .* I;16 have more than 8 bits"):
        datasets.ferplus(tmp_path)
    damaged.unlink()
    with pytest.raises(FileNotFoundError, match=r"1 of 5 images are missing.*fer0000002.png"):
        datasets.ferplus(tmp_path)
    table = tmp_path / "FER2013Train" / "label.csv"
    text = table.read_text()
    write(table, text.replace("6,0,1,1", "6,0,1,one"))
    with pytest.raises(ValueError, match=r"label.csv: expected whole numbers"):
        datasets.ferplus(tmp_path)
    write(table, text.replace("6,0,1,1", "6,0,1"))
    with pytest.raises(ValueError, match=r"label.csv, line 1: expected 12 columns, got 11"):
        datasets.ferplus(tmp_path)
    write(table, "")
    with pytest.raises(ValueError, match=r"label.csv is empty"):
        datasets.ferplus(tmp_path)


def write_fer2013(root):
    faces, votes = ["emotion,pixels,Usage"], [f"Usage,Image name,{VOTES}"]
    for shade, usage in enumerate(("Training", "PublicTest", "PrivateTest")):
        for i, (ballot, _, _) in enumerate(BALLOTS):
            faces.append(f"6,{' '.join([str(10 * i + shade)] * 48 * 48)},{usage}")
            votes.append(f"{usage},fer{i:07}.png,{ballot}")
        faces.append(f"0,{' '.join(['255'] * 48 * 48)},{usage}")
        votes.append(f"{usage},,9,0,0,0,0,0,0,0,0,1")  # no name: the publisher writes no image
    write(root / "fer2013.csv", "\n".join(faces) + "\n")
    write(root / "fer2013new.csv", "\n".join(votes) + "\n")


@pytest.mark.parametrize(("vote", "expected"), [("plurality", PLURALITY), ("majority", MAJORITY)])
def test_fer2013_csv(tmp_path, vote, expected):
    write_fer2013(tmp_path)
    data = datasets.fer2013_csv(tmp_path, vote=vote)
    for shade, split in enumerate((data.train, data.valid, data.test)):
        assert split.images.shape == (len(expected), 48, 48, 1)
        assert split.labels.tolist() == [label for _, label in expected]
        assert colours(split) == [[10 * i + shade] for i, _ in expected]


def test_votes_below_zero(tmp_path):
    write_fer2013(tmp_path)
    path = tmp_path / "fer2013new.csv"
    path.write_text(path.read_text().replace(BALLOTS[0][0], less := "-1,1,1,1,1,1,1,1,1,3"))
    with pytest.raises(ValueError, match=rf"fer2013new\.csv: votes must be at least 0, got {less}"):
        datasets.fer2013_csv(tmp_path)


def test_a_part_of_fer2013_without_a_face(tmp_path):
    write_fer2013(tmp_path)
    for name in ("fer2013.csv", "fer2013new.csv"):
        path = tmp_path / name
        path.write_text(path.read_text().replace("PrivateTest", "Test"))
    with pytest.raises(ValueError, match=r"fer2013new\.csv: in one part .* no votes settle"):
        datasets.fer2013_csv(tmp_path)


def test_fer2013_csv_is_ferplus(tmp_path, image):
    write_fer2013(tmp_path)
    write_ferplus(image, tmp_path)
    for size in (48, 30):
        tables, files = datasets.fer2013_csv(tmp_path, size), datasets.ferplus(tmp_path, size)
        for a, b in zip(tables[:2], files[:2], strict=True):
            np.testing.assert_array_equal(a.images, b.images)
            np.testing.assert_array_equal(a.labels, b.labels)


def test_fer2013_csv_that_is_not_whole(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"fer2013.csv is missing; .*kaggle"):
        datasets.fer2013_csv(tmp_path)
    write_fer2013(tmp_path)
    votes, faces = tmp_path / "fer2013new.csv", tmp_path / "fer2013.csv"
    text = votes.read_text()
    votes.unlink()
    with pytest.raises(FileNotFoundError, match=r"fer2013new.csv is missing; .*FERPlus"):
        datasets.fer2013_csv(tmp_path)
    write(votes, text.rsplit("PrivateTest", 1)[0])
    with pytest.raises(ValueError, match=r"24 rows\) and .*23 rows\) must have the same rows"):
        datasets.fer2013_csv(tmp_path)
    write(votes, text.split("\n", 1)[1])
    with pytest.raises(ValueError, match=r"fer2013new.csv must begin with the line Usage,Image"):
        datasets.fer2013_csv(tmp_path)
    write(votes, text)
    write(faces, faces.read_text().replace("20 20,", "20 256,", 1))
    with pytest.raises(ValueError, match=r"fer2013.csv, image 2: pixels must be 48 × 48"):
        datasets.fer2013_csv(tmp_path)


# RAF-DB

RAF_DB = "train_00001.jpg 5\ntrain_00002.jpg 1\ntrain_00003.jpg 7\ntest_0001.jpg 4\n"


def write_raf_db(image, root):
    write(root / "EmoLabel" / "list_patition_label.txt", RAF_DB)
    for i, line in enumerate(RAF_DB.splitlines()):
        name = line.split()[0].replace(".jpg", "_aligned.jpg")
        save(image, root / "Image" / "aligned" / name, (60 * i, 60 * i, 60 * i), (100, 100))


def test_raf_db(tmp_path, image):
    write_raf_db(image, tmp_path / "basic")
    data = datasets.raf_db(tmp_path)
    assert data.train.images.shape == (3, 100, 100, 3)
    assert data.train.labels.tolist() == [4, 0, 6]
    assert data.test.labels.tolist() == [3]
    assert data.classes[4] == "sadness"
    np.testing.assert_allclose(colours(data.train), [[0] * 3, [60] * 3, [120] * 3], atol=2)
    assert datasets.raf_db(tmp_path / "basic", 32).test.images.shape == (1, 32, 32, 3)


@pytest.mark.parametrize("rest", ["", "test_0001.jpg 1\n"])
def test_raf_db_with_published_noise(tmp_path, image, rest):
    write_raf_db(image, tmp_path)
    noisy = "train_00003.jpg 7\ntrain_00001.jpg 2\ntrain_00002.jpg 1\n" + rest
    data = datasets.raf_db(tmp_path, label_file=write(tmp_path / "noise.txt", noisy))
    assert data.train.labels.tolist() == [1, 0, 6]
    assert data.test.labels.tolist() == [3]


def test_raf_db_with_a_byte_order_mark(tmp_path, image):
    write_raf_db(image, tmp_path)
    table = tmp_path / "EmoLabel" / "list_patition_label.txt"
    table.write_bytes(b"\xef\xbb\xbf" + table.read_bytes())
    assert datasets.raf_db(tmp_path).train.labels.tolist() == [4, 0, 6]
    write(table, RAF_DB + "Train_00004.jpg 2\n")
    with pytest.raises(ValueError, match=r"must begin with train or test, got Train_00004.jpg"):
        datasets.raf_db(tmp_path)


def test_a_part_without_images_is_told(tmp_path, image):
    write_raf_db(image, tmp_path)
    write(tmp_path / "EmoLabel" / "list_patition_label.txt", "train_00001.jpg 1\n")
    with pytest.raises(ValueError, match=r"label.txt: a part of the data has no image; .*whdeng"):
        datasets.raf_db(tmp_path)


def test_raf_db_that_is_not_whole(tmp_path, image):
    with pytest.raises(FileNotFoundError, match=r"list_patition_label.txt is missing; .*whdeng"):
        datasets.raf_db(tmp_path)
    write_raf_db(image, tmp_path)
    noise = tmp_path / "noise.txt"
    with pytest.raises(FileNotFoundError, match=r"noise.txt is missing; .* the authors of the pap"):
        datasets.raf_db(tmp_path, label_file=noise)
    for text, message in (
        ("train_00001.jpg 8\n", r"noise.txt: labels must lie in \[1, 8\), got values from 8 to 8"),
        ("train_00001.jpg 0\n", r"labels must lie in \[1, 8\), got values from 0 to 0"),
        ("train_00001.jpg happy\n", "noise.txt: expected whole numbers"),
        ("train_00001.jpg\n", "noise.txt, line 1: expected 2 columns, got 1"),
        ("train_00001.jpg 1\n", "lacks 2 of the 3 train images of .*, the first is train_00002"),
        (RAF_DB + "train_00001.jpg 1\n", "names 1 of its 5 images twice"),
        ('train_00001.jpg "1\n', "noise.txt: expected whole numbers"),
    ):
        with pytest.raises(ValueError, match=message):
            datasets.raf_db(tmp_path, label_file=write(noise, text))
    (tmp_path / "Image" / "aligned" / "test_0001_aligned.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"1 of 1 images .*test_0001_aligned.jpg.*on req"):
        datasets.raf_db(tmp_path)


# AffectNet and ExpW: faces cut out of larger pictures


def save_scene(image, path):
    """Grey, with a face of 4 × 6 pixels at column 3, row 2."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scene = image.new("RGB", (20, 10), (128, 128, 128))
    scene.paste((250, 0, 0), (3, 2, 7, 8))
    scene.save(path)


def write_affectnet(image, root):
    head = "subDirectory_filePath,face_x,face_y,face_width,face_height,facial_landmarks,expression,valence,arousal"  # noqa: E501
    rows = [f"1/{e}.png,3,2,4,6,1.5;2.5,{e},0.5,-0.5" for e in range(11)]
    lists = root / "Manually_Annotated_file_lists"
    write(lists / "training.csv", "\n".join([head, *rows]))
    write(lists / "validation.csv", "\n".join(rows[::-1]))  # published without a header
    for e in range(8):
        save_scene(image, root / "Manually_Annotated_Images" / "1" / f"{e}.png")


def test_affectnet(tmp_path, image):
    write_affectnet(image, tmp_path)
    data = datasets.affectnet(tmp_path, 12)
    assert data.train.images.shape == (7, 12, 12, 3)
    assert data.train.labels.tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert data.test.labels.tolist() == [6, 5, 4, 3, 2, 1, 0]
    assert len(data.classes) == 7
    assert colours(data.train) == [[250, 0, 0]] * 7


def test_affectnet_that_is_not_whole(tmp_path, image):
    with pytest.raises(FileNotFoundError, match=r"Manually_Annotated_Images is missing; .*mahoor"):
        datasets.affectnet(tmp_path)
    write_affectnet(image, tmp_path)
    table = tmp_path / "Manually_Annotated_file_lists" / "training.csv"
    text = table.read_text()
    write(table, text.replace("1/0.png,3,2", "1/0.png,NULL,2"))
    with pytest.raises(ValueError, match=r"training.csv: expected whole numbers .*NULL"):
        datasets.affectnet(tmp_path)
    write(table, text.replace("1/0.png,3,2", "1/0.png,20,2"))
    with pytest.raises(ValueError, match=r"0.png cannot .* box \(20, 2, 24, 8\) has no pixel"):
        datasets.affectnet(tmp_path)
    write(table, text.replace("1.5;2.5,10", "1.5;2.5,11"))
    with pytest.raises(ValueError, match=r"labels must lie in \[0, 11\), got values from 0 to 11"):
        datasets.affectnet(tmp_path)


def write_expw(image, root):
    """Ten photographs of two faces: the red one, and one that reaches over the border."""
    lines = []
    for i in range(10):
        save_scene(image, root / "image" / "origin" / f"scene_{i}.png")
        lines.append(f"scene_{i}.png 0 2 3 7 8 {10 * i}.5 {i % 7}\n")
        lines.append(f"scene_{i}.png 1 -5 15 30 30 99.0 6\n")
    return write(root / "label" / "label.lst", "".join(lines))


def test_expw(tmp_path, image):
    write_expw(image, tmp_path / "data")
    data = datasets.expw(tmp_path, 8)
    assert data.train.images.shape == (16, 8, 8, 3)
    assert data.test.images.shape == (4, 8, 8, 3)
    assert colours(data.train) == [[250, 0, 0], [128, 128, 128]] * 8
    assert (data.train.labels[1::2] == 6).all()
    both = np.concatenate([data.train.labels[::2], data.test.labels[::2]])
    assert sorted(both) == sorted(i % 7 for i in range(10))
    assert data.classes[0] == "anger"
    assert data.classes[6] == "neutral"


def test_expw_tested_on_raf_db(tmp_path, image):
    write_expw(image, tmp_path / "expw")
    write_raf_db(image, tmp_path / "rafdb")
    data, own = datasets.expw_raf_db(tmp_path, 8), datasets.expw(tmp_path / "expw", 8)
    assert data.classes == own.classes
    np.testing.assert_array_equal(data.train.images, own.train.images)
    np.testing.assert_array_equal(data.train.labels, own.train.labels)
    other = datasets.raf_db(tmp_path / "rafdb", 8)
    np.testing.assert_array_equal(data.test.images, other.test.images)
    names = [[d.classes[label] for label in d.test.labels] for d in (data, other)]
    assert names[0] == names[1] == ["happiness"]
    lazy = datasets.expw_raf_db(tmp_path, 8, lazy=True)
    np.testing.assert_array_equal(np.asarray(lazy.test.images), data.test.images)


def test_expw_that_is_not_whole(tmp_path, image):
    with pytest.raises(FileNotFoundError, match=r"label.lst is missing; .*socialrelation"):
        datasets.expw(tmp_path)
    table = write_expw(image, tmp_path)
    text = table.read_text()
    for old, new, message in (
        ("0.5 0", "0.5 7", r"labels must lie in \[0, 7\), got values from 0 to 7"),
        ("0 2 3 7 8", "0 2 3 7", "line 1: expected 8 columns, got 7"),
        ("0 2 3 7 8", "0 2 3 3 8", r"scene_0.png cannot .*box \(3, 2, 3, 8\) has no pixel"),
    ):
        write(table, text.replace(old, new, 1))
        with pytest.raises(ValueError, match=message):
            datasets.expw(tmp_path, 8)


def test_pillow_is_asked_for_when_it_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    for part in ("Train", "Valid", "Test"):
        write(tmp_path / f"FER2013{part}" / "label.csv", 'a.png,"(0, 0, 48, 48)",9,1' + ",0" * 8)
    with pytest.raises(ImportError, match="needs Pillow: pip install pillow"):
        datasets.ferplus(tmp_path)
