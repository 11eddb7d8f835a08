"""Command line of score_sde: python main.py --config configs/ve/ncsnpp_cont.py --mode train."""

import os
import sys

from absl import app, flags, logging

FLAGS = flags.FLAGS

flags.DEFINE_string(
    "config",
    None,
    "Configuration, FILE or FILE:DATASET, e.g. configs/vp/ddpmpp_cont.py:digits. Override entries with "
    "--config.SECTION.NAME=VALUE. Optional where --workdir names an existing run. A,B,C for several runs.",
)
flags.DEFINE_enum(
    "mode",
    None,
    [
        *("train", "train_dequantizer", "sample", "eval", "likelihood", "summarize"),
        *("encode", "decode", "interpolate", "inpaint", "report", "dry_run"),
        *("suggest", "select", "import", "export", "fid"),
    ],
    "What to do.",
    required=True,
)
flags.DEFINE_string(
    "workdir",
    None,
    "Working directory of the run; default runs/<sde>_<recipe>_<dataset>. A,B,C after training: several runs, one after another.",
)
flags.DEFINE_string(
    "checkpoint",
    None,
    "Steps of the checkpoints to use, like 10 or 10,20, 'all', or 'best' after --mode select; default 'latest'.",
)
flags.DEFINE_alias("checkpoints", "checkpoint")
flags.DEFINE_string(
    "shard", None, "i/n: do the i-th of n shares of --mode likelihood; then --mode summarize."
)
flags.DEFINE_string(
    "input",
    None,
    "Image file, folder of images or .npz file (`images`: integer levels, `z`: latents), or several with commas between "
    "them, for --mode encode, decode, interpolate and inpaint; default: images of config.eval.split, or latents drawn from the "
    "prior.",
)
flags.DEFINE_string(
    "output",
    None,
    "Folder for results; default: in the working directory. For --mode export, suggest and fid: the file, like model.pth, "
    "config.json or statistics.npz.",
)
flags.DEFINE_string(
    "source", None, "Checkpoint of a published code for --mode import: checkpoint_N or a .pth file."
)
flags.DEFINE_string(
    "source_config",
    None,
    "Its configuration as JSON, for --mode import without --config; default: a config.json beside the file, else "
    "the one recipe whose network has these weights.",
)
flags.DEFINE_float("temperature", None, "Factor of the latents in --mode decode and interpolate; default 1.")
flags.DEFINE_integer("frames", None, "Images of one interpolation, both ends included; default 11.")
flags.DEFINE_string(
    "mask",
    None,
    "Known pixels in --mode inpaint: left, right, top, bottom (the half), or an image file, white where known; default left.",
)
flags.DEFINE_integer("copies", None, "Completions of each image in --mode inpaint; default 8.")
flags.DEFINE_string(
    "a", None, "Images that --mode fid measures: a folder, or an .npz file of images or statistics."
)
flags.DEFINE_string("b", None, "What --mode fid compares them with, in the same forms.")
flags.DEFINE_string(
    "metrics",
    None,
    "What --mode fid measures: fid, kid, is (Inception score), pr (precision, recall), dc (density, coverage), with commas "
    "between them; default fid.",
)
flags.DEFINE_string(
    "extractor",
    None,
    "Features in --mode fid: inception, mnist, digits, pixels, or FILE.py:FUNCTION of yours; default inception.",
)
flags.DEFINE_string("weights", None, "Weights file of the extractor in --mode fid.")
flags.DEFINE_bool("distributed", False, "Start jax.distributed: one process per host of a pod or cluster.")


def split_overrides(argv: list[str]) -> tuple[list[str], list[tuple[str, str]]]:
    """Take --config.NAME=VALUE, --config.NAME VALUE and --config.NAME (true) out of the arguments."""
    rest, overrides, words = [], [], list(argv)
    while words:
        word = words.pop(0)
        name, equals, value = word.lstrip("-").partition("=")
        if not (word.startswith("-") and name.startswith("config.")):
            rest.append(word)
            continue
        if not equals:  # the next word is the value; a flag alone is true
            value = "True" if not words or words[0].startswith("--") else words.pop(0)
        overrides.append((name.removeprefix("config."), value))
    return rest, overrides


def _join_processes(jax) -> None:
    """Start jax.distributed: on pods and known clusters by itself, elsewhere as three environment variables say."""
    number, index = (os.environ.get(f"JAX_{name}") for name in ("NUM_PROCESSES", "PROCESS_ID"))
    try:
        jax.distributed.initialize(
            num_processes=None if number is None else int(number),
            process_id=None if index is None else int(index),
        )
    except (ValueError, RuntimeError) as error:
        sys.exit(
            f"error: --distributed: {error} Outside of pods and clusters that jax knows, set JAX_COORDINATOR_ADDRESS=HOST:PORT, "
            "JAX_NUM_PROCESSES and JAX_PROCESS_ID (0, 1, ...) for each process."
        )


def main(argv: list[str]) -> None:
    """Run the mode that the flags ask for."""
    if len(argv) > 1:
        raise app.UsageError(f"unknown arguments {argv[1:]}")
    if not FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)  # Orbax tells a great deal
    cache = os.path.join(os.path.expanduser("~"), ".cache", "score_sde", "jax")
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", cache)
    import jax

    import run_lib
    from score_sde.errors import UserError

    if FLAGS.distributed:
        _join_processes(jax)
    try:
        names = ("input", "output", "temperature", "frames", "mask", "copies", "source", "source_config")
        names += ("a", "b", "metrics", "extractor", "weights")
        flags_of_modes = {name: FLAGS[name].value for name in names}
        run_lib.run(
            FLAGS.mode,
            FLAGS.config,
            OVERRIDES,
            FLAGS.workdir,
            FLAGS.checkpoint,
            FLAGS.shard,
            **flags_of_modes,
        )
    except UserError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        print("\ninterrupted; what was written is kept. Start the same command again.", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    ARGUMENTS, OVERRIDES = split_overrides(sys.argv)
    app.run(main, argv=ARGUMENTS)
