"""What a user hands to a trained model: what is taken as it is, and what is refused by name."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from score_sde.data.inputs import join, read_inputs
from score_sde.errors import UserError

GREY, COLOUR = (4, 6, 1), (4, 6, 3)


def save(path: Path, pixels: np.ndarray, mode: str | None = None, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(path, **options)
    return path


def grey(value: int = 255, height: int = 4, width: int = 6) -> np.ndarray:
    return np.linspace(0, value, height * width).round().astype(np.uint8).reshape(height, width)


def npz(path: Path, **arrays) -> Path:
    np.savez(path, **arrays)
    return path


def refused(
    message: str, path: Path, shape=GREY, levels: int = 256, accept=("images", "z"), **more
) -> None:
    with pytest.raises(UserError, match=message):
        read_inputs([path], shape, levels, accept, **more)


def test_files_and_folders_in_the_order_given(tmp_path: Path) -> None:
    save(tmp_path / "in" / "b.png", grey(100))
    save(tmp_path / "in" / "sub" / "a.png", grey(200))
    one = save(tmp_path / "one.png", grey(50))
    found = join(read_inputs([one, tmp_path / "in"], GREY, 256, ["images"]))
    assert (
        found.names == ["one.png", "b.png", "sub/a.png"] and found.files and found.kind == "images"
    )
    np.testing.assert_array_equal(found.values[..., 0], [grey(50), grey(100), grey(200)])
    np.testing.assert_array_equal(found.labels, [0, 0, 0])


def test_eight_bits_become_the_nearest_level(tmp_path: Path) -> None:
    """17 levels at 255 k/16: every level comes back, and the values between go to the nearest."""
    path = save(tmp_path / "a.png", np.arange(256, dtype=np.uint8).reshape(16, 16))
    (found,) = read_inputs([path], (16, 16, 1), 17, ["images"])
    v = np.arange(256)
    np.testing.assert_array_equal(found.values.ravel(), np.floor(v * 16 / 255 + 0.5))
    levels = np.arange(17)
    shown = np.rint(255 * levels / 16).astype(int)
    np.testing.assert_array_equal(found.values.ravel()[shown], levels)


def test_palette_grey_colour_and_transparency(tmp_path: Path) -> None:
    colour = np.random.default_rng(0).integers(0, 256, (4, 6, 3)).astype(np.uint8)
    (found,) = read_inputs([save(tmp_path / "grey.png", grey())], COLOUR, 256, ["images"])
    np.testing.assert_array_equal(found.values[0], np.repeat(grey()[..., None], 3, axis=-1))
    (found,) = read_inputs([save(tmp_path / "rgb.png", grey(), "RGB")], GREY, 256, ["images"])
    np.testing.assert_array_equal(found.values[0, ..., 0], grey())
    (found,) = read_inputs([save(tmp_path / "palette.png", grey(), "P")], GREY, 256, ["images"])
    np.testing.assert_array_equal(found.values[0, ..., 0], grey())
    clear = np.concatenate([colour, np.zeros((4, 6, 1), np.uint8)], axis=-1)
    (found,) = read_inputs([save(tmp_path / "clear.png", clear)], COLOUR, 256, ["images"])
    assert (found.values == 255).all()
    refused("(?s)1 of 1 images.*rgb2.png: in colour.*grey", save(tmp_path / "rgb2.png", colour))


def test_unusable_files_are_all_named(tmp_path: Path) -> None:
    save(tmp_path / "good.png", grey())
    save(tmp_path / "large.png", grey(height=5))
    save(tmp_path / "deep.png", grey().astype(np.uint16))
    (tmp_path / "broken.png").write_bytes((tmp_path / "good.png").read_bytes()[:40])
    (tmp_path / "empty.jpg").write_bytes(b"")
    refused(
        r"(?s)4 of 5 images.*broken.png.*deep.png: 16 bits a channel with values up to 255.*"
        r"empty.jpg: empty.*"
        r"large.png: 5 x 6 pixels, not 4 x 6.*shape \(4, 6, 1\)",
        tmp_path,
    )
    floating = tmp_path / "float.tiff"
    Image.fromarray(grey().astype(np.float32)).save(floating)
    refused(r"float.tiff: not an 8-bit or 16-bit image: 32 floating-point bits", floating)


def test_levels_saved_as_they_are_would_be_black(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", grey(16))
    refused("brightest pixel in .* is 16: these look like levels 0 .. 16", path, levels=17)
    assert read_inputs([path], GREY, 256, ["images"])[0].values.max() == 16
    black = save(tmp_path / "black.png", np.zeros((4, 6), np.uint8))
    assert (read_inputs([black], GREY, 17, ["images"])[0].values == 0).all()


def test_places_without_images(tmp_path: Path) -> None:
    refused("none does not exist", tmp_path / "none")
    (tmp_path / "text.txt").write_text("")
    refused("holds no images.*found 1 other file.*Name a folder of images with --input", tmp_path)
    refused("no npz file of latents; make one with --mode encode", tmp_path, accept=["z"])


def test_npz_files_of_levels_and_latents(tmp_path: Path) -> None:
    z = np.random.default_rng(0).normal(size=(2, *GREY))
    levels = np.full((3, *GREY), 16)
    both = npz(
        tmp_path / "both.npz", z=z, images=levels, names=["p", "q"], prior_std=2.0, levels=17
    )
    (found,) = read_inputs([both], GREY, 17, ["z", "images"], prior_std=2.0)
    assert found.kind == "z" and found.values.dtype == np.float32 and found.names == ["p", "q"]
    np.testing.assert_allclose(found.values, z, rtol=1e-6)
    (found,) = read_inputs([both], GREY, 17, ["images"])
    assert found.values.dtype == np.uint8 and not found.files
    assert found.names == ["both[0]", "both[1]", "both[2]"]  # two names are not of three images
    np.testing.assert_array_equal(found.values, levels)
    labelled = npz(tmp_path / "labels.npz", images=levels, label=np.arange(3))
    np.testing.assert_array_equal(
        read_inputs([labelled], GREY, 17, ["images"])[0].labels, [0, 1, 2]
    )
    refused("prior_std=2, this model's has 1; encode the images", both, accept=["z"], prior_std=1.0)
    refused("`images` in .* have 17 levels; the model's have 256", both, accept=["images"])


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (
            {"x": np.zeros(3)},
            r"no entry `images` \(integer pixel levels\) or `z` \(latents\); it holds x",
        ),
        (
            {"images": np.full((1, *GREY), np.nan)},
            "are float64 with values that are not finite; .*integer",
        ),
        ({"images": np.zeros((1, *GREY))}, "are float64; they must be integer levels 0 .. 255"),
        (
            {"images": np.full((1, *GREY), 300)},
            "values 300 .. 300; the model's levels are 0 .. 255",
        ),
        ({"images": np.full((1, *GREY), -1)}, "values -1 .. -1"),
        (
            {"images": np.zeros((1, *COLOUR), int)},
            r"shape \(1, 4, 6, 3\); the model takes \(n, 4, 6, 1\)",
        ),
        ({"z": np.zeros((0, *GREY))}, "shape .*with n >= 1"),
        ({"z": np.zeros(GREY)}, "the model takes"),
        ({"z": np.zeros((1, *GREY), int)}, "`z` in .* is int64; latents are floating-point"),
        (
            {"z": np.stack([np.zeros(GREY), np.full(GREY, np.inf)])},
            r"1 of 2 latents .* \(numbers \[1\]\)",
        ),
    ],
)
def test_npz_files_that_do_not_fit(tmp_path: Path, arrays: dict, message: str) -> None:
    refused(message, npz(tmp_path / "a.npz", **arrays))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"levels": [256, 256]}, r"`levels` in .* is int64 of shape \(2,\); it must be one number"),
        ({"levels": 256.5}, "have 256.5 levels; the model's have 256"),
        ({"levels": "many"}, r"`levels` in .* is <U4 of shape \(\); it must be one number"),
        ({"label": ["cat"]}, "`label` in .* is <U3; labels are integers"),
        (
            {"images": np.full((1, *GREY), "x")},
            "`images` in .* are <U1; they must be integer levels",
        ),
    ],
)
def test_entries_beside_images_that_make_no_sense(tmp_path: Path, more: dict, message: str) -> None:
    refused(message, npz(tmp_path / "a.npz", **{"images": np.zeros((1, *GREY), int)} | more))


@pytest.mark.parametrize("prior_std", ["one", [1.0, 1.0], [], True])
def test_prior_std_is_one_number(tmp_path: Path, prior_std) -> None:
    path = npz(tmp_path / "a.npz", z=np.zeros((1, *GREY)), prior_std=prior_std)
    refused(r"`prior_std` in .* of shape .*; it must be one number", path, prior_std=1.0)


def test_damaged_npz(tmp_path: Path) -> None:
    path = npz(tmp_path / "a.npz", z=np.zeros((1, *GREY)))
    path.write_bytes(path.read_bytes()[:60])
    refused("is no readable npz file", path)
    path.write_bytes(b"no zip")
    refused("is no readable npz file", path)
    np.savez(path, z=np.asarray([{}], dtype=object))
    refused("is no readable npz file", path)
