"""Samplers: published runs number for number, exact distributions, and the mechanics of a run."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mathcases import (
    SDES,
    energy_distance,
    mixture_2d,
    mixture_16d,
    reference_chain,
    reference_mixture,
    reference_sde,
)

from configs import langevin, recipes
from golden import assert_close, load, meta
from score_sde import grids
from score_sde.analytic import GaussianMixture
from score_sde.build import build_pixel_range, build_process, build_sampler
from score_sde.generate import between
from score_sde.parameterize import index_label, noise_prediction
from score_sde.sampling import Sampler
from score_sde.sde import EDM, VP, DiscreteChain, PublishedSteps
from score_sde.steppers import (
    Ancestral,
    AnnealedLangevin,
    EulerMaruyama,
    Identity,
    InpaintingLangevin,
    Langevin,
    ReverseDiffusion,
    at_start,
    chain,
    step_alpha,
)
from score_sde.types import sample_keys

RUNS = [
    "subvp_em_none",
    "subvp_empf_none",
    "subvp_rd_none",
    "ve_as_langevin",
    "ve_em_none",
    "ve_empf_none",
    "ve_none_ald_n2",
    "ve_rd_langevin_n2",
    "ve_rdpf_langevin",
    "vp_as_langevin",
    "vp_em_langevin_n2",
    "vp_empf_none",
    "vp_none_ald_n2",
    "vp_rd_ald",
    "vp_rd_langevin",
    "vp_rdpf_none",
]
# Their parts are all in the runs above.
MORE_RUNS = [
    "subvp_rdpf_none",
    "ve_as_none",
    "ve_em_langevin",
    "ve_none_langevin_n2",
    "ve_rd_ald",
    "ve_rd_langevin",
    "ve_rd_none",
    "ve_rdpf_none",
    "vp_as_none",
    "vp_em_none",
    "vp_none_langevin_n2",
    "vp_rd_none",
]
DISCRETE_RUNS = ["ve_as_none_disc", "ve_rd_langevin_disc", "vp_as_none_disc", "vp_rd_langevin_disc"]


def _published_sampler(run, stored, native=False):
    """(sampler, score function) of a reference run; `native` walks the chain by index."""
    name, settings = run.split("_")[0], meta(stored)
    discrete = run.endswith("_disc")
    steps, sde = None, reference_sde(name, stored)
    if name != "subvp":
        levels = reference_chain(name, stored)
        steps = levels if native else PublishedSteps(levels)
    process = steps if discrete else sde
    eta = 0.0 if settings["probability_flow"] else 1.0
    reverse = EulerMaruyama(sde, eta) if name == "subvp" else ReverseDiffusion(steps, eta)
    variance = "posterior" if name == "ve" else "forward"
    predictor = {
        "euler_maruyama": lambda: EulerMaruyama(sde, eta),
        "reverse_diffusion": lambda: reverse,
        "ancestral_sampling": lambda: Ancestral(steps, variance),
        "none": Identity,
    }[settings["predictor"]]()
    snr, n_steps = float(stored["snr"]), int(stored["n_steps"])
    corrector = {
        "langevin": lambda: Langevin(snr, n_steps, "batch", step_alpha(steps)),
        "ald": lambda: AnnealedLangevin(process, snr, n_steps, step_alpha(steps)),
        "none": Identity,
    }[settings["corrector"]]()
    times = grids.chain_steps(levels) if native else grids.published(int(stored["N"]), float(stored["eps"]))
    stepper = chain(at_start(corrector), predictor)
    return Sampler(process, stepper, times, denoise="mean"), reference_mixture(stored).score_fn(process)


def _check_run(run, stored, sampler, score_fn, precision, tol):
    corrector, predictor = sampler.stepper.steppers
    noise = []
    if corrector.draws:
        noise.append(stored["noise_corrector"])
    if predictor.draws:
        noise.append(stored["noise_predictor"][:, None])
    noise = jnp.asarray(np.concatenate(noise, 1), precision)
    assert noise.shape[:2] == (int(stored["N"]), sampler.stepper.draws)
    half = Sampler(sampler.process, corrector, sampler.times, "none")
    follow = jax.jit(lambda x, first, last: sampler.follow(score_fn, x, lambda i: noise[i], first, last))
    correct = jax.jit(lambda x, i: half.follow(score_fn, x, lambda i: noise[i, : corrector.draws], i, i + 1))

    x = jnp.asarray(stored["x_init"], precision)
    assert_close(
        sampler.process.prior_std * stored["prior_noise"], stored["x_init"], 1e-6 if "disc" in run else 1e-9
    )
    last, mean = follow(x, 0, sampler.steps)
    assert_close(sampler.finish(score_fn, last, mean), stored["final_denoise"], tol, "final_denoise")
    assert_close(last, stored["final_no_denoise"], tol, "final_no_denoise")
    for i in range(sampler.steps):
        if corrector.draws:
            y, mean = correct(x, i)
            assert_close(y, stored["traj_corrector_x"][i], tol, f"corrector {i}")
            assert_close(mean, stored["traj_corrector_mean"][i], tol, f"corrector mean {i}")
        x, mean = follow(x, i, i + 1)
        assert_close(x, stored["traj_predictor_x"][i], tol, f"predictor {i}")
        if "traj_predictor_mean" in stored:
            assert_close(mean, stored["traj_predictor_mean"][i], tol, f"predictor mean {i}")
    # The reference counts calls for a predictor or corrector that is `none` as well.
    settings = meta(stored)
    uncounted = (settings["predictor"] == "none") + int(stored["n_steps"]) * (settings["corrector"] == "none")
    assert sampler.nfe == int(stored["nfe"]) - uncounted * sampler.steps


class TestPublishedRuns:
    @pytest.mark.parametrize("run", RUNS + DISCRETE_RUNS)
    def test_float64(self, run, x64):
        stored = load(f"math/samplers_pc_{run}")
        _check_run(run, stored, *_published_sampler(run, stored), "float64", 1e-8)

    @pytest.mark.slow
    @pytest.mark.parametrize("run", MORE_RUNS)
    def test_float64_more(self, run, x64):
        stored = load(f"math/samplers_pc_{run}")
        _check_run(run, stored, *_published_sampler(run, stored), "float64", 1e-8)

    @pytest.mark.parametrize("run", DISCRETE_RUNS)
    def test_natively_by_index(self, run, x64):
        stored = load(f"math/samplers_pc_{run}")
        _check_run(run, stored, *_published_sampler(run, stored, native=True), "float64", 1e-8)

    @pytest.mark.parametrize("run", ["ve_rd_langevin", "vp_as_none", "subvp_em_none", "vp_rd_langevin_disc"])
    def test_float32(self, run):
        stored = load(f"math/samplers_pc_{run}")
        _check_run(run, stored, *_published_sampler(run, stored), "float32", 1e-3)

    @pytest.mark.parametrize(
        ("name", "precision"), [("ncsn", "float64"), ("ncsnv2", "float64"), ("ncsnv2", "float32")]
    )
    def test_annealed_langevin_of_ncsn(self, name, precision, request):
        """A chain whose levels are visited several times: steps from a level to itself."""
        if precision == "float64":
            request.getfixturevalue("x64")
        stored, tol = load(f"math/samplers_ald_{name}"), 1e-8 if precision == "float64" else 1e-3
        sigmas, repeats = stored["sigmas"], int(stored["n_steps_each"])
        levels = DiscreteChain(np.ones(len(sigmas)), sigmas[::-1].copy())
        index = np.repeat(np.arange(len(sigmas))[::-1], repeats).astype(float)
        snr = float(np.sqrt(stored["step_lr"] / 2) / sigmas[-1])
        sampler = Sampler(levels, AnnealedLangevin(levels, snr), np.stack([index, index], 1), "tweedie")
        noise = jnp.asarray(stored["noise"].reshape(-1, 1, *stored["x_init"].shape), precision)
        score_fn = reference_mixture(stored).score_fn(levels)
        np.testing.assert_allclose(2 * (snr * sigmas) ** 2, stored["step_sizes"], rtol=1e-10)
        follow = jax.jit(lambda x, first, last: sampler.follow(score_fn, x, lambda i: noise[i], first, last))
        start = x = jnp.asarray(stored["x_init"], precision)
        states = []
        for i in range(len(index)):
            assert_close(x, stored["states_before_update"][i], tol, f"state {i}")
            states.append(x)
            x, mean = follow(x, i, i + 1)
        last, mean = follow(start, 0, len(index))
        assert_close(last, stored["final_state_before_denoise"], tol)
        if name == "ncsn":  # its frames are clamped and lack the last update
            assert_close(jnp.clip(jnp.stack(states), 0, 1), stored["images_returned"], tol)
        else:
            final = sampler.finish(score_fn, last, mean)
            assert_close(final, stored["final_denoised"], tol)
            assert_close(jnp.stack([*states[1:], last, final]), stored["images_returned"], tol)
            assert_close(last, stored["final_only_no_denoise"], tol)
        assert sampler.nfe == len(index) + 1

    @pytest.mark.parametrize(("name", "renew"), [("ncsn", "level"), ("ncsnv2", "update")])
    def test_inpainting(self, name, renew, x64):
        """Algorithm B.2 as in either code: every state at which the score is asked for."""
        stored = load(f"math/samplers_ald_{name}_inpainting")
        levels, snr, repeats = _stored_levels(stored)
        x = jnp.asarray(stored["x_init"].reshape(-1, *stored["x_init"].shape[2:]), float)
        copies = len(x) // len(stored["refer_image"])
        image = jnp.asarray(np.repeat(stored["refer_image"], copies, axis=0), float)
        known = jnp.arange(x.shape[2])[None, None, :, None] < x.shape[2] // 2
        stepper = InpaintingLangevin(AnnealedLangevin(levels, snr, repeats), image, known, renew)
        given, calls = _stored_noise(stored, stepper, x.shape), []

        def score_fn(x, t):
            calls.append(x)
            return reference_mixture(stored).score_fn(levels)(x, t)

        sampler = Sampler(levels, stepper, grids.levels(levels), "none")
        with jax.disable_jit():
            last, _ = sampler.follow(score_fn, x, lambda i: given[i], 0, len(given))
        assert len(calls) == sampler.nfe
        assert_close(jnp.stack(calls), stored["states_at_score_call"], 1e-8)
        if name == "ncsnv2":
            assert_close(last, stored["final_state"], 1e-8)

    def test_interpolation(self, x64):
        """B.4.1: between two samples through the noise of annealed Langevin dynamics."""
        stored = load("math/samplers_ald_ncsnv2_interpolation")
        levels, snr, repeats = _stored_levels(stored)
        copies = int(stored["n_interpolations"])
        x = jnp.asarray(np.repeat(stored["x_init"], copies, axis=0), float)
        stepper = AnnealedLangevin(levels, snr, repeats)

        class Stored(Sampler):
            def noise(self, keys, i, x):
                z = jnp.asarray(stored[("noise_p", "noise_q")[keys[0]]], x.dtype)[i]
                return jnp.repeat(z.reshape(repeats, -1, *x.shape[1:]), copies, axis=1)

        sampler = Stored(levels, stepper, grids.levels(levels), "none")
        given = {
            "keys": np.ones(1, int),
            "angle": jnp.tile(jnp.linspace(0, jnp.pi / 2, copies), len(stored["x_init"])),
        }
        score_fn = reference_mixture(stored).score_fn(levels)
        for i in range(len(stored["sigmas"])):
            assert_close(x, stored["states_before_update"][i * repeats], 1e-8)
            x, _ = between(sampler, given, np.zeros(1, int), score_fn, x, i, i + 1)
        assert_close(x, stored["images_returned"][-1], 1e-8)


def _stored_levels(stored):
    """(chain, snr, updates at each level) of a stored run of annealed Langevin dynamics."""
    sigmas = stored["sigmas"]
    levels = DiscreteChain(np.ones(len(sigmas)), sigmas[::-1].copy())
    snr = AnnealedLangevin.of_step_size(levels, float(stored["step_lr"]), float(sigmas[-1]), 1).snr
    return levels, snr, int(stored["n_steps_each"])


def _stored_noise(stored, stepper, shape):
    """(levels, draws, batch, ...): the stored noise in the order in which the stepper takes it."""
    known, steps = stored["noise_known_half"], stored["noise_langevin"]
    count, repeats = steps.shape[:2]
    half = np.zeros((*known.shape[: -len(shape) + 1], *shape[1:]))
    half[..., : known.shape[-2], :] = known
    half, steps = half.reshape(count, -1, *shape), steps.reshape(count, repeats, *shape)
    if stepper.renew == "level":
        return jnp.asarray(np.concatenate([half, steps], axis=1), float)
    return jnp.asarray(np.stack([half, steps], axis=2).reshape(count, 2 * repeats, *shape), float)


N_SAMPLES = 3000


def _threshold(data, draws=12):
    """Energy distance between two exact sets of samples: mean + 5 standard deviations of independent draws."""
    sets = [data.sample(jax.random.key(1000 + i), N_SAMPLES) for i in range(2 * draws)]
    values = np.asarray([energy_distance(sets[2 * i], sets[2 * i + 1]) for i in range(draws)])
    return float(values.mean() + 5 * values.std())


def _assert_samples_are_exact(data, samplers, seed=0):
    """Run all `samplers` with the exact score in one program; each must be as close as exact samples are."""
    limit = _threshold(data)
    exact = data.sample(jax.random.key(seed), N_SAMPLES)
    shape = (N_SAMPLES, *data.event)

    @jax.jit
    def run(key):
        return {k: s(key, data.score_fn(s.process), shape).x for k, s in samplers.items()}

    distances = {k: float(energy_distance(x, exact)) for k, x in run(jax.random.key(seed + 1)).items()}
    assert all(d < limit for d in distances.values()), f"limit {limit:.2e}: {distances}"
    # The test can see a change of one twentieth of the samples' scale.
    shrunk = energy_distance(1.2 * exact, data.sample(jax.random.key(seed + 7), N_SAMPLES))
    assert float(shrunk) > limit


def _end(sde):
    """Where to stop: noise of 0.02 of the signal."""
    return max(float(sde.time_at_log_snr(jnp.asarray(-2 * np.log(0.02)))), sde.t_min)


def _slow_except(*fast):
    """All SDEs, those not named only in the slow tests."""
    return [n if n in fast else pytest.param(n, marks=pytest.mark.slow) for n in SDES]


class TestExactDistributions:
    """The laws of all predictors under all SDEs are also checked, without Monte Carlo, in steppers/test_reverse.py."""

    @pytest.mark.parametrize("name", _slow_except("vp"))
    def test_predictors(self, name):
        sde = SDES[name]
        times = grids.log_snr_uniform(sde, 400, _end(sde))
        predictors = {
            "em": EulerMaruyama(sde),
            "em_flow": EulerMaruyama(sde, 0.0),
            "rd": ReverseDiffusion(sde),
            "rd_flow": ReverseDiffusion(sde, 0.0),
            "ancestral": Ancestral(sde),
            "ancestral_forward": Ancestral(sde, "forward"),
        }
        _assert_samples_are_exact(mixture_2d(), {k: Sampler(sde, p, times) for k, p in predictors.items()})

    @pytest.mark.parametrize("name", _slow_except("ve"))
    def test_with_correctors_in_the_plane(self, name):
        sde = SDES[name]
        times = grids.log_snr_uniform(sde, 200, _end(sde))
        steppers = {
            "annealed": chain(ReverseDiffusion(sde), AnnealedLangevin(sde, 0.1)),
            "batch": chain(Ancestral(sde), Langevin(0.1, norm="batch")),
            "flow": chain(EulerMaruyama(sde, 0.0), AnnealedLangevin(sde, 0.15, 2)),
        }
        _assert_samples_are_exact(mixture_2d(), {k: Sampler(sde, s, times) for k, s in steppers.items()})

    @pytest.mark.parametrize("name", _slow_except("vp"))
    def test_in_16_dimensions(self, name):
        sde = SDES[name]
        times = grids.log_snr_uniform(sde, 400, _end(sde))  # the flow's bias shows at 200
        steppers = {
            "flow": ReverseDiffusion(sde, 0.0),
            "sample": chain(Ancestral(sde), Langevin(0.05)),
            "annealed": chain(at_start(AnnealedLangevin(sde, 0.1)), ReverseDiffusion(sde)),
        }
        _assert_samples_are_exact(mixture_16d(), {k: Sampler(sde, s, times) for k, s in steppers.items()})

    @pytest.mark.parametrize(
        "sde, network", [("ve", "ncsnpp"), ("vp", "ddpmpp"), ("subvp", "ddpmpp"), ("vp", "ddpm")]
    )
    def test_samplers_of_the_recipes(self, sde, network):
        """As shipped for CIFAR-10: 1000 steps, uniform grid, predictor and corrector of the recipe."""
        config = recipes.config(sde, network, "cifar10", continuous=network != "ddpm")
        sampler = build_sampler(config.sampling, build_process(config.sde), build_pixel_range(config.data))
        _assert_samples_are_exact(mixture_16d(), {"recipe": sampler})

    def test_annealed_langevin_of_the_recipe(self):
        """NCSNv2 for digits with more levels and smaller steps: levels, uniform start, Tweedie at the end (algorithm 6.1).

        With its own 22 levels the step size leaves a bias of some percent, as eq. 6.4 says: a distance of 0.010.
        """
        config = langevin.config("ncsnv2", "digits")
        config.sde.n = config.sampling.steps = 100
        config.sampling.update({"snr": 0.1, "corrector_steps": 40})
        sampler = build_sampler(config.sampling, build_process(config.sde), build_pixel_range(config.data))
        _assert_samples_are_exact(mixture_16d(), {"recipe": sampler})

    @pytest.mark.parametrize("make", ["smld", "ddpm"])
    def test_chains_by_every_index_and_strided(self, make):
        levels = DiscreteChain.smld(0.01, 8.0, 600) if make == "smld" else DiscreteChain.ddpm(n=600)
        samplers = {
            "all": Sampler(levels, Ancestral(levels), grids.chain_steps(levels), "none"),
            "forward": Sampler(levels, Ancestral(levels, "forward"), grids.chain_steps(levels), "mean"),
            "strided": Sampler(levels, Ancestral(levels), grids.chain_steps(levels, 300), "mean"),
            "diffusion": Sampler(levels, ReverseDiffusion(levels), grids.chain_steps(levels), "mean"),
            "tweedie": Sampler(levels, Ancestral(levels), grids.chain_steps(levels)[:-1]),
        }
        _assert_samples_are_exact(mixture_2d(), samplers)


class TestMechanics:
    sde = VP()
    data = mixture_2d()
    times = grids.uniform(VP(), 12, 1e-3)

    def _sampler(self, denoise="tweedie"):
        return Sampler(
            self.sde, chain(ReverseDiffusion(self.sde), AnnealedLangevin(self.sde, 0.1)), self.times, denoise
        )

    def test_a_sample_is_the_same_in_every_batch(self):
        run = jax.jit(lambda keys: self._sampler()(keys, self.data.score_fn(self.sde), (len(keys), 2)).x)
        keys = sample_keys(jax.random.key(3), jnp.arange(7))
        together = run(keys)
        assert_close(jnp.concatenate([run(keys[:3]), run(keys[3:])]), together, 1e-6)
        assert_close(run(sample_keys(jax.random.key(3), jnp.asarray([5])))[0], together[5], 1e-6)
        assert len(np.unique(np.asarray(together)[:, 0])) == 7

    def test_jit_changes_nothing(self):
        sampler, key, score_fn = self._sampler(), jax.random.key(0), self.data.score_fn(self.sde)
        eager = sampler(key, score_fn, (4, 2)).x
        assert_close(jax.jit(lambda key: sampler(key, score_fn, (4, 2)).x)(key), eager, 1e-6)
        assert float(jnp.max(jnp.abs(sampler(jax.random.key(1), score_fn, (4, 2)).x - eager))) > 0.1

    @pytest.mark.parametrize("frames", [4, 30])
    def test_frames(self, frames):
        sampler, key, score_fn = self._sampler(), jax.random.key(0), self.data.score_fn(self.sde)
        plain = jax.jit(lambda key: sampler(key, score_fn, (4, 2)))(key)
        assert plain.trajectory is None
        x, _, trajectory = jax.jit(lambda key: sampler(key, score_fn, (4, 2), frames))(key)
        assert trajectory.shape == (frames + 1, 4, 2)
        assert_close(x, plain.x, 1e-6)
        assert_close(trajectory[-1], x, 0)
        assert_close(trajectory[0], sampler.begin(key, (4, 2)), 1e-6)
        if frames == 4:  # steps 3, 6, 9
            for i in (1, 2, 3):
                state, _ = sampler.advance(key, score_fn, trajectory[0], 0, 3 * i)
                assert_close(trajectory[i], state, 1e-6)

    def test_chunks_are_one_run(self):
        """begin, advance in pieces, finish: bit for bit the whole."""
        sampler, key, score_fn = self._sampler("mean"), jax.random.key(0), self.data.score_fn(self.sde)
        advance = jax.jit(lambda x, first, last: sampler.advance(key, score_fn, x, first, last))
        x = start = sampler.begin(key, (4, 2))
        for first, last in ((0, 5), (5, 6), (6, 12)):
            x, mean = advance(x, first, last)
        whole, whole_mean = advance(start, 0, 12)
        np.testing.assert_array_equal(x, whole)
        np.testing.assert_array_equal(mean, whole_mean)
        assert_close(sampler(key, score_fn, (4, 2)).x, mean, 1e-6)
        same, _ = advance(start, 0, 0)
        np.testing.assert_array_equal(same, start)

    def test_uniform_start(self):
        sampler = Sampler(self.sde, Identity(), self.times, "none", uniform=(-1.0, 3.0))
        keys = sample_keys(jax.random.key(0), jnp.arange(500))
        x = sampler.begin(keys, (500, 4))
        assert -1 <= float(x.min()) < -0.9 and 2.9 < float(x.max()) < 3
        assert abs(float(x.mean()) - 1) < 5 * 4 / np.sqrt(12 * x.size)
        np.testing.assert_array_equal(sampler.begin(keys[3:5], (2, 4)), x[3:5])

    def test_denoise(self):
        key, score_fn = jax.random.key(0), self.data.score_fn(self.sde)
        sampler = self._sampler()

        @jax.jit
        def run():
            modes = {d: self._sampler(d)(key, score_fn, (4, 2)) for d in ("none", "mean", "tweedie")}
            return modes, sampler.advance(key, score_fn, sampler.begin(key, (4, 2)), 0, 12)

        results, (x, mean) = run()
        alpha, sigma = self.sde.marginal(jnp.asarray(1e-3))
        t = jnp.full(4, 1e-3)
        assert_close(results["none"].x, x, 1e-6)
        assert_close(results["mean"].x, mean, 1e-6)
        assert_close(results["tweedie"].x, (x + sigma**2 * score_fn(x, t)) / alpha, 1e-6)
        assert float(jnp.max(jnp.abs(x - mean))) > 1e-4
        assert {d: r.nfe for d, r in results.items()} == {"none": 24, "mean": 24, "tweedie": 25}

    def test_nfe_is_the_number_of_calls(self):
        calls = []

        def score_fn(x, t):
            jax.debug.callback(lambda t: calls.append(float(t[0])), t)
            return self.data.score(self.sde, x, t)

        for stepper in (
            EulerMaruyama(self.sde),
            chain(at_start(Langevin(0.1, 3)), Ancestral(self.sde)),
            chain(at_start(AnnealedLangevin(self.sde, 0.1, 2)), Identity()),
        ):
            sampler = Sampler(self.sde, stepper, self.times)
            calls.clear()
            result = jax.jit(lambda key, s=sampler: s(key, score_fn, (2, 2)).x)(jax.random.key(0))
            jax.block_until_ready(result)
            jax.effects_barrier()
            assert len(calls) == sampler.nfe
            assert max(calls) == pytest.approx(1.0)
            assert min(calls) == pytest.approx(1e-3)
        assert Sampler(self.sde, Identity(), self.times, "none").nfe == 0

    def test_every_draw_is_new(self):
        """Noise differs between prior, steps, draws of a step, and samples; it is standard normal."""
        seen = []

        class Recorder(Langevin):
            def __call__(self, score_fn, x, t, s, z):
                jax.debug.callback(lambda z: seen.append(np.asarray(z)), z)
                return x, x

        sampler = Sampler(self.sde, Recorder(0.1, 2), self.times, "none")
        for keys in (jax.random.key(0), sample_keys(jax.random.key(0), jnp.arange(500))):
            seen.clear()
            prior = sampler(keys, lambda x, t: x, (500, 2)).x
            jax.effects_barrier()
            values = np.concatenate([np.concatenate(seen).reshape(-1), np.asarray(prior).reshape(-1)])
            assert values.size == 500 * 2 * (12 * 2 + 1)
            assert len(np.unique(values)) > 0.99 * values.size
            assert abs(values.std() - 1) < 4 / np.sqrt(2 * values.size)

    def test_prior_is_that_of_the_process(self):
        x = Sampler(EDM(), Identity(), grids.uniform(EDM(), 2), "none").begin(jax.random.key(0), (20000,))
        assert float(jnp.std(x)) == pytest.approx(80, rel=0.02)

    def test_network_that_divides_by_sigma_survives_the_clean_index(self):
        """A chain ends at index -1, where sigma = 0: no denoising is left to do there, and nothing is infinite."""
        levels = DiscreteChain.ddpm(n=30)
        score_fn = noise_prediction(levels, index_label).score_fn(lambda x, labels: x)

        def run(stepper, denoise):
            sampler = Sampler(levels, stepper, grids.chain_steps(levels), denoise)
            return jax.jit(lambda key: sampler(key, score_fn, (3, 2)).x)(jax.random.key(0))

        samples = {d: run(Ancestral(levels), d) for d in ("none", "mean", "tweedie")}
        assert np.all(np.isfinite(samples["none"]))
        assert_close(samples["tweedie"], samples["none"], 1e-5)
        assert_close(samples["mean"], samples["none"], 1e-5)
        for corrector in (AnnealedLangevin(levels, 0.1), Langevin(0.1)):
            assert np.all(np.isfinite(run(chain(Ancestral(levels), corrector), "none")))

    def test_single_gaussian_in_one_step(self):
        """One ancestral step to t_min, then Tweedie: data of the right mean."""
        data = GaussianMixture.isotropic([1.0], [[0.6, -0.2]], 1e-3)
        sampler = Sampler(self.sde, Ancestral(self.sde), grids.uniform(self.sde, 1))
        x = jax.jit(lambda key: sampler(key, data.score_fn(self.sde), (50, 2)).x)(jax.random.key(0))
        assert_close(jnp.mean(x, 0), [0.6, -0.2], 2e-3)

    def test_messages(self):
        with pytest.raises(ValueError, match="denoise must be 'tweedie', 'mean' or 'none'; got 'yes'"):
            Sampler(self.sde, Identity(), self.times, "yes")
        with pytest.raises(ValueError, match="a time grid is"):
            Sampler(self.sde, Identity(), np.zeros((3, 3)))
