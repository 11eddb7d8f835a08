"""Phantoms: pictures of ellipses with shading and fine texture, made by number, without any file.

Three kinds come in turn, and are the labels: random ellipses (0), heads like that of Shepp and
Logan with other parameters (1), and sections of a trunk with lungs, spine and vessels (2). Picture
i is one function of the plane, so it can be drawn at any size, and has exact measurements where
texture is left out.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from score_sde.data.ellipses import SHEPP_LOGAN, Table
from score_sde.data.sources import Example, Shape, check_split
from score_sde.errors import UserError

KINDS = ("ellipses", "heads", "trunks")
"""By label."""
COUNTS = {"train": 100_000, "test": 1_000}
"""Pictures of a split. More cost nothing: each is made when it is read."""
LEVELS = 65_536
WAVES = 24
"""Plane waves of a texture."""


class Phantom(NamedTuple):
    """A picture on the square [-1, 1]^2, x to the right and y upwards, with values in [0, 1].

    It is clip(sum of the ellipses, 0, 1) (1 + shading . (x, y)) plus the texture, a sum of cosines,
    where that is above 0.02.

    table: (value, a, b, x, y, phi) of each ellipse, as `data.ellipses` has them. shading: slope
    of the brightness. waves: (kx, ky, phase) in cycles per unit of length and radians. texture:
    standard deviation of the sum of the waves.
    """

    table: Table
    shading: Float[np.ndarray, "2"]
    waves: Float[np.ndarray, "w 3"]
    texture: float

    def smooth(self) -> "Phantom":
        """Without shading and texture, which measurements in closed form know nothing of."""
        return self._replace(shading=np.zeros(2), texture=0.0)

    def draw(self, size: int, fine: int = 4) -> Float[np.ndarray, "size size"]:
        """Means over size x size pixels, by fine^2 points in each; the first row is the top."""
        n = size * fine
        line = (np.arange(n) + 0.5) * (2 / n) - 1
        image = np.zeros((n, n))
        for value, a, b, centre_x, centre_y, phi in self.table:
            cos, sin = np.cos(phi), np.sin(phi)
            columns = _within(line, centre_x, np.hypot(a * cos, b * sin))
            rows = _within(line, -centre_y, np.hypot(a * sin, b * cos))
            x, y = line[None, columns] - centre_x, -line[rows, None] - centre_y
            along, across = x * cos + y * sin, y * cos - x * sin
            image[rows, columns] += value * ((along / a) ** 2 + (across / b) ** 2 <= 1)
        image = np.clip(image, 0, 1)
        inside = image > 0.02
        image *= 1 + self.shading[0] * line - self.shading[1] * line[:, None]
        if self.texture:
            kx, ky, phase = self.waves.T
            down = np.exp(2j * np.pi * np.outer(-line, ky) + 1j * phase)
            waves = (down @ np.exp(2j * np.pi * np.outer(kx, line))).real
            image += inside * self.texture * np.sqrt(2 / len(self.waves)) * waves
        return np.clip(image, 0, 1).reshape(size, fine, size, fine).mean(axis=(1, 3))


def _within(line: np.ndarray, centre: float, reach: float) -> slice:
    """Where the ascending points of `line` are no further from `centre` than `reach`."""
    return slice(*np.searchsorted(line, [centre - reach, centre + reach]))


def phantom(index: int, split: str = "train") -> Phantom:
    """Number `index` of a split; its kind is index mod 3. The splits have no picture in common."""
    check_split(split, tuple(COUNTS), "data set of phantoms")
    rng = np.random.default_rng([tuple(COUNTS).index(split), index])
    table = (_ellipses, _head, _trunk)[index % 3](rng)
    angle, length = rng.uniform(0, 2 * np.pi), rng.uniform(0, 0.2)
    radius, direction = rng.uniform(2, 7, WAVES), rng.uniform(0, 2 * np.pi, WAVES)
    waves = [radius * np.cos(direction), radius * np.sin(direction), rng.uniform(0, 7, WAVES)]
    shading = length * np.array([np.cos(angle), np.sin(angle)])
    return Phantom(table, shading, np.stack(waves, axis=1), rng.uniform(0.01, 0.05))


def _ellipses(rng: np.random.Generator) -> Table:
    """One that holds 3 to 8 others, brighter or darker."""
    outer = [rng.uniform(0.3, 0.6), *rng.uniform(0.7, 0.95, 2), 0.0, 0.0, rng.uniform(0, np.pi)]
    rows = [outer]
    for _ in range(rng.integers(3, 9)):
        radius, angle = rng.uniform(0, 0.55), rng.uniform(0, 2 * np.pi)
        value = rng.choice([-1, 1]) * rng.uniform(0.1, 0.35)
        centre = radius * np.cos(angle), radius * np.sin(angle)
        rows.append([value, *rng.uniform(0.05, 0.35, 2), *centre, rng.uniform(0, np.pi)])
    return np.array(rows)


def _head(rng: np.random.Generator) -> Table:
    """That of Shepp and Logan, moved and turned a little, with contrasts that can be seen."""
    table = SHEPP_LOGAN.copy()
    table[:2, 0] = [rng.uniform(0.85, 1.0), -rng.uniform(0.45, 0.65)]
    table[2:4, 0] = -rng.uniform(0.15, 0.3)
    table[4:, 0] = rng.choice([-1, 1], 6) * rng.uniform(0.1, 0.3, 6)
    table[2:, 1:3] *= rng.uniform(0.75, 1.35, (8, 2))
    table[2:, 3:5] += rng.normal(0, 0.05, (8, 2))
    table[2:, 5] += rng.normal(0, 0.2, 8)
    table[:, 1:5] *= rng.uniform(0.85, 1.0)
    return _turned(table, rng.normal(0, 0.15))


def _trunk(rng: np.random.Generator) -> Table:
    """A body with two lungs, a heart, the spine and vessels."""
    body = rng.uniform(0.4, 0.55)
    wide, high = rng.uniform(0.8, 0.95), rng.uniform(0.55, 0.75)
    rows = [[body, wide, high, 0.0, 0.0, 0.0]]
    for side in (-1, 1):
        size = rng.uniform(0.22, 0.3), rng.uniform(0.32, 0.42) * high / 0.65
        centre = side * rng.uniform(0.36, 0.44), rng.uniform(0.0, 0.08)
        rows.append([-body * rng.uniform(0.7, 0.95), *size, *centre, side * rng.normal(0.15, 0.08)])
    heart = rng.uniform(0.1, 0.2), rng.uniform(0.14, 0.2), rng.uniform(0.12, 0.18)
    rows.append([*heart, rng.normal(0.08, 0.04), rng.uniform(0.05, 0.2), rng.uniform(0, np.pi)])
    spine = rng.uniform(0.3, 0.45), rng.uniform(0.1, 0.14), rng.uniform(0.09, 0.13)
    rows.append([*spine, rng.normal(0, 0.02), -0.62 * high, 0.0])
    for _ in range(rng.integers(2, 6)):
        centre = rng.choice([-1, 1]) * rng.uniform(0.28, 0.5), rng.uniform(-0.2, 0.25)
        radius = rng.uniform(0.03, 0.06)
        rows.append([rng.uniform(0.15, 0.4), radius, radius, *centre, 0.0])
    return _turned(np.array(rows), rng.normal(0, 0.08))


def _turned(table: Table, angle: float) -> Table:
    """Turned about the origin."""
    cos, sin = np.cos(angle), np.sin(angle)
    x, y = table[:, 3].copy(), table[:, 4].copy()
    table[:, 3], table[:, 4] = cos * x - sin * y, sin * x + cos * y
    table[:, 5] += angle
    return table


class PhantomSource:
    """Phantoms as a source: picture i is made when it is read.

    Args:
        size: pixels of a side, at least 8.
        split: "train" or "test".

    Raises:
        UserError: an unknown split, or fewer pixels.
    """

    def __init__(self, size: int, split: str) -> None:
        check_split(split, tuple(COUNTS), "data set of phantoms")
        if size < 8:
            raise UserError(
                f"phantoms have at least 8 pixels a side; got {size}. Set config.data.image_size"
            )
        self._size, self._split = size, split
        self.shape: Shape | None = (size, size, 1)
        self.levels, self.name, self.classes = LEVELS, "phantoms", len(KINDS)

    def finer(self, index: int, factor: int) -> Float[np.ndarray, "h w 1"]:
        """Picture `index` in [0, 1] with pixels of 1/factor of the size, so many times as many."""
        return phantom(index, self._split).draw(self._size * factor)[..., None]

    def __len__(self) -> int:
        return COUNTS[self._split]

    def __getitem__(self, i: int) -> Example:
        image = np.rint(phantom(i, self._split).draw(self._size) * (LEVELS - 1))
        label = np.int32(i % len(KINDS))
        return {"image": image.astype(np.uint16)[..., None], "label": label, "index": np.int32(i)}
