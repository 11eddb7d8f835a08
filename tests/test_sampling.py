"""Samplers: exact distributions, and the mechanics of a run."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import runs
from mathcases import (
    SDES,
    energy_distance,
    mixture_2d,
    mixture_16d,
)

from golden import assert_close
from score_sde import grids
from score_sde.analytic import GaussianMixture
from score_sde.arrays import sample_keys
from score_sde.build.data import build_pixel_range
from score_sde.build.process import build_process
from score_sde.build.sampler import build_sampler
from score_sde.parameterize import index_label, noise_prediction
from score_sde.sampling import Sampler, independent_noise
from score_sde.sde import EDM, VP, DiscreteChain
from score_sde.steppers import (
    Ancestral,
    AnnealedLangevin,
    EulerMaruyama,
    Identity,
    Langevin,
    ReverseDiffusion,
    at_start,
    chain,
)

N_SAMPLES = 3000


def _sampler(settings):
    process, pixels = build_process(settings.sde), build_pixel_range(settings.data)
    return build_sampler(settings.sampling, process, pixels)


def _threshold(data, draws=12):
    """Energy distance between two exact sets of samples: mean + 5 standard deviations."""
    sets = [data.sample(jax.random.key(1000 + i), N_SAMPLES) for i in range(2 * draws)]
    values = np.asarray([energy_distance(sets[2 * i], sets[2 * i + 1]) for i in range(draws)])
    return float(values.mean() + 5 * values.std())


def _assert_samples_are_exact(data, samplers, seed=0):
    """Run all `samplers` with the exact score; each must be as close as exact samples are."""
    limit = _threshold(data)
    exact = data.sample(jax.random.key(seed), N_SAMPLES)
    shape = (N_SAMPLES, *data.event)

    @jax.jit
    def run(key):
        return {k: s(key, data.score_fn(s.process), shape).x for k, s in samplers.items()}

    distances = {
        k: float(energy_distance(x, exact)) for k, x in run(jax.random.key(seed + 1)).items()
    }
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
    """steppers/test_reverse.py checks the laws of all predictors too, without Monte Carlo."""

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
        _assert_samples_are_exact(
            mixture_2d(), {k: Sampler(sde, p, times) for k, p in predictors.items()}
        )

    @pytest.mark.parametrize("name", _slow_except("ve"))
    def test_with_correctors_in_the_plane(self, name):
        sde = SDES[name]
        times = grids.log_snr_uniform(sde, 200, _end(sde))
        steppers = {
            "annealed": chain(ReverseDiffusion(sde), AnnealedLangevin(sde, 0.1)),
            "batch": chain(Ancestral(sde), Langevin(0.1, norm="batch")),
            "flow": chain(EulerMaruyama(sde, 0.0), AnnealedLangevin(sde, 0.15, 2)),
        }
        _assert_samples_are_exact(
            mixture_2d(), {k: Sampler(sde, s, times) for k, s in steppers.items()}
        )

    @pytest.mark.parametrize("name", _slow_except("vp"))
    def test_in_16_dimensions(self, name):
        sde = SDES[name]
        times = grids.log_snr_uniform(sde, 400, _end(sde))  # the flow's bias shows at 200
        steppers = {
            "flow": ReverseDiffusion(sde, 0.0),
            "sample": chain(Ancestral(sde), Langevin(0.05)),
            "annealed": chain(at_start(AnnealedLangevin(sde, 0.1)), ReverseDiffusion(sde)),
        }
        _assert_samples_are_exact(
            mixture_16d(), {k: Sampler(sde, s, times) for k, s in steppers.items()}
        )

    @pytest.mark.parametrize(
        "recipe", ["ve/ncsnpp_cont", "vp/ddpmpp_cont", "subvp/ddpmpp_cont", "vp/ddpm"]
    )
    def test_samplers_of_the_recipes(self, recipe):
        """As for CIFAR-10: 1000 steps, uniform grid, predictor and corrector of the recipe."""
        settings = runs.load(f"{recipe}:cifar10")
        _assert_samples_are_exact(mixture_16d(), {"recipe": _sampler(settings)})

    def test_annealed_langevin_of_the_recipe(self):
        """NCSNv2 for digits: levels, uniform start, Tweedie at the end (algorithm 6.1).

        It has more levels and smaller steps than the recipe. With 22 levels the step size leaves
        a bias of some percent, as eq. 6.4 says: a distance of 0.010.
        """
        more = {"sde.n": 100, "sampling.steps": 100}
        smaller = {"sampling.snr": 0.1, "sampling.corrector_steps": 40}
        settings = runs.load("ncsnv2/ncsnv2:digits", more | smaller)
        _assert_samples_are_exact(mixture_16d(), {"recipe": _sampler(settings)})

    @pytest.mark.parametrize("make", ["smld", "ddpm"])
    def test_chains_by_every_index_and_strided(self, make):
        levels = DiscreteChain.smld(0.01, 8.0, 600) if make == "smld" else DiscreteChain.ddpm(n=600)
        samplers = {
            "all": Sampler(levels, Ancestral(levels), grids.chain_steps(levels), "none"),
            "forward": Sampler(
                levels, Ancestral(levels, "forward"), grids.chain_steps(levels), "mean"
            ),
            "strided": Sampler(levels, Ancestral(levels), grids.chain_steps(levels, 300), "mean"),
            "diffusion": Sampler(
                levels, ReverseDiffusion(levels), grids.chain_steps(levels), "mean"
            ),
            "tweedie": Sampler(levels, Ancestral(levels), grids.chain_steps(levels)[:-1]),
        }
        _assert_samples_are_exact(mixture_2d(), samplers)


class TestMechanics:
    sde = VP()
    data = mixture_2d()
    times = grids.uniform(VP(), 12, 1e-3)

    def _sampler(self, denoise="tweedie"):
        return Sampler(
            self.sde,
            chain(ReverseDiffusion(self.sde), AnnealedLangevin(self.sde, 0.1)),
            self.times,
            denoise,
        )

    def test_a_sample_is_the_same_in_every_batch(self):
        run = jax.jit(
            lambda keys: self._sampler()(keys, self.data.score_fn(self.sde), (len(keys), 2)).x
        )
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
        start = sampler.begin(key, (4, 2))
        assert_close(trajectory[0], start.x, 1e-6)
        if frames == 4:  # steps 3, 6, 9
            for i in (1, 2, 3):
                state = sampler.advance(key, score_fn, start, 0, 3 * i)
                assert_close(trajectory[i], state.x, 1e-6)

    def test_chunks_are_one_run(self):
        """begin, advance in pieces, finish: bit for bit the whole."""
        sampler, key, score_fn = (
            self._sampler("mean"),
            jax.random.key(0),
            self.data.score_fn(self.sde),
        )

        @jax.jit
        def advance(state, first, last):
            return sampler.advance(key, score_fn, state, first, last)

        state = start = sampler.begin(key, (4, 2))
        for first, last in ((0, 5), (5, 6), (6, 12)):
            state = advance(state, first, last)
        whole = advance(start, 0, 12)
        jax.tree.map(np.testing.assert_array_equal, state, whole)
        assert_close(sampler(key, score_fn, (4, 2)).x, state.mean, 1e-6)
        jax.tree.map(np.testing.assert_array_equal, advance(start, 0, 0), start)
        np.testing.assert_array_equal(start.mean, start.x)

    def test_memory_does_not_grow_with_the_number_of_updates(self):
        """NCSN makes 100 updates at each level; their draws are made one at a time."""
        levels, shape = DiscreteChain.smld(0.1, 1.0, 5), (2, 32, 32, 3)

        def memory(n_steps):
            stepper = AnnealedLangevin(levels, 0.1, n_steps)
            sampler = Sampler(levels, stepper, grids.levels(levels))
            run = jax.jit(lambda keys: sampler(keys, lambda x, t: -x, shape).x)
            compiled = run.lower(sample_keys(jax.random.key(0), jnp.arange(2))).compile()
            return compiled.memory_analysis().temp_size_in_bytes

        assert memory(100) <= memory(2) + 4 * np.prod(shape)

    def test_run_from_a_given_start(self):
        sampler = self._sampler()
        begun = sampler.begin(jax.random.key(0), (4, 2))
        jax.tree.map(np.testing.assert_array_equal, sampler.start(begun.x), begun)

    def test_noise_is_that_of_its_key_step_and_draw(self):
        """Draw j of step i comes from fold_in(fold_in(key, i + 1), j), the prior from 0."""
        asked, key, shape = [], jax.random.key(0), (3, 2)

        def noise(keys, i, j, x):
            asked.append((int(i), int(j)))
            return independent_noise(keys, i, j, x)

        stepper = chain(AnnealedLangevin(self.sde, 0.1, 2), ReverseDiffusion(self.sde))
        sampler = Sampler(self.sde, stepper, self.times, "none", noise=noise)
        with jax.disable_jit():
            sampler.advance(key, self.data.score_fn(self.sde), sampler.begin(key, shape), 3, 5)
        assert asked == [(3, 0), (3, 1), (3, 2), (4, 0), (4, 1), (4, 2)]
        z = independent_noise(key, 3, 1, jnp.zeros(shape))
        folded = jax.random.fold_in(jax.random.fold_in(key, 4), 1)
        np.testing.assert_array_equal(z, jax.random.normal(folded, shape))
        prior = jax.random.normal(jax.random.fold_in(key, 0), shape)
        np.testing.assert_array_equal(sampler.begin(key, shape).x, prior)

    def test_uniform_start(self):
        sampler = Sampler(self.sde, Identity(), self.times, "none", uniform=(-1.0, 3.0))
        keys = sample_keys(jax.random.key(0), jnp.arange(500))
        x = sampler.begin(keys, (500, 4)).x
        assert -1 <= float(x.min()) < -0.9 and 2.9 < float(x.max()) < 3
        assert abs(float(x.mean()) - 1) < 5 * 4 / np.sqrt(12 * x.size)
        np.testing.assert_array_equal(sampler.begin(keys[3:5], (2, 4)).x, x[3:5])

    def test_denoise(self):
        key, score_fn = jax.random.key(0), self.data.score_fn(self.sde)
        sampler = self._sampler()

        @jax.jit
        def run():
            modes = {
                d: self._sampler(d)(key, score_fn, (4, 2)) for d in ("none", "mean", "tweedie")
            }
            return modes, sampler.advance(key, score_fn, sampler.begin(key, (4, 2)), 0, 12)

        results, (x, mean, _) = run()
        alpha, sigma = self.sde.marginal(jnp.asarray(1e-3))
        t = jnp.full(4, 1e-3)
        assert_close(results["none"].x, x, 1e-6)
        assert_close(results["mean"].x, mean, 1e-6)
        assert_close(results["tweedie"].x, (x + sigma**2 * score_fn(x, t)) / alpha, 1e-6)
        assert float(jnp.max(jnp.abs(x - mean))) > 1e-4
        assert {d: r.nfe for d, r in results.items()} == {"none": 24, "mean": 24, "tweedie": 25}

    def test_evaluations_are_the_number_of_calls(self):
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
            assert len(calls) == sampler.evaluations
            assert max(calls) == pytest.approx(1.0)
            assert min(calls) == pytest.approx(1e-3)
        assert Sampler(self.sde, Identity(), self.times, "none").evaluations == 0

    def test_every_draw_is_new(self):
        """Noise differs between prior, steps, draws and samples; it is standard normal."""
        seen = []

        class Recorder(Langevin):
            def __call__(self, score_fn, x, t, s, noise, carry):
                for j in range(self.draws):
                    jax.debug.callback(lambda z: seen.append(np.asarray(z)), noise(j))
                return x, x, carry

        sampler = Sampler(self.sde, Recorder(0.1, 2), self.times, "none")
        for keys in (jax.random.key(0), sample_keys(jax.random.key(0), jnp.arange(500))):
            seen.clear()
            prior = sampler(keys, lambda x, t: x, (500, 2)).x
            jax.effects_barrier()
            values = np.concatenate(
                [np.concatenate(seen).reshape(-1), np.asarray(prior).reshape(-1)]
            )
            assert values.size == 500 * 2 * (12 * 2 + 1)
            assert len(np.unique(values)) > 0.99 * values.size
            assert abs(values.std() - 1) < 4 / np.sqrt(2 * values.size)

    def test_prior_is_that_of_the_process(self):
        sampler = Sampler(EDM(), Identity(), grids.uniform(EDM(), 2), "none")
        x = sampler.begin(jax.random.key(0), (20000,)).x
        assert float(jnp.std(x)) == pytest.approx(80, rel=0.02)

    def test_network_that_divides_by_sigma_survives_the_clean_index(self):
        """A chain ends at index -1, where sigma = 0: no denoising is left, nothing is infinite."""
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
        with pytest.raises(
            ValueError, match="denoise must be 'tweedie', 'mean' or 'none'; got 'yes'"
        ):
            Sampler(self.sde, Identity(), self.times, "yes")
        with pytest.raises(ValueError, match="a time grid is"):
            Sampler(self.sde, Identity(), np.zeros((3, 3)))
