"""Write a checkpoint as the PyTorch codes do; --mode import reads it back, bit for bit."""

from pathlib import Path

from score_sde.convert import write_torch
from score_sde.devices import leads
from score_sde.errors import UserError
from score_sde.exchange.states import to_pytorch
from score_sde.files import writing
from score_sde.workdir.run import Run
from score_sde.workdir.which import Phema, Which


def main(run: Run, checkpoint: Which | None = None, output: Path | None = None) -> Path:
    """Write the checkpoint into `output`, a .pth file."""
    if output is None:
        raise UserError("--mode export needs the file to write: --output model.pth")
    if output.exists():
        raise UserError(f"{output} exists already; choose another --output")
    state = run.restore(checkpoint)
    tree = to_pytorch(run.experiment, state)
    if leads():
        with writing(output):
            output.parent.mkdir(parents=True, exist_ok=True)
            write_torch(output, tree)
        which = checkpoint if isinstance(checkpoint, Phema) else int(state.step)
        print(f"checkpoint {which} in PyTorch's form: {output}")
    return output
