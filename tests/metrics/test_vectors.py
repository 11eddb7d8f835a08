"""The checks that metrics of vectors share, and blocks."""

import numpy as np
import pytest

from score_sde.errors import UserError
from score_sde.metrics.vectors import as_vectors, blocks


def test_messages():
    with pytest.raises(
        UserError, match=r"features must be vectors \(n, d\), one in each row; got shape \(3,\)"
    ):
        as_vectors("features", np.zeros(3))
    with pytest.raises(UserError, match=r"got shape \(3, 0\)"):
        as_vectors("features", np.zeros((3, 0)))
    with pytest.raises(UserError, match="real numbers; got complex128"):
        as_vectors("features", np.zeros((3, 2), complex))
    with pytest.raises(UserError, match="at least 4 vectors; got 3"):
        as_vectors("features", np.zeros((3, 2)), least=4)
    with pytest.raises(UserError, match="features: 2 of 3 vectors are not finite"):
        as_vectors("features", [[0, np.nan], [np.inf, np.nan], [0, 0]])
    assert as_vectors("features", np.zeros((3, 2), np.uint8), least=3).dtype == np.uint8


def test_blocks():
    x = np.arange(14, dtype=np.float32).reshape(7, 2)
    found = list(blocks(x, 3))
    assert [where for where, _ in found] == [slice(0, 3), slice(3, 6), slice(6, 7)]
    assert all(rows.dtype == np.float64 for _, rows in found)
    np.testing.assert_array_equal(np.concatenate([rows for _, rows in found]), x)
