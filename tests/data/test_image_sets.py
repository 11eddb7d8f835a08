"""Sets of images to measure: folders, npz files mapped or in memory, and what is refused."""

import zipfile

import numpy as np
import pytest
from PIL import Image

from golden import data_root
from score_sde.data import ArraySource, digits
from score_sde.data.image_sets import (
    ImageSet,
    _array,
    labelled_images,
    open_images,
    source_set,
    to_bytes,
)
from score_sde.errors import UserError
from score_sde.files import read_npz

GREY = np.random.default_rng(0).integers(0, 256, (7, 6, 5, 1), np.uint8)
COLOUR = np.random.default_rng(1).integers(0, 256, (7, 6, 5, 3), np.uint8)


def pngs(folder, images):
    folder.mkdir()
    for i, image in enumerate(images):
        Image.fromarray(image.squeeze()).save(folder / f"{i}.png")
    return folder


def same(found: ImageSet, images: np.ndarray) -> None:
    assert (found.count, found.shape) == (len(images), images.shape[1:])
    numbers = np.asarray([3, 0, 3, 6])
    read = found.read(numbers)
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, images[numbers])


@pytest.mark.parametrize("images", [GREY, COLOUR], ids=["grey", "colour"])
def test_folders(tmp_path, images) -> None:
    found = open_images(pngs(tmp_path / "a", images))
    same(found, images)
    assert found.provenance == {
        "data": str(tmp_path / "a"),
        "split": "",
        "images": 7,
        "shape": list(images.shape[1:]),
        "levels": 256,
    }


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("images", [GREY, COLOUR, COLOUR.astype(np.int64), np.asfortranarray(GREY)])
def test_npz_files(tmp_path, save, images) -> None:
    """As `--mode sample` and guided-diffusion write them."""
    path = tmp_path / "a.npz"
    save(path, other=np.zeros(3), images=images)
    same(open_images(path), images)
    save(path, images)
    found = open_images(path)
    same(found, images)
    assert (found.name, found.levels) == (str(path), 256)


def test_stored_arrays_are_mapped(tmp_path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, a=np.zeros(3), images=GREY)
    with zipfile.ZipFile(path) as archive:
        found = _array(path, archive, "images")()
    assert isinstance(found, np.memmap)
    np.testing.assert_array_equal(found, GREY)


def test_levels_become_0_to_255(tmp_path) -> None:
    levels = np.arange(17).reshape(17, 1, 1, 1)
    np.savez(tmp_path / "a.npz", images=levels, levels=17)
    found = open_images(tmp_path / "a.npz").read(np.arange(17)).ravel()
    np.testing.assert_array_equal(found, np.rint(np.arange(17) * 255 / 16))
    assert found[8] == 128 and found[16] == 255  # 127.5 rounds to even
    np.testing.assert_array_equal(to_bytes(np.arange(256), 256), np.arange(256))
    np.testing.assert_array_equal(to_bytes(np.asarray([0, 1]), 2), [0, 255])
    assert to_bytes(np.asarray([65535, 257]), 65536).tolist() == [255, 1]


def test_dark_images_are_perhaps_levels(tmp_path) -> None:
    np.savez(tmp_path / "a.npz", images=GREY // 16)
    with pytest.warns(
        UserWarning,
        match=r"the brightest pixel of `images` in .* is 15 of 255; if these are levels 0 \.\. 15",
    ):
        open_images(tmp_path / "a.npz")


def test_sources() -> None:
    found = source_set(digits("test"), "test")
    assert (found.name, found.split, found.count, found.levels) == ("digits", "test", 360, 17)
    np.testing.assert_array_equal(found.read(np.arange(3)), to_bytes(digits("test").images[:3], 17))
    source = ArraySource(GREY)
    source.shape = None
    with pytest.raises(UserError, match="different sizes"):
        source_set(source)


NAN = np.where(np.arange(7)[:, None, None, None] < 2, np.nan, GREY / 255)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (
            {"images": GREY / 255.0},
            r"`images` in .*a.npz is float64; it must be integer levels, 0 \.\. 255",
        ),
        (
            {"images": NAN},
            "is float64, and 2 of 7 images are not finite; it must be integer levels",
        ),
        (
            {"images": GREY[..., 0]},
            r"shape \(7, 6, 5\); .* for grey images write images\[\.\.\., None\]",
        ),
        ({"images": GREY[0, 0]}, r"shape \(5, 1\); it must be \(n, height, width, channels\)"),
        ({"images": np.zeros((2, 4, 4, 4), np.uint8)}, "with 1 or 3 channels"),
        ({"images": GREY[:0]}, "holds no images: its shape is"),
        ({"images": GREY, "levels": 17}, r"values \d+ \.\. 249, and its levels are 0 \.\. 16"),
        ({"images": GREY.astype(int) - 9}, r"values -9 \.\. "),
        ({"images": GREY, "levels": [2, 3]}, "`levels` in .* must be one integer"),
        ({"images": GREY, "levels": 1}, "`levels` in .* must be one integer of 2 or more; it is 1"),
        ({"images": GREY, "finite": np.arange(7) > 2}, "3 of 7 samples in .*a.npz are not finite"),
        ({"x": GREY}, "holds no images: an entry `images` or `arr_0` .*it holds x"),
    ],
)  # fmt: skip
def test_npz_files_that_are_refused(tmp_path, entries, message) -> None:
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "a.npz", **entries)
        with pytest.raises(UserError, match=message):
            open_images(tmp_path / "a.npz")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_damaged_npz_files(tmp_path, save) -> None:
    path = tmp_path / "a.npz"
    save(path, images=np.tile(GREY, (20, 1, 1, 1)))
    good = path.read_bytes()
    flipped = bytearray(good)
    flipped[len(good) // 2] ^= 255
    for data in (b"", b"hello", good[: len(good) // 2], good[:-20], bytes(flipped)):
        path.write_bytes(data)
        with pytest.raises(
            UserError, match=r"a.npz is no readable npz file: empty, damaged or cut off"
        ):
            open_images(path)
    path.write_bytes(b"hello")
    with pytest.raises(UserError) as caught:
        read_npz(path)
    assert "pickle" not in str(caught.value)  # no advice to load it all the same
    save(path, images=np.asarray([object()]))
    with pytest.raises(UserError, match="no readable npz file"):
        open_images(path)


def test_folders_that_are_refused(tmp_path) -> None:
    with pytest.raises(
        UserError, match="none does not exist; name a folder of images or an npz file"
    ):
        open_images(tmp_path / "none")
    folder = pngs(tmp_path / "a", GREY)
    with pytest.raises(UserError, match=r"0.png is neither a folder of images nor an npz file"):
        open_images(folder / "0.png")
    np.save(tmp_path / "a.npy", GREY)
    with pytest.raises(UserError, match=r"a.npy is neither .*np.savez\(FILE, images=...\)"):
        open_images(tmp_path / "a.npy")
    np.savez(tmp_path / "first.npz", np.zeros((5, 3, 8, 8), np.uint8))
    with pytest.raises(UserError, match=r"1 or 3 channels; write images.transpose\(0, 2, 3, 1\)"):
        open_images(tmp_path / "first.npz")
    Image.fromarray(GREY[0, :4, :, 0]).save(folder / "small.png")
    (folder / "broken.png").write_bytes(b"no image")
    (folder / "empty.jpg").write_bytes(b"")
    with pytest.raises(UserError) as caught:
        open_images(folder)
    text = str(caught.value)
    assert "3 of 10 images in" in text
    for line in (
        "small.png: 4 x 5 pixels",
        "broken.png: not a readable image",
        "empty.jpg: empty (0 bytes)",
    ):
        assert line in text
    assert "Remove these files" in text and "config" not in text and "train" not in text
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("")
    with pytest.raises(UserError) as caught:
        open_images(tmp_path / "empty")
    assert "holds no images" in str(caught.value) and "config" not in str(caught.value)
    assert str(caught.value).endswith(
        "found 1 other file(s). Name the folder that holds your images"
    )


def test_labelled_images_of_classifiers(tmp_path) -> None:
    images, labels = labelled_images("digits")
    assert images.shape == (1437, 8, 8, 1) and images.max() == 255 and set(labels) == set(range(10))
    with pytest.raises(
        UserError, match=r"trained on MNIST's training images .* is not prepared: .*TFDS_DATA_DIR"
    ):
        labelled_images("mnist", tmp_path)
    with pytest.raises(UserError, match="no data set is known"):
        labelled_images("cifar10")
    images, labels = labelled_images("mnist", data_root() / "tfds")
    assert images.shape == (60_000, 28, 28, 1) and np.bincount(labels)[1] == 6742
