"""The line without which an adapter cannot be loaded, in the README.md that PEFT writes beside it.

PEFT's own template does not know that its methods can come from elsewhere, and a method that is not imported ends in
`KeyError: 'ATTENTION_PROMPT'`. `apt_peft.write_model_card` writes a whole card.
"""

import json
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

README = "README.md"
IMPORT = "import apt_peft"
TEMPLATE = """## How to load it

`import apt_peft` (`pip install apt-peft`) makes the method known to PEFT. Without it, loading ends with
`KeyError: 'ATTENTION_PROMPT'`.

```python
import apt_peft
from peft import PeftModel
from transformers import {base_class}

adapter = "."  # this folder, or its name on the Hub
base = {base_class}.from_pretrained({base}{pooling})
model = PeftModel.from_pretrained(base, adapter).eval()
```
"""


def complete(folder: str | Path, config: Any, base_class: str | None) -> None:
    """Add how to load an adapter to a README.md of PEFT's that does not say so.

    A base that is a folder leaves the metadata, too: the Hub takes names of its own alone there, and refuses the upload.

    Args:
        folder: that the adapter is saved to.
        config: of the adapter.
        base_class: name of the base's class in transformers, None where it has none.
    """
    path = _of_peft(Path(folder)) or _of_peft(Path(folder).parent, fresh=True)
    if path is None:
        return
    card = ModelCard.load(path, ignore_metadata_errors=True)
    base = card.data.get("base_model")
    if isinstance(base, str) and not _is_on_hub(base):
        card.data.pop("base_model")
        card.data["tags"] = [tag for tag in card.data.get("tags") or [] if not str(tag).endswith(f":{base}")]
    if IMPORT in card.text:
        card.save(path)
        return
    pooling = ", use_mean_pooling=True" if "fc_norm" in (config.modules_to_save or []) else ""
    how = TEMPLATE.format(
        base_class=base_class or "AutoModel",
        base=json.dumps(config.base_model_name_or_path or "PLACE_OF_THE_BASE"),
        pooling=pooling if str(base_class).startswith("VideoMAE") else "",
    )
    card.text = f"\n{how}\n{card.text.lstrip()}"
    card.save(path)


def _of_peft(folder: Path, fresh: bool = False) -> Path | None:
    """A folder's README.md if PEFT wrote it, and, if it must be fresh, nobody else has.

    PEFT puts adapters of other names than "default" into folders below their README.md, where a person's may lie.
    """
    path = folder / README
    if not path.is_file():
        return None
    text = path.read_text(encoding="utf-8")
    marks = ["library_name: peft", "- PEFT ", *(["# Model Card for Model ID"] if fresh else [])]
    return path if all(mark in text for mark in marks) else None


def _is_on_hub(name: str) -> bool:
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return not Path(name).exists()
