"""The config files for `accelerate launch`: what Accelerate's own launcher and plugins make of them."""

import importlib.util

import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.utils import DeepSpeedPlugin, DistributedType, FullyShardedDataParallelPlugin
from launching import CONFIGS, ROOT, launch_environment
from models import tiny_videomae

# All that a launcher sets and a plugin reads; nothing of the developer's own may come through.
PREFIXES = ("FSDP_", "ACCELERATE_")


@pytest.fixture
def launched(monkeypatch):
    """The environment of a process that was launched with a config file."""

    def launched(path) -> None:
        for name, value in launch_environment(path).items():
            if name.startswith(PREFIXES):
                monkeypatch.setenv(name, value)

    return launched


def test_every_config_is_there_for_one_machine_and_for_several():
    names = ("fsdp2", "zero1", "zero2", "zero3")
    assert [path.stem for path in CONFIGS] == sorted([*names, *(f"{name}_machines" for name in names)])


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_accelerate_reads_it(path):
    config = load_config_from_file(str(path))  # refuses unknown keys; `launch_environment` those of the inner tables
    fsdp = path.stem.startswith("fsdp")
    assert config.distributed_type == (DistributedType.FSDP if fsdp else DistributedType.DEEPSPEED)
    several = path.stem.endswith("_machines")
    assert (config.num_machines, config.num_processes) == ((2, 16) if several else (1, 8))
    assert (config.main_process_ip is not None) == several
    assert config.mixed_precision == "bf16"
    text = path.read_text(encoding="utf-8")
    assert "Not run on GPUs" in text.splitlines()[0]
    assert f"examples/configs/{path.name}" in text
    assert path.name in (ROOT / "docs" / "distributed.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("path", [path for path in CONFIGS if "fsdp" in path.stem], ids=lambda path: path.stem)
def test_what_fsdp_is_told(path, launched):
    launched(path)
    plugin = FullyShardedDataParallelPlugin()
    assert (plugin.fsdp_version, plugin.reshard_after_forward, plugin.cpu_ram_efficient_loading) == (2, True, False)
    assert plugin.cpu_offload.__class__.__name__ == "OffloadPolicy"
    base = tiny_videomae()
    plugin.set_auto_wrap_policy(base)  # finds the block by its name, or raises
    blocks = plugin.auto_wrap_policy.keywords["transformer_layer_cls"]
    assert blocks == {type(base.videomae.encoder.layer[0])}
    assert {block.__name__ for block in blocks} < set(base._no_split_modules)


@pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="DeepSpeed is not installed")
@pytest.mark.parametrize("path", [path for path in CONFIGS if "zero" in path.stem], ids=lambda path: path.stem)
def test_what_deepspeed_is_told(path, launched):
    launched(path)
    plugin = DeepSpeedPlugin()
    assert plugin.deepspeed_config["zero_optimization"]["stage"] == int(path.stem[4])
    assert not plugin.zero3_init_flag
    check_clipping(plugin.deepspeed_config["gradient_clipping"])


@pytest.mark.parametrize("path", [path for path in CONFIGS if "zero" in path.stem], ids=lambda path: path.stem)
def test_gradients_are_not_clipped(path):
    told = launch_environment(path)
    assert told["ACCELERATE_DEEPSPEED_ZERO_STAGE"] == path.stem[4]
    check_clipping(float(told["ACCELERATE_GRADIENT_CLIPPING"]))


def check_clipping(limit: float) -> None:
    """A limit that no gradient reaches. Without one, and with 0, Accelerate clips at 1."""
    assert limit >= 1e9
    assert torch.tensor(limit).isfinite()
