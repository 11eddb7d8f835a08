"""Tables of numbers, as those of the UCI repository: reading, cleaning, splits, whitening.

What follows is the preprocessing of density estimation by Wenliang et al. 2019 and the
dissertation's section 3.5.1, but that a column is compared with all before it by the size of the
correlation, and that whitening is fitted to the training rows alone.
"""

import csv
import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from score_sde.errors import UserError
from score_sde.files import kind_of

Rows = Float[np.ndarray, "rows columns"]
LARGEST_CORRELATION = 0.98


@dataclasses.dataclass(frozen=True, eq=False)
class Table:
    """Named columns of numbers. names: one a column. values: (rows, columns), float64."""

    names: tuple[str, ...]
    values: Rows

    def without(self, names: Sequence[str]) -> "Table":
        """The table without some columns.

        Raises:
            UserError: a column that is not there.
        """
        if missing := [name for name in names if name not in self.names]:
            raise UserError(
                f"the table has no column {', '.join(missing)}; it has {', '.join(self.names)}"
            )
        kept = [i for i, name in enumerate(self.names) if name not in names]
        return Table(tuple(self.names[i] for i in kept), self.values[:, kept])


def read_table(path: Path | str) -> Table:
    """Columns of numbers of a text file, with a header line and separators `;` or `,`.

    Columns with any text, like names of recordings, are left out. Empty lines are skipped.

    Raises:
        UserError: no file, no rows, rows of several lengths, or no column of numbers.
    """
    path = Path(path)
    try:
        if (kind := kind_of(path)) not in ("", "missing"):
            raise OSError(0, f"it is {kind}")
        text = path.read_text()
    except OSError as error:
        raise UserError(f"cannot read the table {path}: {error.strerror}") from error
    first = text.partition("\n")[0]
    separator = ";" if first.count(";") > first.count(",") else ","
    rows = [row for row in csv.reader(text.splitlines(), delimiter=separator) if row]
    if len(rows) < 2 or any(len(row) != len(rows[0]) for row in rows):
        lengths = sorted({len(row) for row in rows})
        raise UserError(
            f"{path} must have a header and rows of one length, with `;` or `,` in between; got "
            f"{len(rows)} lines of {lengths} entries"
        )
    names, values = [], []
    for name, *column in zip(*rows, strict=True):
        try:
            numbers = [float(entry) for entry in column]
        except ValueError:
            continue
        names.append(name.strip())
        values.append(numbers)
    if not names or not np.isfinite(values).all():
        raise UserError(f"{path} must have columns of finite numbers; got {len(names)} columns")
    return Table(tuple(names), np.asarray(values).T)


def informative(table: Table, largest: float = LARGEST_CORRELATION) -> Table:
    """The table without constant columns, and without columns that repeat one before them.

    A column repeats another where the size of their correlation exceeds `largest`.
    """
    kept: list[int] = []
    for i in range(len(table.names)):
        column = table.values[:, i]
        if np.ptp(column) == 0:
            continue
        sizes = [abs(np.corrcoef(column, table.values[:, j])[0, 1]) for j in kept]
        if not sizes or max(sizes) <= largest:
            kept.append(i)
    return Table(tuple(table.names[i] for i in kept), table.values[:, kept])


def dequantize(values: Rows, seed: int) -> Rows:
    """Each column with noise U[-d, d], d the median gap between its neighbouring values."""
    gaps = [np.median(np.diff(np.unique(column))) if np.ptp(column) else 0.0 for column in values.T]
    noise = np.random.default_rng(seed).uniform(-1, 1, values.shape)
    return values + noise * np.asarray(gaps)[None]


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """Rows for training, validation and test, whitened alike; `indices` say which rows they are."""

    train: Rows
    validation: Rows
    test: Rows
    indices: tuple[Int[np.ndarray, "train"], Int[np.ndarray, "val"], Int[np.ndarray, "test"]]


def split(values: Rows, seed: int, share: float = 0.1) -> Split:
    """A random split: `share` of the rows for the test, and of the rest for validation.

    All are whitened by the mean and the principal axes of the training rows, whose covariance
    becomes the identity.

    Raises:
        ValueError: too few rows, or training rows in a subspace.
    """
    n = len(values)
    test = int(share * n)
    validation = int(share * (n - test))
    order = np.random.default_rng(seed).permutation(n)
    parts = np.split(order, [n - test - validation, n - test])
    if min(map(len, parts)) < 2:
        raise ValueError(f"a share of {share} of {n} rows leaves a part with fewer than two")
    train = values[parts[0]]
    mean, covariance = train.mean(axis=0), np.atleast_2d(np.cov(train.T))
    variances, axes = np.linalg.eigh(covariance)
    if variances[0] <= 1e-12 * variances[-1]:
        raise ValueError(
            "the training rows lie in a subspace, so they cannot be whitened; leave out columns "
            "that repeat others (`informative`)"
        )
    white = [(values[part] - mean) @ axes / np.sqrt(variances) for part in parts]
    first, second, third = white
    return Split(first, second, third, (parts[0], parts[1], parts[2]))
