from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from knowsam.functional.boxes import class_places
from knowsam.functional.pseudo_labels import largest_components
from knowsam.sam.backbone.decode import grid_positions
from knowsam.sam.backbone.tiny import read_config, tiny_sam
from knowsam.sam.loading.build import TINY, resize_input
from knowsam.sam.teacher import SamTeacher
from support.small_sam import SIDE, TOKENS, small_sam
from support.tiny_vit_sams import small_tiny_vit_sam

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


@pytest.mark.parametrize("hq", [False, True])
def test_a_decoder_that_learns_is_declared_and_reached(hq: bool) -> None:
    teacher = make_teacher("adapters", hq=hq)
    before = set(teacher.trainable_parameter_names())
    teacher.learn_decoder()
    learning = {name for name, parameter in teacher.named_parameters() if parameter.requires_grad}
    assert learning == set(teacher.trainable_parameter_names()) > before
    assert all(name.startswith("sam.mask_decoder.") for name in learning - before)
    question = teacher.ask(torch.rand(1, 1, *SIZE), torch.randn(1, 3, *SIZE), frozen=True)
    teacher.answer(question)[0].square().mean().backward()
    reached = {name for name, parameter in teacher.named_parameters() if parameter.grad is not None}
    assert learning - before <= reached
    assert all(name.startswith("sam.mask_decoder.") for name in reached)
    assert teacher.training


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


BOXED = torch.full((1, 3, *SIZE), 0.0)
"""Class 1 in rows 8 to 15 and columns 12 to 35 and, smaller, in a corner; class 2 nowhere."""
BOXED[:, 0] = 4
BOXED[:, 1, 8:16, 12:36] = 8
BOXED[:, 1, 30:, 46:] = 8


@pytest.mark.parametrize("prompt", ["box", "box+mask", "box+point"])
@torch.no_grad()
def test_at_step_0_a_box_is_answered_as_sam_does(prompt: str) -> None:
    """SAM's own pass with the box in pixels, whose corners it takes half a pixel further."""
    sam = small_sam()
    resize_input(sam, (48, 48))
    given = F.pad(BOXED, (0, 0, 0, 16), value=0.0)
    given[:, 0, 32:] = 4
    image, found = torch.rand(1, 3, 48, 48), class_places(largest_components(given.argmax(dim=1), 3), 3)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    pixels = (image - mean[:, None, None]) / std[:, None, None]
    mask = F.interpolate(given, (24, 24), mode="bilinear")
    masks = {"input_masks": mask[:, 1:2]} if prompt == "box+mask" else {}
    absent = 1  # of two tokens for 'no point' SAM adds one itself
    if prompt == "box+point":
        masks = {"input_points": 48 * found.point[:, 1:2, None] - 0.5, "input_labels": torch.ones(1, 1, 1)}
        absent = 2
    own = sam(pixels, input_boxes=48 * found.box[:, 1:2] - 0.5, multimask_output=False, **masks).pred_masks
    nothing = {"input_points": torch.zeros(1, 1, absent, 2), "input_labels": torch.full((1, 1, absent), -1)}
    unboxed = [
        sam(pixels, **nothing, input_masks=mask[:, k : k + 1], multimask_output=False).pred_masks for k in (0, 2)
    ]
    answer = SamTeacher(sam, 3, prompt=prompt).eval().masks(image, given)
    for k, expected in {0: unboxed[0], 1: own, 2: unboxed[1]}.items():
        torch.testing.assert_close(answer[0, k], expected[0, 0, 0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("regions", [None, torch.ones(2, *SIZE, dtype=torch.long)], ids=["own", "given"])
@pytest.mark.parametrize("prompt", ["mask", "box", "box+mask", "box+point"])
@torch.no_grad()
def test_every_sam_takes_every_prompt_and_a_size_of_its_own(prompt: str, regions: torch.Tensor | None) -> None:
    for sam in (small_sam(), small_sam(hq=True), small_tiny_vit_sam(), tiny_sam(read_config(TINY))):
        resize_input(sam, (48, 64))
        teacher = SamTeacher(sam, 3, size=(48, 64), prompt=prompt)
        masks = teacher.masks(torch.rand(2, 1, *SIZE), torch.randn(2, 3, *SIZE), regions)
        assert masks.isfinite().all()
        assert masks.shape[-2] <= SIZE[0]
        assert teacher(torch.rand(2, 1, *SIZE), torch.randn(2, 3, *SIZE)).shape == (2, 3, *SIZE)


@torch.no_grad()
def test_sam_sees_the_image_at_its_own_size_and_answers_at_the_students() -> None:
    sam, seen = small_tiny_vit_sam(), []
    resize_input(sam, (64, 96))
    sam.vision_encoder.register_forward_pre_hook(lambda module, arguments: seen.append(arguments[0]))
    teacher = SamTeacher(sam, 3, normalise="unit", size=(64, 96)).eval()
    image, prompt = torch.rand(1, 3, *SIZE), torch.randn(1, 3, *SIZE)
    found = teacher.masks(image, prompt)
    torch.testing.assert_close(seen[0], F.interpolate(image, (64, 96), mode="bilinear"))
    large = teacher.masks(seen[0], prompt)
    torch.testing.assert_close(found, F.avg_pool2d(large, 2), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_given_regions_place_the_boxes_and_not_the_mask() -> None:
    sam = small_sam()
    resize_input(sam, SIZE)
    teacher, image = SamTeacher(sam, 3, prompt="box+point").eval(), torch.rand(1, 1, *SIZE)
    here, there = BOXED, torch.randn_like(BOXED)
    regions = largest_components(here.argmax(dim=1), 3)
    by_mask, by_regions = teacher.masks(image, here), teacher.masks(image, there, regions)
    assert torch.equal(by_mask[:, 1], by_regions[:, 1])  # boxed: its mask is not looked at
    assert not torch.equal(by_mask[:, 0], by_regions[:, 0])  # the background keeps its mask


def test_what_sam_sees_is_told_in_a_line() -> None:
    sam = small_tiny_vit_sam()
    resize_input(sam, (64, 96))
    assert SamTeacher(sam, 3, normalise="unit", size=(64, 96), prompt="box").line() == (
        "sam: sees images of 64x96 px, values in [0, 1] as they are; prompted with boxes around them"
    )
