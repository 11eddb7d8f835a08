"""Tables of numbers: reading, cleaning, splits."""

import numpy as np
import pytest

from golden import data_root
from score_sde.data.tables import Table, dequantize, informative, read_table, split
from score_sde.errors import UserError


@pytest.mark.parametrize("separator", [",", ";"])
def test_tables_are_read(tmp_path, separator):
    lines = ["name;a;b", "x;1;2.5", "", "y;-3;4e1"]
    path = tmp_path / "t.csv"
    path.write_text("\n".join(lines).replace(";", separator))
    table = read_table(path)
    assert table.names == ("a", "b")
    np.testing.assert_array_equal(table.values, [[1, 2.5], [-3, 40]])
    assert table.without(["a"]).names == ("b",)
    with pytest.raises(UserError, match="no column c; it has a, b"):
        table.without(["c"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n3\n", r"rows of one length.*got 3 lines of \[1, 2\] entries"),
        ("a,b\n", "got 1 lines"),
        ("a\nx\ny\n", "columns of finite numbers; got 0"),
        ("a\nnan\n1\n", "columns of finite numbers; got 1"),
    ],
)
def test_bad_tables_are_refused(tmp_path, text, message):
    path = tmp_path / "t.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        read_table(path)
    with pytest.raises(UserError, match="cannot read the table"):
        read_table(tmp_path / "absent.csv")


def test_columns_that_say_nothing_are_left_out():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 50))
    columns = [a, np.full(50, 2.0), -a + 0.01 * b, b, a + b]
    table = informative(Table(tuple("abcde"), np.stack(columns, axis=1)))
    assert table.names == ("a", "d", "e")  # c is -a but for noise


def test_noise_fills_the_gaps():
    values = np.repeat(np.arange(5.0), 400)[:, None] * [[2.0, 1.0]]
    noisy = dequantize(values, 0) - values
    assert np.abs(noisy[:, 0]).max() == pytest.approx(2, abs=0.02)
    assert np.abs(noisy[:, 1]).max() == pytest.approx(1, abs=0.02)
    assert noisy[:, 0].std() == pytest.approx(2 / 3**0.5, rel=0.05)
    np.testing.assert_array_equal(noisy, dequantize(values, 0) - values)


def test_splits_are_whitened_by_the_training_rows():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(1599, 3)) @ rng.normal(size=(3, 3)) + 5
    found = split(values, 7)
    assert (len(found.train), len(found.validation), len(found.test)) == (1296, 144, 159)
    assert sorted(np.concatenate(found.indices)) == list(range(1599))
    np.testing.assert_allclose(found.train.mean(axis=0), 0, atol=1e-9)
    np.testing.assert_allclose(np.cov(found.train.T), np.eye(3), atol=1e-9)
    moved = split(values * 3 - 1, 7)
    np.testing.assert_allclose(np.abs(moved.test), np.abs(found.test), atol=1e-9)
    assert not np.array_equal(split(values, 8).indices[2], found.indices[2])
    with pytest.raises(ValueError, match="lie in a subspace"):
        split(np.repeat(values, 2, axis=1), 0)
    with pytest.raises(ValueError, match="fewer than two"):
        split(values[:12], 0)


def test_the_tables_of_the_dissertation():
    folder = data_root() / "uci"
    red = read_table(folder / "winequality-red.csv")
    assert red.values.shape == (1599, 12) and red.names[-1] == "quality"
    assert len(informative(red.without(["quality"])).names) == 11
    parkinsons = read_table(folder / "parkinsons.csv").without(["status"])
    assert parkinsons.values.shape == (195, 22)
    assert len(informative(parkinsons).names) == 16
