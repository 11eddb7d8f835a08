"""The page: the run and its checkpoint on top, a tab for each thing that can be done."""

import dataclasses
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from score_sde import viz
from score_sde.app import history, markup, tasks
from score_sde.app.device import Device, Ticket
from score_sde.app.runs import Runs
from score_sde.data.inputs import Inputs
from score_sde.errors import UserError
from score_sde.workdir.listing import HEADS, list_rows
from score_sde.workdir.run import Run

LAST = "last"
"""The choice of the newest checkpoint, whichever it is."""
EVERY = 5.0
"""Seconds between two looks at runs that are training."""
LOOK = 0.3
"""Seconds between two looks at a piece of work."""
PAST = 12
"""Entries of the history in a tab."""
NO_IMAGE = "No image yet: upload one, or take a held-out image of the run's data."
MASK = "(...values) => { values[values.length - 1] = window.paintedMask(); return values; }"
QUIET: dict[str, Any] = {
    "show_progress": "hidden",
    "concurrency_limit": 20,
    "api_visibility": "private",
}
"""For all events: waiting is shown by the page itself, and the device has a queue of its own."""


@dataclasses.dataclass(eq=False)
class Page:
    """What all tabs share.

    runs: the folder of runs. device: the queue of all users. run, step: the choices on top of the
    page. tickets: the newest piece of work of each session and tab.
    """

    runs: Runs
    device: Device
    run: Any = None
    step: Any = None
    tickets: dict[tuple[str, str], Ticket] = dataclasses.field(default_factory=dict)
    drawing: Any = dataclasses.field(default_factory=threading.Lock)
    kept: dict[str, tuple[float, Any]] = dataclasses.field(default_factory=dict)

    def follow(
        self, session: str | None, tab: str, title: str, work: Callable[[Ticket], Any]
    ) -> Iterator[str]:
        """Queue a piece of work, and tell in HTML how far it is, in the end what came out."""
        ticket = self.device.submit(title, work)
        key = (str(session), tab)
        self.tickets[key] = ticket
        shown = ""
        try:
            while not ticket.ended.wait(LOOK):
                told = markup.under_way(ticket, self.device.ahead(ticket))
                found = markup.block(told, markup.looked(ticket))
                if found != shown:
                    yield found
                shown = found
        finally:  # a closed page leaves its work to the history
            if self.tickets.get(key) is ticket:
                del self.tickets[key]
        if ticket.state == "failed":
            yield markup.error(ticket.error)
        elif ticket.state == "stopped":
            yield markup.note("Stopped. Nothing of it was kept.")
        else:
            yield markup.block(markup.entry(ticket.result))

    def stop(self, session: str | None, tab: str) -> None:
        """Stop the newest piece of work of a session in a tab."""
        if ticket := self.tickets.get((str(session), tab)):
            ticket.cancel()

    def past(self, run: str, kind: str) -> str:
        """The history of a run in HTML."""
        try:
            found = history.entries(self.runs.folder(run), kind, PAST)
        except UserError as error:
            return markup.error(str(error))
        return markup.past(found, "Made before with this run")

    def lately(self, key: str, seconds: float, make: Callable[[], Any]) -> Any:
        """What `make` gives, made at most once in so many seconds for all users."""
        with self.drawing:
            at, found = self.kept.get(key, (-1e9, None))
            if time.monotonic() - at > seconds:
                found = make()
                self.kept[key] = time.monotonic(), found
            return found


def step_of(chosen: str) -> int | None:
    """The checkpoint of a choice; None is the newest one.

    Raises:
        UserError: it is no step.
    """
    if chosen == LAST or not chosen:
        return None
    if not str(chosen).isdecimal():
        raise UserError(f"checkpoint {chosen!r} is no step; choose one of the list")
    return int(chosen)


def work_tab(
    page: Page, tab: str, label: str, inputs: list[Any], begin: Callable[..., Iterator[str]]
) -> None:
    """The buttons of a tab, what it tells, and the history of its kind below.

    `begin` (session, run, step, *values of `inputs`) makes HTML, one after another. Errors of the
    user become sentences there.
    """
    with gr.Row():
        start = gr.Button(label, variant="primary", elem_id=f"{tab}-start", min_width=120)
        stop = gr.Button("Stop", elem_id=f"{tab}-stop", min_width=80, scale=0)
    result = gr.HTML(elem_id=f"{tab}-result")
    past = gr.HTML(elem_id=f"{tab}-past")

    def started(request: gr.Request, run: str, step: str, *values: Any) -> Iterator[str]:
        try:
            yield from begin(request.session_hash, run, step_of(step), *values)
        except UserError as error:
            yield markup.error(str(error))

    def stopped(request: gr.Request) -> None:
        page.stop(request.session_hash, tab)

    def told(run: str) -> str:
        return page.past(run, tab)

    # the mask is read off its canvas, as the last of all values
    script = MASK if tab == "fill" else None
    event = start.click(started, [page.run, page.step, *inputs], result, js=script, **QUIET)
    event.then(told, page.run, past, **QUIET)
    stop.click(stopped, None, None, **QUIET)
    page.run.change(told, page.run, past, **QUIET)


def image_input(page: Page, tab: str, show: Callable[[Inputs, int], str]) -> Any:
    """Where an image comes from: a file, or a held-out image by its number. The chosen one."""
    chosen = gr.State(None)
    with gr.Row(elem_classes="level"):
        upload = gr.UploadButton(
            "Upload an image", type="filepath", elem_id=f"{tab}-upload", min_width=140
        )
        number = gr.Number(
            0, label="Held-out image number", precision=0, minimum=0, elem_id=f"{tab}-number"
        )
        take = gr.Button("Take", elem_id=f"{tab}-take", min_width=90, scale=0)
    shown = gr.HTML(markup.note(NO_IMAGE), elem_id=f"{tab}-image")

    def answer(run: str, choose: Callable[[Run], Inputs]) -> tuple[Any, str]:
        try:
            found = page.runs.get(run)
            image = choose(found)
            return image, show(image, found.experiment.pixel_range.levels)
        except UserError as error:
            return None, markup.error(str(error))

    def uploaded(run: str, path: str | None) -> tuple[Any, str]:
        if not path:
            return None, markup.note(NO_IMAGE)
        return answer(run, lambda found: tasks.choose_image(found, Path(path)))

    def taken(run: str, number: Any) -> tuple[Any, str]:
        return answer(run, lambda found: tasks.heldout_image(found, number))

    upload.upload(uploaded, [page.run, upload], [chosen, shown], **QUIET)
    take.click(taken, [page.run, number], [chosen, shown], **QUIET)
    page.run.change(lambda: (None, markup.note(NO_IMAGE)), None, [chosen, shown], **QUIET)
    return chosen


def needed(image: Inputs | None) -> Inputs:
    """The chosen image.

    Raises:
        UserError: there is none.
    """
    if image is None:
        raise UserError("No image is chosen. Upload one, or take a held-out image")
    return image


def live(page: Page, run: str) -> str:
    """Losses and the newest samples of a run."""
    try:
        folder = page.runs.folder(run)
        log = folder / "metrics.jsonl"
        parts = []
        if log.exists() and (rows := viz.read_metrics(log)):
            told = "Training loss, and held-out loss of the averaged weights"
            parts.append(markup.png(viz.loss_curves(rows), told, smooth=True))
        drawn = sorted(
            (folder / "samples").glob("training_*.png"), key=lambda path: path.stat().st_mtime
        )
        if drawn:
            step = drawn[-1].stem.removeprefix("training_")
            parts.append(markup.png(drawn[-1].read_bytes(), f"Samples in training, step {step}"))
        return markup.block(*parts) if parts else markup.note("This run has no log of training.")
    except UserError as error:
        return markup.error(str(error))


def all_runs(page: Page) -> str:
    """The table of runs."""
    rows = [row.cells for row in list_rows(page.runs.root)]
    if not rows:
        return markup.note(f"There is no run in {page.runs.root}. Train one, and it shows here.")
    return markup.block(markup.table(HEADS, rows, later=(1, 5, 6, 7)))
