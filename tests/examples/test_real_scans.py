"""examples/real_scans.py: what it makes of files is what the operators measure."""

import dataclasses
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from examples import real_scans
from score_sde import inverse
from score_sde.build.inverse import build_operator
from score_sde.build.sections import InverseSettings
from score_sde.data.phantoms import phantom
from score_sde.inverse import measure

SIZE = 32


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The three files, of phantoms; the coils see the last one, and turn its phase."""
    found = tmp_path_factory.mktemp("scans")
    images = [phantom(i).smooth().draw(256).astype(np.float32) for i in range(3)]
    np.savez(found / "test_images_256.npz", ct_small=images[0])
    np.savez(found / "icbm152_t1_axial_slices.npz", slices=np.uint8(255 * np.stack(images)))
    image = images[2][13:243, 38:218]
    turned = np.exp(2j * np.linspace(0, 1, 180)) * inverse.birdcage_maps(8, 230, 180)
    k = real_scans.transformed(3.0 * turned * image)
    np.savez(found / "brain_mr_8coil_kspace.npz", kspace=k.astype(np.complex64))
    return found


@pytest.mark.parametrize(("name", "most"), [("spine", 0.05), ("brain", 0.1), ("head", 0.2)])
def test_data_are_near_what_the_operator_measures(folder: Path, name: str, most: float) -> None:
    """Not equal: the pixels, and the maps, are coarser than what was measured."""
    make, entries, _ = real_scans.SCANS[name]
    arrays = make(folder, SIZE)
    values = {n: int(v) if n in ("views", "coils") else v for n, v in entries.items() if n != "std"}
    section = dataclasses.replace(InverseSettings(), **values)
    known = arrays.get("known", np.ones((SIZE, SIZE, 1), bool))
    operator = build_operator(section, (SIZE, SIZE, 1), known, arrays.get("maps"))
    given = measure(operator, arrays["y"], 0.0)
    image = arrays["originals"]
    assert image.shape == (1, SIZE, SIZE, 1) and 0.5 < image.max() <= 1 and image.min() >= 0
    off = given.y - operator.forward(jnp.asarray(image, jnp.float32))
    assert 1e-4 < float(jnp.linalg.norm(off) / jnp.linalg.norm(given.y)) < most
    if "known" in arrays:
        assert 0.2 < arrays["known"].mean() < 0.6
        y = (
            arrays["y"][..., ~known[..., 0], :]
            if name == "head"
            else arrays["y"][:, ~known[..., 0]]
        )
        assert not y.any()


def test_the_head_is_upright_and_in_the_middle(folder: Path) -> None:
    """The image of the coils is the image that they saw, as the slice's is."""
    head, whole = (real_scans.SCANS["head"][0](folder, SIZE), phantom(2).smooth().draw(256))
    cut = np.zeros((230, 230))
    cut[:, 25:205] = whole[13:243, 38:218]
    wanted = real_scans.centre(real_scans.transformed(cut), SIZE)
    wanted = np.abs(real_scans.transformed(wanted, back=True))
    inside = np.corrcoef(head["originals"][0, ..., 0].ravel(), wanted.ravel())[0, 1]
    assert inside > 0.98
