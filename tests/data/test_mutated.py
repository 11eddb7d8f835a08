"""Seeded damage to every kind of input file: each read succeeds or ends in a UserError."""

import functools
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from data.deep import png, tiff
from PIL import Image

from score_sde.data import FolderSource
from score_sde.data.image_sets import open_images
from score_sde.data.inputs import read_inputs, read_mask
from score_sde.errors import UserError
from score_sde.metrics.statistics import load_statistics

RNG = np.random.default_rng(0)
DEEP = RNG.integers(0, 65536, (6, 5, 4), np.uint16)
COLOUR = (DEEP[..., :3] >> 8).astype(np.uint8)
EACH = 40
"""Damaged copies of each file."""


def images(folder: Path) -> list[Path]:
    """One file of every format and depth."""
    folder.mkdir()
    turned = Image.Exif()
    turned[0x0112] = 6
    picture = Image.fromarray(COLOUR)
    for name, made, options in (
        ("colour.png", picture, {}),
        ("turned.png", picture, {"exif": turned}),
        ("palette.png", picture.convert("P"), {"transparency": 3}),
        ("bits.png", picture.convert("1"), {}),
        ("grey.jpg", picture.convert("L"), {}),
        ("colour.jpg", picture, {"progressive": True}),
        ("cmyk.jfif", picture.convert("CMYK"), {}),
        ("lossless.webp", picture.convert("RGBA"), {"lossless": True}),
        ("lossy.webp", picture, {}),
        ("colour.bmp", picture, {}),
        ("palette.bmp", picture.convert("P"), {}),
        ("a.gif", picture, {"save_all": True, "append_images": [picture.rotate(90)]}),
        ("lzw.tiff", picture, {"compression": "tiff_lzw"}),
        ("jpeg.tiff", picture, {"compression": "jpeg"}),
    ):
        made.save(folder / name, **options)
    for channels in (1, 2, 3, 4):
        png(folder / f"deep{channels}.png", DEEP[..., :channels])
        if channels != 2:
            tiff(folder / f"raw{channels}.tif", DEEP[..., :channels], ">")
            tiff(folder / f"zip{channels}.tif", DEEP[..., :channels], compression=8, orientation=6)
    return sorted(folder.iterdir())


def arrays(folder: Path) -> list[Path]:
    """npz files of images, latents and statistics, stored and packed."""
    folder.mkdir()
    eye, provenance = np.eye(3), json.dumps({"images": 9})
    for save, kind in ((np.savez, "stored"), (np.savez_compressed, "packed")):
        many = {"images": np.tile(COLOUR, (4, 1, 1, 1)), "levels": 256, "label": np.arange(4)}
        save(folder / f"images_{kind}.npz", **many, names=list("abcd"), finite=np.ones(4, bool))
        save(folder / f"latents_{kind}.npz", z=np.ones((2, 6, 5, 3), np.float32), prior_std=1.0)
        save(folder / f"ours_{kind}.npz", mu=eye[0], sigma=eye, n=9, provenance=provenance)
        save(folder / f"features_{kind}.npz", pool_3=np.ones((5, 3), np.float32))
    return sorted(folder.iterdir())


def damaged(data: bytes, rng: np.random.Generator) -> bytes:
    """Bits flipped, bytes replaced, cut, put in, repeated, or a number made large or zero."""
    found, n = bytearray(data), len(data)
    for _ in range(int(rng.integers(1, 4))):
        at = int(rng.integers(0, max(1, n if rng.random() < 0.5 else min(n, 80))))
        size = int(rng.integers(1, 9))
        kind = rng.integers(0, 7)
        if kind == 0 and at < len(found):
            found[at] ^= 1 << int(rng.integers(0, 8))
        elif kind == 1:
            found[at : at + size] = rng.bytes(size)
        elif kind == 2:
            del found[at:]
        elif kind == 3:
            found[at:at] = rng.bytes(size)
        elif kind == 4:
            del found[at : at + size]
        elif kind == 5:
            found[at : at + 4] = rng.choice([b"\xff" * 4, bytes(4), b"\x7f\xff\xff\xff"])
        else:
            found[at:at] = found[at : at + 8 * size]
    return bytes(found)


def attempt(read: Callable[[], object], what: str) -> bool:
    """Whether it was read; fails with the name of what raised anything else than a UserError."""
    try:
        read()
    except UserError as error:
        assert str(error)
        return False
    except Exception as error:
        pytest.fail(f"{what}: {type(error).__name__}: {error}")
    return True


@pytest.mark.filterwarnings("ignore")
def test_damaged_images(tmp_path: Path) -> None:
    """As --input, as a mask, and as a folder to train on, whose scan must agree with its reads."""
    rng, good, tried = np.random.default_rng(1), 0, 0
    folder = tmp_path / "damaged"
    folder.mkdir()
    for file in images(tmp_path / "images"):
        data = file.read_bytes()
        for i in range(EACH):
            one = folder / f"{i}_{file.name}"
            one.write_bytes(damaged(data, rng))
            given = lambda one=one: read_inputs([one], (6, 5, 3), 65536, ["images"])  # noqa: E731
            good += attempt(given, f"{file.name} {i}")
            attempt(lambda one=one: read_mask(str(one), (6, 5, 3)), f"mask {file.name} {i}")
            tried += 1
    assert tried >= 800 and good >= 20
    for size in (4, None):

        def read(size: int | None = size) -> None:
            source = FolderSource(folder, image_size=size, split="all", skip_bad=True)
            for i in range(len(source)):
                attempt(functools.partial(source.__getitem__, i), str(source.files[i]))

        attempt(read, f"folder with image_size={size}")


@pytest.mark.filterwarnings("ignore")
def test_damaged_npz_files(tmp_path: Path) -> None:
    """As images to measure, as statistics, and as --input."""
    rng, good = np.random.default_rng(2), 0
    for file in arrays(tmp_path / "arrays"):
        data = file.read_bytes()
        one = tmp_path / file.name
        for i in range(EACH):
            one.write_bytes(damaged(data, rng))

            def measured(one: Path = one) -> None:
                found = open_images(one)
                found.read(np.arange(found.count))

            given = lambda one=one: read_inputs([one], (6, 5, 3), 256, ["z", "images"])  # noqa: E731
            statistics = lambda one=one: load_statistics(one)  # noqa: E731
            for read in (measured, given, statistics):
                good += attempt(read, f"{file.name} {i}")
    assert good >= 5
