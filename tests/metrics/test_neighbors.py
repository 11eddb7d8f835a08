"""Nearest neighbours against brute force, with copies, ties and cancellation."""

import numpy as np
import pytest

from score_sde.metrics.neighbors import NeighborDistances, nearest_neighbors, neighbor_distances


def brute_force(queries: np.ndarray, references: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    q = queries.reshape(len(queries), -1).astype(np.float64)
    r = references.reshape(len(references), -1).astype(np.float64)
    distances = np.sqrt(((q[:, None] - r[None]) ** 2).sum(axis=-1))
    indices = np.argsort(distances, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(distances, indices, axis=1), indices


@pytest.mark.parametrize("block", [1, 7, 1024])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.uint8])
def test_brute_force(block: int, dtype: type) -> None:
    rng = np.random.default_rng(0)
    queries = (rng.random((9, 4, 4, 3)) * (255 if dtype is np.uint8 else 1)).astype(dtype)
    references = (rng.random((31, 4, 4, 3)) * (255 if dtype is np.uint8 else 1)).astype(dtype)
    distances, indices = nearest_neighbors(queries, references, k=5, block=block)
    expected_distances, expected_indices = brute_force(queries, references, 5)
    np.testing.assert_array_equal(indices, expected_indices)
    np.testing.assert_allclose(distances, expected_distances, rtol=1e-14)


@pytest.mark.parametrize("block", [3, 1024])
def test_copies_have_distance_zero_and_come_in_order(block: int) -> None:
    rng = np.random.default_rng(1)
    references = rng.random((10, 8, 8, 1)).astype(np.float32)
    references[[7, 3, 9]] = references[5]
    distances, indices = nearest_neighbors(references[5:6], references, k=4, block=block)
    np.testing.assert_array_equal(indices, [[3, 5, 7, 9]])
    np.testing.assert_array_equal(distances, np.zeros((1, 4)))
    assert nearest_neighbors(references[5:6], references, k=1, block=block)[1].item() == 3


def test_small_differences_of_large_values() -> None:
    # |q|^2 is 1e17 here: the product form is wrong by about 100 and alone would choose at random.
    rng = np.random.default_rng(2)
    base = np.rint(3e7 * rng.random((1, 300)))
    references = np.repeat(base, 40, axis=0)
    lengths = rng.permutation(40) + 1.0
    references[np.arange(40), rng.integers(0, 300, 40)] += lengths
    distances, indices = nearest_neighbors(base, references, k=4)
    np.testing.assert_array_equal(indices[0], np.argsort(lengths)[:4])
    np.testing.assert_array_equal(distances, [[1.0, 2.0, 3.0, 4.0]])


def test_jax_arrays() -> None:
    jnp = pytest.importorskip("jax.numpy")
    distances, indices = nearest_neighbors(jnp.array([[0.0, 3.0]]), jnp.array([[9.0, 9.0], [4.0, 0.0]]))
    assert (distances.item(), indices.item()) == (5.0, 1)


def test_summary_means_and_ratio() -> None:
    train = np.array([[0.0], [10.0]])
    summary = neighbor_distances(np.array([[1.0], [8.0]]), np.array([[2.0], [6.0], [16.0]]), train)
    assert summary == NeighborDistances(samples=1.5, heldout=4.0, count=2, heldout_count=3)
    assert summary.ratio == 0.375
    assert NeighborDistances(1.0, 0.0, 1, 1).ratio == float("inf")


@pytest.mark.parametrize(
    ("queries", "references", "k", "message"),
    [
        (np.zeros((2, 3)), np.zeros((2, 4)), 1, r"\(3,\) and \(4,\)"),
        (np.zeros((2, 3)), np.zeros((2, 3)), 3, r"1\.\.2.*k=3"),
        (np.zeros((2, 3)), np.zeros((2, 3)), 0, "k=0"),
        (np.zeros((2, 3), np.uint8), np.zeros((2, 3)), 1, "same scale"),
        (np.array([[np.nan, np.inf, 0.0]]), np.zeros((2, 3)), 1, "2 of 3"),
        (np.zeros(3), np.zeros((2, 3)), 1, r"\(3,\)"),
    ],
)
def test_refusals(queries: np.ndarray, references: np.ndarray, k: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        nearest_neighbors(queries, references, k=k)
