"""SAM as a semantic teacher: adapters, learnable prompts, a mask as dense prompt (docs/method.md, section 2)."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from knowsam.functional.boxes import class_places
from knowsam.functional.probabilities import most_probable_class, resize_logits
from knowsam.functional.pseudo_labels import largest_components
from knowsam.networks.modes import as_predicting
from knowsam.sam.adapters import AdapterInit, insert_adapters
from knowsam.sam.backbone.decode import MASK_PROMPT_SCALE, decode_masks
from knowsam.sam.backbone.interface import interface_of
from knowsam.sam.backbone.prompting import encode_prompts
from knowsam.sam.loading.report import LoadReport, PixelNormalisation
from knowsam.sam.prompts import TOKENS_PER_CLASS, LearnablePrompts, TextPrompts

# Mean and standard deviation of SAM's training images, RGB, in [0, 1].
PIXEL_MEAN = (0.485, 0.456, 0.406)
PIXEL_STD = (0.229, 0.224, 0.225)

TrainMode = Literal["adapters", "all"]
PromptKind = Literal["mask", "box", "box+mask", "box+point"]


ASKED: dict[PromptKind, str] = {
    "mask": "the students' masks",
    "box": "boxes around them",
    "box+mask": "the students' masks and boxes",
    "box+point": "boxes around them and points within",
}

CERTAIN = 10.0
"""Logit of the pixels of a mask that is given as it is."""
UNUSED_DECODER = (
    "iou_prediction_head", "pred_obj_score_head", "output_hypernetworks_mlps.1",
    "output_hypernetworks_mlps.2", "output_hypernetworks_mlps.3",
)  # fmt: skip
"""Parts of SAM's decoder that the forward pass never reaches, or whose answer nothing learns from."""


class Question(NamedTuple):
    """Images and prompts, encoded: what is left is one pass of the decoder.

    Attributes:
        encoded: What SAM's encoder gave for B images.
        tokens: `(B K, T, dim)`, K classes next to each other.
        dense: `(B K, dim, g_h, g_w)`.
        prompt: Mask logits `(B K, 1, 4 g_h, 4 g_w)` behind the dense prompts.
        size: `(H, W)` of the images as they came.
    """

    encoded: Any
    tokens: Tensor
    dense: Tensor
    prompt: Tensor
    size: tuple[int, int]


class SamTeacher(nn.Module):
    """An adapted SAM that segments all classes of an image at once.

    Args:
        sam: A `SamModel`, `SamHQModel` or `Sam2Model` of transformers, or one of this package, resized to the input
            (`knowsam.sam.loading.build`).
        classes: K, background included.
        train: `"adapters"`: only adapters and prompts learn, everything else is frozen and stays in evaluation mode;
            `"all"`: every weight the forward pass uses learns.
        adapter_init: How adapters and prompts start; `"zero"` leaves SAM's function as it was: its output is that for
            the mask prompt alone.
        normalise: `"sam"`: by the mean and deviation of SAM's training images; `"unit"`: images in [0, 1] as they are,
            as MedSAM was trained.
        size: `(H, W)` in pixels at which SAM sees the images, to which it was resized; None: as they come.
        prompt: What becomes of the mask prompt. `"mask"`, the paper's: it is SAM's dense prompt, class by class.
            `"box"`: the bounding box of each class's largest piece in it instead (`class_places`); the background, and
            a class that is nowhere, keep the mask. `"box+mask"`: both. `"box+point"`: a box, and the point of the piece
            that is farthest from its edge.
        base: Where `sam` came from, for the run's files; None if that is not needed.
        context: How many neighbouring slices the images hold as channels; SAM sees the one in the middle.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(
        self,
        sam: Any,
        classes: int,
        train: TrainMode = "adapters",
        adapter_init: AdapterInit = "zero",
        normalise: PixelNormalisation = "sam",
        size: tuple[int, int] | None = None,
        prompt: PromptKind = "mask",
        base: LoadReport | None = None,
        context: int = 1,
    ) -> None:
        super().__init__()
        self.context = context
        self.sam = sam
        self.base = base
        self.size = size
        self.prompt = prompt
        self.normalise = normalise
        self.classes = classes
        self.train_mode = train
        self.decoder_learns = train == "all"
        dim = sam.config.prompt_encoder_config.hidden_size
        interface_of(sam).prepare(sam)
        insert_adapters(sam, adapter_init)
        self.prompts = LearnablePrompts(classes, dim)
        self.text: TextPrompts | None = None
        if adapter_init == "zero":
            # Two of SAM's 'not a point': with a mask prompt and no point SAM answers as it was trained to.
            self.prompts.start_at(sam.prompt_encoder.not_a_point_embed.weight[0])
        mean, deviation = pixel_statistics(normalise)
        self.register_buffer("pixel_mean", mean, persistent=False)
        self.register_buffer("pixel_std", deviation, persistent=False)
        self._let_learn()
        self.train()

    def line(self) -> str:
        """Return a line for a person to read: what SAM sees and how it is asked."""
        seen = "images as they come" if self.size is None else f"images of {self.size[0]}x{self.size[1]} px"
        if self.size is not None and self.base is not None and self.base.made_for != max(self.size):
            seen += f" (made for {self.base.made_for} px)"
        pixels = "normalised by SAM's mean and deviation" if self.normalise == "sam" else "values in [0, 1] as they are"
        return f"sam: sees {seen}, {pixels}; prompted with {ASKED[self.prompt]}"

    def trainable_parameter_names(self) -> list[str]:
        """Names of all parameters that learn: the declaration that tests hold the module to."""
        names = [name for name, _ in self.named_parameters()]
        if self.train_mode == "adapters":
            learn = ("prompts.", "text.", *(("sam.mask_decoder.",) if self.decoder_learns else ()))
            names = [name for name in names if name.startswith(learn) or ".adapter." in name]
        # Parts of SAM that this forward pass never reaches: point and box prompts, the other three masks, the IoU head.
        unused = (
            "sam.prompt_encoder.shared_embedding", "sam.shared_image_embedding", "sam.prompt_encoder.point_embed",
            "sam.prompt_encoder.not_a_point_embed", "sam.prompt_encoder.no_mask_embed",
            *(f"sam.mask_decoder.{part}" for part in UNUSED_DECODER),
        )  # fmt: skip
        return [name for name in names if not name.startswith(unused)]

    def train(self, mode: bool = True) -> SamTeacher:
        """Training mode for what learns; a frozen SAM stays in evaluation mode."""
        super().train(mode)
        if self.train_mode == "adapters":
            self.sam.eval()
        return self

    def forward(self, image: Tensor, mask_prompt: Tensor) -> Tensor:
        """Segment `image` as prompted: `masks`, enlarged to the image's size, `(B, K, H, W)`."""
        return resize_logits(self.masks(image, mask_prompt), (image.shape[-2], image.shape[-1]))

    def masks(self, image: Tensor, mask_prompt: Tensor, regions: Tensor | None = None) -> Tensor:
        """Segment `image` as prompted, at the resolution SAM answers at.

        Args:
            image: `(B, context * C, H, W)` float in [0, 1], C = 1 (repeated) or 3.
            mask_prompt: Logits `(B, K, h, w)`; resized to SAM's mask-prompt size.
            regions: `(B, H, W)` int64, where each class lies: boxes and points are read off it instead of the largest
                pieces of `mask_prompt`; without effect where `prompt` is `"mask"`.

        Returns:
            Logits `(B, K, 4 g_h, 4 g_w)` for a token grid of g_h x g_w: half of the image's size with the bundled SAM,
            a quarter with the published ones; `(B, K, H, W)` where SAM's answer is larger than the image.
        """
        return self.answer(self.ask(image, mask_prompt, regions))[0]

    def ask(self, image: Tensor, mask_prompt: Tensor, regions: Tensor | None = None, frozen: bool = False) -> Question:
        """Encode images and prompts, the same arguments as `masks`.

        Args:
            image: `(B, C, H, W)`.
            mask_prompt: Logits `(B, K, h, w)`.
            regions: `(B, H, W)` int64, or None.
            frozen: Without gradients, and as in evaluation: what answers will teach the decoder alone.
        """
        if not frozen:
            return self._prompted(self._encode(image), image, mask_prompt, self.prompt, regions)
        with torch.no_grad(), as_predicting(self):
            return self._prompted(self._encode(image), image, mask_prompt, self.prompt, regions)

    def answer(self, question: Question, decoder: nn.Module | None = None) -> tuple[Tensor, Tensor]:
        """Decode a question.

        Args:
            question: What `ask` gave.
            decoder: Another mask decoder in place of SAM's own, such as a frozen copy.

        Returns:
            Logits as of `masks`, and SAM's estimate of their IoU `(B, K)`.
        """
        encoded, tokens, dense, prompt, size = question
        masks, quality = decode_masks(self.sam, encoded, tokens, dense, prompt, decoder=decoder)
        masks = masks.view(-1, self.classes, *masks.shape[-2:])
        if masks.shape[-2] > size[0] or masks.shape[-1] > size[1]:
            masks = F.interpolate(masks, size, mode="area")
        return masks, quality.view(-1, self.classes)

    @torch.no_grad()
    def rate(self, image: Tensor, masks: Tensor) -> Tensor:
        """SAM's estimate of the IoU of its answers to masks as prompts, whatever `prompt` is.

        Args:
            image: `(B, C, H, W)` float in [0, 1].
            masks: `(B, K, M, H, W)` bool, the background's included.

        Returns:
            `(B, K, M)`.
        """
        with as_predicting(self):
            encoded, prompts = self._encode(image), CERTAIN * (2 * masks.to(image.dtype) - 1)
            asked = (self._prompted(encoded, image, prompt, "mask") for prompt in prompts.unbind(2))
            return torch.stack([self.answer(question)[1] for question in asked], dim=-1)

    @property
    def estimates_iou(self) -> bool:
        """Whether this SAM has a head that estimates the IoU of its answers."""
        return isinstance(getattr(self.sam.mask_decoder, "iou_prediction_head", None), nn.Module)

    def learn_decoder(self) -> None:
        """Let the mask decoder's own weights learn too, but for the parts that no answer depends on."""
        self.decoder_learns = True
        self._let_learn()

    def _let_learn(self) -> None:
        trainable = set(self.trainable_parameter_names())
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(name in trainable)

    def read_texts(self, vectors: Tensor) -> None:
        """Prompt with a text's embedding per class, too, from now on: `(K, D)`, the background's first."""
        nothing = self.sam.prompt_encoder.not_a_point_embed.weight[0]
        self.text = TextPrompts(vectors, nothing.detach()).to(nothing.device)

    def _encode(self, image: Tensor) -> Any:
        rgb = image.chunk(self.context, dim=1)[self.context // 2].expand(-1, 3, -1, -1)
        if self.size is not None and self.size != tuple(image.shape[-2:]):
            rgb = F.interpolate(rgb, self.size, mode="bilinear", align_corners=False, antialias=True)
        return interface_of(self.sam).encode(self.sam, (rgb - self.pixel_mean) / self.pixel_std)

    def _prompted(
        self, encoded: Any, image: Tensor, mask_prompt: Tensor, kind: PromptKind, regions: Tensor | None = None
    ) -> Question:
        embedding = encoded[0]
        grid = embedding.shape[-2:]
        # One decoder pass per (image, class): classes are folded into the batch.
        tokens = self.prompts(embedding).flatten(0, 1)
        size = (MASK_PROMPT_SCALE * grid[0], MASK_PROMPT_SCALE * grid[1])
        logits = resize_logits(mask_prompt, size).flatten(0, 1)
        if kind == "mask":
            prompt = logits[:, None]
            dense = self.sam.prompt_encoder.mask_embed(prompt)
        else:
            if regions is None:
                regions = largest_components(most_probable_class(mask_prompt), self.classes)
            shift, dense, prompt = self._places(regions, logits, kind)
            learned = tokens.shape[1]
            tokens = torch.cat([tokens + shift[:, :learned], shift[:, learned:]], dim=1)
        if self.text is not None:
            tokens = torch.cat([tokens, self.text(len(image)).flatten(0, 1)], dim=1)
        return Question(encoded, tokens, dense, prompt, (image.shape[-2], image.shape[-1]))

    def _places(self, regions: Tensor, logits: Tensor, kind: PromptKind) -> tuple[Tensor, Tensor, Tensor]:
        """Prompts with boxes: what they add to the learnable tokens, dense prompts, masks behind these.

        The learnable tokens begin as SAM's 'no point', which is taken away where there is a box, so that at step 0 SAM
        gets the tokens of a box that it was trained with. A point is a token of its own behind them.
        """
        box, point, found = (place.flatten(0, 1) for place in class_places(regions, self.classes))
        has_mask = torch.ones_like(found) if kind == "box+mask" else ~found
        pointed = kind == "box+point"
        has_point = found if pointed else torch.zeros_like(found)
        tokens, dense, prompt = encode_prompts(
            self.sam, logits, has_mask, box, found, point, has_point, has_point, point_beside_box=pointed
        )
        nothing = self.sam.prompt_encoder.not_a_point_embed.weight
        corners = tokens[:, :TOKENS_PER_CLASS] - nothing
        return torch.cat([corners, tokens[:, TOKENS_PER_CLASS:]], dim=1).detach(), dense, prompt


def pixel_statistics(normalise: PixelNormalisation) -> tuple[Tensor, Tensor]:
    """Mean and deviation, `(1, 3, 1, 1)` each, that images in [0, 1] are normalised by."""
    mean, deviation = (PIXEL_MEAN, PIXEL_STD) if normalise == "sam" else ((0.0,) * 3, (1.0,) * 3)
    return torch.tensor(mean).view(1, 3, 1, 1), torch.tensor(deviation).view(1, 3, 1, 1)
