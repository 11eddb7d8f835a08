"""Sphinx: the pages of the repository, where they lie, as a site that loads nothing from a network.

The source folder is the repository, so that a link between two files is the same on a code host and
in the site. `make docs` builds it.
"""

import re
from pathlib import Path

import score_sde

project = "score_sde"
author = "the authors of score_sde"
version = release = score_sde.__version__

root_doc = "docs/index"
include_patterns = ["docs/**", "README.md", "CONTRIBUTING.md", "CHANGELOG.md"]
exclude_patterns = [".*", "build", "dist", "runs", "score_sde", "tests", "**/__pycache__"]
extensions = ["myst_parser", "sphinx.ext.autodoc"]
source_suffix = {".md": "markdown"}

smartquotes = False  # "--mode" keeps its hyphens
highlight_language = "none"
myst_heading_anchors = 4
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints = "none"  # docstrings tell shapes and ranges
autodoc_inherit_docstrings = False

html_theme = "furo"
html_title = f"score_sde {version}"
html_copy_source = False
html_show_copyright = False
html_theme_options = {"light_css_variables": {"code-font-size": "75%"}}  # 96 columns fit
html_permalinks_icon = "#"

SECTION = re.compile(r"((?:Args|Returns|Raises|Attributes)(?: \(call\))?):$")
ENTRY = re.compile(r"([A-Za-z*][\w*, ]*): (.*)$")
ITEM = re.compile(r"(?:-|\d+\.) ")


def _depth(line: str) -> int:
    return len(line) - len(line.lstrip())


def _inline(text: str) -> str:
    """One line of reStructuredText: names between backticks as links, all else as it stands."""
    parts = text.split("`")
    for i, part in enumerate(parts):
        if i % 2 == 0:
            parts[i] = re.sub(r"([\\*|_<>:])", r"\\\1", part)
        elif re.fullmatch(r"[A-Za-z_][\w.]*", part):
            parts[i] = rf"\ :py:obj:`{part}`\ "
        else:
            parts[i] = rf"\ ``{part}``\ "
    return "\\ " + "".join(parts)


def _indented(lines: list[str], first: str = "  ") -> list[str]:
    rest = " " * len(first)
    return [(rest if i else first) + line if line else "" for i, line in enumerate(lines)]


def _within(lines: list[str], start: int) -> int:
    """The first line after `start` that is neither blank nor indented."""
    end = start + 1
    while end < len(lines) and (not lines[end].strip() or _depth(lines[end])):
        end += 1
    return end


def _dedented(lines: list[str]) -> list[str]:
    least = min((_depth(line) for line in lines if line.strip()), default=0)
    return [line[least:] for line in lines]


def _entries(lines: list[str]) -> list[str]:
    """`name: text` with hanging lines as a list; anything else as it is."""
    starts = [i for i, line in enumerate(lines) if line.strip() and not _depth(line)]
    found = [ENTRY.match(lines[i]) for i in starts]
    if not all(found):
        return []
    out = []
    for start, end, entry in zip(starts, [*starts[1:], len(lines)], found, strict=True):
        text = restructured([entry[2], *_dedented(lines[start + 1 : end])])
        name = re.sub(r"([\\*_])", r"\\\1", entry[1])
        text[0] = rf"**{name}**: {text[0]}"
        out += [*_indented(text, "* "), ""]
    return out


def restructured(lines: list[str]) -> list[str]:
    """A docstring of this library, plain text with indented formulas, as reStructuredText.

    Sections (`Args:`) become fields, entries and items lists, indented lines literal blocks. No
    other character has a meaning: formulas in a sentence stay as they are written.
    """
    out: list[str] = []
    i = 0
    while i < len(lines):
        line, end = lines[i], i + 1
        if not line.strip():
            pass
        elif section := SECTION.match(line):
            end = _within(lines, i)
            body = _dedented(lines[i + 1 : end])
            out += [f":{section[1]}:", *_indented(_entries(body) or restructured(body)), ""]
        elif _depth(line):
            end = _within(lines, i)
            out += ["::", "", *_indented(_dedented(lines[i:end])), ""]
        elif item := ITEM.match(line):
            end = _within(lines, i)
            if not lines[end - 1].strip():  # what is indented after a blank line is a formula
                end = next(j for j in range(i, end) if not lines[j].strip())
            text = restructured([line[item.end() :], *_dedented(lines[i + 1 : end])])
            out += [*_indented(text, "* "), ""]
        else:
            while end < len(lines) and lines[end].strip():
                if ITEM.match(lines[end]) and lines[end - 1].endswith(":"):
                    break
                end += 1
            hanging = len({_depth(one) for one in lines[i:end]}) > 1
            entries = _entries(lines[i:end]) if hanging else []
            out += entries or [_inline(" ".join(one.strip() for one in lines[i:end])), ""]
        i = end
    return out


def _docstring(app, what, name, obj, options, lines) -> None:
    lines[:] = restructured(lines)


def _signature(app, what, name, obj, options, arguments, returns):
    """Without what flax adds to a module, and types by their names."""
    if arguments is None:  # of a module
        return None
    arguments = re.sub(r"(, )?parent=<[^>]*>, name=None", "", arguments)
    return re.sub(r"<class '([\w.]+)'>", r"\1", arguments), returns


def _is_field(app, what, name, obj, skip, options):
    """Fields of a class are in its docstring, also those that hold a function."""
    function = what == "class" and "." not in getattr(obj, "__qualname__", ".")
    return True if function or type(obj).__name__ == "_tuplegetter" else None


def _elsewhere(app, env, node, content):
    """A class of another module, where one alone has the name."""
    target, domain = node.get("reftarget", ""), env.get_domain("py")
    found = [
        name
        for name, entry in domain.objects.items()
        if name.endswith("." + target) and not entry.aliased
    ]
    if node.get("refdomain") != "py" or not target[:1].isupper() or len(found) != 1:
        return None
    return domain.resolve_xref(env, node["refdoc"], app.builder, "obj", found[0], node, content)


def _front_page(app, exception) -> None:
    """index.html of the whole folder leads to the first page."""
    if exception is None and app.builder.name == "html":
        to = f'<meta http-equiv="refresh" content="0; url={root_doc}.html">\n'
        (Path(app.outdir) / "index.html").write_text(to)


def setup(app) -> None:
    app.connect("autodoc-process-docstring", _docstring)
    app.connect("autodoc-process-signature", _signature)
    app.connect("autodoc-skip-member", _is_field)
    app.connect("missing-reference", _elsewhere)
    app.connect("build-finished", _front_page)
