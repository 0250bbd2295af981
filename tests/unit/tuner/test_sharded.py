"""A sharded model, here in a world of one process: its parameters are DTensors all the same."""

import pytest
import torch
import torch.distributed as dist
from helpers import raises_exactly
from models import clips, prompted, tiny_videomae
from peft import PeftModel, get_peft_model, get_peft_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from apt_peft import AttentionPromptConfig, ConfigError, TargetError, gather_adapter_state, initialize_prompts_from_data


@pytest.fixture(scope="module")
def mesh():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


def shard(model, mesh):
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    for layer in base.videomae.encoder.layer:
        fully_shard(layer, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def test_gathered_tensors_are_whole_and_only_the_adapters(mesh, tmp_path):
    model = prompted()
    model.add_adapter("second", AttentionPromptConfig(num_prompt_tokens=2, reparameterization="none"))
    wanted = {name: get_peft_model_state_dict(model, adapter_name=name) for name in ("default", "second")}
    wanted = {name: {key: value.clone() for key, value in state.items()} for name, state in wanted.items()}
    shard(model, mesh)
    assert all(isinstance(parameter, DTensor) for parameter in model.parameters())
    state = gather_adapter_state(model)
    assert not any(isinstance(tensor, DTensor) for tensor in state.values())
    assert len(state) == sum(map(len, wanted.values()))
    model.save_pretrained(tmp_path, state_dict=state)
    for name, folder in (("default", tmp_path), ("second", tmp_path / "second")):
        loaded = PeftModel.from_pretrained(tiny_videomae(), folder)
        for key, tensor in get_peft_model_state_dict(loaded).items():
            assert torch.equal(tensor, wanted[name][key]), key


def test_a_gathered_state_is_a_copy():
    model = prompted()
    state = gather_adapter_state(model)
    assert state.keys() == {key for key in model.state_dict() if ".default" in key}
    for tensor in state.values():
        tensor.zero_()
    assert model.base_model.model.videomae.encoder.layer[0].attention.attention.attention_prompt_key["default"].any()


def test_a_wrapper_has_no_adapters():
    with raises_exactly(
        ConfigError,
        "model (DataParallel) must be what get_peft_model made, but it has no adapters. "
        "Of a wrapper take its .module, or Accelerate's unwrap_model(model).",
    ):
        gather_adapter_state(torch.nn.DataParallel(prompted()))


def test_a_sharded_model_computes_what_it_did_and_trains(mesh):
    whole, sharded = prompted(), shard(prompted(), mesh)
    for model in (whole, sharded):
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
        for step in range(2):
            model(pixel_values=clips(seed=step), labels=torch.tensor([0, 2])).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    torch.testing.assert_close(sharded(clips()).logits, whole(clips()).logits)
    start = gather_adapter_state(prompted())
    wanted, got = gather_adapter_state(whole), gather_adapter_state(sharded)
    for name, tensor in wanted.items():
        torch.testing.assert_close(got[name], tensor)
        assert not torch.equal(tensor, start[name]), name


def test_gradient_checkpointing_and_half_precision(mesh):
    model = prompted().train()
    new = hasattr(model.get_base_model(), "activation_checkpointing_enable")  # the older name is deprecated there
    enable = model.activation_checkpointing_enable if new else model.gradient_checkpointing_enable
    enable({"use_reentrant": False})
    shard(model.bfloat16(), mesh)
    model(pixel_values=clips().bfloat16(), labels=torch.tensor([0, 2])).loss.backward()
    trained = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    assert trained
    assert all(isinstance(grad, DTensor) and grad.full_tensor().any() for grad in trained.values())
    assert {tensor.dtype for tensor in gather_adapter_state(model).values()} == {torch.bfloat16}


def test_prompts_come_before_shards(mesh, tmp_path):
    base = shard(tiny_videomae(), mesh)
    prompted().save_pretrained(tmp_path)
    for add in (get_peft_model, PeftModel.from_pretrained):
        with raises_exactly(
            TargetError,
            "model (FSDPVideoMAEForVideoClassification) must get its prompts before its weights are sharded, but these are "
            "spread over processes already, and prompts and head would not be. "
            "Call get_peft_model or load the adapter, then fully_shard.",
        ):
            add(base, AttentionPromptConfig(num_prompt_tokens=2) if add is get_peft_model else tmp_path)


def test_a_loaded_adapter_is_sharded_with_its_model(mesh, tmp_path):
    model = prompted()
    model.save_pretrained(tmp_path)
    loaded = shard(PeftModel.from_pretrained(tiny_videomae(), tmp_path), mesh)
    torch.testing.assert_close(loaded(clips()).logits, model(clips()).logits)


def test_a_start_from_data_comes_before_shards(mesh):
    model = shard(prompted(init_weights="data"), mesh)
    with raises_exactly(
        ConfigError,
        "model must hold the prompts of adapter 'default' whole, but they are sharded over processes. "
        "Call initialize_prompts_from_data before fully_shard.",
    ):
        initialize_prompts_from_data(model, [clips()])
