"""The launch recipes: scripts and manifests are well formed, and their commands are understood."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml
from processes import JOIN, by_slurm, run_two

from golden import REPOSITORY
from pages import load, parse

LAUNCH = REPOSITORY / "docs" / "launch"
SCRIPTS = sorted(LAUNCH.glob("*.sh"))
MANIFESTS = sorted(LAUNCH.glob("*.yaml"))


def called(script: str, arguments: list[str], **environment: str) -> str:
    """What a script of SLURM asks `score-sde` to do."""
    show = 'srun() { "$@"; }; score-sde() { printf "%q " "$@"; }; export -f srun score-sde; '
    done = subprocess.run(
        ["bash", "-c", f'{show} bash "$0" "$@"', str(LAUNCH / script), *arguments],
        env=os.environ | environment,
        text=True,
        capture_output=True,
        check=True,
    )
    return done.stdout


def test_the_image_has_what_the_package_needs(tmp_path: Path) -> None:
    text = (REPOSITORY / "Dockerfile").read_text()
    extras = re.findall(r"ACCELERATOR=(\w+)", text)
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert set(extras) == {"cuda", "tpu"} <= project["optional-dependencies"].keys()
    version = re.findall(r"^FROM python:([\d.]+)-", text, re.MULTILINE)
    assert f"Programming Language :: Python :: {version[0]}" in project["classifiers"]
    kept = re.findall(r"^!(.*)", (REPOSITORY / ".dockerignore").read_text(), re.MULTILINE)
    for name in kept:
        path = REPOSITORY / name
        copy = shutil.copytree if path.is_dir() else shutil.copy
        copy(path, tmp_path / name)
    build = "from setuptools.build_meta import build_wheel; build_wheel('.')"
    subprocess.run([sys.executable, "-c", build], cwd=tmp_path, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as file:
        inside = {name for name in file.namelist() if name.startswith("score_sde/")}
    package = (REPOSITORY / "score_sde").rglob("*.py")
    assert inside >= {str(path.relative_to(REPOSITORY)) for path in package}


def test_there_are_recipes() -> None:
    assert len(SCRIPTS) == 2 and len(MANIFESTS) == 2


def test_the_script_of_training_passes_its_arguments_on() -> None:
    given = ["--config", "ve/ncsnpp_cont", "--workdir", "a folder", "--config.seed=3"]
    found = parse(called("slurm_train.sh", given))
    assert found.mode == "train" and found.overrides == [("seed", "3")]
    assert found.flags["workdir"] == ["a folder"] and found.flags["distributed"] == ["true"]


def test_the_script_of_likelihoods_does_every_share() -> None:
    text = (LAUNCH / "slurm_likelihood.sh").read_text()
    (last,) = re.findall(r"--array=0-(\d+)", text)
    shares = [
        parse(called("slurm_likelihood.sh", ["--workdir", "a"], SLURM_ARRAY_TASK_ID=str(i)))
        for i in range(int(last) + 1)
    ]
    assert [share.mode for share in shares] == ["likelihood"] * len(shares)
    wanted = [f"{i}/{len(shares)}" for i in range(len(shares))]
    assert [share.flags["shard"] for share in shares] == [[share] for share in wanted]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_options_of_slurm_stand_before_the_first_command(script) -> None:
    """SLURM reads no option after it."""
    lines = script.read_text().splitlines()
    commands = [i for i, line in enumerate(lines) if line and not line.startswith("#")]
    options = [i for i, line in enumerate(lines) if line.startswith("#SBATCH --")]
    assert lines[0] == "#!/bin/bash" and options and max(options) < commands[0]


@pytest.mark.parametrize("manifest", MANIFESTS, ids=lambda path: path.name)
def test_manifests_start_one_process_a_host(manifest) -> None:
    service, job = yaml.safe_load_all(manifest.read_text())
    spec, pod = job["spec"], job["spec"]["template"]["spec"]
    assert service["spec"]["selector"] == {"job-name": job["metadata"]["name"]}
    assert pod["subdomain"] == service["metadata"]["name"] and spec["completionMode"] == "Indexed"
    assert spec["completions"] == spec["parallelism"]
    (container,) = pod["containers"]
    program, *arguments = container["command"]
    found = parse(shlex.join(arguments))
    assert program == "score-sde" and found.flags["distributed"] == ["true"]
    load(found.flags["config"][0], found.overrides)
    names = {volume["name"] for volume in pod["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == names
    if "env" in container:
        given = {entry["name"]: entry.get("value") for entry in container["env"]}
        first = f"{job['metadata']['name']}-0.{service['metadata']['name']}"
        assert given["JAX_COORDINATOR_ADDRESS"].partition(":")[0] == first
        assert given["JAX_NUM_PROCESSES"] == str(spec["completions"])
        assert "JAX_PROCESS_ID" in given
    else:
        topology = pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"]
        rows, columns = map(int, topology.split("x"))
        each = container["resources"]["limits"]["google.com/tpu"]
        assert rows * columns == each * spec["completions"]


def test_tasks_of_slurm_find_each_other() -> None:
    """One device for each task, as the recipe says."""
    program = JOIN + "import jax; print(jax.process_count(), jax.process_index(), jax.devices())"
    outputs = run_two(["-c", program], devices=1, cluster=by_slurm)
    assert [output.split()[-4:-2] for output in outputs] == [["2", "0"], ["2", "1"]], outputs
