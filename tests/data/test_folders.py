"""Folders of images: exact pixels, splits, and what is said of files that cannot be used."""

import numpy as np
import pytest
from PIL import Image

from score_sde.data import FolderSource, Source, classes, in_memory, take
from score_sde.data.transforms import crop_resize
from score_sde.errors import UserError

RNG = np.random.default_rng(0)


def noise(*shape):
    return RNG.integers(0, 256, shape, np.uint8)


def save(folder, name, shape=(8, 8, 3), **options):
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    pixels = noise(*shape)
    Image.fromarray(pixels[..., 0] if shape[-1] == 1 else pixels).save(file, **options)
    return pixels


def test_folder_reads_every_format_in_sorted_order(tmp_path):
    lossless = ["b.png", "a/z.BMP", "c.webp"]
    pixels = {name: save(tmp_path, name, lossless=True) for name in lossless}
    save(tmp_path, "d.jpg")
    save(tmp_path, "e.JPEG")
    save(tmp_path, "f.gif")
    save(tmp_path, ".hidden.png")
    save(tmp_path, ".cache/thumbnail.png")
    (tmp_path / "notes.txt").write_text("no image")
    source = FolderSource(tmp_path, split="all")
    assert isinstance(source, Source)
    names = [f.relative_to(tmp_path).as_posix() for f in source.files]
    assert names == ["a/z.BMP", "b.png", "c.webp", "d.jpg", "e.JPEG", "f.gif"]
    assert (len(source), source.shape, source.levels) == (6, (8, 8, 3), 256)
    for i, name in enumerate(names[:3]):
        np.testing.assert_array_equal(source[i]["image"], pixels[name])
        assert (source[i]["label"], source[i]["index"]) == (0, i)
    assert source[5]["image"].shape == (8, 8, 3)


def test_folder_is_grey_only_if_every_file_is(tmp_path):
    grey = save(tmp_path, "a.png", (8, 8, 1))
    assert FolderSource(tmp_path).shape == (8, 8, 1)
    colour = save(tmp_path, "b.png", (8, 8, 3))
    source = FolderSource(tmp_path, split="all")
    assert source.shape == (8, 8, 3)
    np.testing.assert_array_equal(source[0]["image"], np.repeat(grey, 3, axis=-1))
    forced = FolderSource(tmp_path, channels=1, split="all")
    luma = colour @ np.array([0.299, 0.587, 0.114])
    assert np.abs(forced[1]["image"][..., 0] - luma).max() < 1
    assert forced.shape == (8, 8, 1)


def test_folder_composites_transparency_onto_white(tmp_path):
    rgba = np.zeros((2, 2, 4), np.uint8)
    rgba[0, 0] = [10, 20, 30, 255]
    rgba[0, 1] = [10, 20, 30, 0]
    rgba[1, 0] = [100, 100, 100, 51]  # a fifth opaque: 0.2 * 100 + 0.8 * 255 = 224
    Image.fromarray(rgba).save(tmp_path / "a.png")
    image = FolderSource(tmp_path)[0]["image"]
    np.testing.assert_array_equal(image[0], [[10, 20, 30], [255, 255, 255]])
    assert np.abs(image[1, 0].astype(int) - 224).max() <= 1


def test_folder_honours_the_exif_orientation(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show it rotated by 90 degrees clockwise
    pixels = save(tmp_path, "a.png", (4, 6, 3), exif=exif)
    source = FolderSource(tmp_path)
    assert source.shape == (6, 4, 3)
    np.testing.assert_array_equal(source[0]["image"], np.rot90(pixels, -1))


def test_folder_crops_and_resizes_any_size(tmp_path):
    pixels = save(tmp_path, "a.png", (40, 60, 3))
    save(tmp_path, "b.png", (33, 20, 3))
    source = FolderSource(tmp_path, image_size=16, split="all")
    assert source.shape == (16, 16, 3)
    np.testing.assert_array_equal(source[0]["image"], crop_resize(pixels, 16))
    assert source[1]["image"].shape == (16, 16, 3)


def test_folder_split_is_a_stable_partition(tmp_path):
    for i in range(60):
        save(tmp_path, f"{i}.bmp", (2, 2, 1))

    def names(split):
        return {f.name for f in FolderSource(tmp_path, split=split, held_out=0.2).files}

    train, test = names("train"), names("test")
    assert not train & test
    assert len(train | test) == 60
    assert 4 <= len(test) <= 22  # 12 expected, standard deviation 3.1
    for i in range(60, 80):
        save(tmp_path, f"{i}.bmp", (2, 2, 1))
    assert train <= names("train")
    assert test <= names("test")
    assert len(FolderSource(tmp_path, held_out=0.0)) == 80


def test_folder_of_two_images_has_one_on_each_side(tmp_path):
    for held_out in (0.001, 0.999):
        save(tmp_path, "a.png")
        save(tmp_path, "b.png")
        assert len(FolderSource(tmp_path, held_out=held_out)) == 1
        assert len(FolderSource(tmp_path, held_out=held_out, split="test")) == 1


def test_folder_with_a_single_image(tmp_path):
    save(tmp_path, "a.png")
    assert len(FolderSource(tmp_path)) == 1
    with pytest.raises(
        UserError, match=r"split 'test' .* is empty: the folder has 1 usable image\(s\)"
    ):
        FolderSource(tmp_path, split="test")


def test_folder_that_is_no_folder(tmp_path):
    with pytest.raises(UserError, match=r"no image folder was given; .*--config.data.path=DIR"):
        FolderSource("")
    with pytest.raises(UserError, match="missing does not exist"):
        FolderSource(tmp_path / "missing")
    save(tmp_path, "a.png")
    with pytest.raises(UserError, match=r"a\.png is a file, not a folder"):
        FolderSource(tmp_path / "a.png")


def test_folder_without_images(tmp_path):
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(
        UserError, match=r"holds no images: .*\.png, \.jpg, .*\.tiff .* found 1 other file"
    ):
        FolderSource(tmp_path)


def spoil(folder):
    """One file of every kind that cannot be used.

    Returns their names and what should be said of them.
    """
    for name in ("cut.png", "cut.jpg", "cut.bmp", "cut.webp", "flipped.png"):
        save(folder, name, (64, 64, 3))
    for name in ("cut.png", "cut.jpg", "cut.bmp", "cut.webp"):
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[: len(data) // 2])
    data = bytearray((folder / "flipped.png").read_bytes())
    data[len(data) // 2] ^= 255
    (folder / "flipped.png").write_bytes(data)
    (folder / "empty.png").write_bytes(b"")
    (folder / "page.jpg").write_text("<html>not found</html>")
    (folder / "gone.png").symlink_to(folder / "nowhere.png")
    Image.fromarray(np.zeros((8, 8), np.float32)).save(folder / "deep.tif")
    reasons = dict.fromkeys(["cut.png", "cut.jpg", "cut.bmp", "flipped.png"], "broken")
    reasons |= {
        "cut.webp": "",
        "empty.png": r"empty \(0 bytes\)",
        "page.jpg": "not a readable image",
    }
    return reasons | {
        "gone.png": "a link to a file that does not exist",
        "deep.tif": "not an 8-bit or 16-bit image: 32 floating-point bits",
    }


@pytest.mark.filterwarnings("error")
def test_folder_names_broken_files_and_skips_them_when_asked(tmp_path):
    for i in range(5):
        save(tmp_path, f"good{i}.png")
    reasons = spoil(tmp_path)
    with pytest.raises(UserError, match=rf"{len(reasons)} of {len(reasons) + 5} images") as error:
        FolderSource(tmp_path)
    with pytest.warns(UserWarning, match=f"left out {len(reasons)} of") as warned:
        source = FolderSource(tmp_path, split="all", skip_bad=True)
    for message in (str(error.value), str(warned[0].message)):
        for name in reasons:
            assert f"\n  {name}: " in message
    assert "train on the 5 good ones only with --config.data.skip_bad=True" in str(error.value)
    assert [f.name for f in source.files] == [f"good{i}.png" for i in range(5)]
    for example in take(source, range(5))["image"]:
        assert example.shape == (8, 8, 3)


def test_folder_says_why_each_file_is_unusable(tmp_path):
    for name, reason in spoil(tmp_path).items():
        folder = tmp_path / "one"
        folder.mkdir(exist_ok=True)
        (tmp_path / name).rename(folder / name)
        with pytest.raises(
            UserError, match=rf"1 of 1 images in .*one cannot be used:\n  {name}: .*{reason}"
        ):
            FolderSource(folder, skip_bad=True)
        (folder / name).unlink()


def test_folder_lists_ten_problems_and_counts_the_rest(tmp_path):
    save(tmp_path, "good.png")
    for i in range(13):
        (tmp_path / f"bad{i:02}.png").touch()
    with pytest.raises(UserError) as error:
        FolderSource(tmp_path)
    assert "13 of 14 images" in str(error.value)
    assert "bad09.png" in str(error.value)
    assert "bad10.png" not in str(error.value)
    assert "... and 3 more" in str(error.value)


def test_folder_of_mixed_sizes(tmp_path):
    for i in range(4):
        save(tmp_path, f"{i}.png", (8, 8, 3))
    save(tmp_path, "odd.png", (8, 10, 3))
    with pytest.raises(UserError) as error:
        FolderSource(tmp_path)
    for part in (
        "1 of 5",
        "odd.png: 8 x 10 pixels",
        "are 8 x 8",
        "--config.data.image_size=64",
        "--config.data.skip_bad=True",
    ):
        assert part in str(error.value)
    with pytest.warns(UserWarning, match=r"odd\.png: 8 x 10 pixels"):
        source = FolderSource(tmp_path, split="all", skip_bad=True)
    assert (len(source), source.shape) == (4, (8, 8, 3))


def test_folder_notices_changes(tmp_path):
    save(tmp_path, "a.png")
    source = FolderSource(tmp_path)
    save(tmp_path, "b.png")
    assert len(FolderSource(tmp_path, split="all")) == 2
    (tmp_path / "a.png").write_bytes(b"spoilt")
    with pytest.raises(UserError, match=r"cannot read .*a\.png any more"):
        source[0]
    with pytest.raises(UserError, match="1 of 2 images"):
        FolderSource(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "val"}, "no split 'val'; known splits: train, test, all"),
        ({"image_size": 0}, "image_size must be at least 1 pixel, or None; got image_size=0"),
        ({"channels": 4}, "channels must be 1"),
        ({"held_out": 1.0}, "held_out is a fraction in"),
    ],
)
def test_folder_refuses_impossible_arguments(tmp_path, arguments, message):
    save(tmp_path, "a.png")
    with pytest.raises(UserError, match=message):
        FolderSource(tmp_path, **arguments)


def test_sub_folders_are_classes(tmp_path):
    for name in ("cat/0.png", "cat/more/1.png", "dog/2.png", "ant/3.png"):
        save(tmp_path, name)
    source = FolderSource(tmp_path, split="all")
    assert source.class_names == ("ant", "cat", "dog") and classes(source) == 3
    assert take(source, range(4))["label"].tolist() == [0, 1, 1, 2]
    assert classes(in_memory(source)) == 3
    for split in ("train", "test"):  # labels are those of the whole folder
        part = FolderSource(tmp_path, split=split)
        assert [part.class_names[e["label"]] for e in part] == [
            file.relative_to(tmp_path).parts[0] for file in part.files
        ]
    save(tmp_path, "4.png")
    mixed = FolderSource(tmp_path, split="all")
    assert classes(mixed) == 0 and not take(mixed, range(5))["label"].any()
