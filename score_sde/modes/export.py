"""Write a checkpoint for others; --mode import reads it back, bit for bit."""

from pathlib import Path

from score_sde.convert import write_torch
from score_sde.devices import leads
from score_sde.errors import UserError
from score_sde.exchange.publish import write_model
from score_sde.exchange.states import check_free, to_pytorch
from score_sde.files import writing
from score_sde.workdir.lock import hold_file
from score_sde.workdir.run import Run
from score_sde.workdir.which import Phema, Which

FILE = ".pth"
OTHERS = (".bin", ".ckpt", ".pt", ".safetensors")
"""Endings of files that are not written alone."""


def main(run: Run, checkpoint: Which | None = None, output: Path | None = None) -> Path:
    """Write the checkpoint into `output`: a .pth file of the PyTorch codes, else a new folder."""
    if output is None:
        raise UserError(
            "--mode export needs the file or folder to write: --output model.pth or --output FOLDER"
        )
    if output.suffix in OTHERS:
        raise UserError(f"--output {output}: name a {FILE} file, or a folder, without an ending")
    if output.suffix == FILE and output.exists():
        raise UserError(f"{output} exists already; choose another --output")
    if output.suffix != FILE:
        check_free(output, "--output")
    hold_file(output)
    state = run.restore(checkpoint)
    which = checkpoint if isinstance(checkpoint, Phema) else int(state.step)
    tree = to_pytorch(run.experiment, state) if output.suffix == FILE else None
    if not leads():
        return output
    form = "in PyTorch's form"
    if tree is None:
        form = write_model(output, run, state, which)
    else:
        with writing(output):
            output.parent.mkdir(parents=True, exist_ok=True)
            write_torch(output, tree)
    print(f"checkpoint {which} {form}: {output}")
    return output
