"""Image data: every form that it is given in, every way in which it can be wrong, and what is drawn from it."""

from __future__ import annotations

import gzip
import io
import os
import pickle
import sys
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lut.errors import DataError, FileAccessError, UsageError
from search._data import _images as _data
from search._data._images import ImageData, bilevel_split, check_data, data_name, load_data, make_generator, subset
from search._training._augment import augment, prepare
from search._training._recipe import Recipe

Image = pytest.importorskip("PIL.Image")

NAMES = [f"class{i}" for i in range(10)]
REAL = Path(os.environ.get("LATENCY_LUT_DATA") or Path(__file__).parents[1] / "../shared/data")
CIFAR = REAL / "cifar10" / "cifar10_jpeg.tar.gz"


def pixels(number: int, count: int) -> np.ndarray[Any, Any]:
    """Return rows of one batch, uint8 (count, 3072)."""
    return np.random.default_rng(number).integers(0, 256, (count, 3072), dtype=np.uint8)


def python_files(per_batch: int = 10, *, protocol: int = 2) -> dict[str, bytes]:
    """Return CIFAR-10's files as its Python archive has them, with keys of bytes."""
    files = {}
    for number, name in enumerate([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]):
        batch = {b"data": pixels(number, per_batch), b"labels": [i % 10 for i in range(per_batch)]}
        files[name] = pickle.dumps({**batch, b"batch_label": b"of 6", b"filenames": [b"x.png"]}, protocol=protocol)
    files["batches.meta"] = pickle.dumps({b"label_names": [n.encode() for n in NAMES]}, protocol=protocol)
    return {f"cifar-10-batches-py/{name}": content for name, content in files.items()}


def binary_files(per_batch: int = 10) -> dict[str, bytes]:
    """Return the same as :func:`python_files`, as the binary archive has it."""
    files = {}
    for number, name in enumerate([*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]):
        rows = pixels(number, per_batch)
        files[name] = b"".join(bytes([i % 10]) + row.tobytes() for i, row in enumerate(rows))
    files["batches.meta.txt"] = "\n".join([*NAMES, "", ""]).encode()
    return {f"cifar-10-batches-bin/{name}": content for name, content in files.items()}


def tar_of(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def folder_of(path: Path, files: dict[str, bytes]) -> Path:
    path.mkdir(exist_ok=True)
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return path


def png(number: int, size: tuple[int, int] = (32, 32), mode: str = "RGB") -> bytes:
    width, height = size
    values = np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(values).convert(mode).save(stream, "PNG")
    return stream.getvalue()


def image_files(*prefixes: str, classes: tuple[str, ...] = ("cat", "dog"), each: int = 5) -> dict[str, bytes]:
    files = {}
    for p, prefix in enumerate(prefixes):
        for c, name in enumerate(classes):
            for i in range(each):
                files[f"{prefix}{name}/{i:04}.png"] = png(100 * p + 10 * c + i)
    return files


def same(first: ImageData, second: ImageData) -> bool:
    return first.digest == second.digest


def test_digits_need_no_file() -> None:
    data = load_data("digits")
    assert data.classes == tuple("0123456789")
    assert not data.mirrored
    assert data.train_images.shape == (1438, 3, 32, 32)
    assert data.test_images.shape == (359, 3, 32, 32)
    assert data.train_images.dtype == data.test_images.dtype == torch.uint8
    assert data.train_images.max() == 255
    shares = torch.bincount(data.test_labels) / (torch.bincount(data.train_labels) + torch.bincount(data.test_labels))
    assert ((shares - 0.2).abs() < 0.01).all()
    assert same(data, load_data("digits"))
    values = data.train_images.double() / 255
    torch.testing.assert_close(data.mean, values.mean((0, 2, 3)).float())
    torch.testing.assert_close(data.std, values.std((0, 2, 3), correction=0).float())


@pytest.mark.parametrize(
    "text",
    ["", "mnist", "digits:", "digits:/x", "digits:load", "cifar10", "cifar10:", "images", "cifar1:/x", "x:1", ":x"],
)
def test_unknown_data_are_refused_with_the_forms(text: str) -> None:
    with pytest.raises(UsageError, match=r"digits, cifar10:PATH, cifar100:PATH, images:PATH, FILE\.py:FUNCTION"):
        load_data(text)


@pytest.mark.parametrize("kind", ["cifar10", "cifar100", "images"])
def test_a_missing_path_is_said(kind: str, tmp_path: Path) -> None:
    with pytest.raises(FileAccessError, match="no such file"):
        load_data(f"{kind}:{tmp_path}/missing.tar.gz")


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_cifar_is_the_same_in_every_form(tmp_path: Path, protocol: int) -> None:
    python, binary = python_files(protocol=protocol), binary_files()
    folder = folder_of(tmp_path / "extracted", python)
    other = folder_of(tmp_path / "other", binary)
    forms = [
        tar_of(tmp_path / "cifar-10-python.tar.gz", python),
        tar_of(tmp_path / "cifar-10-binary.tar", binary),
        folder,
        folder / "cifar-10-batches-py",
        other,
        other / "cifar-10-batches-bin",
    ]
    data = [load_data(f"cifar10:{form}") for form in forms]
    assert len({item.digest for item in data}) == 1
    first = data[0]
    assert first.name == "cifar10"
    assert first.mirrored
    assert first.classes == tuple(NAMES)
    assert first.train_labels.tolist() == list(range(10)) * 5
    assert first.train_images.shape == (50, 3, 32, 32)
    assert np.array_equal(first.train_images[10:20].numpy().reshape(10, -1), pixels(1, 10))
    assert np.array_equal(first.test_images.numpy().reshape(10, -1), pixels(5, 10))


def test_cifar100_has_its_fine_labels(tmp_path: Path) -> None:
    fine = [f"fine{i:02}" for i in range(100)]
    labels = list(range(100))
    rows = {"train": pixels(0, 100), "test": pixels(1, 100)}
    python = {
        name: pickle.dumps({b"data": data, b"fine_labels": labels, b"coarse_labels": [0] * 100}, protocol=2)
        for name, data in rows.items()
    }
    python["meta"] = pickle.dumps({b"fine_label_names": [n.encode() for n in fine]}, protocol=2)
    python["file.txt~"] = b""
    binary = {f"{n}.bin": b"".join(bytes([7, i]) + r.tobytes() for i, r in enumerate(d)) for n, d in rows.items()}
    binary |= {"fine_label_names.txt": "\n".join(fine).encode(), "coarse_label_names.txt": b"x"}
    first = load_data(f"cifar100:{tar_of(tmp_path / 'p.tar', {f'cifar-100-python/{n}': c for n, c in python.items()})}")
    second = load_data(f"cifar100:{folder_of(tmp_path / 'cifar-100-binary', binary)}")
    assert same(first, second)
    assert first.classes == tuple(fine)
    assert first.test_labels.tolist() == labels
    assert np.array_equal(first.test_images.numpy().reshape(100, -1), rows["test"])


class Hostile:
    """Unpickled by the usual means, it makes a file."""

    def __init__(self, make: Any, *args: Any) -> None:
        self.call = make, args

    def __reduce__(self) -> Any:
        return self.call


def test_a_hostile_pickle_is_refused_and_runs_nothing(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    calls = [
        Hostile(os.system, f"touch {mark}"),
        Hostile(eval, f"open({str(mark)!r}, 'w')"),
        Hostile(Path.touch, mark),
        Hostile(np.load, str(mark)),
        Hostile(getattr, np.ndarray, "tofile"),
    ]
    for number, call in enumerate(calls):
        assert not mark.exists()
        files = python_files()
        files["cifar-10-batches-py/data_batch_3"] = pickle.dumps({b"data": call, b"labels": [0]}, protocol=2)
        for place in (tar_of(tmp_path / f"{number}.tar", files), folder_of(tmp_path / f"f{number}", files)):
            with pytest.raises(DataError, match="data_batch_3 is refused"):
                load_data(f"cifar10:{place}")
    assert not mark.exists()
    # The mark is one that would be seen.
    pickle.loads(pickle.dumps(calls[1])).close()
    assert mark.exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("data_batch_2", b"", "data_batch_2 is damaged"),
        ("data_batch_2", python_files()["cifar-10-batches-py/data_batch_2"][:-50], "data_batch_2 is damaged"),
        ("data_batch_2", pickle.dumps([1]), "CIFAR file"),
        ("data_batch_2", pickle.dumps({b"data": np.zeros((1, 3072)), b"labels": [1]}), "no images of 3072 bytes"),
        ("data_batch_2", pickle.dumps({b"data": np.zeros((1, 12), np.uint8), b"labels": [1]}), "no images of 3072"),
        ("data_batch_2", pickle.dumps({b"data": np.zeros((1, 3072), np.uint8), b"labels": [10]}), "a label of 0 … 9"),
        ("data_batch_2", pickle.dumps({b"data": np.zeros((2, 3072), np.uint8), b"labels": [1]}), "a label of 0 … 9"),
        ("data_batch_2", pickle.dumps({b"data": np.zeros((0, 3072), np.uint8), b"labels": []}), "holds no images"),
        ("batches.meta", pickle.dumps({b"label_names": [b"a"]}), "does not name 10 classes"),
        ("batches.meta", pickle.dumps({b"label_names": [b"a"] * 10}), "names a class twice"),
        ("test_batch", None, "lacks test_batch"),
    ],
)
def test_damaged_python_files(name: str, content: bytes | None, message: str, tmp_path: Path) -> None:
    files = python_files()
    key = f"cifar-10-batches-py/{name}"
    if content is None:
        del files[key]
    else:
        files[key] = content
    with pytest.raises(DataError, match=message):
        load_data(f"cifar10:{tar_of(tmp_path / 'cifar.tar', files)}")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x01" * 3072, "not a multiple of an image's 3073"),
        (b"\x0a" * 3073, "a label above 9"),
        (b"", "holds no images"),
    ],
)
def test_damaged_binary_files(content: bytes, message: str, tmp_path: Path) -> None:
    files = {**binary_files(), "cifar-10-batches-bin/data_batch_4.bin": content}
    with pytest.raises(DataError, match=message):
        load_data(f"cifar10:{tar_of(tmp_path / 'cifar.tar', files)}")


def test_images_lie_in_sets_or_in_classes(tmp_path: Path) -> None:
    files = {**image_files("train/", "test/"), "README.md": b"x", "train/._cat.png": b"x", "train/cat/notes.txt": b"x"}
    data = load_data(f"images:{tar_of(tmp_path / 'a.tar.gz', files)}")
    assert data.classes == ("cat", "dog")
    assert data.train_labels.tolist() == data.test_labels.tolist() == [0] * 5 + [1] * 5
    with Image.open(io.BytesIO(files["test/dog/0003.png"])) as image:
        assert np.array_equal(data.test_images[8].permute(1, 2, 0).numpy(), np.array(image))
    backwards = dict(reversed(files.items()))
    under = {f"./some folder/{name}": content for name, content in files.items()}
    val = {name.replace("test/", "val/"): content for name, content in files.items()}
    unused = {**files, "val/cat/0.png": png(5)}
    for number, others in enumerate([backwards, under, val, unused]):
        assert same(data, load_data(f"images:{tar_of(tmp_path / f'{number}.tar', others)}"))
        assert same(data, load_data(f"images:{folder_of(tmp_path / f'f{number}', others)}"))
    whole = load_data(f"images:{tar_of(tmp_path / 'whole.tar', image_files('top/', each=10))}")
    assert Counter(whole.train_labels.tolist()) == {0: 8, 1: 8}
    assert Counter(whole.test_labels.tolist()) == {0: 2, 1: 2}
    assert same(whole, load_data(f"images:{folder_of(tmp_path / 'whole', image_files('', each=10))}"))


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    files = image_files("", classes=("plane", "train"))
    assert load_data(f"images:{folder_of(tmp_path / 'x', files)}").classes == ("plane", "train")


def test_images_of_other_kinds_become_rgb(tmp_path: Path) -> None:
    files = {f"{name}/{i}.png": png(i, mode=mode) for i in range(2) for name, mode in (("a", "L"), ("b", "P"))}
    assert load_data(f"images:{folder_of(tmp_path / 'x', files)}").train_images.shape == (2, 3, 32, 32)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "no images"),
        ({"train/cat/readme.txt": b"x"}, "no images"),
        ({**image_files("train/", "test/"), "train/cat/0009.png": png(1, (32, 31))}, "cat/0009.png is 32×31 pixels"),
        ({**image_files("train/", "test/"), "train/cat/0009.png": png(1)[:200]}, "cat/0009.png is broken"),
        ({**image_files("train/", "test/"), "train/cat/0009.jpg": b""}, "cat/0009.jpg is broken"),
        (image_files("train/", "test/", classes=("cat",)), "one class only"),
        (image_files("", classes=("cat",)), "one class only"),
        ({**image_files("train/", "test/"), "test/emu/1.png": png(1)}, "'emu' is among the test images but not"),
        (image_files("train/"), "none of test or val"),
        (image_files("test/"), "does not lie in a class's folder"),
        ({**image_files("train/", "test/"), "extra/cat/1.png": png(1)}, "extra/cat/1.png lies neither in train"),
        ({**image_files("train/", "test/"), "train/1.png": png(1)}, "train/1.png does not lie in a class's folder"),
        ({**image_files(""), "1.png": png(1)}, "1.png does not lie in a class's folder"),
        ({**image_files(""), "emu/1.png": png(1)}, "'emu' has a single image"),
    ],
)
def test_images_that_cannot_be_used(files: dict[str, bytes], message: str, tmp_path: Path) -> None:
    for place in (tar_of(tmp_path / "images.tar", files), folder_of(tmp_path / "images", files)):
        with pytest.raises(DataError, match=message):
            load_data(f"images:{place}")


def test_cifar_as_images_must_have_its_classes(tmp_path: Path) -> None:
    ten = tar_of(tmp_path / "ten.tar", image_files("train/", "test/", classes=tuple(NAMES), each=1))
    assert load_data(f"cifar10:{ten}").name == "cifar10"
    with pytest.raises(DataError, match="has 10 classes, and cifar100 has 100"):
        load_data(f"cifar100:{ten}")
    with pytest.raises(DataError, match="no images"):
        load_data(f"cifar100:{tar_of(tmp_path / 'cifar-10.tar', python_files())}")


def test_what_is_no_archive(tmp_path: Path) -> None:
    text = tmp_path / "text.tar.gz"
    text.write_text("hello")
    cut = tmp_path / "cut.tar.gz"
    cut.write_bytes(tar_of(tmp_path / "whole.tar.gz", image_files("train/", "test/")).read_bytes()[:-3000])
    broken = tmp_path / "broken.tar.gz"
    content = bytearray(gzip.compress(tar_of(tmp_path / "w.tar", python_files()).read_bytes()))
    content[50_000:50_100] = bytes(100)
    broken.write_bytes(content)
    # tarfile takes a damaged header for the end: images would be missing, and nobody would know.
    header = tmp_path / "header.tar"
    content = bytearray(tar_of(tmp_path / "h.tar", image_files("train/", "test/", each=40)).read_bytes())
    content[content.index(b"test/dog/0020.png")] ^= 1
    header.write_bytes(content)
    with pytest.raises(DataError, match=r"header\.tar is a damaged archive"):
        load_data(f"images:{header}")
    header.write_bytes(tar_of(tmp_path / "e.tar", image_files("train/", "test/")).read_bytes()[: 8 * 4096])
    with pytest.raises(DataError, match=r"header\.tar is a"):
        load_data(f"images:{header}")
    for kind in ("cifar10", "images"):
        for path in (text, cut, broken):
            with pytest.raises(DataError, match=r"is not a tar archive, or is damaged|is a damaged archive"):
                load_data(f"{kind}:{path}")


def test_pillow_is_asked_for_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(DataError, match=r"pip install -e '\.\[search\]'"):
        load_data(f"images:{folder_of(tmp_path / 'x', {})}")


def test_an_archive_is_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tar_of(tmp_path / "images.tar", image_files("train/", "test/"))
    first = load_data(f"images:{path}")
    kept = list((Path(os.environ["XDG_CACHE_HOME"]) / "latency-lut" / "data").iterdir())
    assert len(kept) == 1
    with monkeypatch.context() as patch:
        patch.delattr(_data, "_decoded")
        again = load_data(f"images:{path}")
        assert same(first, again)
        assert again.mirrored
    for damage in (b"", kept[0].read_bytes()[:-1], kept[0].read_bytes()[:-1] + b"x", b"\xff" * 100):
        kept[0].write_bytes(damage)
        assert same(first, load_data(f"images:{path}"))
    # Another file at the same place is another one.
    tar_of(path, image_files("train/", "test/", classes=("cat", "dog", "emu")))
    assert len(load_data(f"images:{path}").classes) == 3
    # Folders are not kept, and where nothing can be kept it goes on.
    load_data(f"images:{folder_of(tmp_path / 'folder', image_files(''))}")
    assert len(list(kept[0].parent.iterdir())) == 2
    assert same(load_data(f"images:{path}"), load_data(f"images:{path}", cache=path / "no folder"))


# What a user's function is written with.
PRELUDE = """
import numpy as np, torch
from search import ImageData

rng = np.random.default_rng(0)
grey = rng.integers(0, 256, (30, 32, 32), dtype=np.uint8)
first = np.stack([grey, grey // 2, grey // 3], 1)
last = first.transpose(0, 2, 3, 1)
labels = np.arange(30) % 3

class Pairs(torch.utils.data.Dataset):
    def __init__(self, images, labels, classes=None):
        self.images, self.labels = images, labels
        if classes is not None:
            self.classes = classes
    def __len__(self):
        return len(self.labels)
    def __getitem__(self, i):
        return self.images[i], self.labels[i]

def load():
"""


def loader(folder: Path, *lines: str) -> str:
    """Return what names a function with these lines."""
    (folder / "my.py").write_text(PRELUDE + "".join(f"    {line}\n" for line in lines))
    return f"{folder / 'my.py'}:load"


@pytest.mark.parametrize(
    ("made", "classes"),
    [
        ("first, labels, first[:6], labels[:6]", "012"),
        ("last, labels.tolist(), last[:6], tuple(labels[:6].tolist())", "012"),
        ("torch.from_numpy(first), torch.from_numpy(labels), last[:6], labels[:6].astype(np.uint8)", "012"),
        ("first / 255, labels, torch.from_numpy(last[:6]).float() / 255, labels[:6]", "012"),
        ("(first / 255).astype(np.float32), labels, torch.tensor(last[:6], requires_grad=False), labels[:6]", "012"),
        ("Pairs(first, labels), Pairs(last[:6], torch.from_numpy(labels[:6]))", "012"),
        (
            "Pairs(torch.from_numpy(first), labels, ['cat', 'dog', 'emu']), Pairs(first / 255, labels[:6])",
            "cat dog emu",
        ),
        ("Pairs([Image.fromarray(i) for i in last], labels, 'abc'), list(zip(first[:6], labels[:6]))", "012"),
        (
            "ImageData('digits', tuple('abc'), *map(torch.from_numpy, (first, labels, first[:6], labels[:6])), True)",
            "abc",
        ),
    ],
)
def test_a_function_returns_data_in_any_of_its_forms(made: str, classes: str, tmp_path: Path) -> None:
    data = load_data(loader(tmp_path, "from PIL import Image", f"return {made}"))
    grey = np.random.default_rng(0).integers(0, 256, (30, 32, 32), dtype=np.uint8)
    assert np.array_equal(data.train_images.numpy(), np.stack([grey, grey // 2, grey // 3], 1))
    assert torch.equal(data.test_images, data.train_images[:6])
    assert data.train_labels.tolist() == [i % 3 for i in range(30)]
    assert data.test_labels.tolist() == [0, 1, 2, 0, 1, 2]
    assert data.classes == tuple(classes.split() if " " in classes else classes)
    # Not "digits", which would be trained by the digits' settings.
    assert (data.name, data.mirrored) == ("my.py", "ImageData" in made)
    assert data.train_images.is_contiguous()
    assert len(data.digest) == 16


@pytest.mark.parametrize(
    "made", ["grey, labels", "grey[:, None], labels", "grey[..., None], labels", "Pairs(grey, labels)"]
)
def test_grey_images_become_rgb_and_a_fifth_is_kept_apart(made: str, tmp_path: Path) -> None:
    data = load_data(loader(tmp_path, f"return {made}"))
    assert data.train_images.shape == (24, 3, 32, 32)
    assert torch.equal(data.train_images[:, 0], data.train_images[:, 2])
    assert Counter(data.test_labels.tolist()) == {0: 2, 1: 2, 2: 2}
    assert same(data, load_data(loader(tmp_path, f"return {made}")))


def test_torchs_own_datasets_and_a_package_are_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "some_images").mkdir()
    (tmp_path / "some_images" / "sets.py").write_text(
        PRELUDE
        + "    from torch.utils.data import Subset, TensorDataset\n"
        + "    whole = TensorDataset(torch.from_numpy(first), torch.from_numpy(labels))\n"
        + "    print('loading')\n"
        + "    return Subset(whole, range(24)), Subset(whole, range(24, 30))\n"
    )
    monkeypatch.chdir(tmp_path)
    data = load_data("some_images.sets:load")
    assert data.name == "some_images.sets" == data_name("some_images.sets:load")
    assert (len(data.train_labels), len(data.test_labels)) == (24, 6)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("return None", r"my\.py:load: the function must return \(train_images, .* or a search.ImageData, got None"),
        ("return first", "must return .*, got a ndarray"),
        ("return first, labels, first", "must return .*, got a tuple of 3"),
        ("return 5", "must return .*, got 5"),
        ("return {}", "the data set holds no images"),
        ("return first, labels, first, None", "the test labels must be a numpy array or a torch tensor, got None"),
        (
            "return [[1]], labels, first, labels",
            "the training images must be a numpy array or a torch tensor, got a list",
        ),
        ("return grey[:, :28, :28], labels", r"must be 32×32 pixels, of shape .*, got \(30, 28, 28\); resize them in"),
        ("return first[:, :2], labels", r"must be 32×32 pixels, .*, got \(30, 2, 32, 32\)"),
        ("return first[0], labels", r"images must be 32×32 .*|there are 3 training images and 30 labels"),
        ("return first[:0], labels[:0]", "the training images: there are none"),
        ("return first, labels[:0]", "the training labels: there are none"),
        ("return first, labels, first[:0], labels[:0]", "the test images: there are none"),
        ("return first.astype(int), labels", "the training images must be uint8, or floats from 0 to 1, got int64"),
        ("return first > 9, labels", "must be uint8, or floats from 0 to 1, got bool"),
        ("return first.astype(object), labels", "must be uint8, or floats from 0 to 1, got object"),
        ("return first.astype(float), labels", "floats must go from 0 to 1, without NaN, got 0 … 255"),
        ("return first / 255 - 0.5, labels", "floats must go from 0 to 1, without NaN, got -0.5 … 0.5"),
        ("return np.where(first > 9, np.nan, 0.5), labels", "without NaN, got nan … nan"),
        ("return np.where(first > 9, np.inf, 0.5), labels", "got 0.5 … inf"),
        ("return first, labels[1:]", "there are 30 training images and 29 labels"),
        ("return first, labels, first, labels[1:]", "there are 30 test images and 29 labels"),
        ("return first, labels.astype(float)", "the training labels must be whole numbers .*, got float64"),
        ("return first, labels > 1", "must be whole numbers .*, got bool"),
        ("return first, np.eye(3)[labels]", r"of shape \(N,\), got float64 of shape \(30, 3\)"),
        ("return first, [[1], [2, 3]]", "the training labels must be whole numbers: ValueError"),
        ("return first, list('abc') * 10", "must be whole numbers .*, got <U1"),
        ("return first, labels + 1", "must go from 0 to 2, as there are 3 classes, got 1 … 3"),
        ("return first, labels - 1", "must go from 0 to 2, as there are 3 classes, got -1 … 1"),
        ("return first, labels.astype(np.uint64) + 2**63", "must go from 0 to 2"),
        ("return first, labels, first, labels + 1", "the test labels must go from 0 to 2, .*, got 1 … 3"),
        ("return first, labels * 0", "one class only"),
        ("return first[:3], labels[:3]", "'0' has a single image"),
        ("return Pairs(first, labels, ['a', 'b'])", "the training labels must go from 0 to 1, as there are 2 classes"),
        ("return Pairs(first, labels, list('abcd'))", "class 'd' has no training image"),
        ("return Pairs(first, labels, list('aba'))", "classes name one of them twice"),
        ("return Pairs(first, labels, ['a', 'b', '\\udc80'])", r"class name \\udc80 is not valid Unicode"),
        ("return Pairs(first, labels, list('abc')), Pairs(first, labels, list('cba'))", "name other classes"),
        ("return Pairs(first, labels), first", "the test set must be a Dataset .*, got a ndarray"),
        ("return Pairs(first, labels), iter([])", "the test set must be a Dataset .*, got a list_iterator"),
        ("return Pairs(first, labels), []", "the test set holds no images"),
        ("return Pairs(first, 3)", "the data set has no length: TypeError"),
        ("return iter([(first[0], 0)])", "the function must return .*, got a list_iterator"),
        ("return torch.utils.data.Dataset()", "the data set must be a Dataset with a length"),
        ("return Pairs(first[:9], labels)", "image 9 of the data set cannot be read: IndexError"),
        ("return [first[0]] * 9", "image 0 of the data set must be a pair of an image and its label, got a ndarray"),
        ("return [(first[0], 0), (first[1], 1.0)]", "image 1 of the data set must have a label .*, got 1.0"),
        ("return [(first[0], 0), (first[1], True)]", "image 1 of the data set must have a label .*, got True"),
        ("return [(first[0], 0), (first[1], -1)]", "image 1 of the data set must have a label .*, got -1"),
        (
            "return [(first[0], 0), (grey[1, :31], 1)]",
            r"image 1 of the data set must be 32×32 .* \(32, 32\), got \(31, 32\); resize it",
        ),
        ("return [(first[0], 0), (first[1] / 2, 1)]", "image 1 of the data set: floats must go from 0 to 1"),
        ("return [('cat.png', 0)]", "image 0 of the data set must be a numpy array or a torch tensor, got a str"),
        (
            "return ImageData('x', 'ab', *map(torch.from_numpy, (first, labels, first, labels)), True)",
            "a tuple of texts",
        ),
        (
            "return ImageData('x', ('a', 'b'), *map(torch.from_numpy, (first, labels, first, labels)), True)",
            "from 0 to 1",
        ),
        ("return ImageData('x', ('a', 'b', 'c'), first, labels, None, None, True)", "the test images must be a numpy"),
    ],
)
def test_what_a_function_must_not_return(lines: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message) as caught:
        load_data(loader(tmp_path, lines))
    assert "my.py:load" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("raise RuntimeError('no\\nnetwork')", r"data .*my\.py:load: the function failed: RuntimeError: no network"),
        ("raise SystemExit(3)", "the function failed: SystemExit: 3"),
        ("return 1 +", "it cannot be imported: SyntaxError"),
    ],
)
def test_a_function_that_fails_is_one_line(lines: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        load_data(loader(tmp_path, lines))
    assert len(str(caught.value).splitlines()) == 1


def test_a_function_that_is_not_there_is_said_and_none_is_run_to_see(tmp_path: Path) -> None:
    text = loader(tmp_path, "return first, labels")
    (tmp_path / "bad.py").write_text("def load(seed):\n    pass\nload_all = 5\nprint(1 / 0)")
    for missing, message in (
        (f"{tmp_path}/missing.py:load", "there is no file .*missing.py"),
        (f"{tmp_path}/my.py", r"name a function in it too, .*my\.py:FUNCTION"),
        (f"{tmp_path}/my.py:", "unknown data|file.py:function"),
    ):
        with pytest.raises(UsageError, match=message):
            check_data(missing)
    check_data(f"{tmp_path}/bad.py:load")
    check_data("no_such_module:load")
    for wrong, message in (
        (f"{tmp_path}/bad.py:load", "cannot be imported: ZeroDivisionError"),
        (f"{text}_it", "there is no function load_it in it"),
        (text.replace(":load", ":labels"), "there is no function labels in it"),
        (text.replace(":load", ":Pairs"), "the function failed: TypeError"),
        ("no_such_module:load", "cannot be imported: ModuleNotFoundError"),
        ("image:load", "ModuleNotFoundError.*; did you mean 'images'?"),
    ):
        with pytest.raises(UsageError, match=message):
            load_data(wrong)


def test_what_a_function_prints_is_no_output(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    talking = (
        "print('loading')",
        "class Talking(Pairs):",
        "    def __len__(self):",
        "        return print('counting') or 30",
        "return Talking(first, labels)",
    )
    load_data(loader(tmp_path, *talking))
    found = capsys.readouterr()
    assert found.out == ""
    assert {"loading", "counting"} <= set(found.err.splitlines())


@pytest.mark.parametrize(
    ("text", "name"),
    [
        *(("digits", "digits"), ("cifar10:/data/x.tar.gz", "cifar10"), ("images:my.py:load", "images")),
        *(("my.py:load", "my.py"), ("/some/where/my.py:load", "my.py"), ("package.module:load", "package.module")),
    ],
)
def test_data_have_a_name_before_they_are_loaded(text: str, name: str) -> None:
    assert data_name(text) == name


@pytest.mark.skipif(not CIFAR.is_file(), reason=f"no {CIFAR}")
def test_real_cifar_is_taken_from_its_archive() -> None:
    """Decoding all of it takes ten seconds; that its names are those of our form does not."""
    with tarfile.open(CIFAR, "r|gz") as archive:
        counts = Counter(member.name.rpartition("/")[0] for member in archive if member.name.endswith(".jpg"))
    assert set(counts.values()) == {5000, 1000}
    assert sum(counts.values()) == 60_000
    assert all(name.count("/") == 1 and name.startswith(("train/", "test/")) for name in counts)


def test_a_subset_is_balanced() -> None:
    data = load_data("digits")
    part = subset(data, train=105, test=20, seed=3)
    assert sorted(Counter(part.train_labels.tolist()).values()) == [10] * 5 + [11] * 5
    assert set(Counter(part.test_labels.tolist()).values()) == {2}
    assert same(part, subset(data, train=105, test=20, seed=3))
    assert not same(part, subset(data, train=105, test=20, seed=4))
    assert subset(data, train=105, seed=3).test_images is data.test_images
    assert same(data, subset(data, train=1438, test=359, seed=0))
    # Where a class has fewer, the others give the rest.
    keep = torch.cat([(data.train_labels == 0).nonzero().flatten()[:4], (data.train_labels > 0).nonzero().flatten()])
    lacking = ImageData(
        "x", data.classes, data.train_images[keep], data.train_labels[keep], data.test_images, data.test_labels, False
    )
    counts = Counter(subset(lacking, train=100, seed=0).train_labels.tolist())
    assert counts[0] == 4
    assert sum(counts.values()) == 100
    assert {counts[c] for c in range(1, 10)} == {10, 11}


@pytest.mark.parametrize(("part", "count"), [("train", 1439), ("train", 9), ("test", 360), ("test", 0), ("test", -1)])
def test_an_impossible_subset_is_refused(part: str, count: int) -> None:
    with pytest.raises(UsageError, match=f"{part} images of 10 classes; a subset must have between 10 and"):
        subset(load_data("digits"), seed=0, **{part: count})  # type: ignore[arg-type]


def test_halves_are_disjoint_and_alike() -> None:
    data = load_data("digits")
    first, second = bilevel_split(data, 5)
    assert sorted([*first.tolist(), *second.tolist()]) == list(range(1438))
    assert abs(len(first) - len(second)) <= 1
    counts = [torch.bincount(data.train_labels[half]) for half in (first, second)]
    assert (counts[0] - counts[1]).abs().max() <= 1
    assert torch.equal(first, bilevel_split(data, 5)[0])
    assert not torch.equal(first, bilevel_split(data, 6)[0])
    labels = torch.tensor([0, 0, 1])
    lone = ImageData("x", ("0", "1"), data.train_images[:3], labels, data.test_images, labels, False)
    with pytest.raises(DataError, match="class '1' has one training image"):
        bilevel_split(lone, 0)


def by_hand(images: torch.Tensor, data: ImageData, recipe: Recipe, generator: torch.Generator) -> torch.Tensor:
    """Augment image by image and pixel by pixel, with the draws that ``augment`` makes."""
    count = len(images)
    size = 2 * recipe.crop + 1
    top, left = torch.randint(size, (2, count), generator=generator) if recipe.crop else torch.zeros(2, count).long()
    flips = torch.rand(count, generator=generator) < 0.5 if recipe.flip else torch.zeros(count).bool()
    holes = [torch.randint(32, (count, 1), generator=generator).flatten() for _ in range(2)] if recipe.cutout else []
    result = torch.zeros(count, 3, 32, 32)
    for i in range(count):
        for y in range(32):
            for x in range(32):
                row = y + int(top[i]) - recipe.crop
                column = (31 - x if flips[i] else x) + int(left[i]) - recipe.crop
                inside = 0 <= row < 32 and 0 <= column < 32
                value = images[i, :, row, column] if inside else torch.zeros(3)
                result[i, :, y, x] = (value / 255 - data.mean) / data.std
                reach = range(-(recipe.cutout // 2), recipe.cutout - recipe.cutout // 2)
                if recipe.cutout and y - int(holes[0][i]) in reach and x - int(holes[1][i]) in reach:
                    result[i, :, y, x] = 0
    return result


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe(crop=4, flip=False),
        Recipe(crop=0, flip=True),
        Recipe(crop=0, flip=False, cutout=7),
        Recipe(crop=3, cutout=16),
    ],
)
def test_augmentation_is_what_a_loop_does(recipe: Recipe) -> None:
    data = load_data("digits")
    images = data.train_images[:6]
    before = images.clone()
    made = augment(images, data.mean, data.std, recipe=recipe, mirrored=True, generator=make_generator(1, "x"))
    torch.testing.assert_close(made, by_hand(images, data, recipe, make_generator(1, "x")))
    assert torch.equal(images, before)
    assert made.dtype == torch.float32
    again = augment(images, data.mean, data.std, recipe=recipe, mirrored=True, generator=make_generator(1, "x"))
    assert torch.equal(made, again)
    other = augment(images, data.mean, data.std, recipe=recipe, mirrored=True, generator=make_generator(2, "x"))
    assert not torch.equal(made, other)


def test_images_that_may_not_be_mirrored_are_not() -> None:
    data = load_data("digits")
    images = data.train_images[:20]
    plain = Recipe(crop=0)
    kept = augment(images, data.mean, data.std, recipe=plain, mirrored=False, generator=make_generator(0, "x"))
    assert torch.equal(kept, prepare(images, data.mean, data.std))
    prepared = prepare(data.train_images, data.mean, data.std)
    torch.testing.assert_close(prepared.mean((0, 2, 3)), torch.zeros(3), atol=1e-3, rtol=0)
    torch.testing.assert_close(prepared.std((0, 2, 3)), torch.ones(3), atol=1e-3, rtol=0)
