"""Images of latents by the probability-flow ODE: samples.npz, grid.png and a PNG file for each."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from score_sde import viz
from score_sde.build.sizes import check_fits
from score_sde.data.inputs import join
from score_sde.devices import leads
from score_sde.files import write_npz, writing
from score_sde.parallel.codec import Codec, Mapped
from score_sde.parallel.loop import progress
from score_sde.workdir.documents import write_document
from score_sde.workdir.folder import result_folder
from score_sde.workdir.inputs import SHOWN, read_given, show
from score_sde.workdir.objects import make_codec, solved_with
from score_sde.workdir.run import Run
from score_sde.workdir.which import Which, in_name, record_in


def main(
    run: Run,
    checkpoint: Which | None = None,
    input: list[Path] | None = None,
    output: Path | None = None,
    temperature: float = 1.0,
) -> Path:
    """Decode latents.

    `input`: npz files with latents `z`; by default config.sampling.num_samples are drawn from the
    prior, those that --mode sample begins with. `temperature` multiplies them.
    """
    given = join(read_given(run, input, ["z"])) if input else None
    params, step = run.weights(checkpoint)
    folder = result_folder(output, run.folder, f"decode_step_{in_name(step)}")
    codec = make_codec(run)
    if given:
        names, z = given.names, given.values
    else:
        number = run.settings.sampling.num_samples
        check_fits("sampling.num_samples", number, 8 * math.prod(run.experiment.shape))
        numbers = np.arange(number)
        names = [f"sample {i}" for i in numbers]
        z = codec.prior(run.keys()["sample"], numbers, run.experiment.shape)
    z = np.float32(temperature) * z
    with progress(len(z), "image", "decoding") as bar:
        decoded = codec.decode(params, z, names, bar.update)
    if leads():
        how = solved_with(run, step) | {"temperature": temperature}
        with writing(folder):
            nfe = _save(folder, codec, names, z, decoded, how)["nfe"]
        print(
            f"{len(z)} images of checkpoint {step} ({nfe['mean']:.0f} evaluations, at most "
            f"{nfe['max']}): {folder}"
        )
    return folder


def _save(
    folder: Path,
    codec: Codec,
    names: Sequence[str],
    z: np.ndarray,
    decoded: Mapped,
    how: Mapping[str, Any],
) -> dict[str, Any]:
    """samples.npz, decode.json, grid.png and images/00000.png, ... in the order of the latents.

    samples.npz: images (levels), z, names, nfe, prior_std, levels, step.
    """
    pixels, images = codec.pixel_range, codec.levels(decoded.values)
    summary = dict(how) | {
        "images": len(images),
        "nfe": {"mean": float(decoded.nfe.mean()), "max": int(decoded.nfe.max())},
    }
    arrays = {
        "images": images,
        "z": z.astype(np.float32),
        "names": np.asarray(names, str),
        "nfe": decoded.nfe,
        "prior_std": codec.flow.sde.prior_std,
        "levels": pixels.levels,
    } | record_in(how)
    write_npz(folder / "samples.npz", arrays)
    write_document(folder / "decode.json", summary)
    viz.save_png(folder / "grid.png", viz.image_grid(show(images[:SHOWN], pixels)))
    viz.save_images(folder / "images", show(images, pixels))
    return summary
