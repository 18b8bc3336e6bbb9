"""The measurements of a run for TensorBoard, which comes with the extra `tensorboard`."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from knowsam.errors import InputError


def require_tensorboard() -> None:
    """Make sure that TensorBoard is installed, before a run starts that writes for it.

    Raises:
        InputError: If it is not.
    """
    if find_spec("tensorboard") is None:
        raise InputError(
            "train.tensorboard=true: the package tensorboard was not found, but expected it to be installed; run"
            " `pip install 'knowsam[tensorboard]'`, or leave the setting out: metrics.jsonl has the same numbers."
        )


class TensorBoardLog:
    """Writes the records of `metrics.jsonl` as scalars.

    Args:
        path: The folder to write to.
        step: Steps already done. Later records of a killed run are hidden, as `RunFolder.forget_after` drops them.
    """

    def __init__(self, path: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer: Any = SummaryWriter(str(path), purge_step=step + 1 if step else None)

    def add(self, record: dict[str, Any]) -> None:
        """Write one record: `loss/TERM`, `lr/GROUP`, `steps_per_s`, `validation/PREDICTION` and its classes."""
        step = record["step"]
        for name, value in record.get("terms", {}).items():
            self.writer.add_scalar(f"loss/{name}", value, step)
        for name, value in record.get("lr", {}).items():
            self.writer.add_scalar(f"lr/{name}", value, step)
        if "steps_per_s" in record:
            self.writer.add_scalar("steps_per_s", record["steps_per_s"], step)
        for name, score in record.get("validation", {}).items():
            self.writer.add_scalar(f"validation/{name}", score["dice"], step)
            for index, value in enumerate(score["per_class"], start=1):
                if value is not None:  # None: no truth holds the class
                    self.writer.add_scalar(f"validation_classes/{name}_{index}", value, step)
        # The curves are to be seen while the run goes on.
        self.writer.flush()

    def close(self) -> None:
        """Finish the file."""
        self.writer.close()
