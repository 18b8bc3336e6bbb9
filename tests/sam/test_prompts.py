from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file

from knowsam.sam.prompts import TOKENS_PER_CLASS, ClassPrompt, LearnablePrompts, TextPrompts

CONV_BLOCKS = {
    "conv1": "conv_1.conv_conv",
    "down1": "down_1.maxpool_conv.1.conv_conv",
    "conv2": "conv_2.conv_conv",
    "down2": "down_2.maxpool_conv.1.conv_conv",
}
# The original has a dropout between activation and next layer, which is why its indices run ahead of ours.
CONV_LAYERS = {"0": "0", "1": "1", "3": "4", "4": "5"}
FEED_FORWARD_LAYERS = {"0": "0", "2": "3"}


def original_name(name: str) -> str:
    """Our parameter's name in the original state dict."""
    part, rest = name.split(".", 1)
    if part == "project":
        return f"weights.box_decoder.0.conv_3.{rest}"
    index, kind = rest.split(".")
    if part == "feed_forward":
        return f"weights.box_decoder.0.ffn.{FEED_FORWARD_LAYERS[index]}.{kind}"
    return f"weights.box_decoder.0.{CONV_BLOCKS[part]}.{CONV_LAYERS[index]}.{kind}"


@torch.no_grad()
def test_class_prompt_agrees_with_the_original_module(golden: Path) -> None:
    tensors = load_file(golden / "learnable_prompts_one_class.safetensors")
    prompt = ClassPrompt(256)
    names = {name: original_name(name) for name in prompt.state_dict()}
    assert set(names.values()) == {name for name in tensors if name.startswith("weights.")}
    # The weights are stored in half precision, the outputs were computed with them in single precision.
    state = {ours: tensors[theirs] for ours, theirs in names.items()}
    prompt.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in state.items()}, strict=True)
    expected = tensors["io.tokens"][:, 0]
    found = prompt.eval()(tensors["io.image_embedding"])
    assert found.shape == expected.shape
    assert ((found - expected).abs().max() / expected.abs().max()) < 1e-4


@torch.no_grad()
def test_learnable_prompts_have_one_head_per_class() -> None:
    torch.manual_seed(0)
    prompts = LearnablePrompts(3, dim=8).eval()
    embedding = torch.randn(2, 8, 4, 6)
    tokens = prompts(embedding)
    assert tokens.shape == (2, 3, TOKENS_PER_CLASS, 8)
    for c, head in enumerate(prompts.heads):
        assert torch.equal(tokens[:, c], head(embedding))
    assert not torch.equal(tokens[:, 0], tokens[:, 1])


def test_text_tokens_are_a_linear_map_of_the_vectors_that_begins_at_a_token() -> None:
    vectors, token = torch.randn(3, 5), torch.randn(8)
    prompts = TextPrompts(vectors, token)
    assert torch.equal(prompts(2), token.expand(2, 3, 1, 8))
    torch.nn.init.normal_(prompts.project.weight)
    expected = vectors @ prompts.project.weight.T + token
    torch.testing.assert_close(prompts(2), expected[None, :, None].expand(2, -1, -1, -1))
    assert torch.equal(
        prompts.state_dict()["vectors"], vectors
    )  # a run goes on without the file's having to be the same
