"""The surroundings of every test: CPU, 8 fake devices, strict types, checked annotations."""

import os
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest

# Before jax is imported, here or in a subprocess that a test starts. Most of the time of a test is
# compilation, which takes a third without LLVM's optimizations and MLIR's fusion emitters. What
# users' programs compute differs by rounding alone; `make smoke` runs those.
_FLAGS = {
    "--xla_force_host_platform_device_count": "8",
    "--xla_backend_optimization_level": "0",
    # Where two collectives of a program may run at once, 8 devices on 8 threads can wait for ever,
    # some in the one and some in the other.
    "--xla_cpu_enable_concurrency_optimized_scheduler": "false",
}
if "0.10.1" <= version("jaxlib") < "0.11":  # later versions have no such flag
    # With both flags jaxlib 0.10.0 gives wrong numbers (the adjoint of a fan), with either not.
    _FLAGS["--xla_cpu_use_fusion_emitters"] = "false"
if version("jaxlib") < "0.10.1":
    # It complains on standard error of features of the processor when it loads a kept program.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
for _flag, _value in _FLAGS.items():
    if _flag not in os.environ.get("XLA_FLAGS", ""):
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_flag}={_value}".strip()
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ.setdefault("MPLBACKEND", "Agg")
# Compiled programs are kept from one run to the next. A half-written entry (two workers, a killed
# run) is reported by jax as a warning and compiled again.
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR",
    str(Path(__file__).resolve().parent.parent / ".cache" / "jax-tests"),
)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

import jax  # noqa: E402
from jaxtyping import install_import_hook  # noqa: E402

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

# Every annotated function of the library checks the types and shapes it is called with and returns.
# The hook (it names `check` in typecheck.py) must stand before the first import of score_sde.
install_import_hook("score_sde", "typecheck.check")


@pytest.fixture
def x64() -> Iterator[None]:
    """Double precision for one test: jax makes and keeps float64 arrays while it runs."""
    before = jax.config.read("jax_enable_x64")
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", before)


@pytest.fixture(scope="module", autouse=True)
def _forget_programs() -> Iterator[None]:
    """A process that keeps the programs of all files grows to 7 GB."""
    yield
    jax.clear_caches()
