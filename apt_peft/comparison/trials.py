"""One run of a comparison, in this process or in another: a trial, a run on all training clips, a touch of the test split."""

import json
import logging
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from apt_peft import errors
from apt_peft.comparison import ledger as ledgers
from apt_peft.comparison.ledger import Ledger, digest, locked
from apt_peft.errors import AptError, ConfigError
from apt_peft.training import checkpoints
from apt_peft.training.checkpoints import write_json
from apt_peft.training.record import read_run
from apt_peft.training.settings import TrainSettings

TRIAL, RUN, TEST, CELL = "trial", "run", "test", "cell"
WEIGHTS = "adapter_model.safetensors"
# What `train` and `evaluate` say of numbers that are not finite.
DIVERGED = ("training had diverged", "training has diverged")


@dataclass(frozen=True)
class Job:
    """Something to do that leaves a folder or a file.

    Args:
        kind: `trial`, `run` and `cell` train, a cell with validation clips as its test list; `test` scores the test split.
        name: what a user is told of it.
        settings: of `train`, or for `test` of `evaluate`.
        ledger: for `test`: the ledger's file, name of the contender and seed.
    """

    kind: str
    name: str
    settings: dict[str, Any]
    ledger: tuple[str, str, int] | None = None


def do(job: Job) -> dict[str, Any]:
    """Do a job, or find that it is done; half of a run that was killed is gone on with.

    Args:
        job: what to do.

    Returns:
        `diverged`, a sentence or None; of trials and cells `top1` and `loss` of the validation clips after the last epoch.

    Raises:
        AptError: it cannot be done.
    """
    logger = logging.getLogger("apt_peft")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        return _test(job) if job.kind == TEST else _train(job)
    finally:
        logger.setLevel(before)


def _train(job: Job) -> dict[str, Any]:
    from apt_peft.training.train import train

    out = Path(job.settings["out"])
    failed = out.with_name(f"{out.name}.diverged.json")
    # A worker may have outlived its killed parent: then it ends its run first.
    with locked(out.with_name(f"{out.name}.lock")):
        if failed.exists():
            return {"diverged": json.loads(failed.read_text(encoding="utf-8"))["error"]}
        try:
            # Of a finished run this only compares the settings with those that it was made with.
            train(TrainSettings(**job.settings, resume=checkpoints.is_finished(out) or _begun(out)))
        except AptError as error:
            if not _tells_of_divergence(error):
                raise
            write_json(failed, {"error": str(error)})
            shutil.rmtree(out, ignore_errors=True)
            return {"diverged": str(error)}
        # Checkpoints of a finished run are of no use, and many times as large as all else.
        shutil.rmtree(out / checkpoints.CHECKPOINTS, ignore_errors=True)
        if job.kind in (TRIAL, CELL):
            (out / WEIGHTS).unlink(missing_ok=True)
        return {"diverged": None} | (_validation(out, job.kind) if job.kind != RUN else {})


def _tells_of_divergence(error: AptError) -> bool:
    return any(words in str(error) for words in DIVERGED)


def _begun(out: Path) -> bool:
    return (out / checkpoints.CHECKPOINTS).is_dir()


def _validation(out: Path, kind: str) -> dict[str, float]:
    """Scores after the last epoch, which is what a run on all training clips will keep."""
    run = read_run(out)
    if kind == CELL and run is not None and run.values["result"]["test"] is not None:
        return {name: run.values["result"]["test"][name] for name in ("top1", "loss")}
    entries = [entry for entry in run.values["history"] if "eval_top1" in entry] if run is not None else []
    if not entries:
        raise ConfigError(
            f"trial ({out}) must have validation scores in its run.json, but it has none. Delete the folder, and compare again."
        )
    return {"top1": entries[-1]["eval_top1"], "loss": entries[-1]["eval_loss"]}


def _test(job: Job) -> dict[str, Any]:
    from apt_peft.scoring import EvaluateSettings, evaluate_adapter
    from apt_peft.training.base import threads

    assert job.ledger is not None, "a touch has a ledger"
    path, method, seed = job.ledger
    settings = EvaluateSettings(**job.settings)
    assert settings.save_scores is not None, "a touch leaves its scores"
    scores, ledger = Path(settings.save_scores), Ledger(path)
    with locked(scores.with_suffix(".lock")):
        adapter = digest(Path(settings.adapter) / WEIGHTS)
        if ledger.touch(method, seed, adapter=adapter, scores=scores):
            try:
                with threads(settings.threads):
                    evaluate_adapter(settings)
            except AptError as error:
                if not _tells_of_divergence(error):
                    raise
                ledger.diverged(method, seed, adapter=adapter)
            else:
                ledger.scored(method, seed, adapter=adapter, scores=scores)
        state = ledger.state(method, seed)
    not_finite = state is not None and state["event"] == ledgers.DIVERGED
    return {"diverged": "its scores of the test clips are not finite: training has diverged" if not_finite else None}


class Runner:
    """Does jobs, in this process or in several of its own; a context, at whose end these end.

    The processes wait for jobs on their input, which closes when this process ends, and then they end too.

    Args:
        at_once: how many processes; with 1 all is done in this one.
    """

    def __init__(self, at_once: int) -> None:
        self.at_once, self._lock = at_once, threading.Lock()
        self._idle: list[subprocess.Popen] = []
        self._all: list[subprocess.Popen] = []

    def __enter__(self) -> "Runner":
        return self

    def __exit__(self, *error: object) -> None:
        for worker in self._all:
            if worker.stdin is not None:
                with suppress(BrokenPipeError):  # it ended before it took all that was written
                    worker.stdin.close()
        for worker in self._all:
            worker.wait()
            if worker.stdout is not None:
                worker.stdout.close()

    def do_all(self, jobs: Iterable[Job]) -> Iterator[tuple[Job, dict[str, Any]]]:
        """Do jobs.

        Args:
            jobs: what to do, independent of each other.

        Returns:
            Each job and its outcome, as they end.

        Raises:
            AptError: one cannot be done; those that run are ended first.
        """
        if self.at_once == 1:
            for job in jobs:
                yield job, do(job)
            return
        with ThreadPoolExecutor(self.at_once) as pool:
            futures = {pool.submit(self._do, job): job for job in jobs}
            try:
                for future in as_completed(futures):
                    yield futures[future], future.result()
            except BaseException:
                for future in futures:
                    future.cancel()
                raise

    def _do(self, job: Job) -> dict[str, Any]:
        with self._lock:
            worker = self._idle.pop() if self._idle else self._start()
        assert worker.stdin is not None
        assert worker.stdout is not None
        try:
            worker.stdin.write(json.dumps(asdict(job)) + "\n")
            worker.stdin.flush()
            line = worker.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise ConfigError(
                f"run ({job.name}) must end by itself, but its process ended with code {worker.wait()}. "
                "Give the command again to go on, with fewer --jobs where memory is short."
            )
        with self._lock:
            self._idle.append(worker)
        answer = json.loads(line)
        if "kind" in answer:
            raise getattr(errors, answer["kind"], AptError)(answer["error"])
        return dict(answer["outcome"])

    def _start(self) -> subprocess.Popen:
        words = [sys.executable, "-m", "apt_peft.comparison.worker"]
        worker = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8")
        self._all.append(worker)
        return worker
