"""Starting several processes, and what `accelerate launch` makes of a config file."""

import os
import subprocess
import sys
from pathlib import Path

from accelerate.commands import launch
from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env

ROOT = Path(__file__).parents[1]
CONFIGS = sorted((ROOT / "examples" / "configs").glob("*.yaml"))
LAUNCHED = ROOT / "tests" / "integration" / "launched.py"
# `accelerate launch --cpu --num_processes 2` starts one process.
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
SECONDS = 300  # far more than anything here takes, on a busy machine too


def environment() -> dict[str, str]:
    """Of a launched process: one thread, and this checkout before an installed package."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    told = {"OMP_NUM_THREADS": "1", "PYTHONPATH": path, "PYTHONWARNINGS": "ignore", "PYTHONFAULTHANDLER": "1"}
    return os.environ | told


def start(*words: object, processes: int = 2) -> subprocess.Popen:
    """Start some processes.

    Args:
        words: program and arguments.
        processes: how many.

    Returns:
        Their launcher, which ends when they have.
    """
    return subprocess.Popen(
        [*TORCHRUN, str(processes), *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment(),
    )


def finish(process: subprocess.Popen) -> str:
    """Wait for a launcher.

    Returns:
        What its processes printed.
    """
    try:
        return process.communicate(timeout=SECONDS)[0]
    finally:
        if process.poll() is None:
            process.terminate()
            process.communicate(timeout=SECONDS)


def launch_environment(config: Path) -> dict[str, str]:
    """What `accelerate launch --config_file` tells the processes by their environment.

    Args:
        config: the file.
    """
    parser = launch.launch_command_parser()
    args = parser.parse_args(["--config_file", str(config), "--main_process_port", "0", "script.py"])
    known = set(vars(args))
    args, defaults, _ = launch._validate_launch_command(args)
    unknown = set(vars(args)) - known - set(vars(defaults))
    assert not unknown, f"{config.name}: accelerate launch has no such options: {sorted(unknown)}"
    if args.use_deepspeed:
        args.deepspeed_fields_from_accelerate_config = ",".join(defaults.deepspeed_config)
        found = prepare_deepspeed_cmd_env(args)[1]
    else:
        found = prepare_multi_gpu_env(args)
    return {name: value for name, value in found.items() if name not in os.environ}
