"""What the tests of several processes run in each of them; started by a launcher, never by pytest.

    torchrun --nproc-per-node 2 tests/integration/launched.py REPORT STEP ...

Steps run one after another in the same processes, since starting one costs seconds; each adds a line of JSON to REPORT.
"""

import importlib.util
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin, InitProcessGroupKwargs
from peft import PeftModel
from torch.distributed.tensor import DTensor

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent)]
torch.set_num_threads(1)


def kinds(model: torch.nn.Module) -> dict[str, int]:
    """How many parameters are spread over the processes, and how many are whole."""
    spread = [isinstance(p, DTensor) or hasattr(p, "ds_id") for p in model.parameters()]
    return {"spread": sum(spread), "whole": len(spread) - sum(spread)}


# ------------------------------------------------------------------------------------------------------- the example


def example(words: list[str], road: str) -> dict:
    """Run examples/train_accelerate.py.

    Args:
        words: its command line.
        road: "" as it is; "FSDP" or "DEEPSPEED": by Accelerate's own code for these, which it keeps for accelerators;
            here its check is told that there is one.
    """
    spec = importlib.util.spec_from_file_location("example", HERE.parents[1] / "examples" / "train_accelerate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    seen = {"saved": 0}
    gather, save = module.gather_adapter_state, PeftModel.save_pretrained

    def save_and_count(*args, **kwargs):
        seen["saved"] += 1
        save(*args, **kwargs)

    def gather_and_look(model):
        seen.update(kinds(model))
        return gather(model)

    module.gather_adapter_state = gather_and_look
    module.Accelerator = {"": OnCpu, "FSDP": Fsdp, "DEEPSPEED": DeepSpeed}[road]
    sys.argv = ["train_accelerate.py", *words]
    PeftModel.save_pretrained = save_and_count
    module.main()
    PeftModel.save_pretrained = save
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    return seen


class OnCpu(Accelerator):
    def end_training(self) -> None:
        """The processes stay together for the next step."""


class Fsdp(OnCpu):
    def __init__(self, **options) -> None:
        plugin = FullyShardedDataParallelPlugin()  # from the environment, where `accelerate launch` puts a config file
        super().__init__(**options)
        self.state._shared_state.update(distributed_type=DistributedType.FSDP, fsdp_plugin=plugin)
        assert self.is_fsdp2


class DeepSpeed(OnCpu):
    def __init__(self, **options) -> None:
        options.pop("cpu")
        super().__init__(**options, kwargs_handlers=[InitProcessGroupKwargs(backend="gloo")])
        assert self.distributed_type == DistributedType.DEEPSPEED


# ---------------------------------------------------------------------------------------------------------- training


def train(changes: dict) -> dict:
    """Run `apt_peft.training.train.train`; an error of the user's is a result too."""
    from apt_peft.errors import AptError
    from apt_peft.training.settings import TrainSettings
    from apt_peft.training.train import train

    try:
        result = asdict(train(TrainSettings(**changes)))
    except AptError as error:
        return {"error": f"{type(error).__name__}: {error}"}
    return {name: result[name] for name in ("top1", "validation_top1", "skipped")}


# --------------------------------------------------------------------------------------------------------- evaluation


def evaluate(changes: dict) -> dict:
    """Run `apt_peft.scoring.evaluate_adapter`; an error of the user's is a result too.

    Returns:
        Names and scores, and how many files this process moved to their places.
    """
    from apt_peft.errors import AptError
    from apt_peft.scores import whole
    from apt_peft.scoring import EvaluateSettings, evaluate_adapter

    moved: list[str] = []
    replace = os.replace
    whole.os.replace = lambda source, place: (moved.append(str(place)), replace(source, place))
    try:
        result, _, _ = evaluate_adapter(EvaluateSettings(**changes))
    except AptError as error:
        return {"error": f"{type(error).__name__}: {error}"}
    finally:
        whole.os.replace = replace
    return {"names": result.names, "scores": result.scores.tolist(), "top1": result.top1, "files": len(moved)}


# ----------------------------------------------------------------------------------------------------- architectures


def architecture(name: str, way: str) -> dict:
    """Three steps of an architecture over half of a batch in each process, and of the same model over the whole batch.

    Returns:
        Largest differences of a loss and, at the end, of a trained parameter; and kinds of parameters.
    """
    from architectures import build, inputs_for, output
    from peft import get_peft_model
    from torch.nn.parallel import DistributedDataParallel

    from apt_peft import AttentionPromptConfig, gather_adapter_state

    def prompted() -> torch.nn.Module:
        torch.manual_seed(0)
        config = AttentionPromptConfig(num_prompt_tokens=3, prompt_dropout=0.0, init_weights=False)
        # Evaluation mode, which trains as well: some architectures draw paths or places at random in training mode.
        return get_peft_model(build(name, dtype=torch.float64), config).eval()

    alone, model = prompted(), prompted()
    if way == "FSDP2":
        shard_as_the_example(model)
        together = model
    else:
        together = DistributedDataParallel(model)
    size = 4 // dist.get_world_size()
    optimizers = [
        torch.optim.SGD([p for p in m.parameters() if p.requires_grad], lr=0.01, momentum=0.9) for m in (alone, model)
    ]
    furthest = 0.0
    for step in range(3):
        inputs = inputs_for(name, 4, seed=step, dtype=torch.float64)
        part = {key: value[size * dist.get_rank() :][:size] for key, value in inputs.items()}
        losses = [distance(output(alone, inputs)), distance(output(together, part))]
        for loss, optimizer in zip(losses, optimizers, strict=True):
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        mean = losses[1].detach().clone()
        dist.all_reduce(mean)
        furthest = max(furthest, abs(mean.item() / dist.get_world_size() / losses[0].item() - 1))
    wanted = gather_adapter_state(alone)
    got = gather_adapter_state(model)
    assert wanted.keys() == got.keys()
    start = gather_adapter_state(prompted())
    moved = min((wanted[key] - start[key]).abs().max().item() for key in wanted if "prompt_key" in key)
    apart = max((got[key] - wanted[key]).abs().max().item() for key in wanted)
    return {"loss": furthest, "parameters": apart, "moved": moved, **kinds(model)}


def distance(result: torch.Tensor) -> torch.Tensor:
    """A mean over the batch that depends on every output, normalised ones too."""
    return (result - torch.linspace(-1, 1, result.shape[-1], dtype=result.dtype)).square().mean()


def shard_as_the_example(model: torch.nn.Module) -> None:
    spec = importlib.util.spec_from_file_location("example", HERE.parents[1] / "examples" / "train_accelerate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.shard(model, Accelerator(cpu=True))


STEPS = {"example": example, "train": train, "evaluate": evaluate, "architecture": architecture}


def main(report: str, steps: list[str]) -> None:
    for step in steps:
        values = json.loads(step)
        os.environ.update(values.pop("environment", {}))
        function = STEPS[values.pop("do")]
        found = function(**values)
        everywhere: list = [None] * int(os.environ.get("WORLD_SIZE", 1))
        dist.all_gather_object(everywhere, found)
        if dist.get_rank() == 0:
            with open(report, "a", encoding="utf-8") as file:
                file.write(json.dumps(everywhere) + "\n")
    dist.destroy_process_group()
    # A thread of gloo that still holds a tensor when the interpreter is taken down aborts the process, seldom (PyTorch's pull
    # request 179291). All is written by now.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
