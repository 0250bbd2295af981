"""docs/export.md: its code runs, and its own few lines of serving score clips as the package does."""

import json
import subprocess
import sys

import torch
from pages import DOCS, run_page

from apt_peft.scoring import PredictSettings, predict


def test_serving_scores_clips_as_predict_does(place, capsys):
    names = run_page(DOCS / "export.md", place, capsys)
    assert names["batch"].shape == (2, 4, 3, 16, 16)
    for clip, row in zip(("kick", "fall"), names["scores"], strict=True):
        (ours,) = predict(PredictSettings(adapter="runs/first", clips=f"new-clips/{clip}.mp4", progress=False))
        theirs = dict(zip(names["labels"], map(float, row), strict=True))
        assert max(abs(score["score"] - theirs[score["label"]]) for score in ours["scores"]) < 0.001
    logits = torch.from_numpy(names["logits"])
    torch.testing.assert_close(names["logits_by_torch"], logits, rtol=0, atol=1e-5)
    torch.testing.assert_close(names["again"], logits, rtol=0, atol=1e-5)
    record = json.loads((place / "served-elsewhere" / "export.json").read_text())
    assert record["operators"] == "standard"
    assert str(place) not in (place / "served" / "export.json").read_text()


def test_serving_needs_neither_torch_nor_this_package(place):
    """What the page's block imports."""
    text = (DOCS / "export.md").read_text(encoding="utf-8")
    block = text.partition("```python\nimport json")[2].partition("def read_clip")[0]
    imports = "\n".join(line for line in block.splitlines() if line.startswith(("import ", "from ")))
    code = f"import sys\n{imports}\nassert not {{'torch', 'transformers', 'peft', 'apt_peft'}} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
