"""The commands in docs/checkpoints.md: their recipes exist, take the overrides and make the networks."""

import re
import shlex

import pytest

import main
from golden import REPOSITORY
from score_sde import arguments
from score_sde import config as config_lib
from score_sde.build import build_network, build_process

TEXT = (REPOSITORY / "docs" / "checkpoints.md").read_text()
COMMANDS = [line for line in TEXT.splitlines() if line.startswith("python main.py --mode ")]


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_are_understood(command: str) -> None:
    rest, overrides = main.split_overrides(shlex.split(command)[2:])
    flags = dict(zip(rest[::2], rest[1::2], strict=True))
    assert all(name.startswith("--") for name in flags)
    mode = flags.pop("--mode")
    workdir = flags.pop("--workdir")
    if mode == "import":
        assert arguments.parse_options(mode, {"source": flags.pop("--source")})
    if "--config" in flags:
        location = flags.pop("--config")
    else:  # of a run that a line before imports
        (location,) = {
            c.split("--config ")[1].split()[0] for c in COMMANDS if "--config " in c and c.endswith(workdir)
        }
    assert workdir.startswith("runs/") and not flags
    config = config_lib.load(location)
    config_lib.override(config, overrides)
    build_network(config, build_process(config.sde))


def test_every_row_has_a_command() -> None:
    recipes = set(re.findall(r"`(configs/\w+/\w+\.py(?::\w+)?)`", TEXT))
    assert len(recipes) == 24
    imported = {command.split("--config ")[1].split()[0] for command in COMMANDS if "--config " in command}
    assert imported - {"configs/vp/ddpmpp_cont_lik.py"} == recipes
