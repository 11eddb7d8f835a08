"""The tables of modes and of their flags. A new mode is a file of this package and a row here."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from score_sde.errors import UserError


class Mode(NamedTuple):
    """module: below `score_sde.modes`. takes: what it works on. does: one line for a user.
    kept: what there is after a signal, and what the same command then does.

    takes: "fresh", one run that need not exist;
    "settings" alone; "named", settings and a folder, neither of which need be good;
    "checkpoints" of existing runs; "runs" that exist;
    "recipe", what a run is to be made of; "nothing".
    """

    module: str
    takes: str
    does: str
    kept: str = "files that were written are kept, and the same command begins anew"


TRAINED = "the last checkpoint is kept, if there was one, and the same command goes on from there"
MEASURED = (
    "measures in eval/ and the samples drawn for them are kept, and the same command goes on from "
    "there"
)
IMAGES = "the images that were finished are kept, and the same command does the others"
MODES = {
    "train": Mode("train", "fresh", "trains, or goes on training", TRAINED),
    "sample": Mode(
        "sample",
        "checkpoints",
        "draws samples: grid, npz, animation",
        "nothing of this drawing is kept, and the same command draws all; older samples stay",
    ),
    "eval": Mode(
        "eval", "checkpoints", "losses, bits/dim, FID and the like, with errors", MEASURED
    ),
    "fid": Mode("fid", "nothing", "FID and the like of two sets of images, without a model"),
    "prepare": Mode("prepare", "nothing", "makes CT and MRI scans a folder of slices"),
    "train_dequantizer": Mode(
        "train_dequantizer", "checkpoints", "trains the flow of variational dequantization", TRAINED
    ),
    "train_classifier": Mode(
        "train_classifier", "runs", "trains the classifier of noisy images for --classes", TRAINED
    ),
    "train_second_order": Mode(
        "train_second_order", "checkpoints", "trains the Hessian of log p, for uncertainty", TRAINED
    ),
    "likelihood": Mode(
        "likelihood",
        "checkpoints",
        "bits/dim of images, a row for each",
        "the rows of finished batches are kept in eval/, and the same command does the others",
    ),
    "summarize": Mode("summarize", "runs", "merges the shards of likelihood, compares runs"),
    "encode": Mode(
        "encode", "checkpoints", "latents of images by the probability-flow ODE", IMAGES
    ),
    "decode": Mode("decode", "checkpoints", "images of latents, or of draws from the prior"),
    "interpolate": Mode("interpolate", "checkpoints", "goes from image to image in latents"),
    "uncertainty": Mode(
        "uncertainty", "checkpoints", "denoises images: variances, directions, calibration"
    ),
    "inpaint": Mode("inpaint", "checkpoints", "fills in what a mask leaves unknown"),
    "colorize": Mode("colorize", "checkpoints", "gives grey images colours", IMAGES),
    "reconstruct": Mode(
        "reconstruct",
        "checkpoints",
        "draws images that fit a measurement: blurred, grey, small",
        IMAGES,
    ),
    "compare": Mode(
        "compare", "checkpoints", "compares solvers of reconstruct, image by image", IMAGES
    ),
    "tune": Mode(
        "tune",
        "checkpoints",
        "finds the best options of a solver of reconstruction",
        "finished trials are kept, and the same command goes on from there",
    ),
    "measure": Mode("measure", "runs", "writes measurements of images, for reconstruct"),
    "select": Mode("select", "runs", "finds the checkpoint with the best samples", MEASURED),
    "tune_steps": Mode(
        "tune_steps", "checkpoints", "finds the time grid and solver for few evaluations"
    ),
    "suggest": Mode("suggest", "settings", "noise scales and step size for a data set"),
    "import": Mode("import_checkpoint", "recipe", "makes a published checkpoint a run"),
    "export": Mode(
        "export", "checkpoints", "writes a checkpoint for diffusers or the PyTorch codes"
    ),
    "report": Mode("report", "checkpoints", "writes report.html of a run"),
    "list": Mode("list_runs", "nothing", "a table of the runs in a folder"),
    "app": Mode(
        "app",
        "nothing",
        "a page in the browser over a folder of runs",
        "what was finished is kept in the folders of the runs, and the same command shows it again",
    ),
    "doctor": Mode("doctor", "named", "looks for what is wrong with images and with a run"),
    "dry_run": Mode("dry_run", "fresh", "prints settings, costs and devices, and stops"),
}

RUNS = tuple(name for name, mode in MODES.items() if mode.takes != "nothing")
ALL = f"all modes but {', '.join(name for name in MODES if name not in RUNS)}"
CHECKPOINTS = tuple(name for name, mode in MODES.items() if mode.takes == "checkpoints")
RECONSTRUCT = ("inpaint", "colorize", "reconstruct")
INPUTS = (
    *("encode", "decode", "interpolate", *RECONSTRUCT, "compare", "tune", "measure"),
    "uncertainty",
)


class Flag(NamedTuple):
    """name; modes that take it; help; parse: text -> value; several: whether it may be repeated."""

    name: str
    modes: tuple[str, ...]
    help: str
    parse: Callable[[str], Any] = str
    several: bool = False


def _path(text: str) -> Path:
    return Path(text).expanduser()


def _shard(text: str) -> tuple[int, int]:
    first, _, number = text.partition("/")
    if not (first.isdigit() and number.isdigit() and int(first) < int(number)):
        raise UserError(f"--shard must be i/n with 0 <= i < n, like 0/4 .. 3/4; got {text!r}")
    return int(first), int(number)


def _number(name: str, least: int, why: str) -> Callable[[str], int]:
    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if value < least:
            raise UserError(f"--{name} {why}, at least {least}; got {text}")
        return value

    return parse


def _port(text: str) -> int:
    port = int(text) if text.isdecimal() else 0
    if not 1 <= port <= 65535:
        raise UserError(f"--port must be a number from 1 to 65535; got {text!r}")
    return port


def _classes(text: str) -> tuple[int, ...]:
    """() for all."""
    parts = [part.strip() for part in text.split(",")]
    if parts == ["all"]:
        return ()
    if not all(part.isdigit() for part in parts):
        raise UserError(f"--classes must be numbers of classes, like 0,3,7, or all; got {text!r}")
    return tuple(map(int, parts))


def _positive(name: str, why: str) -> Callable[[str], float]:
    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and value > 0):
            raise UserError(f"--{name} {why}; it must be a positive number, got {text}")
        return value

    return parse


def _curvature(text: str) -> str:
    if text not in ("network", "autodiff"):
        raise UserError(f"--curvature must be network or autodiff; got {text!r}")
    return text


def _names(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(part.strip() for part in text.split(",")))


def _vary(text: str) -> tuple[str, tuple[str, ...]]:
    """(entry, values)."""
    name, equals, values = text.removeprefix("config.").partition("=")
    found = _names(values)
    if not equals or not all(found):
        raise UserError(
            f"--vary must name an entry and values, like inverse.scale=2,4; got {text!r}"
        )
    return name.strip(), found


def _ranges(text: str) -> dict[str, tuple[float, float, bool]]:
    """By entry: lowest, highest, whether in logarithms."""
    found = {}
    for part in text.split(","):
        name, _, ends = part.strip().removeprefix("config.").partition("=")
        numbers = ends.split(":")
        log = numbers[-1] == "log"
        try:
            low, high = (float(number) for number in (numbers[:-1] if log else numbers))
            good = -math.inf < low < high < math.inf and not (log and low <= 0)
        except ValueError:
            good = False
        if not good:
            raise UserError(
                "--ranges are an entry, its lowest and its highest value each, above 0 for :log, "
                f"like inverse.strength=0:1 or sampling.snr=0.01:1:log; got {part!r}"
            )
        found[name] = (low, high, log)
    return found


OBJECTIVES = ("psnr_of_mean", "ssim_of_mean", "psnr")
"""Columns of metrics.parquet whose mean over images `tune` can make as large as possible."""


def _objective(text: str) -> str:
    if text not in OBJECTIVES:
        raise UserError(f"--objective must be {', '.join(OBJECTIVES)}; got {text!r}")
    return text


FLAGS = (
    Flag(
        "config",
        RUNS,
        "Recipe or configuration file, with a data set after a colon: vp/ddpmpp_cont:digits, "
        "FILE.py:digits, config.json of a run. Set entries with --config.SECTION.NAME=VALUE "
        "(docs/settings.md). Optional where --workdir names an existing run.",
        several=True,
    ),
    Flag(
        "workdir",
        RUNS,
        "Working directory of the run; default runs/<sde>_<recipe>_<dataset>. Several existing "
        "runs are done one after another.",
        several=True,
    ),
    Flag(
        "checkpoint",
        (*CHECKPOINTS, "select"),
        "Steps of the checkpoints to use, like 10 or 10,20, 'all', or 'best' after --mode select "
        "or eval; phema:STD or phema:STD:STEP is an average made of snapshots. Default 'latest', "
        "for select 'all'.",
        several=True,
    ),
    Flag(
        "shard",
        ("likelihood", *RECONSTRUCT),
        "i/n: do the i-th of n shares; afterwards --mode summarize, or the command without it.",
        _shard,
    ),
    Flag(
        "input",
        (*INPUTS, "prepare"),
        "Image file, folder of images or .npz file (`images`: integer levels, `z`: latents, `y`: "
        "measurements); default: images of config.eval.split, or latents drawn from the prior. "
        "For prepare the folder of the scans.",
        _path,
        several=True,
    ),
    Flag(
        "output",
        (*INPUTS, "summarize", "export", "suggest", "fid", "prepare", "doctor"),
        "Folder for results; default: in the working directory. For suggest and fid the file, like "
        "my.json or statistics.npz; for prepare a new folder; for export a new folder, or a file "
        "of the PyTorch codes, like model.pth.",
        _path,
    ),
    Flag(
        "runs",
        ("list", "app"),
        "Folder whose runs are listed or shown, itself one or not; default runs.",
        _path,
    ),
    Flag(
        "host",
        ("app",),
        "Address to listen at; default 127.0.0.1, this machine alone. Any other needs a password "
        "in the environment variable SCORE_SDE_PASSWORD.",
    ),
    Flag("port", ("app",), "Port to listen at; default 7860.", _port),
    Flag(
        "source",
        ("import", "prepare"),
        "Checkpoint of a published code: checkpoint_N, a .pth file, or a folder of diffusers. For "
        "prepare the name of the collection: lidc, ldct, brats or fastmri.",
        _path,
    ),
    Flag(
        "source_config",
        ("import",),
        "Its configuration as JSON, without --config; default: a config.json beside the file, else "
        "the one recipe whose network has these weights.",
        _path,
    ),
    Flag(
        "temperature",
        ("decode", "interpolate"),
        "Factor of the latents; default 1.",
        _positive("temperature", "multiplies the latents"),
    ),
    Flag(
        "frames",
        ("interpolate",),
        "Images of one interpolation, both ends included; default 11.",
        _number("frames", 2, "counts both ends"),
    ),
    Flag(
        "mask",
        ("inpaint", "reconstruct", "compare", "tune", "measure"),
        "Known pixels: left, right, top, bottom (the half), box, random, scratches or implants "
        "(random:0.7 hides 70 %), or an image file, white where known; default left, of "
        "config.inverse.task=mar implants.",
    ),
    Flag(
        "copies",
        (*RECONSTRUCT, "compare", "tune"),
        "Samples of each image; default 8.",
        _number("copies", 1, "is the number of completions of each image"),
    ),
    Flag(
        "trials",
        ("tune",),
        "Trials in all, the first with the options of the configuration; default 30.",
        _number("trials", 2, "counts the options that are tried"),
    ),
    Flag(
        "ranges",
        ("tune",),
        "What is tried, and from where to where: inverse.strength=0:1,sampling.snr=0.01:1:log; "
        "default: all options of the solver, and the corrector's snr where the solver uses it.",
        _ranges,
    ),
    Flag(
        "objective",
        ("tune",),
        "What is to be large: psnr_of_mean (default), ssim_of_mean, or psnr of a sample.",
        _objective,
    ),
    Flag(
        "noise",
        ("uncertainty",),
        "Noise that is added to the images: sigma/alpha, in units of the model's pixel range.",
        _positive("noise", "is a standard deviation"),
    ),
    Flag(
        "directions",
        ("uncertainty",),
        "Principal directions of each image; default 5.",
        _number("directions", 1, "is the number of principal directions of each image"),
    ),
    Flag(
        "curvature",
        ("uncertainty",),
        "Where covariances come from: network, which train_second_order trains, or autodiff, the "
        "derivative of the score; default network where it has been trained, else autodiff.",
        _curvature,
    ),
    Flag(
        "classes",
        ("sample",),
        "Classes of the samples, in turn: 0,3,7, or all; of a class-conditional network, or by "
        "the classifier that train_classifier trains. Default: as the model likes.",
        _classes,
    ),
    Flag(
        "evaluations",
        ("tune_steps",),
        "Evaluations of the network for one sample; default 10.",
        _number("evaluations", 2, "is the number of evaluations for one sample"),
    ),
    Flag(
        "solvers",
        ("tune_steps", "compare"),
        "Solvers to try; default ddim,dpmpp_2m,dpmpp_3m,unipc,deis, for compare ddnm,diffpir,"
        "projection.",
        _names,
    ),
    Flag(
        "vary",
        ("compare",),
        "An entry and its values, like inverse.scale=2,4: each solver is tried with each of them.",
        _vary,
    ),
    Flag("a", ("fid",), "Images: a folder, or an .npz file of images or statistics.", _path),
    Flag("b", ("fid",), "What they are compared with, in the same forms.", _path),
    Flag(
        "metrics",
        ("fid",),
        "fid, kid, is (Inception score), pr (precision, recall), dc (density, coverage), with "
        "commas between them; default fid.",
        _names,
    ),
    Flag(
        "extractor",
        ("fid",),
        "Features: inception, mnist, digits, pixels, or FILE.py:FUNCTION of yours; default "
        "inception.",
    ),
    Flag("weights", ("fid",), "Weights file of the extractor.", _path),
)
"""Every flag of single modes. A new one is a row here, and a keyword of `main` in its modes."""


def flag_lines() -> list[tuple[str, str]]:
    """(flag, the modes that take it and what it is) of every flag."""
    lines = []
    for flag in FLAGS:
        who = ALL if flag.modes == RUNS else ", ".join(flag.modes)
        again = " Several: separate them by commas, or repeat the flag." if flag.several else ""
        lines.append((flag.name, f"[{who}] {flag.help}{again}"))
    return lines
