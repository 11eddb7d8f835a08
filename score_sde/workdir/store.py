"""Samples that are kept: folders of npz files that survive a kill."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int, Integer, UInt8

from score_sde.data.image_sets import to_bytes
from score_sde.errors import UserError
from score_sde.files import read_npz, write_npz
from score_sde.workdir.rows import claim_settings, keep_settings


class SampleStore:
    """Samples number 0, 1, 2, ... in a folder of npz files, each written whole or not at all.

    Drawing that was killed goes on with the numbers that are missing, in batches of any size.

    Args:
        folder: where they lie; made when the first are written.
        settings: what the samples depend on. A folder written with other settings is refused.
        levels: of a pixel.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], levels: int):
        self.folder, self.levels = folder, levels
        self._settings = claim_settings(folder, settings)
        self._last: tuple[Path, np.ndarray] | None = None

    def missing(self, count: int) -> Int[np.ndarray, "n"]:
        """Those of 0 .. count-1 that are not there yet, ascending."""
        have = np.zeros(count, bool)
        for first, end, _ in self._pieces():
            have[first:end] = True
        return np.flatnonzero(~have)

    def write(self, numbers: Int[np.ndarray, "n"], images: Integer[np.ndarray, "n h w c"]) -> None:
        """Add the samples with these ascending numbers."""
        keep_settings(self.folder, self._settings)
        for part in np.split(np.arange(len(numbers)), np.flatnonzero(np.diff(numbers) != 1) + 1):
            name = f"samples_{numbers[part[0]]:07d}_{numbers[part[-1]] + 1:07d}.npz"
            write_npz(self.folder / name, {"images": images[part], "levels": self.levels})

    def read(self, numbers: Int[np.ndarray, "n"]) -> UInt8[np.ndarray, "n h w c"]:
        """The samples with these numbers, as 0 .. 255.

        Raises UserError where a file is damaged or a number missing.
        """
        found: dict[int, np.ndarray] = {}
        for first, end, path in self._pieces():
            for number in numbers[(numbers >= first) & (numbers < end)].tolist():
                if number not in found:
                    found[number] = self._load(path, end - first)[number - first]
        lost = [number for number in numbers.tolist() if number not in found]
        if lost:
            raise UserError(
                f"{self.folder} lacks samples {lost[:5]} ...; the same command draws them"
            )
        return to_bytes(np.stack([found[number] for number in numbers.tolist()]), self.levels)

    def _pieces(self) -> list[tuple[int, int, Path]]:
        """(first, end, file), ascending."""
        named = (
            (re.fullmatch(r"samples_(\d+)_(\d+)\.npz", path.name), path)
            for path in self.folder.glob("*.npz")
        )
        return sorted((int(name[1]), int(name[2]), path) for name, path in named if name)

    def _load(self, path: Path, count: int) -> np.ndarray:
        if self._last is None or self._last[0] != path:
            try:
                images = read_npz(path, ["images"])["images"]
                if len(images) != count:
                    raise ValueError(f"{len(images)} images")
            except (ValueError, KeyError) as error:
                raise UserError(
                    f"{path} is damaged ({error}). Remove it; the same command draws its "
                    "samples again."
                ) from error
            self._last = path, images
        return self._last[1]


class RowStore:
    """Arrays of rows number 0, 1, 2, ..., a file for each row, written whole or not at all.

    Jobs that do different rows may write into one folder.

    Args:
        folder: where they lie; made when the first is written.
        settings: what the rows depend on. A folder written with other settings is refused.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]):
        self.folder = folder
        self._settings = claim_settings(folder, settings)

    def missing(self, numbers: Int[np.ndarray, "n"]) -> Int[np.ndarray, "m"]:
        """Those of `numbers` that are not there yet."""
        there = [self._path(number).exists() for number in numbers.tolist()]
        return numbers[~np.asarray(there, bool)]

    def write(self, number: int, arrays: Mapping[str, Any]) -> None:
        """Add a row."""
        keep_settings(self.folder, self._settings)
        write_npz(self._path(number), dict(arrays))

    def read(self, number: int) -> dict[str, np.ndarray]:
        """The arrays of a row; raises UserError where its file is missing or damaged."""
        try:
            return read_npz(self._path(number))
        except UserError as error:
            remove = "Remove it; " if self._path(number).exists() else ""
            raise UserError(f"{error}. {remove}the same command makes it again") from error

    def _path(self, number: int) -> Path:
        return self.folder / f"row_{number:07d}.npz"
