"""The documentation site: its contents, its pages of names, and how docstrings become text."""

import functools
import importlib
import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from golden import REPOSITORY
from pages import FENCED, prose

DOCS = REPOSITORY / "docs"
INDEX = (DOCS / "index.md").read_text()
PAGES = {path.resolve() for path in DOCS.rglob("*.md")} - {DOCS / "index.md"}
TOP = {REPOSITORY / f"{name}.md" for name in ("README", "CONTRIBUTING", "CHANGELOG")}
NAMES = {path.name: path.read_text() for path in sorted((DOCS / "api").glob("*.md"))}
MODULES = re.findall(r"^\.\. automodule:: (\S+)$", "\n".join(NAMES.values()), re.MULTILINE)


def contents() -> list[Path]:
    """The pages in the toctrees of the index, in order."""
    blocks = re.findall(r"^```\{toctree\}\n(.*?)^```$", INDEX, re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.split("\n") if line and line[0] != ":"]
    names = [re.sub(r"^.*<(.*)>$", r"\1", line) for line in lines]
    return [(DOCS / f"{name}.md").resolve() for name in names]


def test_every_page_is_in_the_contents_once() -> None:
    found = contents()
    assert len(found) == len(set(found))
    assert set(found) == PAGES | TOP


def test_the_index_links_to_every_page() -> None:
    linked = re.findall(r"\]\(([^)#]*\.md)\)", FENCED.sub("", INDEX))
    assert {(DOCS / link).resolve() for link in linked} == PAGES | TOP


def test_every_part_of_the_library_is_on_a_page_of_names() -> None:
    parts = {path.stem for path in (REPOSITORY / "score_sde").glob("*.py")}
    parts |= {path.parent.name for path in (REPOSITORY / "score_sde").glob("*/__init__.py")}
    public = {f"score_sde.{part}" for part in parts if not part.startswith("_")}
    assert public <= set(MODULES)
    assert len(MODULES) == len(set(MODULES))
    assert not [name for name in MODULES if importlib.util.find_spec(name) is None]


def test_headings_of_a_page_of_names_are_its_modules() -> None:
    for text in NAMES.values():
        headings = re.findall(r"^## (\S+)$", text, re.MULTILINE)
        assert headings == re.findall(r"^\.\. automodule:: (\S+)$", text, re.MULTILINE)


@pytest.mark.parametrize("path", sorted(PAGES), ids=lambda path: path.name)
def test_names_of_the_library_exist(path: Path) -> None:
    for name in re.findall(r"\bscore_sde(?:\.\w+)+", prose(path.read_text())):
        assert resolved(name), name


def resolved(name: str) -> bool:
    """Whether a dotted name is a module, or an attribute of one."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        try:
            module = importlib.import_module(".".join(parts[:end]))
        except ModuleNotFoundError:
            continue
        try:
            functools.reduce(getattr, parts[end:], module)
        except AttributeError:
            return False
        return True
    return False


def test_wrong_names_are_seen() -> None:
    assert resolved("score_sde.VP.marginal") and resolved("score_sde.training.step")
    assert not resolved("score_sde.VP.margin") and not resolved("score_sde.no.such")


@pytest.fixture(scope="module")
def conf() -> ModuleType:
    spec = importlib.util.spec_from_file_location("conf", DOCS / "conf.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("|x|^2 and\nw_k *x", [r"\ \|x\|^2 and w\_k \*x"]),
        ("`VP` and `a b`", [r"\ \ :py:obj:`VP`\ " + r" and \ ``a b``\ "]),
        (
            "A:\n\n    x_i = |y|\n      + z\n\nEnd.",
            [r"\ A\:", "::", "  x_i = |y|", "    + z", r"\ End."],
        ),
        (
            "Args:\n    x: one\n        two.\n    *y, z: b.",
            [":Args:", r"  * **x**: \ one two.", r"  * **\*y, z**: \ b."],
        ),
        ("Returns:\n    the sum\n    of all.", [":Returns:", r"  \ the sum of all."]),
        ("Two:\n- a\n  b\n- c", [r"\ Two\:", r"* \ a b", r"* \ c"]),
        (
            "x: first\n    line.\ny: second.",
            [r"* **x**: \ first line.", r"* **y**: \ second."],
        ),
    ],
)
def test_docstrings_become_text(conf: ModuleType, text: str, expected: list[str]) -> None:
    assert [line for line in conf.restructured(text.split("\n")) if line] == expected


def test_signatures_are_readable(conf: ModuleType) -> None:
    arguments = (
        "(nf=1, dtype=<class 'jax.numpy.float32'>, parent=<flax._Sentinel object>, name=None)"
    )
    found = conf._signature(None, "class", "", None, None, arguments, None)
    assert found == ("(nf=1, dtype=jax.numpy.float32)", None)
    assert conf._signature(None, "module", "", None, None, None, None) is None


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    for package in ("sphinx", "myst_parser", "furo"):
        pytest.importorskip(package, reason="the extra `docs` is not installed")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-c", "docs"]
    command += ["-d", str(tmp_path / "trees"), ".", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    site = tmp_path / "site"
    assert "docs/index.html" in (site / "index.html").read_text()
    processes = (site / "docs" / "api" / "processes.html").read_text()
    assert "x_t = alpha(t) x_0 + sigma(t) z" in processes
    inverse = (site / "docs" / "api" / "inverse.html").read_text()
    assert 'sampling.html#score_sde.steppers.Ancestral"' in inverse
    for page in site.rglob("*.html"):
        assert not re.search(
            r'<(?:script|link|img)[^>]* (?:src|href)="(?:https?:)?//', page.read_text()
        )
