"""docs/settings.md is what the schema says."""

import pytest

from golden import REPOSITORY
from score_sde.build.network import NETWORKS, model_defaults
from score_sde.build.process import PROCESSES, process_defaults
from score_sde.build.reference import field_docstrings, settings_page
from score_sde.build.sampler import PREDICTORS
from score_sde.build.settings import SECTIONS, entries

PAGE = settings_page()


def row(entry: str) -> list[str]:
    """The cells of the first row of an entry: entry, type, default, values, later, meaning."""
    lines = [line for line in PAGE.splitlines() if line.startswith(f"| `{entry}` |")]
    return [cell.strip() for cell in lines[0].split(" | ")]


def test_the_page_is_up_to_date() -> None:
    path = REPOSITORY / "docs" / "settings.md"
    command = "make settings (python -m score_sde.build.reference > docs/settings.md)"
    if not path.exists() or path.read_text() != PAGE:
        pytest.fail(f"docs/settings.md is not what score_sde/build/ says; run: {command}")


def test_every_entry_has_a_row() -> None:
    for section, kind in SECTIONS.items():
        for name, (_, about) in entries(kind).items():
            assert about.meaning and row(f"{section}.{name}")[-1].startswith(about.meaning[:20])
    for name in PROCESSES:
        assert f"### sde.name={name}\n" in PAGE
        assert all(row(f"sde.{entry}") for entry in process_defaults(name))
    for name in NETWORKS:
        assert f"### model.name={name}\n" in PAGE
        assert all(row(f"model.{entry}") for entry in model_defaults(name))
    assert row("name") and row("seed")


def test_cells_are_what_the_schema_says() -> None:
    assert row("optim.beta1")[1:5] == ["`float`", "`0.9`", "in [0, 1)", ""]
    assert row("training.steps")[1:5] == ["`int`", "`1300000`", "at least 1", "yes"]
    assert row("training.batch_size")[4] == ""
    assert row("sampling.predictor")[3] == ", ".join(f"`{name}`" for name in PREDICTORS)
    assert row("training.reduce")[3] == "`mean`, `sum`"
    assert row("model.progressive_combine")[3] == "`sum`, `cat`"
    assert row("model.remat")[4] == "yes"
    assert row("training.from")[1] == "`str`"


def test_docstrings_of_fields() -> None:
    found = field_docstrings(NETWORKS["ncsnpp"])
    assert found["nf"] == "Channels of the first level."
    assert found["progressive_combine"].endswith("the channels.")  # two lines
    assert "dropout" not in found
