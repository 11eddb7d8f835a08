"""README and guide: the Python runs, files and links exist, commands and entries are understood."""

import importlib
import re

import jax
import pytest

from golden import REPOSITORY
from pages import (
    FLAGS,
    MODES,
    Command,
    commands,
    entries,
    load,
    parse,
    prose,
    python,
    read,
    slugs,
    tables,
)
from score_sde.recipes import RECIPES as KNOWN

DOCS = REPOSITORY / "docs"
GUIDE = [page for part in ("guide", "launch") for page in sorted((DOCS / part).glob("*.md"))]
FIRST = [DOCS / name for name in ("index.md", "start.md", "coming_from.md")]
"""Pages of the site, for those who come to it. `test_site.py` asks that the index has all pages."""
PAGES = read(REPOSITORY / "README.md", DOCS / "checkpoints.md", *GUIDE, *FIRST)
COMMANDS = [(page, command) for page, text in PAGES.items() for command in commands(text)]
RECIPES = ("ve/ncsnpp_cont", "vp/ddpmpp_cont:digits", "ncsnv2/ncsnv2:digits")
"""Together they have every entry that the pages speak of."""


@pytest.mark.parametrize("page", [page for page in PAGES if python(PAGES[page])])
def test_python_runs_and_prints_what_it_says(page: str, capsys) -> None:
    source = "\n".join(python(PAGES[page]))
    with jax.numpy_dtype_promotion("standard"):  # optax's Adam raises a float to an integer power
        exec(compile(source, page, "exec"), {"__name__": "page"})
    printed = [float(line) for line in capsys.readouterr().out.split()]
    promised = [float(number) for number in re.findall(r"print\(.*\)  # about ([\d.]+)", source)]
    assert len(printed) == len(promised) > 0
    for value, about in zip(printed, promised, strict=True):
        # Shares of 2000 samples have the standard error 0.009; 4 is a distance of 1000 rows.
        assert abs(value - about) < (0.04 if about < 1 else 0.4)


def test_no_python_is_overlooked() -> None:
    blocks = {page: text.count("```python") for page, text in PAGES.items()}
    assert {page: len(python(text)) for page, text in PAGES.items()} == blocks
    assert {page: number for page, number in blocks.items() if number} == {
        "README.md": 1,
        "docs/guide/extending.md": 12,
        "docs/guide/quality.md": 1,
        "docs/guide/score_matching.md": 1,
    }


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    for target, anchor in re.findall(r"\]\((?!https:)([^)#]*)#?([^)]*)\)", PAGES[page]):
        path = (REPOSITORY / page).parent / target if target else REPOSITORY / page
        assert path.exists(), target
        assert not anchor or anchor in slugs(path.read_text()), f"{target}#{anchor}"


@pytest.mark.parametrize("page", PAGES)
def test_named_files_exist(page: str) -> None:
    for path in re.findall(r"(?:configs|examples|score_sde)/[\w/]*\w\.py", PAGES[page]):
        assert (REPOSITORY / path).is_file(), path
    package = "where in `score_sde/`" in PAGES[page]
    for name in re.findall(r"`([a-z_]+(?:\.py|/))`", PAGES[page]):
        if name.endswith(".py") or package:
            places = (REPOSITORY / name, REPOSITORY / "score_sde" / name)
            assert any(place.exists() for place in places), name


@pytest.mark.parametrize(("page", "command"), COMMANDS)
def test_commands_are_understood(page: str, command: str) -> None:
    _, flags, overrides = parse(command)
    recipes = list(flags.get("config", []))
    for workdir in () if recipes else flags.get("workdir", []):
        recipes += makers(page, workdir)
    recipes = [name for name in recipes if not (name.isupper() or name.endswith(".json"))]
    for recipe in recipes:
        load(recipe, overrides)
    assert recipes or any(takes(recipe, overrides) for recipe in RECIPES), overrides


def makers(page: str, workdir: str) -> list[str]:
    """Recipes that the page trains or imports into a working directory."""
    others = [parse(command).flags for where, command in COMMANDS if where == page]
    return [
        flags["config"][0]
        for flags in others
        if "config" in flags and workdir in flags.get("workdir", [])
    ]


def takes(recipe: str, overrides: list[tuple[str, str]]) -> bool:
    """Whether the recipe has all entries, and they take the values."""
    try:
        load(recipe, overrides)
    except ValueError:
        return False
    return True


def test_wrong_commands_are_seen() -> None:
    for wrong in (
        "--mode trian",
        "--mode sample --frames 3",
        "--mode train --checkpoint 3",
        "--mode interpolate --frames many",
        "--mode fid --workdir runs/a",
        "--mode sample --colour red",
        "--mode sample colour",
    ):
        with pytest.raises((KeyError, ValueError)):
            parse(wrong)
    assert parse("--mode sample --workdir=A --workdir B --config.eval.split train") == Command(
        "sample", {"workdir": ["A", "B"]}, [("eval.split", "train")]
    )
    assert not takes(RECIPES[0], [("training.bach_size", "3")])
    assert not takes(RECIPES[0], [("training.batch_size", "much")])
    assert not takes("ve/ncsnpp_count", [])
    text = "    score-sde --mode a \\\n      --b\n\n```bash\nX=1 python main.py --c\n```\n"
    assert commands(text + "\n    ls\n") == ["--mode a --b", "--c"]


@pytest.mark.parametrize("page", PAGES)
def test_entries_flags_and_modes_in_sentences_exist(page: str) -> None:
    known = {name for recipe in RECIPES for name in entries(recipe)}
    sections = "|".join(sorted({name.split(".")[0] for name in known}))
    named = rf"(?<![\w/])((?:{sections})\.(?!py\b|md\b|json\b|safetensors\b)[a-z]\w*)"
    text = prose(PAGES[page])
    assert set(re.findall(named, text)) <= known
    assert set(re.findall(r"--mode (\w+)", text)) <= set(MODES)
    assert set(re.findall(r"--(\w+)(?![\w.])", text)) <= {"help", *FLAGS}


def test_the_readme_has_every_page_mode_and_recipe() -> None:
    readme = PAGES["README.md"]
    linked = set(re.findall(r"\]\((docs/(?:\w+/)?\w+\.md)\)", readme))
    assert "docs/index.md" in linked
    assert linked >= set(PAGES) - {"README.md", *read(*FIRST)}
    first_cells = re.findall(r"^\| (`.*?) \|", readme, flags=re.MULTILINE)
    named = {name for cell in first_cells for name in re.findall(r"`(\w+)`", cell)}
    recipes = {name.partition("/")[2] for name in KNOWN}
    assert named >= {*MODES, *recipes} - {"ncsn", "ncsnv2"}


def test_tables_of_names_are_where_the_pages_say() -> None:
    found = {page: tables(text) for page, text in PAGES.items()}
    spoken = {name for names in found["docs/guide/extending.md"].values() for name in names}
    assert spoken == {
        *(
            "PROCESSES",
            "NETWORKS",
            "PREDICTIONS",
            "PERTURBED",
            "TIMES",
            "WEIGHTS",
            "PREDICTORS",
            "CORRECTORS",
            "GRIDS",
        ),
        *("SOLVERS", "SOURCES", "MEASURES", "RECIPES", "DATASETS", "MODES", "FLAGS"),
    }
    for named in found.values():
        for file, names in named.items():
            module = importlib.import_module(file.removesuffix(".py").replace("/", "."))
            assert all(isinstance(getattr(module, name), dict | tuple) for name in names), file


@pytest.mark.parametrize("page", PAGES)
def test_pages_are_short_enough(page: str) -> None:
    lines = PAGES[page].splitlines()
    assert len(lines) <= 200 or page.endswith("extending.md")
    assert not [line for line in lines if len(line) > 100 and not line.startswith("|")]
