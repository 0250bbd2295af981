"""One run in several processes: what the first one does for all, what they share, and what doesn't count twice.

Everything here is right in a single process too. The processes are those that torchrun or `accelerate launch` started.
"""

import os
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from accelerate import PartialState

from apt_peft.errors import ConfigError

Result = TypeVar("Result")
# Processes wait for each other so long; as in Trainer.
TIMEOUT = timedelta(minutes=30)
# What `accelerate launch` sets for models that are spread over processes.
SHARDING = {"ACCELERATE_USE_FSDP": "FSDP", "ACCELERATE_USE_DEEPSPEED": "DeepSpeed"}


def join(device: str) -> None:
    """Meet the other processes, where the launcher started several.

    Args:
        device: `auto`, or `cpu` to compute there even where there is a GPU.

    Raises:
        ConfigError: the launcher was told to shard the model.
    """
    for variable, name in SHARDING.items():
        if os.environ.get(variable, "").lower() == "true":
            raise ConfigError(
                f"{name} ({variable}=true) must be left out, but apt-peft keeps a whole model in each process. "
                "Launch it without a config file, or train by examples/train_accelerate.py."
            )
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        PartialState(cpu=on_cpu(device), timeout=TIMEOUT)


def on_cpu(device: str) -> bool:
    """Whether a run computes on the CPU. Accelerate must be told where there is no GPU: else it joins no processes."""
    return device == "cpu" or not torch.accelerator.is_available()


def leave() -> None:
    """Part from the other processes, at the end of a run."""
    if _several():
        PartialState().destroy_process_group()


def rank() -> int:
    """Number of this process, from 0."""
    return dist.get_rank() if _several() else 0


def world_size() -> int:
    """Number of processes."""
    return dist.get_world_size() if _several() else 1


def wait_for_all() -> None:
    """Go on when every process is here."""
    if _several():
        PartialState().wait_for_everyone()


def on_first(action: Callable[[], Result]) -> Result:
    """Do something in the first process alone; every process must call this.

    Args:
        action: what to do.

    Returns:
        What it returned there, in every process.

    Raises:
        Exception: what it raised there, in every process.
    """
    if not _several():
        return action()
    outcome: list[Any] = [None, None]
    if rank() == 0:
        try:
            outcome[0] = action()
        except Exception as error:
            outcome[1] = error
    dist.broadcast_object_list(outcome, src=0)
    if outcome[1] is not None:
        raise outcome[1]
    return outcome[0]


def gather(part: Result) -> list[Result]:
    """What each process has, in every process.

    Args:
        part: of this process; it can be pickled.

    Returns:
        One of each process, in their order.
    """
    if not _several():
        return [part]
    parts: list[Any] = [None] * world_size()
    dist.all_gather_object(parts, part)
    return parts


def gather_to_first(part: Result) -> list[Result] | None:
    """What each process has, in the first process alone.

    Args:
        part: of this process; it can be pickled.

    Returns:
        One of each process, in their order; None in the others.
    """
    if not _several():
        return [part]
    parts: list[Any] | None = [None] * world_size() if rank() == 0 else None
    dist.gather_object(part, parts, dst=0)
    return parts


def device(name: str) -> torch.device:
    """Where this process computes.

    Args:
        name: `auto`, or `cpu` to compute there even where there is a GPU.

    Returns:
        The CPU, the GPU, or this process's among several.
    """
    if name == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    return PartialState().device if _several() else torch.device("cuda")


def count_clips(accelerator: Any, batch: int) -> tuple[int, int]:
    """How many clips of the current batch count: Accelerate fills an epoch's last batches up with clips from its start.

    Args:
        accelerator: whose loader is in the middle of an epoch; the loader shares whole batches out, which is the default.
        batch: clips of the batch in this process.

    Returns:
        The first so many clips of this process's batch, maybe none; and how many they are in all processes.
    """
    state = accelerator.gradient_state
    if not state.end_of_dataloader or state.remainder <= 0:
        return batch, batch * accelerator.num_processes
    here = min(max(state.remainder - batch * accelerator.process_index, 0), batch)
    return here, state.remainder


def _several() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
