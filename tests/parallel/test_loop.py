"""The one loop: order, filling, one compilation, reading ahead, errors, devices, random keys."""

import threading
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde.arrays import normal, sample_keys
from score_sde.devices import Placement
from score_sde.errors import UserError
from score_sde.parallel.loop import Rows, batch_size, each_batch, over_devices

X = np.arange(33.0, dtype=np.float32).reshape(11, 3)


def place(devices: int = 1) -> Placement:
    return Placement.of(jax.devices()[:devices])


def double(params: Any, rows: Any) -> Any:
    return {"sum": params * rows["x"].sum(axis=1), "number": rows["number"]}


ROWS = Rows.of({"x": X, "number": np.arange(11)})


@pytest.mark.parametrize(
    ("count", "size", "devices", "wanted"),
    [(11, 4, 1, 4), (3, 64, 1, 3), (1, 1, 8, 8), (20, 9, 8, 16), (16, 16, 8, 16), (3, 64, 8, 8)],
)
def test_batch_size_is_no_more_than_needed_and_a_multiple_of_the_devices(
    count: int, size: int, devices: int, wanted: int
) -> None:
    assert batch_size(count, size, place(devices)) == wanted


@pytest.mark.parametrize("devices", [1, 8])
@pytest.mark.parametrize("size", [1, 4, 11, 64])
def test_columns_come_in_order_without_the_filling(size: int, devices: int) -> None:
    found = over_devices(jax.jit(double), jnp.float32(2.0), ROWS, size, place(devices))
    np.testing.assert_array_equal(found["number"], np.arange(11))
    np.testing.assert_array_equal(found["sum"], 2 * X.sum(axis=1))


def test_each_batch_says_which_rows_it_is_of_and_tells_its_progress() -> None:
    ticks: list[int] = []
    batches = each_batch(double, jnp.float32(1.0), ROWS, 4, place(), ticks.append)
    part, columns = next(batches)
    assert part == slice(0, 4) and columns["number"].tolist() == [0, 1, 2, 3] and ticks == [4]
    assert [part for part, _ in batches] == [slice(4, 8), slice(8, 11)]
    assert ticks == [4, 4, 3]


def test_last_batch_is_filled_up_with_the_first_rows_and_all_have_one_shape() -> None:
    asked: list[list[int]] = []
    traced: list[int] = []

    def at(numbers: np.ndarray) -> np.ndarray:
        asked.append(numbers.tolist())
        return X[numbers]

    @jax.jit
    def fn(params, rows):
        traced.append(len(rows))
        return rows[:, 0]

    found = over_devices(fn, None, Rows(11, at), 4, place())
    np.testing.assert_array_equal(found, X[:, 0])
    assert asked == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 0]]
    assert traced == [4]
    over_devices(fn, None, Rows(3, at), 64, place(8))
    assert asked[3:] == [[0, 1, 2, 0, 1, 2, 0, 1]]


def test_rows_are_read_when_needed_and_one_batch_ahead() -> None:
    """While a batch is computed another thread reads the next one, and no further one."""
    asked: list[int] = []
    ahead = threading.Event()

    def at(numbers: np.ndarray) -> np.ndarray:
        assert threading.current_thread() is not threading.main_thread()
        asked.append(int(numbers[0]))
        if numbers[0] == 4:
            ahead.set()
        return X[numbers]

    def fn(params: Any, rows: Any) -> Any:
        if rows[0, 0] == 0:
            assert ahead.wait(10)  # it would never end if reading waited for this batch
            assert asked == [0, 4]
        return rows

    rows = Rows(11, at)
    batches = each_batch(fn, None, rows, 4, place())
    assert asked == []
    next(batches)
    assert asked == [0, 4]
    batches.close()
    assert asked == [0, 4]


@pytest.mark.parametrize("bad", [0, 4, 8])
def test_an_error_of_the_reader_reaches_the_caller_after_the_batches_before(bad: int) -> None:
    def at(numbers: np.ndarray) -> np.ndarray:
        if bad in numbers[:1]:
            raise UserError(f"image {bad} is damaged")
        return X[numbers]

    seen: list[int] = []
    with pytest.raises(UserError, match=f"image {bad} is damaged"):
        for part, _ in each_batch(lambda params, rows: rows, None, Rows(11, at), 4, place()):
            seen.append(part.start)
    assert seen == list(range(0, bad, 4))


def test_an_error_of_the_function_reaches_the_caller() -> None:
    def fn(params, rows):
        raise UserError("too many steps")

    with pytest.raises(UserError, match="too many steps"):
        over_devices(fn, None, ROWS, 4, place())


def test_rows_lie_on_the_devices_split_evenly() -> None:
    def fn(params: Any, rows: Any) -> Any:
        shards = rows.addressable_shards
        assert len(shards) == 8 and {shard.data.shape for shard in shards} == {(2, 3)}
        return rows

    np.testing.assert_array_equal(over_devices(fn, None, Rows.of(X), 11, place(8)), X)


@pytest.mark.parametrize("size", [3, 64])
def test_random_keys_are_rows(size: int) -> None:
    keys = sample_keys(jax.random.key(1), jnp.arange(5))
    rows = Rows.of((keys, X[:5]))
    assert rows.count == 5

    @jax.jit
    def fn(params, rows):
        own, x = rows
        return x + normal(own, x.shape, x.dtype)

    wanted = X[:5] + normal(keys, (5, 3), jnp.float32)
    for devices in (1, 8):
        found = over_devices(fn, None, rows, size, place(devices))
        np.testing.assert_allclose(found, wanted, rtol=1e-6)


def test_columns_are_any_pytree_and_none_is_kept() -> None:
    def fn(params: Any, rows: Any) -> Any:
        return {"a": (rows, None), "b": [rows[:, 0]]}

    found = over_devices(fn, None, Rows.of(X), 4, place())
    np.testing.assert_array_equal(found["a"][0], X)
    assert found["a"][1] is None
    np.testing.assert_array_equal(found["b"][0], X[:, 0])


def test_no_rows_make_no_batches_and_no_columns() -> None:
    none = Rows(0, lambda numbers: pytest.fail("nothing is to be read"))
    assert list(each_batch(double, None, none, 4, place())) == []
    with pytest.raises(ValueError, match="0 rows"):
        over_devices(double, None, none, 4, place())
