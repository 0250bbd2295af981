"""PEFT's own tests, fetched from the source archive of a release and imported; nothing of them is in this repository.

    python tests/peft_suite/theirs.py [VERSION]

puts the archive's `tests` folder into `.cache/peft/VERSION/peft_tests` and prints where. Needs pip and a package index.
"""

import importlib
import os
import subprocess
import sys
import tarfile
import tempfile
import types
from contextlib import contextmanager, nullcontext
from importlib.metadata import version
from pathlib import Path

from filelock import FileLock

CACHE = Path(__file__).parents[2] / ".cache" / "peft"
PACKAGE = "peft_tests"
TIMEOUT_SECONDS = 180
# What their helpers import for tests of image generation and of data sets on the Hub, none of which is run here.
STAND_INS = {"diffusers": ("StableDiffusionPipeline",), "datasets": ("load_dataset",)}


class Unavailable(Exception):
    """The source archive could not be had."""


def fetch(release: str) -> Path:
    """Get the tests of a release of PEFT, once.

    Args:
        release: for example "0.21.2".

    Returns:
        A folder whose sub-folder `peft_tests` holds their files, to be put on `sys.path`.

    Raises:
        Unavailable: pip could not get the archive, or it holds no tests.
    """
    folder = CACHE / release
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "lock"):  # pytest-xdist collects in several processes
        if not (folder / PACKAGE).is_dir():
            with tempfile.TemporaryDirectory(dir=folder) as place:
                unpacked = _unpack(_download(release, Path(place)), Path(place) / PACKAGE)
                unpacked.rename(folder / PACKAGE)
    return folder


def _download(release: str, place: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--no-binary", "peft", "--dest", str(place), f"peft=={release}"]
    # a constraint on peft itself would be in the way of another release
    environment = {name: value for name, value in os.environ.items() if name != "PIP_CONSTRAINT"}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, env=environment, check=False
        )
    except subprocess.TimeoutExpired:
        raise Unavailable(f"pip download of peft {release} took longer than {TIMEOUT_SECONDS} seconds") from None
    archives = list(place.glob("peft-*.tar.gz"))
    if done.returncode or len(archives) != 1:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise Unavailable(f"pip download of peft {release} failed: {said[-1] if said else 'it gave no archive'}")
    return archives[0]


def _unpack(archive: Path, into: Path) -> Path:
    """Only plain Python files right in the archive's `tests` folder."""
    into.mkdir()
    (into / "__init__.py").touch()
    with tarfile.open(archive) as tar:
        for member in tar.getmembers():
            parts = Path(member.name).parts
            if member.isfile() and len(parts) == 3 and parts[1] == "tests" and parts[2].endswith(".py"):
                (into / parts[2]).write_bytes(tar.extractfile(member).read())
    if not (into / "testing_common.py").is_file():
        raise Unavailable(f"{archive.name} holds no tests/testing_common.py")
    return into


def load(name: str) -> types.ModuleType:
    """Import a module of the tests of the installed PEFT.

    Args:
        name: "testing_common", "test_custom_models" or "test_config".

    Returns:
        The module. Nothing in it asks the Hub any more.

    Raises:
        Unavailable: see `fetch`.
    """
    folder = str(fetch(version("peft")))
    if folder not in sys.path:
        sys.path.append(folder)
    with _stand_ins():
        module = importlib.import_module(f"{PACKAGE}.{name}")
    if hasattr(module, "hub_online_once"):  # theirs goes online for a name that it sees for the first time
        module.hub_online_once = lambda model_id: nullcontext()
    return module


@contextmanager
def _stand_ins():
    """Names to import from libraries that are not installed; gone again afterwards."""
    made = []
    for library, names in STAND_INS.items():
        if importlib.util.find_spec(library) is None:
            module = types.ModuleType(library)
            for name in names:
                setattr(module, name, type(name, (), {}))
            sys.modules[library] = module
            made.append(library)
    try:
        yield
    finally:
        for library in made:
            del sys.modules[library]


if __name__ == "__main__":
    print(fetch(sys.argv[1] if len(sys.argv) > 1 else version("peft")) / PACKAGE)
