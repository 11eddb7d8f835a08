"""Latents of images by the probability-flow ODE, and how exactly they decode again."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from score_sde import viz
from score_sde.data.inputs import Inputs, join
from score_sde.devices import leads
from score_sde.files import write_json, write_npz, writing
from score_sde.parallel.codec import Codec, Mapped
from score_sde.parallel.loop import progress
from score_sde.workdir.folder import result_folder
from score_sde.workdir.inputs import read_given, show, split_images
from score_sde.workdir.objects import make_codec, solved_with
from score_sde.workdir.run import Run
from score_sde.workdir.which import Which, in_name, record_in


def main(
    run: Run,
    checkpoint: Which | None = None,
    input: list[Path] | None = None,
    output: Path | None = None,
) -> Path:
    """Write latents.npz, encode.json and round_trip.png.

    `input`: image files, folders, npz files with `images`; by default the images of
    config.eval.split.
    """
    given = join(read_given(run, input, ["images"]) if input else split_images(run))
    params, step = run.weights(checkpoint)
    folder = result_folder(output, run.folder, f"encode_step_{in_name(step)}")
    codec, images = make_codec(run), given.values
    title = "encoding, decoding"
    with progress(2 * len(images), "image", title) as bar:
        encoded = codec.encode(params, images, given.names, bar.update)
        decoded = codec.decode(params, encoded.values, given.names, bar.update)
    if not leads():
        return folder
    with writing(folder):
        summary = _save(folder, codec, given, (encoded, decoded), solved_with(run, step))
    nfe, error = summary["nfe"], summary["round_trip"]
    print(
        f"{len(images)} latents of checkpoint {step} ({nfe['mean']:.0f} evaluations, at most "
        f"{nfe['max']}): {folder}\nround trip: largest error {error['max']:.2g} levels; "
        f"{error['changed']} images come back with other levels"
        + ("; smaller config.eval.rtol and atol mend that" if error["changed"] else "")
    )
    return folder


def _save(
    folder: Path,
    codec: Codec,
    given: Inputs,
    mapped: tuple[Mapped, Mapped],
    how: Mapping[str, Any],
) -> dict[str, Any]:
    """latents.npz, encode.json and round_trip.png.

    A column of the picture: an image, its latent, the image decoded again.
    latents.npz: z float32 (n, h, w, c), names, index, label, nfe, round_trip (largest error of an
    image, in levels), prior_std, levels, step.
    """
    encoded, decoded = mapped
    images, prior_std, pixels = given.values, codec.flow.sde.prior_std, codec.pixel_range
    errors = np.abs(decoded.values.astype(np.float64) - codec.values(images)).max(axis=(1, 2, 3))
    errors /= codec.level_width
    changed = (codec.levels(decoded.values) != images).any(axis=(1, 2, 3))
    summary = dict(how) | {
        "images": len(images),
        "nfe": {"mean": float(encoded.nfe.mean()), "max": int(encoded.nfe.max())},
        "round_trip": {
            "mean": float(errors.mean()),
            "max": float(errors.max()),
            "changed": int(changed.sum()),
        },
        "latent_mean": float((encoded.values / prior_std).mean(dtype=np.float64)),
        "latent_std": float((encoded.values / prior_std).std(dtype=np.float64)),
    }
    arrays = {
        "z": encoded.values.astype(np.float32),
        "names": np.asarray(given.names, str),
        "index": np.arange(len(images)),
        "label": given.labels,
        "nfe": encoded.nfe,
        "round_trip": errors,
        "prior_std": prior_std,
        "levels": pixels.levels,
    } | record_in(how)
    write_npz(folder / "latents.npz", arrays)
    write_json(folder / "encode.json", summary)
    some = slice(0, 16)
    latents = np.clip(encoded.values[some] / (5 * prior_std) + 0.5, 0, 1)
    rows = [show(images[some], pixels), latents, show(codec.levels(decoded.values[some]), pixels)]
    picture = viz.image_grid(np.concatenate(rows), columns=len(latents))
    viz.save_png(folder / "round_trip.png", picture)
    return summary
