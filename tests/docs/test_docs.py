"""README and docs: their code runs from top to bottom, their links lead somewhere, and no public name is missing."""

import dataclasses
import importlib
import re
import runpy

import peft
import pytest
from pages import DOCS, PAGES, ROOT, blocks, run_page

import apt_peft
import apt_peft.baselines
import apt_peft.checkpoints
import apt_peft.comparison
import apt_peft.cost
import apt_peft.doctor
import apt_peft.export
import apt_peft.insight
import apt_peft.pruning
import apt_peft.scores
import apt_peft.sweeps
import apt_peft.video

# by tests/unit/checkpoints/test_checkpoint_docs.py and tests/docs/test_export_page.py
TESTED_ELSEWHERE = {"checkpoints.md", "export.md"}
WITH_CODE = [page for page in PAGES if page.name not in TESTED_ELSEWHERE and blocks(page)]
LANGUAGES = {"bash", "python", "text", "toml", "toctree"}
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")


@pytest.mark.filterwarnings("ignore:'pin_memory' argument")  # what torch says of a plain Trainer without a GPU
@pytest.mark.filterwarnings("ignore:Already found a `peft_config`")  # what PEFT says of a second method or adapter
@pytest.mark.filterwarnings("ignore:You are trying to modify a model with PEFT")
@pytest.mark.parametrize("page", WITH_CODE, ids=lambda page: page.name)
def test_code_runs(page, place, capsys):
    run_page(page, place, capsys)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_blocks_are_marked_and_closed(page):
    text = page.read_text(encoding="utf-8")
    assert len(re.findall(r"^```", text, re.MULTILINE)) == 2 * len(
        [line for line in text.splitlines() if re.match(r"```\S", line)]
    ), "every block of code has a language and an end"
    for block in blocks(page):
        assert block.language in LANGUAGES, f"line {block.line}"


def anchor(heading: str) -> str:
    """What a code host makes of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_resolve(page):
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for target in LINK.findall(text):
        if target.startswith("https://"):
            continue
        path, _, part = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), f"{page.name}: {target}"
        if part:
            headings = re.findall(r"^#+ (.+)$", there.read_text(encoding="utf-8"), re.MULTILINE)
            assert part in map(anchor, headings), f"{page.name}: {target}"


def test_every_page_is_in_the_index():
    index = (DOCS / "index.md").read_text(encoding="utf-8")
    for page in DOCS.glob("*.md"):
        if page.name != "index.md":
            assert f"({page.name})" in index
            assert re.search(rf"^{page.stem}$", index, re.MULTILINE), f"toctree lacks {page.stem}"


MODULES = [
    apt_peft, apt_peft.baselines, apt_peft.video, apt_peft.checkpoints, apt_peft.doctor, apt_peft.export,
    apt_peft.scores, apt_peft.comparison, apt_peft.cost, apt_peft.insight,
    apt_peft.pruning, apt_peft.sweeps,
]  # fmt: skip
API = (DOCS / "api.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_every_public_name_stands_in_the_api_page(module):
    section = API.partition(f"\n## {module.__name__}\n")[2].partition("\n## ")[0]
    for name in module.__all__:
        assert re.search(rf"^\| `{re.escape(name)}[`(]", section, re.MULTILINE), f"{module.__name__}.{name}"


def test_every_name_of_the_api_page_exists():
    for heading, section in re.findall(r"^## (apt_peft\S*)\n(.*?)(?=^## |\Z)", API, re.MULTILINE | re.DOTALL):
        module = importlib.import_module(heading)
        rows = re.findall(r"^\| `(\w+)", section, re.MULTILINE)
        assert rows, heading
        for name in rows:
            assert hasattr(module, name), f"{heading}.{name}"


def test_every_setting_of_the_method_stands_in_the_api_page():
    section = API.partition("\n## Settings of AttentionPromptConfig\n")[2].partition("\n## ")[0]
    inherited = {field.name for field in dataclasses.fields(peft.PeftConfig)}
    for field in dataclasses.fields(apt_peft.AttentionPromptConfig):
        assert field.name in inherited or f"`{field.name}`" in section, field.name


def test_the_readme_has_the_two_commands_alone():
    bash = [block.code for block in blocks(ROOT / "README.md") if block.language == "bash"]
    assert bash[:2] == ['pip install -e ".[train]" && apt-peft demo\n', 'pip install -e ".[dev]" && pytest\n']


def test_the_drawing_is_made_by_its_script(tmp_path):
    draw = runpy.run_path(str(DOCS / "images" / "draw.py"))["draw"]
    draw(tmp_path / "drawing.svg")
    assert "<svg" in (tmp_path / "drawing.svg").read_text(encoding="utf-8")
    assert "<svg" in (DOCS / "images" / "where-prompts-go.svg").read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_nothing_is_left_to_fill(page):
    assert "LEAD-TO-FILL" not in page.read_text(encoding="utf-8")
