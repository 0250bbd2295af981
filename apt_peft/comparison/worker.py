"""A process of a comparison: it takes jobs as lines of JSON, and answers each by a line, until its input ends."""

import json
import sys
from contextlib import suppress
from typing import Any

from apt_peft.comparison.trials import Job, do
from apt_peft.errors import AptError


def main() -> None:
    """Answer jobs until there are no more."""
    answers, sys.stdout = sys.stdout, sys.stderr  # what libraries print is no answer
    for line in sys.stdin:
        values = json.loads(line)
        values["ledger"] = tuple(values["ledger"]) if values["ledger"] else None
        answer: dict[str, Any]
        try:
            answer = {"outcome": do(Job(**values))}
        except AptError as error:
            answer = {"kind": type(error).__name__, "error": str(error)}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    # Ctrl-C goes to all processes, and one whose parent was killed has nobody to answer.
    with suppress(KeyboardInterrupt, BrokenPipeError):
        main()
