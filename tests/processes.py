"""Two processes on one machine, as on two hosts of a pod."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from commands import xla_flags

from golden import REPOSITORY

JOIN = "from score_sde import program; program.join_processes()\n"
"""How a program for `python -c` joins the others."""


def by_variables(index: int, port: int) -> dict[str, str]:
    """The environment of a process where JAX does not know the cluster."""
    return {
        "JAX_COORDINATOR_ADDRESS": f"localhost:{port}",
        "JAX_NUM_PROCESSES": "2",
        "JAX_PROCESS_ID": str(index),
    }


def by_slurm(index: int, port: int) -> dict[str, str]:
    """The environment of a task of SLURM."""
    return {
        "JAX_COORDINATOR_PORT": str(port),
        "SLURM_JOB_ID": "7",
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_NTASKS": "2",
        "SLURM_PROCID": str(index),
        "SLURM_LOCALID": str(index),
    }


def run_two(
    arguments: Sequence[str | Path],
    devices: int = 2,
    timeout: float = 300,
    cluster: Callable[[int, int], dict[str, str]] = by_variables,
) -> list[str]:
    """What each of two Python processes with `devices` devices printed; both must end well."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    shared = os.environ | {
        "XLA_FLAGS": xla_flags(devices),
        "PYTHONPATH": "",
        "COLUMNS": "200",
    }
    processes = [
        subprocess.Popen(
            [sys.executable, *map(str, arguments)],
            cwd=REPOSITORY,
            env=shared | cluster(i, port),
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for i in range(2)
    ]
    try:
        outputs = [process.communicate(timeout=timeout)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], outputs
    return outputs
