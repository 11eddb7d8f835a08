"""The schema: types, ranges, unknown names, missing entries, and what follows from entries."""

import dataclasses
import math
from typing import Any

import pytest
from small import settings

from score_sde.build.experiment import complete
from score_sde.build.settings import (
    OPEN,
    SECTIONS,
    Entry,
    Eval,
    Optim,
    Sampling,
    Settings,
    Training,
    changeable,
    defaults,
    depends,
    entries,
    entry,
    read,
    typed,
)
from score_sde.errors import UserError


def values() -> dict[str, Any]:
    return settings("ve").to_dict()


# Refusals. Each message names the entry, what was received, and what is possible.


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("sde.sigma_max=1e999", r"config.sde.sigma_max must be a finite number; got inf"),
        ("optim.lr=-1", r"config.optim.lr must be positive; got -1.0"),
        ("optim.lr=1e999", r"config.optim.lr must be a finite number"),
        ("optim.eps=0", r"config.optim.eps must be positive; got 0.0"),
        ("optim.beta1=1", r"config.optim.beta1 must be in \[0, 1\); got 1.0"),
        ("optim.beta1=-0.1", r"config.optim.beta1 must be in \[0, 1\); got -0.1"),
        ("optim.warmup=-1", r"config.optim.warmup must be at least 0; got -1"),
        ("optim.grad_clip=-1", r"config.optim.grad_clip must be at least 0; got -1.0"),
        ("optim.weight_decay=-1", r"config.optim.weight_decay must be at least 0; got -1.0"),
        ("training.batch_size=0", r"config.training.batch_size must be at least 1; got 0"),
        ("training.steps_per_call=0", r"config.training.steps_per_call must be at least 1"),
        ("training.checkpoint_every=0", r"config.training.checkpoint_every must be at least 1"),
        ("training.keep=0", r"config.training.keep must be at least 1"),
        ("training.eval_every=-1", r"config.training.eval_every must be at least 0; got -1"),
        ("training.ema_rate=1.0", r"config.training.ema_rate must be in \[0, 1\); got 1.0"),
        (
            "training.likelihood_weighting=2",
            r"config.training.likelihood_weighting must be in \[0, 1\]; got 2.0",
        ),
        (
            "training.likelihood_weighting=-0.1",
            r"config.training.likelihood_weighting must be in \[0, 1\]; got -0.1",
        ),
        (
            "training.likelihood_weighting=1e999",
            r"config.training.likelihood_weighting must be a finite number",
        ),
        ("training.reduce=foo", r"config.training.reduce must be one of mean, sum; got 'foo'"),
        ("sampling.compat=foo", r"config.sampling.compat must be one of none, published; got 'f"),
        ("sampling.norm=foo", r"config.sampling.norm must be one of sample, batch; got 'foo'"),
        ("sampling.variance=foo", r"config.sampling.variance must be one of posterior, forward"),
        ("sampling.denoise=foo", r"config.sampling.denoise must be one of tweedie, mean, none"),
        ("sampling.start=foo", r"config.sampling.start must be one of prior, uniform"),
        ("sampling.snr=0", r"config.sampling.snr must be positive; got 0.0"),
        ("sampling.steps=0", r"config.sampling.steps must be at least 1; got 0"),
        ("sampling.t_end=-1", r"config.sampling.t_end must be at least 0; got -1.0"),
        ("sampling.num_samples=0", r"config.sampling.num_samples must be at least 1"),
        ("data.levels=1", r"config.data.levels must be in \[2, 65536\]; got 1"),
        ("data.levels=65537", r"config.data.levels must be in \[2, 65536\]; got 65537"),
        ("data.image_size=-3", r"config.data.image_size must be at least 0; got -3"),
        ("eval.batch_size=0", r"config.eval.batch_size must be at least 1; got 0"),
        ("eval.passes=0", r"config.eval.passes must be at least 1"),
        ("eval.probes=-2", r"config.eval.probes must be at least -1; got -2"),
        ("eval.split=foo", r"config.eval.split must be one of train, test; got 'foo'"),
        ("eval.dequantization=foo", r"config.eval.dequantization must be one of uniform, var"),
        ("eval.rtol=0", r"config.eval.rtol must be positive; got 0.0"),
        ("quality.num_samples=1", r"config.quality.num_samples must be at least 2; got 1"),
        ("dequantizer.lr=0", r"config.dequantizer.lr must be positive; got 0.0"),
        ("seed=-1", r"config.seed must be in \[0, 2\^32\); got -1"),
        ("seed=4294967296", r"config.seed must be in \[0, 2\^32\); got 4294967296"),
        ("name=", r"config.name .*got ''"),
    ],
)
def test_impossible_values_are_refused(override: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        settings("ve", override)


@pytest.mark.parametrize("section", [*OPEN, *SECTIONS])
def test_what_is_no_section_is_refused(section: str) -> None:
    with pytest.raises(UserError, match=rf"config.{section} must be a section of entries; got 3"):
        read(values() | {section: 3})


@pytest.mark.parametrize("section", SECTIONS)
def test_unknown_entries_are_refused_with_the_nearest(section: str) -> None:
    known = entries(SECTIONS[section])
    name = next(iter(known))
    wrong = {section: values()[section] | {f"{name}s": 1.0}}
    with pytest.raises(
        UserError,
        match=rf"config.{section}: '{name}s' means nothing here. Did you mean '{name}'\? Known: ",
    ):
        read(values() | wrong)


def test_unknown_sections_are_refused_with_the_nearest() -> None:
    with pytest.raises(UserError, match=r"config: 'sampler' .*Did you mean 'sampling'\?"):
        read(values() | {"sampler": {}})


@pytest.mark.parametrize(
    ("default", "value", "wanted"),
    [
        (1.0, 2, 2.0),
        (1.0, 0.5, 0.5),
        (1, 1e6, 1_000_000),
        (True, False, False),
        ((1, 2), [3], (3,)),
        ((1, 2), (3,), (3,)),
        ("a", "b", "b"),
    ],
)
def test_values_take_the_type_of_the_default(default: Any, value: Any, wanted: Any) -> None:
    found = typed("config.a.b", default, value)
    assert found == wanted and type(found) is type(wanted)


@pytest.mark.parametrize(
    ("default", "value"),
    [
        (1.0, "2"),
        (1.0, True),
        (1, 1.5),
        (1, True),
        (True, 1),
        ("a", 1),
        ((1,), 1),
        (1, math.inf),
        (1.0, 10**400),
    ],
)
def test_values_of_another_type_are_refused(default: Any, value: Any) -> None:
    kind = type(default).__name__
    with pytest.raises(UserError, match=rf"config.a.b must be of type {kind}, .*got {value!r}"):
        typed("config.a.b", default, value)


@pytest.mark.parametrize(
    ("entry_", "value", "kind"),
    [("model.nf", "many", "int"), ("sde.sigma_max", "big", "float"), ("model.fir", 1, "bool")],
)
def test_entries_of_open_sections_have_types_too(entry_: str, value: Any, kind: str) -> None:
    section, name = entry_.split(".")
    wrong = values()
    wrong[section][name] = value
    with pytest.raises(UserError, match=rf"config.{entry_} must be of type {kind}, .*got"):
        complete(read(wrong))


# What is missing


@pytest.mark.parametrize("section", SECTIONS)
def test_missing_sections_and_entries_take_their_defaults(section: str) -> None:
    given = values()
    del given[section]
    assert read(given).to_dict()[section] == defaults()[section]
    name = next(iter(entries(SECTIONS[section])))
    given[section] = {key: value for key, value in values()[section].items() if key != name}
    found = read(given).to_dict()[section]
    assert found == values()[section] | {name: defaults()[section][name]}


@pytest.mark.parametrize(
    ("entry_", "default"),
    [
        ("model.prediction", "score"),
        ("model.dtype", "float32"),
        ("model.nf", 128),
        ("sde.t_min", 1e-5),
        ("sde.sigma_max", 50.0),
    ],
)
def test_missing_entries_of_open_sections_are_the_objects(entry_: str, default: Any) -> None:
    section, name = entry_.split(".")
    given = values()
    del given[section][name]
    assert complete(read(given)).to_dict()[section][name] == default


@pytest.mark.parametrize(
    ("recipe", "entry_", "default"), [("smld", "n", 1000), ("ddpm", "n", 1000)]
)
def test_missing_entries_of_chains_are_theirs(recipe: str, entry_: str, default: Any) -> None:
    given = settings(recipe, "sde.n=500").to_dict()
    del given["sde"][entry_]
    assert complete(read(given)).sde[entry_] == default


@pytest.mark.parametrize("section", OPEN)
def test_which_object_is_meant_must_be_said(section: str) -> None:
    given = values()
    del given[section]["name"]
    with pytest.raises(UserError, match=rf"config.{section}.name is missing"):
        read(given)
    del given[section]
    with pytest.raises(UserError, match=rf"config.{section}.name is missing"):
        read(given)


def test_seed_and_name() -> None:
    given = values()
    del given["seed"]
    assert read(given).seed == 42
    for wrong in ("", 3, None):
        with pytest.raises(UserError, match=rf"config.name .*got {wrong!r}"):
            read(given | {"name": wrong})
    for wrong in (1.5, True, "7"):
        with pytest.raises(UserError, match=rf"config.seed .*got {wrong!r}"):
            read(given | {"seed": wrong})


# Entries and what follows from them


@pytest.mark.parametrize(
    ("about", "words", "holds", "fails"),
    [
        (Entry("", least=1), "at least 1", [1, 7], [0]),
        (Entry("", above=0), "positive", [1e-9], [0, -1]),
        (Entry("", least=0, below=1), "in [0, 1)", [0, 0.5], [1, -0.1]),
        (Entry("", least=0, most=1), "in [0, 1]", [0, 1], [1.1, -0.1]),
        (Entry("", above=0, below=1), "in (0, 1)", [0.5], [0, 1]),
        (Entry("", choices=("a", "b")), "one of a, b", ["a"], ["c"]),
        (Entry(""), "", [0, -1, "x"], []),
    ],
)
def test_ranges(about: Entry, words: str, holds: list, fails: list) -> None:
    assert about.range == words
    assert all(about.holds(value) for value in holds)
    assert not any(about.holds(value) for value in fails)


def test_defaults_are_of_their_types_and_ranges_and_new_each_time() -> None:
    for kind in SECTIONS.values():
        for name, (field, about) in entries(kind).items():
            assert about.meaning and about.holds(field.default), name
            assert typed(name, field.default, field.default) == field.default
    defaults()["optim"]["lr"] = 7.0
    assert defaults()["optim"]["lr"] == 2e-4


def test_settings_are_values() -> None:
    found = settings("ve")
    assert found == settings("ve") == complete(read(found.to_dict()))
    other = found.change("optim", lr=1.0).change("sde", sigma_max=3.0).change("model", nf=8)
    assert (other.optim.lr, other.sde.sigma_max, other.model.nf) == (1.0, 3.0, 8)
    assert (found.sde.sigma_max, found.optim.lr) == (10.0, 1e-3) and found != other
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.optim.lr = 3.0
    assert isinstance(found, Settings) and found.to_dict()["training"]["from"] == ""


def test_what_stored_results_depend_on() -> None:
    assert {"predictor", "snr", "steps", "t_end"} <= depends(Sampling(), "samples").keys()
    assert not {"num_samples", "batch_size", "frames"} & depends(Sampling(), "samples").keys()
    assert depends(Eval(rtol=0.5), "flow") == {
        "solver": "dopri5",
        "rtol": 0.5,
        "atol": 1e-4,
        "variable": "t",
    }
    assert {"probes", "bits_tol", "bound_draws"} <= depends(Eval(), "likelihood").keys()
    assert depends(Optim(), "samples") == {}


def test_an_entry_added_later_leaves_no_trace_at_its_default() -> None:
    @dataclasses.dataclass(frozen=True)
    class Section:
        old: int = entry(1, "there from the beginning", affects=("samples",))
        new: int = entry(0, "added later", affects=("samples",), added=True)

    assert depends(Section(), "samples") == {"old": 1}
    assert depends(Section(new=3), "samples") == {"old": 1, "new": 3}


def test_what_may_change_between_starts() -> None:
    assert all(changeable(name) for name in ("training.steps", "training.keep_every", "data.path"))
    assert all(changeable(name) for name in ("sampling.snr", "eval.rtol", "model.remat"))
    fixed = ("training.batch_size", "training.from", "optim.lr", "sde.sigma_max", "model.nf")
    assert not any(changeable(name) for name in (*fixed, "seed", "name", "data.source"))
    assert entries(Training)["from"][0].name == "from_run"
