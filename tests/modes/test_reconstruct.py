"""--mode reconstruct: samples fit what was measured, and depend on nothing else."""

import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from commands import refused
from runs import call

from score_sde.build.inverse import OPTIONS, build_operator
from score_sde.build.sections import InverseSettings
from score_sde.data import digits, take
from score_sde.solvers import SOLVERS

FAST = {"sampling.batch_size": 8, "sampling.t_end": 1e-3}


def reconstructed(workdir: Path, folder: Path, values: dict, **flags: object) -> dict:
    flags = {"copies": 3, "output": folder} | flags
    call("reconstruct", workdir, values=FAST | values, **flags)
    with np.load(folder / "reconstruction.npz") as file:
        return dict(file) | json.loads((folder / "metrics.json").read_text())


def given(path: Path, count: int = 4) -> Path:
    np.savez(path, images=take(digits("test"), np.arange(count))["image"])
    return path


def test_samples_fit_the_measurement(trained: Path, tmp_path: Path, capsys) -> None:
    values = {"inverse.task": "superresolve", "inverse.solver": "ddnm"}
    found = reconstructed(trained, tmp_path / "a", values, input=given(tmp_path / "given.npz"))
    assert "superresolve of 4 images by ddnm, checkpoint 60: PSNR" in capsys.readouterr().out
    images, originals = found["originals"], take(digits("test"), np.arange(4))["image"] / 16
    np.testing.assert_allclose(images, originals, atol=1e-6)
    smaller = images.reshape(4, 4, 2, 4, 2, 1).mean(axis=(2, 4))
    np.testing.assert_allclose(found["y"], smaller, atol=1e-6)
    assert found["images"].shape == (4, 3, 8, 8, 1)
    assert all(row["residual"] < 1e-5 for row in found["rows"])
    error = found["mean"] - images
    wanted = -10 * np.log10((error**2).mean(axis=(1, 2, 3)))
    measured = [row["psnr_of_mean"] for row in found["rows"]]
    np.testing.assert_allclose(measured, wanted, rtol=1e-4)
    assert (tmp_path / "a" / "grid.png").exists()
    assert found["inverse"]["solver"] == "ddnm" and found["step"] == 60

    assert found["evaluations"] == 5 and found["vector_jacobian_products"] == 0
    # Fewer images and copies, another batch: the same samples.
    again, values = given(tmp_path / "two.npz", 2), values | {"sampling.batch_size": 16}
    fewer = reconstructed(trained, tmp_path / "b", values, input=again, copies=2)
    np.testing.assert_allclose(fewer["images"], found["images"][:2, :2], atol=1e-4)


def test_known_pixels_come_back(trained: Path, tmp_path: Path) -> None:
    values = {"inverse.solver": "imputation"}
    found = reconstructed(trained, tmp_path / "a", values, mask="top", copies=2)
    images, originals = found["images"], found["originals"][:, None]
    np.testing.assert_allclose(
        images[:, :, :4], np.broadcast_to(originals[:, :, :4], images[:, :, :4].shape), atol=1e-6
    )
    assert (images[:, 0, 4:] != images[:, 1, 4:]).any() and found["mask"] == "top"


def test_noise_of_the_measurement_is_that_of_images_in_0_1(trained: Path, tmp_path: Path) -> None:
    values = {"inverse.task": "deblur", "inverse.std": 0.2, "inverse.solver": "diffpir"}
    values |= {"sampling.steps": 1}
    found = reconstructed(trained, tmp_path / "a", values, copies=1)
    section = InverseSettings(task="deblur")
    operator = build_operator(section, (8, 8, 1), np.ones((8, 8, 1), bool))
    noise = found["y"] - np.asarray(operator.forward(jnp.asarray(found["originals"])))
    assert abs(noise.std() - 0.2) < 0.02 and (found["y_std"] == np.float32(0.2)).all()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"inverse.solver": "magic"}, "inverse.solver: unknown name 'magic'; known: dps, pigdm"),
        ({"inverse.solver": "ddnm", "inverse.zeta": 0.5}, "zeta=0.5 means nothing to solver=ddnm"),
        ({"inverse.task": "superresolve", "inverse.scale": 3}, "scale must .*divide.*; got 3"),
        ({"inverse.task": "colorize"}, "colorize needs images with several channels"),
        ({"inverse.scale": 4}, "inverse.scale=4 means nothing to task=inpaint.*superresolve"),
        ({"inverse.std": -0.1}, "inverse.std must be .*got -0.1"),
        ({"inverse.std": 0.1, "inverse.solver": "repaint"}, "without noise, and 8 of 8 have std"),
        (
            {"inverse.solver": "ddrm", "inverse.task": "deblur", "inverse.edges": "valid"},
            "Blur.*decomposition|singular value",
        ),
    ],
)
def test_refusals(trained: Path, values: dict, message: str) -> None:
    refused(message, "reconstruct", trained, values=values)


def test_what_it_is_not_for(trained: Path, langevin: Path) -> None:
    refused("needs a continuous process.*--mode inpaint", "reconstruct", langevin)
    values = {"inverse.task": "deblur"}
    message = "--mask means nothing to config.inverse.task=deblur"
    refused(message, "reconstruct", trained, mask="left", values=values)


def test_every_entry_is_an_option_of_its_solvers() -> None:
    entries = InverseSettings()
    for solver, options in OPTIONS.items():
        assert all(hasattr(entries, name) for name in options)
        made = {option: getattr(entries, name) or 0.5 for name, option in options.items() if option}
        SOLVERS[solver](**made)
