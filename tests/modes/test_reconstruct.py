"""--mode reconstruct: samples fit what was measured, and depend on nothing else."""

import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow.parquet
import pytest
from commands import refused
from PIL import Image
from runs import call, random_run

from score_sde.build.baselines import BASELINES
from score_sde.build.inverse import OPTIONS, build_operator
from score_sde.build.sections import InverseSettings
from score_sde.data import digits, take
from score_sde.data.masks import named_mask
from score_sde.devices import Placement
from score_sde.inverse import normalized_maps
from score_sde.solvers import SOLVERS
from score_sde.workdir.store import RowStore

FAST = {"sampling.batch_size": 8, "sampling.t_end": 1e-3}
COLOUR = {
    "model.nf": 4,
    "model.ch_mult": "(1,)",
    "model.num_res_blocks": 1,
    "data.image_size": 8,
    "data.channels": 3,
}


def reconstructed(workdir: Path, folder: Path, values: dict, **flags: object) -> dict:
    flags = {"copies": 3, "output": folder} | flags
    call("reconstruct", workdir, values=FAST | values, **flags)
    return read(folder)


def read(folder: Path) -> dict:
    """The arrays, the rows, the summary and its means."""
    rows = pyarrow.parquet.read_table(folder / "metrics.parquet").to_pylist()
    summary = json.loads((folder / "summary.json").read_text())
    with np.load(folder / "reconstruction.npz") as file:
        return dict(file) | {"rows": rows, "summary": summary, "means": summary["means"]}


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
    root = np.sqrt((error**2).mean(axis=(1, 2, 3)))
    np.testing.assert_allclose([row["rmse_of_mean"] for row in found["rows"]], root, rtol=1e-4)
    wanted = -10 * np.log10((error**2).mean(axis=(1, 2, 3)))
    measured = [row["psnr_of_mean"] for row in found["rows"]]
    np.testing.assert_allclose(measured, wanted, rtol=1e-4)
    assert (tmp_path / "a" / "grid.png").exists()
    means, summary = found["means"], found["summary"]
    assert summary["inverse"]["solver"] == "ddnm" and summary["step"] == 60
    assert summary["images"] == 4 and summary["copies"] == 3
    assert means["evaluations"]["mean"] == 5 and means["vector_jacobian_products"]["mean"] == 0
    assert means["psnr"]["low"] < means["psnr"]["mean"] < means["psnr"]["high"]
    cut = np.clip(found["images"], 0, 1)
    np.testing.assert_allclose(found["std"], cut.std(axis=1, ddof=1), rtol=1e-4)
    np.testing.assert_allclose(found["mean"], cut.mean(axis=1), rtol=1e-4, atol=1e-6)
    # For samples of the posterior E (truth - mean of k)^2 = (1 + 1/k) var.
    spread = np.sqrt(4 / 3 * cut.var(axis=1, ddof=1).mean(axis=(1, 2, 3)))
    np.testing.assert_allclose([row["spread"] for row in found["rows"]], spread, rtol=1e-4)
    drawn = found["images"].reshape(4, 3, 4, 2, 4, 2, 1).mean(axis=(3, 5))
    np.testing.assert_allclose(drawn, np.broadcast_to(found["y"][:, None], drawn.shape), atol=1e-5)
    np.testing.assert_allclose(sum(summary["rank_histogram"]), 1)
    assert [interval["nominal"] for interval in summary["coverage"]] == [0.5, 0.5]  # of 3 samples
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == [
        "grid.png",
        "metrics.parquet",
        "reconstruction.npz",
        "summary.json",
    ]

    # Fewer images and copies, another batch: the same samples.
    again, values = given(tmp_path / "two.npz", 2), values | {"sampling.batch_size": 16}
    fewer = reconstructed(trained, tmp_path / "b", values, input=again, copies=2)
    np.testing.assert_allclose(fewer["images"], found["images"][:2, :2], atol=1e-4)


def test_known_pixels_come_back(trained: Path, tmp_path: Path) -> None:
    values = {"inverse.solver": "imputation", "inverse.images": 3}
    found = reconstructed(trained, tmp_path / "a", values, mask="top", copies=2)
    images, originals = found["images"], found["originals"][:, None]
    assert found["summary"]["images"] == len(images) == 3
    np.testing.assert_allclose(
        images[:, :, :4], np.broadcast_to(originals[:, :, :4], images[:, :, :4].shape), atol=1e-6
    )
    assert (images[:, 0, 4:] != images[:, 1, 4:]).any() and found["summary"]["mask"] == "top"


def test_noise_of_the_measurement_is_that_of_images_in_0_1(trained: Path, tmp_path: Path) -> None:
    values = {"inverse.task": "deblur", "inverse.std": 0.2, "inverse.solver": "diffpir"}
    values |= {"sampling.steps": 1}
    found = reconstructed(trained, tmp_path / "a", values, copies=1)
    section = InverseSettings(task="deblur")
    operator = build_operator(section, (8, 8, 1), np.ones((8, 8, 1), bool))
    noise = found["y"] - np.asarray(operator.forward(jnp.asarray(found["originals"])))
    assert abs(noise.std() - 0.2) < 0.02 and (found["y_std"] == np.float32(0.2)).all()


def test_solvers_take_errors_of_the_model_for_noise(trained: Path, tmp_path: Path) -> None:
    y = np.random.default_rng(0).uniform(size=(2, 8, 8, 1)).astype(np.float32)
    np.savez(tmp_path / "y.npz", y=y)
    found = {}
    for std, model in ((0.3, 0.4), (0.5, 0.0), (0.3, 0.0)):
        values = {"inverse.task": "deblur", "inverse.std": std, "inverse.model_std": model}
        values |= {"inverse.solver": "diffpir", "sampling.steps": 4}
        folder = tmp_path / f"{std}_{model}"
        found[std, model] = reconstructed(trained, folder, values, input=tmp_path / "y.npz")
    both, more, less = (one["images"] for one in found.values())
    np.testing.assert_allclose(both, more, atol=1e-5)
    assert np.abs(both - less).max() > 1e-2
    assert (found[0.3, 0.4]["y_std"] == np.float32(0.3)).all()


def test_what_was_done_before_a_kill_is_kept(trained: Path, tmp_path: Path, monkeypatch) -> None:
    values = {"inverse.solver": "ddnm", "sampling.batch_size": 8}
    flags = {"input": given(tmp_path / "given.npz")}
    whole = reconstructed(trained, tmp_path / "whole", values, **flags)
    write = RowStore.write

    def killed(self, number, arrays):
        if number == 2:
            raise KeyboardInterrupt
        write(self, number, arrays)

    with monkeypatch.context() as patch:
        patch.setattr(RowStore, "write", killed)
        with pytest.raises(KeyboardInterrupt):
            reconstructed(trained, tmp_path / "killed", values, **flags)
    assert not (tmp_path / "killed" / "reconstruction.npz").exists()
    written: list[int] = []
    monkeypatch.setattr(
        RowStore, "write", lambda self, n, arrays: (written.append(n), write(self, n, arrays))
    )
    again = reconstructed(trained, tmp_path / "killed", values, **flags)
    assert written == [2, 3]
    np.testing.assert_allclose(again["images"], whole["images"], atol=1e-4)
    assert again["means"]["psnr"] == pytest.approx(whole["means"]["psnr"], rel=1e-3)


def test_shards_are_joined(trained: Path, tmp_path: Path, capsys) -> None:
    flags = {"input": given(tmp_path / "given.npz"), "copies": 2, "output": tmp_path / "parts"}
    for shard in ("0/3", "1/3", "2/3"):
        call("reconstruct", trained, values=FAST, shard=shard, **flags)
        assert not (tmp_path / "parts" / "summary.json").exists()
    assert "shard 2/3 done" in capsys.readouterr().out
    joined = reconstructed(trained, tmp_path / "parts", {}, input=flags["input"], copies=2)
    whole = reconstructed(trained, tmp_path / "whole", {}, input=flags["input"], copies=2)
    np.testing.assert_allclose(joined["images"], whole["images"], atol=1e-4)
    refused("shard 4/5 is empty: there are 4 images", "reconstruct", trained, shard="4/5", **flags)


def test_devices_do_not_matter(trained: Path, tmp_path: Path, monkeypatch) -> None:
    found = [reconstructed(trained, tmp_path / "8", {}, input=given(tmp_path / "given.npz"))]
    one = Placement.of(jax.devices()[:1])
    monkeypatch.setattr(Placement, "of", classmethod(lambda cls, *some, **more: one))
    flags = {"input": tmp_path / "given.npz"}
    found.append(reconstructed(trained, tmp_path / "1", {"sampling.batch_size": 1}, **flags))
    np.testing.assert_allclose(found[0]["images"], found[1]["images"], atol=1e-4)


def test_measurements_of_a_file(trained: Path, tmp_path: Path, capsys) -> None:
    """The same samples as when the images are measured on the way; no truth, no comparison."""
    values = {"inverse.task": "superresolve", "inverse.scale": 4}
    flags = {"input": given(tmp_path / "given.npz", 2), "copies": 1}
    call(
        "measure",
        trained,
        values=values | {"inverse.std": 0.1},
        output=tmp_path,
        input=flags["input"],
    )
    assert (tmp_path / "measurements.png").exists()
    path = tmp_path / "measurements.npz"
    noisy = values | {"inverse.std": 0.1, "inverse.solver": "diffpir"}
    direct = reconstructed(trained, tmp_path / "direct", noisy, **flags)
    found = reconstructed(trained, tmp_path / "file", noisy, input=path, copies=1)
    np.testing.assert_allclose(found["images"], direct["images"], atol=1e-5)
    assert found["summary"]["measurements"] == "measurements.npz" and found["means"]["psnr"]

    with np.load(path) as file:
        arrays = dict(file)
    del arrays["originals"]
    np.savez(path, **arrays)
    capsys.readouterr()
    blind = reconstructed(trained, tmp_path / "blind", noisy, input=path, copies=1)
    assert "the images are not known" in capsys.readouterr().out
    assert "psnr" not in blind["means"] and blind["means"]["residual"]["mean"] > 0
    np.testing.assert_allclose(blind["images"], direct["images"], atol=1e-5)

    refuse = functools.partial(refused, mode="reconstruct", workdir=trained, input=path)
    refuse(r"otherwise.*\(task=inpaint.*--config.inverse.task=superresolve", values={})
    refuse("own noise.*config.inverse.std=0.2", values=noisy | {"inverse.std": 0.2})
    np.savez(path, **arrays | {"y": arrays["y"][..., 0]})
    refuse("measurements.npz.*shape", values=noisy)
    np.savez(path, y=np.zeros((1, 8, 8, 1), np.float32))
    refuse("no `known` pixels.*--mask", values={})
    known = np.zeros((8, 8, 1), bool)
    known[:, :3] = True
    np.savez(path, y=np.zeros((1, 8, 8, 1), np.float32), known=known)
    refuse("own mask", mask="left")
    np.savez(path, y=np.zeros((1, 8, 8, 1), np.float32), known=known, originals=np.full(3, 2.0))
    refuse(r"`originals`.*shape \(3,\)")


def test_inpaint_is_reconstruct_with_known_pixels(trained: Path, tmp_path: Path) -> None:
    flags = {"input": given(tmp_path / "given.npz", 2), "copies": 2}
    wanted = reconstructed(trained, tmp_path / "a", {}, mask="top", **flags)
    call("inpaint", trained, values=FAST, mask="top", output=tmp_path / "b", **flags)
    found = read(tmp_path / "b")
    np.testing.assert_array_equal(found["images"], wanted["images"])
    originals = found["originals"]
    seam = np.abs(originals[:, 4] - originals[:, 3]).mean(axis=(1, 2))
    np.testing.assert_allclose([row["seam_of_original"] for row in found["rows"]], seam, rtol=1e-5)
    values = {"inverse.task": "deblur"}
    refused("inverse.task=deblur is not what this mode does", "inpaint", trained, values=values)
    refused("task=deblur is not what this mode does", "colorize", trained, values=values)
    refused("--copies=1,000,000,000 takes .* GiB", "inpaint", trained, mask="top", copies=10**9)


def test_colours_for_grey_images(tmp_path: Path, capsys) -> None:
    """Grey values come back; of grey files nothing is compared, as nobody knows their colours."""
    rng = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    for number in range(8):
        pixels = rng.integers(0, 256, (8, 8, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{number}.png")
    values = COLOUR | {"data.path": tmp_path / "images"}
    workdir = random_run(tmp_path / "run", "vp/ddpmpp_cont:folder", values, [1], scale=0.02)
    found = {}
    for name in ("colour", "grey"):
        path = tmp_path / f"{name}.png"
        Image.open(tmp_path / "images" / "3.png").convert("RGB" if name == "colour" else "L").save(
            path
        )
        flags = {"input": path, "output": tmp_path / name, "copies": 2}
        call("colorize", workdir, values=FAST | {"sampling.steps": 5}, **flags)
        found[name] = read(tmp_path / name)
    assert "1 of 1 images are grey" in capsys.readouterr().out
    colour, grey = found["colour"], found["grey"]
    y = np.sqrt(3) * colour["originals"].mean(axis=-1, keepdims=True)
    np.testing.assert_allclose(colour["y"], y, atol=1e-6)
    assert "psnr" in colour["means"] and "psnr" not in grey["means"]
    assert all(found[name]["means"]["residual"]["mean"] < 1e-5 for name in found)
    made = np.sqrt(3) * grey["images"].mean(axis=-1, keepdims=True)
    np.testing.assert_allclose(made, np.broadcast_to(grey["y"][:, None], made.shape), atol=5e-5)
    assert (np.ptp(grey["images"], axis=-1) > 0.01).any()


@pytest.mark.parametrize(
    ("task", "solver", "values", "most"),
    [
        ("ct", "ddnm", {"inverse.views": 4}, 1e-3),
        ("mri", "ddnm", {"inverse.kspace": "random"}, 1e-5),
        ("mri", "score_sde", {"sampling.steps": 3}, np.inf),
        ("ct", "fbp", {"inverse.views": 16, "inverse.window": "hann"}, 0.5),
        ("ct", "cgls", {"inverse.iterations": 10, "inverse.views": 4}, 0.05),
        ("mri", "tv", {"inverse.tv_weight": 1e-3, "inverse.kspace": "poisson_disc"}, 0.01),
        ("mri", "pinv", {"inverse.kspace": "published"}, 1e-5),
        ("ct", "fbp", {"inverse.views": 32, "inverse.rays": "curved"}, 0.5),
        ("mar", "li", {"inverse.views": 32}, 0.5),
        ("mar", "ddnm", {"inverse.views": 4}, 1e-3),
        ("mri", "cgls", {"inverse.coils": 4, "inverse.acceleration": 2.0}, 0.05),
    ],
)
def test_scans(
    trained: Path, tmp_path: Path, task: str, solver: str, values: dict, most: float
) -> None:
    """What is measured is met as far as each method does, in the range of the images."""
    values = {"inverse.task": task, "inverse.solver": solver} | values
    found = reconstructed(
        trained, tmp_path / "a", values, input=given(tmp_path / "x.npz"), copies=2
    )
    alone = solver in BASELINES
    assert found["images"].shape == (4, 1 if alone else 2, 8, 8, 1)
    assert all(row["residual"] <= most for row in found["rows"])
    assert all((row["evaluations"] == 0) == alone for row in found["rows"])
    section = InverseSettings(**{n.partition(".")[2]: v for n, v in values.items() if "inv" in n})
    operator = build_operator(section, (8, 8, 1), named_mask("implants", 8, 8)[..., None])
    np.testing.assert_allclose(
        found["y"], operator.forward(jnp.asarray(found["originals"])), atol=1e-4
    )
    if solver in ("cgls", "tv"):
        assert found["means"]["psnr_of_mean"]["mean"] > 10


def test_coils_of_a_file(trained: Path, tmp_path: Path) -> None:
    """Maps beside y say what the coils see; the result has them, so it can be read again."""
    rng, x = np.random.default_rng(0), take(digits("test"), np.arange(2))["image"] / 16
    maps = normalized_maps(rng.normal(size=(3, 8, 8)) + 1j * rng.normal(size=(3, 8, 8)))
    images = np.fft.ifftshift(maps * x[:, None, ..., 0], (2, 3))
    y = np.fft.fftshift(np.fft.fft2(images, norm="ortho"), (2, 3))[..., None]
    arrays = {"y": y, "known": np.ones((8, 8, 1), bool), "maps": maps}
    np.savez(tmp_path / "coils.npz", **arrays)
    values = {"inverse.task": "mri", "inverse.kspace": "mask", "inverse.solver": "cgls"}
    values["inverse.coils"] = 3
    found = reconstructed(trained, tmp_path / "a", values, input=tmp_path / "coils.npz")
    np.testing.assert_allclose(found["images"][:, 0], x, atol=1e-4)
    again = tmp_path / "a" / "reconstruction.npz"
    again = reconstructed(trained, tmp_path / "b", values, input=again)
    np.testing.assert_array_equal(again["images"], found["images"])
    np.savez(tmp_path / "coils.npz", **arrays | {"maps": maps.real})
    flags = {"values": FAST | values, "input": tmp_path / "coils.npz"}
    refused("`maps` in .* must be complex numbers", "reconstruct", trained, **flags)


def test_points_of_kspace_from_a_file(trained: Path, tmp_path: Path) -> None:
    """White points are measured, and the file of the reconstruction has them."""
    mask = np.zeros((8, 8), bool)
    mask[:, 3:6] = mask[2] = True
    Image.fromarray(np.uint8(255 * mask)).save(tmp_path / "mask.png")
    values = {"inverse.task": "mri", "inverse.kspace": "mask", "inverse.solver": "pinv"}
    flags = {"input": given(tmp_path / "x.npz"), "mask": tmp_path / "mask.png"}
    found = reconstructed(trained, tmp_path / "a", values, **flags)
    np.testing.assert_array_equal(found["known"][..., 0], mask)
    centred = np.fft.ifftshift(found["originals"][..., 0], axes=(1, 2))
    k = np.fft.fftshift(np.fft.fft2(centred, norm="ortho"), axes=(1, 2))
    np.testing.assert_allclose(found["y"][..., 0], k * mask, atol=1e-5)
    again = reconstructed(
        trained, tmp_path / "b", values, input=tmp_path / "a" / "reconstruction.npz"
    )
    np.testing.assert_array_equal(again["images"], found["images"])
    for message, more, options in (
        ("kspace=mask needs --mask, an image file", {}, {"mask": ""}),
        ("acceleration=2 means nothing to kspace=mask", {"inverse.acceleration": 2.0}, {}),
        ("leave it out, or set config.inverse.kspace=mask", {"inverse.kspace": "random"}, {}),
    ):
        values_here, flags_here = FAST | values | more, flags | options
        refused(message, "reconstruct", trained, values=values_here, **flags_here)


def test_scans_of_finer_pictures(trained: Path, tmp_path: Path) -> None:
    """They differ from scans of the result's own pixels by little, and have the same shape."""
    size = COLOUR | {"model.nf": 8, "data.image_size": 16, "data.channels": 1}
    workdir = random_run(tmp_path / "run", "vp/ddpmpp_cont:phantoms", size, [1])
    values = {"inverse.task": "ct", "inverse.solver": "fbp", "inverse.views": 24}
    found = {}
    for finer in (1, 3):
        folder = tmp_path / f"{finer}"
        found[finer] = reconstructed(workdir, folder, values | {"inverse.finer": finer})
    own, fine = found[1]["y"], found[3]["y"]
    np.testing.assert_array_equal(found[1]["originals"], found[3]["originals"])
    off = np.linalg.norm(own - fine) / np.linalg.norm(own)
    assert own.shape == fine.shape and 1e-3 < off < 0.05
    np.testing.assert_allclose(own.sum(axis=2), fine.sum(axis=2), rtol=0.03)  # the same mass
    assert found[3]["means"]["psnr_of_mean"]["mean"] > 18
    values |= {"inverse.finer": 2}
    refused(
        "finer=2 needs images that can be drawn finer.*'digits'",
        "reconstruct",
        trained,
        values=values,
    )
    given(tmp_path / "x.npz")
    message = "finer=2 draws the images of config.eval.split finer"
    refused(message, "reconstruct", trained, values=values, input=tmp_path / "x.npz")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"inverse.solver": "fbp", "inverse.task": "mri"}, "solver=fbp is for task=ct; got .*mri"),
        ({"inverse.views": 4}, "inverse.views=4 means nothing to task=inpaint.*take ct"),
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
        if solver in BASELINES:
            continue
        assert all(hasattr(entries, name) for name in options)
        made = {option: getattr(entries, name) or 0.5 for name, option in options.items() if option}
        SOLVERS[solver](**made)
