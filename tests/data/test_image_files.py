"""Image files: the depth that the file says, formats by content, and what is refused unread."""

from pathlib import Path

import numpy as np
import pytest
from data.deep import chunk, png, tiff
from PIL import Image, ImageFile

from score_sde.build.data import open_source
from score_sde.build.settings import Data
from score_sde.data import FolderSource
from score_sde.data.image_files import check_file, read_image
from score_sde.data.image_sets import open_images
from score_sde.data.inputs import read_inputs, read_mask
from score_sde.errors import UserError

DEEP = np.random.default_rng(0).integers(0, 65536, (5, 7, 4), np.uint16)
DEEP[0, 0, 0] = 65535


def writers():
    """(name, function of (path, values)) of every way to store 16 bits."""
    yield "png", png
    for order in "<>":
        for compression in (1, 8):
            yield (
                f"tiff{order}{compression}",
                lambda path, values, order=order, compression=compression: tiff(
                    path, values, order, compression=compression
                ),
            )


@pytest.mark.parametrize(("kind", "write"), writers(), ids=[name for name, _ in writers()])
@pytest.mark.parametrize("channels", [1, 3])
def test_all_16_bits_are_read(tmp_path: Path, kind, write, channels: int) -> None:
    """Grey and colour, both byte orders, packed or not: training, --input and masks."""
    values, name = DEEP[..., :channels], "a." + kind[:4].rstrip("<>")
    file = write(tmp_path / name, values)
    found = check_file(tmp_path, name)
    assert (found.problem, found.bits, found.size) == ("", 16, (5, 7))
    assert found.brightest == 65535 and found.grey == (channels == 1)
    np.testing.assert_array_equal(read_image(file, channels), values)
    source = open_source(Data("folder", str(tmp_path), levels=65536), train=True)
    assert source.levels == 65536
    np.testing.assert_array_equal(source[0]["image"], values)
    (given,) = read_inputs([file], values.shape, 65536, ["images"])
    np.testing.assert_array_equal(given.values[0], values)
    known = read_mask(str(file), values.shape)
    np.testing.assert_array_equal(known[..., 0], values.mean(axis=-1) >= 32768)


def test_opaque_alpha_is_left_out_and_the_rest_is_on_white(tmp_path: Path) -> None:
    values = DEEP.copy()
    values[..., 3] = 65535
    values[0, 0, 3] = 0
    wanted = values[..., :3].copy()
    wanted[0, 0] = 65535
    np.testing.assert_array_equal(read_image(png(tmp_path / "a.png", values), 3), wanted)
    np.testing.assert_array_equal(read_image(tiff(tmp_path / "a.tif", values), 3), wanted)
    grey = png(tmp_path / "grey.png", values[..., 2:])
    np.testing.assert_array_equal(read_image(grey, 1), wanted[..., 2:])
    assert check_file(tmp_path, "grey.png").grey
    luma = wanted @ np.asarray([0.299, 0.587, 0.114])
    assert np.abs(read_image(tmp_path / "a.png", 1)[..., 0] - luma).max() <= 0.5


def test_orientation_of_deep_and_shallow_tiff(tmp_path: Path) -> None:
    for values in (DEEP[..., :3], DEEP[..., :1], DEEP[..., :3].astype(np.uint8)):
        file = tiff(tmp_path / "a.tif", values, orientation=6)
        assert check_file(tmp_path, "a.tif").size == (7, 5)
        found = read_image(file, values.shape[-1])
        np.testing.assert_array_equal(found, np.rot90(values, -1))


def test_images_of_12_bits_need_their_number_of_levels(tmp_path: Path) -> None:
    values = DEEP[..., :3] >> 4
    png(tmp_path / "a.png", values)
    source = open_source(Data("folder", str(tmp_path), levels=4096), train=True)
    assert source.levels == 4096
    np.testing.assert_array_equal(source[0]["image"], values)
    for levels in (17, 256, 2048):
        with pytest.raises(UserError, match=r"a\.png has 16 bits .* 4095, .*data\.levels=4096"):
            open_source(Data("folder", str(tmp_path), levels=levels), train=True)
    with pytest.warns(UserWarning, match=r"brightest value .* is 4095 of 65535"):
        open_source(Data("folder", str(tmp_path), levels=65536), train=True)
    (given,) = read_inputs([tmp_path], values.shape, 4096, ["images"])
    np.testing.assert_array_equal(given.values[0], values)
    for levels in (256, 2048):
        with pytest.raises(UserError, match=r"a\.png: 16 bits a channel .* up to 4095"):
            read_inputs([tmp_path], values.shape, levels, ["images"])
    with pytest.raises(UserError, match=r"a\.png .* 16 bits .*levels=65536"):
        open_images(tmp_path)
    small = FolderSource(tmp_path, image_size=2).with_levels(4096)[0]["image"]
    assert small.max() > 255 and small.dtype == np.uint16


def test_8_and_16_bits_in_one_folder(tmp_path: Path) -> None:
    for i in range(3):
        png(tmp_path / f"{i}.png", DEEP[..., :3])
    Image.fromarray(DEEP[..., :3].astype(np.uint8)).save(tmp_path / "shallow.png")
    with pytest.raises(UserError, match=r"shallow\.png: 8 bits a channel, the others have 16"):
        FolderSource(tmp_path)
    with pytest.raises(UserError, match=r"256 levels, but config\.data\.levels is 65536"):
        for i in range(3):
            (tmp_path / f"{i}.png").unlink()
        open_source(Data("folder", str(tmp_path), levels=65536), train=True)
    found = read_inputs([tmp_path], (5, 7, 3), 65536, ["images"])[0]
    np.testing.assert_array_equal(found.values[0] // 257, DEEP[..., :3].astype(np.uint8))


@pytest.mark.parametrize(
    ("values", "tags", "message"),
    [
        (DEEP[..., :1].astype(np.int16), {"format": 2}, "16 signed bits a channel"),
        (DEEP[..., :1].astype(np.float32), {"format": 3}, "32 floating-point bits"),
        (DEEP[..., :1].astype(np.uint32), {}, "32  bits a channel"),
        (DEEP[..., :1], {"photometric": 0}, "16 bits a channel, mode"),
        (DEEP[..., :3], {"planar": 2}, "."),
        (DEEP, {"photometric": 5}, "16 bits a channel, mode CMYK|not a readable"),
    ],
)
def test_other_depths_are_refused_by_name(tmp_path: Path, values, tags, message) -> None:
    tiff(tmp_path / "a.tif", values, **tags)
    with pytest.raises(UserError, match=rf"a\.tif: .*{message}"):
        FolderSource(tmp_path)
    with pytest.raises(UserError, match=rf"a\.tif: .*{message}"):
        read_inputs([tmp_path / "a.tif"], (5, 7, 1), 65536, ["images"])


def test_one_transparent_colour_of_16_bits_is_refused(tmp_path: Path) -> None:
    png(tmp_path / "a.png", DEEP[..., :3], chunk(b"tRNS", bytes(6)))
    with pytest.raises(UserError, match=r"a\.png: 16 bits a channel with one colour"):
        FolderSource(tmp_path)


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n"


def others(folder: Path) -> None:
    """x.png of formats that are not promised."""
    image = Image.fromarray(DEEP[..., :3].astype(np.uint8))
    for kind in ("PPM", "TGA", "ICO", "PCX", "SGI"):
        image.save(folder / f"{kind}.png", kind)
    (folder / "PS.png").write_bytes(POSTSCRIPT)


def test_formats_are_told_by_content_and_the_others_never_decoded(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    others(tmp_path / "other")
    for name in ("PPM", "TGA", "ICO", "PCX", "SGI", "PS"):
        file = tmp_path / "other" / f"{name}.png"
        assert "not a readable image" in check_file(file.parent, file.name).problem
        with pytest.raises(UserError, match=rf"{name}\.png: not a readable image"):
            read_inputs([file], (5, 7, 3), 256, ["images"])
        with pytest.raises(UserError, match=f"--mask .*{name}.png: not a readable image"):
            read_mask(str(file), (5, 7, 3))
        with pytest.raises(UserError, match=rf"{name}\.png: not a readable image"):
            open_images(tmp_path / "other")
    pixels = DEEP[..., :3].astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "bitmap.png", "BMP")
    np.testing.assert_array_equal(read_image(tmp_path / "bitmap.png", 3), pixels)


def test_nothing_but_one_function_opens_images() -> None:
    package = Path(__file__).parents[2] / "score_sde"
    opening = [path.name for path in package.rglob("*.py") if "Image.open(" in path.read_text()]
    assert opening == ["image_files.py"]


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("size", [(9_000, 9_000), (10_000, 10_000), (60_000, 60_000)])
def test_bombs_are_refused_by_their_headers(
    tmp_path: Path, size: tuple[int, int], monkeypatch
) -> None:
    """81 million pixels (ours), 100 million (Pillow warns), 3,600 million (Pillow raises)."""
    png(tmp_path / "bomb.png", DEEP, size=size)
    tiff(tmp_path / "bomb.tif", DEEP[..., :1], width=size[0], height=size[1])
    taken = []
    monkeypatch.setattr(ImageFile.ImageFile, "load_prepare", lambda image: taken.append(image))
    for name in ("bomb.png", "bomb.tif"):
        assert "more pixels than the 80,000,000" in check_file(tmp_path, name).problem
    with pytest.raises(UserError, match=r"bomb\.png: .*more pixels"):
        read_inputs([tmp_path / "bomb.png"], (8, 8, 1), 256, ["images"])
    with pytest.raises(UserError, match=r"bomb\.png: .*more pixels"):
        FolderSource(tmp_path, image_size=8)
    assert not taken
