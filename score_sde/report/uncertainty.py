"""The report's section on the uncertainty of denoised images."""

from collections.abc import Mapping, Sequence
from typing import Any

from score_sde.report.page import Report


def uncertainty_section(page: Report, results: Sequence[tuple[Mapping[str, Any], bytes]]) -> None:
    """Whether variances have the right size, and a picture, at each noise level measured.

    Args:
        page: gets the section; nothing where there are no results.
        results: (what calibration.json holds, the bytes of the picture) of each.
    """
    if not results:
        return
    page.heading("Uncertainty")
    page.text(
        "Predicted over true mean square errors of held-out images, noised and denoised: 1 where "
        "the model knows how sure it is, above 1 where it is too unsure."
    )
    page.table([row for found, _ in results for row in _rows(found)])
    for found, picture in results:
        caption = (
            f"Noise {found['noise']:g}, curvature by {found['curvature']}. Rows: noisy, clean, "
            "denoised, standard deviation, principal directions."
        )
        page.picture(picture, caption)


def _rows(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    where = f"noise {found['noise']:g}, {found['curvature']}, {found['images']} images"
    parts = found["calibration"]
    named = [("all directions", parts["whole"])]
    named += [(f"direction {i}", row) for i, row in enumerate(parts["directions"], 1)]
    return [(f"{where}: {name}", _number(row)) for name, row in named]


def _number(row: Mapping[str, Any]) -> str:
    if row["ratio"] is None:
        return "-"
    error = "" if row["standard_error"] is None else f" +- {row['standard_error']:.2g}"
    return f"{row['ratio']:.3g}{error}"
