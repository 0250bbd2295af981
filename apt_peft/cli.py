"""`apt-peft COMMAND`: a table of commands, each imported when it runs."""

import argparse
import importlib
import logging
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

from apt_peft.errors import AptError
from apt_peft.settings import nearest
from apt_peft.version import __version__

# Command -> what it does, and the module with its add_arguments(parser) and run(args).
COMMANDS = {
    "check": ("look at every clip: counts, lengths, unreadable files, duplicates", "apt_peft.commands.check"),
    "doctor": ("examine a backbone, and clips for it, before a run that cannot succeed", "apt_peft.commands.doctor"),
    "lists": ("divide clips into train, val and test lists, videos kept whole", "apt_peft.commands.lists"),
    "shard": ("clips to WebDataset tar shards with an index, resumable", "apt_peft.commands.shard"),
    "train": ("train prompts and head on your clips, from a frozen backbone", "apt_peft.commands.train"),
    "recipes": ("settings of published runs, by name, for train --recipe", "apt_peft.commands.recipes"),
    "evaluate": ("score an adapter on labelled clips: top-1, classes, confusion, errors", "apt_peft.commands.evaluate"),
    "score": ("scores of evaluate to numbers with intervals, differences, ensembles", "apt_peft.commands.score"),
    "compare": ("ways to train, tuned alike, tested once: one table with intervals", "apt_peft.commands.compare"),
    "robustness": ("rates with and without reparameterization: how many are good", "apt_peft.commands.robustness"),
    "sweep-prompts": ("accuracy and cost against the number of prompts, each tuned", "apt_peft.commands.sweep_prompts"),
    "predict": ("name what is in a clip or a folder of clips", "apt_peft.commands.predict"),
    "cost": ("what methods cost: multiply-adds, memory and time, from shapes and measured", "apt_peft.commands.cost"),
    "prompts": ("what an adapter's prompts do: attention, ranks, sizes, dead ones", "apt_peft.commands.prompts"),
    "prune": ("keep an adapter's best prompts, and measure what that costs", "apt_peft.commands.prune"),
    "export": ("an adapter to ONNX, a torch program or a folded adapter, checked", "apt_peft.commands.export"),
    "convert": ("weight files of the reference and of VideoMAE to folders and back", "apt_peft.checkpoints.command"),
    "demo": ("see it work, offline, in two minutes", "apt_peft.demo.command"),
}
USER_ERROR, INTERRUPTED = 2, 130


class UsageError(AptError):
    """A command line that cannot be understood."""


class OneLineParser(argparse.ArgumentParser):
    """A parser whose errors are raised and not printed below a screen of usage."""

    def error(self, message: str) -> NoReturn:
        """Raise what argparse found wrong.

        Raises:
            UsageError: always.
        """
        raise UsageError(f"{message.rstrip('.')}{'' if message.endswith('?') else '.'} See: {self.prog} --help")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; an error of the user's is one line on stderr.

    Args:
        arguments: the command line without the program's name; that of the process by default.

    Returns:
        The exit code: 0, 1 where `check` finds data that training would refuse or `doctor` finds errors, 2 for an error of
        the user's, 130 for Ctrl-C.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return _run(given)
    except AptError as error:
        print(f"error: {error}", file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of our output went away (`| head`): Python must not fail again when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _run(given: list[str]) -> int:
    parser = OneLineParser(
        prog="apt-peft",
        description="Attention Prompt Tuning for video transformers.",
        epilog="commands:\n"
        + "".join(f"  {name:14}{text}\n" for name, (text, _) in COMMANDS.items())
        + "\nexample:\n  apt-peft demo\n\nMore on a command: apt-peft COMMAND --help",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="apt-peft COMMAND ...",
    )
    parser.add_argument("--version", action="version", version=f"apt-peft {__version__}")
    if not given or given[0].startswith("-"):
        parser.parse_args(given)
        parser.error("no command was given")
    name, *rest = given
    if name not in COMMANDS:
        parser.error(f"{name} is no command.{nearest(name, list(COMMANDS))}")
    text, module = COMMANDS[name]
    command = importlib.import_module(module)
    parser = OneLineParser(
        prog=f"apt-peft {name}",
        description=text[0].upper() + text[1:] + ".",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    command.add_arguments(parser)
    # argparse's own usage would list every flag, and put those in brackets whose absence our own check names.
    places = [str(action.metavar or action.dest) for action in parser._actions if not action.option_strings]
    parser.usage = " ".join([parser.prog, *places, "[flags]"])
    args, unknown = parser.parse_known_args(rest)
    if unknown:
        flags = [option for action in parser._actions for option in action.option_strings]
        parser.error(" ".join(_unknown(unknown, flags)))
    with _own_lines():
        result: Any = command.run(args)
    return int(result or 0)


def _unknown(texts: list[str], flags: list[str]) -> list[str]:
    """A sentence for each argument that no flag takes; what follows an unknown flag is its value."""
    names = [text for text in texts if text.startswith("--")]
    if names:
        return [f"{text} is no flag of this command.{nearest(text.partition('=')[0], flags)}" for text in names]
    return [f"{text} is one argument too many." for text in texts]


@contextmanager
def _own_lines() -> Iterator[None]:
    """Our own reports on stderr as they are; what libraries are about to rename is not the user's concern."""
    logger = logging.getLogger("apt_peft")
    before = logger.handlers, logger.level, logger.propagate
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger.handlers, logger.propagate = [handler], False
    logger.setLevel(logging.INFO)
    try:
        with warnings.catch_warnings():
            for kind in (FutureWarning, DeprecationWarning):
                warnings.simplefilter("ignore", kind)
            yield
    finally:
        logger.handlers, logger.propagate = before[0], before[2]
        logger.setLevel(before[1])
