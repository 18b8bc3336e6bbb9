from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from knowsam.sam.backbone.decode import grid_positions
from knowsam.sam.loading.build import resize_input
from knowsam.sam.teacher import SamTeacher
from support.small_sam import SIDE, TOKENS, small_sam

SIZE = (32, 48)


def make_teacher(train: str = "adapters", size: tuple[int, int] = SIZE, hq: bool = False) -> SamTeacher:
    """A teacher of three classes whose adapters and prompts have left their zero initialisation."""
    sam = small_sam(hq=hq)
    resize_input(sam, size)
    torch.manual_seed(0)
    teacher = SamTeacher(sam, 3, train=train)
    for name, parameter in teacher.named_parameters():
        if ".adapter.up." in name or name.endswith("feed_forward.2.weight"):
            torch.nn.init.normal_(parameter, std=0.1)
    return teacher


def one_step(teacher: SamTeacher) -> None:
    torch.manual_seed(1)
    logits = teacher(torch.rand(3, 1, *SIZE), torch.randn(3, 3, *SIZE))
    F.cross_entropy(logits, torch.randint(0, 3, (3, *SIZE))).backward()
    torch.optim.Adam([p for p in teacher.parameters() if p.requires_grad], lr=0.1).step()


@pytest.mark.parametrize("hq", [False, True])
@pytest.mark.parametrize("train", ["adapters", "all"])
def test_declared_parameters_are_exactly_those_that_require_and_get_a_gradient_and_change(train: str, hq: bool) -> None:
    teacher = make_teacher(train, hq=hq)
    declared = set(teacher.trainable_parameter_names())
    before = {name: parameter.detach().clone() for name, parameter in teacher.named_parameters()}
    one_step(teacher)
    parameters = dict(teacher.named_parameters())
    assert {name for name, p in parameters.items() if p.requires_grad} == declared
    assert {name for name, p in parameters.items() if p.grad is not None} == declared
    assert {name for name, p in parameters.items() if not torch.equal(p, before[name])} == declared


def test_adapters_mode_declares_adapters_and_prompts_only() -> None:
    names = make_teacher("adapters").trainable_parameter_names()
    assert all(".adapter." in name or name.startswith("prompts.") for name in names)
    assert any(name.startswith("sam.vision_encoder.") for name in names)
    assert any(name.startswith("sam.mask_decoder.") for name in names)


def test_a_frozen_sam_stays_frozen_and_in_evaluation_mode_through_train() -> None:
    teacher = make_teacher("adapters").eval()
    teacher.train()
    assert not any(module.training for module in teacher.sam.modules())
    assert all(module.training for module in teacher.prompts.modules())
    assert not teacher.sam.vision_encoder.pos_embed.requires_grad


def test_a_sam_that_learns_as_a_whole_is_in_training_mode() -> None:
    teacher = make_teacher("all").eval().train()
    assert all(module.training for module in teacher.modules())


@pytest.mark.parametrize(("size", "hq"), [((32, 48), False), ((64, 64), False), ((32, 48), True)])
@torch.no_grad()
def test_forward_naive(size: tuple[int, int], hq: bool) -> None:
    """One image and one class at a time, through SAM's own parts, gives what the folded batch gives."""
    teacher = make_teacher(size=size, hq=hq).eval()
    sam = teacher.sam
    image, prompt = torch.rand(2, 3, *size), torch.randn(2, 3, *size)
    found = teacher(image, prompt)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    normalised = (image - mean[:, None, None]) / std[:, None, None]
    grid = (size[0] // 8, size[1] // 8)
    positions = torch.stack(
        [
            sam.shared_image_embedding(torch.tensor([[(x + 0.5) / grid[1], (y + 0.5) / grid[0]]]))[0]
            for y in range(grid[0])
            for x in range(grid[1])
        ],
        dim=1,
    ).view(1, TOKENS, *grid)
    for b in range(2):
        encoded = sam.vision_encoder(normalised[b : b + 1])
        embedding = encoded.last_hidden_state
        of_hq = {"intermediate_embeddings": encoded.intermediate_embeddings, "hq_token_only": False} if hq else {}
        for c in range(3):
            dense = F.interpolate(prompt[b : b + 1, c : c + 1], (4 * grid[0], 4 * grid[1]), mode="bilinear")
            masks, _ = sam.mask_decoder(
                image_embeddings=embedding,
                image_positional_embeddings=positions,
                sparse_prompt_embeddings=teacher.prompts.heads[c](embedding)[None],
                dense_prompt_embeddings=sam.prompt_encoder.mask_embed(dense),
                multimask_output=False,
                **of_hq,
            )
            expected = F.interpolate(masks[0], size, mode="bilinear")[0, 0]
            torch.testing.assert_close(found[b, c], expected, rtol=1e-3, atol=1e-4)


@torch.no_grad()
def test_positions_of_a_square_grid_are_sams_own() -> None:
    teacher = make_teacher(size=(SIDE, SIDE))
    own = teacher.sam.get_image_wide_positional_embeddings()
    torch.testing.assert_close(grid_positions(teacher.sam, (8, 8)), own)


@torch.no_grad()
def test_at_step_0_the_teacher_answers_each_mask_as_sam_does() -> None:
    """SAM's own pass, with two points that are marked as none, and the mask."""
    sam, image, prompt = small_sam(), torch.rand(2, 3, SIDE, SIDE), torch.randn(2, 3, SIDE // 2, SIDE // 2)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    pixels = (image - mean[:, None, None]) / std[:, None, None]
    nothing = {"input_points": torch.zeros(2, 1, 1, 2), "input_labels": torch.full((2, 1, 1), -1)}
    expected = [
        sam(pixels, **nothing, input_masks=prompt[:, c : c + 1], multimask_output=False).pred_masks[:, 0, 0]
        for c in range(3)
    ]
    found = SamTeacher(sam, 3)(image, prompt)
    larger = F.interpolate(torch.stack(expected, dim=1), (SIDE, SIDE), mode="bilinear", align_corners=False)
    torch.testing.assert_close(found, larger, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_grey_image_is_the_same_as_its_rgb_repetition() -> None:
    teacher = make_teacher().eval()
    image, prompt = torch.rand(2, 1, *SIZE), torch.randn(2, 3, *SIZE)
    assert torch.equal(teacher(image, prompt), teacher(image.repeat(1, 3, 1, 1), prompt))


@pytest.mark.parametrize(
    ("normalise", "expected"),
    [("sam", [(0.5 - 0.485) / 0.229, (0.5 - 0.456) / 0.224, (0.5 - 0.406) / 0.225]), ("unit", [0.5, 0.5, 0.5])],
)
@torch.no_grad()
def test_a_grey_image_enters_the_encoder_in_the_pixel_values_it_was_trained_on(
    normalise: str, expected: list[float]
) -> None:
    sam, seen = small_sam(), []
    sam.vision_encoder.register_forward_pre_hook(lambda module, arguments: seen.append(arguments[0]))
    SamTeacher(sam, 2, normalise=normalise)(torch.full((2, 1, SIDE, SIDE), 0.5), torch.zeros(2, 2, SIDE, SIDE))
    assert seen[0].shape == (2, 3, SIDE, SIDE)
    torch.testing.assert_close(seen[0].amax(dim=(0, 2, 3)), torch.tensor(expected))
    torch.testing.assert_close(seen[0].amin(dim=(0, 2, 3)), torch.tensor(expected))


@torch.no_grad()
def test_every_prompt_matters() -> None:
    teacher = make_teacher().eval()
    image, prompt = torch.rand(1, 1, *SIZE), torch.randn(1, 3, *SIZE)
    before = teacher(image, prompt)
    changed = prompt.clone()
    changed[:, 1] += 3
    after = teacher(image, changed)
    # The mask of class 1 prompts class 1 and no other.
    assert [torch.equal(before[:, c], after[:, c]) for c in range(3)] == [True, False, True]
    teacher.prompts.heads[2].feed_forward[2].bias += 1
    assert [torch.equal(after[:, c], teacher(image, changed)[:, c]) for c in range(3)] == [True, True, False]
