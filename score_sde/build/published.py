"""What the published codes leave to our settings: how they differ, and what they cannot express."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from score_sde.build.experiment import complete
from score_sde.build.network import build_network
from score_sde.build.process import build_process
from score_sde.build.settings import Optim, Settings, read
from score_sde.convert.published import Published, entries, module_names
from score_sde.convert.table import flatten
from score_sde.errors import UserError
from score_sde.networks.ncsn import variant_for

UNUSED_SIGMAS = {"sigma_min": 0.01, "sigma_max": 50.0, "n": 1000}
"""The noise levels that PyTorch's VP models carry along, those of its default configurations."""
EXTENT = {
    "sde.n": 100_000,
    "sampling.steps": 100_000,
    "data.image_size": 8192,
    "data.channels": 1024,
    "model.nf": 8192,
    "model.num_res_blocks": 32,
    "model.ch_mult": 16,
    "model.attn_resolutions": 16,
    "model.fir_kernel": 64,
}
"""The most of each that is imported, with room to spare; of tuples, entries."""
SHAPELESS = (
    *("dropout", "activation", "dtype", "remat", "remat_keep", "prediction"),
    *("scale_by_sigma", "init_scale", "fourier_scale"),
)
"""Entries of config.model that names and shapes of weights do not depend on."""


def check_extent(settings: Settings) -> None:
    """Raises UserError for numbers that no published model comes near.

    Such numbers would take all memory, or endless time.
    """
    values = settings.to_dict()
    for name, most in EXTENT.items():
        section, entry = name.split(".")
        value = values[section].get(entry, 0)
        size = len(value) if isinstance(value, tuple) else value
        if isinstance(size, int | float) and not size <= most:
            raise UserError(
                f"config.{name}={value!r:.100} is more than {most}, the most that can be imported"
            )


def with_original(settings: Settings, changes: Mapping[str, Mapping[str, Any]]) -> Settings:
    """The settings of a recipe, changed as an original configuration says.

    Raises:
        UserError: an entry that is none of ours.
    """
    values = settings.to_dict()
    for section, entries_ in changes.items():
        other = entries_.get("name", values[section].get("name")) if section == "model" else None
        same = other is None or other == values[section]["name"]
        values[section] = {**(values[section] if same else {}), **entries_}
    return complete(read(values))


def follow_code(settings: Settings, published: Published) -> Settings:
    """With what the codes differ in and do not say: how RefineNets resize, normalize and narrow."""
    name = settings.model.name
    if name not in ("ncsn", "ncsnv2"):
        return settings
    flax = published.format == "msgpack"
    changes: dict[str, Any] = {
        "resize": "half_pixel" if flax else "corner_aligned",
        "channel_variance": "C" if flax else "C-1",
        "narrowed": "last" if flax else "third",
    }
    if name == "ncsn":
        changes["plus"] = _has_means(published)
    return settings.change("model", **changes)


def _has_means(published: Published) -> bool:
    """Whether conditional normalizations have a gain for channel means (CondInstanceNorm++).

    Then they have 3 numbers a channel, else 2.
    """
    names = ("normalizer.embed.weight", "ConditionalInstanceNorm2dPlus_0/Embed_0/embedding")
    for name, array in flatten(published.params):
        if name in names:
            thirds = array.ndim == 2 and array.shape[1] % 3 == 0
            return thirds and array.shape[1] // 3 == _width(published)
    return True


def _width(published: Published) -> int:
    """Channels behind the first convolution, which are those in front of the last normalization."""
    first = {"begin_conv.bias", "Conv_0/bias"}
    return next((array.size for name, array in flatten(published.params) if name in first), 0)


def refinenet_variant(published: Published) -> str:
    """The variant of a RefineNet, by the number of its refine blocks.

    Configurations do not always tell it.
    """
    count = sum("refine" in name.lower() for name in published.modules)
    return {5: "128", 6: "256"}.get(count, "64")


def structure(settings: Settings) -> str:
    """What names and shapes of a network depend on."""
    values = {name: v for name, v in settings.model.items() if name not in SHAPELESS}
    values |= {name: getattr(settings.data, name) for name in ("image_size", "channels")}
    if settings.model.name == "ncsn":
        values["n"] = settings.sde.n
    return repr(sorted(values.items()))


def modules_of(settings: Settings, published: Published) -> frozenset[str]:
    """Names of the modules that the network of the settings has in the published code."""
    network: Any = build_network(settings.model, build_process(settings.sde))
    return module_names(network, settings.data.image_size, published.format)


def misfit(published: Published, settings: Settings) -> tuple[int, str | None]:
    """(number of arrays that one of file and network has alone, why the weights do not fit).

    The reason is None where they fit.
    """
    network: Any = build_network(settings.model, build_process(settings.sde))
    shape = (settings.data.image_size, settings.data.image_size, settings.data.channels)
    table, unused = entries(network, shape[0])
    names = {
        entry.flax if published.format == "msgpack" else entry.torch for entry in (*table, *unused)
    }
    reason = published.misfit(table, shapes_of(network, shape), unused)
    return len(names ^ published.names), reason


def shapes_of(network: nn.Module, shape: tuple[int, int, int]) -> Any:
    """Shapes of a network's parameters, as a pytree."""
    x, labels = jnp.zeros((1, *shape)), jnp.ones((1,))
    return jax.eval_shape(network.init, jax.random.key(0), x, labels)["params"]


def sigmas_differ(published: Published, settings: Settings) -> str | None:
    """How the noise levels in the file differ from those of VE settings.

    None where they do not, or are not there.
    """
    process = settings.sde
    if published.sigmas is None or process["name"] not in ("ve", "smld"):
        return None
    if not published.sigmas.size:
        return None
    ends = (float(published.sigmas.min()), float(published.sigmas.max()))
    ours = (process["sigma_min"], process["sigma_max"])
    count = published.sigmas.size
    if np.allclose(ends, ours, rtol=1e-3) and count == process.get("n", count):
        return None
    levels = f", {process['n']} of them" if "n" in process else ""
    return (
        f"its {count} noise levels run from {ends[0]:.6g} to {ends[1]:.6g}, those of the "
        f"configuration from {ours[0]} to {ours[1]}{levels} (config.sde)"
    )


# Export


def check_expressible(settings: Settings) -> None:
    """Raises UserError, saying why, for a model that the PyTorch codes do not have."""
    model, process = settings.model, settings.sde.name
    ve = process in ("ve", "smld")
    needed: dict[str, Any] = {"prediction": "score" if ve else "noise"}
    if model["name"] == "ncsn":
        raise UserError(
            "the code of NCSN keeps one set of weights, not averaged ones beside them; it is not "
            "exported"
        )
    if process not in ("ve", "smld", "vp", "ddpm", "subvp"):
        raise UserError(
            f"the PyTorch code has no process config.sde.name={process}; it has ve, smld, vp, ddpm "
            "and subvp"
        )
    if model["name"] == "ncsnv2":
        needed |= {"resize": "corner_aligned", "channel_variance": "C-1", "narrowed": "third"}
        needed["scale_by_sigma"] = True
        if process != "smld":
            raise UserError(
                f"NCSNv2's code has discrete noise levels alone (sde.name=smld), not {process}"
            )
    elif model["name"] == "ddpm":
        needed["up_attention"] = "last"
        if process == "ve":
            raise UserError(
                "the PyTorch code gives sigma itself, not time, to a DDPM network under the "
                "continuous VE SDE"
            )
    elif model["name"] == "ncsnpp":
        needed["embedding"] = "fourier" if process == "ve" else "positional"
    wrong = [f"{n}={model[n]} (its is {v})" for n, v in needed.items() if model[n] != v]
    if wrong:
        raise UserError(f"the PyTorch code has no such model: config.model.{', '.join(wrong)}")


def published_sigmas(settings: Settings) -> np.ndarray:
    """The table of noise levels that the PyTorch codes keep: float64, the largest first."""
    levels: dict[str, Any] = dict(UNUSED_SIGMAS)
    if settings.sde.name in ("ve", "smld"):
        levels = {"n": settings.sampling.steps} | dict(settings.sde)
    elif settings.sde.name == "ddpm":
        levels["n"] = settings.sde.n
    ends = np.log(levels["sigma_max"]), np.log(levels["sigma_min"])
    return np.exp(np.linspace(*ends, levels["n"]))


def empty_adam(section: Optim, count: int) -> dict[str, Any]:
    """PyTorch's state dict of Adam over `count` parameters before its first step."""
    group = {
        "lr": section.lr,
        "betas": (section.beta1, 0.999),
        "eps": section.eps,
        "weight_decay": section.weight_decay,
    }
    return {
        "state": {},
        "param_groups": [group | {"amsgrad": False, "params": list(range(count))}],
    }


def refinenet_for(settings: Settings, shape: tuple[int, int, int]) -> Settings:
    """With the variant of a RefineNet for images of `shape`; other networks stay as they are."""
    if "variant" not in settings.model:
        return settings
    return settings.change("model", variant=variant_for(*shape[:2]))
