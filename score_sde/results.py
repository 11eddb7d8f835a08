"""What the modes after training leave in a folder: summaries of likelihoods, encodings, decoded latents, interpolations."""

import contextlib
import io
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Integer

from score_sde import viz
from score_sde.codec import Codec, Mapped
from score_sde.data import PixelRange, Source
from score_sde.data.inputs import Inputs
from score_sde.errors import UserError
from score_sde.likelihood.rows import Pieces, Rows, summarize
from score_sde.viz.grid import write_atomic
from score_sde.workdir import write_json

COLUMNS = ("bits_per_dim", "bound_bits_per_dim")
"""Columns of a row that are summarized where they exist."""
SHOWN = 64
"""Images in a grid."""
Summary = dict[str, Any]


# Folders


@contextlib.contextmanager
def writing(folder: Path, advice: str = "choose another folder with --output") -> Iterator[None]:
    """Raises UserError, with advice, where something in this context cannot be written into `folder`."""
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write to {folder} ({error.strerror or error}); {advice}") from error


IN_RUN = (
    "make room there or change its permissions, then the same command goes on; or work in a copy of the run"
)
"""What to do where a working directory cannot be written to."""


def check_writable(folder: Path, advice: str = "choose another folder with --output") -> None:
    """Raises UserError, with advice, where `folder` could not be made or written to; makes nothing."""
    with writing(folder, advice):
        there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
        if not there.is_dir():
            raise NotADirectoryError(None, f"{there} is a file")
        if not os.access(there, os.W_OK | os.X_OK):
            raise PermissionError(None, f"no permission to write into {there}")


# Likelihoods


def likelihood_folder(workdir: Path, split: str, step: int) -> Path:
    """Where the rows of a checkpoint lie."""
    return workdir / "eval" / f"likelihood_{split}_step_{step}"


def likelihood_folders(workdir: Path, split: str) -> dict[int, Path]:
    """Step -> folder of rows, ascending; raises UserError where there is none."""
    found = {}
    for path in (workdir / "eval").glob(f"likelihood_{split}_step_*"):
        name = re.fullmatch(rf"likelihood_{split}_step_([0-9]+)", path.name)  # not one that was moved away
        if name and (path / "settings.json").exists():
            found[int(name[1])] = path
    if not found:
        raise UserError(
            f"{workdir} holds no likelihoods of the {split} images; make them with --mode likelihood"
        )
    return dict(sorted(found.items()))


def check_solved(rows: Rows, folder: Path) -> None:
    """Raises UserError, naming the images, where the ODE solver gave up or a result is not finite: such rows are not written.

    `folder` holds the rows written before.
    """
    failed = rows["index"][~rows["success"]] if "success" in rows else rows["index"][:0]
    if len(failed):
        raise UserError(
            f"the ODE of {len(failed)} images could not be solved (images {failed[:5].tolist()}): too many steps, or values that "
            f"are not finite. Rows written before are kept in {folder}; for larger config.eval.rtol and atol move it away first."
        )
    for name in COLUMNS:
        bad = rows["index"][~np.isfinite(rows[name])] if name in rows else rows["index"][:0]
        if len(bad):
            raise UserError(
                f"{name} of {len(bad)} images is not finite (images {bad[:5].tolist()}): the weights give no usable score there. "
                f"Rows written before are kept in {folder}. Try another --checkpoint, or config.model.dtype=float32."
            )


def summarize_rows(rows: Rows, step: int) -> Summary:
    """{"step", one summary for each of `COLUMNS` that is there, "nfe"}."""
    summary: Summary = {"step": step} | {name: summarize(rows, name) for name in COLUMNS if name in rows}
    if "nfe" in rows:
        summary["nfe"] = {"mean": float(rows["nfe"].mean()), "max": int(rows["nfe"].max())}
    return summary


def save_likelihood(
    pieces: Pieces, images: int, passes: int, source: Source, pixels: PixelRange, step: int
) -> Summary:
    """Summarize complete rows: summary.json, histogram.png, and the least and most likely images."""
    rows = pieces.complete(images, passes)
    summary = summarize_rows(rows, step)
    columns = [name for name in COLUMNS if name in summary]
    write_json(pieces.folder / "summary.json", summary)
    first = rows[columns[0]][rows["pass"] == 0]
    viz.histogram(
        first, columns[0].replace("_", " "), pieces.folder / "histogram.png", summary[columns[0]]["mean"]
    )
    order = np.argsort(first)
    for name, chosen in (("most_likely", order[:16]), ("least_likely", order[::-1][:16])):
        levels = np.stack([source[int(i)]["image"] for i in rows["index"][rows["pass"] == 0][chosen]])
        viz.save_png(pieces.folder / f"{name}.png", viz.image_grid(show(levels, pixels), columns=8))
    for name in columns:
        row = summary[name]
        print(
            f"step {step}: {name} {row['mean']:.4f}, 95% interval {row['low']:.4f} .. {row['high']:.4f} "
            f"({row['images']} images, {row['passes']} passes): {pieces.folder}"
        )
    return summary


def save_curves(found: Mapping[str, Mapping[int, Summary]], folder: Path, name: str) -> None:
    """bits/dim against step, one curve for each run of `found` {run: {step: summary}}: FOLDER/COLUMN_NAME.png."""
    for column in COLUMNS:
        curves = {
            run: {step: summary[column] for step, summary in steps.items() if column in summary}
            for run, steps in found.items()
        }
        curves = {run: curve for run, curve in curves.items() if curve}
        if sum(map(len, curves.values())) > 1:
            viz.intervals(curves, column.replace("_", " "), folder / f"{column}_{name}.png")


def comparison(found: Mapping[str, Mapping[int, Summary]]) -> str:
    """A table of runs and steps, the intervals those of the data sets' means (95%, Student's t)."""
    lines: list[tuple[str, ...]] = [
        ("run", "step", "bits/dim", "95% interval", "bound", "95% interval", "nfe", "images", "passes")
    ]
    for run, steps in found.items():
        for step, summary in steps.items():
            cells = []
            for column in COLUMNS:
                row = summary.get(column)
                cells += (
                    [f"{row['mean']:.4f}", f"{row['low']:.4f} .. {row['high']:.4f}"] if row else ["-", "-"]
                )
            nfe = f"{summary['nfe']['mean']:.0f}" if "nfe" in summary else "-"
            any_row = next(summary[column] for column in COLUMNS if column in summary)
            lines.append((run, str(step), *cells, nfe, str(any_row["images"]), str(any_row["passes"])))
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join("  ".join(f"{c:<{w}}" for c, w in zip(line, widths)).rstrip() for line in lines)


def bits_rows(folder: Path, about: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The columns of a folder's summary.json as measurements, with what they depend on."""
    summary = json.loads((folder / "summary.json").read_text())
    kept = ("standard_error", "low", "high")
    return [
        {"metric": name, "value": row["mean"]}
        | {key: row[key] for key in kept if row[key] is not None}
        | {"how": dict(about) | {"images": row["images"], "passes": row["passes"]}}
        for name, row in summary.items()
        if name in COLUMNS
    ]


# Losses per noise level


def levels_file(workdir: Path, step: int) -> Path:
    """Where the losses per noise level of a checkpoint lie."""
    return workdir / "eval" / f"levels_step_{step}.json"


def save_levels(workdir: Path, step: int, rows: Sequence[Mapping[str, Any]], how: Mapping[str, Any]) -> Path:
    """Write `rows`, one for each noise level as `training.levels.Levels.rows` gives them; `how`: images, seed, ..."""
    path = levels_file(workdir, step)
    path.parent.mkdir(parents=True, exist_ok=True)
    unit = "E|sigma score + z|^2/D"
    write_json(path, {"step": step, "unit": unit} | dict(how) | {"levels": [dict(row) for row in rows]})
    return path


def load_levels(workdir: Path, step: int) -> dict[str, Any] | None:
    """What `save_levels` wrote, or None where it has not been made; raises UserError for a file that is something else."""
    path = levels_file(workdir, step)
    if not path.exists():
        return None
    try:
        found = json.loads(path.read_text())
        found["levels"][0]["heldout"]
    except (ValueError, LookupError, TypeError) as error:
        raise UserError(
            f"{path} does not hold losses per noise level; remove it and make it anew with --mode eval"
        ) from error
    return found


# Encodings


def save_encoding(
    folder: Path,
    codec: Codec,
    given: Inputs,
    encoded: Mapped,
    decoded: Mapped,
    how: Mapping[str, Any],
) -> Summary:
    """latents.npz, encode.json and round_trip.png (images, their latents, the images decoded again).

    latents.npz: z float32 (n, h, w, c), names, index, label, nfe, round_trip (largest error of an image, in levels), prior_std,
    levels, step.
    """
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
    _save_npz(
        folder / "latents.npz",
        z=encoded.values.astype(np.float32),
        names=np.asarray(given.names, str),
        index=np.arange(len(images)),
        label=given.labels,
        nfe=encoded.nfe,
        round_trip=errors,
        prior_std=prior_std,
        levels=pixels.levels,
        step=how["step"],
    )
    write_json(folder / "encode.json", summary)
    some = slice(0, 16)
    latents = np.clip(encoded.values[some] / (5 * prior_std) + 0.5, 0, 1)
    rows = [show(images[some], pixels), latents, show(codec.levels(decoded.values[some]), pixels)]
    picture = viz.image_grid(np.concatenate(rows), columns=len(latents))
    viz.save_png(folder / "round_trip.png", picture)
    return summary


def save_decoding(
    folder: Path, codec: Codec, names: Sequence[str], z: np.ndarray, decoded: Mapped, how: Mapping[str, Any]
) -> Summary:
    """samples.npz, decode.json, grid.png and images/00000.png, ... in the order of the latents.

    samples.npz: images (levels), z, names, nfe, prior_std, levels, step.
    """
    pixels, images = codec.pixel_range, codec.levels(decoded.values)
    summary = dict(how) | {
        "images": len(images),
        "nfe": {"mean": float(decoded.nfe.mean()), "max": int(decoded.nfe.max())},
    }
    _save_npz(
        folder / "samples.npz",
        images=images,
        z=z.astype(np.float32),
        names=np.asarray(names, str),
        nfe=decoded.nfe,
        prior_std=codec.flow.sde.prior_std,
        levels=pixels.levels,
        step=how["step"],
    )
    write_json(folder / "decode.json", summary)
    viz.save_png(folder / "grid.png", viz.image_grid(show(images[:SHOWN], pixels)))
    viz.save_images(folder / "images", show(images, pixels))
    return summary


def save_interpolation(
    folder: Path, codec: Codec, names: Sequence[str], z: np.ndarray, decoded: Mapped, how: Mapping[str, Any]
) -> Summary:
    """frames.npz, interpolate.json, grid.png (a row for each pair) and interpolation.gif (one pair after another).

    Pictures show the first 16 pairs.

    `z`: (pairs, frames, h, w, c); `decoded`: its rows one below the other. frames.npz: images (levels), z, names, prior_std,
    levels, step.
    """
    pixels = codec.pixel_range
    pairs, frames = z.shape[:2]
    images = codec.levels(decoded.values).reshape(z.shape)
    summary = dict(how) | {
        "pairs": pairs,
        "frames": frames,
        "nfe": {"mean": float(decoded.nfe.mean()), "max": int(decoded.nfe.max())},
    }
    _save_npz(
        folder / "frames.npz",
        images=images,
        z=z.astype(np.float32),
        names=np.asarray(names, str),
        prior_std=codec.flow.sde.prior_std,
        levels=pixels.levels,
        step=how["step"],
    )
    write_json(folder / "interpolate.json", summary)
    some, shape = images[: max(1, SHOWN // 4)], z.shape[2:]
    viz.save_png(folder / "grid.png", viz.image_grid(show(some.reshape(-1, *shape), pixels), columns=frames))
    film = np.concatenate(
        [some[:, :-1].reshape(-1, *shape), some[-1, -1:]]
    )  # where a pair ends the next begins
    viz.save_animation(folder / "interpolation.gif", show(film, pixels)[:, None])
    return summary


# Samples


def save_inpainting(
    folder: Path,
    given: Inputs,
    known: Bool[np.ndarray, "h w 1"],
    completed: Integer[np.ndarray, "n copies h w c"],
    pixels: PixelRange,
    how: Mapping[str, Any],
) -> None:
    """inpaint.npz, inpaint.json and grid.png: in each row an image with its unknown part grey, completions, the image.

    inpaint.npz: images (n, copies, h, w, c) levels, originals, known, names, levels, step. The first 16 images and 8
    completions are in the picture.
    """
    _save_npz(
        folder / "inpaint.npz",
        images=completed,
        originals=given.values,
        known=known,
        names=np.asarray(given.names, str),
        levels=pixels.levels,
        step=how["step"],
    )
    write_json(folder / "inpaint.json", dict(how) | {"images": len(completed), "copies": completed.shape[1]})
    originals, some = show(given.values[:16], pixels), completed[:16, :8]
    rows = np.concatenate(
        [
            np.where(known, originals, np.float32(0.5))[:, None],
            show(some.reshape(-1, *some.shape[2:]), pixels).reshape(some.shape),
            originals[:, None],
        ],
        axis=1,
    )
    flat = rows.reshape(-1, *rows.shape[2:])
    viz.save_png(folder / "grid.png", viz.image_grid(flat, columns=rows.shape[1]))


def save_noise_interpolation(
    folder: Path,
    images: Integer[np.ndarray, "n h w c"],
    frames: int,
    pixels: PixelRange,
    how: Mapping[str, Any],
) -> None:
    """frames.npz, interpolate.json and grid.png, a row for each pair of samples; `images` are its frames in order."""
    rows = images.reshape(-1, frames, *images.shape[1:])
    _save_npz(folder / "frames.npz", images=rows, levels=pixels.levels, step=how["step"])
    write_json(folder / "interpolate.json", dict(how) | {"pairs": len(rows), "frames": frames})
    viz.save_png(folder / "grid.png", viz.image_grid(show(images, pixels), columns=frames))


def show(images: Integer[np.ndarray, "n h w c"], pixels: PixelRange) -> Float[np.ndarray, "n h w c"]:
    """Levels for display: black 0, white 1."""
    return images.astype(np.float32) / np.float32(pixels.levels - 1)


def _save_npz(path: Path, **arrays: Any) -> None:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    write_atomic(path, buffer.getvalue())
