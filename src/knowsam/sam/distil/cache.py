"""What the teacher says of each image, asked once and kept in a folder under the image's content and the teacher's."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from knowsam.sam.backbone.tiny import Encoded
from knowsam.sam.distil.objects import draw_boxes, seen_objects
from knowsam.sam.pretrain.promptable import PromptableSam
from knowsam.storage import output_folder, safe_at_end, write_safetensors

VERSION = "2"
"""Of what is kept; another one is asked for again."""
MEMORY_SHARE = 0.3
"""Of the machine's memory, for embeddings; more of them stay on the disk."""
IMAGES_PER_PASS = {"cpu": 1}
"""Images in one pass of the teacher; elsewhere `ON_GPU`."""
ON_GPU = 8


class TeacherCache:
    """The teacher's embeddings and answers, one file each and image.

    Args:
        folder: Where they are kept; may serve several distillations.
        teacher: The teacher's identity: sha256 of its weights, its pixel values.
        side: At which it sees the images, in px.
        answers: Boxes asked for in an image.
    """

    def __init__(self, folder: Path, teacher: Sequence[str], side: int, answers: int) -> None:
        self.folder, self.side, self.answers = folder, side, answers
        self.identity = "|".join([VERSION, *teacher, str(side)])

    def path(self, image: Tensor, kind: str) -> Path:
        """The file of an image `(3, S, S)` uint8; `kind` is `embedding` or `answers`."""
        asked = f"{self.identity}|{self.answers}" if kind == "answers" else self.identity
        key = sha256(asked.encode() + b"|" + image.numpy().tobytes()).hexdigest()
        return self.folder / f"{key[:32]}.{kind}.safetensors"

    @torch.no_grad()
    def fill(
        self, teacher: PromptableSam, images: Tensor, wanted: Tensor, embeddings: bool, amp: bool,
        advance: Callable[[int], None] = lambda count: None,
    ) -> None:  # fmt: skip
        """Ask the teacher what is not there yet.

        Args:
            teacher: In evaluation mode, on its device.
            images: `(N, 3, S, S)` uint8.
            wanted: `(N,)` bool, in which images it is asked for objects.
            embeddings: Whether embeddings are kept too.
            amp: Compute in bfloat16.
            advance: Called with the number of images that are done.
        """
        device = next(teacher.parameters()).device
        missing = []
        for index, image in enumerate(images):
            kinds = ["embedding"] * embeddings + ["answers"] * bool(wanted[index])
            absent = [kind for kind in kinds if not _is_whole(self.path(image, kind))]
            missing += [(index, absent)] if absent else []
        advance(len(images) - len(missing))
        per_pass = IMAGES_PER_PASS.get(device.type, ON_GPU)
        with output_folder(self.folder), safe_at_end():
            for start in range(0, len(missing), per_pass):
                part = missing[start : start + per_pass]
                chosen = images[[index for index, _ in part]]
                with torch.autocast(device.type, torch.bfloat16, enabled=amp):
                    found = self._ask(teacher, chosen, any("answers" in absent for _, absent in part))
                for (index, absent), *values in zip(part, *found, strict=True):
                    for kind in absent:
                        kept = values[0] if kind == "embedding" else values[1]
                        write_safetensors(self.path(images[index], kind), kept, {})
                advance(len(part))

    def _ask(self, teacher: PromptableSam, images: Tensor, answers: bool) -> tuple[list[Any], list[Any]]:
        """Embeddings and answers of some images, each as what a file holds."""
        device = next(teacher.parameters()).device
        pixels = images.to(device).float() / 255
        encoded = teacher.encode(pixels)
        maps = maps_of(encoded)
        embeddings = [
            {str(level): values[index].half().cpu().contiguous() for level, values in enumerate(maps)}
            for index in range(len(images))
        ]
        if not answers:
            return embeddings, [{}] * len(images)
        box = torch.cat([draw_boxes(self.answers, self._generator(image)) for image in images]).to(device)
        mask, agreement = seen_objects(teacher, encoded, pixels, box, self.side // 2)
        split = zip(mask.cpu().split(self.answers), agreement.float().cpu().split(self.answers), strict=True)
        return embeddings, [{"mask": mask.contiguous(), "agreement": agreement} for mask, agreement in split]

    def _generator(self, image: Tensor) -> torch.Generator:
        """Of the boxes in an image: a function of the image."""
        seed = int.from_bytes(sha256(image.numpy().tobytes()).digest()[:7], "big")
        return torch.Generator().manual_seed(seed)

    def read_answers(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Masks `(n, m, m)` uint8 and agreement `(n,)` of an image."""
        found = load_file(self.path(image, "answers"))
        return found["mask"], found["agreement"]

    def embeddings(self, images: Tensor, grid: int) -> Embeddings:
        """The embeddings of images that were asked for, see `Embeddings`."""
        return Embeddings([self.path(image, "embedding") for image in images], grid)


class Embeddings:
    """The maps of some images, half precision, in memory or, where they are too many, on the disk.

    Args:
        paths: Their files.
        grid: Largest side of a map; larger ones are averaged down to it. 0: as they are.
    """

    def __init__(self, paths: Sequence[Path], grid: int = 0) -> None:
        self.paths, self.grid = paths, grid
        self.kept: list[Tensor] | None = None
        bytes_each = sum(level.nbytes for level in self._read(paths[0])) if paths else 0
        if bytes_each * len(paths) <= MEMORY_SHARE * memory_bytes():
            self.kept = self._stacked(paths)

    def _read(self, path: Path) -> list[Tensor]:
        file = load_file(path)
        levels = [file[level] for level in sorted(file)]
        if not self.grid:
            return levels
        return [F.adaptive_avg_pool2d(level.float(), min(self.grid, level.shape[-1])).half() for level in levels]

    def _stacked(self, paths: Sequence[Path]) -> list[Tensor]:
        return [torch.stack(level) for level in zip(*map(self._read, paths), strict=True)]

    def take(self, chosen: Tensor) -> list[Tensor]:
        """The maps of images `(B,)`: each `(B, dim, g_h, g_w)` float16, the embedding first."""
        if self.kept is not None:
            return [maps[chosen] for maps in self.kept]
        return self._stacked([self.paths[index] for index in chosen.tolist()])


def maps_of(encoded: Any) -> list[Tensor]:
    """What a decoder reads of an encoder's output: the embedding, and finer maps where there are any."""
    return list(encoded) if isinstance(encoded, Encoded) else [encoded[0]]


def memory_bytes() -> int:
    """The machine's memory; 8 GB where the system does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 8 * 2**30


def _is_whole(path: Path) -> bool:
    """Whether a file is there and can be read; a broken one is asked for again."""
    try:
        with safe_open(path, "pt"):
            return True
    except FileNotFoundError:
        return False
    except (OSError, SafetensorError):
        path.unlink()
        return False
