"""What every method promises, and what methods with one kept network share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from knowsam.errors import InputError
from knowsam.networks.encoder_decoder import EncoderDecoder
from knowsam.networks.registry import build_network
from knowsam.types import IGNORE, Batch, ParameterGroup, Progress, StepOutput

if TYPE_CHECKING:
    from knowsam.sam.distillation import SamDistillation


@dataclass(frozen=True)
class MethodContext:
    """What a method is built for.

    Attributes:
        in_channels: C of the images, those of neighbouring slices included.
        classes: K, background included.
        sam: The distillation object, or None for the method alone.
        pretrain: Share of the run that sees labelled images alone; None where it is not known.
        slices: How many neighbouring slices an image holds as channels (`data.context`).
    """

    in_channels: int
    classes: int
    sam: SamDistillation | None = None
    pretrain: float | None = None
    slices: int = 1


class Method(nn.Module):
    """The promises of a semi-supervised method, held by contract tests.

    A method is one module that holds everything that learns, so that one wrapper serves several processes. Methods do
    not inherit from each other: one method is one file, readable from top to bottom.

    Attributes:
        Options: The method's settings, a pydantic model whose defaults are the paper's.
        uses_unlabelled: False for a method that only ever looks at labelled images; it then gets a batch of
            B_l + B_u labelled images, as many per step as the others.
        unlabelled_view: How the unlabelled images of a batch are augmented: `"strong"`, or `"weak"` like the labelled
            ones, for a method that makes stronger views of them itself or takes pseudo-labels from them.
        replayable: True if a step is nothing but operations on tensors: no value is read on the processor, no number
            drawn or counted there, and of `progress` only `reached` and `weight` are asked. On a GPU such a step is
            recorded once and replayed (`train.cuda_graph`), which is several times as fast.
        labels_volumes: Whether the method makes label maps of whole unlabelled volumes (`label_volume`), which then
            come with every batch as `Batch.unlabelled_map`; its `unlabelled_view` must be `"weak"`.
        paper_train: Settings of `train` that the method's paper has and others do not, for `preset: paper`.
        paper_sam: The same of `sam`, for both presets.
        answered_once: Whether a SAM that was trained beforehand can answer once for every unlabelled image, in place of
            one that learns beside the method: its answers then come as `Batch.unlabelled_map`, packed by
            `knowsam.functional.agreement.pack_answer`. A federation does so.
        stays_local: Beginnings of the names of what a federation does not average, because every site sets it itself.
        footnote: What a table must say of this method beside others: where it does not share their network, batch or
            steps. Empty where there is nothing to say.
        term_names: Name of a term in the logs -> words for the report, e.g. `"student_cons"` -> `"Network: agreement
            with the EMA teacher"`. What all methods have is named already (`knowsam.reporting.terms`).
        prediction_names: Name of a prediction (`SegmentationNetwork.outputs`) -> words, where there are several.
        sam: The distillation object, or None.
    """

    Options: ClassVar[type[BaseModel]]
    uses_unlabelled: ClassVar[bool] = True
    unlabelled_view: ClassVar[Literal["strong", "weak"]] = "strong"
    replayable: ClassVar[bool] = False
    labels_volumes: ClassVar[bool] = False
    answered_once: ClassVar[bool] = False
    stays_local: ClassVar[tuple[str, ...]] = ()
    paper_train: ClassVar[Mapping[str, Any]] = {}
    paper_sam: ClassVar[Mapping[str, Any]] = {}
    footnote: ClassVar[str] = ""
    term_names: ClassVar[Mapping[str, str]] = {}
    prediction_names: ClassVar[Mapping[str, str]] = {}
    sam: SamDistillation | None

    def __init__(self, options: Any, context: MethodContext) -> None:
        super().__init__()
        self.options = options
        self.sam = context.sam

    @classmethod
    def short_options(cls, pretrain: float) -> Mapping[str, Any]:
        """Values of `Options` for `preset: short`, where the paper's do not suit a few hundred or thousand steps.

        Args:
            pretrain: Share of the run that sees labelled images alone, in [0, 1].
        """
        return {}

    @classmethod
    def opens_hidden_masks(cls, options: Any) -> str:
        """The setting, as `options.NAME=VALUE`, under which the masks of unlabelled images are read.

        They then come as `Batch.unlabelled_label`, `unlabelled_view` must be `"weak"`, and tables, report and the run's
        `data.json` say how many. Empty, as for every method that has not declared it: none is opened.
        """
        return ""

    def forward(self, batch: Batch, progress: Progress) -> StepOutput:
        """`step` with detached terms, under the name that distributed wrappers and autocast know."""
        output = self.step(batch, progress)
        return StepOutput(output.loss, {name: term.detach() for name, term in output.terms.items()})

    def step(self, batch: Batch, progress: Progress) -> StepOutput:
        """The loss of one batch and its terms, still attached; changes nothing but batch-norm statistics."""
        raise NotImplementedError

    def before_step(self, batch: Batch, progress: Progress) -> bool:
        """Called before a batch is augmented; True says that `label_volume` gives other maps from here on."""
        return False

    def label_volume(self, image: Tensor) -> Tensor:
        """Label a whole unlabelled volume, for a method that `labels_volumes`.

        Called when a batch first has a slice of it, and again after `before_step` has given True. It must depend on
        what `state_dict` holds and on nothing else, so that a resumed run gets the same maps.

        Args:
            image: `(S, C, H, W)` float32 in [0, 1], its slices in order, not augmented; S = 1 for a picture.

        Returns:
            `(S, H, W)` int64, class index or `IGNORE`; they are augmented with the images.
        """
        raise NotImplementedError

    def follow(self, network: nn.Module) -> None:
        """Called at the start of a federation's round with its global network, a copy that is the method's own."""

    def after_step(self, progress: Progress) -> None:
        """Called after the optimisers: EMA teachers and the like."""

    def student(self) -> nn.Module:
        """What is kept after training: logits `(B, K, H, W)` from images, built by `build_network`."""
        raise NotImplementedError

    def student_spec(self) -> dict[str, Any]:
        """Name and arguments with which `build_network` builds `student()` again."""
        raise NotImplementedError

    def term_modules(self) -> dict[str, tuple[nn.Module, ...]]:
        """Which modules a term teaches: exactly these get a gradient from it, and a contract test holds that.

        Returns:
            First word of a term's name, or the whole name (which goes first) -> modules. Here `student_...` and SAM's
            `sam_kd` teach the student. A term that is not found is a measurement, without gradient.
        """
        student = (self.student(),)
        return {"student": student, "sam_kd": student}

    def parameter_groups(self) -> list[ParameterGroup]:
        """The trainable parameters by optimiser: everything outside SAM, and SAM's own."""
        sam = set() if self.sam is None else {id(parameter) for parameter in self.sam.parameters()}
        trainable = [parameter for parameter in self.parameters() if parameter.requires_grad]
        groups = [
            ParameterGroup("students", [parameter for parameter in trainable if id(parameter) not in sam]),
            ParameterGroup("sam", [parameter for parameter in trainable if id(parameter) in sam]),
        ]
        return [group for group in groups if group.parameters]


class StudentOptions(BaseModel):
    """The settings that methods with one kept network share."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    network: str = "unet"
    """`unet`, `vnet`, a name given to `register_network`, or `monai:` and a class of `monai.networks.nets`."""
    network_arguments: dict[str, Any] = {}
    """Further arguments of the network's class, for `monai:UNet` e.g. `{channels: [16, 32, 64], strides: [2, 2]}`."""
    standardise: bool = False
    """Remove each image's own brightness and contrast before the network."""

    def spec(self, context: MethodContext) -> dict[str, Any]:
        """Name and arguments for `build_network`.

        Raises:
            InputError: If `network_arguments` sets what has a place of its own.
        """
        own = {
            "name": self.network,
            "in_channels": context.in_channels,
            "classes": context.classes,
            "standardise": self.standardise,
        }
        if twice := sorted(own.keys() & self.network_arguments.keys()):
            raise InputError(
                f"options.network_arguments: {', '.join(twice)} was found, but expected only what is the network's own;"
                " leave it out: channels and classes follow from the data, the rest has its own setting."
            )
        return own | self.network_arguments


class StudentMethod(Method):
    """A method that keeps the one network of its `StudentOptions`: `self.network`."""

    def __init__(self, options: StudentOptions, context: MethodContext) -> None:
        super().__init__(options, context)
        self.spec = options.spec(context)
        self.network: Any = build_network(**self.spec)

    def student(self) -> nn.Module:
        """The network."""
        return self.network

    def student_spec(self) -> dict[str, Any]:
        """Name and arguments for `build_network`."""
        return self.spec


def require_features(network: nn.Module, name: str, method: str, remedy: str) -> list[int]:
    """Channels of each map that a network's encoder hands on, for a method that works on them.

    Args:
        network: Of a method.
        name: What `options.network` calls it.
        method: Name of the method, for the message.
        remedy: How to do without, the end of the sentence.

    Raises:
        InputError: If its features cannot be reached.
    """
    if not isinstance(network, EncoderDecoder):
        raise InputError(
            f"options.network: '{name}' was found, but {method} expected a network whose features it can reach; choose"
            f" unet or vnet, or {remedy}."
        )
    return network.encoded_channels()


def join_halves(batch: Batch) -> tuple[Tensor, Tensor]:
    """Both halves as one batch, labelled first: images `(B, C, H, W)`, labels `(B, H, W)` (`IGNORE` where unknown)."""
    if batch.unlabelled_image is None:
        return batch.labelled_image, batch.label
    unknown = batch.label.new_full((batch.unlabelled_image.shape[0], *batch.label.shape[1:]), IGNORE)
    return torch.cat([batch.labelled_image, batch.unlabelled_image]), torch.cat([batch.label, unknown])


def add_noise(image: Tensor, deviation: float, limit: float) -> Tensor:
    """The image with `clip(N(0, deviation), -limit, limit)` added to every pixel: the EMA teacher's own view of it."""
    return image + (deviation * torch.randn_like(image)).clamp(-limit, limit)
