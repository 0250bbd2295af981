"""The method on tensors, against its formula written out."""

import math

import pytest
import torch

from apt_peft.tuner import functional as f


def test_published_bound_at_the_published_size():
    assert f.published_bound(3 * 16 * 16, 64) == pytest.approx(0.0849, abs=5e-5)


def test_max_gives_half_of_the_gradient_at_a_tie_and_none_below():
    scale = torch.tensor([1.0, 0.5, 2.0], requires_grad=True)
    f.scale_factor(scale, "max").sum().backward()
    assert scale.grad.tolist() == [0.5, 0.0, 1.0]
    assert f.scale_factor(scale, "max").tolist() == [1.0, 1.0, 2.0]


def test_softplus_is_one_at_zero_and_smooth():
    scale = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    factor = f.scale_factor(scale, "softplus")
    factor.backward()
    assert factor.item() == pytest.approx(1.0, abs=1e-15)
    assert scale.grad.item() == pytest.approx(1 - 1 / math.e)  # sigmoid(ln(e - 1))


def test_none_is_one():
    assert f.scale_factor(None, "none") == 1.0


def test_dropout_acts_on_raw_elements_before_the_scale():
    prompt, scale = torch.randn(4, 6), torch.tensor([0.5, 1.0, 2.0, 3.0])
    torch.manual_seed(3)
    got = f.effective_prompts(prompt, scale, "max", 0.5, training=True)
    torch.manual_seed(3)
    keep = torch.nn.functional.dropout(torch.ones(4, 6), 0.5)  # 0 or 2
    assert torch.equal(got, prompt * keep * torch.tensor([[1.0], [1.0], [2.0], [3.0]]))
    assert torch.equal(
        f.effective_prompts(prompt, scale, "max", 0.5, training=False), prompt * scale.clamp(min=1)[:, None]
    )


@pytest.mark.parametrize("shape", [(3, 4), (2, 3, 4)])
def test_prompts_come_after_the_tokens(shape):
    states, prompts = torch.randn(5, 2, 7, 4), torch.randn(shape)
    joined = f.append_prompts(states, prompts)
    assert joined.shape == (5, 2, 10, 4)
    assert torch.equal(joined[:, :, :7], states)
    assert torch.equal(joined[:, :, 7:], prompts.expand(5, 2, 3, 4))


def test_prompts_take_the_dtype_of_the_states():
    assert f.append_prompts(torch.randn(1, 1, 2, 4).bfloat16(), torch.randn(3, 4)).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("mask", "fill"),
    [
        (torch.zeros(1, 1, 2, 2, dtype=torch.bool), True),
        (torch.full((1, 1, 2, 2), -9.0), 0.0),
    ],
)
def test_masks_let_every_query_see_the_prompts(mask, fill):
    padded = f.pad_mask(mask, 3)
    assert padded.dtype == mask.dtype
    assert torch.equal(padded[..., :2], mask)
    assert (padded[..., 2:] == fill).all()
    assert padded.shape == (*mask.shape[:-1], 5)
