"""Variational and Wasserstein auto-encoders whose codes have no density (table 3.2).

The dissertation's section 3.6.2 with the networks of table B.5. An implicit encoder makes codes z
from an image and noise. Training needs the gradient of the codes' entropy, and takes it from their
score, which is learned by sliced score matching (ssm) or estimated by a kernel (stein, spectral).
A VAE minimizes, with q(z | x) the distribution of the codes of an image,

    E[-log p(x | z) - log p(z) + log q(z | x)].

A WAE minimizes E|x - decoder(z)|^2 + 10 E[-log p(z) + log q(z)], where q(z) is the distribution of
the codes of all images; its encoder takes no noise. `elbo` is the usual VAE with Gaussian codes.
From the repository root:

    python examples/implicit_vae.py --mnist FOLDER [--steps 10000] [--methods elbo,ssm,stein]
    python examples/implicit_vae.py --mnist FOLDER --wae

print -log p(x) of test images by annealed importance sampling, beside the published numbers, and
draw decoded samples. FOLDER has the idx files of MNIST; without it the embedded 8 x 8 digits are
used. `--quick` shows that the programs run. Published: --steps 100000 --codes 100 --temperatures
1000 --chains 16, and all test images. A WAE's decoder is trained on squared error and rated by the
likelihood of binary pixels whose means it gives, as the published ones.
"""

import argparse
import dataclasses
import gzip
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from score_sde.estimators import SpectralEstimator, SteinEstimator, entropy_surrogate
from score_sde.likelihood import AnnealedImportanceSampling
from score_sde.networks import TanhMLP
from score_sde.objectives import SlicedScoreMatching
from score_sde.viz import image_grid

PUBLISHED = {
    False: {"elbo": (96.87, 89.06), "ssm": (95.5, 89.25), "stein": (96.71, 91.84)}
    | {"spectral": (96.6, 94.67)},
    True: {"ssm": (98.24, 90.37), "stein": (99.05, 91.7), "spectral": (98.81, 92.55)},
}
"""Is it a WAE: {method: -log p(x) in nats with 8 and with 32 latent dimensions}, table 3.2."""
KERNELS = {"stein": SteinEstimator(), "spectral": SpectralEstimator()}
RMSPROP = optax.rmsprop(1e-3, decay=0.99, eps_in_sqrt=False)
Params = dict[str, Any]
Loss = Callable[[Params, jax.Array, jax.Array], jax.Array]
"""(params, key, x) -> loss of each image."""


@dataclasses.dataclass(frozen=True)
class Model:
    """Networks, and what training minimizes: distortion + weight * KL(q | p).

    Args:
        encoder: of (x, noise), of x alone where `noisy` is False; for `elbo` its outputs are means
            and log-deviations of Gaussian codes.
        decoder: of z.
        score: of (z, x), or of z alone for the codes of all images.
        distortion: (decoder's output, x) -> (batch,).
        latent: dimensions of z and of the noise.
        aggregated: is q the distribution of the codes of all images, or those of each.
        noisy: does the encoder take noise.
        weight: of the divergence.
    """

    encoder: nn.Module
    decoder: nn.Module
    score: nn.Module
    distortion: Callable[[jax.Array, jax.Array], jax.Array]
    latent: int
    aggregated: bool = False
    noisy: bool = True
    weight: float = 1.0

    def init(self, key: jax.Array, pixels: int) -> Params:
        """Fresh weights of all three networks."""
        keys = jax.random.split(key, 3)
        x, z = jnp.zeros((1, pixels)), jnp.zeros((1, self.latent))
        inputs = {
            "encoder": (x, z) if self.noisy else (x,),
            "decoder": (z,),
            "score": (z,) if self.aggregated else (z, x),
        }
        return {
            name: getattr(self, name).init(key, *given)["params"]
            for key, (name, given) in zip(keys, inputs.items(), strict=True)
        }

    def apply(self, name: str, params: Params, *inputs: jax.Array) -> jax.Array:
        """What one of the networks makes of its inputs."""
        return getattr(self, name).apply({"params": params[name]}, *inputs)

    def codes(self, params: Params, key: jax.Array, x: jax.Array, n: int) -> jax.Array:
        """(batch, n, latent) codes, n of each image."""
        if not self.noisy:
            return self.apply("encoder", params, x)[:, None]
        noise = jax.random.normal(key, (len(x), n, self.latent), x.dtype)
        return self.apply("encoder", params, x[:, None], noise)


def binary_distortion(logits: jax.Array, x: jax.Array) -> jax.Array:
    """-log p(x | z) of binary pixels with these log-odds."""
    return jnp.sum(jax.nn.softplus(logits) - x * logits, axis=-1)


def squared_distortion(logits: jax.Array, x: jax.Array) -> jax.Array:
    """|x - sigmoid(logits)|^2."""
    return jnp.sum((x - jax.nn.sigmoid(logits)) ** 2, axis=-1)


def elbo(model: Model) -> Loss:
    """The negative evidence lower bound of Gaussian codes, whose divergence is known."""

    def losses(params, key, x):
        mean, log_std = jnp.split(model.apply("encoder", params, x), 2, axis=-1)
        z = mean + jnp.exp(log_std) * jax.random.normal(key, mean.shape, mean.dtype)
        kl = jnp.sum(0.5 * (mean**2 + jnp.exp(2 * log_std) - 1) - log_std, axis=1)
        return model.distortion(model.apply("decoder", params, z), x) + model.weight * kl

    return losses


def implicit(model: Model, estimate: Callable, codes: int = 1) -> Loss:
    """A loss with the gradient of distortion + weight KL(q | p) for codes without a density.

    `estimate` gives (scores of the codes, losses of what it learns). No gradient of the scores
    reaches the encoder, nor does that of the learning. All codes enter the divergence; the first
    one of each image is decoded. Values differ from the objective by a function of the scores.
    """

    def losses(params, key, x):
        key_codes, key_score = jax.random.split(key)
        z = model.codes(params, key_codes, x, codes)
        scores, fit = estimate(model, params, key_score, jax.lax.stop_gradient(z), x)
        flat = z.reshape(-1, z.shape[2])
        surrogate = entropy_surrogate(scores.reshape(flat.shape), flat)
        kl = jnp.mean((surrogate + 0.5 * jnp.sum(flat**2, axis=1)).reshape(len(x), -1), axis=1)
        decoded = model.apply("decoder", params, z[:, 0])
        return model.distortion(decoded, x) + model.weight * kl + fit

    return losses


def learned(objective: SlicedScoreMatching) -> Callable:
    """Scores of the first codes by the score network, which learns by `objective` (eq. 3.8)."""

    def estimate(model, params, key, z, x):
        if z.shape[1] != 1:
            raise ValueError(f"a learned score takes one code of each image; got {z.shape[1]}")
        given = () if model.aggregated else (x,)

        def score_fn(z, t):
            return model.apply("score", params, z, *given)

        return score_fn(z[:, 0], None), objective(key, score_fn, z[:, 0])

    return estimate


def kernel(estimator: SteinEstimator | SpectralEstimator) -> Callable:
    """Scores from the codes alone: those of each image, or of all images together."""

    def estimate(model, params, key, z, x):
        sets = z.reshape(1, -1, z.shape[2]) if model.aggregated else z
        scores = jax.vmap(estimator)(sets)
        return scores.reshape(z.shape), jnp.zeros(len(x), x.dtype)

    return estimate


def assemble(name: str, pixels: int, options: argparse.Namespace) -> tuple[Model, Loss]:
    """The model and the loss of a method."""
    net, d = partial(TanhMLP, hidden=options.hidden), options.latent
    model = Model(
        encoder=net(2 * d if name == "elbo" else d),
        decoder=net(pixels),
        score=net(d),
        distortion=squared_distortion if options.wae else binary_distortion,
        latent=d,
        aggregated=options.wae,
        noisy=not options.wae and name != "elbo",
        weight=10.0 if options.wae else 1.0,
    )
    if name == "elbo":
        return model, elbo(model)
    if name == "ssm":
        objective = SlicedScoreMatching(options.projections, "gaussian")
        return model, implicit(model, learned(objective))
    codes = 1 if options.wae else options.codes
    return model, implicit(model, kernel(KERNELS[name]), codes)


def train(
    loss: Loss,
    params: Params,
    draw: Callable[[jax.Array, jax.Array], jax.Array],
    data: jax.Array,
    keys: jax.Array,
    optimizer: optax.GradientTransformation = RMSPROP,
) -> tuple[Params, float]:
    """Weights after a step for each key, and seconds without compilation.

    `draw(key, data)` makes a batch. The score network takes its steps beside the others; in the
    published code it is one step ahead.

    Raises:
        FloatingPointError: weights are not finite.
    """

    def run(params, data, keys):
        def step(carry, key):
            params, state = carry
            key_rows, key_loss = jax.random.split(key)
            x = draw(key_rows, data)
            gradient = jax.grad(lambda params: jnp.mean(loss(params, key_loss, x)))(params)
            updates, state = optimizer.update(gradient, state, params)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, (params, optimizer.init(params)), keys)[0][0]

    compiled = jax.jit(run).lower(params, data, keys).compile()
    began = time.perf_counter()
    params = jax.block_until_ready(compiled(params, data, keys))
    seconds = time.perf_counter() - began
    if not all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves(params)):
        raise FloatingPointError(
            f"weights are not finite after {len(keys)} steps: training diverged; take another "
            "seed, or more codes for a kernel"
        )
    return params, seconds


def binary_rows(batch: int) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """Batches of rows of pixels in 0 .. 255, each made 1 with the probability pixel/255."""

    def draw(key, data):
        key_rows, key_pixels = jax.random.split(key)
        rows = data[jax.random.randint(key_rows, (batch,), 0, len(data))]
        return binarized(key_pixels, rows)

    return draw


def binarized(key: jax.Array, pixels: jax.Array) -> jax.Array:
    """1 with the probability pixel/255, else 0."""
    share = pixels.astype(jnp.float32) / 255
    return (jax.random.uniform(key, share.shape) < share).astype(jnp.float32)


def images(folder: Path | None) -> tuple[np.ndarray, np.ndarray]:
    """Train and test pixels (n, D) in 0 .. 255; as the published, 80% of MNIST's training set."""
    if folder is None:
        from sklearn.datasets import load_digits

        pixels = np.rint(load_digits().data * 255 / 16).astype(np.uint8)
        return pixels[:-360], pixels[-360:]
    parts = []
    for name in ("train", "t10k"):
        with gzip.open(folder / f"{name}-images-idx3-ubyte.gz") as file:
            parts.append(np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 784))
    order = np.random.default_rng(2019).permutation(len(parts[0]))
    return parts[0][order[: len(order) * 4 // 5]], parts[1]


class Rating(NamedTuple):
    """-log p(x) of each image in nats, (images,), the sampler's standard errors of it, seconds."""

    nll: np.ndarray
    errors: np.ndarray
    training: float = 0.0
    sampling: float = 0.0


@partial(jax.jit, static_argnums=(0, 1, 2))
def _estimates(sampler, decoder, d, params, keys, x):
    """Estimates of log p(x) for each row; compiled once for all methods."""

    def one(inputs):
        key, x = inputs

        def log_likelihood(z):
            return -binary_distortion(decoder.apply({"params": params}, z), x)

        return sampler(key, log_likelihood, d)

    return jax.lax.map(one, (keys, x), batch_size=100)


def rate(
    model: Model,
    params: Params,
    x: jax.Array,
    key: jax.Array,
    sampler: AnnealedImportanceSampling,
) -> Rating:
    """-log p(x) of rows of binary pixels under the decoder.

    It is above the truth in expectation. The standard error of the log of the mean weight comes
    from the effective number E of K chains, ((K/E - 1)/(K - 1))^(1/2).
    """
    began = time.perf_counter()
    keys = jax.random.split(key, len(x))
    found = _estimates(sampler, model.decoder, model.latent, params["decoder"], keys, x)
    nll, effective = -np.asarray(found.value, float), np.asarray(found.effective, float)
    errors = np.sqrt(np.maximum(sampler.chains / effective - 1, 0) / (sampler.chains - 1))
    return Rating(nll, errors, sampling=time.perf_counter() - began)


def fit(name: str, seed: int, data: tuple, options: argparse.Namespace) -> tuple[Rating, Callable]:
    """A method's rating on test images, and its decoder: z -> means of pixels."""
    training, test = (jnp.asarray(a) for a in data)
    model, loss = assemble(name, training.shape[1], options)
    key_init, key_steps, key_rate = jax.random.split(jax.random.key(seed), 3)
    params, seconds = train(
        loss,
        model.init(key_init, training.shape[1]),
        binary_rows(options.batch),
        training,
        jax.random.split(key_steps, options.steps),
    )

    sampler = AnnealedImportanceSampling(options.temperatures, 10, options.chains)
    chosen = np.linspace(0, len(test) - 1, options.images).astype(int)
    x = binarized(jax.random.key(options.images), test[chosen])  # the same for all methods
    rating = rate(model, params, x, key_rate, sampler)
    decode = jax.jit(lambda z: jax.nn.sigmoid(model.apply("decoder", params, z)))
    return rating._replace(training=seconds), decode


def table(results: dict[str, list[Rating]], options: argparse.Namespace) -> str:
    """Means, their errors, and the difference from the first method on the same images."""
    first = next(iter(results))
    heads = ("-log p(x)", "AIS error", f"minus {first}", "training s", "AIS s", "published")
    lines = [f"{'':<10}" + "".join(f"{head:>16}" for head in heads)]
    base = np.mean([r.nll for r in results[first]], axis=0)
    for name, ratings in results.items():
        nll = np.mean([r.nll for r in ratings], axis=0)
        error = np.sqrt(np.sum([r.errors**2 for r in ratings])) / (len(ratings) * len(nll))
        cells = [_with_error(nll), f"{error:.2f}", _with_error(nll - base)]
        cells += [f"{np.mean([getattr(r, k) for r in ratings]):.0f}" for k in Rating._fields[2:]]
        if name == first:
            cells[2] = "-"
        index = {8: 0, 32: 1}.get(options.latent)
        published = PUBLISHED[options.wae].get(name)
        cells.append("-" if index is None or published is None else f"{published[index]:.2f}")
        lines.append(f"{name:<10}" + "".join(f"{cell:>16}" for cell in cells))
    return "\n".join(lines)


def _with_error(values: np.ndarray) -> str:
    return f"{values.mean():.2f} +- {values.std(ddof=1) / len(values) ** 0.5:.2f}"


def draw(decoders: dict[str, Callable], side: int, options: argparse.Namespace) -> Path:
    """Means of pixels for the same 64 draws of z by each method."""
    z = jax.random.normal(jax.random.key(0), (64, options.latent))
    figure = Figure(figsize=(4 * len(decoders), 4.3), layout="constrained")
    for panel, (name, decode) in zip(
        np.ravel(figure.subplots(1, len(decoders))), decoders.items(), strict=True
    ):
        panel.imshow(image_grid(np.asarray(decode(z)).reshape(-1, side, side, 1)))
        panel.set_title(name)
        panel.axis("off")
    path = options.output / f"{'wae' if options.wae else 'vae'}.png"
    options.output.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)
    return path


def parsed(arguments: list[str] | None) -> argparse.Namespace:
    """The options; exits with a message for methods that are not there."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--mnist", type=Path, help="folder with the idx files")
    parser.add_argument("--wae", action="store_true", help="Wasserstein auto-encoders")
    parser.add_argument("--methods", help="of elbo,ssm,stein,spectral; default all")
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--latent", type=int, default=8, help="dimensions of the codes")
    parser.add_argument("--hidden", type=int, default=256, help="units of the networks")
    parser.add_argument("--codes", type=int, default=20, help="of an image, for kernels in a VAE")
    parser.add_argument("--projections", type=int, default=1, help="of ssm, for each image")
    parser.add_argument("--images", type=int, default=100, help="test images, spread evenly")
    parser.add_argument("--temperatures", type=int, default=500)
    parser.add_argument("--chains", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="small networks, few steps, images")
    parser.add_argument("--output", type=Path, default=Path("runs/implicit_vae"))
    options = parser.parse_args(arguments)
    options.methods = (options.methods or ",".join(PUBLISHED[options.wae])).split(",")
    if unknown := [name for name in options.methods if name not in PUBLISHED[options.wae]]:
        known = ", ".join(PUBLISHED[options.wae])
        kind = "with --wae" if options.wae else "without --wae"
        parser.error(f"--methods: got {', '.join(unknown)}; {kind} there are {known}")
    if options.quick:
        options.steps, options.hidden = min(options.steps, 200), min(options.hidden, 32)
        options.temperatures, options.images = min(options.temperatures, 50), 20
    return options


def main(arguments: list[str] | None = None) -> dict[str, list[Rating]]:
    """Train by each method, print the table, draw samples; returns a rating for each seed."""
    options = parsed(arguments)
    data = images(options.mnist)
    results: dict[str, list[Rating]] = {}
    decoders: dict[str, Callable] = {}
    for seed in range(options.seeds):
        for name in options.methods:
            rating, decoders[name] = fit(name, seed, data, options)
            results.setdefault(name, []).append(rating)
            print(f"{name}, seed {seed}: {rating.nll.mean():.2f}", flush=True)
    source = "MNIST" if options.mnist else "8 x 8 digits, not comparable with the published MNIST"
    kind = "quick: " if options.quick else ""
    print(
        f"{kind}{'WAE' if options.wae else 'VAE'} on {source}; {options.latent} dimensions, "
        f"{options.steps} steps, seeds 0 .. {options.seeds - 1}, {options.images} test images, "
        f"{options.temperatures} temperatures, {options.chains} chains"
    )
    print(table(results, options))
    print("+- over images; minus: on the same images; AIS error: that of the mean, by its weights")
    print(f"samples: {draw(decoders, round(data[0].shape[1] ** 0.5), options)}")
    return results


if __name__ == "__main__":
    main()
