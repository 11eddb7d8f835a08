"""What a metric reports: a number and how far it may be off."""

from typing import NamedTuple


class Estimate(NamedTuple):
    """An estimate from a sample.

    value: the number; standard_error: the standard deviation it has over such samples.
    """

    value: float
    standard_error: float
