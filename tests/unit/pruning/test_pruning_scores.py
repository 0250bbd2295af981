"""Scores of prompts, against softmax weights, gradients and differences of losses that are written out."""

import pytest
import torch
import torch.nn.functional as F
from architectures import ARCHITECTURES, build, inputs_for
from helpers import raises_exactly
from models import clips, prompt_layers, prompted, tiny_videomae
from peft import get_peft_model
from written_out import SavedPrompts, write_out

from apt_peft import AttentionPromptConfig, ConfigError
from apt_peft.pruning import choose_prompts, only_prompts, prompt_scores

LABELS = torch.tensor([0, 2, 1])
BATCHES = [
    {"pixel_values": clips(3)[:2], "labels": LABELS[:2]},
    {"pixel_values": clips(3)[2:], "labels": LABELS[2:]},
]
SETTINGS = {
    "max": {},
    "softplus": {"reparameterization": "softplus", "share_prompts_across_heads": False, "key_gate": 2},
    "bias": {"reparameterization": "none", "score_bias": True},
}
VIDEO = [name for name, row in ARCHITECTURES.items() if row.video]


def double(settings, implementation="sdpa"):
    model = tiny_videomae(attn_implementation=implementation).double()
    model = prompted(model=model, **settings)
    with torch.no_grad():
        for layer in prompt_layers(model):
            for bias in layer.attention_prompt_bias.values():
                bias.normal_()
    return model


def loss_written_out(prompts, gates, clip, label, model=None):
    """The loss of one clip, in plain operations."""
    model = write_out(tiny_videomae().double() if model is None else model, prompts, gates)
    return F.cross_entropy(model(clip).logits.reshape(1, -1), label[None])


def of_each_clip(model, tmp_path, function):
    """The mean over clips of what a function makes of (prompts of each layer, gates, clip, label)."""
    model.save_pretrained(tmp_path)
    saved = SavedPrompts(tmp_path)
    scaled = {key: tuple(part.detach() for part in parts) for key, parts in effective(model).items()}
    gates = {key: tuple(part.detach() for part in parts) for key, parts in saved.gates().items()}
    rows = [function(scaled, gates, clip[None], label) for clip, label in zip(clips(3).double(), LABELS, strict=True)]
    return {key: torch.stack([row[key] for row in rows]).mean(0) for key in scaled}


def effective(model):
    """Keys, values and bias after the factor, which is written out."""
    found = {}
    for key, layer in model.base_model.prompt_layers().items():
        kind, scale = layer.reparameterization["default"], layer.attention_prompt_scale.get("default")
        factor = {
            "max": lambda s: s.clamp(min=1),
            "softplus": lambda s: (1 + (torch.e - 1) * s.exp()).log(),
            "none": lambda s: s,
        }[kind](scale)
        pair = [layer.attention_prompt_key["default"], layer.attention_prompt_value["default"]]
        if factor is not None:
            pair = [prompt * part[..., None] for prompt, part in zip(pair, factor, strict=True)]
        bias = layer.attention_prompt_bias.get("default")
        found[key] = (*pair, *([] if bias is None else [bias]))
    return found


def batches(dtype=torch.float64):
    return [batch | {"pixel_values": batch["pixel_values"].to(dtype)} for batch in BATCHES]


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_taylor_is_gradient_times_value(settings, implementation, tmp_path):
    model = double(settings, implementation)

    def written(prompts, gates, clip, label):
        leaves = {key: [part.clone().requires_grad_() for part in parts] for key, parts in prompts.items()}
        loss_written_out(leaves, gates, clip, label).backward()
        scores = {}
        for key, (keys, values, *_) in leaves.items():
            products = (keys.grad * keys).abs() + (values.grad * values).abs()
            scores[key] = products.reshape(-1, 5, 16).sum(dim=(0, 2)).detach()
        return scores

    want = of_each_clip(model, tmp_path, written)
    got = prompt_scores(model, batches(), by="taylor")
    assert list(got) == list(want)
    for key, scores in want.items():
        torch.testing.assert_close(got[key], scores, rtol=1e-4, atol=1e-7)
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_removal_is_the_slope_of_the_loss_where_a_prompt_fades(settings, tmp_path):
    model, step = double(settings), 1e-5

    def written(prompts, gates, clip, label):
        scores = {key: torch.zeros(5, dtype=torch.float64) for key in prompts}
        for key in prompts:
            for index in range(5):
                losses = []
                for amount in (1 + step, 1 - step):  # weights of this prompt times so much
                    keys, values, *bias = prompts[key]
                    bias = (bias[0] if bias else torch.zeros(5, dtype=torch.float64)).clone()
                    bias[index] += torch.tensor(amount, dtype=torch.float64).log()
                    changed = prompts | {key: (keys, values, bias)}
                    with torch.no_grad():
                        losses.append(loss_written_out(changed, gates, clip, label))
                scores[key][index] = ((losses[0] - losses[1]) / (2 * step)).abs()
        return scores

    want = of_each_clip(model, tmp_path, written)
    got = prompt_scores(model, batches(), by="removal")
    for key, scores in want.items():
        torch.testing.assert_close(got[key], scores, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("by", ["taylor", "removal"])
@pytest.mark.parametrize("name", VIDEO)
def test_each_clip_has_its_own_gradient_in_every_video_architecture(name, by):
    """The mean of the scores of single clips is the score of the batch, whatever an architecture folds into its batch."""
    torch.manual_seed(3)
    model = get_peft_model(
        build(name, dtype=torch.float64),
        AttentionPromptConfig(num_prompt_tokens=3, prompt_dropout=0.0, init_weights=False),
    ).eval()
    inputs = inputs_for(name, 3, dtype=torch.float64)
    together = prompt_scores(model, [inputs | {"labels": LABELS}], by=by)
    alone = [
        prompt_scores(model, [{k: v[i : i + 1] for k, v in inputs.items()} | {"labels": LABELS[i : i + 1]}], by=by)
        for i in range(3)
    ]
    for key, scores in together.items():
        torch.testing.assert_close(torch.stack([each[key] for each in alone]).mean(0), scores, rtol=1e-5, atol=1e-9)
        assert scores.min() > 0


def test_attention_is_the_mean_weight():
    model = prompted(model=tiny_videomae(attn_implementation="eager"))
    with torch.no_grad():
        attentions = model(clips(3), output_attentions=True).attentions
    got = prompt_scores(model, BATCHES)
    for scores, weights in zip(got.values(), attentions, strict=True):
        torch.testing.assert_close(scores.float(), weights[..., -5:].mean(dim=(0, 1, 2)))


def test_random_scores_follow_the_seed_and_need_no_clips():
    model = prompted()
    one, same, other = (prompt_scores(model, [], by="random", seed=seed) for seed in (0, 0, 1))
    assert all(torch.equal(one[key], same[key]) for key in one)
    assert not all(torch.equal(one[key], other[key]) for key in one)
    assert not torch.equal(*list(one.values())[:2])


@pytest.mark.parametrize("by", ["attention", "taylor", "removal"])
def test_half_precision_and_training_mode(by):
    model = prompted(prompt_dropout=0.5).train()
    want = prompt_scores(model, BATCHES, by=by)
    assert model.training
    got = prompt_scores(model.to(torch.bfloat16), batches(torch.bfloat16), by=by)
    for key, scores in want.items():
        torch.testing.assert_close(got[key], scores, rtol=0.3, atol=0.1 * float(scores.max()))


def test_a_frozen_adapter_is_scored_without_a_trace():
    model = prompted()
    model.requires_grad_(False)
    with torch.no_grad():
        prompt_scores(model, BATCHES, by="taylor")
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert all(layer.probe is None for layer in prompt_layers(model))


def test_the_best_are_chosen():
    scores = {"a": torch.tensor([3.0, 1, 2, 2]), "b": torch.tensor([0.5, 9, 0.1, 0.2])}
    assert choose_prompts(scores, 0.5) == {"a": [0, 2], "b": [0, 1]}  # of the two equal ones the first
    assert choose_prompts(scores, 1) == {"a": [0, 1, 2, 3], "b": [0, 1, 2, 3]}
    assert choose_prompts(scores, 0.01) == {"a": [0], "b": [1]}
    assert choose_prompts(scores, 0.625) == {"a": [0, 2, 3], "b": [0, 1, 3]}  # 2.5 of 4
    assert choose_prompts(scores, 0.5, scope="model") == {"a": [0, 2, 3], "b": [1]}
    assert choose_prompts(scores, 0.1, scope="model") == {"a": [], "b": [1]}
    assert choose_prompts(scores, 0.1, scope="model", least=1) == {"a": [0], "b": [1]}
    assert choose_prompts(scores, 0.5, scope="model", least=2) == {"a": [0, 2], "b": [0, 1]}


def test_as_if_pruned_and_back():
    model = prompted(score_bias=True, share_prompts_across_heads=False)
    before = model(clips()).logits
    kept = choose_prompts(prompt_scores(model, BATCHES), 0.4)
    with only_prompts(model, kept):
        assert not torch.allclose(model(clips()).logits, before, atol=1e-4)
    assert torch.equal(model(clips()).logits, before)


def test_what_cannot_be_scored_or_chosen():
    model = prompted()
    with raises_exactly(ConfigError, "by ('size') must be one of attention, taylor, removal, random."):
        prompt_scores(model, BATCHES, by="size")
    for labels in ({}, {"labels": torch.tensor([0, 7])}):
        shown = labels["labels"].tolist() if labels else [-1, -1]
        with raises_exactly(
            ConfigError,
            f"labels ({shown}) must be numbers of the model's 3 classes, for a loss is taken of each clip. Yield them beside "
            'the clips, or score by="attention".',
        ):
            prompt_scores(model, [{"pixel_values": clips(), **labels}], by="taylor")
    with raises_exactly(
        ConfigError, "dataloader must yield a batch, but it is empty. Pass one with at least one clip."
    ):
        prompt_scores(model, [], by="removal")
    bad = clips()
    bad[0] = torch.nan
    with raises_exactly(
        ConfigError,
        "dataloader must yield clips with finite gradients, but those of videomae.encoder.layer.0.attention.attention are "
        "not. Check its pixel_values, and the weights of backbone and adapter.",
    ):
        prompt_scores(model, [{"pixel_values": bad, "labels": LABELS[:2]}], by="taylor")
    with raises_exactly(
        ConfigError,
        "keep (0) must be a number above 0 and at most 1. scope ('head') must be \"layer\" or \"model\". scores['a'] must be "
        "finite.",
    ):
        choose_prompts({"a": torch.tensor([torch.nan])}, 0, scope="head")
