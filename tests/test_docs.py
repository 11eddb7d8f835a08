"""The commands in docs/checkpoints.md make the networks of its tables."""

import re

import pytest

from golden import REPOSITORY
from pages import Command, commands, load, parse
from score_sde.build.network import build_network
from score_sde.build.process import build_process

TEXT = (REPOSITORY / "docs" / "checkpoints.md").read_text()
COMMANDS = [parse(command) for command in commands(TEXT) if "runs/NAME" not in command]
RECIPES = {
    command.flags["workdir"][0]: command.flags["config"][0]
    for command in reversed(COMMANDS)
    if "config" in command.flags
}
"""Of each working directory."""


@pytest.mark.parametrize(
    "command", COMMANDS, ids=lambda command: " ".join(command.flags["workdir"])
)
def test_networks_are_made(command: Command) -> None:
    (workdir,) = command.flags["workdir"]
    assert workdir.startswith("runs/")
    assert (command.mode == "import") == ("source" in command.flags)
    settings = load(RECIPES[workdir], command.overrides)
    build_network(settings.model, build_process(settings.sde))


def test_every_row_has_a_command() -> None:
    cells = re.findall(r"^\| .*? \| `(\w+/\w+(?::\w+)?)`", TEXT, flags=re.MULTILINE)
    assert len(set(cells)) == 28
    imported = {c.flags["config"][0] for c in COMMANDS if "config" in c.flags}
    assert imported - {"vp/ddpmpp_cont_lik"} == set(cells)
