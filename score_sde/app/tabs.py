"""The tabs of the page, and the page itself."""

from collections.abc import Iterator
from typing import Any

import gradio as gr

from score_sde.app import choices, markup, tasks
from score_sde.app.page import (
    EVERY,
    LAST,
    QUIET,
    Page,
    all_runs,
    image_input,
    live,
    needed,
    work_tab,
)
from score_sde.data.inputs import Inputs
from score_sde.errors import UserError
from score_sde.report.memorization import to_8_bit

HEAD = (
    "<p>Score-based generative models in a folder of runs. Choose a run and a checkpoint. What you "
    "make is kept in the folder of the run.</p>"
)


def build_page(page: Page) -> gr.Blocks:
    """The page over a folder of runs."""
    with gr.Blocks(title="score_sde", analytics_enabled=False, delete_cache=(600, 600)) as blocks:
        gr.HTML(markup.block("<h1>score_sde</h1>", HEAD), elem_id="head")
        with gr.Row():
            page.run = gr.Dropdown(label="Run", elem_id="run", interactive=True)
            page.step = gr.Dropdown(
                [("newest", LAST)],
                value=LAST,
                label="Checkpoint",
                info="training steps; the averaged weights are used",
                elem_id="step",
                interactive=True,
            )
        about = gr.HTML(elem_id="about")
        with gr.Tabs():
            with gr.Tab("Runs", id="runs"):
                _runs_tab(page, blocks)
            with gr.Tab("Sample", id="sample"):
                changing = _sample_tab(page)
            with gr.Tab("Fill in", id="fill"):
                _fill_tab(page)
            with gr.Tab("Examine", id="examine"):
                _examine_tab(page)
            with gr.Tab("Reconstruct", id="reconstruct"):
                task = _reconstruct_tab(page)
            with gr.Tab("Compare", id="compare"):
                several = _compare_tab(page)

        def loaded() -> tuple[Any, Any]:
            names = page.runs.names()
            return gr.update(choices=names, value=names[0] if names else None), gr.update(
                choices=_checkpoints(page, names), value=[]
            )

        def changed(run: str) -> list[Any]:
            return _run_changed(page, run)

        blocks.load(loaded, None, [page.run, several], **QUIET)
        page.run.change(changed, page.run, [page.step, about, *changing, task], **QUIET)
    return blocks


def _checkpoints(page: Page, names: list[str]) -> list[tuple[str, str]]:
    """(label, RUN@STEP) of the checkpoints of all runs."""
    return [
        (f"{name}, step {step:,}", f"{name}@{step}")
        for name in names
        for step in reversed(page.runs.steps(name))
    ]


def _run_changed(page: Page, run: str) -> list[Any]:
    """Updates of: checkpoint, what the run is, sampler, classes, guidance, task."""
    try:
        found, steps = page.runs.about(run), page.runs.steps(run)
    except UserError as error:
        return [gr.update(), markup.error(str(error)), *[gr.update()] * 4]
    height, width, channels = found.shape
    kind = {1: "grey", 3: "colour"}.get(channels, f"{channels}-channel")
    told = f"{height} × {width} {kind} images with {found.levels} levels."
    if not steps:
        told += " It has no checkpoint yet, so nothing can be drawn."
    elif not found.continuous:
        told += " Its process is a discrete chain: no likelihoods, no latents."
    names = choices.samplers(found.continuous)
    asked = choices.tasks(channels) if found.continuous else []
    numbers = [(str(label), label) for label in range(found.classes)]
    info = "w of classifier-free guidance" if found.own else "weight of the classifier's gradient"
    return [
        gr.update(
            choices=[("newest", LAST), *((f"{s:,}", str(s)) for s in reversed(steps))], value=LAST
        ),
        markup.note(told),
        gr.update(choices=names, value=names[0][1]),
        gr.update(choices=numbers, value=[], visible=bool(found.classes)),
        gr.update(visible=bool(found.classes), info=info, value=0.0 if found.own else 1.0),
        gr.update(choices=asked, value=asked[0][1] if asked else None),
    ]


def _runs_tab(page: Page, blocks: gr.Blocks) -> None:
    gr.Markdown("All runs, the one that changed last first. Below: losses and samples of the run.")
    table = gr.HTML(elem_id="runs-table")
    shown = gr.HTML(elem_id="runs-live")

    seen = gr.State(("", ""))

    def look(run: str, before: tuple[str, str]) -> tuple[Any, Any, Any]:
        """What has changed since this page was told last."""
        rows = page.lately("runs", EVERY - 1, lambda: all_runs(page))
        found = page.lately(f"live {run}", EVERY - 1, lambda: live(page, run)) if run else ""
        told = [gr.skip() if new == old else new for new, old in zip((rows, found), before)]
        return told[0], told[1], (rows, found)

    timer, outputs = gr.Timer(EVERY), [table, shown, seen]
    blocks.load(look, [page.run, seen], outputs, **QUIET)
    timer.tick(look, [page.run, seen], outputs, **QUIET)
    page.run.change(look, [page.run, seen], outputs, **QUIET)


def _evaluations(tab: str, value: int, info: str) -> Any:
    return gr.Number(
        value,
        label="Evaluations",
        info=info,
        precision=0,
        minimum=1,
        elem_id=f"{tab}-evaluations",
        min_width=120,
    )


def _seed(tab: str) -> Any:
    return gr.Number(0, label="Seed", precision=0, minimum=0, elem_id=f"{tab}-seed", min_width=100)


def _sampler_inputs(tab: str) -> tuple[Any, Any, Any, Any]:
    """(sampler, evaluations, number, seed)."""
    with gr.Row():
        sampler = gr.Dropdown(
            choices.samplers(True), label="Sampler", elem_id=f"{tab}-sampler", min_width=220
        )
        count = _evaluations(tab, 20, "of the network, for each sample")
    with gr.Row():
        number = gr.Slider(
            choices.BATCH,
            64,
            value=choices.BATCH,
            step=choices.BATCH,
            label="Samples",
            elem_id=f"{tab}-number",
            min_width=220,
        )
        seed = _seed(tab)
    return sampler, count, number, seed


def _sample_tab(page: Page) -> list[Any]:
    gr.Markdown("Draw samples. The same seed gives the same samples, whatever else is drawn.")
    sampler, count, number, seed = _sampler_inputs("sample")
    with gr.Row():
        classes = gr.Dropdown(
            [],
            multiselect=True,
            label="Classes",
            info="of the samples, in turn; empty: as the model likes",
            elem_id="sample-classes",
            visible=False,
        )
        guidance = gr.Slider(
            0, 10, value=0, step=0.1, label="Guidance", elem_id="sample-guidance", visible=False
        )

    def begin(
        session: str, run: str, step: int | None, name: str, many: Any, *rest: Any
    ) -> Iterator[str]:
        shown, seed, classes, guidance = rest
        told = tuple(int(label) for label in classes) if classes else None
        asked = tasks.Sampling(run, step, name, many, shown, seed, told, guidance or 0.0)
        title = f"samples of {run}"
        return page.follow(session, "sample", title, lambda t: tasks.sample(page.runs, t, asked))

    def own(run: str, name: str) -> Any:
        if name != choices.OWN or not run:
            return gr.update()
        return gr.update(value=page.runs.about(run).evaluations)

    sampler.input(own, [page.run, sampler], count, **QUIET)
    inputs = [sampler, count, number, seed, classes, guidance]
    work_tab(page, "sample", "Draw samples", inputs, begin)
    return [sampler, classes, guidance]


def _copies(tab: str, evaluations: int) -> tuple[Any, Any, Any]:
    """(evaluations, copies, seed)."""
    with gr.Row():
        count = _evaluations(
            tab, evaluations, "for each sample; more follow the measurement better"
        )
        copies = gr.Slider(
            1, 8, value=4, step=1, label="Samples", elem_id=f"{tab}-copies", min_width=220
        )
        seed = _seed(tab)
    return count, copies, seed


def _fill_tab(page: Page) -> None:
    gr.Markdown("Choose an image, paint over what shall be filled in, and fill it in.")
    image = image_input(page, "fill", lambda found, levels: markup.canvas(_seen(found, levels)))
    mask = gr.Dropdown(
        [("what I painted", "painted"), *((f"{name}", name) for name in choices.MASKS)],
        value="painted",
        label="Mask",
        info="left, right, top, bottom: that half is known; the others hide a part",
        elem_id="fill-mask",
    )
    with gr.Accordion("Solver", open=False):
        solver = gr.Dropdown(
            [(label, name) for name, label in choices.FILLERS.items()],
            value="ddnm",
            label="Solver",
            info="how samples are made to agree with the known pixels",
            elem_id="fill-solver",
        )
        count, copies, seed = _copies("fill", 50)
    painted = gr.Textbox("", visible=False)

    def begin(session: str, run: str, step: int | None, *values: Any) -> Iterator[str]:
        image, mask, solver, count, copies, seed, painted = values
        found: Inputs = needed(image)
        shape = page.runs.get(run).experiment.shape
        known = markup.read_mask(painted or "", shape) if mask == "painted" else str(mask)
        if isinstance(known, str) and known not in choices.MASKS:
            raise UserError(f"mask {known!r} is not known; choose one of the list")
        asked = tasks.Filling(run, step, found, known, solver, count, copies, seed)
        title = f"filling in with {run}"
        return page.follow(session, "fill", title, lambda t: tasks.fill(page.runs, t, asked))

    work_tab(page, "fill", "Fill in", [image, mask, solver, count, copies, seed, painted], begin)


def _seen(image: Inputs, levels: int) -> Any:
    """The pixels of an image as 8-bit colour."""
    found = to_8_bit(image.values[0], levels)
    return found if found.shape[-1] == 3 else found.repeat(3, axis=-1)


def _thumb(image: Inputs, levels: int) -> str:
    seen, name = _seen(image, levels), image.names[0]
    scale = max(1, 160 // max(seen.shape[:2]))
    large = seen.repeat(scale, axis=0).repeat(scale, axis=1)
    return markup.block(markup.pixels(large, name))


def _examine_tab(page: Page) -> None:
    gr.Markdown(
        "What the model says of an image: its likelihood, its latent and back, and the training "
        "images nearest to it."
    )
    image = image_input(page, "examine", _thumb)

    def begin(session: str, run: str, step: int | None, image: Inputs | None) -> Iterator[str]:
        asked = tasks.Examining(run, step, needed(image))
        title = f"an image with {run}"
        return page.follow(session, "examine", title, lambda t: tasks.examine(page.runs, t, asked))

    work_tab(page, "examine", "Examine", [image], begin)


def _measurement() -> tuple[Any, Any, Any]:
    """(task, value of its option, noise)."""
    with gr.Row():
        task = gr.Dropdown(
            choices.tasks(1),
            label="Task",
            elem_id="reconstruct-task",
            interactive=True,
            min_width=220,
        )
        first = next(iter(choices.TASKS.values())).option
        assert first is not None
        value = gr.Slider(
            first.low,
            first.high,
            value=first.usual,
            step=1,
            label=first.label,
            elem_id="reconstruct-value",
            min_width=220,
        )
        std = gr.Slider(
            0,
            0.5,
            value=0,
            step=0.01,
            label="Noise",
            info="standard deviation, for images in [0, 1]",
            elem_id="reconstruct-std",
            min_width=220,
        )

    def asked_for(name: str | None) -> Any:
        option = choices.TASKS[name].option if name in choices.TASKS else None
        if option is None:
            return gr.update(visible=False, value=None)
        low, high = option.low, option.high
        return gr.update(
            visible=True, minimum=low, maximum=high, value=option.usual, label=option.label
        )

    task.change(asked_for, task, value, **QUIET)
    return task, value, std


def _reconstruct_tab(page: Page) -> Any:
    gr.Markdown("Measure an image incompletely, and draw images that fit the measurement.")
    image = image_input(page, "reconstruct", _thumb)
    task, value, std = _measurement()
    with gr.Accordion("Solver", open=False):
        solver = gr.Dropdown(
            [(label, name) for name, label in choices.SOLVERS.items()],
            value="ddnm",
            label="Solver",
            elem_id="reconstruct-solver",
        )
        count, copies, seed = _copies("reconstruct", 50)

    def begin(session: str, run: str, step: int | None, *values: Any) -> Iterator[str]:
        image, task, value, std, solver, count, copies, seed = values
        if not page.runs.about(run).continuous:
            raise UserError(
                "Reconstruction needs a continuous process, and this run has a discrete chain. It "
                "can fill in; for others train a *_cont recipe"
            )
        asked = tasks.Reconstructing(
            run, step, needed(image), str(task), solver, value, std, count, copies, seed
        )
        title = f"reconstruction with {run}"
        runs = page.runs
        return page.follow(session, "reconstruct", title, lambda t: tasks.restore(runs, t, asked))

    inputs = [image, task, value, std, solver, count, copies, seed]
    work_tab(page, "reconstruct", "Reconstruct", inputs, begin)
    return task


def _compare_tab(page: Page) -> Any:
    gr.Markdown(
        "Samples of several checkpoints from the same seeds, of one run or of several. So one sees "
        "what training changes."
    )
    several = gr.Dropdown(
        [],
        multiselect=True,
        label="Checkpoints",
        info=f"2 to {tasks.COMPARED}; the choices on top of the page do not matter here",
        max_choices=tasks.COMPARED,
        elem_id="compare-checkpoints",
    )
    sampler, count, number, seed = _sampler_inputs("compare")

    def begin(session: str, run: str, step: int | None, *values: Any) -> Iterator[str]:
        chosen, name, many, shown, seed = values
        pairs = [one.rpartition("@") for one in chosen or ()]
        if not all(step.isdecimal() for _, _, step in pairs):
            raise UserError(f"{chosen} are no checkpoints; choose some of the list")
        found = tuple((run, int(step)) for run, _, step in pairs)
        asked = tasks.Comparing(found, name, many, shown, seed)
        return page.follow(
            session, "compare", "a comparison", lambda t: tasks.compare(page.runs, t, asked)
        )

    work_tab(page, "compare", "Compare", [several, sampler, count, number, seed], begin)
    return several
