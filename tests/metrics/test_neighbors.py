"""Nearest neighbours against brute force, with copies, ties and cancellation."""

import numpy as np
import pytest

from score_sde.metrics import neighbors as module
from score_sde.metrics.features import Extractor, Features
from score_sde.metrics.neighbors import (
    NeighborDistances,
    Neighbors,
    feature_vectors,
    nearest_neighbors,
    neighbor_distances,
)


def brute_force(
    queries: np.ndarray, references: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
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
    distances, indices, _ = nearest_neighbors(queries, references, k=5, block=block)
    expected_distances, expected_indices = brute_force(queries, references, 5)
    np.testing.assert_array_equal(indices, expected_indices)
    np.testing.assert_allclose(distances, expected_distances, rtol=1e-14)


@pytest.mark.parametrize("block", [3, 1024])
def test_copies_have_distance_zero_and_come_in_order(block: int) -> None:
    rng = np.random.default_rng(1)
    references = rng.random((10, 8, 8, 1)).astype(np.float32)
    references[[7, 3, 9]] = references[5]
    distances, indices, _ = nearest_neighbors(references[5:6], references, k=4, block=block)
    np.testing.assert_array_equal(indices, [[3, 5, 7, 9]])
    np.testing.assert_array_equal(distances, np.zeros((1, 4)))
    assert nearest_neighbors(references[5:6], references, k=1, block=block).indices.item() == 3


def test_small_differences_of_large_values() -> None:
    # |q|^2 is 1e17 here: the product form is wrong by about 100 and alone would choose at random.
    rng = np.random.default_rng(2)
    base = np.rint(3e7 * rng.random((1, 300)))
    references = np.repeat(base, 40, axis=0)
    lengths = rng.permutation(40) + 1.0
    references[np.arange(40), rng.integers(0, 300, 40)] += lengths
    distances, indices, _ = nearest_neighbors(base, references, k=4)
    np.testing.assert_array_equal(indices[0], np.argsort(lengths)[:4])
    np.testing.assert_array_equal(distances, [[1.0, 2.0, 3.0, 4.0]])


def test_jax_arrays() -> None:
    jnp = pytest.importorskip("jax.numpy")
    distances, indices, _ = nearest_neighbors(
        jnp.array([[0.0, 3.0]]), jnp.array([[9.0, 9.0], [4.0, 0.0]])
    )
    assert (distances.item(), indices.item()) == (5.0, 1)


@pytest.mark.parametrize("rows", [2, 1024])
@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
@pytest.mark.parametrize("by", ["flip", "mirrors"])
def test_mirror_images_by_brute_force(
    by: str, dtype: type, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MATRIX_BYTES", 8 * 31 * rows)
    rng = np.random.default_rng(0)
    queries = (rng.random((9, 4, 5, 3)) * 255).astype(dtype)
    references = (rng.random((31, 4, 5, 3)) * 255).astype(dtype)
    references[3] = queries[4][
        :, ::-1
    ]  # a mirrored copy: columns in reverse, rows and channels as they were
    references[6] = queries[5]
    distances, indices, mirrored = nearest_neighbors(
        queries,
        references,
        4,
        7,
        **({"flip": True} if by == "flip" else {"mirrors": references[:, :, ::-1]}),
    )
    both = np.stack(
        [
            np.sqrt(((queries[:, None].astype(np.float64) - r[None]) ** 2).sum(axis=(2, 3, 4)))
            for r in (references, references[:, :, ::-1])
        ]
    )
    order = np.argsort(both.min(axis=0), axis=1, kind="stable")[:, :4]
    np.testing.assert_array_equal(indices, order)
    np.testing.assert_allclose(
        distances, np.take_along_axis(both.min(axis=0), order, axis=1), rtol=1e-14
    )
    np.testing.assert_array_equal(mirrored, np.take_along_axis(both[1] < both[0], order, axis=1))
    assert 0 < mirrored.mean() < 1
    assert (distances[4, 0], indices[4, 0], mirrored[4, 0]) == (0, 3, True)
    assert (distances[5, 0], indices[5, 0], mirrored[5, 0]) == (0, 6, False)
    plain = nearest_neighbors(queries, references, 4)
    assert plain.distances[4, 0] > 0 and not plain.mirrored.any()


def test_symmetric_images_count_as_themselves() -> None:
    references = np.ones((2, 2, 2, 1)) * np.array([1.0, 5.0])[:, None, None, None]
    found = nearest_neighbors(references, references, k=2, flip=True)
    np.testing.assert_array_equal(found.indices, [[0, 1], [1, 0]])
    assert not found.mirrored.any()


def test_all_distances_are_kept() -> None:
    train = np.array([[0.0], [10.0]])
    found = neighbor_distances(np.array([[1.0], [8.0]]), np.array([[2.0], [6.0], [16.0]]), train)
    np.testing.assert_array_equal(found.samples, [1, 2])
    np.testing.assert_array_equal(found.heldout, [2, 4, 6])
    np.testing.assert_array_equal(found.nearest.indices, [[0, 1], [1, 0]])
    np.testing.assert_allclose(found.relative(), [1 / 5, 2 / 5])  # of the mean distances 5 and 5
    assert found.ratio == 0.375 and found.copies == 0


def of(samples, heldout) -> NeighborDistances:
    """Distances alone; to a second image 1 for all."""
    samples = np.asarray(samples, np.float64)
    both = np.stack([samples, np.ones_like(samples)], axis=1)
    nearest = Neighbors(both, np.zeros(both.shape, np.int64), np.zeros(both.shape, bool))
    return NeighborDistances(samples, np.asarray(heldout, np.float64), nearest)


def test_ratio_of_nothing() -> None:
    assert of([1.0], [0.0]).ratio == float("inf")
    assert np.isnan(of([0.0], [0.0]).ratio)


def test_limit_has_the_share_of_new_images_below_it() -> None:
    """For distances 1 ..

    199 the nearest of 100 is the second; on average 1 % of new images are nearer.
    """
    distances = of(np.arange(100) + 0.5, np.arange(1, 200))
    assert distances.limit() == 2 and distances.close() == 0.02
    assert of([0.5, 2.0], [3.0, 1.0]).limit() == 1  # with few held-out images the least distance
    rng = np.random.default_rng(0)
    shares = [of(rng.random(500), rng.random(150)).close() for _ in range(400)]
    assert abs(np.mean(shares) - 0.01) < 4 * np.std(shares) / 20


def test_suspicious_samples_are_copies_and_then_those_that_stand_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "LOCAL", 2)
    train = np.array([[0.0, 0.0], [0.0, 1.0], [100.0, 0.0], [200.0, 0.0]])
    samples = np.array([[0.0, 2.0], [101.5, 0.0], [200.0, 0.0], [50.0, 50.0]])
    found = neighbor_distances(samples, train + 3, train)
    assert found.copies == 1
    np.testing.assert_array_equal(
        found.suspicious(3), [2, 1, 0]
    )  # sample 0 is nearer, but to two images
    assert len(found.suspicious(9)) == 4
    same = neighbor_distances(train[:1], train[:1], train[:1])
    assert same.relative() == 1 and same.suspicious(1) == 0


@pytest.mark.parametrize("count", [1, 4, 9])
def test_feature_vectors_of_one_shape_without_the_filling(count: int) -> None:
    seen: list[int] = []

    def sums(images: np.ndarray) -> Features:
        seen.append(len(images))
        return Features(images.sum(axis=(1, 2)).astype(np.float32))

    images = np.random.default_rng(0).integers(0, 256, (count, 3, 3, 2)).astype(np.uint8)
    found = feature_vectors(
        Extractor("sums", "0", "none", sums, compiled=False), images, batch_size=4
    )
    np.testing.assert_array_equal(found, images.sum(axis=(1, 2)))
    assert set(seen) == {4} and found.dtype == np.float32


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


def test_refusals_of_mirrors() -> None:
    images, vectors = np.zeros((2, 4, 4, 1)), np.zeros((2, 3))
    with pytest.raises(
        ValueError, match=r"flip=True is for images .* got queries of shape \(2, 3\)"
    ):
        nearest_neighbors(vectors, vectors, flip=True)
    with pytest.raises(ValueError, match=r"mirrors=\(2, 4, 4, 1\)"):
        nearest_neighbors(images, images, flip=True, mirrors=images)
    with pytest.raises(ValueError, match="mirror image of each reference; got 1 of 2"):
        nearest_neighbors(vectors, vectors, mirrors=vectors[:1])
