"""A model as a program of torch.export and as ONNX: equal numbers, a free batch, nothing that does not belong."""

import subprocess
import sys
import zipfile
from collections import Counter
from pathlib import Path

import onnx
import pytest
import torch
from architectures import build, inputs_for
from helpers import raises_exactly
from models import clips, prompted, tiny_videomae

from apt_peft import AttentionPromptConfig, ConfigError
from apt_peft.export import OnnxSession, export_program, load_program, save_onnx, save_program
from apt_peft.export.onnx import OPERATORS

BATCHES = (1, 2, 3, 7)


def eager(model, batch: int) -> torch.Tensor:
    with torch.no_grad():
        return model(clips(batch)).logits


def nodes(path: Path) -> Counter:
    return Counter(node.op_type for node in onnx.load(path).graph.node)


@pytest.fixture(scope="module")
def model():
    """Two adapters, of which the second is active; a third of the numbers is never used."""
    model = prompted()
    model.add_adapter("second", AttentionPromptConfig(num_prompt_tokens=7, init_weights=False))
    model.set_adapter("second")
    return model.eval()


@pytest.fixture(scope="module")
def program(model):
    return export_program(model, clips(1))


@pytest.fixture(scope="module", params=OPERATORS)
def onnx_file(request, program, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / request.param / "model.onnx"
    path.parent.mkdir()
    save_onnx(program, path, operators=request.param)
    return path


@pytest.mark.parametrize("batch", BATCHES)
def test_a_saved_program_gives_the_same_logits(model, program, tmp_path, batch):
    save_program(program, tmp_path / "model.any-suffix")
    torch.testing.assert_close(load_program(tmp_path / "model.any-suffix")(clips(batch)), eager(model, batch))


@pytest.mark.parametrize("batch", BATCHES)
def test_onnxruntime_gives_the_same_logits(model, onnx_file, batch):
    torch.testing.assert_close(OnnxSession(onnx_file)(clips(batch)), eager(model, batch), rtol=0, atol=1e-5)


def test_a_program_holds_the_active_adapter_and_its_head_alone(program):
    names = list(program.state_dict)
    assert not [name for name in names if "default" in name or "original_module" in name]
    assert len([name for name in names if name.endswith("attention_prompt_key.second")]) == 3
    assert "model.base_model.model.classifier.modules_to_save.second.weight" in names


def test_the_model_stays_as_it_was():
    model = prompted()
    model.base_model.model.videomae.eval()
    model.base_model.model.classifier.train()
    modes = [module.training for module in model.modules()]
    assert len(set(modes)) == 2
    state = {name: value.clone() for name, value in model.state_dict().items()}
    export_program(model, clips(1))
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert all(
        p.requires_grad == ("second" in n or "default" in n)
        for n, p in model.named_parameters()
        if "attention_prompt" in n
    )


def test_files_hold_no_paths_of_this_machine_and_no_clips(program, onnx_file, tmp_path):
    places = [str(Path(module.__file__).parent).encode() for module in (torch, sys.modules["apt_peft"])]
    save_program(program, tmp_path / "model.pt2")
    with zipfile.ZipFile(tmp_path / "model.pt2") as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    assert clips(1).numpy().tobytes() not in b"".join(parts.values())
    for name, content in {**parts, "onnx": onnx_file.read_bytes()}.items():
        assert not [place for place in places if place in content], name


def test_names_and_shapes_of_the_onnx_file(onnx_file):
    graph = onnx.load(onnx_file).graph
    (given,), (result,) = graph.input, graph.output
    sizes = [
        [size.dim_param or size.dim_value for size in value.type.tensor_type.shape.dim] for value in (given, result)
    ]
    assert (given.name, result.name) == ("pixel_values", "logits")
    assert sizes == [["batch", 4, 3, 16, 16], ["batch", 3]]
    onnx.checker.check_model(str(onnx_file), full_check=True)


def test_attention_is_one_operator(onnx_file):
    name, domains = {"standard": ("Attention", {""}), "onnxruntime": ("MultiHeadAttention", {"", "com.microsoft"})}[
        onnx_file.parent.name
    ]
    found = nodes(onnx_file)
    assert (found[name], found["Softmax"]) == (3, 0)
    assert {entry.domain for entry in onnx.load(onnx_file).opset_import} == domains


def operations(program) -> Counter:
    return Counter(str(node.target) for node in program.graph.nodes if node.op == "call_function")


FACTORS = {"aten.maximum.default", "aten.softplus.default", "aten.mul.Tensor"}


@pytest.mark.parametrize("kind", ["max", "softplus"])
def test_a_folded_adapter_adds_no_reparameterization_nodes(tmp_path, kind):
    """Beside a model that never had factors: the same nodes, one by one.

    So many prompts that the exporter does not compute the product beforehand, as it does with a few.
    """
    plain, scaled = (
        prompted(model=tiny_videomae(num_hidden_layers=1), reparameterization=name, num_prompt_tokens=2000)
        for name in ("none", kind)
    )
    wanted = eager(scaled, 3)
    programs = {"plain": export_program(plain, clips(1)), "unfolded": export_program(scaled, clips(1))}
    scaled.base_model.fold_reparameterization()
    programs["folded"] = export_program(scaled, clips(1))
    graphs = {name: operations(program) for name, program in programs.items()}
    assert {name: graphs["unfolded"][name] for name in FACTORS & graphs["unfolded"].keys()} == {
        "aten.maximum.default" if kind == "max" else "aten.softplus.default": 2,  # of the keys and of the values
        "aten.mul.Tensor": 2,
    }
    assert graphs["folded"] == graphs["plain"]
    assert not FACTORS & graphs["folded"].keys()
    for name, program in programs.items():
        save_onnx(program, tmp_path / name)
    counts = {name: nodes(tmp_path / name) for name in programs}
    assert counts["unfolded"]["Mul"] == 2
    assert counts["folded"] == counts["plain"]
    assert not {"Max", "Softplus", "Mul"} & counts["folded"].keys()
    torch.testing.assert_close(OnnxSession(tmp_path / "folded")(clips(3)), wanted, rtol=0, atol=1e-5)


def test_attention_with_a_mask_keeps_the_standard_operator(tmp_path):
    """onnxruntime's own operator would take another kind of mask."""

    class Masked(torch.nn.Module):
        def forward(self, pixel_values):
            mask = torch.zeros(4, 4).masked_fill(torch.ones(4, 4).triu(1).bool(), -torch.inf)
            states = pixel_values.flatten(3).transpose(1, 2)
            attend = torch.nn.functional.scaled_dot_product_attention
            masked, causal = attend(states, states, states, mask), attend(states, states, states, is_causal=True)
            free = attend(states, states, states)
            return type("Result", (), {"logits": (masked + 2 * causal + 4 * free).mean((1, 2))})

    model = Masked()
    save_onnx(export_program(model, clips(1)), tmp_path / "model.onnx")
    found = nodes(tmp_path / "model.onnx")
    assert (found["Attention"], found["MultiHeadAttention"]) == (2, 1)
    wanted = model(clips(3)).logits
    torch.testing.assert_close(OnnxSession(tmp_path / "model.onnx")(clips(3)), wanted, rtol=0, atol=1e-5)


def test_a_bare_model_and_one_with_a_linear_head_export_too():
    for model in (tiny_videomae(), prompted(target_modules=[])):
        program = export_program(model, clips(1))
        assert "cat" not in {str(node.target).partition(".")[2].partition(".")[0] for node in program.graph.nodes}
        torch.testing.assert_close(program.module()(pixel_values=clips(3)), eager(model, 3))


def test_prompts_of_each_head_and_several_adapters_export_too(tmp_path):
    model = prompted(share_prompts_across_heads=False, modules_to_save=[])
    settings = {"num_prompt_tokens": 7, "init_weights": False, "modules_to_save": [], "reparameterization": "softplus"}
    model.add_adapter("second", AttentionPromptConfig(**settings))
    model.base_model.set_adapter(["default", "second"])
    model.eval()
    save_onnx(export_program(model, clips(1)), tmp_path / "model.onnx")
    torch.testing.assert_close(OnnxSession(tmp_path / "model.onnx")(clips(3)), eager(model, 3), rtol=0, atol=1e-5)


def test_weights_of_prompts_export_too(tmp_path):
    """They are a bias on the scores, so attention has a mask."""
    model = prompted(modules_to_save=[])
    model.add_adapter("second", AttentionPromptConfig(num_prompt_tokens=7, init_weights=False, modules_to_save=[]))
    model.base_model.add_weighted_adapter(["default", "second"], [2.0, 0.5], "both", "cat")
    model.set_adapter("both")
    model.eval()
    program = export_program(model, clips(1))
    assert not program.module()(pixel_values=clips(3)).requires_grad  # gradients would change attention's layout
    torch.testing.assert_close(program.module()(pixel_values=clips(3)), eager(model, 3))
    save_onnx(program, tmp_path / "model.onnx")
    assert nodes(tmp_path / "model.onnx")["Attention"] == 3
    torch.testing.assert_close(OnnxSession(tmp_path / "model.onnx")(clips(3)), eager(model, 3), rtol=0, atol=1e-5)


def test_a_gate_on_keys_exports_too(tmp_path):
    model = prompted(key_gate=3)
    save_onnx(export_program(model, clips(1)), tmp_path / "model.onnx")
    torch.testing.assert_close(OnnxSession(tmp_path / "model.onnx")(clips(3)), eager(model, 3), rtol=0, atol=1e-5)


def test_eager_attention_exports_too(tmp_path):
    model = prompted(model=tiny_videomae(attn_implementation="eager"))
    save_onnx(export_program(model, clips(1)), tmp_path / "model.onnx")
    torch.testing.assert_close(OnnxSession(tmp_path / "model.onnx")(clips(3)), eager(model, 3), rtol=0, atol=1e-5)


def test_weights_beyond_the_limit_stand_beside_the_file(program, model, tmp_path, monkeypatch):
    monkeypatch.setattr("apt_peft.export.onnx.LARGEST", 1000)
    save_onnx(program, tmp_path / "model.onnx")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.onnx", "model.onnx.data"]
    torch.testing.assert_close(OnnxSession(tmp_path / "model.onnx")(clips(3)), eager(model, 3), rtol=0, atol=1e-5)


def test_operators_that_do_not_exist(program, tmp_path):
    with raises_exactly(ConfigError, "operators ('tensorrt') must be one of onnxruntime, standard."):
        save_onnx(program, tmp_path / "model.onnx", operators="tensorrt")


def test_a_program_needs_torch_alone(model, program, tmp_path):
    save_program(program, tmp_path / "model.pt2")
    torch.save({"clips": clips(3), "logits": eager(model, 3)}, tmp_path / "wanted.pt")
    code = """
import sys, torch
program = torch.export.load("model.pt2").module()
wanted = torch.load("wanted.pt")
torch.testing.assert_close(program(pixel_values=wanted["clips"]), wanted["logits"])
assert not {"transformers", "peft", "apt_peft"} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("name", "settings"), [("videoprism_vision_model", {}), ("timesformer", {"attention_type": "space_only"})]
)
def test_one_row_of_logits_a_clip_whatever_shape_the_model_gives(name, settings):
    model = build(name, **settings)
    given = {batch: next(iter(inputs_for(name, batch, seed=batch).values())) for batch in BATCHES}
    program = export_program(model, given[1]).module()
    for batch, clip in given.items():
        with torch.no_grad():
            wanted = model(clip).logits.reshape(batch, -1, 3).mean(1)
        torch.testing.assert_close(program(pixel_values=clip), wanted)
