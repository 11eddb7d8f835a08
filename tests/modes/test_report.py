"""--mode report: one offline page."""

import shutil
from pathlib import Path

from commands import refused
from runs import call

from score_sde.workdir import measurements


def test_report_is_one_offline_page(trained: Path, tmp_path: Path, capsys) -> None:
    workdir = tmp_path / "run"
    shutil.copytree(trained, workdir, ignore=shutil.ignore_patterns("samples"))
    message = r"holds no samples; draw them first: .* --mode sample --workdir .*run"
    refused(message, "report", workdir)
    call("sample", workdir)
    call("eval", workdir, values={"eval.metrics": "levels", "eval.num_examples": 16})
    kid = {"metric": "kid", "value": 0.5, "standard_error": 0.25, "how": {"samples": 12, "seed": 3}}
    measurements.record(workdir, 60, [kid])
    call("report", workdir)
    page = (workdir / "report.html").read_text()
    assert f"report: {workdir / 'report.html'}" in capsys.readouterr().out
    for part in (
        *("vp_ddpmpp_cont_digits", "data:image/png;base64,", "data:image/gif;base64,"),
        "Loss at each noise level",
        "Measurements",
        "KID (samples: 12)",
        "0.5 +- 0.25 (standard error)",
        "Memorized?",
        "360 held-out images",
        "Mirrored training images do not count",
    ):
        assert part in page, part
    assert "http://" not in page.replace("http://www.w3.org", "") and "https://" not in page
