"""score_sde_pytorch's side of `compare.py`; run by it, in a Python that has torch.

    python benchmarks/compare_peer.py DIR SETTINGS

DIR is a checkout of https://github.com/yang-song/score_sde_pytorch. SETTINGS is JSON: which of its
configurations, what to change in it, and the batch. Its CUDA operators are not built: on CPUs it
takes its own native branch of them.
"""

import importlib
import json
import sys
from types import ModuleType
from typing import Any

import numpy as np
import torch
import torch.utils.cpp_extension
import worker


def main() -> None:
    folder, settings = sys.argv[1], json.loads(sys.argv[2])
    torch.utils.cpp_extension.load = lambda name, **_: ModuleType(name)
    sys.path.insert(0, folder)
    config = importlib.import_module(settings["config"]).get_config()
    config.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    for name, value in settings["change"].items():
        section, entry = name.split(".")
        config[section][entry] = value
    parts = Parts(config, settings["batch"])
    facts = {
        "parameters": sum(p.numel() for p in parts.model.parameters()),
        "version": f"torch {torch.__version__}",
        "device": str(config.device),
    }
    works = {name: getattr(parts, name) for name in ("step", "forward", "sample", "likelihood")}
    worker.serve(facts, works)


class Parts:
    """The model, and the works on one fixed batch of random images."""

    def __init__(self, config: Any, batch: int):
        import losses
        import sde_lib
        from models import ddpm, ncsnpp  # noqa: F401 (they register themselves)
        from models import utils as models
        from models.ema import ExponentialMovingAverage

        self.config, self.models = config, models
        self.model = models.get_model(config.model.name)(config).to(config.device)
        if config.training.sde == "vesde":
            self.sde = sde_lib.VESDE(config.model.sigma_min, config.model.sigma_max, 1000)
        else:
            self.sde = sde_lib.VPSDE(config.model.beta_min, config.model.beta_max, 1000)
        optimizer = losses.get_optimizer(config, self.model.parameters())
        ema = ExponentialMovingAverage(self.model.parameters(), config.model.ema_rate)
        self.state = {"model": self.model, "optimizer": optimizer, "ema": ema, "step": 0}
        training = config.training
        self.train = losses.get_step_fn(
            self.sde,
            train=True,
            optimize_fn=losses.optimization_manager(config),
            reduce_mean=training.reduce_mean,
            continuous=True,
            likelihood_weighting=training.likelihood_weighting,
        )
        shape = (batch, config.data.num_channels, *[config.data.image_size] * 2)
        images = np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)
        self.images = torch.tensor(images, device=config.device)
        self.labels = torch.linspace(0.1, 1, batch, device=config.device)

    def step(self) -> int:
        self.train(self.state, self.images).item()
        return 1

    def forward(self) -> int:
        self.model.eval()
        with torch.no_grad():
            self.model(self.images, self.labels).sum().item()
        return 1

    def sample(self) -> int:
        """Five steps of Euler-Maruyama or reverse diffusion, as published: one evaluation each."""
        import sampling

        sde = self.sde.__class__(*self._parameters(), 5)
        self.config.sampling.corrector = "none"
        draw = sampling.get_sampling_fn(self.config, sde, self.images.shape, lambda x: x, 1e-3)
        draw(self.model)[0].sum().item()
        return 5

    def likelihood(self) -> int:
        """SciPy's RK45 at 1e-2; counts its evaluations."""
        import likelihood

        fn = likelihood.get_likelihood_fn(self.sde, lambda x: x, rtol=1e-2, atol=1e-2)
        return int(fn(self.model, self.images)[2])

    def _parameters(self) -> tuple[float, float]:
        model, ve = self.config.model, self.config.training.sde == "vesde"
        return (model.sigma_min, model.sigma_max) if ve else (model.beta_min, model.beta_max)


if __name__ == "__main__":
    main()
