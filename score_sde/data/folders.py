"""Folders of your own images as sources: which files can be used, and their pixels."""

import copy
import functools
import hashlib
import os
import unicodedata
import warnings
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from score_sde.data import checked
from score_sde.data.checked import Listed, keep_checked, read_checked
from score_sde.data.image_files import EXTENSIONS, ScannedFile, check_file, read_image
from score_sde.data.listing import folders_below
from score_sde.data.sources import NO_NETWORK, Example, Shape, check_split, threads
from score_sde.data.transforms import crop_resize
from score_sde.devices import leads, say
from score_sde.errors import UserError
from score_sde.files import kind_of

PASS_FOLDER = f"Pass the folder of your images with --config.data.path=DIR. {NO_NETWORK}"


class FolderSource:
    """Your own images: every PNG, JPEG, WebP, BMP, GIF and TIFF file below a folder, sorted.

    Of several frames the first counts. Hidden files and folders (names that begin with a dot) are
    left out, links to folders are followed. A line on standard output says what was used.

    Pixels: the EXIF orientation is applied; transparency is composited onto white, since the
    colour under a transparent pixel means nothing; colour becomes grey by the ITU-R 601 luma.
    Files of 16 bits a channel are read in full: the values are the levels. Floating-point images
    and other depths are unusable, and so are files of another depth than most.

    All files are checked once before any work: PNG files by their checksums, the others by decoding
    them, JPEG at reduced resolution. Of 1,000 files or more what was found is kept in
    ~/.cache/score_sde/folders, and files that have not changed are not checked again.

    Where every image lies in a sub-folder, the first of its folders is its class. Labels number
    them in sorted order. Otherwise there are no classes.

    Held-out images are chosen by a hash of the file's relative name. So adding files does not move
    the others from one side to the other. With at least two images each side has at least one.

    Args:
        path: the folder.
        image_size: crop the central square and resize it to this side (antialiased bicubic); None
            takes the images as they are, which must then all have one size.
        channels: 1, 3, or None: 1 if all images are grey, else 3.
        split: "train", "test" (the held-out part) or "all".
        held_out: fraction that is held out, in [0, 1).
        skip_bad: leave out broken, empty and (with image_size=None) differently sized images with a
            warning that names them, instead of refusing.

    Attributes:
        files: the paths of this split, in the order of the examples.
        class_names: of the classes, in the order of their labels; empty where there are none.
        classes: how many they are.
        levels: of a pixel, 256 or 65,536 by the depth of the files; `with_levels` gives others.

    Raises:
        UserError: no such folder, no images in it, unusable images (named; `UnusableImages`), an
            empty split, impossible arguments.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        image_size: int | None = None,
        channels: int | None = None,
        split: str = "train",
        held_out: float = 0.1,
        skip_bad: bool = False,
    ) -> None:
        check_split(split, ("train", "test", "all"), "image folder")
        if image_size is not None and image_size < 1:
            raise UserError(
                f"image_size must be at least 1 pixel, or None; got image_size={image_size}"
            )
        if channels not in (None, 1, 3):
            raise UserError(
                f"channels must be 1 (grey), 3 (colour) or None (from the files); got {channels}"
            )
        if not 0.0 <= held_out < 1.0:
            raise UserError(f"held_out is a fraction in [0, 1); got held_out={held_out}")
        root = _image_folder(path)
        scan = scan_folder(root)
        usable = _usable(root, scan.files, same_size=image_size is None, skip_bad=skip_bad)
        tell_used(root, scan, usable)
        chosen = _split_files(usable, split, held_out)
        if not chosen:
            raise UserError(
                f"split {split!r} of image folder {root} is empty: the folder has {len(usable)} "
                f"usable image(s) and held_out={held_out}. Add images, change held_out, or ask for "
                "another split"
            )
        self.files = [root / f.name for f in chosen]
        self.class_names = _class_names(usable)
        self.classes = len(self.class_names)
        numbers = {name: i for i, name in enumerate(self.class_names)}
        self._labels = [numbers.get(_first_folder(f), 0) for f in chosen]
        self._channels = channels or (1 if all(f.grey for f in usable) else 3)
        self._image_size = image_size
        height, width = usable[0].size if image_size is None else (image_size, image_size)
        self.shape: Shape | None = (height, width, self._channels)
        self.levels = 256 if usable[0].bits == 8 else 65_536
        self.name = root.name or "folder"
        self._root, self._brightest = root, max(usable, key=lambda f: f.brightest)

    def with_levels(self, levels: int) -> "FolderSource":
        """The same images of 16 bits, with so many levels: 4,096 for values of 12 bits.

        Raises UserError, which names a file, for 8-bit levels and for values that are no level.
        """
        name, brightest = self._brightest.name, self._brightest.brightest
        if not max(256, brightest) < levels <= 65_536:
            raise UserError(
                f"{self._root / name} has 16 bits a channel with values up to {brightest}, but "
                f"data.levels={levels}. Set data.levels={1 << max(9, brightest.bit_length())} (the "
                "values are the levels), or convert the images to 8 bits"
            )
        if 8 * brightest < levels:
            warnings.warn(
                f"the brightest value in {self._root} is {brightest} of {levels - 1}, so the "
                f"images are dark. If they have fewer bits, say so: "
                f"--config.data.levels={1 << max(9, brightest.bit_length())}",
                stacklevel=2,
            )
        other = copy.copy(self)
        other.levels = levels
        return other

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, i: int) -> Example:
        try:
            image = read_image(self.files[i], self._channels)
        except Exception as error:  # decoders raise many types on damaged input
            raise UserError(
                f"cannot read {self.files[i]} any more ({error}); it was readable when the folder "
                "was checked. Start again to check the folder anew"
            ) from error
        if self._image_size is not None:
            image = crop_resize(image, self._image_size, levels=self.levels)
        return {"image": image, "label": np.int32(self._labels[i]), "index": np.int32(i)}


class UnusableImages(UserError):
    """Images that cannot be used. problems: which and why, without what is to be done."""

    def __init__(self, problems: str, advice: str) -> None:
        super().__init__(f"{problems}\n{advice}")
        self.problems = problems


class Scan(NamedTuple):
    """What lies below a folder.

    files: images, sorted by name. others: how many files are no images, by the ending of their
    names. skipped: how many entries were left out, by reason.
    """

    files: tuple[ScannedFile, ...]
    others: Counter[str]
    skipped: Counter[str]


def scan_folder(root: Path, advice: str = PASS_FOLDER) -> Scan:
    """Check every image file below `root`. What takes long shows its progress.

    An unchanged folder is checked once per process.

    Args:
        root: the folder.
        advice: last sentence of the message about a folder without images.

    Raises:
        UserError: no image files, or a sub-folder that cannot be listed.
    """
    listing, others, skipped = [], Counter[str](), Counter[str]()
    with _progress(f"looking through {root}") as bar:
        for folder in folders_below(root):
            skipped += folder.skipped
            bar.update(len(folder.files))
            for name in folder.files:
                if not name.lower().endswith(EXTENSIONS):
                    others[os.path.splitext(name)[1].lower() or "no ending"] += 1
                    continue
                try:
                    state = os.stat(folder.path / name)
                    size, time = state.st_size, state.st_mtime_ns
                except OSError:
                    size, time = 0, 0
                listing.append((f"{folder.name}/{name}".lstrip("/"), size, time))
    if not listing:
        raise UserError(
            f"image folder {root} holds no images: looked in it and in all its sub-folders for "
            f"names that end in {', '.join(EXTENSIONS)} (any case) and found {others.total()} "
            f"other file(s). {advice}"
        )
    return Scan(_scan(root, tuple(sorted(listing))), others, skipped)


def tell_used(root: Path, scan: Scan, used: Sequence[ScannedFile]) -> None:
    """One line, once per process: how many images are used, of what kind, what is left out."""
    sizes = sorted({file.size for file in used}, key=lambda size: (size[0] * size[1], size))
    ends = " to ".join(f"{h} x {w}" for h, w in dict.fromkeys((sizes[0], sizes[-1])))
    kinds = Counter("grey" if file.grey else "colour" for file in used)
    colours = " and ".join(f"{n} {kind}" if len(kinds) > 1 else kind for kind, n in kinds.items())
    bits = "8 or 16" if len({file.bits for file in used}) > 1 else used[0].bits
    left = Counter({"unusable": len(scan.files) - len(used)}) + scan.skipped
    parts = [f"{n} {reason}" for reason, n in left.items()]
    if scan.others:
        endings = ", ".join(f"{n} {ending}" for ending, n in scan.others.most_common(5))
        parts.append(f"{scan.others.total()} with other endings ({endings})")
    rest = f"; left out: {', '.join(parts)}" if parts else ""
    _say_once(f"images of {root}: {len(used)} used ({ends} pixels, {colours}, {bits} bits){rest}")


@functools.cache
def _say_once(text: str) -> None:
    say(text.encode(errors="backslashreplace").decode())


def _progress(title: str, total: int | None = None) -> tqdm:
    return tqdm(desc=title, total=total, unit=" files", delay=2, disable=not leads())


@functools.lru_cache(maxsize=8)
def _scan(root: Path, listing: tuple[Listed, ...]) -> tuple[ScannedFile, ...]:
    known = read_checked(root) if len(listing) >= checked.FROM else {}
    new = [listed for listed in listing if listed not in known]
    title = f"checking images of {root}"
    with ThreadPoolExecutor(threads()) as pool, _progress(title, len(new)) as bar:

        def check(listed: Listed) -> ScannedFile:
            found = check_file(root, listed[0])
            bar.update()
            return found

        known |= zip(new, pool.map(check, new), strict=True)
    found = {listed: known[listed] for listed in listing}
    if new and len(listing) >= checked.FROM and leads():
        keep_checked(root, found)
    return tuple(found.values())


def _class_names(files: list[ScannedFile]) -> tuple[str, ...]:
    """The sub-folders that images lie in, sorted; none where an image lies in no sub-folder."""
    if any("/" not in file.name for file in files):
        return ()
    return tuple(sorted({_first_folder(file) for file in files}))


def _first_folder(file: ScannedFile) -> str:
    return file.name.split("/")[0]


def _image_folder(path: str | os.PathLike) -> Path:
    if not os.fspath(path):
        raise UserError(
            "no image folder was given; pass the folder of your images with "
            f"--config.data.path=DIR. {NO_NETWORK}"
        )
    root = Path(path).expanduser().absolute()
    if not os.path.exists(root):
        raise UserError(
            f"image folder {root} does not exist; pass the folder of your images with "
            f"--config.data.path=DIR. {NO_NETWORK}"
        )
    if not root.is_dir():
        kind = (kind_of(root) or "a file").partition(",")[0]
        raise UserError(f"{root} is {kind}, not a folder; pass the folder that holds your images")
    return root


def _usable(
    root: Path, files: tuple[ScannedFile, ...], same_size: bool, skip_bad: bool
) -> list[ScannedFile]:
    """The files to train on; the others are refused by name, or left out with a warning."""
    good = [f for f in files if not f.problem]
    bad = [(f.name, f.problem) for f in files if f.problem]
    odd = []
    if same_size and good:
        counts = Counter(f.size for f in good)
        size = max(counts, key=lambda s: (counts[s], s))
        most = f"{size[0]} x {size[1]}"
        odd = [
            (f.name, f"{f.size[0]} x {f.size[1]} pixels (height x width), the others are {most}")
            for f in good
            if f.size != size
        ]
        good = [f for f in good if f.size == size]
    usual = Counter(f.bits for f in good).most_common(1)[0][0] if good else 8
    others = [f for f in good if f.bits != usual]
    bad += [(f.name, f"{f.bits} bits a channel, the others have {usual}") for f in others]
    good = [f for f in good if f.bits == usual]
    if not bad and not odd:
        return good
    problems = sorted(bad + odd)
    listed = "".join(f"\n  {name}: {reason}" for name, reason in problems[:10])
    if len(problems) > 10:
        listed += f"\n  ... and {len(problems) - 10} more"
    count = f"{len(problems)} of {len(files)} images in {root}"
    if skip_bad and good:
        warnings.warn(f"left out {count}:{listed}", stacklevel=3)
        return good
    advice = "Repair or remove them"
    if good:
        flag = "--config.data.skip_bad=True"
        advice += f", or train on the {len(good)} good ones only with {flag}"
    if odd:
        advice += (
            ". Images of any size can be used by asking for one: "
            "--config.data.image_size=64 resizes central squares"
        )
    raise UnusableImages(f"{count} cannot be used:{listed}", f"{advice}.")


def _split_files(files: list[ScannedFile], split: str, held_out: float) -> list[ScannedFile]:
    if split == "all":
        return files
    place = {f.name: _place(f.name) for f in files}
    test = {name for name, p in place.items() if p < held_out}
    if held_out > 0 and len(files) >= 2:
        test |= {min(place, key=place.__getitem__)}
    if len(test) == len(files):
        test -= {max(place, key=place.__getitem__)}
    return [f for f in files if (f.name in test) == (split == "test")]


def _place(name: str) -> float:
    """A fixed pseudo-random number in [0, 1) for a file name, the same on every system."""
    normal = unicodedata.normalize("NFC", name)
    return (
        int.from_bytes(
            hashlib.sha256(normal.encode("utf-8", "surrogateescape")).digest()[:6], "big"
        )
        / 2**48
    )
