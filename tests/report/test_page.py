"""The report: nothing from outside, nothing unescaped, the very pictures that were given."""

import base64
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from score_sde.report.page import Report, environment
from score_sde.viz.animation import save_animation
from score_sde.viz.grid import image_grid, png_bytes

NASTY = '<script>alert("1 & 2")</script>'
VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """Checks that every element is closed in order.

    Collects tags with attributes, and texts by tag.
    """

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
            self.texts.setdefault(tag, []).append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open:
            self.texts[self.open[-1]][-1] += data


def picture() -> bytes:
    return png_bytes(image_grid(np.random.default_rng(0).random((4, 8, 8, 3)), scale=1))


def full_report(tmp_path: Path) -> tuple[Page, str, list[bytes]]:
    save_animation(tmp_path / "a.gif", np.random.default_rng(1).random((3, 2, 4, 4, 1)))
    images = [picture(), (tmp_path / "a.gif").read_bytes()]
    report = Report(f"Title {NASTY}", f"Subtitle {NASTY}").summary(
        {"steps": 12000, f"loss {NASTY}": 0.123456789}
    )
    report.heading(f"Heading {NASTY}").text(f"Text {NASTY}").pictures(
        (images[0], f"One {NASTY}"), (images[1], "Two")
    )
    report.picture(images[0], "Three", chart=True)
    report.table({"name": NASTY, "flag": True}).command(f"python main.py {NASTY}")
    report.settings({"data": {"path": NASTY, "levels": 17}, "tuple": (1, 2), "odd": {1}})
    report.write(tmp_path / "run" / "report.html")
    text = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    return Page(text), text, [*images, images[0]]


def test_pictures_decode_to_the_same_bytes(tmp_path: Path) -> None:
    page, _, images = full_report(tmp_path)
    sources = [attrs["src"] or "" for tag, attrs in page.tags if tag == "img"]
    assert [source.split(";")[0] for source in sources] == [
        "data:image/png",
        "data:image/gif",
        "data:image/png",
    ]
    assert [
        base64.b64decode(source.split("base64,")[1], validate=True) for source in sources
    ] == images
    assert [attrs.get("class") for tag, attrs in page.tags if tag == "img"] == [None, None, "chart"]


def test_nothing_comes_from_outside(tmp_path: Path) -> None:
    page, text, _ = full_report(tmp_path)
    without_pictures = re.sub(r"base64,[A-Za-z0-9+/=]+", "", text)
    assert not re.search(
        r"http|//|url\(|@import|<link|<script|<iframe|javascript:", without_pictures
    )
    assert {tag for tag, _ in page.tags}.isdisjoint(
        {"script", "link", "iframe", "object", "a", "base"}
    )
    assert all(
        (attrs.get("src") or "data:").startswith("data:") and "href" not in attrs
        for _, attrs in page.tags
    )


def test_all_texts_are_escaped_and_come_back(tmp_path: Path) -> None:
    page, text, _ = full_report(tmp_path)
    assert "<script" not in text
    assert page.texts["title"] == page.texts["h1"] == [f"Title {NASTY}"]
    assert page.texts["h2"] == [f"Heading {NASTY}"]
    assert page.texts["p"] == [f"Subtitle {NASTY}", f"Text {NASTY}"]
    assert page.texts["figcaption"] == [f"One {NASTY}", "Two", "Three"]
    assert [attrs["alt"] for tag, attrs in page.tags if tag == "img"] == page.texts["figcaption"]
    assert page.texts["td"] == ["name", NASTY, "flag", "True"]
    assert page.texts["b"] == ["12,000", "0.1235"]
    command, config = page.texts["pre"]
    assert command == f"python main.py {NASTY}"
    assert json.loads(config) == {
        "data": {"path": NASTY, "levels": 17},
        "tuple": [1, 2],
        "odd": "{1}",
    }


def test_page_fits_phones_and_dark_screens() -> None:
    page = Page(Report("a").html())
    assert (
        "meta",
        {"name": "viewport", "content": "width=device-width, initial-scale=1"},
    ) in page.tags
    style = page.texts["style"][0]
    assert "prefers-color-scheme: dark" in style
    assert style.count("{") == style.count("}")
    used = set(re.findall(r"var\((--\w+)\)", style))
    assert used == set(re.findall(r"(--\w+):", style))


def test_other_files_are_no_pictures() -> None:
    with pytest.raises(ValueError, match="PNG or GIF"):
        Report("a").picture(b"<svg></svg>", "caption")


def test_environment_names_versions_and_devices() -> None:
    import jax

    found = environment()
    assert found["jax"] == jax.__version__
    assert found["devices"] == f"{jax.device_count()} x {jax.devices()[0].device_kind} (cpu)"
    assert {"python", "flax", "score_sde", "numpy", "platform", "cpu cores"} <= set(found)
