"""Models as folders: those of diffusers and ours come in and go out; wrong ones are refused."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import runs
from convert import hub
from networks.published import relative_error
from networks.weights import FAST_COMPILE
from published_runs import import_file, random_state, restored

from score_sde.build.assemble import build
from score_sde.build.settings import Settings
from score_sde.convert import write_safetensors, write_torch
from score_sde.convert.diffusers import express
from score_sde.convert.diffusers_table import newer
from score_sde.devices import Placement
from score_sde.errors import UserError
from score_sde.exchange.folders import is_model, read_folder
from score_sde.exchange.publish import write_model
from score_sde.exchange.states import places, to_state
from score_sde.files import write_json
from score_sde.modes import import_checkpoint
from score_sde.workdir import config as configurations
from score_sde.workdir.measurements import record
from score_sde.workdir.run import Run

OLD = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


def written(case: str, folder: Path, pipeline: bool = True, change: Callable | None = None) -> Path:
    """A case as a folder: a pipeline, or its files side by side. `change` edits the weights."""
    unet, scheduler = (folder / "unet", folder / "scheduler") if pipeline else (folder, folder)
    for place in {unet, scheduler}:
        place.mkdir(parents=True)
    shutil.copy(hub.FIXTURES / case / "config.json", unet)
    shutil.copy(hub.FIXTURES / case / "scheduler_config.json", scheduler)
    name = "ScoreSdeVePipeline" if case == "ncsnpp" else "DDPMPipeline"
    write_json(folder / "model_index.json", {"_class_name": name})
    weights = hub.weights(case)
    weights = change(weights) if change else weights
    write_safetensors(unet / "diffusion_pytorch_model.safetensors", weights, {"format": "pt"})
    return folder


def state_of(folder: Path):
    """(experiment, train state) of a folder, without a run."""
    published, settings, _ = read_folder(folder)
    experiment = build(settings)
    return experiment, to_state(published, experiment)


def edit(path: Path, values: dict[str, Any]) -> None:
    write_json(path, json.loads(path.read_text()) | values)


# Agreement


@pytest.mark.parametrize("case", hub.CASES)
def test_scores_are_those_of_diffusers(case: str, tmp_path: Path) -> None:
    arrays = dict(np.load(hub.FIXTURES / case / "arrays.npz"))
    experiment, state = state_of(written(case, tmp_path / "model"))
    x = jnp.asarray(arrays["images"].transpose(0, 2, 3, 1))
    score_fn = jax.jit(experiment.model.score_fn(state.params), compiler_options=FAST_COMPILE)
    score = np.asarray(score_fn(x, jnp.asarray(arrays["times"], jnp.float32)))
    expected = arrays["score"].transpose(0, 2, 3, 1)
    for i in range(len(score)):  # they differ in size
        assert relative_error(score[i : i + 1], expected[i : i + 1]) < 1e-5


def test_settings_are_those_of_the_configurations(tmp_path: Path) -> None:
    _, vp, origin = read_folder(written("ddpm", tmp_path / "cats"))
    assert (vp.name, origin) == ("cats", str(tmp_path / "cats/unet/config.json"))
    assert vp.sde.to_dict() == {"name": "ddpm", "beta_min": 0.1, "beta_max": 20.0, "n": 1000}
    assert (vp.sampling.predictor, vp.sampling.variance) == ("ancestral", "posterior")
    assert (vp.data.centered, vp.data.image_size, vp.model.prediction) == (True, 8, "noise")
    folder = written("ncsnpp", tmp_path / "faces")
    _, ve, _ = read_folder(folder, (("sampling.steps", "5"),))
    assert (ve.sde.sigma_min, ve.sde.sigma_max, ve.data.centered) == (0.01, 50.0, False)
    sampling = ve.sampling
    assert (sampling.steps, sampling.snr, sampling.t_end) == (5, 0.075, 1e-5)
    assert (sampling.predictor, sampling.corrector) == ("reverse_diffusion", "langevin")
    edit(folder / "scheduler/scheduler_config.json", {"correct_steps": 0})
    assert read_folder(folder)[1].sampling.corrector == "none"
    edit(tmp_path / "cats/scheduler/scheduler_config.json", {"prediction_type": "v_prediction"})
    assert read_folder(tmp_path / "cats")[1].model.prediction == "v"


def test_every_layout_gives_the_same_weights(tmp_path: Path) -> None:
    expected = hub.weights("ddpm")

    def older(weights):
        for new, old in OLD.items():
            weights = {name.replace(f".{new}.", f".{old}."): w for name, w in weights.items()}
        return weights

    flat = written("ddpm", tmp_path / "flat", pipeline=False, change=older)
    bare = written("ddpm", tmp_path / "bin", pipeline=False)
    (bare / "model_index.json").unlink()
    (bare / "diffusion_pytorch_model.safetensors").unlink()
    write_torch(bare / "diffusion_pytorch_model.bin", older(expected))
    for folder in (written("ddpm", tmp_path / "pipeline"), flat, bare):
        assert is_model(folder)
        found = read_folder(folder)[0].params
        assert found.keys() == expected.keys() and older(expected).keys() != expected.keys()
        for name in expected:
            np.testing.assert_array_equal(found[name], expected[name])
    both = older(expected) | expected
    again = written("ddpm", tmp_path / "both", change=lambda _: both)
    assert read_folder(again)[0].params.keys() == expected.keys()
    both |= {name: array + 1 for name, array in both.items() if ".query." in name}
    again = written("ddpm", tmp_path / "other", change=lambda _: both)
    with pytest.raises(UserError, match="twice, with different numbers"):
        read_folder(again)
    assert newer("time_proj.W") == "time_proj.weight"


def test_half_precision_is_widened_and_said(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    states = []
    monkeypatch.setattr(
        import_checkpoint, "write_folder", lambda _, state, __: states.append(state)
    )

    def half(weights):
        return {name: array.astype(np.float16) for name, array in weights.items()}

    import_file(written("ddpm", tmp_path / "model", change=half), workdir=tmp_path / "run")
    told = capsys.readouterr().out
    assert "Some of its weights are float16; here all are float32." in told
    assert "The file does not say its step" in told
    expected = hub.weights("ddpm")["conv_in.bias"].astype(np.float16).astype(np.float32)
    found = np.asarray(states[0].params["conv_in"]["bias"])
    np.testing.assert_array_equal(found, expected, strict=True)


# What is refused


UNET, PLAN = "unet/config.json", "scheduler/scheduler_config.json"


@pytest.mark.parametrize(
    ("case", "file", "values", "message"),
    [
        ("ddpm", UNET, {"_class_name": "UNet2DConditionModel"}, "only UNet2DModel is here"),
        ("ddpm", UNET, {"downsample_padding": 1}, "downsample_padding is 1; only 0 is here"),
        ("ddpm", UNET, {"flip_sin_to_cos": True}, "flip_sin_to_cos is True; only False is here"),
        ("ddpm", UNET, {"freq_shift": 0}, "freq_shift is 0; only 1 is here"),
        ("ddpm", UNET, {"norm_eps": 1e-5}, "norm_eps is 1e-05; only 1e-06 is here"),
        ("ddpm", UNET, {"norm_num_groups": 16}, "norm_num_groups is 16; only 32 is here"),
        ("ddpm", UNET, {"attention_head_dim": 8}, "attention_head_dim is 8; only one head: null"),
        ("ddpm", UNET, {"mid_block_scale_factor": 2}, "mid_block_scale_factor is 2; only 1"),
        ("ddpm", UNET, {"act_fn": "relu"}, "act_fn is 'relu'; only 'silu' or 'swish' is here"),
        ("ddpm", UNET, {"resnet_time_scale_shift": "scale_shift"}, "only 'default' is here"),
        ("ddpm", UNET, {"class_embed_type": "timestep"}, "class_embed_type is 'timestep'"),
        ("ddpm", UNET, {"add_attention": 1}, "add_attention is 1; only True is here"),
        ("ddpm", UNET, {"center_input_sample": True}, "center_input_sample is True"),
        ("ddpm", UNET, {"time_embedding_type": "fourier"}, "time_embedding_type is 'fourier'"),
        ("ddpm", UNET, {"time_embedding_dim": 64}, "time_embedding_dim is 64; only 128"),
        ("ddpm", UNET, {"out_channels": 6}, "out_channels is 6; only in_channels"),
        ("ddpm", UNET, {"sample_size": None}, "sample_size is None; only the height"),
        ("ddpm", UNET, {"sample_size": [8, 16]}, r"sample_size is \[8, 16\]"),
        ("ddpm", UNET, {"block_out_channels": [32, 48, 32]}, "only multiples of one"),
        ("ddpm", UNET, {"block_out_channels": [0, 0, 0]}, "only multiples of one"),
        ("ddpm", UNET, {"block_out_channels": [32, 64]}, "they have 3, 3 and 2"),
        ("ddpm", UNET, {"down_block_types": ["DownBlock2D", "X", "DownBlock2D"]}, "have 'X'"),
        ("ddpm", UNET, {"down_block_types": []}, "one entry for each level"),
        ("ddpm", UNET, {"up_block_types": ["UpBlock2D"] * 3}, "attention at other levels"),
        ("ddpm", UNET, {"new_entry": 3}, "its entry new_entry=3 is not known here"),
        ("ddpm", UNET, {"in_channels": "3"}, '`in_channels` is "3", not an integer'),
        ("ddpm", UNET, {"layers_per_block": 10**9}, "num_res_blocks=1000000000 is more than"),
        ("ddpm", UNET, {"sample_size": 10**30}, "image_size must be a number of at most 64 bits"),
        ("ddpm", PLAN, {"_class_name": "PNDMScheduler"}, "its _class_name is 'PNDMScheduler'"),
        ("ddpm", PLAN, {"_class_name": "ScoreSdeVeScheduler"}, "only DDPMScheduler is here"),
        ("ddpm", PLAN, {"beta_schedule": "scaled_linear"}, "beta_schedule is 'scaled_linear'"),
        ("ddpm", PLAN, {"trained_betas": [0.1]}, r"trained_betas is \[0.1\]; only None"),
        ("ddpm", PLAN, {"prediction_type": "sample"}, "only epsilon, v_prediction is here"),
        ("ddpm", PLAN, {"rescale_betas_zero_snr": True}, "rescale_betas_zero_snr is True"),
        ("ddpm", PLAN, {"variance_type": "learned_range"}, "variance_type is 'learned_range'"),
        ("ddpm", PLAN, {"beta_end": "high"}, '`beta_end` is "high", not a number'),
        ("ddpm", PLAN, {"beta_end": 10**400}, "`beta_end` is 1000.*, not a number"),
        ("ncsnpp", UNET, {"center_input_sample": False}, "center_input_sample is False; only True"),
        ("ncsnpp", UNET, {"norm_num_groups": 32}, "norm_num_groups is 32; only None is here"),
        ("ncsnpp", UNET, {"block_out_channels": [32, 64, 64]}, "128 or more with attention"),
        ("ncsnpp", UNET, {"in_channels": 1, "out_channels": 1}, "only 3, with skips"),
        ("ncsnpp", PLAN, {"sigma_step": 2}, "its entry sigma_step=2 is not known here"),
        ("ncsnpp", "model_index.json", {"_class_name": "LDMPipeline"}, "only DDPMPipeline or"),
    ],
)
def test_entries_without_a_counterpart_are_refused_by_name(
    case: str, file: str, values: dict, message: str, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    (folder / "unet").mkdir(parents=True)
    (folder / "scheduler").mkdir()
    shutil.copy(hub.FIXTURES / case / "config.json", folder / UNET)
    shutil.copy(hub.FIXTURES / case / "scheduler_config.json", folder / PLAN)
    weights = folder / "unet/diffusion_pytorch_model.safetensors"
    write_safetensors(weights, {"a": np.zeros(1, np.float32)}, {})
    write_json(folder / "model_index.json", {"_class_name": "DDPMPipeline"})
    edit(folder / file, values)
    with pytest.raises(UserError, match=message) as caught:
        read_folder(folder)
    if "is more than" not in message:
        assert str(folder / file) in str(caught.value)


def test_other_values_that_mean_the_same_are_taken(tmp_path: Path) -> None:
    folder = written("ddpm", tmp_path / "model")
    same = {
        "attention_head_dim": None,
        "time_embedding_dim": 128,
        "decay": 0.9999,
        "act_fn": "swish",
    }
    edit(folder / UNET, same)
    edit(folder / PLAN, {"variance_type": "fixed_large", "clip_sample": False})
    assert read_folder(folder)[1].sampling.variance == "forward"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.write_text("{"), "is damaged"),
        (lambda path: path.write_text("[1]"), "the whole file is"),
        (lambda path: path.write_text('{"a":' * 900 + "1" + "}" * 900), "nested more than 50"),
        (lambda path: path.write_text("[" * 200_000), "is damaged"),
        (lambda path: path.write_bytes(b"\xff\xfe"), "is damaged"),
        (lambda path: path.write_text('{"_class_name": NaN}'), "NaN is no number"),
        (lambda path: path.mkdir(), "a folder, not a file"),
        (lambda path: os.mkfifo(path), "a named pipe, not a file"),
        (lambda path: path.symlink_to("nowhere"), "a link to a file that does not exist"),
        (lambda path: None, "is missing"),
    ],
)
@pytest.mark.parametrize("file", [UNET, PLAN])
def test_damaged_documents_are_refused(
    file: str, make: Callable, message: str, tmp_path: Path
) -> None:
    folder = written("ddpm", tmp_path / "model")
    (folder / file).unlink()
    make(folder / file)
    with pytest.raises(UserError, match=message) as caught:
        read_folder(folder)
    assert str(folder / file) in str(caught.value)


def _without(weights: dict) -> dict:
    del weights["conv_in.bias"]
    return weights


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_without, "conv_in.bias is missing"),
        (lambda w: w | {"extra": np.zeros(3, np.float32)}, "extra has no place"),
        (lambda w: w | {"conv_in.bias": np.zeros(3, np.float32)}, r"conv_in.bias has shape \(3,\)"),
        (lambda w: w | {"conv_in.bias": np.full(32, np.nan, np.float32)}, "not finite"),
    ],
)
def test_other_weights_are_refused_and_nothing_is_left(
    change: Callable, message: str, tmp_path: Path
) -> None:
    folder = written("ddpm", tmp_path / "model", change=change)
    with pytest.raises(UserError, match=rf"{folder}: .*{message}"):
        import_file(folder, workdir=tmp_path / "run")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_folders_whose_weights_cannot_be_read_say_why(tmp_path: Path) -> None:
    folder = written("ddpm", tmp_path / "model")
    weights = folder / "unet/diffusion_pytorch_model.safetensors"
    weights.write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(UserError, match="git lfs pull"):
        read_folder(folder)
    weights.unlink()
    with pytest.raises(UserError, match=r"unet holds no weights: .*\.safetensors or .*\.bin"):
        read_folder(folder)
    weights.symlink_to("blobs/nowhere")
    with pytest.raises(UserError, match="a link to a file that does not exist"):
        read_folder(folder)
    weights.unlink()
    os.mkfifo(weights)
    with pytest.raises(UserError, match="a named pipe"):
        read_folder(folder)
    weights.unlink()
    weights.with_name(f"{weights.name}.index.json").write_text("{}")
    with pytest.raises(UserError, match="in several files"):
        read_folder(folder)
    for flags in ({"recipe": "vp/ddpm"}, {"source_config": tmp_path / "a.json"}):
        with pytest.raises(UserError, match="says itself what its weights are of"):
            import_file(folder, workdir=tmp_path / "run", **flags)
    assert not is_model(tmp_path) and not is_model(weights)


# Export


def test_an_exported_pipeline_comes_back(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    values = {"model.up_attention": "every", "model.nf": 32}
    run = runs.random_run(tmp_path / "run", "vp/ddpm:digits", values, steps=[7])
    row = {"metric": "fid", "value": 3.25, "how": {"samples": 50}, "low": 3.0, "high": 3.5}
    record(run, 7, [row])
    runs.call("export", run, output=tmp_path / "model")
    assert "checkpoint 7 as a DDPMPipeline of diffusers" in capsys.readouterr().out
    before = restored(run)
    published, settings, _ = read_folder(tmp_path / "model")
    params = published.convert(*places("diffusers", before.experiment))[0]
    jax.tree.map(np.testing.assert_array_equal, before.state.averages[0], params)
    assert published.step == 7
    assert (settings.model, settings.sde) == (before.settings.model, before.settings.sde)
    card = (tmp_path / "model/README.md").read_text()
    assert "library_name: diffusers" in card and "DDPMPipeline.from_pretrained" in card
    assert "3.25, 95% interval 3 .. 3.5" in card and "beta_max=20.0" in card
    assert "| training |" not in card  # nothing was trained here
    with pytest.raises(UserError, match=r"model exists already.*choose another --output"):
        runs.call("export", run, output=tmp_path / "model")
    with pytest.raises(UserError, match=r"name a \.pth file, or a folder"):
        runs.call("export", run, output=tmp_path / "model.safetensors")


def run_of(settings: Settings, folder: Path) -> Run:
    return Run(settings, folder, build(settings), Placement.of())


def test_an_imported_model_of_skips_comes_back(tmp_path: Path) -> None:
    published, settings, _ = read_folder(written("ncsnpp", tmp_path / "model"))
    run = run_of(settings, tmp_path / "run")
    write_json(run.folder / "imported.json", {"source": "model", "code": "diffusers"})
    state = to_state(published, run.experiment)
    write_model(tmp_path / "out", run, state, 0)
    again, found, _ = read_folder(tmp_path / "out")
    params = again.convert(*places("diffusers", run.experiment))[0]
    jax.tree.map(np.testing.assert_array_equal, state.params, params)
    assert configurations.differences(settings, found).keys() == {"name"}
    assert "| imported | model (diffusers) |" in (tmp_path / "out/README.md").read_text()


def test_models_that_diffusers_lacks_come_back_in_our_form(tmp_path: Path) -> None:
    run = run_of(runs.load("vp/ddpmpp_cont:digits"), tmp_path / "run")
    state = random_state(run.experiment)
    form = write_model(tmp_path / "sub" / "model", run, state, 7)
    assert form.startswith("in this library's form, as diffusers has no such model")
    published, settings, _ = read_folder(tmp_path / "sub" / "model")
    found = to_state(published, run.experiment)
    jax.tree.map(np.testing.assert_array_equal, state.averages[0], found.params)
    assert settings == run.settings and int(found.step) == 7
    assert "library_name: score_sde" in (tmp_path / "sub/model/README.md").read_text()


@pytest.mark.parametrize(
    ("recipe", "values", "message"),
    [
        ("ve/ncsnpp_cont:celebahq_256", {}, None),
        ("ve/ncsnpp_cont:ffhq_1024", {}, None),
        ("vp/ddpm:cifar10", {"model.up_attention": "every"}, None),
        ("vp/ddpm:cifar10", {}, r"up_attention=last \(its is every\)"),
        ("vp/ddpm_cont:cifar10", {"model.up_attention": "every"}, r"sde.name=vp \(its is ddpm\)"),
        ("ve/ncsnpp_cont:cifar10", {}, r"progressive=none \(its is output_skip\)"),
        ("ve/ncsnpp_cont:celebahq_256", {"data.centered": True}, "data.centered=True"),
        ("ve/ncsnpp_cont:celebahq_256", {"model.fir": False}, "model.fir=False"),
        ("vp/ddpm:cifar10", {"model.conditional": False}, "model.conditional=False"),
        ("ncsn/ncsn", {}, "no network config.model.name=ncsn"),
    ],
)
def test_what_diffusers_has(recipe: str, values: dict, message: str | None) -> None:
    settings = runs.load(recipe, values).to_dict()
    if message is None:
        express(settings)
        return
    with pytest.raises(UserError, match=message):
        express(settings)
