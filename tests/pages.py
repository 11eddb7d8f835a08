"""The pages of the documentation as tests read them: Python blocks, command lines, links.

What a command line means is asked in `parse`, `load` and `entries` alone.
`tables` finds the tables of names that a page speaks of.
"""

import re
import shlex
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags

from golden import REPOSITORY
from score_sde import cli, program
from score_sde.build.settings import Settings
from score_sde.modes.table import FLAGS as TABLE
from score_sde.modes.table import MODES
from score_sde.workdir import config as configurations

FLAGS = flags.FlagValues()
cli.define_flags(FLAGS)
PROGRAM = re.compile(r"(?:[A-Z_]+=\S+ )*(?:score-sde|python -m score_sde|python main\.py) (.*)")
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", flags=re.DOTALL | re.MULTILINE)


def python(text: str) -> list[str]:
    """The Python blocks of a page."""
    return [block for language, block in FENCED.findall(text) if language == "python"]


def prose(text: str) -> str:
    """What stands between backticks in the sentences and tables of a page."""
    return " ".join(re.findall(r"`([^`\n]+)`", FENCED.sub("", text)))


def commands(text: str) -> list[str]:
    """The command lines of this library on a page, without the program's name.

    They stand in indented code and in fenced code but Python; lines that end in a backslash go on.
    """
    fenced = [block for language, block in FENCED.findall(text) if language != "python"]
    indented = re.findall(r"^    (.*)$", FENCED.sub("", text), flags=re.MULTILINE)
    lines = "\n".join([*indented, *fenced]).replace("\\\n", " ").splitlines()
    found = (PROGRAM.fullmatch(re.sub(r"\s+", " ", line).strip()) for line in lines)
    return [match[1] for match in found if match]


def slugs(text: str) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", FENCED.sub("", text), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


class Command(NamedTuple):
    """What a command line asks for: flags by name, each a list of values, and (entry, value)s."""

    mode: str
    flags: dict[str, list[Any]]
    overrides: list[tuple[str, str]]


def parse(command: str) -> Command:
    """The parts of a command line.

    Raises KeyError or ValueError for an unknown flag or mode, for a value of another type, and for
    a flag that means nothing to the mode.
    """
    words, overrides = cli.split_overrides(shlex.split(command))
    flags: dict[str, list[Any]] = {}
    while words:
        word = words.pop(0)
        name, equals, value = word.removeprefix("--").partition("=")
        if not word.startswith("--") or name not in FLAGS:
            raise KeyError(word)
        if not equals:
            value = "true" if FLAGS[name].boolean else words.pop(0)
        flags.setdefault(FLAGS[name].name, []).append(value)
    (mode,) = flags.pop("mode")
    if mode not in MODES:
        raise KeyError(mode)
    several = {flag.name for flag in TABLE if flag.several}
    given = {name: v if name in several else v[-1] for name, v in flags.items()}
    program.parse(mode, given)
    return Command(mode, flags, overrides)


def load(recipe: str, overrides: list[tuple[str, str]]) -> Settings:
    """The settings of a recipe (vp/ddpm, vp/ddpm:digits or configs/vp/ddpm.py:digits).

    Raises ValueError where there is no such recipe, entry or value.
    """
    return configurations.override(configurations.load(recipe), overrides)


def entries(recipe: str) -> set[str]:
    """Names of all entries of a recipe, as training.steps."""
    sections = load(recipe, []).to_dict()
    return {
        f"{section}.{name}"
        for section, values in sections.items()
        if isinstance(values, dict)
        for name in values
    }


def tables(text: str) -> dict[str, list[str]]:
    """File -> names in capitals that stand before it, in the cells and sentences of a page.

    "`PREDICTORS`, `GRIDS` in `score_sde/build/sampler.py`".
    """
    pattern = r"((?:`[A-Z]+`(?:,| and)? )+)in\s+`(score_sde/[\w/]+\.py)`"
    found: dict[str, list[str]] = {}
    for names, file in re.findall(pattern, text):
        found.setdefault(file, []).extend(re.findall(r"[A-Z]+", names))
    return found


def read(*paths: Path) -> dict[str, str]:
    """Text of each page, by its path in the repository."""
    return {str(path.relative_to(REPOSITORY)): path.read_text() for path in paths}
