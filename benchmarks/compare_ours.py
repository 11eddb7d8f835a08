"""Our side of `compare.py`; run by it.

python benchmarks/compare_ours.py SETTINGS
"""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import jax
import jax.numpy as jnp
import numpy as np
import worker

from score_sde.arrays import sample_keys
from score_sde.build.likelihood import build_likelihood
from score_sde.build.settings import Settings
from score_sde.data import Batch
from score_sde.training import costs
from score_sde.training.loop import RUN_ONCE
from score_sde.workdir import config as configurations
from score_sde.workdir.objects import make_generator
from score_sde.workdir.run import Run


def main() -> None:
    wanted = json.loads(sys.argv[1])
    cache = wanted["cache"]
    jax.config.update("jax_enable_compilation_cache", bool(cache))
    if cache:
        jax.config.update("jax_compilation_cache_dir", cache)
    settings = configurations.override(configurations.load(wanted["config"]), wanted["change"])
    parts = Parts(settings, wanted["batch"])
    facts = {
        "parameters": costs.count(parts.state.params),
        "version": f"jax {jax.__version__}",
        "device": jax.devices()[0].device_kind,
    }
    works = {name: getattr(parts, name) for name in ("step", "forward", "sample", "likelihood")}
    worker.serve(facts, works)


class Parts:
    """The model, and the works on one fixed batch of random images."""

    def __init__(self, settings: Settings, batch: int):
        self.run, self.batch = Run.of(settings, Path("nowhere")), batch
        experiment, place, key = self.run.experiment, self.run.place, self.run.keys()["train"]
        shape, self.task, self.key = experiment.shape, experiment.task, key
        initialize = jax.jit(
            experiment.trainer.init,
            static_argnums=2,
            out_shardings=place.whole,
            compiler_options=RUN_ONCE,
        )
        self.state = initialize(self.task, key, shape)
        images = np.random.default_rng(0).uniform(-1, 1, (batch, *shape)).astype(np.float32)
        numbers = np.zeros(batch, np.int32)
        self.rows = place.put_rows(Batch(images, numbers, numbers, ()))
        self.stacked = place.put_part(jax.tree.map(lambda a: np.asarray(a)[None], self.rows), 1)
        self.labels = place.put_rows(np.linspace(0.1, 1, batch, dtype=np.float32))
        self.train = jax.jit(experiment.trainer.steps, donate_argnums=1)
        network = experiment.model.network
        self.network = jax.jit(lambda params, x, t: network.apply({"params": params}, x, t))
        self.draw: Any = None
        self.solve: Any = None

    def step(self) -> int:
        self.state, metrics = self.train(self.task, self.state, self.key, self.stacked)
        jax.block_until_ready((self.state, metrics))
        return 1

    def forward(self) -> int:
        jax.block_until_ready(self.network(self.state.params, self.rows.image, self.labels))
        return 1

    def sample(self) -> int:
        if self.draw is None:
            short = self.run.settings.change("sampling", steps=5, corrector="none", denoise="none")
            self.draw = make_generator(Run.of(short, Path("nowhere")), self.batch)
        keys = sample_keys(self.key, jnp.arange(self.batch))
        self.draw.all(self.state.params, keys, title="")
        return 5

    def likelihood(self) -> int:
        """Fixed steps of Dormand-Prince: what is compared is the cost of an evaluation."""
        if self.solve is None:
            experiment = self.run.experiment
            section = self.run.settings.eval
            ode, _ = build_likelihood(section, experiment.process, experiment.shape)
            assert ode is not None
            fixed = dataclasses.replace(ode, flow=dataclasses.replace(ode.flow, steps=3))
            fn = experiment.model.score_fn
            self.solve = jax.jit(lambda params, key, x: fixed(key, fn(params), x))
        found = jax.block_until_ready(self.solve(self.state.params, self.key, self.rows.image))
        return int(found.nfe.max())


if __name__ == "__main__":
    main()
