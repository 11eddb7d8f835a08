"""Checkpoints of the published codes as runs: every one of them, and wrong ones."""

import dataclasses
import functools
import json
import shutil
from importlib.metadata import version
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import runs
from networks.published import (
    arrays_of,
    checkpoint,
    config_of,
    find,
    listed,
    noise_of,
    one_digit,
    relative_error,
)
from networks.weights import FAST_COMPILE, compiled
from PIL import Image
from published_runs import (
    DISCRETE,
    FLAX_DISCRETE,
    FOLDERS,
    NCSN,
    NCSNV2,
    PYTORCH,
    VP,
    bare_file,
    beside,
    import_,
    import_file,
    kept,
    restored,
    step_of,
    times,
)

from golden import golden
from score_sde.build.settings import OPEN, SECTIONS
from score_sde.convert import write_torch
from score_sde.errors import UserError
from score_sde.exchange import states
from score_sde.exchange.find import recipes
from score_sde.workdir import config as configurations
from score_sde.workdir.dequantizer import make_dequantizer
from score_sde.workdir.run import Run

# Tiles of convolutions round more than the published ones do. As `conftest.py` compiles for jaxlib
# 0.10.0, one network is at 10.04 on a processor with AVX-512.
ROUNDING = 10 if version("jaxlib") >= "0.10.1" else 20


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run made of a PyTorch checkpoint. Not to be changed."""
    return import_(VP, tmp_path_factory.mktemp("import") / "run")


# Every published checkpoint


def test_no_checkpoint_is_forgotten() -> None:
    root = golden("nets")
    found = {str(path.parent.relative_to(root)) for path in root.glob("*/*/checkpoint*")}
    listed_here = {name for name in FOLDERS if isinstance(name, str)}
    assert {name for name in found if not name.startswith("score_flow")} == listed_here


@pytest.mark.parametrize("folder", FOLDERS)
def test_imported_networks_agree_with_the_published_values(folder: str) -> None:
    settings, experiment, state = kept(folder)
    arrays = arrays_of(folder)
    labels, x = arrays["labels"], jnp.asarray(arrays["x"])
    # Published networks end before the model does: VP ones predict noise, and labels are given.
    given = jnp.asarray(labels.astype(np.float32 if labels.dtype.kind == "f" else np.int32))
    around = dataclasses.replace(
        experiment.model.parameterization, c_noise=lambda t: given, c_out=jnp.ones_like
    )
    for params, key in ((state.params, "output"), (state.averages[0], "output_ema")):
        expected = arrays.get(f"{key}_f64", arrays["output_f64"])  # NCSN has no averaged weights
        score_fn = around.score_fn(functools.partial(compiled(experiment.model.network), params))
        output = score_fn(x, times(settings, labels))
        assert relative_error(output, expected) < ROUNDING * noise_of(arrays)
    original = config_of(folder)
    low = -1.0 if original["data"].get("centered") or original["data"].get("rescaled") else 0.0
    assert experiment.pixel_range.low == low
    check_labels(experiment, settings, labels)
    assert int(state.step) == step_of(folder)


@pytest.mark.parametrize("folder", [FLAX_DISCRETE, NCSNV2])
def test_what_is_written_is_what_was_imported(folder: str, tmp_path: Path) -> None:
    settings, _, state = kept(folder)
    there, _, found = restored(import_(folder, tmp_path / "run"))
    assert there == settings
    jax.tree.map(np.testing.assert_array_equal, found, state)


def check_labels(experiment, settings, labels: np.ndarray) -> None:
    """The model gives its network the published labels, and the score follows from the output.

    VP: the output over -sigma. VE: the output, over sigma where `scale_by_sigma` says so.
    """
    process, ve = experiment.process, settings.sde.name in ("ve", "smld")
    t = times(settings, labels)
    x, sigma = jnp.zeros((len(labels), 1, 1, 1)), process.marginal(t)[1]
    score_fn = experiment.model.parameterization.score_fn(
        lambda x, given: given[:, None, None, None]
    )
    factor = 1.0 if ve and not settings.model.get("scale_by_sigma") else (1 if ve else -1) / sigma
    expected = factor * labels.astype(np.float32)
    np.testing.assert_allclose(score_fn(x, t).reshape(-1), expected, rtol=1e-4)


TWINS = [name for name in FOLDERS if isinstance(name, str) and f"{name}__groupnorm_C" in FOLDERS]


@pytest.mark.parametrize("folder", TWINS or [FLAX_DISCRETE])
def test_both_layouts_of_group_norm_give_the_same_weights(folder: str) -> None:
    golden(f"nets/{folder}__groupnorm_C")
    states = [kept(f"{folder}{suffix}")[2] for suffix in ("", "__groupnorm_C")]
    jax.tree.map(np.testing.assert_array_equal, *((s.params, s.averages[0]) for s in states))


# What cannot be imported


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            {"recipe": "vp/ddpmpp_cont:digits"},
            "the weights are not of this network: .* has shape",
        ),
        (
            {"recipe": "ve/ncsnpp:cifar10"},
            "the weights are not of this network: .*more",
        ),
        (
            {"overrides": (("model.num_res_blocks", "7"),)},
            "the weights are not of this network: .*",
        ),
        ({"overrides": (("data.channels", "2"),)}, "has shape .* the network"),
        ({"recipe": "configs/no.py"}, "there is no configuration file"),
    ],
)
def test_another_architecture_is_refused_and_nothing_is_left(
    flags: dict, message: str, tmp_path: Path
) -> None:
    overrides = flags.pop("overrides", ())
    with pytest.raises(UserError, match=message):
        import_(VP, tmp_path / "deep" / "run", *overrides, **flags)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kept", [0, 100, 5000, 0.6])
def test_a_truncated_file_is_refused_and_nothing_is_left(kept: float, tmp_path: Path) -> None:
    for folder in (VP, FLAX_DISCRETE):
        path = tmp_path / checkpoint(folder).name
        content = checkpoint(folder).read_bytes()
        size = kept if isinstance(kept, int) else int(kept * len(content))
        path.write_bytes(content[:size])
        with pytest.raises(UserError, match=str(path)):
            import_file(path, "vp/ddpmpp_cont", workdir=tmp_path / "run")
        path.unlink()
    assert not list(tmp_path.iterdir())


def test_an_existing_run_stays_as_it_is(imported: Path, tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in imported.rglob("*")}
    with pytest.raises(UserError, match=r"run exists already"):
        import_(VP, imported)
    assert before == {path: path.stat().st_mtime_ns for path in imported.rglob("*")}
    file = tmp_path / "file"
    file.write_text("mine")
    with pytest.raises(UserError, match="exists already"):
        import_(VP, file)
    with pytest.raises(UserError, match="cannot write to"):
        import_(VP, file / "run")
    assert file.read_text() == "mine"
    (tmp_path / "empty").mkdir()
    assert restored(import_(VP, tmp_path / "empty"))[2].step == step_of(VP)


def test_a_killed_import_leaves_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(states.os, "rename", stop)
    with pytest.raises(KeyboardInterrupt):
        import_(VP, tmp_path / "run")
    assert not list(tmp_path.iterdir())


def test_other_files_and_configurations_say_what_they_are(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    write_torch(path, {"epoch": 3, "weights": "elsewhere"})
    with pytest.raises(
        UserError, match="no checkpoint of a published code: it holds entries epoch, weights"
    ):
        import_file(path, workdir=tmp_path / "run")
    (tmp_path / "config.json").write_text('{"model": {}, "data": {}, "training": {}}')
    shutil.copy(checkpoint(VP), path)
    with pytest.raises(UserError, match=r"config\.json: it names neither training\.sde"):
        import_file(path, workdir=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    for arguments, message in (
        ({"checkpoint": "3", "source": "a"}, "--checkpoint means nothing to --mode import"),
        ({}, "--mode import needs the published checkpoint: --source FILE"),
        (
            {"source": "a", "config": "c", "source_config": "b"},
            "--config and --source_config both say",
        ),
    ):
        with pytest.raises(UserError, match=message):
            runs.call("import", **arguments)


@pytest.mark.parametrize(
    ("folder", "entries", "message"),
    [
        (VP, {"model.nf": float("inf")}, "model.nf must be of type int; got inf"),
        (VP, {"model.beta_max": 10**400}, "model.beta_max must be of type float"),
        (VP, {"data.num_channels": "three"}, "data.channels must be of type int, .*got 'three'"),
        (VP, {"data.dataset": "LSUN", "data.category": {"a": 1}}, "cannot be followed .TypeError"),
        (VP, {"model.fir_kernel": ["a"]}, "cannot be followed .ValueError"),
        (NCSN, {"sampling.step_lr": -1}, "cannot be followed .ValueError"),
        (VP, {"model.num_scales": 10**12}, r"config.sampling.steps=1000000000000 is more than"),
        (
            VP,
            {"model.num_res_blocks": 10**9},
            r"config.model.num_res_blocks=1000000000 is more than",
        ),
        (VP, {"model.ch_mult": [1] * 1000}, r"config.model.ch_mult=\(1, 1, .* is more than 16"),
    ],
)
def test_hostile_configurations_are_refused(
    folder: str, entries: dict, message: str, tmp_path: Path
) -> None:
    source = beside(tmp_path / "a", folder, entries)
    with pytest.raises(UserError, match=message):
        import_file(source, workdir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_nested_without_end_is_refused(tmp_path: Path) -> None:
    text = (
        json.dumps({name: {} for name in (*OPEN, *SECTIONS) if name != "sde"})[:-1]
        + ', "sde": '
        + '{"a":' * 900
        + "1"
        + "}" * 901
    )
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UserError, match=r"config.json is damaged \(it is nested more than 50 deep"):
        import_(VP, tmp_path / "run", source_config=tmp_path / "config.json")


def test_a_name_that_no_folder_can_have_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot write to"):
        import_(VP, tmp_path / ("a" * 300))
    assert not list(tmp_path.iterdir())


def test_noise_levels_that_the_configuration_contradicts_are_refused(tmp_path: Path) -> None:
    model = config_of(DISCRETE)["model"]
    count, low, high = (model[name] for name in ("num_scales", "sigma_min", "sigma_max"))
    message = (
        f"its {count} noise levels run from {low:g} to {high:g}, those .* {low:g} to {high + 40:g}"
    )
    with pytest.raises(UserError, match=message):
        import_(DISCRETE, tmp_path / "run", ("sde.sigma_max", f"{high + 40}"))


# Which recipe it is


def test_weights_of_exactly_one_recipe_are_recognized(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    source = bare_file("ve/ncsnpp_cont:digits", tmp_path / "model.pth")
    settings, _, state = restored(import_file(source, workdir=tmp_path / "run"))
    assert settings == configurations.load("ve/ncsnpp_cont:digits")
    assert int(state.step) == 7
    told = capsys.readouterr().out
    assert "with the configuration of ve/ncsnpp_cont:digits" in told
    assert "process name=ve, sigma_max=10.0, sigma_min=0.01" in told
    origins = json.loads((tmp_path / "run" / "imported.json").read_text())
    assert origins["config"] == "ve/ncsnpp_cont:digits" and origins["source"] == "model.pth"


def test_several_recipes_are_listed_as_commands(tmp_path: Path) -> None:
    source = bare_file("vp/ddpmpp_cont:digits", tmp_path / "model.pth")
    with pytest.raises(UserError) as caught:
        import_file(source, workdir=tmp_path / "run")
    listed = [line.strip() for line in str(caught.value).splitlines()[1:]]
    start = f"score-sde --mode import --source {source} --workdir {tmp_path / 'run'} --config "
    assert all(line.startswith(start) for line in listed)
    names = {line.removeprefix(start) for line in listed}
    assert {"vp/ddpmpp_cont:digits", "subvp/ddpmpp_cont:digits"} <= names
    assert all(
        name.endswith(":digits") and "ddpmpp" in name and "deep" not in name for name in names
    )


def test_weights_of_no_recipe_name_the_nearest(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    shutil.copy(checkpoint(find(PYTORCH, model__name="ddpm")), path)
    with pytest.raises(
        UserError,
        match=r"no recipe .* The nearest is \w+/ddpm\w*:\w+: .*--config\.model",
    ):
        import_file(path, workdir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_weights_of_other_projects_are_of_no_network_here(tmp_path: Path) -> None:
    path = tmp_path / "resnet.pth"
    write_torch(path, {"layer1.0.conv1.weight": np.ones((4, 4, 3, 3), np.float32)})
    with pytest.raises(
        UserError, match=r"of no network here: none has any of their modules \(layer1, "
    ):
        import_file(path, workdir=tmp_path / "run")
    damaged = {"normalizer.embed.weight": np.ones((10, 6)), "begin_conv.bias": np.ones(())}
    write_torch(path, [damaged, {}])
    with pytest.raises(UserError, match=r"no recipe .*begin_conv\.bias has shape \(\)"):
        import_file(path, workdir=tmp_path / "run")


def test_recipes_are_found_from_another_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = {location for location, _ in recipes()}
    source = beside(tmp_path / "a", FLAX_DISCRETE, {})
    monkeypatch.chdir(tmp_path)
    assert {location for location, _ in recipes()} == there
    assert restored(import_file(source, workdir="run")).state.step == step_of(FLAX_DISCRETE)


# Dequantizers


@pytest.mark.parametrize("file", listed("score_flow_jax/*/config.json"))
def test_a_published_dequantizer_joins_the_run_of_its_score_model(
    file: str, tmp_path: Path
) -> None:
    folder = str(Path(file).parent)
    original, dequantizer = config_of(folder), checkpoint(folder)
    size, _, channels = original["image_shape_hwc"]
    images = {"data.channels": channels, "data.image_size": size}
    recipe, workdir = "vp/ddpmpp_cont:digits", tmp_path / "run"
    source = bare_file(recipe, tmp_path / "model.pth", images)
    for location in (recipe, None):
        with pytest.raises(UserError, match="is a dequantizer; import its score network first"):
            import_file(dequantizer, location, workdir=workdir)
    runs.call("import", workdir, recipe, values=images, source=source)
    runs.call("import", workdir, source=dequantizer)
    settings = configurations.load_json(workdir / "config.json")
    run = Run.of(settings.change("eval", dequantization="variational"), workdir)
    variational, used = make_dequantizer(run)
    sizes = used["dequantizer"]["heads"], used["dequantizer"]["filters"]
    assert sizes == (original["attn_heads"], original["filters"])
    assert used["dequantizer"]["score_checkpoint"] == 7
    arrays = arrays_of(folder)
    eps, x = jnp.asarray(arrays["eps"]), jnp.asarray(arrays["x"])
    params = jax.tree.map(jnp.asarray, jax.device_get(variational.params))
    flow = jax.jit(variational.flow.apply, compiler_options=FAST_COMPILE)
    u, log_q = flow({"params": params}, eps, x)
    ema = "_ema" if "u_ema_f64" in arrays else ""
    for found, name, noise in ((u, "u", 2e-6), (-log_q, "sldj", 1e-4)):
        noise = max(one_digit(np.abs(arrays[name] - arrays[f"{name}_f64"]).max()), noise)
        np.testing.assert_allclose(found, arrays[f"{name}{ema}_f64"], rtol=0, atol=10 * noise)
    with pytest.raises(UserError, match="dequantizer exists already"):
        runs.call("import", workdir, source=dequantizer)


# Using it


@pytest.mark.slow
def test_the_other_modes_work_on_an_imported_run(
    imported: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    run_folder = tmp_path / "run"
    shutil.copytree(imported, run_folder)
    images = tmp_path / "images"
    images.mkdir()
    step, shape = step_of(VP), arrays_of(VP)["x"].shape[1:]
    for i in range(3):
        pixels = np.random.default_rng(i).integers(0, 256, shape).astype(np.uint8)
        Image.fromarray(pixels).save(images / f"{i}.png")
    data = {"data.source": "folder", "data.path": images, "data.test_split": "train"}
    few = {"sampling.steps": 2, "sampling.num_samples": 2, "sampling.frames": 0}
    runs.call("sample", run_folder, values=few | {"sampling.batch_size": 8})
    assert f"2 samples of checkpoint {step}" in capsys.readouterr().out
    solver = {"eval.rtol": 0.1, "eval.atol": 0.1, "eval.num_examples": 2, "eval.batch_size": 8}
    runs.call("likelihood", run_folder, values=data | solver)
    assert (run_folder / "eval" / f"likelihood_test_step_{step}" / "summary.json").exists()
    runs.call("report", run_folder, values=data)  # without metrics.jsonl
    assert (run_folder / "report.html").exists()
    saved = run_folder / "config.json"
    config = json.loads(saved.read_text())
    config["data"] |= {"source": "folder", "path": str(images), "test_split": "train"}
    config["training"] |= {"batch_size": 8, "eval_every": 0, "sample_every": 0}
    del config["digest"]  # an edit that is meant
    saved.write_text(json.dumps(config))
    with jax.numpy_dtype_promotion("standard"):  # optax's Adam mixes types
        runs.call("train", run_folder, values={"training.steps": step + 1})
    assert f"trained for {step + 1} steps" in capsys.readouterr().out
    before, after = restored(imported).state, restored(run_folder).state
    assert int(after.step) == step + 1
    moved = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), before.params, after.params)
    # One step of a fresh Adam: the original rate, over the steps of warm-up in the first of them.
    optim = config_of(VP)["optim"]
    rate = optim["lr"] / max(optim["warmup"], 1)
    assert max(jax.tree.leaves(moved)) == pytest.approx(rate, rel=1e-4)
