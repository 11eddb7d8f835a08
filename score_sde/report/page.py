"""One self-contained HTML file about a run: pictures, numbers, configuration.

It opens without a network.
"""

import base64
import dataclasses
import html
import importlib.metadata
import json
import os
import platform
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from score_sde.files import write_bytes

PACKAGES = (
    "score_sde",
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax-checkpoint",
    "diffrax",
    "grain",
    "numpy",
)
MAGIC = {b"\x89PNG\r\n\x1a\n": "image/png", b"GIF89a": "image/gif", b"GIF87a": "image/gif"}

STYLE = """
:root { color-scheme: light dark; --ink: #1d2430; --soft: #5c6675; --page: #f5f6f8; --card: #ffffff;
        --rule: #e1e5ea; --mark: #2f6fde; --chart: none; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e8ee; --soft: #98a3b3; --page: #12151a; --card: #1a1e25; --rule: #2c333d;
          --mark: #7da7f5; --chart: invert(.9) hue-rotate(180deg); } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); -webkit-text-size-adjust: 100%;
       font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { max-width: 62rem; margin: 0 auto; padding: 2.2rem 1rem 4rem; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .3rem; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin: 2.6rem 0 .8rem; }
p { margin: .5rem 0 1rem; max-width: 44rem; overflow-wrap: anywhere; }
.soft, figcaption { color: var(--soft); }
.tiles { display: grid; gap: .7rem; margin: 1.2rem 0;
         grid-template-columns: repeat(auto-fill, minmax(8.5rem, 1fr)); }
.tiles div { background: var(--card); border: 1px solid var(--rule); border-radius: .6rem;
             padding: .65rem .85rem; }
.tiles b { display: block; font-size: 1.2rem; line-height: 1.3; font-variant-numeric: tabular-nums;
           overflow-wrap: anywhere; }
.tiles span { color: var(--soft); font-size: .85rem; }
.pictures { display: grid; gap: 1rem;
            grid-template-columns: repeat(auto-fit, minmax(min(100%, 20rem), 1fr));
            align-items: start; margin: 1rem 0; }
figure { margin: 0; background: var(--card); border: 1px solid var(--rule); border-radius: .6rem;
         padding: .8rem; min-width: 0; }
figure img { display: block; max-width: 100%; height: auto; margin: 0 auto; border-radius: .25rem; }
figure img.chart { filter: var(--chart); width: 100%; }
.wide { overflow-x: auto; }
@media (max-width: 40rem) { figure img.chart { width: 28rem; max-width: none; } }
figcaption { font-size: .9rem; margin-top: .6rem; overflow-wrap: anywhere; }
.scroll { overflow-x: auto; background: var(--card); border: 1px solid var(--rule);
          border-radius: .6rem; margin: 1rem 0; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
td { padding: .45rem .85rem; border-top: 1px solid var(--rule); vertical-align: top;
     overflow-wrap: anywhere; }
tr:first-child td { border-top: 0; }
td:first-child { color: var(--soft); width: 38%; min-width: 8rem; }
pre { margin: 0; padding: .8rem .95rem; overflow-x: auto;
      font: .84rem/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
pre.wrap { white-space: pre-wrap; overflow-wrap: anywhere; }
details { background: var(--card); border: 1px solid var(--rule); border-radius: .6rem;
          margin: 1rem 0; }
summary { cursor: pointer; padding: .65rem .95rem; color: var(--mark); font-weight: 600; }
details pre { border-top: 1px solid var(--rule); }
"""


@dataclasses.dataclass
class Report:
    """A page built from top to bottom; every method appends one part and returns the report.

    All texts are escaped: nothing of a configuration, command or caption is read as HTML.

    Args:
        title: heading of the page.
        subtitle: one soft line under it.
    """

    title: str
    subtitle: str = ""
    _parts: list[str] = dataclasses.field(default_factory=list, repr=False)

    def heading(self, text: str) -> "Report":
        """A section's heading."""
        return self._add(f"<h2>{_escape(text)}</h2>")

    def text(self, text: str) -> "Report":
        """A paragraph."""
        return self._add(f"<p>{_escape(text)}</p>")

    def summary(self, numbers: Mapping[str, Any]) -> "Report":
        """The run's main numbers as tiles: name -> value; numbers are shown with four digits."""
        tiles = (
            f"<div><b>{_escape(_show(v))}</b><span>{_escape(name)}</span></div>"
            for name, v in numbers.items()
        )
        return self._add(f'<div class="tiles">{"".join(tiles)}</div>')

    def table(self, rows: Mapping[str, Any] | Iterable[tuple[str, Any]]) -> "Report":
        """Two columns: name, value; numbers are shown with four digits."""
        pairs = rows.items() if isinstance(rows, Mapping) else rows
        body = "".join(
            f"<tr><td>{_escape(name)}</td><td>{_escape(_show(v))}</td></tr>" for name, v in pairs
        )
        return self._add(f'<div class="scroll"><table>{body}</table></div>')

    def picture(self, data: bytes, caption: str, chart: bool = False) -> "Report":
        """One picture in a row of its own; see `pictures`."""
        return self.pictures((data, caption), chart=chart)

    def pictures(self, *pictures: tuple[bytes, str], chart: bool = False) -> "Report":
        """Pictures side by side where the screen is wide enough, each with its caption.

        Args:
            pictures: (bytes of a PNG or GIF file, caption).
            chart: dark ink on white, whose lightness is turned round in a dark page. Not for
                photographs.

        Raises:
            ValueError: bytes of another kind of file.
        """
        before, after = (
            ('<div class="wide"><img class="chart"', "</div>") if chart else ("<img", "")
        )
        figures = (
            f'<figure>{before} alt="{_escape(caption)}" src="{_data_url(data)}">{after}'
            f"<figcaption>{_escape(caption)}</figcaption></figure>"
            for data, caption in pictures
        )
        return self._add(f'<div class="pictures">{"".join(figures)}</div>')

    def command(self, line: str) -> "Report":
        """A command as it was typed, wrapped on narrow screens."""
        return self._add(f'<div class="scroll"><pre class="wrap">{_escape(line)}</pre></div>')

    def settings(self, settings: Mapping[str, Any], label: str = "Full configuration") -> "Report":
        """Nested settings as indented JSON behind a fold.

        Values that JSON has no name for appear as text.
        """
        text = json.dumps(dict(settings), indent=2, default=str, ensure_ascii=False)
        return self._add(
            f"<details><summary>{_escape(label)}</summary><pre>{_escape(text)}</pre></details>"
        )

    def html(self) -> str:
        """The whole page."""
        subtitle = f'<p class="soft">{_escape(self.subtitle)}</p>' if self.subtitle else ""
        return (
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f"<title>{_escape(self.title)}</title>\n<style>{STYLE}</style>\n"
            "</head>\n<body>\n<main>\n"
            f"<h1>{_escape(self.title)}</h1>\n{subtitle}\n"
            + "\n".join(self._parts)
            + "\n</main>\n</body>\n</html>\n"
        )

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the page, whole or not at all; folders are made."""
        write_bytes(Path(path), self.html().encode("utf-8"))

    def _add(self, part: str) -> "Report":
        self._parts.append(part)
        return self


def environment() -> dict[str, str]:
    """What the run ran on.

    Versions of Python and the main packages, platform, devices, CPU cores.
    """
    import jax

    kinds = [device.device_kind for device in jax.devices()]
    devices = ", ".join(f"{kinds.count(kind)} x {kind}" for kind in dict.fromkeys(kinds))
    return {
        "python": platform.python_version(),
        **{name: _version(name) for name in PACKAGES},
        "platform": f"{platform.system()} {platform.machine()}",
        "devices": f"{devices} ({jax.default_backend()})",
        "processes": str(jax.process_count()),
        "cpu cores": str(os.cpu_count() or "unknown"),
    }


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _data_url(data: bytes) -> str:
    for magic, kind in MAGIC.items():
        if data.startswith(magic):
            return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"
    raise ValueError(
        f"a picture must be the bytes of a PNG or GIF file; these begin with {data[:8]!r}"
    )


def _show(value: Any) -> str:
    """Integers with thin groups of three, floats with four significant digits, the rest as text."""
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _escape(text: str) -> str:
    return html.escape(str(text), quote=True)
