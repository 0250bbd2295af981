"""The command line as a user meets it: one clear line for an error, exit codes, help with an example."""

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from clips import write_classes

from apt_peft import cli
from apt_peft.training import train as train_module


def run(capsys, *words: str) -> tuple[int, str, str]:
    code = cli.main(words)
    shown = capsys.readouterr()
    return code, shown.out, shown.err


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_command_has_help_with_an_example(capsys, command):
    with pytest.raises(SystemExit) as left:
        cli.main([command, "--help"])
    assert left.value.code == 0
    shown = capsys.readouterr().out
    assert "example" in shown
    assert f"apt-peft {command}" in shown.split("example")[1]


@pytest.mark.parametrize(
    ("command", "places"),
    [
        ("check", "DATA "),
        ("lists", "DATA "),
        ("train", ""),
        ("evaluate", ""),
        ("predict", "CLIP_OR_FOLDER "),
        ("convert", "SOURCE OUT "),
    ],
)
def test_the_usage_names_what_is_given_by_place(capsys, command, places):
    with pytest.raises(SystemExit):
        cli.main([command, "--help"])
    shown = capsys.readouterr().out
    assert shown.startswith(f"usage: apt-peft {command} {places}[flags]\n")
    # A placeholder says what to give, in the words of the other commands.
    assert not re.search(r"--\S+ (TEXT|[A-Z]+_[A-Z]+(?<!DIR_OR_HUB))\b", shown)


def test_the_program_has_help_and_a_version(capsys):
    for flag, wanted in (("--help", "apt-peft demo"), ("--version", "apt-peft 0")):
        with pytest.raises(SystemExit) as left:
            cli.main([flag])
        assert left.value.code == 0
        assert wanted in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "no command was given. See: apt-peft --help"),
        (["--no-such"], "unrecognized arguments: --no-such. See: apt-peft --help"),
        (["trian"], "trian is no command. Did you mean train? See: apt-peft --help"),
        (
            ["train", "--nmu-frames", "8", "--xyz"],
            "--nmu-frames is no flag of this command. Did you mean --num-frames? --xyz is no flag of this command. "
            "See: apt-peft train --help",
        ),
        (["check", "a", "b"], "b is one argument too many. See: apt-peft check --help"),
        (["train", "--model"], "argument --model: expected one argument. See: apt-peft train --help"),
        (
            ["train", "--epo", "3"],
            "--epo is no flag of this command. Did you mean --epochs? See: apt-peft train --help",
        ),
        (
            ["evaluate", "--adapter", "a"],
            "data must be given. Add --data.",
        ),
        (
            ["train", "--model", "m", "--data", "d", "--out", "o", "--epochs", "0", "--lr", "x"],
            "2 settings are wrong:\n  epochs (0) must be at least 1.\n  lr ('x') must be a finite number.",
        ),
        (
            ["train", "--model", "/no/such", "--data", "d", "--out", "{tmp}/o"],
            "model (/no/such) must be a folder or a name on the Hub, but there is no such folder. Check the path.",
        ),
    ],
)
def test_an_error_of_the_users_is_told_without_a_traceback(capsys, tmp_path, words, message):
    words = [word.replace("{tmp}", str(tmp_path)) for word in words]
    assert run(capsys, *words) == (2, "", f"error: {message}\n")
    assert not any(tmp_path.iterdir())


def test_help_and_usage_errors_load_no_extra():
    code = (
        "import importlib, sys; from apt_peft.cli import COMMANDS\n"
        "for _, module in COMMANDS.values(): importlib.import_module(module)\n"
        "print([name for name in ('av', 'datasets', 'matplotlib', 'transformers.trainer') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_from_clips_to_predictions_in_new_processes(backbone, data, tmp_path):
    (tmp_path / "run.toml").write_text(f'model = "{backbone}"\ndata = "{data}"\nepochs = 9\nnum_prompt_tokens = 3\n')
    out = str(tmp_path / "run")
    checked = command("check", str(data), "--no-progress")
    assert checked.returncode == 0
    assert "Training can start." in checked.stdout

    trained = command("train", "--config", str(tmp_path / "run.toml"), "--out", out, "--epochs", "1", "--threads", "1")
    assert trained.returncode == 0, trained.stderr
    assert trained.stdout.splitlines()[-1] == f"adapter: {out}"
    assert "9 training, 3 validation, 6 test clips (validation held out of training) in 3 classes." in trained.stderr
    assert "training: 100%" in trained.stderr
    assert "Warning" not in trained.stderr

    predicted = command("predict", "--adapter", out, "--json", str(data / "test" / "up"))
    assert predicted.returncode == 0, predicted.stderr
    assert [len(row["scores"]) for row in json.loads(predicted.stdout)] == [3, 3]


def test_check_tells_by_its_exit_code_that_training_would_fail(capsys, tmp_path):
    place = write_classes(tmp_path / "data", ["a", "b"], clips=2, num_frames=4, width=32, height=24)
    assert run(capsys, "check", str(place), "--no-progress")[0] == 0
    (place / "a" / "a_0.mp4").write_bytes(b"no video")
    code, shown, _ = run(capsys, "check", str(place), "--no-progress")
    assert code == 1
    assert str(place / "a" / "a_0.mp4") in shown
    assert "Repair or remove them, or leave them out with --on-error skip.\n" in shown
    code, shown, _ = run(capsys, "check", str(place), "--no-progress", "--json", "--on-error", "skip")
    assert code == 0
    assert json.loads(shown)["counts"] == {"train": {"a": 2, "b": 2}}


def test_check_tells_that_nothing_can_be_held_out(capsys, tmp_path):
    place = write_classes(tmp_path / "data", ["a", "b"], clips=1, num_frames=4, width=32, height=24)
    code, shown, _ = run(capsys, "check", str(place), "--no-progress")
    assert code == 1
    assert "Give validation clips, or train with --val-fraction 0.\n" in shown
    code, shown, _ = run(capsys, "check", str(place), "--no-progress", "--val-fraction", "0")
    assert code == 0
    assert "Training can start." in shown


def test_evaluate_and_predict_print_what_they_found(capsys, backbone, data, tmp_path):
    out = str(tmp_path / "run")
    words = ["--model", str(backbone), "--data", str(data), "--epochs", "1", "--no-progress", "--threads", "1"]
    code, shown, _ = run(capsys, "train", *words, "--out", out, "--num-prompt-tokens", "2")
    assert code == 0
    score = shown.split("test top-1 ")[1].split(",")[0]
    code, shown, _ = run(capsys, "evaluate", "--adapter", out, "--data", str(data), "--no-progress", "--threads", "1")
    assert code == 0
    assert shown.startswith(f"top-1 {score} of 6 test clips\n")
    wrong = [line for line in shown.splitlines() if line.startswith("wrong: ")]
    assert len(wrong) == 6 - round(6 * float(score.split()[0]) / 100)
    assert all("test/" in line for line in wrong)
    code, shown, _ = run(
        capsys, "predict", "--adapter", out, str(data / "test" / "up"), "--top-k", "2", "--no-progress"
    )
    assert code == 0
    assert [line[:2] for line in shown.splitlines()] == [str(data)[:2], "  ", "  "] * 2
    more = Path(shutil.copytree(data / "test" / "up", tmp_path / "more"))
    (more / "bad.mp4").write_bytes(b"")
    words = ["--on-error", "skip", "--top-k", "1", "--no-progress"]
    code, shown, _ = run(capsys, "predict", "--adapter", out, str(more), *words)
    assert code == 0
    assert shown.splitlines()[4:] == [
        f"{more / 'bad.mp4'}: skipped, for opening it failed: invalid data found when processing input",
        "1 of 3 clips could not be read and were skipped",
    ]


def test_control_c_ends_cleanly(capsys, monkeypatch, backbone, data, tmp_path):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(train_module, "_trainer", interrupted)
    words = ["--model", str(backbone), "--data", str(data), "--out", str(tmp_path / "run"), "--no-progress"]
    code, shown, told = run(capsys, "train", *words)
    assert (code, shown) == (130, "")
    assert told.endswith("interrupted\n")
    assert "Traceback" not in told


def test_control_c_in_a_process_with_workers(backbone, data, tmp_path):
    words = ["--model", str(backbone), "--data", str(data), "--out", str(tmp_path / "run"), "--epochs", "9999"]
    words += ["--no-progress", "--workers", "1", "--prefetch", "3", "--threads", "1"]
    process = subprocess.Popen(
        [sys.executable, "-m", "apt_peft", "train", *words],
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    end = time.monotonic() + 60
    while not list((tmp_path / "run").glob("checkpoints/checkpoint-*")):
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    told = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert told.endswith("interrupted\n")
    assert "Traceback" not in told


def test_a_reader_that_goes_away_is_no_error(data):
    process = subprocess.run(
        f'"{sys.executable}" -m apt_peft check "{data}" --no-progress | true',
        shell=True,
        capture_output=True,
        text=True,
    )
    # not empty: PEFT imports quantization packages that are installed, and these speak of themselves
    assert "Traceback" not in process.stderr
    assert "BrokenPipe" not in process.stderr


def command(*words: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "apt_peft", *words], capture_output=True, text=True)
