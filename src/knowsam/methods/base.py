"""What every method promises, and the table of methods."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel
from torch import nn

from knowsam.errors import InputError, did_you_mean
from knowsam.types import Batch, ParameterGroup, Progress, StepOutput

if TYPE_CHECKING:
    from knowsam.sam.distillation import SamDistillation


@dataclass(frozen=True)
class MethodContext:
    """What a method is built for.

    Attributes:
        in_channels: C of the images.
        classes: K, background included.
        sam: The distillation object, or None for the method alone.
    """

    in_channels: int
    classes: int
    sam: SamDistillation | None = None


class Method(nn.Module):
    """The promises of a semi-supervised method; the contract tests hold every entry of `METHODS` to them.

    A method is one module holding everything that learns, so that one wrapper serves several processes. It is not meant
    to be inherited from by other methods in turn: one method is one file, readable from top to bottom.

    Attributes:
        Options: The method's settings, a pydantic model whose defaults are the paper's.
        uses_unlabelled: False for a method that only ever looks at labelled images; it then gets a batch of
            B_l + B_u labelled images, as many per step as the others.
        footnote: What a table must say of this method beside others: where it does not share their network, batch or
            steps. Empty where there is nothing to say.
        sam: The distillation object, or None.
    """

    Options: ClassVar[type[BaseModel]]
    uses_unlabelled: ClassVar[bool] = True
    footnote: ClassVar[str] = ""
    sam: SamDistillation | None

    def __init__(self, options: Any, context: MethodContext) -> None:
        super().__init__()
        self.options = options
        self.sam = context.sam

    def forward(self, batch: Batch, progress: Progress) -> StepOutput:
        """`step` with detached terms, under the name that distributed wrappers and autocast know."""
        output = self.step(batch, progress)
        return StepOutput(output.loss, {name: term.detach() for name, term in output.terms.items()})

    def step(self, batch: Batch, progress: Progress) -> StepOutput:
        """The loss of one batch and its terms, still attached; changes nothing but batch-norm statistics."""
        raise NotImplementedError

    def after_step(self, progress: Progress) -> None:
        """Called after the optimisers: EMA teachers and the like."""

    def student(self) -> nn.Module:
        """What is kept after training: an entry of `NETWORKS`, logits `(B, K, H, W)` from images."""
        raise NotImplementedError

    def student_spec(self) -> dict[str, Any]:
        """Name and arguments with which `build_network` builds `student()` again."""
        raise NotImplementedError

    def parameter_groups(self) -> list[ParameterGroup]:
        """The trainable parameters by optimiser: everything outside SAM, and SAM's own."""
        sam = set() if self.sam is None else {id(parameter) for parameter in self.sam.parameters()}
        trainable = [parameter for parameter in self.parameters() if parameter.requires_grad]
        groups = [
            ParameterGroup("students", [parameter for parameter in trainable if id(parameter) not in sam]),
            ParameterGroup("sam", [parameter for parameter in trainable if id(parameter) in sam]),
        ]
        return [group for group in groups if group.parameters]


METHODS: dict[str, str | type[Method]] = {
    "supervised": "knowsam.methods.supervised:Supervised",
    "knowsam": "knowsam.methods.knowsam:KnowSAM",
}
"""Name in a configuration -> class, or where to find it; imported when asked for."""


def load_method(name: str) -> type[Method]:
    """The class of a method.

    Raises:
        InputError: For an unknown name, with the nearest known one.
    """
    if name not in METHODS:
        raise InputError(
            f"method: '{name}' was found, but expected one of {', '.join(METHODS)}{did_you_mean(name, METHODS)}"
        )
    entry = METHODS[name]
    if isinstance(entry, str):
        module, attribute = entry.split(":")
        entry = getattr(importlib.import_module(module), attribute)
    return entry


def register_method(name: str, method: type[Method]) -> None:
    """Make a method of one's own known to `train` under `name`."""
    METHODS[name] = method
