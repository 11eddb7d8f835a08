"""Quality of samples against the number of evaluations, for every sampler on one trained model.

    python benchmarks/quality.py --workdir runs/demo [--evaluations 5,8,10,20,40] [--samples 500]

For each sampler and number: the Frechet distance to the training images, by the run's extractor,
and for those without noise the distance of an image to what 400 steps make of the same latent. The
sampler of the run, with its steps, is measured with several seeds. Table, JSON line and picture.
What each number means: README.md.
"""

import dataclasses
import json
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags, logging

from score_sde import tuning
from score_sde.arrays import sample_keys
from score_sde.build.settings import Sampling
from score_sde.errors import UserError
from score_sde.modes.tune_steps import FINE
from score_sde.parallel.features import Images
from score_sde.viz.histogram import figure_png, new_figure
from score_sde.workdir import config as configurations
from score_sde.workdir.objects import make_generator
from score_sde.workdir.quality import Quality, make_quality
from score_sde.workdir.run import Run

FLAGS = flags.FLAGS
SAMPLERS: dict[str, dict[str, Any]] = {
    "ddim": {"predictor": "ddim"},
    "heun": {"predictor": "heun"},
    "dpm_2": {"predictor": "dpm_2"},
    "lms": {"predictor": "lms"},
    "deis": {"predictor": "deis"},
    "ipndm": {"predictor": "ipndm"},
    "dpm_solver": {"predictor": "dpm_solver"},
    "dpmpp_2s": {"predictor": "dpmpp_2s"},
    "dpmpp_2m": {"predictor": "dpmpp_2m"},
    "dpmpp_3m": {"predictor": "dpmpp_3m"},
    "unipc": {"predictor": "unipc"},
    "euler_ancestral": {"predictor": "euler_ancestral"},
    "dpmpp_sde": {"predictor": "dpmpp_sde"},
    "dpmpp_2m_sde": {"predictor": "dpmpp_2m_sde"},
    "dpmpp_3m_sde": {"predictor": "dpmpp_3m_sde"},
    "reverse_diffusion": {"predictor": "reverse_diffusion"},
}
YTICKS = [2, 5, 10, 20, 50, 100, 200]
flags.DEFINE_string("workdir", None, "Working directory of a trained model.", required=True)
flags.DEFINE_list("evaluations", ["5", "8", "10", "20", "40"], "Numbers of evaluations.")
flags.DEFINE_list("samplers", list(SAMPLERS), "Samplers to measure.")
flags.DEFINE_list("grids", ["log_snr", "karras"], "Grids to measure each with.")
flags.DEFINE_integer("samples", 500, "Samples of each.", lower_bound=2)
flags.DEFINE_integer("seeds", 3, "Seeds of the run's own sampler; 0 leaves it out.", lower_bound=0)
flags.DEFINE_integer("own_steps", 0, "Steps of that; 0: the run's own.", lower_bound=0)
flags.DEFINE_string("picture", "quality.png", "File of the picture.")


@dataclasses.dataclass(frozen=True)
class Bench:
    """The model, what its samples are compared with, and latents with their exact images."""

    run: Run
    params: Any
    quality: Quality
    z: Any
    exact: Any

    @classmethod
    def of(cls, folder: Path) -> "Bench":
        """Of a trained run."""
        run = Run.of(configurations.load_json(folder / "config.json"), folder)
        params, _ = run.weights()
        keys = sample_keys(jax.random.key(7), jnp.arange(100))
        z = run.experiment.process.prior_sample(keys, (100, *run.experiment.shape))
        bench = cls(run, params, make_quality(run, ["fid"]), z, None)
        fine = bench.changed({**FINE, "predictor": "dpmpp_3m"})
        return dataclasses.replace(bench, exact=bench.solved(fine))

    def changed(self, sampling: dict[str, Any]) -> Run:
        """The run with another sampler."""
        own = self.run.settings.sampling
        usual = {"t_end": own.t_end, "batch_size": 100, "num_samples": FLAGS.samples, "frames": 0}
        section = dataclasses.replace(Sampling(), **(usual | sampling))
        settings = dataclasses.replace(self.run.settings, sampling=section)
        return Run.of(settings, self.run.folder)

    def solved(self, run: Run) -> Any:
        """What its sampler makes of the latents."""
        sampler = run.experiment.sampler
        score_fn = run.experiment.model.score_fn

        def solve(params, z, times):
            return tuning.solve(sampler, score_fn(params), z, times)

        return jax.jit(solve)(self.params, self.z, jnp.asarray(sampler.times, jnp.float32))

    def with_evaluations(self, sampling: dict[str, Any], count: int) -> Run | None:
        """The sampler with the most steps that make at most `count` evaluations; None: no step."""
        for steps in range(count, 0, -1):
            run = self.changed(sampling | {"steps": steps})
            if run.experiment.sampler.evaluations <= count:
                return run
        return None

    def distance(self, run: Run, seed: int = 0) -> float:
        """Frechet distance of samples."""
        draw, pixels = make_generator(run, 100), run.experiment.pixel_range
        keys = sample_keys(jax.random.key(seed), jnp.arange(FLAGS.samples))
        images = draw.all(self.params, keys, title="")
        if not np.isfinite(images).all():
            return float("nan")
        levels = np.asarray(pixels.decode(images), np.int64)
        unit = np.round(levels * 255 / (pixels.levels - 1)).astype(np.uint8)
        about = {"data": "samples", "images": len(unit), "shape": list(run.experiment.shape)}
        measured, _ = self.quality.of(Images(unit.__getitem__, len(unit), about), "")
        return measured["fid"]["value"]

    def measure(self, run: Run) -> dict[str, float]:
        """Frechet distance, error (nan with noise) and evaluations."""
        start, fid = time.perf_counter(), self.distance(run)
        seconds = time.perf_counter() - start
        error = float("nan")
        if not run.experiment.sampler.stepper.draws:
            error = float(tuning.distance(self.solved(run), self.exact))
        evaluations = run.experiment.sampler.evaluations
        return {"fid": fid, "error": error, "evaluations": evaluations, "seconds": seconds}


def main(argv: list[str]) -> None:
    """Print a line for each sampler and number, draw the picture."""
    del argv
    logging.set_verbosity(logging.WARNING)  # Orbax tells a great deal
    bench, values = Bench.of(Path(FLAGS.workdir)), {}
    own = [bench.distance(bench.changed(_own(bench)), seed) for seed in range(FLAGS.seeds)]
    if own:
        count = bench.changed(_own(bench)).experiment.sampler.evaluations
        print(f"the run's own, {count} evaluations: " + ", ".join(f"{fid:.2f}" for fid in own))
    for name in FLAGS.samplers:
        for grid in FLAGS.grids:
            for count in map(int, FLAGS.evaluations):
                run = bench.with_evaluations(SAMPLERS[name] | {"grid": grid}, count)
                if run is None:
                    continue
                found = values[f"{name}, {grid}, {count}"] = bench.measure(run)
                text = f"FID {found['fid']:8.2f}, error {found['error']:.4f}"
                print(f"{name:18} {grid:9} {count:4} evaluations: {text}", flush=True)
    _draw(values, own)
    print(json.dumps({"own": own, "samples": FLAGS.samples, "values": values}))


def _own(bench: Bench) -> dict[str, Any]:
    own = dataclasses.asdict(bench.run.settings.sampling) | {"batch_size": 100, "frames": 0}
    return own | ({"steps": FLAGS.own_steps} if FLAGS.own_steps else {})


def _draw(values: dict[str, dict[str, float]], own: list[float]) -> None:
    figure, axes = new_figure()
    for number, name in enumerate(FLAGS.samplers):
        best: dict[int, float] = {}
        for label, found in values.items():
            if label.startswith(f"{name}, ") and np.isfinite(found["fid"]):
                count = int(found["evaluations"])
                best[count] = min(best.get(count, np.inf), found["fid"])
        counts = sorted(best)
        look = {"marker": "os^"[number // 10 % 3], "linestyle": ("-", "--", ":")[number // 10 % 3]}
        axes.plot(counts, [best[count] for count in counts], label=name, lw=1, **look)
    if own:
        axes.axhspan(min(own), max(own), color="0.8", label="the run's own sampler")
    axes.set(xlabel="evaluations", ylabel="Frechet distance", xscale="log", yscale="log")
    axes.set_ylim(top=200)  # what is above is of no use
    for axis, ticks in ((axes.xaxis, [int(n) for n in FLAGS.evaluations]), (axes.yaxis, YTICKS)):
        axis.set_ticks(ticks, [f"{tick:g}" for tick in ticks])
        axis.set_ticks([], minor=True)
    axes.legend(fontsize=7, ncol=2)
    Path(FLAGS.picture).write_bytes(figure_png(figure))


if __name__ == "__main__":
    try:
        app.run(main)
    except UserError as error:
        sys.exit(f"error: {error}")
