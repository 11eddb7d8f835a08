"""Planted faults of images are found, each by its check; clean images have none."""

import numpy as np
import pytest

from score_sde.data import digits, health, take
from score_sde.data.health import CHECKS, Finding, Images, Split


def split(images: np.ndarray, labels: np.ndarray | None = None, name: str = "image") -> Split:
    labels = np.zeros(len(images), np.int32) if labels is None else labels
    return Split(images, labels, [f"{name} {i}" for i in range(len(images))])


def photographs(count: int, seed: int = 0) -> np.ndarray:
    """Colour images with shapes, shades and detail; red is brighter than blue."""
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(30, 190, (count, 4, 4, 3)).repeat(4, axis=1).repeat(4, axis=2)
    return np.uint8(coarse + rng.uniform(0, 25, coarse.shape) + np.asarray([40, 15, 0]))


@pytest.fixture
def clean() -> Images:
    labels = np.arange(600, dtype=np.int32) % 3
    train = split(photographs(600), labels, "train")
    return Images(train, split(photographs(90, 1), labels[:90], "heldout"), 256, 3)


def found(images: Images) -> list[Finding]:
    return [one for check in CHECKS for one in check(images)]


def test_clean_images_have_no_finding(clean: Images) -> None:
    assert found(clean) == []
    sources = [digits("train"), digits("test")]
    batches = [take(source, np.arange(len(source))) for source in sources]
    splits = [split(batch["image"], batch["label"]) for batch in batches]
    assert found(Images(*splits, 17, 10)) == []


def changed(images: Images, number: int, values: np.ndarray, of: str = "train") -> Images:
    part = getattr(images, of)
    pixels = part.images.copy()
    pixels[number] = values
    return images._replace(**{of: part._replace(images=pixels)})


def test_bad_pixels(clean: Images) -> None:
    (one,) = found(changed(clean, 7, 90))
    assert (one.name, one.examples) == ("constant images", ("train 7",)) and "1 of 690" in one.what
    (one,) = found(clean._replace(levels=65536))
    assert one.name == "few levels are used" and "65536 levels" in one.what and "256" in one.do
    grey = [s._replace(images=s.images[..., :1].repeat(3, axis=-1)) for s in clean[:2]]
    (one,) = found(Images(*grey, 256, 3))
    assert one.name == "grey images with three channels"


def test_images_that_are_there_twice(clean: Images) -> None:
    image = clean.train.images[3]
    (one,) = found(changed(clean, 500, image))
    assert one.name == "equal training images" and one.examples == ("train 3 = train 500",)
    (one,) = found(changed(clean, 8, image, "heldout"))
    assert one.name == "equal images in both splits" and "1 of 90" in one.what
    assert one.examples == ("heldout 8 ~ train 3",)


@pytest.mark.parametrize("kind", ["noise", "brighter"])
def test_images_that_are_there_nearly_twice(clean: Images, kind: str) -> None:
    image = clean.train.images[3].astype(int)
    noise = np.random.default_rng(5).integers(-2, 3, image.shape)
    other = np.uint8(image + noise if kind == "noise" else 0.9 * image + 12)
    (one,) = found(changed(clean, 500, other))
    assert one.name == "nearly equal training images" and one.examples == ("train 3 ~ train 500",)
    (one,) = found(changed(clean, 8, other, "heldout"))
    assert one.name == "nearly equal images in both splits"
    assert one.examples == ("heldout 8 ~ train 3",)


def test_smooth_images_are_not_nearly_equal() -> None:
    """Two skies have the same form, and noise of their own."""
    line = np.linspace(100, 200, 32)[None, :, None, None]
    noise = np.random.default_rng(0).normal(0, 2, (2, 32, 32, 3))
    assert not health._near_pairs(*np.split(np.uint8(line + noise), 2))


def test_red_and_blue(clean: Images) -> None:
    (one,) = found(changed(clean, 500, clean.train.images[3][..., ::-1]))
    assert one.examples == ("train 3 ~ train 500",) and "once as BGR" in one.what
    turned = clean.heldout._replace(images=clean.heldout.images[..., ::-1].copy())
    (one,) = found(clean._replace(heldout=turned))
    assert one.name == "red and blue are exchanged" and "mean colours" in one.what


def test_classes(clean: Images) -> None:
    labels = clean.train.labels.copy()
    labels[labels == 2] = np.where(np.arange(200) < 5, 2, 0)
    (one,) = found(clean._replace(train=clean.train._replace(labels=labels)))
    assert one.name == "unequal classes" and "[2] have [5]" in one.what
    lacking = clean.heldout._replace(labels=clean.heldout.labels % 2)
    (one,) = found(clean._replace(heldout=lacking))
    assert one.name == "classes are not held out" and "[2]" in one.what


def test_few_images_and_a_wrong_scale(clean: Images) -> None:
    some = Split(*(part[:40] for part in clean.train))
    (one,) = found(clean._replace(train=some))
    assert one.name == "few images" and "40" in one.what
    flat = clean.train.images.reshape(600, -1).astype(float) / 255
    largest = max(np.linalg.norm(flat - row, axis=1).max() for row in flat)
    for sigma_max, wrong in ((0.4, True), (0.9, False), (4.0, False), (6.0, True)):
        told = list(health.noise_scale(clean, sigma_max * largest, 1 / 255))
        assert bool(told) == wrong
        assert not told or f"sde.sigma_max={largest:.2g}" in told[0].do
