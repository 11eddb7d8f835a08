"""Where every image and every pixel of a picture lands."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from score_sde.viz.grid import (
    BACKGROUND,
    automatic_scale,
    image_grid,
    neighbor_grid,
    png_bytes,
    save_images,
    save_png,
)


def numbered(count: int, height: int = 3, width: int = 5, channels: int = 3) -> np.ndarray:
    """uint8 images whose every value is different from its neighbours'."""
    values = np.arange(count * height * width * channels) * 7 % 251
    return values.reshape(count, height, width, channels).astype(np.uint8)


@pytest.mark.parametrize(("padding", "scale"), [(1, 1), (2, 3), (0, 2)])
def test_placement_is_pixel_exact(padding: int, scale: int) -> None:
    images = numbered(7)
    picture = image_grid(images, columns=3, padding=padding, scale=scale)
    assert picture.shape == (
        scale * (3 * (3 + padding) + padding),
        scale * (3 * (5 + padding) + padding),
        3,
    )
    seen = np.zeros(picture.shape[:2], bool)
    for index, image in enumerate(images):
        top = scale * (padding + (index // 3) * (3 + padding))
        left = scale * (padding + (index % 3) * (5 + padding))
        part = picture[top : top + 3 * scale, left : left + 5 * scale]
        np.testing.assert_array_equal(part, np.kron(image, np.ones((scale, scale, 1), np.uint8)))
        seen[top : top + 3 * scale, left : left + 5 * scale] = True
    assert (picture[~seen] == BACKGROUND).all()  # gaps, and the two places left over


def test_grey_and_rounding() -> None:
    images = np.array([0.0, 0.4 / 255, 0.6 / 255, 1.0, 1.0005], np.float32).reshape(1, 1, 5, 1)
    picture = image_grid(images, padding=0, scale=1)
    np.testing.assert_array_equal(
        picture, np.array([0, 0, 1, 255, 255])[None, :, None] * np.ones((1, 1, 3))
    )


def test_default_columns_and_scale() -> None:
    assert image_grid(numbered(64, 8, 8, 1)).shape == (
        803,
        803,
        3,
    )  # 8 columns: 73 pixels, 11 times
    assert image_grid(numbered(36, 32, 32)).shape == (796, 796, 3)  # 199 pixels, 4 times
    assert image_grid(numbered(4, 40, 40)).shape == (83, 83, 3)  # large enough as they are
    assert image_grid(numbered(1, 8, 8)).shape == (320, 320, 3)  # one image: 256 wide and its frame
    assert image_grid(numbered(2, 8, 8), columns=9, scale=1).shape == (10, 19, 3)
    assert automatic_scale(5000, 8, 8) == 1


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_float_types(dtype: str) -> None:
    jnp = pytest.importorskip("jax.numpy")
    images = np.full((1, 2, 2, 1), 0.5).astype(jnp.bfloat16 if dtype == "bfloat16" else dtype)
    assert (image_grid(images, padding=0, scale=1) == 128).all()


def test_jax_array() -> None:
    jnp = pytest.importorskip("jax.numpy")
    assert (image_grid(jnp.ones((1, 2, 2, 3)), padding=0, scale=1) == 255).all()


def _with_nan() -> np.ndarray:
    images = np.zeros((4, 2, 2, 1))
    images[1, 0, 0] = np.nan
    images[3, :, 0] = np.inf
    return images


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (_with_nan(), "3 of 16 pixel values.*2 of 4 images"),
        (np.zeros((2, 4, 4, 2)), r"1 or 3 channels.*\(2, 4, 4, 2\)"),
        (np.zeros((4, 4, 1)), r"\(4, 4, 1\)"),
        (np.zeros((0, 4, 4, 1)), "nothing to show"),
        (np.full((1, 4, 4, 1), -0.5), r"-0\.5.*PixelRange"),
        (np.full((1, 4, 4, 1), 16.0), r"16"),
        (np.zeros((1, 4, 4, 1), np.int32), "int32"),
    ],
)
def test_refusals(images: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        image_grid(images)


def test_refuses_impossible_layout() -> None:
    with pytest.raises(ValueError, match="columns=0"):
        image_grid(numbered(2), columns=0)
    with pytest.raises(ValueError, match="scale=0"):
        image_grid(numbered(2), scale=0)


def test_png_is_lossless_and_written_whole(tmp_path: Path) -> None:
    picture = image_grid(numbered(5), columns=3)
    path = tmp_path / "samples" / "grid.png"
    save_png(path, picture)
    with Image.open(path) as image:
        np.testing.assert_array_equal(np.asarray(image), picture)
    assert path.read_bytes() == png_bytes(picture)
    assert [file.name for file in path.parent.iterdir()] == ["grid.png"]


@pytest.mark.parametrize("channels", [1, 3])
def test_single_images_are_files_of_their_own_size(tmp_path: Path, channels: int) -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 4, 5, channels)).astype(np.uint8)
    tmp_path.joinpath("00007.png").write_bytes(b"left over")
    tmp_path.joinpath("cat.png").write_bytes(b"not ours")
    save_images(tmp_path, images)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "00000.png",
        "00001.png",
        "00002.png",
        "cat.png",
    ]
    for number, image in enumerate(images):
        read = np.asarray(Image.open(tmp_path / f"{number:05d}.png"))
        np.testing.assert_array_equal(read.reshape(image.shape), image)


def test_single_grey_images_of_16_bits_keep_them(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 65536, (2, 4, 5, 1)).astype(np.uint16)
    save_images(tmp_path, images)
    for number, image in enumerate(images):
        read = np.asarray(Image.open(tmp_path / f"{number:05d}.png"))
        assert read.dtype == np.uint16
        np.testing.assert_array_equal(read, image[..., 0])


def test_neighbor_grid_shows_sample_gap_neighbors() -> None:
    neighbors = np.zeros((2, 2, 4, 4, 1), np.float32)
    neighbors[:, :, 1, 2, 0] = [[0.9, 0.6], [0.2, 0.4]]
    samples = np.zeros((2, 4, 4, 1), np.float32)
    samples[:, 1, 2, 0] = [1.0, 0.2]
    picture = neighbor_grid(samples, neighbors, scale=1)
    gap = 1 + 2  # padding and half an image
    assert picture.shape == (2 * 5 + 1, 1 + 4 + gap + 2 * 5, 3)
    lefts = [1, 1 + 4 + gap, 1 + 4 + gap + 5]
    expected = [[1.0, 0.9, 0.6], [0.2, 0.2, 0.4]]
    for row in range(2):
        shown = [int(picture[1 + 5 * row + 1, left + 2, 0]) for left in lefts]
        assert shown == [round(255 * value) for value in expected[row]]
    assert (picture[:, 5 : 5 + gap] == BACKGROUND).all()
    with pytest.raises(ValueError, match=r"for 1 samples; got shape \(2, 2, 4, 4, 1\)"):
        neighbor_grid(samples[:1], neighbors)
