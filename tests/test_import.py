"""Checkpoints of the published codes as runs: every one of them, wrong ones, and the way back."""

import functools
import json
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest
from networks.weights import FAST_COMPILE, compiled
from PIL import Image
from test_cli import run

import run_lib
from golden import golden
from score_sde import config as config_lib
from score_sde import exchange
from score_sde.build import SECTIONS, Experiment, build
from score_sde.convert import read_file, write_torch
from score_sde.convert.published import recognize
from score_sde.convert.table import flatten
from score_sde.errors import UserError
from score_sde.training.state import TrainState

NOISE = {  # folder: rounding of the published float32 values
    "score_sde_jax/ncsnpp_ve_continuous": 5e-6,
    "score_sde_jax/ncsnpp_ve_output_skip_input_skip": 6e-6,
    "score_sde_jax/ddpmpp_vp_continuous": 5e-7,
    "score_sde_jax/ddpmpp_vp_discrete": 7e-7,
    "score_sde_jax/ddpm_vp_discrete": 1e-6,
    "score_sde_jax/ncsnpp_ve_discrete": 8e-7,
    "score_sde_jax/ncsnpp_ve_discrete__groupnorm_C": 8e-7,
    "score_sde_jax/ncsnpp_ve_residual_fir": 3e-6,
    "score_sde_jax/ncsnv2_64": 8e-7,
    "score_sde_jax/ncsnv2_128": 9e-7,
    "score_sde_jax/ncsnv2_256": 1e-6,
    "score_sde_jax/ncsn": 1e-6,
    "score_sde_pytorch/ncsnpp_ve_continuous": 1e-6,
    "score_sde_pytorch/ncsnpp_ve_output_skip_input_skip": 7e-6,
    "score_sde_pytorch/ddpmpp_vp_continuous": 3e-6,
    "score_sde_pytorch/ddpmpp_vp_discrete": 6e-7,
    "score_sde_pytorch/ddpm_vp_discrete": 1e-6,
    "score_sde_pytorch/ncsnpp_ve_discrete": 1e-6,
    "score_sde_pytorch/ncsnpp_vp_ddpmblock": 3e-6,
    "score_sde_pytorch/ncsnv2_64": 7e-7,
    "score_sde_pytorch/ncsnv2_128": 3e-6,
    "score_sde_pytorch/ncsnv2_256": 7e-7,
    "ncsn/cond_refinenet_deeper_dilated": 9e-7,
    "ncsn/cond_refinenet_dilated": 1e-6,
    "ncsnv2/ncsnv2": 8e-7,
    "ncsnv2/ncsnv2_deeper": 3e-6,
    "ncsnv2/ncsnv2_deepest": 1e-6,
}
VP = "score_sde_pytorch/ddpmpp_vp_continuous"


def checkpoint(folder: str) -> Path:
    """The one checkpoint in a folder of reference values."""
    (path,) = golden(f"nets/{folder}").glob("checkpoint*")
    return path


def import_(folder: str, workdir: Path, *overrides: tuple[str, str], **flags) -> Path:
    return run_lib.import_checkpoint(
        checkpoint(folder), overrides=list(overrides), workdir=str(workdir), **flags
    )


def restored(workdir: Path):
    """(configuration, experiment, state) of a run, as the other modes read it."""
    config = config_lib.load_json(workdir / "config.json")
    experiment, _, state, _ = run_lib.restore(config, workdir, None)
    return config, experiment, jax.device_get(state)


@functools.cache
def kept(folder: str):
    """(configuration, experiment, state) of an import that is not written: most of its time goes into that."""
    found: dict[str, Any] = {}
    convert = exchange.to_state

    def to_state(published, experiment, config):
        found["experiment"] = experiment
        return convert(published, experiment, config)

    def write_folder(_, state, documents):
        found["state"], found["config"] = jax.device_get(state), documents["config.json"]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exchange, "to_state", to_state)
        patch.setattr(exchange, "write_folder", write_folder)
        run_lib.import_checkpoint(checkpoint(folder), workdir="runs/that-is-not-there")
    return ml_collections.ConfigDict(found["config"]), found["experiment"], found["state"]


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run made of a PyTorch checkpoint. Not to be changed."""
    return import_(VP, tmp_path_factory.mktemp("import") / "run")


def io(folder: str) -> dict[str, np.ndarray]:
    """The reference values, images as (batch, height, width, channels)."""
    with np.load(golden(f"nets/{folder}") / "io.npz") as file:
        arrays = {key: file[key] for key in file.files}
    channels_last = "jax" in folder
    return {k: a if channels_last or a.ndim != 4 else a.transpose(0, 2, 3, 1) for k, a in arrays.items()}


# Every published checkpoint


def test_no_checkpoint_is_forgotten() -> None:
    root = golden("nets")
    found = {str(path.parent.relative_to(root)) for path in root.glob("*/*/checkpoint*")}
    assert found - {"score_flow_jax/dequantizer_cifar10"} == NOISE.keys()


@pytest.mark.parametrize(("folder", "noise"), NOISE.items())
def test_imported_networks_agree_with_the_published_values(folder: str, noise: float) -> None:
    config, experiment, state = kept(folder)
    arrays = io(folder)
    labels = jnp.asarray(
        arrays["labels"].astype(np.float32 if arrays["labels"].dtype.kind == "f" else np.int32)
    )
    for params, key in ((state.params, "output"), (state.ema_params, "output_ema")):
        expected = arrays.get(f"{key}_f64", arrays["output_f64"])  # NCSN has no averaged weights
        output = compiled(experiment.model.network)(params, jnp.asarray(arrays["x"]), labels)
        error = np.abs(np.asarray(output, np.float64) - expected).max(axis=(1, 2, 3))
        assert (error / np.abs(expected).max(axis=(1, 2, 3))).max() < 10 * noise
    original = json.loads((golden(f"nets/{folder}") / "config.json").read_text())
    assert experiment.pixel_range.low == (-1.0 if original["data"].get("centered") else 0.0)
    check_labels(experiment, config, arrays["labels"])
    expected_step = 5000 if folder.startswith("ncsnv2/") else None if folder.startswith("ncsn/") else 3
    assert expected_step is None or int(state.step) == expected_step


@pytest.mark.parametrize("folder", ["score_sde_jax/ncsnpp_ve_discrete", "ncsnv2/ncsnv2"])
def test_what_is_written_is_what_was_imported(folder: str, tmp_path: Path) -> None:
    config, _, state = kept(folder)
    there, _, found = restored(import_(folder, tmp_path / "run"))
    assert there.to_dict() == config.to_dict()
    jax.tree.map(np.testing.assert_array_equal, found, state)


def check_labels(experiment, config, labels: np.ndarray) -> None:
    """The model gives its network the published labels, and divides by the published factor: none for VE, -sigma for VP."""
    process, ve = experiment.process, config.sde.name in ("ve", "smld")
    if config.sde.name == "ve":
        t = np.log(labels / 0.01) / np.log(config.sde.sigma_max / 0.01)
    elif config.sde.name == "smld":
        t = config.sde.n - 1 - labels
    else:
        t = labels / (999 if config.sde.name == "vp" else 1)
    x, t = jnp.zeros((3, 1, 1, 1)), jnp.asarray(t, jnp.float32)
    score_fn = experiment.model.parameterization.score_fn(lambda x, given: given[:, None, None, None])
    factor = 1.0 if ve else -1 / process.marginal(t)[1]
    expected = factor * labels.astype(np.float32)
    np.testing.assert_allclose(score_fn(x, t).reshape(-1), expected, rtol=1e-4)


def test_both_layouts_of_group_norm_give_the_same_weights() -> None:
    states = [kept(f"score_sde_jax/ncsnpp_ve_discrete{suffix}")[2] for suffix in ("", "__groupnorm_C")]
    jax.tree.map(np.testing.assert_array_equal, *((s.params, s.ema_params) for s in states))


# What cannot be imported


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            {"config_file": "configs/vp/ddpmpp_cont.py:digits"},
            "the weights are not of this network: .* has shape",
        ),
        ({"config_file": "configs/ve/ncsnpp.py:cifar10"}, "the weights are not of this network: .*more"),
        ({"overrides": (("model.num_res_blocks", "2"),)}, "the weights are not of this network: .*"),
        ({"overrides": (("data.channels", "1"),)}, "has shape .* the network"),
        ({"config_file": "configs/no.py"}, "there is no configuration file"),
    ],
)
def test_another_architecture_is_refused_and_nothing_is_left(
    flags: dict, message: str, tmp_path: Path
) -> None:
    overrides = flags.pop("overrides", ())
    with pytest.raises(UserError, match=message):
        import_(VP, tmp_path / "deep" / "run", *overrides, **flags)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kept", [0, 100, 5000, 400_000])
def test_a_truncated_file_is_refused_and_nothing_is_left(kept: int, tmp_path: Path) -> None:
    for folder in (VP, "score_sde_jax/ddpmpp_vp_discrete"):
        path = tmp_path / checkpoint(folder).name
        path.write_bytes(checkpoint(folder).read_bytes()[:kept])
        with pytest.raises(UserError, match=str(path)):
            run_lib.import_checkpoint(path, "configs/vp/ddpmpp_cont.py", workdir=str(tmp_path / "run"))
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
    assert restored(import_(VP, tmp_path / "empty"))[2].step == 3


def test_a_killed_import_leaves_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(exchange.os, "rename", stop)
    with pytest.raises(KeyboardInterrupt):
        import_(VP, tmp_path / "run")
    assert not list(tmp_path.iterdir())


def test_other_files_and_configurations_say_what_they_are(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    write_torch(path, {"epoch": 3, "weights": "elsewhere"})
    with pytest.raises(UserError, match="no checkpoint of a published code: it holds entries epoch, weights"):
        run_lib.import_checkpoint(path, workdir=str(tmp_path / "run"))
    (tmp_path / "config.json").write_text('{"model": {}, "data": {}, "training": {}}')
    shutil.copy(checkpoint(VP), path)
    with pytest.raises(UserError, match=r"config\.json: it names neither training\.sde"):
        run_lib.import_checkpoint(path, workdir=str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()
    for arguments, message in (
        ({"checkpoint": "3", "source": "a"}, "--checkpoint means nothing to --mode import"),
        ({}, "--mode import needs the published checkpoint: --source FILE"),
        ({"source": "a", "config": "c", "source_config": "b"}, "--config and --source_config both say"),
    ):
        with pytest.raises(UserError, match=message):
            run_lib.run(
                "import",
                arguments.pop("config", None),
                [],
                None,
                arguments.pop("checkpoint", None),
                **arguments,
            )


def beside(path: Path, folder: str, entries: dict) -> Path:
    """A checkpoint in a folder of its own, beside its configuration with other entries."""
    path.mkdir(parents=True)
    config = json.loads((golden(f"nets/{folder}") / "config.json").read_text())
    for name, value in entries.items():
        section, entry = name.split(".")
        config.setdefault(section, {})[entry] = value
    (path / "config.json").write_text(json.dumps(config))
    shutil.copy(checkpoint(folder), path)
    return path / checkpoint(folder).name


@pytest.mark.parametrize(
    ("folder", "entries", "message"),
    [
        (VP, {"model.nf": float("inf")}, "model.nf must be of type int; got inf"),
        (VP, {"model.beta_max": 10**400}, "model.beta_max must be of type float"),
        (VP, {"data.num_channels": "three"}, "cannot be followed .TypeError"),
        (VP, {"data.dataset": "LSUN", "data.category": {"a": 1}}, "cannot be followed .TypeError"),
        (VP, {"model.fir_kernel": ["a"]}, "cannot be followed .ValueError"),
        ("ncsn/cond_refinenet_dilated", {"sampling.step_lr": -1}, "cannot be followed .ValueError"),
        (VP, {"model.num_scales": 10**12}, r"config.sampling.steps=1000000000000 is more than"),
        (VP, {"model.num_res_blocks": 10**9}, r"config.model.num_res_blocks=1000000000 is more than"),
        (VP, {"model.ch_mult": [1] * 1000}, r"config.model.ch_mult=\(1, 1, .* is more than 16"),
    ],
)
def test_hostile_configurations_are_refused(folder: str, entries: dict, message: str, tmp_path: Path) -> None:
    source = beside(tmp_path / "a", folder, entries)
    with pytest.raises(UserError, match=message):
        run_lib.import_checkpoint(source, workdir=str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_a_run_nested_without_end_is_refused(tmp_path: Path) -> None:
    text = (
        json.dumps({name: {} for name in SECTIONS if name != "sde"})[:-1]
        + ', "sde": '
        + '{"a":' * 900
        + "1"
        + "}" * 901
    )
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UserError, match=r"cannot be followed .RecursionError|cannot be read as JSON"):
        import_(VP, tmp_path / "run", source_config=tmp_path / "config.json")


def test_a_name_that_no_folder_can_have_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot write to"):
        import_(VP, tmp_path / ("a" * 300))
    assert not list(tmp_path.iterdir())


def test_noise_levels_that_the_configuration_contradicts_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"its 1000 noise levels run from 0\.01 to 50, those .* 0\.01 to 90"):
        import_("score_sde_pytorch/ncsnpp_ve_discrete", tmp_path / "run", ("sde.sigma_max", "90"))


# Which recipe it is


def bare_file(recipe: str, path: Path, overrides: list[tuple[str, str]] | None = None) -> Path:
    """Random weights of a recipe's network in PyTorch's form, without a configuration beside them."""
    config = config_lib.load(recipe)
    config_lib.override(config, overrides or [])
    experiment = build(config)
    write_torch(path, exchange.to_pytorch(experiment, config, random_state(experiment)))
    return path


def random_state(experiment: Experiment) -> TrainState:
    """Random numbers in every place of a train state at step 7."""
    rng = np.random.default_rng(0)
    state = jax.eval_shape(lambda: experiment.trainer.init(jax.random.key(0), experiment.shape))
    state = jax.tree.map(lambda a: rng.normal(size=a.shape).astype(a.dtype), state)
    return state.replace(step=np.int32(7))


def test_weights_of_exactly_one_recipe_are_recognized(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    source = bare_file("configs/ve/ncsnpp_cont.py:digits", tmp_path / "model.pth")
    workdir = run_lib.import_checkpoint(source, workdir=str(tmp_path / "run"))
    config, _, state = restored(workdir)
    assert config.to_dict() == config_lib.load("configs/ve/ncsnpp_cont.py:digits").to_dict()
    assert int(state.step) == 7
    told = capsys.readouterr().out
    assert "with the configuration of configs/ve/ncsnpp_cont.py:digits" in told
    assert "process name=ve, " in told.replace("'", "") or "name=ve" in told


def test_several_recipes_are_listed_as_commands(tmp_path: Path) -> None:
    source = bare_file("configs/vp/ddpmpp_cont.py:digits", tmp_path / "model.pth")
    with pytest.raises(UserError) as caught:
        run_lib.import_checkpoint(source, workdir=str(tmp_path / "run"))
    listed = [line.strip() for line in str(caught.value).splitlines()[1:]]
    start = f"python main.py --mode import --source {source} --workdir {tmp_path / 'run'} --config "
    assert all(line.startswith(start) for line in listed)
    names = {line.removeprefix(start) for line in listed}
    assert {"configs/vp/ddpmpp_cont.py:digits", "configs/subvp/ddpmpp_cont.py:digits"} <= names
    assert all(name.endswith(":digits") and "ddpmpp" in name and "deep" not in name for name in names)


def test_weights_of_no_recipe_name_the_nearest(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    shutil.copy(checkpoint("score_sde_pytorch/ddpm_vp_discrete"), path)
    with pytest.raises(
        UserError, match=r"no recipe .* The nearest is configs/\w+/ddpm\w*\.py:\w+: .*--config\.model"
    ):
        run_lib.import_checkpoint(path, workdir=str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_weights_of_other_projects_are_of_no_network_here(tmp_path: Path) -> None:
    path = tmp_path / "resnet.pth"
    write_torch(path, {"layer1.0.conv1.weight": np.ones((4, 4, 3, 3), np.float32)})
    with pytest.raises(UserError, match=r"of no network here: none has any of their modules \(layer1, "):
        run_lib.import_checkpoint(path, workdir=str(tmp_path / "run"))
    damaged = {"normalizer.embed.weight": np.ones((10, 6)), "begin_conv.bias": np.ones(())}
    write_torch(path, [damaged, {}])
    with pytest.raises(UserError, match=r"no recipe .*begin_conv\.bias has shape \(\)"):
        run_lib.import_checkpoint(path, workdir=str(tmp_path / "run"))


def test_recipes_are_found_from_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = {location.partition("configs/")[2] for location, _ in exchange.recipes()}
    source = beside(tmp_path / "a", "score_sde_jax/ncsnpp_ve_discrete", {})
    monkeypatch.chdir(tmp_path)
    assert {location.partition("configs/")[2] for location, _ in exchange.recipes()} == there
    assert restored(run_lib.import_checkpoint(source, workdir="run"))[2].step == 3


# Dequantizers


@pytest.mark.parametrize(("kind", "file"), [("cifar10", "checkpoint_6"), ("imagenet32", "params.msgpack")])
def test_a_published_dequantizer_joins_the_run_of_its_score_model(
    kind: str, file: str, tmp_path: Path
) -> None:
    colours = [("data.channels", "3")]
    source = bare_file("configs/vp/ddpmpp_cont.py:digits", tmp_path / "model.pth", colours)
    recipe, workdir = "configs/vp/ddpmpp_cont.py:digits", str(tmp_path / "run")
    dequantizer = golden(f"nets/score_flow_jax/dequantizer_{kind}") / file
    for location in (recipe, None):
        with pytest.raises(UserError, match="is a dequantizer; import its score network first"):
            run_lib.import_checkpoint(dequantizer, location, workdir=workdir)
    run_lib.import_checkpoint(source, recipe, colours, workdir)
    run_lib.run("import", None, [], workdir, source=str(dequantizer))
    config = config_lib.load_json(Path(workdir) / "config.json")
    config.eval.dequantization = "variational"
    experiment, mesh, _, _ = run_lib.restore(config, Path(workdir), None)
    variational, used = run_lib.make_dequantizer(config, Path(workdir), experiment, mesh)
    assert (used["dequantizer"]["heads"], used["dequantizer"]["filters"]) == (4, 8)
    assert used["dequantizer"]["score_checkpoint"] == 7
    arrays = io(f"score_flow_jax/dequantizer_{kind}")
    eps, images = jnp.asarray(arrays["eps"]), jnp.asarray(arrays["x"])
    params = jax.tree.map(jnp.asarray, jax.device_get(variational.params))
    flow = jax.jit(variational.flow.apply, compiler_options=FAST_COMPILE)
    u, log_q = flow({"params": params}, eps, images)
    ema = "_ema" if kind == "cifar10" else ""
    np.testing.assert_allclose(u, arrays[f"u{ema}_f64"], rtol=0, atol=2e-5)  # 10 times the noise of float32
    np.testing.assert_allclose(-log_q, arrays[f"sldj{ema}_f64"], rtol=0, atol=1e-3)
    with pytest.raises(UserError, match="dequantizer exists already"):
        run_lib.run("import", None, [], workdir, source=str(dequantizer))


# Using it


def test_the_other_modes_work_on_an_imported_run(imported: Path, tmp_path: Path) -> None:
    run_folder = tmp_path / "run"
    shutil.copytree(imported, run_folder)
    images = tmp_path / "images"
    images.mkdir()
    for i in range(3):
        pixels = np.random.default_rng(i).integers(0, 256, (16, 16, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(images / f"{i}.png")
    data = ("--config.data.source=folder", f"--config.data.path={images}", "--config.data.test_split=train")
    few = ("--config.sampling.steps=2", "--config.sampling.num_samples=2", "--config.sampling.frames=0")
    out, _ = run("--mode", "sample", "--workdir", run_folder, *few)
    assert "2 samples of checkpoint 3" in out
    solver = ("--config.eval.rtol=0.1", "--config.eval.atol=0.1", "--config.eval.num_examples=2")
    run("--mode", "likelihood", "--workdir", run_folder, *data, *solver)
    assert (run_folder / "eval" / "likelihood_test_step_3" / "summary.json").exists()
    run("--mode", "report", "--workdir", run_folder, *data)  # without metrics.jsonl
    assert (run_folder / "report.html").exists()
    sizes = ("--config.training.batch_size=2", "--config.training.steps=4", "--config.training.eval_every=0")
    saved = run_folder / "config.json"
    config = json.loads(saved.read_text())
    config["data"] |= {"source": "folder", "path": str(images), "test_split": "train"}
    config["training"] |= {"batch_size": 2, "eval_every": 0, "sample_every": 0}
    saved.write_text(json.dumps(config))
    out, _ = run("--mode", "train", "--workdir", run_folder, *sizes)
    assert "trained for 4 steps" in out
    before, after = restored(imported)[2], restored(run_folder)[2]
    assert int(after.step) == 4
    moved = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), before.params, after.params)
    # One step of a fresh Adam: the original rate of 0.01, at a fourth in the first of four steps of warm-up.
    assert max(jax.tree.leaves(moved)) == pytest.approx(0.01 / 4, rel=1e-4)


# The way back


@pytest.mark.parametrize(
    "folder",
    [
        VP,
        "score_sde_pytorch/ncsnpp_ve_discrete",
        "score_sde_pytorch/ncsnpp_ve_output_skip_input_skip",
        "score_sde_pytorch/ddpm_vp_discrete",
        "score_sde_pytorch/ncsnpp_vp_ddpmblock",
        "ncsnv2/ncsnv2",
        "ncsnv2/ncsnv2_deepest",
    ],
)
def test_export_gives_the_published_tensors_bit_for_bit(folder: str, tmp_path: Path) -> None:
    config, experiment, state = kept(folder)
    output = tmp_path / "model.pth"
    write_torch(output, exchange.to_pytorch(experiment, config, state))
    theirs, ours = read_file(checkpoint(folder))[1], read_file(output)[1]
    if isinstance(theirs, dict):
        assert list(ours) == list(theirs)
        assert ours["ema"].keys() == theirs["ema"].keys()
        assert (ours["ema"]["decay"], ours["ema"]["num_updates"]) == (
            theirs["ema"]["decay"],
            theirs["ema"]["num_updates"],
        )
        pairs = [(ours["model"], theirs["model"])]
        assert len(ours["ema"]["shadow_params"]) == len(theirs["ema"]["shadow_params"])
        for a, b in zip(ours["ema"]["shadow_params"], theirs["ema"]["shadow_params"]):
            np.testing.assert_array_equal(a, b, strict=True)
        assert (ours["step"], theirs["step"]) == (3, 3)
        group, published = (t["optimizer"]["param_groups"][0] for t in (ours, theirs))
    else:
        pairs = [(ours[0], theirs[0]), (ours[4], theirs[4])]
        assert ours[3] == theirs[3] == 5000
        group, published = (t[1]["param_groups"][0] for t in (ours, theirs))
    for a, b in pairs:
        assert list(a) == list(b)
        for name in a:
            if name.endswith("sigmas"):  # exp of another NumPy may differ in the last bit
                assert a[name].dtype == b[name].dtype
                np.testing.assert_allclose(a[name], b[name], rtol=4 * np.finfo(b[name].dtype).eps)
            else:
                np.testing.assert_array_equal(a[name], b[name], strict=True)
    assert group["params"] == published["params"]
    again = exchange.to_state(recognize(*read_file(output), output), experiment, config)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(again), state)


def test_an_exported_run_comes_back(imported: Path, tmp_path: Path) -> None:
    output = tmp_path / "sub" / "model.pth"
    run_lib.run("export", None, [], str(imported), output=str(output))
    again = run_lib.import_checkpoint(output, str(imported / "config.json"), workdir=str(tmp_path / "again"))
    jax.tree.map(np.testing.assert_array_equal, restored(imported)[2], restored(again)[2])
    with pytest.raises(UserError, match=r"model\.pth exists already"):
        run_lib.run("export", None, [], str(imported), output=str(output))


def test_networks_without_labels_come_back_through_what_pytorch_never_uses(tmp_path: Path) -> None:
    config = config_lib.load("configs/vp/ddpmpp_cont.py:digits")
    config.model.conditional = False
    experiment = build(config)
    state = random_state(experiment)
    tree = exchange.to_pytorch(experiment, config, state)
    assert not tree["model"]["module.all_modules.1.Dense_0.weight"].any()
    write_torch(tmp_path / "model.pth", tree)
    config_lib.save(config, tmp_path / "config.json")
    again = run_lib.import_checkpoint(tmp_path / "model.pth", workdir=str(tmp_path / "run"))
    jax.tree.map(np.testing.assert_array_equal, state.params, restored(again)[2].params)


@pytest.mark.parametrize(
    ("recipe", "overrides", "message"),
    [
        ("configs/vp/ddpmpp_cont.py", {"model.prediction": "edm"}, r"prediction=edm \(its is noise\)"),
        ("configs/ve/ncsnpp_cont.py", {"model.prediction": "noise"}, r"prediction=noise \(its is score\)"),
        ("configs/ve/ddpm_cont.py", {"model.prediction": "score"}, "gives sigma itself, not time"),
        (
            "configs/ve/ncsnpp_cont.py",
            {"model.embedding": "positional"},
            r"embedding=positional \(its is fourier\)",
        ),
        ("configs/ve/ncsnpp_cont.py", {"sde.name": "edm"}, "has no process config.sde.name=edm"),
    ],
)
def test_models_that_pytorch_cannot_express_are_not_exported(
    recipe: str, overrides: dict, message: str
) -> None:
    config = config_lib.load(f"{recipe}:digits")
    for name, value in overrides.items():
        section, key = name.split(".")
        config[section][key] = value
    with pytest.raises(UserError, match=message):
        exchange._check_expressible(config)


def test_every_array_of_an_import_is_used(imported: Path) -> None:
    """Raw and averaged weights differ everywhere, so one taken for the other would show."""
    state = restored(imported)[2]
    raw, ema = dict(flatten(state.params)), dict(flatten(state.ema_params))
    assert all((raw[name] != ema[name]).any() for name in raw)
