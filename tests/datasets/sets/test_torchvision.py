import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torchvision.datasets as library

from ssleval.core import Dataset, DatasetOptions
from ssleval.datasets.catalog import open_dataset
from ssleval.datasets.sets.torchvision import FORMS
from ssleval.errors import DataError, UnknownNameError

Paint = Callable[[Path, int], None]
OpenReduced = Callable[..., Dataset]


def cifar(root: Path, monkeypatch: pytest.MonkeyPatch, *, shift: int = 0) -> np.ndarray:
    """Write six random images in the layout of CIFAR-10, with the checksums of the real one lifted."""
    pixels = np.random.default_rng(shift).integers(0, 256, (6, 3, 32, 32)).astype(np.uint8)
    base = root / "cifar-10-batches-py"
    base.mkdir(parents=True, exist_ok=True)
    parts = {"data_batch_1": slice(0, 4), "test_batch": slice(4, 6)}
    for name, rows in parts.items():
        batch = {"data": pixels[rows].reshape(-1, 3072), "labels": [3, 1, 0, 2, 1, 3][rows]}
        (base / name).write_bytes(pickle.dumps(batch))
    (base / "batches.meta").write_bytes(pickle.dumps({"label_names": ["ant", "bee", "cow", "dog"]}))
    monkeypatch.setattr(library.CIFAR10, "train_list", [["data_batch_1", None]])
    monkeypatch.setattr(library.CIFAR10, "test_list", [["test_batch", None]])
    monkeypatch.setattr(
        library.CIFAR10, "meta", {"filename": "batches.meta", "key": "label_names", "md5": None}
    )
    return pixels.transpose(0, 2, 3, 1)


def test_images_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, open_reduced: OpenReduced) -> None:
    pixels = cifar(tmp_path / "cifar10", monkeypatch)
    dataset = open_reduced("cifar10", 4, {"train": 4, "test": 2})
    test = dataset.split("test")
    assert dataset.card.class_names == ("ant", "bee", "cow", "dog")
    assert np.asarray(dataset.split("train").targets).tolist() == [3, 1, 0, 2]
    assert np.asarray(test.targets).tolist() == [1, 3]
    image = pickle.loads(pickle.dumps(test.image))
    np.testing.assert_array_equal(np.asarray(image(1)), pixels[5])


def test_the_source_opens_the_same_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cifar(tmp_path, monkeypatch)
    dataset = open_dataset("torchvision:CIFAR10", DatasetOptions(data_root=tmp_path))
    assert dataset.card.lengths == {"train": 4, "test": 2}
    assert dataset.card.num_classes == 4


def test_the_fingerprint_sees_pixels_and_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def prints() -> str:
        return (
            open_dataset("torchvision:CIFAR10", DatasetOptions(data_root=tmp_path)).split("train").fingerprint
        )

    cifar(tmp_path, monkeypatch)
    reference = prints()
    assert prints() == reference
    cifar(tmp_path, monkeypatch, shift=1)
    other_pixels = prints()
    batch = tmp_path / "cifar-10-batches-py" / "data_batch_1"
    content = pickle.loads(batch.read_bytes())
    batch.write_bytes(pickle.dumps({**content, "labels": [3, 1, 0, 1]}))
    assert len({reference, other_pixels, prints()}) == 3


def food(root: Path, paint: Paint) -> None:
    import json

    listed = {"train": {"waffles": ["waffles/2", "waffles/1"], "apple_pie": ["apple_pie/5"]}}
    listed["test"] = {"apple_pie": ["apple_pie/3"], "waffles": ["waffles/4"]}
    (root / "food-101/meta").mkdir(parents=True)
    for split, classes in listed.items():
        (root / f"food-101/meta/{split}.json").write_text(json.dumps(classes))
        for image in (image for images in classes.values() for image in images):
            paint(root / f"food-101/images/{image}.jpg", int(image[-1]) * 20)


def test_images_in_files_are_those_of_the_library(
    tmp_path: Path, paint: Paint, open_reduced: OpenReduced
) -> None:
    food(tmp_path / "food101", paint)
    dataset = open_reduced("food101", 2, {"train": 3, "test": 2})
    theirs = library.Food101(str(tmp_path / "food101"), split="train")
    ours = dataset.split("train")
    assert dataset.card.class_names == tuple(theirs.classes)
    assert list(ours.ids) == [
        f"food-101/images/{name}.jpg" for name in ("waffles/2", "waffles/1", "apple_pie/5")
    ]
    for index in range(3):
        image, label = theirs[index]
        np.testing.assert_array_equal(np.asarray(ours[index].image), np.asarray(image))
        assert ours[index].target == label


def test_a_damaged_file_is_named(tmp_path: Path, paint: Paint) -> None:
    food(tmp_path, paint)
    path = tmp_path / "food-101/images/waffles/4.jpg"
    path.write_bytes(path.read_bytes()[:200])
    split = open_dataset("torchvision:Food101", DatasetOptions(data_root=tmp_path)).split("test")
    with pytest.raises(DataError, match=r"waffles/4\.jpg: cannot be decoded"):
        split[1]


def test_trainval_is_train_then_val(tmp_path: Path, paint: Paint, open_reduced: OpenReduced) -> None:
    base = tmp_path / "dtd/dtd/dtd"
    (base / "labels").mkdir(parents=True)
    for split, image in (("train", "b/2.jpg"), ("val", "a/1.jpg"), ("test", "a/3.jpg")):
        other = {"a/1.jpg": "b/4.jpg", "b/2.jpg": "a/5.jpg", "a/3.jpg": "b/6.jpg"}[image]
        (base / f"labels/{split}1.txt").write_text(f"{image}\n{other}\n")
        for name in (image, other):
            paint(base / "images" / name, 0)
    dataset = open_reduced("dtd", 2, {"train": 2, "val": 2, "trainval": 4, "test": 2})
    assert dataset.card.train_split == "trainval"
    both = dataset.split("trainval")
    assert [name.rpartition("images/")[2] for name in both.ids] == [
        "b/2.jpg",
        "a/5.jpg",
        "a/1.jpg",
        "b/4.jpg",
    ]
    assert np.asarray(both.targets).tolist() == [1, 0, 0, 1]


def test_aircraft_variants(tmp_path: Path, paint: Paint, open_reduced: OpenReduced) -> None:
    base = tmp_path / "aircraft/fgvc-aircraft-2013b/data"
    base.mkdir(parents=True)
    (base / "variants.txt").write_text("707-320\nA300B4\n")
    for split, number in (("train", 1), ("val", 2), ("trainval", 1), ("test", 3)):
        (base / f"images_variant_{split}.txt").write_text(f"000000{number} A300B4\n")
        paint(base / f"images/000000{number}.jpg", 0)
    dataset = open_reduced("aircraft", 2, {"train": 1, "val": 1, "trainval": 1, "test": 1})
    assert dataset.card.class_names == ("707-320", "A300B4")
    assert np.asarray(dataset.split("test").targets).tolist() == [1]


def test_cars_count_their_classes_from_one(tmp_path: Path, paint: Paint, open_reduced: OpenReduced) -> None:
    from scipy.io import savemat

    base = tmp_path / "cars/stanford_cars"
    (base / "devkit").mkdir(parents=True)
    kinds: Any = [("fname", object), ("class", object)]
    for place, folder in (
        ("devkit/cars_train_annos", "cars_train"),
        ("cars_test_annos_withlabels", "cars_test"),
    ):
        rows = np.array([("1.jpg", 2), ("2.jpg", 1)], dtype=kinds)
        savemat(str(base / f"{place}.mat"), {"annotations": rows})
        for number in (1, 2):
            paint(base / folder / f"{number}.jpg", 0)
    savemat(
        str(base / "devkit/cars_meta.mat"), {"class_names": np.array(["AM General", "Acura"], dtype=object)}
    )
    dataset = open_reduced("cars", 2, {"train": 2, "test": 2})
    assert dataset.card.class_names == ("AM General", "Acura")
    assert np.asarray(dataset.split("test").targets).tolist() == [1, 0]


def test_flowers_count_their_classes_from_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, paint: Paint, open_reduced: OpenReduced
) -> None:
    from scipy.io import savemat

    base = tmp_path / "flowers102/flowers-102"
    base.mkdir(parents=True)
    savemat(str(base / "imagelabels.mat"), {"labels": np.array([102, 1, 2, 3, 4, 5])})
    savemat(
        str(base / "setid.mat"),
        {"trnid": np.array([2, 1]), "valid": np.array([3, 4]), "tstid": np.array([6, 5])},
    )
    for number in range(1, 7):
        paint(base / f"jpg/image_{number:05d}.jpg", 0)
    files = {name: (file, None) for name, file in (("label", "imagelabels.mat"), ("setid", "setid.mat"))}
    monkeypatch.setattr(library.Flowers102, "_file_dict", files)
    dataset = open_reduced("flowers102", 102, {"train": 2, "val": 2, "trainval": 4, "test": 2})
    assert np.asarray(dataset.split("train").targets).tolist() == [0, 101]
    assert np.asarray(dataset.split("test").targets).tolist() == [4, 3]


@pytest.mark.parametrize("kind", sorted(FORMS))
def test_every_form_fits_its_class(kind: str) -> None:
    import inspect

    parameters = inspect.signature(getattr(library, kind).__init__).parameters
    form = FORMS[kind]
    given = {name for parts in form.splits.values() for arguments in parts for name in arguments}
    given |= set() if form.labels else {"loader"}
    given |= {"download"} if form.download else set()
    accepts_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    assert accepts_any or given <= parameters.keys()


@pytest.mark.parametrize(
    ("name", "message"), [("CIFAR11", "did you mean CIFAR10"), ("SUN397", "known splits")]
)
def test_other_classes_are_refused(name: str, message: str) -> None:
    with pytest.raises(UnknownNameError, match=message):
        open_dataset(f"torchvision:{name}", DatasetOptions())


def test_absent_files_say_size_licence_and_way(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"--download fetches it \(5\.0 GB\); licence: images of") as caught:
        open_dataset("torchvision:Food101", DatasetOptions(data_root=tmp_path))
    assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match="must be fetched by hand"):
        open_dataset("torchvision:StanfordCars", DatasetOptions(data_root=tmp_path))


@pytest.mark.parametrize("download", [False, True])
def test_nothing_is_downloaded_unasked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, download: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    fetched: list[bool] = []

    def fetch(data: Any) -> None:
        print("Downloading...")  # noqa: T201
        fetched.append(True)
        cifar(Path(data.root), monkeypatch)

    monkeypatch.setattr(library.CIFAR10, "download", fetch)
    options = DatasetOptions(data_root=tmp_path, download=download)
    if not download:
        with pytest.raises(DataError, match="--download"):
            open_dataset("torchvision:CIFAR10", options)
        assert not fetched
        return
    assert len(open_dataset("torchvision:CIFAR10", options).split("test")) == 2
    assert fetched
    assert not capsys.readouterr().out
