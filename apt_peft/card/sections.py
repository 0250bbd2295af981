"""The text of a model card, section by section."""

from ..hub import HERE
from ..training.record import RUN_FILE, percent
from . import words
from .facts import Facts
from .metadata import metadata

PAPER = "https://arxiv.org/abs/2403.06978"
STARTS = {True: "uniform, as published", "data": "keys and values of the backbone", False: "normal"}
FACTORS = {"max": "max(scale, 1), as published", "softplus": "softplus", "none": "none"}
VERSIONS = ("apt-peft", "peft", "transformers", "torch")


def model_card(facts: Facts) -> str:
    """The text of a card.

    Args:
        facts: what it says.

    Returns:
        Markdown, with the metadata that the Hub reads at its top.
    """
    parts = [_head(facts), _use(facts), _results(facts), _training(facts), _limits(facts)]
    return f"---\n{metadata(facts).to_yaml()}\n---\n\n" + "\n\n".join(part for part in parts if part) + "\n"


def _head(facts: Facts) -> str:
    count, things = len(facts.labels), words.kind_of(facts).things
    title = "Attention prompts" if facts.has_prompts else "Linear probe"
    made = (
        f"Learned keys and values, {words.prompts(facts)}, by [Attention Prompt Tuning]({PAPER}), and the head trained with "
        "them."
        if facts.has_prompts
        else "The head alone, trained on a frozen backbone: what attention prompts are compared with."
    )
    if facts.baseline is not None:
        from ..baselines.methods import METHODS

        title = facts.baseline
        made = (
            f"A baseline, trained with its head: {METHODS[title].title} ({METHODS[title].source}), made to compare "
            "[Attention Prompt Tuning](" + PAPER + ") with."
        )
    weights = facts.files.weights
    rows = [
        ("backbone", words.backbone(facts)),
        ("licence", words.licence(facts)),
        *([("classes", f"{count:,}: {words.labels(facts.labels)}")] if count else []),
        *([("data", words.data(facts.dataset))] if facts.dataset else []),
        ("trained parameters", words.parameters(facts)),
        ("stored", f"{words.size(weights.stat().st_size)}, `{weights.name}`"),
    ]
    title += f" for {count:,} classes of {things}" if count else ""
    return f"# {title}\n\n{made} The backbone is as it was, and is not in here.\n\n{words.table(rows)}"


def _use(facts: Facts) -> str:
    kind = words.kind_of(facts)
    base = f'"{facts.base}"' if facts.base else '"PLACE_OF_THE_BACKBONE"'
    pooling = ", use_mean_pooling=True" if facts.pools_by_order else ""
    elsewhere = "" if facts.base_on_hub else "  # your place of it"
    package = "apt_peft" if facts.baseline is None else "apt_peft.baselines"
    text = f"""## Use

```
pip install apt-peft
```

`import {package}` makes the method known to PEFT. Without it, loading ends with `KeyError: {facts.method!r}`.

```python
import {package}
from peft import PeftModel
from transformers import {kind.base_class}

{HERE}
base = {kind.base_class}.from_pretrained({base}{pooling}){elsewhere}
model = PeftModel.from_pretrained(base, adapter).eval()
print(model.config.id2label)
```"""
    if facts.run is None or facts.baseline is not None or kind is not words.VIDEOS:
        return text
    pooling = ', model_kwargs={"use_mean_pooling": True}' if facts.pools_by_order else ""
    return f"""{text}

As a pipeline on video files, which needs `pip install "apt-peft[video]"`:

```python
from apt_peft import ClipProcessor
from transformers import pipeline

adapter = "."
processor = ClipProcessor.from_pretrained(adapter)
classify = pipeline("video-classification", model=adapter, video_processor=processor{pooling})
print(classify("clip.mp4"))
```

From the command line, `apt-peft predict --adapter . CLIP` names what is in a clip, and `apt-peft evaluate --adapter . --data
DATA` scores labelled ones."""


def _results(facts: Facts) -> str:
    if not facts.scores and facts.run is not None and facts.run.get("pruned"):
        return "## Results\n\nNot evaluated since it was pruned. What `run.json` tells of training was before that."
    if not facts.scores:
        return "## Results\n\nNot evaluated: there was neither a validation nor a test split." if facts.run else ""
    rows = [
        (
            split,
            f"{numbers['clips']:,}" if numbers.get("clips") else "-",
            *(percent(numbers.get(k)) for k in ("top1", "top5")),
        )
        for split, numbers in facts.scores.items()
    ]
    text = "## Results\n\n" + words.table(rows, ("split", "clips", "top-1", "top-5"))
    if "validation" in facts.scores and facts.run is not None:
        text += "\n\nThe validation clips chose the epoch, which flatters their score; the test clips chose nothing."
    return text


def _training(facts: Facts) -> str:
    rows = _settings(facts)
    run = facts.run
    if run is None:
        return "## Settings\n\n" + words.table(rows) if rows else ""
    counts, skipped = run["data"]["clips"], run["data"].get("skipped_clips", {})
    text = "Trained on " + ", ".join(f"{count:,} {split} clips" for split, count in counts.items() if count)
    if any(skipped.values()):
        left = ", ".join(f"{count:,} {split}" for split, count in skipped.items() if count)
        text += f"; {left} clips could not be read and were left out"
    text += (
        f"; data fingerprint `{run['data']['fingerprint']}`, backbone fingerprint `{run['backbone']['fingerprint']}`. All "
        f"settings, versions and the history: `{RUN_FILE}`."
    )
    return f"## Training\n\n{text}\n\n{words.table([*rows, *_run_settings(facts)])}"


def _settings(facts: Facts) -> list[tuple[str, str]]:
    """What adapter_config.json says."""
    config = facts.files.config
    rows = []
    if facts.has_prompts:
        own = "" if config.share_prompts_across_heads else ", its own for each head"
        rows += [
            ("prompts", words.prompts(facts) + own),
            ("start of the prompts", STARTS[config.init_weights]),
            ("factor on the prompts", FACTORS[config.reparameterization]),
            ("dropout on the prompts", f"{config.prompt_dropout:g}"),
            *([("pruned", words.pruned(facts.run["pruned"]))] if facts.run and facts.run.get("pruned") else []),
            *([("gate on the keys", f"{config.key_gate} directions, an addition")] if config.key_gate else []),
            *([("norms", "those of the prompted blocks are trained, an addition")] if config.train_norms else []),
        ]
    if config.modules_to_save:
        rows.append(("trained in full", ", ".join(words.code(name) for name in config.modules_to_save)))
    return rows


def _run_settings(facts: Facts) -> list[tuple[str, str]]:
    """What run.json says, as far as it decides on the result."""
    assert facts.run is not None
    run, settings, clips = facts.run, facts.run["settings"], facts.run["clips"]
    rates = {name: f"{rate:g}" for name, rate in run["learning_rates"].items()}
    stride = f", every {clips['frame_stride']}th" if clips["sampling"] == "dense" else ""
    parts = ("prompts", "head") if facts.has_prompts or facts.baseline is not None else ("head",)
    names = {"prompts": facts.baseline or "prompts"}
    batch = settings["batch_size"] * settings.get("gradient_accumulation_steps", 1)
    recipe, preset = run.get("recipe"), run.get("preset")
    return [
        *([("recipe", words.recipe(recipe))] if recipe else []),
        *([("preset", words.preset(preset))] if preset else []),
        ("frames of a clip", f"{clips['num_frames']}, {clips['sampling']}{stride}"),
        ("pixels", f"{clips['size']} x {clips['size']}, resized by {clips['resize']}"),
        ("mean, std of the pixels", f"{clips['mean']}, {clips['std']}"),
        ("views of a test clip", f"{clips['segments']} in time x {clips['crops']} crops"),
        ("augmentation", words.augmentation(settings)),
        ("peak learning rates", ", ".join(f"{names.get(part, part)} {rates[part]}" for part in parts)),
        ("weight decay, label smoothing", f"{settings['weight_decay']:g}, {settings['label_smoothing']:g}"),
        ("epochs, clips of a step", f"{settings['epochs']:,}, {batch:,}"),
        ("steps, step of these weights", f"{run['steps']:,}, {run['chosen_step']:,}"),
        ("precision, seed", f"{run['precision']}, {settings['seed']}"),
        ("time, machine", f"{run['training_seconds']:,.0f} s, {words.code(str(run['device']))}"),
        ("versions", ", ".join(f"{name} {run['versions'][name]}" for name in VERSIONS if run["versions"].get(name))),
    ]


def _limits(facts: Facts) -> str:
    things = words.kind_of(facts).things
    lines = [
        f"For telling {things} like those of its data apart, by the classes above.",
        f"It knows these classes and no other, and names one of them for {things} of anything else, too. A score says how sure "
        "it is among them, not whether one of them fits.",
    ]
    if facts.run is not None:
        frames = facts.run["clips"]["num_frames"]
        lines.append(f"It sees {frames} frames of a clip and nothing in between, and hears nothing.")
    lines += [
        "How it does with other cameras, places and people than those of its data was not measured, nor whether it does as "
        "well for all people. Measure it on your own before you rely on it.",
        *(
            ["Prompts steer the backbone and do not mend it: what it has not learned, or has learned wrongly, stays."]
            if facts.baseline is None
            else []
        ),
        "Not for decisions about people that nobody checks.",
    ]
    return "## Intended use and limits\n\n" + "\n".join(f"- {line}" for line in lines)
