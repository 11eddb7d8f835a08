"""HTML of the page: tables, pictures, progress, and a canvas to paint a mask on.

Pictures are part of the page (data URLs), so no file of a run is ever served. All text is escaped.
"""

import base64
import html
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, UInt8

from score_sde import viz
from score_sde.app.device import Ticket
from score_sde.app.history import Entry
from score_sde.errors import UserError

STYLE = """
.gradio-container {max-width: 1100px !important; margin: 0 auto !important}
.sde table, .sde thead, .sde tbody, .sde tr {border: 0 !important}
.sde table {border-collapse: collapse; width: auto; min-width: 40%; font-size: 14px;
  margin: 4px 0 10px !important}
.sde th, .sde td {text-align: left; padding: 5px 20px 5px 0 !important; vertical-align: top;
  border: 0 !important; border-bottom: 1px solid var(--border-color-primary) !important}
.sde .wide {overflow-x: auto}
.sde .wide td, .sde .wide th {white-space: nowrap}
.sde figure {margin: 0 0 16px}
.sde figure img {max-width: min(100%, 560px); image-rendering: pixelated; border-radius: 4px;
  display: block}
.sde figure img.smooth {max-width: min(100%, 700px); image-rendering: auto}
@media (min-width: 900px) {  /* side by side */
  .sde figure:not(:has(img.smooth)) {display: inline-block; vertical-align: top;
    width: calc(50% - 20px); margin-right: 16px}
}
.sde figcaption, .sde .soft {color: var(--body-text-color); opacity: 0.75; font-size: 14px}
.sde progress {width: min(100%, 560px); height: 12px; accent-color: var(--color-accent)}
.sde .error {border-left: 4px solid #c2410c; padding: 6px 12px; white-space: pre-wrap;
  overflow-wrap: anywhere; background: color-mix(in srgb, #c2410c 9%, transparent)}
.sde summary {cursor: pointer; padding: 6px 0; font-size: 14px; overflow-wrap: anywhere}
.sde canvas {width: min(100%, 320px); image-rendering: pixelated; touch-action: none;
  cursor: crosshair; background-size: 100% 100%; border: 1px solid var(--border-color-primary)}
.sde .tools {display: flex; gap: 16px; align-items: center; flex-wrap: wrap; margin: 6px 0}
.sde .tools button {text-decoration: underline; font-size: 14px}
.sde h1 {font-size: 26px; margin: 0 0 4px}
.level {align-items: flex-end}
@media (max-width: 640px) {
  .sde .later {display: none}
  .sde th, .sde td {padding-right: 12px !important}
  .sde .wide, .sde figure {max-width: calc(100vw - 90px)}
}
"""
SCRIPT = """<script>
(() => {
  let last = null;
  const at = (c, e) => {
    const r = c.getBoundingClientRect();
    return [(e.clientX - r.left) * c.width / r.width, (e.clientY - r.top) * c.height / r.height];
  };
  const paint = (c, e) => {
    const p = at(c, e), from = last || p, g = c.getContext('2d');
    const slider = c.closest('.sde').querySelector('.brush');
    const size = slider ? Number(slider.value) : 1;
    const far = Math.max(1, Math.ceil(2 * Math.hypot(p[0] - from[0], p[1] - from[1])));
    g.fillStyle = '#e11d48';
    for (let i = 0; i <= far; i++) {
      const x = from[0] + (p[0] - from[0]) * i / far, y = from[1] + (p[1] - from[1]) * i / far;
      g.fillRect(Math.floor(x - (size - 1) / 2), Math.floor(y - (size - 1) / 2), size, size);
    }
    last = p;
  };
  addEventListener('pointerdown', e => {
    if (!e.target.matches || !e.target.matches('canvas.paint')) return;
    e.target.setPointerCapture(e.pointerId); last = null; paint(e.target, e);
  });
  addEventListener('pointermove', e => {
    if (e.buttons && e.target.matches && e.target.matches('canvas.paint')) paint(e.target, e);
  });
  addEventListener('pointerup', () => { last = null; });
  addEventListener('click', e => {
    if (!e.target.matches || !e.target.matches('.sde .clear')) return;
    const c = e.target.closest('.sde').querySelector('canvas');
    c.getContext('2d').clearRect(0, 0, c.width, c.height);
  });
  window.paintedMask = () => {
    const c = document.querySelector('canvas.paint');
    if (!c) return '';
    const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;
    let text = '';
    for (let i = 3; i < d.length; i += 4) text += d[i] ? '0' : '1';
    return text;
  };
})();
</script>"""
"""Paints on any canvas of class `paint`, and reads it: 1 for a known pixel, 0 for a hidden one."""


def block(*parts: str) -> str:
    """Parts below each other, in the style of the page."""
    return f'<div class="sde">{"".join(parts)}</div>'


def error(text: str) -> str:
    """What went wrong, for the user."""
    return block(f'<div class="error" role="alert">{html.escape(text)}</div>')


def note(text: str) -> str:
    """A sentence in a soft colour."""
    return block(f'<p class="soft">{html.escape(text)}</p>')


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], later: Sequence[int] = ()) -> str:
    """A table that scrolls sideways; columns `later` are left out on a phone."""

    def line(cells: Sequence[str], kind: str) -> str:
        shown = [
            f"<{kind}{' class=later' if i in later else ''}>{html.escape(cell)}</{kind}>"
            for i, cell in enumerate(cells)
        ]
        return f"<tr>{''.join(shown)}</tr>"

    body = "".join(line(row, "td") for row in rows)
    return f'<div class="wide"><table><thead>{line(heads, "th")}</thead>{body}</table></div>'


def facts(rows: Sequence[tuple[str, str]]) -> str:
    """Names and values, a line each."""
    cells = [f"<tr><th>{html.escape(n)}</th><td>{html.escape(v)}</td></tr>" for n, v in rows]
    return f"<table>{''.join(cells)}</table>" if rows else ""


def png(data: bytes, caption: str, smooth: bool = False) -> str:
    """A PNG file as a part of the page."""
    source = f"data:image/png;base64,{base64.b64encode(data).decode()}"
    kind = ' class="smooth"' if smooth else ""
    told = html.escape(caption)
    return (
        f'<figure><img{kind} src="{source}" alt="{html.escape(caption, quote=True)}">'
        f"<figcaption>{told}</figcaption></figure>"
    )


def pixels(image: UInt8[np.ndarray, "h w 3"], caption: str) -> str:
    """Pixels as a part of the page."""
    return png(viz.png_bytes(image), caption)


def under_way(ticket: Ticket, ahead: int) -> str:
    """Where a piece of work stands."""
    if ticket.state == "waiting":
        what = "1 piece of work goes" if ahead == 1 else f"{ahead} pieces of work go"
        return f'<p class="soft">Waiting: {what} first.</p><progress></progress>'
    found = ticket.progress
    if ticket.stopping:
        return '<p class="soft">Stopping after the part that is computed now.</p>'
    if found is None or not found.done:
        told = "Working. With new settings the program is compiled first, which takes a while."
        return f'<p class="soft">{told}</p><progress></progress>'
    name = html.escape(f"{found.title}: " if found.title else "")
    many = found.unit if found.total == 1 else f"{found.unit}s"
    return (
        f'<p class="soft">{name}{found.done:,} of {found.total:,} {html.escape(many)}</p>'
        f'<progress value="{found.done}" max="{found.total}"></progress>'
    )


def looked(ticket: Ticket) -> str:
    """The picture of what a piece of work has so far."""
    picture = ticket.look() if ticket.look else None
    return "" if picture is None else png(picture, "On the way from noise to samples")


def entry(made: Entry) -> str:
    """What was made: numbers and pictures."""
    if not made.finished:
        return '<p class="soft">It was not finished: do it again with these settings.</p>'
    parts = []
    for picture in made.pictures:
        try:
            parts.append(png(made.path(picture).read_bytes(), picture.caption))
        except (OSError, UserError):
            parts.append(f'<p class="soft">{html.escape(picture.file)} is not there.</p>')
    return facts(made.told) + "".join(parts)


def past(entries: Sequence[Entry], title: str) -> str:
    """Entries of the history, the newest first, each behind its line."""
    if not entries:
        return ""
    lines = [
        f"<details><summary>{html.escape(f'{one.at[:16]} · {one.title}')}"
        f"{'' if one.finished else ' (not finished)'}</summary>{entry(one)}</details>"
        for one in entries
    ]
    return block(f"<h3>{html.escape(title)}</h3>", *lines)


def canvas(image: UInt8[np.ndarray, "h w 3"]) -> str:
    """An image to paint on."""
    height, width, _ = image.shape
    source = base64.b64encode(viz.png_bytes(image)).decode()
    most = max(1, max(height, width) // 4)
    usual = max(1, max(height, width) // 12)
    return block(
        f'<canvas class="paint" width="{width}" height="{height}" aria-label="Paint the mask" '
        f"style=\"background-image: url('data:image/png;base64,{source}'); "
        f'aspect-ratio: {width} / {height}"></canvas>',
        '<div class="tools"><label>brush <input class="brush" type="range" min="1" '
        f'max="{most}" value="{usual}"></label><button class="clear">clear the mask</button></div>',
    )


def read_mask(text: str, shape: tuple[int, int, int]) -> Bool[np.ndarray, "h w"]:
    """What `SCRIPT` says of a canvas: True where a pixel is known.

    Raises:
        UserError: it is of another size, or nothing is painted, or everything.
    """
    height, width, _ = shape
    if len(text) != height * width or set(text) - {"0", "1"}:
        raise UserError(
            f"the mask has not the size of the image, {height} x {width}; choose the image again"
        )
    known = (np.frombuffer(text.encode(), np.uint8) == ord("1")).reshape(height, width)
    if known.all() or not known.any():
        what = "Nothing is painted" if known.all() else "Everything is painted"
        raise UserError(f"{what}: paint over a part of the image, or choose a mask by its name")
    return known
