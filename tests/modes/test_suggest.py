"""--mode suggest: noise scales and step size for a data set."""

import pytest
from commands import refused
from runs import call

from score_sde.errors import UserError
from score_sde.workdir import config as configurations

RECIPE = "ncsnv2/ncsnv2:digits"


def test_suggest_writes_a_configuration(tmp_path, capsys):
    """On digits: largest distance 4.815; 64 dimensions and the budget of the recipe."""
    call("suggest", config=RECIPE, output=str(tmp_path / "mine" / "c.json"))
    config = configurations.load(str(tmp_path / "mine" / "c.json"))
    recipe = configurations.load(RECIPE)
    found = configurations.differences(recipe, config)
    assert set(found) <= {"sde.sigma_max", "sampling.snr"}
    assert config.sde.sigma_max == pytest.approx(4.815) and config.sde.n == 22
    assert config.sampling.snr == pytest.approx(recipe.sampling.snr, rel=2e-3)
    out = capsys.readouterr().out
    assert (
        "overlap 0.567" in out
        and "overlap 0.5 " in out.replace("\n", " ")
        and "published" not in out
    )


def test_suggest_takes_the_variant_of_the_network_for_the_images(tmp_path):
    call("suggest", config=RECIPE, output=str(tmp_path / "c.json"), values={"model.variant": "256"})
    assert configurations.load(str(tmp_path / "c.json")).model.variant == "64"


def test_suggest_compares_with_the_published_settings(capsys):
    """Shown before the data are opened, which are not here."""
    for dataset, numbers in {"cifar10": (232, 219), "ffhq_256": (2311, 2182)}.items():
        with pytest.raises(UserError):
            call(
                "suggest",
                config=f"configs/ncsnv2/ncsnv2.py:{dataset}",
                values={"data.path": "nowhere"},
            )
        line = next(
            x for x in capsys.readouterr().out.splitlines() if x.startswith("n, number of scales")
        )
        assert line.split()[-3:] == [str(n) for n in (*numbers, numbers[0])]


def test_suggest_measures_in_the_range_of_the_model(tmp_path):
    """Pixels in [-1, 1] are twice as far apart."""
    recipe, values = "ve/ncsnpp_cont:digits", {"data.centered": True}
    call("suggest", config=recipe, output=str(tmp_path / "c.json"), values=values)
    assert configurations.load(str(tmp_path / "c.json")).sde.sigma_max == pytest.approx(
        2 * 4.815, abs=2e-3
    )


def test_suggest_for_a_ve_recipe_changes_sigma_max_alone(tmp_path):
    call("suggest", config="ve/ncsnpp_cont:digits", output=str(tmp_path / "c.json"))
    found = configurations.differences(
        configurations.load("ve/ncsnpp_cont:digits"),
        configurations.load(str(tmp_path / "c.json")),
    )
    assert set(found) == {"sde.sigma_max"}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"config": "vp/ddpmpp_cont:digits"}, "vp has no noise scales to choose"),
        ({"config": RECIPE, "output": "a.txt"}, "must be a .json file"),
    ],
)
def test_refusals(flags, message):
    refused(message, "suggest", **flags)
