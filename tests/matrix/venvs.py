"""Interpreters and virtual environments, by the standard `venv` and `pip`."""

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

INSTALL_SECONDS = 2400


class Failed(Exception):
    """A step that ended in an error or took too long."""


def interpreter(version: str, given: list[str]) -> str | None:
    """Find a Python of a version.

    Args:
        version: for example "3.12".
        given: interpreters that were named on the command line; where there are any, no others are looked for.

    Returns:
        Its path, or None.
    """
    candidates = given
    if not given:
        pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
        installed = sorted(pyenv.glob(f"versions/{version}.*/bin/python"))
        on_path = shutil.which(f"python{version}")
        candidates = [*([on_path] if on_path else []), *map(str, installed)]
    for candidate in candidates:
        # a shim of pyenv is on the path for each version, and fails for those that are not chosen
        code = "import sys; print('%d.%d' % sys.version_info[:2])"
        done = subprocess.run([candidate, "-c", code], capture_output=True, text=True, timeout=60, check=False)
        if done.returncode == 0 and done.stdout.strip() == version:
            return candidate
    return None


def make(python: str, folder: Path, log: Path) -> Path:
    """Make an environment, or take the one that is there.

    Returns:
        Its interpreter.
    """
    inside = folder / "bin" / "python"
    if not (folder / "ready").exists():
        shutil.rmtree(folder, ignore_errors=True)
        run([python, "-m", "venv", str(folder)], log, 300)
        (folder / "ready").touch()
    return inside


def install(python: Path, requirements: list[str], log: Path) -> None:
    """Install packages into an environment, over what is there."""
    run([str(python), "-m", "pip", "install", "--quiet", *requirements], log, INSTALL_SECONDS)


def installed(python: Path, packages: list[str]) -> dict[str, str]:
    """Versions of packages in an environment."""
    code = (
        f"from importlib.metadata import version; import json; print(json.dumps({{p: version(p) for p in {packages}}}))"
    )
    done = subprocess.run([str(python), "-c", code], capture_output=True, text=True, timeout=60, check=True)
    return json.loads(done.stdout)


def run(command: list[str], log: Path, seconds: float, **environment: str) -> int:
    """Run a command with its output in a file.

    Args:
        command: what to run.
        log: where its output is appended.
        seconds: after which it and its children are ended.
        environment: variables to add.

    Returns:
        0, or 1 where pytest says that tests failed.

    Raises:
        Failed: any other exit code, or too long.
    """
    inherited = {name: value for name, value in os.environ.items() if name not in ("PIP_CONSTRAINT", "VIRTUAL_ENV")}
    environment = inherited | {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "OMP_NUM_THREADS": "1"} | environment
    with log.open("a", encoding="utf-8") as output:
        output.write(f"\n$ {' '.join(command)}\n")
        output.flush()
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env=environment, start_new_session=True
        )
        try:
            code = process.wait(seconds)
        except BaseException as stopped:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            if not isinstance(stopped, subprocess.TimeoutExpired):
                raise
            raise Failed(f"took longer than {seconds:.0f} s: {_short(command)}") from None
    is_pytest = "pytest" in command
    if code not in ((0, 1) if is_pytest else (0,)):
        raise Failed(f"exit code {code}: {_short(command)}, see {log.name}")
    return code


def _short(command: list[str]) -> str:
    return " ".join(command[1:6])
