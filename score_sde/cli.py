"""The command line: absl's flags made of the table of `modes/table.py`.

What a call needs beyond the flags is imported when they have been read: help comes at once.
"""

import os
import sys

from absl import app, flags, logging

from score_sde.errors import nearest
from score_sde.modes.table import FLAGS, MODES, flag_lines

HELP = {"--help", "-help", "-?", "--helpshort", "--helpfull", "--helpxml"}


class _Modes(flags.EnumParser):
    """Knows the modes, and which a wrong name may have meant."""

    def parse(self, argument: str) -> str:
        """The mode; raises ValueError where there is none of that name."""
        if argument not in MODES:
            raise ValueError(
                f"there is no mode {argument!r}.{nearest(argument, MODES)} Modes: "
                f"{', '.join(MODES)}"
            )
        return argument


def define_flags(values: flags.FlagValues = flags.FLAGS) -> None:
    """Make absl's flags of the table."""
    modes = "\n".join(f"{name:<18} {mode.does}" for name, mode in MODES.items())
    flags.DEFINE_enum(
        "mode", None, list(MODES), f"What to do:\n{modes}", required=True, flag_values=values
    )
    values["mode"].parser = _Modes(list(MODES))
    for flag, (name, text) in zip(FLAGS, flag_lines(), strict=True):
        define = flags.DEFINE_multi_string if flag.several else flags.DEFINE_string
        define(name, None, text, flag_values=values)
    flags.DEFINE_alias("checkpoints", "checkpoint", flag_values=values)
    flags.DEFINE_bool(
        "distributed",
        False,
        "[all modes] Start jax.distributed: one process per host of a pod or cluster.",
        flag_values=values,
    )


def _show_in_help(values: flags.FlagValues = flags.FLAGS) -> None:
    """Let --help list our flags: absl shows those of the program, which only calls this module."""
    sys.modules["__main__"].__doc__ = (
        "score-sde --config vp/ddpmpp_cont:digits --mode train --workdir runs/first\n"
        "score-sde --mode sample --workdir runs/first"
    )
    for name in ("mode", *(flag.name for flag in FLAGS), "distributed"):
        values.register_key_flag_for_module(sys.argv[0], values[name])


def split_overrides(argv: list[str]) -> tuple[list[str], list[tuple[str, str]]]:
    """(other arguments, entries): --config.NAME=VALUE, --config.NAME VALUE, or the name alone."""
    rest, overrides, words = [], [], list(argv)
    while words:
        word = words.pop(0)
        name, equals, value = word.lstrip("-").partition("=")
        if not (word.startswith("-") and name.startswith("config.")):
            if word.startswith("--") and "." in name:
                sys.exit(f"error: there is no flag --{name}. Is it an entry? --config.{name}=VALUE")
            rest.append(word)
            continue
        if not equals:  # the next word is the value; a flag alone is true
            value = "True" if not words or words[0].startswith("--") else words.pop(0)
        overrides.append((name.removeprefix("config."), value))
    return rest, overrides


def _start(overrides: list[tuple[str, str]], argv: list[str]) -> None:
    if len(argv) > 1:
        sys.exit(
            f"error: {argv[1]!r} belongs to no flag. Entries are set by "
            "--config.SECTION.NAME=VALUE, flags by --NAME=VALUE; --help lists the flags"
        )
    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)  # Orbax tells a great deal
    try:
        from score_sde import program
    except ValueError as error:  # JAX reads its environment when it is imported
        names = [name for name in os.environ if name.startswith("JAX_")]
        wrong = [name for name in names if name.lower() in str(error).lower()]
        if not wrong:
            raise
        sys.exit(f"error: {error}. Change {wrong[0]} in the environment, or unset it")

    mode, given = flags.FLAGS.mode, {flag.name: flags.FLAGS[flag.name].value for flag in FLAGS}
    program.start(mode, given, overrides, flags.FLAGS.distributed)


def main() -> None:
    """The command `score-sde`."""
    os.environ["MPLBACKEND"] = "agg"  # a notebook's own may not be installed here
    define_flags()
    _show_in_help()
    arguments, overrides = split_overrides(sys.argv)
    try:
        app.run(lambda argv: _start(overrides, argv), argv=arguments)
    except SystemExit:
        if HELP & set(arguments):  # absl ends with 1 where help was asked for
            sys.exit(0)
        raise
