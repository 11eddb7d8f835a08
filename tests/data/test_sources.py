"""Sources: exact contents, and what they say when the user's data is missing or broken."""

import gzip
import json
import time

import numpy as np
import pytest

from golden import data_root
from score_sde.data import (
    ArraySource,
    Mapped,
    Source,
    TFDSSource,
    digits,
    fingerprint,
    in_memory,
    take,
)
from score_sde.data.transforms import crop_resize
from score_sde.errors import UserError

RNG = np.random.default_rng(0)


def noise(*shape):
    return RNG.integers(0, 256, shape, np.uint8)


# Arrays


def test_array_source():
    images, labels = noise(5, 4, 6, 3), np.array([3, 1, 4, 1, 5])
    source = ArraySource(images, labels)
    assert isinstance(source, Source)
    assert (len(source), source.shape, source.levels, source.name) == (5, (4, 6, 3), 256, "array")
    example = source[2]
    np.testing.assert_array_equal(example["image"], images[2])
    assert (example["label"], example["index"]) == (4, 2)
    assert example["image"].dtype == np.uint8
    assert example["label"].dtype == example["index"].dtype == np.int32
    many = take(source, [4, 0])
    np.testing.assert_array_equal(many["image"], images[[4, 0]])
    np.testing.assert_array_equal(many["label"], [5, 3])
    np.testing.assert_array_equal(many["index"], [4, 0])


def test_array_source_adds_the_channel_axis_and_keeps_16_bits():
    images = np.array([[[0, 65535], [256, 1]]])
    source = ArraySource(images, levels=65536)
    assert source.shape == (2, 2, 1)
    assert source[0]["image"].dtype == np.uint16
    np.testing.assert_array_equal(source[0]["image"][..., 0], images[0])
    assert source[0]["label"] == 0


@pytest.mark.parametrize(
    ("images", "arguments", "message"),
    [
        (np.zeros((2, 4, 4)), {}, "integer pixel levels 0 .. 255; got float64 images"),
        (np.zeros((2, 4), int), {}, r"got shape \(2, 4\)"),
        (np.full((2, 4, 4), 17), {"levels": 17}, "0 .. 16 .* got values 17 .. 17"),
        (np.full((2, 4, 4), -1), {}, "got values -1 .. -1"),
        (
            np.zeros((2, 4, 4), int),
            {"labels": [1]},
            r"2 images is needed; got labels of shape \(1,\)",
        ),
    ],
)
def test_array_source_refuses(images, arguments, message):
    with pytest.raises(UserError, match=message):
        ArraySource(images, **arguments)


def test_digits_are_split_by_class_once_and_for_all():
    from sklearn.datasets import load_digits

    train, test = digits("train"), digits("test")
    assert (len(train), len(test)) == (1437, 360)
    assert (train.shape, train.levels, train.name) == ((8, 8, 1), 17, "digits")
    assert train.images.max() == 16
    everything = load_digits()
    counts = np.bincount(everything.target)
    assert (np.abs(np.bincount(test.labels) - 0.2 * counts) <= 1).all()
    both = np.concatenate([train.images, test.images]).reshape(1797, 64)
    original = everything.images.astype(np.uint8).reshape(1797, 64)
    pairs = sorted(
        map(bytes, np.column_stack([both, [*train.labels, *test.labels]]).astype(np.uint8))
    )
    assert pairs == sorted(
        map(bytes, np.column_stack([original, everything.target]).astype(np.uint8))
    )
    np.testing.assert_array_equal(digits("train").images, train.images)
    with pytest.raises(UserError, match="no split 'validation'; known splits: train, test"):
        digits("validation")


# TFDS


@pytest.fixture
def tfds_dir():
    return data_root() / "tfds"


def test_tfds_mnist_is_the_original_mnist(tfds_dir):
    def idx(name, offset):
        return np.frombuffer(
            gzip.open(data_root() / "mnist" / "raw" / name).read(), np.uint8, offset=offset
        )

    source = TFDSSource("mnist", "test", data_dir=tfds_dir)
    assert isinstance(source, Source)
    assert (len(source), source.shape, source.levels, source.name) == (
        10000,
        (28, 28, 1),
        256,
        "mnist",
    )
    memory = in_memory(source)
    images = idx("t10k-images-idx3-ubyte.gz", 16).reshape(-1, 784)
    labels = idx("t10k-labels-idx1-ubyte.gz", 8)
    mine = np.column_stack([memory.images.reshape(-1, 784), memory.labels.astype(np.uint8)])
    assert sorted(map(bytes, mine)) == sorted(map(bytes, np.column_stack([images, labels])))
    one, many = source[7], take(source, [7, 3])
    for example in (one, {key: value[0] for key, value in many.items()}):
        np.testing.assert_array_equal(example["image"], memory.images[7])
        assert (example["label"], example["index"]) == (memory.labels[7], 7)


def test_tfds_versions_parts_and_environment(tfds_dir, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tfds_dir))
    assert len(TFDSSource("mnist", "train[:90%]")) == 54000
    assert len(TFDSSource("mnist:3.0.1", "train+test")) == 70000
    with pytest.raises(
        UserError, match=r"'mnist:9.9.9' is not prepared: looked for .*Data sets there: mnist"
    ):
        TFDSSource("mnist:9.9.9", "train")


def test_tfds_unknown_split_and_feature(tfds_dir):
    with pytest.raises(UserError, match=r"no split 'validation'\. Known splits: test, train"):
        TFDSSource("mnist", "validation", data_dir=tfds_dir)
    with pytest.raises(UserError, match="no feature 'picture'; its features are image, label"):
        TFDSSource("mnist", "train", data_dir=tfds_dir, image_key="picture")
    with pytest.raises(UserError, match=r"feature 'label' .* not an 8-bit image"):
        TFDSSource("mnist", "train", data_dir=tfds_dir, image_key="label")


def test_tfds_that_is_not_prepared_is_refused_at_once(tmp_path):
    start = time.monotonic()
    with pytest.raises(UserError) as error:
        TFDSSource("cifar10", "train", data_dir=tmp_path)
    assert time.monotonic() - start < 20  # an attempt to download would take minutes to fail
    for part in (
        str(tmp_path / "cifar10"),
        "tfds build cifar10",
        "TFDS_DATA_DIR",
        "data.path=DIR",
        ":digits",
    ):
        assert part in str(error.value)


def prepared(folder, shape, file_format="array_record"):
    """A hand-made prepared data set: metadata only, the records are mocked."""
    folder.mkdir(parents=True)
    name = folder.relative_to(folder.parents[1]).parts[0]
    split = {"name": "train", "numBytes": "1", "shardLengths": ["5"]}
    split["filepathTemplate"] = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
    info = {"name": name, "version": folder.name, "fileFormat": file_format, "splits": [split]}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    package = "tensorflow_datasets.core.features"
    image = {"dtype": "uint8", "shape": {"dimensions": [str(n) for n in shape]}}
    features = {"picture": {"pythonClassName": f"{package}.image_feature.Image", "image": image}}
    document = {
        "pythonClassName": f"{package}.features_dict.FeaturesDict",
        "featuresDict": {"features": features},
    }
    (folder / "features.json").write_text(json.dumps(document))
    return folder


def test_tfds_of_another_shape_without_labels_newest_version(tmp_path):
    import tensorflow_datasets as tfds

    prepared(tmp_path / "faces" / "1.9.0", (4, 4, 3))
    folder = prepared(tmp_path / "faces" / "1.10.0", (20, 12, 3))
    (folder / "faces-train.array_record-00000-of-00001").touch()
    with tfds.testing.mock_data(num_examples=5, data_dir=str(folder)):
        source = TFDSSource("faces", "train", data_dir=tmp_path, image_key="picture")
        assert (len(source), source.shape) == (5, (20, 12, 3))
        assert source[3]["image"].shape == (20, 12, 3)
        assert (source[3]["label"], source[3]["index"]) == (0, 3)
        mapped = Mapped(source, lambda image: crop_resize(image, 6), (6, 6, 3))
        np.testing.assert_array_equal(
            in_memory(mapped).images[3], crop_resize(source[3]["image"], 6)
        )


def test_tfds_configurations_and_formats(tmp_path):
    prepared(tmp_path / "lsun" / "church" / "3.1.0", (4, 4, 3))
    prepared(tmp_path / "old" / "1.0.0", (4, 4, 3), file_format="tfrecord")
    with pytest.raises(UserError, match="configurations there: lsun/church"):
        TFDSSource("lsun", "train", data_dir=tmp_path)
    with pytest.raises(UserError, match=r"stored as tfrecord, .* --file_format=array_record"):
        TFDSSource("old", "train", data_dir=tmp_path)


def test_tfds_with_missing_record_files(tmp_path):
    prepared(tmp_path / "partial" / "1.0.0", (4, 4, 3))
    with pytest.raises(
        UserError,
        match=r"record files of data set 'partial' are missing.*partial-train\.array_record",
    ):
        TFDSSource("partial", "train", data_dir=tmp_path, image_key="picture")


# Wrappers


def test_mapped_checks_the_declared_shape():
    source = Mapped(ArraySource(noise(2, 8, 8)), lambda image: image[:4], (4, 8, 1))
    assert isinstance(source, Source)
    assert take(source, [1, 0])["image"].shape == (2, 4, 8, 1)
    with pytest.raises(ValueError, match=r"made an image of shape \(8, 8, 1\)"):
        Mapped(ArraySource(noise(2, 8, 8)), lambda image: image, (4, 8, 1))[0]


def test_in_memory_keeps_everything_in_order(tmp_path):
    images = noise(600, 4, 4, 3)
    source = Mapped(ArraySource(images, np.arange(600)), lambda image: 255 - image, (4, 4, 3))
    memory = in_memory(source)
    np.testing.assert_array_equal(memory.images, 255 - images)
    np.testing.assert_array_equal(memory.labels, np.arange(600))
    with pytest.raises(UserError, match="need 0 MB in memory; the limit is"):
        in_memory(source, max_bytes=1000)


def test_fingerprints_tell_image_sets_apart():
    images = np.random.default_rng(0).integers(0, 256, (40, 4, 4, 1), np.uint8)
    one = fingerprint(ArraySource(images, name="a"))
    assert one == fingerprint(ArraySource(images.copy(), name="a"))
    changed = images.copy()
    changed[-1, 0, 0, 0] ^= 1
    assert one != fingerprint(ArraySource(changed, name="a"))
    assert one != fingerprint(ArraySource(images[:-1], name="a"))
    assert one != fingerprint(ArraySource(images, name="b"))
