"""The code of docs/checkpoints.md runs from top to bottom, and its first report is what is printed."""

import re
import shlex
import shutil
from pathlib import Path

import torch
from checkpoint_files import GOLDEN
from test_checkpoint_command import call

PAGE = (Path(__file__).parents[3] / "docs" / "checkpoints.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(bash|python|text)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def test_page_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shutil.copy(GOLDEN / "apt_all_layers.pth", "checkpoint-99.pth")
    shutil.copy(GOLDEN / "videomae_pretrain.pth", "videomae_pretrain.pth")
    torch.manual_seed(0)
    printed, names = [], {}
    for language, code in BLOCKS:
        if language == "bash":
            program, command, *words = shlex.split(code)
            assert (program, command) == ("apt-peft", "convert")
            call(*words)
        elif language == "python":
            exec(compile(code, "docs/checkpoints.md", "exec"), names)
        printed.append(capsys.readouterr().out)
    assert [language for language, _ in BLOCKS].count("python") == 5
    assert printed[0] == BLOCKS[1][1]
    assert re.fullmatch(r"LABEL_[0-6]\n", printed[2])
    assert printed[3].endswith("\nwave\n")
    assert printed[5] == "True\n"
    assert printed[7] == "['args', 'model'] 0 3\n"
