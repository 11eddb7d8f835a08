"""What is wrong with images that a model is to be trained on: findings, each with what to do.

Checks look at pixels, as training sees them, and at labels. They say what they have seen, never
what they guess: clean data have no finding.
"""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt

from score_sde.noise_scales import largest_distance


class Finding(NamedTuple):
    """name: of the check. what: was found. do: what to do. examples: images that show it."""

    name: str
    what: str
    do: str
    examples: tuple[str, ...] = ()


class Split(NamedTuple):
    """images: integer levels. labels: classes. names: what an image is called."""

    images: UInt[np.ndarray, "n h w c"]
    labels: Int[np.ndarray, "n"]
    names: Sequence[str]

    def some(self, which: Sequence[int] | np.ndarray, most: int = 5) -> tuple[str, ...]:
        """Names of the first of these images."""
        return tuple(self.names[int(i)] for i in which[:most])


class Images(NamedTuple):
    """train, heldout: the splits. levels: of a pixel. classes: of the labels, 0 without."""

    train: Split
    heldout: Split
    levels: int
    classes: int

    def both(self) -> Split:
        """All images, those of training first."""
        a, b = self.train, self.heldout
        images = np.concatenate([a.images, b.images])
        return Split(images, np.concatenate([a.labels, b.labels]), [*a.names, *b.names])


Check = Callable[[Images], Iterator[Finding]]


def constant(found: Images) -> Iterator[Finding]:
    """Images of one value."""
    everything = found.both()
    flat = everything.images.reshape(len(everything.images), -1)
    which = np.flatnonzero(flat.min(axis=1) == flat.max(axis=1))
    if len(which):
        yield Finding(
            "constant images",
            f"{len(which)} of {len(flat)} images have one value everywhere",
            "look at them and remove them; a model learns to draw them",
            everything.some(which),
        )


def dark(found: Images) -> Iterator[Finding]:
    """Values that use an eighth of the levels, or less."""
    brightest = max(int(split.images.max()) for split in found[:2])
    if 0 < 8 * brightest < found.levels:
        yield Finding(
            "few levels are used",
            f"the brightest of {found.levels} levels is {brightest}",
            "such images are nearly black. If they have fewer bits than the files, set data.levels "
            f"to {1 << brightest.bit_length()}, or stretch them",
        )


def grey(found: Images) -> Iterator[Finding]:
    """Colour images without colour."""
    everything = found.both().images
    if everything.shape[-1] == 3 and (everything == everything[..., :1]).all():
        yield Finding(
            "grey images with three channels",
            "all three channels are equal in all images",
            "set data.channels=1: the network needs a third of the outputs",
        )


def equal(found: Images) -> Iterator[Finding]:
    """The same pixels twice: in the training images, and in both splits."""
    seen = defaultdict(list)
    for i, image in enumerate(found.train.images):
        seen[_digest(image)].append(i)
    doubles = [numbers for numbers in seen.values() if len(numbers) > 1]
    if doubles:
        yield Finding(
            "equal training images",
            f"{sum(map(len, doubles)) - len(doubles)} training images repeat others",
            "remove them; what is often there is memorized",
            tuple(" = ".join(found.train.some(numbers, 3)) for numbers in doubles[:5]),
        )
    pairs = [
        (i, seen[_digest(x)][0]) for i, x in enumerate(found.heldout.images) if _digest(x) in seen
    ]
    yield from _in_both(found, pairs, "equal images in both splits", "are training images")


def near(found: Images) -> Iterator[Finding]:
    """The same image twice, but for noise, brightness or compression."""
    inside = _near_pairs(found.train.images, found.train.images)
    inside = [(i, j) for i, j in inside if i < j]
    if inside:
        yield Finding(
            "nearly equal training images",
            f"{len({j for _, j in inside})} training images are nearly equal to others",
            "look at them; what is often there is memorized",
            tuple(" ~ ".join(found.train.some(pair)) for pair in inside[:5]),
        )
    pairs = _near_pairs(found.heldout.images, found.train.images)
    firsts = dict(reversed(pairs))
    yield from _in_both(
        found,
        sorted(firsts.items()),
        "nearly equal images in both splits",
        "nearly are training images",
    )


def _in_both(
    found: Images, pairs: Sequence[tuple[int, int]], name: str, what: str
) -> Iterator[Finding]:
    if pairs:
        yield Finding(
            name,
            f"{len(pairs)} of {len(found.heldout.images)} held-out images {what}",
            "move them to one split: held-out losses and likelihoods are too good",
            tuple(f"{found.heldout.names[i]} ~ {found.train.names[j]}" for i, j in pairs[:5]),
        )


def _digest(image: np.ndarray) -> bytes:
    return hashlib.blake2b(np.ascontiguousarray(image).tobytes(), digest_size=16).digest()


def _near_pairs(
    queries: np.ndarray, references: np.ndarray, alike: float = 0.999, detail: float = 0.75
) -> list[tuple[int, int]]:
    """(query, reference) that are not equal, and whose forms and details correlate.

    alike: least correlation of 8 x 8 means, or of the pixels of smaller images. detail: of what is
    left when means over 2 x 2 pixels are taken away, so that two blue skies are not one.
    """
    if not len(queries) or not len(references):
        return []
    coarse = [_unit(_means(x, max(1, min(x.shape[1:3]) // 8))) for x in (queries, references)]
    found = []
    for first in range(0, len(queries), 512):
        products = coarse[0][first : first + 512] @ coarse[1].T
        for i, j in np.argwhere(products > alike):
            a, b = queries[first + i], references[j]
            details = _unit(_details(np.stack([a, b])))
            if (a != b).any() and details[0] @ details[1] > detail:
                found.append((int(first + i), int(j)))
    return found


def _means(images: np.ndarray, factor: int) -> Float[np.ndarray, "n ..."]:
    n, h, w, c = images.shape
    cut = images[:, : h - h % factor, : w - w % factor].astype(np.float32)
    return cut.reshape(n, h // factor, factor, w // factor, factor, c).mean(axis=(2, 4))


def _details(images: np.ndarray) -> Float[np.ndarray, "n ..."]:
    if min(images.shape[1:3]) < 2:
        return images.astype(np.float32)
    smooth = _means(images, 2).repeat(2, axis=1).repeat(2, axis=2)
    return images[:, : smooth.shape[1], : smooth.shape[2]] - smooth


def _unit(values: np.ndarray) -> Float[np.ndarray, "n d"]:
    """Rows less their means, of length 1; 0 for constant ones."""
    flat = values.reshape(len(values), -1)
    flat = flat - flat.mean(axis=1, keepdims=True)
    size = np.linalg.norm(flat, axis=1, keepdims=True)
    return (flat / np.where(size > 1e-6, size, np.inf)).astype(np.float32)


def swapped(found: Images) -> Iterator[Finding]:
    """Red and blue exchanged: in copies of an image, or in a whole split."""
    if found.train.images.shape[-1] != 3:
        return
    everything = found.both()
    seen = {_digest(image): i for i, image in enumerate(everything.images)}
    turned = [seen.get(_digest(image[..., ::-1]), -1) for image in everything.images]
    pairs = [
        (i, j)
        for i, j in enumerate(turned)
        if j > i and (everything.images[i] != everything.images[j]).any()
    ]
    if pairs:
        yield Finding(
            "red and blue are exchanged",
            f"{len(pairs)} images are there once as RGB and once as BGR",
            "find out what wrote them, and remove the wrong ones",
            tuple(" ~ ".join(everything.some(pair)) for pair in pairs[:5]),
        )
    means = [split.images.mean(axis=(0, 1, 2)) / (found.levels - 1) for split in found[:2]]
    apart, other = (np.abs(means[0] - m).max() for m in (means[1], means[1][::-1]))
    if apart > 0.03 and other < apart / 3:
        colours = " and ".join("(" + ", ".join(f"{v:.2f}" for v in m) + ")" for m in means)
        yield Finding(
            "red and blue are exchanged",
            f"mean colours of training and held-out images are {colours}",
            "one split seems to be BGR: compare their pictures",
        )


def labels(found: Images) -> Iterator[Finding]:
    """Classes with few images, or none held out."""
    if found.classes < 2:
        return
    train, heldout = (np.bincount(s.labels, minlength=found.classes) for s in found[:2])
    rare = np.flatnonzero(train < 0.1 * np.median(train))
    if len(rare):
        yield Finding(
            "unequal classes",
            f"classes {rare[:10].tolist()} have {train[rare[:10]].tolist()} training images; the "
            f"median is {np.median(train):g}",
            "get more of them, or leave them out: guided samples of these classes will be poor",
        )
    lacking = np.flatnonzero((heldout == 0) & (train > 0))
    if len(lacking) and heldout.sum() >= 10 * found.classes:
        yield Finding(
            "classes are not held out",
            f"classes {lacking[:10].tolist()} have no held-out image",
            "split anew, at random: held-out losses know nothing of these classes",
        )


def few(found: Images) -> Iterator[Finding]:
    """Fewer images than a model can be trained on without memorizing them."""
    if len(found.train.images) < 500:
        yield Finding(
            "few images",
            f"there are {len(found.train.images)} training images",
            "watch `--mode report` for memorized samples; get more, mirror them "
            "(data.random_flip), augment them, take a smaller network, or stop early",
        )


def noise_scale(found: Images, sigma_max: float, unit: float) -> Iterator[Finding]:
    """A largest noise level far from the largest distance of two images (technique 6.1).

    Args:
        found: the images.
        sigma_max: of the process.
        unit: of a level, in the range of the model.
    """
    distance = largest_distance(found.train.images[:5000])[0] * unit
    if not 0.5 * distance <= sigma_max <= 5 * distance:
        short = sigma_max < distance
        why = "samples will be of few kinds" if short else "steps are spent on noise alone"
        yield Finding(
            "sigma_max does not fit",
            f"sde.sigma_max={sigma_max:g}, and two images are at most {distance:.3g} apart",
            f"set sde.sigma_max={distance:.2g}, see --mode suggest: {why}",
        )


CHECKS: tuple[Check, ...] = (constant, dark, grey, equal, near, swapped, labels, few)
"""All that look at images alone."""
