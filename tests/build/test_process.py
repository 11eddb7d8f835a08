"""config.sde: the forward process."""

import jax.numpy as jnp
import numpy as np
import pytest
from small import settings

from score_sde.build.process import PROCESSES, build_process, process_defaults
from score_sde.build.settings import Section
from score_sde.errors import UserError
from score_sde.sde import EDM, CosineVP, StraightPath, SubVP


@pytest.mark.parametrize(
    ("recipe", "override", "message"),
    [
        (
            "ve",
            "sde.name=foo",
            r"config.sde.name: unknown name 'foo'; known: ve, vp, subvp, edm, cosine, straight",
        ),
        (
            "ve",
            "sde.name=vp",
            r"config.sde: 'sigma_m\w\w' means nothing here.*Known: beta_max, beta_min, t_m",
        ),
        (
            "ve",
            "sde.sigma_min=60",
            r"config.sde: sigma_min must be in \(0, sigma_max\); got sigma_min=60.0",
        ),
        (
            "ve",
            "sde.sigma_min=0",
            r"config.sde: sigma_min must be in \(0, sigma_max\); got sigma_min=0.0",
        ),
        ("ve", "sde.t_min=-1", r"config.sde: t_min must be in \[0, t_max\); got t_min=-1.0"),
        ("ve", "sde.t_min=2", r"config.sde: t_min must be in \[0, t_max\); got t_min=2.0"),
        (
            "vp",
            "sde.beta_min=30",
            r"config.sde: beta_min must be in \(0, beta_max\]; got beta_min=30.0",
        ),
        ("ddpm", "sde.n=10", r"config.sde: beta_max must be below n.*got beta_max=20.0, n=10"),
        ("ddpm", "sde.n=0", r"config.sde.n must be at least 1; got 0"),
        ("straight", "sde.t_max=1", r"config.sde: t_max must be below 1.*got t_max=1.0"),
        ("smld", "sde.n=-4", r"config.sde.n must be at least 1; got -4"),
        ("smld", "sde.sigma_min=60", r"config.sde: sigma_min must be in"),
    ],
)
def test_impossible_values_are_refused(recipe: str, override: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_process(settings(recipe, override).sde)


def test_unknown_entries_are_refused_with_the_nearest() -> None:
    with pytest.raises(UserError, match=r"config.sde: 'sigma_maxx' .*Did you mean 'sigma_max'\?"):
        build_process(settings("ve").change("sde", sigma_maxx=1.0).sde)


def test_processes() -> None:
    assert build_process(Section({"name": "subvp", "beta_max": 10.0})) == SubVP(beta_max=10.0)
    assert build_process(Section({"name": "edm", "t_max": 50.0})) == EDM(t_max=50.0)
    assert build_process(Section({"name": "cosine"})) == CosineVP()
    straight = {"name": "straight", "t_max": 0.9}
    assert build_process(Section(straight)) == StraightPath(t_max=0.9)
    smld = {"name": "smld", "sigma_min": 0.1, "sigma_max": 10.0, "n": 3}
    np.testing.assert_allclose(build_process(Section(smld)).sigmas, [0.1, 1.0, 10.0])
    ddpm = {"name": "ddpm", "beta_min": 0.1, "beta_max": 0.3, "n": 2}
    np.testing.assert_allclose(build_process(Section(ddpm)).alphas ** 2, [0.95, 0.95 * 0.85])


@pytest.mark.parametrize("name", PROCESSES)
def test_defaults_are_the_objects(name: str) -> None:
    given = build_process(Section({"name": name} | process_defaults(name)))
    t = jnp.linspace(given.t_min, given.t_max, 5)
    for a, b in zip(given.marginal(t), build_process(Section({"name": name})).marginal(t)):
        np.testing.assert_array_equal(a, b)
