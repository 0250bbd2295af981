"""Every architecture, against attention written out in plain operations (`written_out.py`), in float64.

The table is `tests/architectures.py`.
"""

from fnmatch import fnmatchcase

import pytest
import torch
import transformers
from architectures import ARCHITECTURES, AVAILABLE, build, inputs_for, output
from models import prompt_layers
from peft import PeftModel, get_peft_model
from transformers.models.auto.modeling_auto import MODEL_FOR_VIDEO_CLASSIFICATION_MAPPING_NAMES
from written_out import SavedPrompts, write_out

from apt_peft import AttentionPromptConfig
from apt_peft.tuner.families import FAMILIES, patch_elements

CELLS = [(name, implementation) for name in AVAILABLE for implementation in ARCHITECTURES[name].implementations]


def frozen(name, implementation=None):
    """As PEFT leaves it: sdpa takes another kernel where a mask needs a gradient."""
    return build(name, implementation, dtype=torch.float64).requires_grad_(False)


def with_prompts(name, implementation=None, **settings):
    model = frozen(name, implementation)
    torch.manual_seed(3)
    settings = {"num_prompt_tokens": 3, "prompt_dropout": 0.0, "init_weights": False} | settings
    return get_peft_model(model, AttentionPromptConfig(**settings)).eval()


def objective(result):
    """A number that weighs all outputs differently."""
    return (result * torch.linspace(-1, 1, result.numel(), dtype=result.dtype).view_as(result)).sum()


# ---------------------------------------------------------------------------------------------------- the table


def test_every_architecture_for_videos_is_known():
    registered = dict(MODEL_FOR_VIDEO_CLASSIFICATION_MAPPING_NAMES)
    unknown = sorted(set(registered) - set(FAMILIES))
    assert not unknown, (
        f"transformers {transformers.__version__} registers {unknown} for video classification: give it a row in "
        "apt_peft/tuner/families.py and one in tests/architectures.py, or say in docs/concepts.md why it is not supported."
    )
    assert {name: ARCHITECTURES[name].model for name in registered} == registered
    assert {name for name in AVAILABLE if ARCHITECTURES[name].video} == set(registered)


def test_every_row_is_tested():
    assert set(FAMILIES) == set(ARCHITECTURES)


@pytest.mark.parametrize("name", AVAILABLE)
def test_defaults(name):
    row = ARCHITECTURES[name]
    model = with_prompts(name)
    names = model.targeted_module_names
    assert names == [n for n, _ in model.base_model.model.named_modules() if fnmatchcase(n, row.attentions)]
    assert len(names) == row.layers
    assert model.peft_config["default"].modules_to_save == list(row.heads)
    assert {patch_elements(layer.real_config) for layer in prompt_layers(model)} == {3 * 8 * 8}


# ------------------------------------------------------------------------------------------------- against written out


@pytest.mark.parametrize(
    "settings", [{}, {"share_prompts_across_heads": False}, {"score_bias": True}, {"key_gate": 4}], ids=str
)
@pytest.mark.parametrize(("name", "implementation"), CELLS)
def test_forward_and_backward(name, implementation, settings, tmp_path):
    inputs = inputs_for(name, 3, dtype=torch.float64)
    model = with_prompts(name, implementation, **settings)
    with torch.no_grad():
        for layer in prompt_layers(model):
            for bias in layer.attention_prompt_bias.values():
                bias.normal_()  # zero at the start
    model.save_pretrained(tmp_path)
    got = output(model, inputs)
    objective(got).backward()

    saved = SavedPrompts(tmp_path)
    assert saved.modules == model.targeted_module_names
    reference = write_out(frozen(name, implementation), saved.prompts(), saved.gates())
    want = output(reference, inputs)
    objective(want).backward()
    torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-6)
    gradients = saved.gradients()
    each = 3 + ("score_bias" in settings) + 2 * ("key_gate" in settings)
    assert len(gradients) == each * ARCHITECTURES[name].layers
    largest = max(gradient.abs().max().item() for gradient in gradients.values())
    for key, parameter in model.named_parameters():
        if "attention_prompt_" in key:  # eager attention of some architectures takes its softmax in float32
            want = gradients.pop(key.replace(".default", ""))
            torch.testing.assert_close(parameter.grad, want, rtol=1e-6, atol=1e-6 * largest)
    assert not gradients
    plain = output(frozen(name, implementation), inputs)
    assert not torch.allclose(got, plain, rtol=1e-3, atol=1e-3)  # the prompts count


@pytest.mark.parametrize("name", AVAILABLE)
def test_attention_weights(name, tmp_path):
    """What the model returns as `attentions` counts the prompts as keys."""
    inputs = inputs_for(name, dtype=torch.float64)
    model = with_prompts(name, "eager")
    model.save_pretrained(tmp_path)
    got = attentions(model(**inputs, output_attentions=True))
    want = attentions(
        write_out(frozen(name, "eager"), SavedPrompts(tmp_path).prompts())(**inputs, output_attentions=True)
    )
    assert len(got) >= 2
    for ours, theirs in zip(got, want, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)
    base = attentions(frozen(name, "eager")(**inputs, output_attentions=True))
    assert [w.shape[-1] for w in got] == [w.shape[-1] + 3 for w in base]


def attentions(result):
    return result.attentions if "attentions" in result else result.video_model_output.attentions


# ---------------------------------------------------------------------------------------------- a life of an adapter


@pytest.mark.parametrize(("name", "implementation"), CELLS)
def test_train_save_load_unload(name, implementation, tmp_path):
    inputs = inputs_for(name, 3, dtype=torch.float64)
    base = output(frozen(name, implementation), inputs)
    model = with_prompts(name, implementation)
    before = {key: parameter.detach().clone() for key, parameter in model.named_parameters()}
    trainable = {key for key, parameter in model.named_parameters() if parameter.requires_grad}
    expected = {f"base_model.model.{head}" for head in ARCHITECTURES[name].heads}
    assert {key.partition(".modules_to_save")[0] for key in trainable if "attention_prompt_" not in key} == expected
    labels = {"labels": torch.tensor([0, 2, 1])} if ARCHITECTURES[name].labels else {}
    result = model(**inputs, **labels)
    loss = result.loss if labels else objective(output(model, inputs))
    loss.backward()
    torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1).step()
    moved = {key for key, parameter in model.named_parameters() if not torch.equal(parameter, before[key])}
    assert moved <= trainable
    # a bias on all keys changes no softmax: in exact arithmetic its gradient is zero
    assert all(key.endswith("k_proj.bias") for key in trainable - moved)
    trained = output(model, inputs)

    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(frozen(name, implementation), tmp_path).eval()
    assert torch.equal(output(loaded, inputs), trained)
    with model.disable_adapter():
        assert torch.equal(output(model, inputs), base)
    assert torch.equal(output(model, inputs), trained)
    unloaded, fresh = model.unload(), frozen(name, implementation)
    assert torch.equal(output(unloaded, inputs), base)
    assert unloaded.state_dict().keys() == fresh.state_dict().keys()
    assert all(
        torch.equal(a, b) for a, b in zip(unloaded.state_dict().values(), fresh.state_dict().values(), strict=True)
    )
    for left, new in zip(unloaded.modules(), fresh.modules(), strict=True):
        assert type(left) is type(new)
        assert type(getattr(left, "config", None)) is type(getattr(new, "config", None))
        assert not left._forward_hooks


@pytest.mark.parametrize("name", AVAILABLE)
def test_the_parts_of_a_sample_lie_beside_each_other(name):
    """Attention may see a sample as several sequences (its frames, its places): those of one sample come in a row.

    Prompts that differ by sample are repeated in that order.
    """
    model, seen = frozen(name), []
    inputs = inputs_for(name, 3, dtype=torch.float64)
    names = with_prompts(name).targeted_module_names
    for target in names:
        model.get_submodule(target).register_forward_pre_hook(
            lambda module, args, kwargs: seen.append([*args, *kwargs.values()][0]), with_kwargs=True
        )
    output(model, inputs)
    whole, seen[:] = list(seen), []
    for sample in range(3):
        output(model, {key: value[sample : sample + 1] for key, value in inputs.items()})
    singles = [torch.cat(seen[layer :: len(names)]) for layer in range(len(names))]
    for together, alone in zip(whole, singles, strict=True):
        torch.testing.assert_close(together, alone, rtol=1e-6, atol=1e-6)
