"""Latents of images by the probability-flow ODE, and how exactly they decode again."""

import hashlib
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import PyTree

from score_sde import viz
from score_sde.data.inputs import Inputs
from score_sde.devices import leads, wait_for_all
from score_sde.files import write_npz, writing
from score_sde.parallel.codec import Codec, Mapped
from score_sde.parallel.loop import progress
from score_sde.workdir.documents import write_document
from score_sde.workdir.folder import result_folder
from score_sde.workdir.inputs import show
from score_sde.workdir.objects import make_codec, solved_with
from score_sde.workdir.quality import tag
from score_sde.workdir.run import Run
from score_sde.workdir.store import RowStore
from score_sde.workdir.which import Which, in_name, record_in, weights_checksum

PART = 256
"""Images of a part that is kept, or one batch where that is more."""


def encode(
    run: Run, given: Inputs, checkpoint: Which | None = None, output: Path | None = None
) -> tuple[Path, str]:
    """Latents of images, and the images again: (folder with the files, what to say of them).

    latents.npz, encode.json and round_trip.png lie in `output`, else in the run's folder. Finished
    parts are kept until all are there, so a killed command goes on.

    Raises:
        UserError: a discrete chain, or an ODE that cannot be solved.
    """
    params, step = run.weights(checkpoint)
    folder = result_folder(output, run.folder, f"encode_step_{in_name(step)}")
    codec, images, how = make_codec(run), given.values, solved_with(run, step)
    dtype = {"dtype": run.settings.model.dtype}
    store = _store(folder, codec, images, how | dtype, weights_checksum(params))
    mapped = _mapped(store, codec, params, given)
    if not leads():
        return folder, ""
    with writing(folder):
        summary = _save(folder, codec, given, mapped, how)
        shutil.rmtree(store.folder)
    nfe, error = summary["nfe"], summary["round_trip"]
    return folder, (
        f"{len(images)} latents of checkpoint {step} ({nfe['mean']:.0f} evaluations, at most "
        f"{nfe['max']}): {folder}\nround trip: largest error {error['max']:.2g} levels; "
        f"{error['changed']} images come back with other levels"
        + ("; smaller config.eval.rtol and atol mend that" if error["changed"] else "")
    )


def _store(
    folder: Path, codec: Codec, images: np.ndarray, how: Mapping[str, Any], weights: str
) -> RowStore:
    """Where parts are kept: a row of it is a number of whole batches."""
    of = {"images": hashlib.sha256(images.tobytes()).hexdigest()[:16], "part": _part(codec)}
    settings = dict(how) | of
    return RowStore(folder / f"unfinished_{tag(settings)}", settings | {"weights": weights})


def _part(codec: Codec) -> int:
    return codec.batch_size * max(1, PART // codec.batch_size)


def _mapped(store: RowStore, codec: Codec, params: PyTree, given: Inputs) -> tuple[Mapped, Mapped]:
    """Latents, and the images again, of all parts; those that are missing are made."""
    count, size = len(given.values), _part(codec)
    numbers = np.arange(-(-count // size))
    missing = store.missing(numbers)
    done = count - sum(min(size, count - i * size) for i in missing.tolist())
    with progress(2 * count, "image", "encoding, decoding", done=2 * done) as bar:
        for number in missing.tolist():
            part = slice(number * size, (number + 1) * size)
            names = given.names[part]
            encoded = codec.encode(params, given.values[part], names, bar.update)
            decoded = codec.decode(params, encoded.values, names, bar.update)
            if leads():
                arrays = {"z": encoded.values, "z_nfe": encoded.nfe}
                arrays |= {"x": decoded.values, "x_nfe": decoded.nfe}
                with writing(store.folder):
                    store.write(number, arrays)
    wait_for_all("latents are written")
    rows = [store.read(number) for number in numbers.tolist()]
    found = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
    return Mapped(found["z"], found["z_nfe"]), Mapped(found["x"], found["x_nfe"])


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
    write_document(folder / "encode.json", summary)
    some = slice(0, 16)
    latents = np.clip(encoded.values[some] / (5 * prior_std) + 0.5, 0, 1)
    rows = [show(images[some], pixels), latents, show(codec.levels(decoded.values[some]), pixels)]
    picture = viz.image_grid(np.concatenate(rows), columns=len(latents))
    viz.save_png(folder / "round_trip.png", picture)
    return summary
