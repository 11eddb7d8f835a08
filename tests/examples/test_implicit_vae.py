"""Table 3.2: implicit encoders against exact linear-Gaussian posteriors; that the program runs."""

import dataclasses
import gzip
import importlib.util
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from golden import REPOSITORY
from score_sde.likelihood import AnnealedImportanceSampling
from score_sde.networks import TanhMLP
from score_sde.objectives import SlicedScoreMatching


@pytest.fixture(scope="module")
def example():
    path = REPOSITORY / "examples" / "implicit_vae.py"
    spec = importlib.util.spec_from_file_location("implicit_vae", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SIGMA = 1.0
DATA = np.random.default_rng(0).normal(size=(4, 2))
"""x = DATA z + 1 + SIGMA e is the truth of the linear-Gaussian tests."""


def gaussian_distortion(mean, x):
    squares = 0.5 * jnp.sum((x - mean) ** 2, axis=-1) / SIGMA**2
    return squares + x.shape[-1] * (math.log(SIGMA) + 0.5 * math.log(2 * math.pi))


def gaussian_nll(x, weight, bias):
    """-log N(x; bias, weight weight^T + SIGMA^2 I) of rows."""
    covariance = weight @ weight.T + SIGMA**2 * np.eye(4)
    quadratic = np.sum((x - bias) * np.linalg.solve(covariance, (x - bias).T).T, axis=1)
    return 0.5 * (quadratic + np.linalg.slogdet(2 * np.pi * covariance)[1])


def gaussian_rows(key, data, n=128):
    key_z, key_e = jax.random.split(key)
    z, e = jax.random.normal(key_z, (n, 2)), jax.random.normal(key_e, (n, 4))
    return z @ data.T + jnp.ones((n, 4)) + SIGMA * e


def gaussian_model(example, **options):
    given = {"encoder": TanhMLP(2, 32), "score": TanhMLP(2, 32), "latent": 2} | options
    return example.Model(decoder=TanhMLP(4, depth=1), distortion=gaussian_distortion, **given)


def negative_elbo(model, params, x, key):
    """E[-log p(x | z) - log p(z) + log q(z | x)] with the density of z = encoder(x, noise).

    It is that of the noise over |det dz/dnoise|, where that keeps its sign.
    """

    def one(x, eps):
        def code(eps):
            return model.apply("encoder", params, x[None], eps[None])[0]

        z, determinant = code(eps), jnp.linalg.det(jax.jacfwd(code)(eps))
        distortion = model.distortion(model.apply("decoder", params, z[None])[0], x)
        gain = 0.5 * (jnp.sum(z**2) - jnp.sum(eps**2)) - jnp.log(jnp.abs(determinant))
        return distortion + gain, determinant

    eps = jax.random.normal(key, (len(x), 2))
    values, determinants = jax.jit(jax.vmap(one))(x, eps)
    return np.asarray(values, float), np.sign(determinants)


def test_linear_gaussian_vae_reaches_the_exact_likelihood(example):
    """Decoder, encoder and score trained together: a bound within 0.1 nats of the exact NLL.

    Codes of twice the right covariance would cost 0.3, of half of it 0.2. Steps of the score are
    ten times those of the encoder: where it lags behind, the codes' spread swings.
    """
    model, steps = gaussian_model(example, encoder=TanhMLP(2, depth=1)), 4000
    model = dataclasses.replace(model, score=TanhMLP(2, depth=1))

    def optimizer(rate):
        def schedule(count):
            return rate * (1 - count.astype(jnp.float32) / steps)

        return optax.rmsprop(schedule, decay=0.99, eps_in_sqrt=False)

    params, _ = example.train(
        example.implicit(model, example.learned(SlicedScoreMatching(1, "gaussian"))),
        model.init(jax.random.key(1), 4),
        gaussian_rows,
        jnp.asarray(DATA, jnp.float32),
        jax.random.split(jax.random.key(2), steps),
        optax.multi_transform(
            {"fast": optimizer(1e-2), "slow": optimizer(1e-3)},
            {"encoder": "slow", "decoder": "slow", "score": "fast"},
        ),
    )
    x = gaussian_rows(jax.random.key(3), jnp.asarray(DATA, jnp.float32), 20_000)
    weight, bias = (np.asarray(params["decoder"][k], float) for k in ("kernel", "bias"))
    exact = gaussian_nll(np.asarray(x, float), DATA, 1.0)
    learned = gaussian_nll(np.asarray(x, float), weight.T, bias)
    bound, sign = negative_elbo(model, params, x, jax.random.key(4))
    assert abs(sign.mean()) == 1
    for found in (learned, bound):
        error = np.std(found - exact) / len(x) ** 0.5
        assert -4 * error < np.mean(found - exact) < 0.1
    assert np.mean(bound - learned) < 0.1 and np.mean(learned - exact) < 0.02


def test_gradients_stop_at_the_codes(example):
    """The encoder's gradient has constant scores; the score's is that of its own loss alone."""
    model = gaussian_model(example)
    objective = SlicedScoreMatching(1, "gaussian")
    loss = example.implicit(model, example.learned(objective))
    params, key = model.init(jax.random.key(0), 4), jax.random.key(1)
    x = gaussian_rows(jax.random.key(2), jnp.asarray(DATA, jnp.float32), 16)
    found = jax.grad(lambda params: jnp.mean(loss(params, key, x)))(params)

    key_codes, key_score = jax.random.split(key)
    z = model.codes(params, key_codes, x, 1)[:, 0]
    score = model.apply("score", params, z, x)

    def of_encoder_and_decoder(params):
        z = model.codes(params, key_codes, x, 1)[:, 0]
        fit = model.distortion(model.apply("decoder", params, z), x)
        return jnp.mean(fit + jnp.sum(0.5 * z**2 + score * z, axis=1))

    def of_score(params):
        return jnp.mean(objective(key_score, lambda z, t: model.apply("score", params, z, x), z))

    expected = jax.grad(of_encoder_and_decoder)(params) | {
        "score": jax.grad(of_score)(params)["score"]
    }
    for name, tree in found.items():
        assert all(np.any(np.asarray(leaf)) for leaf in jax.tree.leaves(tree)), name
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
            tree,
            expected[name],
        )


def test_kernels_see_the_codes_of_an_image_or_of_all(example):
    """And the divergence is the mean over codes of |z|^2/2 + score . z, times the weight."""
    rng = np.random.default_rng(1)
    x = jnp.asarray(rng.normal(size=(6, 4)), jnp.float32)
    estimator = example.KERNELS["stein"]
    for aggregated, codes, weight in ((False, 5, 1.0), (True, 1, 10.0)):
        model = gaussian_model(example, aggregated=aggregated, noisy=not aggregated, weight=weight)
        params = model.init(jax.random.key(0), 4)
        key = jax.random.key(1)
        losses = example.implicit(model, example.kernel(estimator), codes)(params, key, x)
        z = model.codes(params, jax.random.split(key)[0], x, codes)
        assert z.shape == (6, codes, 2)
        scores = (
            estimator(z[:, 0])[:, None] if aggregated else jnp.stack([estimator(one) for one in z])
        )
        kl = jnp.mean(jnp.sum(0.5 * z**2 + scores * z, axis=2), axis=1)
        fit = model.distortion(model.apply("decoder", params, z[:, 0]), x)
        np.testing.assert_allclose(losses, fit + weight * kl, rtol=1e-4)
    with pytest.raises(ValueError, match="one code of each image; got 5"):
        model = gaussian_model(example)
        learned = example.learned(SlicedScoreMatching())
        example.implicit(model, learned, 5)(model.init(jax.random.key(0), 4), key, x)


def test_elbo_and_ratings_of_a_decoder_without_codes(example):
    """Its pixels do not depend on z: -log p(x) is the distortion, the bound adds the divergence."""
    options = example.parsed(["--methods", "elbo", "--hidden", "4", "--latent", "3"])
    model, loss = example.assemble("elbo", 6, options)
    params = model.init(jax.random.key(0), 6)
    zero = jax.tree.map(jnp.zeros_like, params)
    zero["decoder"]["dense_2"]["bias"] = logits = jnp.asarray([0.0, 1.0, -2.0, 3.0, 0.5, -0.5])
    zero["encoder"]["dense_2"]["bias"] = jnp.asarray([0.3, 0.0, -1.0, 0.2, 0.0, -0.4])
    x = jnp.asarray([[0.0, 1, 1, 0, 1, 0], [1.0, 1, 0, 1, 0, 0]])
    shares = np.asarray(jax.nn.sigmoid(logits), float)
    nll = -np.sum(np.where(np.asarray(x) == 1, np.log(shares), np.log(1 - shares)), axis=1)
    mean, std = np.asarray([0.3, 0.0, -1.0]), np.exp([0.2, 0.0, -0.4])
    kl = np.sum(0.5 * (mean**2 + std**2 - 1) - np.log(std))
    np.testing.assert_allclose(loss(zero, jax.random.key(1), x), nll + kl, rtol=1e-5)
    sampler = AnnealedImportanceSampling(3, 2, 4)
    rating = example.rate(model, zero, x, jax.random.key(2), sampler)
    np.testing.assert_allclose(rating.nll, nll, rtol=1e-5)
    np.testing.assert_allclose(rating.errors, 0, atol=2e-3)
    squares = np.sum((np.asarray(x) - shares) ** 2, axis=1)
    np.testing.assert_allclose(example.squared_distortion(logits[None], x), squares, rtol=1e-5)


def test_images_of_a_folder(example, tmp_path):
    rng = np.random.default_rng(0)
    pixels = {n: rng.integers(0, 256, (c, 784), np.uint8) for n, c in (("train", 10), ("t10k", 3))}
    for name, values in pixels.items():
        with gzip.open(tmp_path / f"{name}-images-idx3-ubyte.gz", "wb") as file:
            file.write(bytes(16) + values.tobytes())
    training, test = example.images(tmp_path)
    np.testing.assert_array_equal(test, pixels["t10k"])
    assert training.shape == (8, 784) and {*map(bytes, training)} < {*map(bytes, pixels["train"])}
    drawn = example.binarized(jax.random.key(0), jnp.full((40_000,), 51, jnp.uint8))
    assert float(drawn.mean()) == pytest.approx(0.2, abs=0.01) and {*np.unique(drawn)} == {0, 1}


def test_runs(example, tmp_path, capsys):
    flags = ["--quick", "--steps", "30", "--temperatures", "8", "--output", str(tmp_path)]
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        results = example.main([*flags, "--methods", "elbo,ssm"])
        wae = example.main([*flags, "--wae", "--methods", "spectral", "--batch", "32"])
    assert list(results) == ["elbo", "ssm"] and list(wae) == ["spectral"]
    for (rating,) in (*results.values(), *wae.values()):
        assert rating.nll.shape == rating.errors.shape == (20,)
        assert 15 < rating.nll.mean() < 64 * math.log(2) + 3 and np.all(rating.errors >= 0)
    text = capsys.readouterr().out
    for part in ("VAE on 8 x 8 digits, not comparable", "minus elbo", "95.50", "98.81"):
        assert part in text
    for name in ("vae", "wae"):
        assert (tmp_path / f"{name}.png").read_bytes()[:4] == b"\x89PNG"


def test_refuses_methods(example, capsys):
    for arguments, known in ((["--methods", "mle"], "elbo"), (["--wae", "--methods=elbo"], "ssm")):
        with pytest.raises(SystemExit):
            example.parsed(arguments)
        assert f"there are {known}" in capsys.readouterr().err
