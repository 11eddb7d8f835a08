"""config.model: the network, and how its output becomes a score."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small import RECIPES, settings

from score_sde.build.assemble import build
from score_sde.build.experiment import complete
from score_sde.build.network import build_network, build_parameterization
from score_sde.build.process import build_process
from score_sde.build.settings import Section, read
from score_sde.errors import UserError
from score_sde.networks import DDPM
from score_sde.sde import VP, SubVP


@pytest.mark.parametrize(
    ("recipe", "override", "message"),
    [
        ("ve", "model.name=foo", r"config.model.name: unknown name 'foo'; known: ncsnpp, ddpm"),
        (
            "ve",
            "model.dtype=foo",
            r"config.model.dtype: unknown name 'foo'; known: float32, bfloat16",
        ),
        (
            "ve",
            "model.prediction=foo",
            r"config.model.prediction: unknown name 'foo'; known: score, noise, edm, v, velocity",
        ),
        ("ve", "model.prediction=noise", r"scale_by_sigma .*prediction=noise; set scale_by_sigma"),
        ("ve", "model.prediction=edm", r"scale_by_sigma .*prediction=edm; set scale_by_sigma"),
        ("ve", "model.prediction=v", r"scale_by_sigma .*prediction=v; set scale_by_sigma"),
        ("ve", "model.prediction=velocity", r"scale_by_sigma .*prediction=velocity; set"),
        (
            "ve",
            "model.activation=foo",
            r"config.model: .*activation must be one of 'swish'.*got 'foo'",
        ),
        (
            "ve",
            "model.embedding=foo",
            r"config.model: .*embedding must be one of 'fourier', 'positional'",
        ),
        (
            "ve",
            "model.progressive=foo",
            r"config.model: .*progressive must be one of 'none', 'output_skip'",
        ),
        ("ve", "model.nf=0", r"config.model.nf must be at least 1; got 0"),
        ("ve", "model.nf=7", r"config.model: GroupNorm cannot divide"),
        ("ddpm", "model.nf=48", r"config.model: .*multiples of 32"),
        ("ve", "model.num_res_blocks=-1", r"config.model.num_res_blocks must be at least 0; got"),
        ("ve", "model.ch_mult=()", r"config.model.ch_mult must be whole numbers from 1 on.*got \("),
        ("ve", "model.ch_mult=(1,2.5)", r"config.model.ch_mult must be whole .*got \(1, 2.5\)"),
        ("ve", "model.ch_mult=(1,0)", r"config.model.ch_mult must be whole .*got \(1, 0\)"),
        ("ve", "model.ch_mult=(1,2,2,2,2)", r"config.model: .*multiples of 16; got 8 x 8"),
        ("ve", "model.attn_resolutions=('a',)", r"config.model.attn_resolutions must be image he"),
        ("ve", "model.fir_kernel=()", r"config.model: .*fir_kernel needs taps"),
        ("ve", "model.dropout=1.5", r"config.model.dropout must be in \[0, 1\); got 1.5"),
        ("ve", "model.fourier_scale=-1", r"config.model.fourier_scale must be 0 or positive; got"),
        ("ve", "model.init_scale=-1", r"config.model.init_scale must be 0 or positive; got -1.0"),
        ("ve", "data.image_size=9", r"config.model: .*multiples of 2; got 9 x 9"),
    ],
)
def test_impossible_values_are_refused(recipe: str, override: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(settings(recipe, override))


def test_unknown_entries_are_refused_with_the_nearest() -> None:
    found = settings("ve").change("model", num_blocks=1)
    with pytest.raises(
        UserError, match=r"config.model: 'num_blocks' .*Did you mean 'num_res_blocks'\? Known:"
    ):
        build(found)
    with pytest.raises(UserError, match=r"config.model: 'scale_by_sigma' means nothing here"):
        build_network(
            Section({"name": "ncsn", "scale_by_sigma": True}), build_process(settings("smld").sde)
        )


def test_ncsn_needs_a_chain() -> None:
    with pytest.raises(UserError, match=r"config.model.name=ncsn .*sde.name=smld"):
        build_network(Section({"name": "ncsn"}), VP())
    chain = build_process(settings("smld").sde)
    assert build_network(Section({"name": "ncsn"}), chain).num_classes == 1000


def test_attention_at_a_height_that_does_not_occur_is_accepted() -> None:
    """It means no attention there: the default 16 must not forbid images of other sizes."""
    parameters = []
    for heights in ("(4,)", "(16,)", "()"):
        task = build(settings("vp", f"model.attn_resolutions={heights}")).task
        params = jax.eval_shape(lambda task=task: task.init(jax.random.key(0), (8, 8, 1)))
        parameters.append(sum(leaf.size for leaf in jax.tree.leaves(params)))
    assert parameters[0] > parameters[1] == parameters[2]


def test_labels_and_scores_of_each_recipe() -> None:
    """The label the embedding is made for, and the factor from the output to the score."""
    t = jnp.asarray([0.25, 0.75])
    found = {}
    for recipe in RECIPES:
        values = settings(recipe)
        process = build_process(values.sde)
        times = t if recipe in ("ve", "vp", "subvp") else 999 * jnp.asarray([0.0, 1.0])
        made = build_parameterization(values, process)
        found[recipe] = np.asarray(made.c_noise(times)), np.asarray(made.c_out(times))
    np.testing.assert_allclose(found["ve"][0], 0.01 * 1000 ** np.asarray(t), rtol=1e-5)  # sigma
    np.testing.assert_allclose(found["ve"][1], 1.0)
    np.testing.assert_allclose(found["vp"][0], 999 * t, rtol=1e-6)
    np.testing.assert_allclose(found["vp"][1], -1 / VP().marginal(t)[1], rtol=1e-6)
    np.testing.assert_allclose(found["subvp"][1], -1 / SubVP().marginal(t)[1], rtol=1e-6)
    np.testing.assert_allclose(found["smld"][0], [999, 0])  # 0 is the largest noise
    np.testing.assert_allclose(found["smld"][1], 1.0)
    np.testing.assert_allclose(found["ddpm"][0], [0, 999])
    np.testing.assert_allclose(found["ddpm"][1], [-100.0, -1.0], rtol=1e-4)


def test_output_is_divided_by_sigma_where_the_configuration_says_so() -> None:
    for recipe, times, sigmas in (
        ("ve", [0.0, 1.0], [0.01, 10.0]),
        ("smld", [0.0, 999.0], [0.01, 10.0]),
    ):
        values = settings(recipe)
        process = build_process(values.sde)
        made = build_parameterization(values, process)
        np.testing.assert_allclose(made.sigma(jnp.asarray(times)), sigmas, rtol=1e-5)
        undivided = values.change("model", scale_by_sigma=False)
        assert build_parameterization(undivided, process).sigma is None
        silent = values.to_dict()
        del silent["model"]["scale_by_sigma"]  # NCSN++ has always divided where nothing is said
        for found in (read(silent), complete(read(silent))):
            assert build_parameterization(found, process).sigma is not None
    values = settings("ddpm")
    assert build_parameterization(values, build_process(values.sde)).sigma is None
    assert isinstance(build_network(values.model, VP()), DDPM)


def test_edm_preconditioning_and_label_through_the_settings() -> None:
    """Karras et al. 2022, table 1: written for the denoiser (x + sigma^2 score)."""
    sigma = jnp.asarray([0.002, 0.4, 80.0])
    values = settings("edm", "data.std=0.6")
    made = build_parameterization(values, build_process(values.sde))
    total = np.asarray(sigma) ** 2 + 0.36
    np.testing.assert_allclose(
        1 + sigma**2 * made.c_skip(sigma), 0.36 / total, rtol=1e-5, atol=2e-7
    )
    np.testing.assert_allclose(
        sigma**2 * made.c_out(sigma), sigma * 0.6 / np.sqrt(total), rtol=1e-5
    )
    np.testing.assert_allclose(made.c_in(sigma), 1 / np.sqrt(total), rtol=1e-6)
    np.testing.assert_allclose(made.c_noise(sigma), np.log(sigma) / 4, rtol=1e-6)
    assert not made.centre and made.sigma is None


def test_networks_with_fourier_features_take_the_logarithm_of_edms_label_themselves() -> None:
    values = settings("edm", "model.embedding=fourier")
    made = build_parameterization(values, build_process(values.sde))
    sigma = jnp.asarray([0.002, 0.4, 80.0])
    np.testing.assert_allclose(jnp.log(made.c_noise(sigma)), np.log(sigma) / 4, rtol=1e-5)


def test_edms_label_under_other_processes() -> None:
    """The noise level is sigma/alpha; NCSN keeps the index, for which it has parameters."""
    values, t = settings("vp", "model.prediction=edm"), jnp.asarray([0.1, 0.9])
    alpha, sigma = VP().marginal(t)
    label = build_parameterization(values, VP()).c_noise(t)
    np.testing.assert_allclose(label, np.log(sigma / alpha) / 4, rtol=1e-5)
    chain = build_process(settings("smld").sde)
    ncsn = values.change("model", name="ncsn")
    np.testing.assert_allclose(build_parameterization(ncsn, chain).c_noise(t), 999 - t)


def test_v_and_velocity_through_the_settings() -> None:
    """v = alpha z - sigma x0 with alpha^2 + sigma^2 = 1; u = z - x0 with alpha + sigma = 1."""
    t = jnp.asarray([0.1, 0.9])
    alpha, sigma = VP().marginal(t)
    values = settings("vp", "model.prediction=v")
    made = build_parameterization(values, VP())
    np.testing.assert_allclose(made.c_out(t), -alpha / sigma, rtol=1e-5)
    np.testing.assert_allclose(made.c_skip(t), -1.0, rtol=1e-5)
    np.testing.assert_allclose(made.c_noise(t), 999 * t)
    values = settings("straight")
    made = build_parameterization(values, build_process(values.sde))
    np.testing.assert_allclose(made.c_out(t), -(1 - t) / t, rtol=1e-5)
    np.testing.assert_allclose(made.c_skip(t), -1 / t, rtol=1e-5)
    np.testing.assert_allclose(made.c_noise(t), 999 * t)


def test_data_in_the_unit_interval_are_centred_for_the_network() -> None:
    assert build_parameterization(settings("ve"), build_process(settings("ve").sde)).centre
    assert not build_parameterization(settings("vp"), build_process(settings("vp").sde)).centre
