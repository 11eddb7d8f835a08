"""Labelled transformations: exact where they can be, and what their labels say."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde.arrays import sample_keys
from score_sde.data.augment import Augment, warp

IMAGES = jax.random.normal(jax.random.key(0), (64, 6, 8, 2))
EYE = jnp.eye(2)


def keys(count: int, seed: int = 1) -> jax.Array:
    return sample_keys(jax.random.key(seed), jnp.arange(count))


def test_an_image_with_a_label_of_zeros_is_not_changed() -> None:
    """Without further chance, half of the images are mirrored: their label says so."""
    images, labels = jax.jit(Augment(0.0))(keys(64), IMAGES)
    mirrored = np.asarray(labels)[:, 0] == 1
    assert 15 < mirrored.sum() < 49
    np.testing.assert_array_equal(np.asarray(labels)[:, 1:], 0)
    np.testing.assert_array_equal(labels[~mirrored, 0], 0)
    np.testing.assert_array_equal(images[~mirrored], IMAGES[~mirrored])
    np.testing.assert_array_equal(images[mirrored], IMAGES[mirrored][:, :, ::-1])


def test_rows_depend_on_their_own_keys() -> None:
    augment = jax.jit(Augment(0.5))
    images, labels = augment(keys(64), IMAGES)
    backwards, others = augment(keys(64)[::-1], IMAGES[::-1])
    np.testing.assert_allclose(backwards, images[::-1], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(others, labels[::-1], rtol=1e-6)
    assert len(np.unique(labels, axis=0)) > 40


def test_each_part_takes_its_share_of_images() -> None:
    n, chance = 8000, 0.3
    _, _, labels = jax.jit(jax.vmap(Augment(chance).draw))(keys(n))
    labels = np.asarray(labels, float)
    parts = {(1,): chance / 2, (2,): chance, (3, 4): chance, (5, 6): chance, (7, 8): chance}
    for columns, share in parts.items() | {((0,), 0.5)}:
        on = labels[:, list(columns)].any(axis=1)
        assert abs(on.mean() - share) < 4 * np.sqrt(share * (1 - share) / n), columns
    both = (labels[:, 2] != 0) & (labels[:, 7] != 0)
    assert abs(both.mean() - chance**2) < 4 * np.sqrt(chance**2 / n)  # one by one, not together
    for column in (2, 7, 8):
        values = labels[labels[:, column] != 0, column]
        assert abs(values.mean()) < 0.1 and abs(values.std() - 1) < 0.1
    stretch = np.hypot(labels[:, 5], labels[:, 6])[labels[:, 5] != 0]
    assert abs(np.mean(stretch**2) - 1) < 0.12
    turned = labels[labels[:, 4] != 0]
    np.testing.assert_allclose((turned[:, 3] + 1) ** 2 + turned[:, 4] ** 2, 1, rtol=1e-5)
    angle = np.arctan2(turned[:, 4], turned[:, 3] + 1)
    assert abs(angle.std() - np.pi / np.sqrt(3)) < 0.1 and abs(angle.mean()) < 0.2


def matrix_of(label: np.ndarray) -> np.ndarray:
    """The linear map that a label describes, for points (x, y)."""

    def turn(angle):
        return np.asarray([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])

    mirror, flip, scale, cosine, sine, along, across = label[:7]
    sign = -1.0 if along < 0 else 1.0  # the axis is within a right angle of (1, 0)
    stretch, axis = sign * np.hypot(along, across), np.arctan2(sign * across, sign * along)
    stretched = np.diag(2.0 ** (0.2 * stretch * np.asarray([1, -1])))
    signs = np.diag([1 - 2 * mirror, 1 - 2 * flip])
    return (
        turn(axis)
        @ stretched
        @ turn(-axis)
        @ turn(np.arctan2(sine, cosine + 1))
        @ (2.0 ** (0.2 * scale) * signs)
    )


def test_a_blob_goes_where_its_label_says() -> None:
    """Its centre p moves to M p + shift, its covariance C becomes M C M^T."""
    size, place = np.asarray([64, 48]), np.asarray([5.0, -3.0])
    spread = np.asarray([[9.0, 3.0], [3.0, 5.0]])
    axes = (np.arange(n) - (n - 1) / 2 for n in size)
    grid = np.stack(np.meshgrid(*axes), axis=-1)

    def distances(centre, covariance):
        offset = grid - centre
        return np.einsum("hwi,ij,hwj->hw", offset, np.linalg.inv(covariance), offset)

    blob = jnp.asarray(np.exp(-0.5 * distances(place, spread)), jnp.float32)[None, :, :, None]
    images, labels = jax.jit(Augment(0.6))(keys(80, 3), jnp.repeat(blob, 80, axis=0))
    pixels = 0
    for image, label in zip(np.asarray(images)[..., 0], np.asarray(labels, float)):
        matrix = matrix_of(label)
        squares = distances(matrix @ place + label[7:] / 8 * size, matrix @ spread @ matrix.T)
        near = squares < 9  # further away the mirror images at the edges may show
        np.testing.assert_allclose(image[near], np.exp(-0.5 * squares[near]), atol=0.01)
        pixels += near.sum()
    assert pixels > 80 * 100


def test_images_continue_as_mirrored_at_their_edges() -> None:
    image = IMAGES[0]
    moved = warp(image, EYE, jnp.asarray([2 / 8, 0.0]))
    np.testing.assert_array_equal(moved[:, 2:], image[:, :-2])
    np.testing.assert_array_equal(moved[:, :2], image[:, 2:0:-1])
    moved = warp(image, EYE, jnp.asarray([0.0, -1 / 6]))
    np.testing.assert_array_equal(moved[:-1], image[1:])
    np.testing.assert_array_equal(moved[-1], image[-2])
    far = warp(image, EYE, jnp.asarray([14 / 8, 10 / 6]))  # one period of the mirror images
    np.testing.assert_array_equal(far, image)


def test_cubic_convolution_reproduces_parabolas() -> None:
    """Away from the edges; lines alone would be exact with bilinear interpolation too."""
    columns = np.arange(12.0)
    row = 0.5 * columns**2 - 3 * columns + 2
    image = jnp.asarray(np.broadcast_to(row, (4, 12))[..., None], jnp.float32)
    moved = warp(image, EYE, jnp.asarray([0.3 / 12, 0.0]))
    exact = 0.5 * (columns - 0.3) ** 2 - 3 * (columns - 0.3) + 2
    np.testing.assert_allclose(moved[0, 2:-2, 0], exact[2:-2], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("chance", [-0.1, 1.1, float("nan")])
def test_impossible_chances_are_refused(chance: float) -> None:
    with pytest.raises(ValueError, match=rf"must be in \[0, 1\]; got {chance}"):
        Augment(chance)
