"""A run by a recipe: what it has otherwise is said, and recorded in run.json."""

import logging
from dataclasses import asdict
from typing import Any

from apt_peft.training import processes
from apt_peft.training.recipes import RECIPES, Recipe
from apt_peft.training.settings import TrainSettings

logger = logging.getLogger(__name__)


def recipe_run(settings: TrainSettings, config: Any, *, classes: int) -> dict[str, Any] | None:
    """Warn of what does not fit a run's recipe, and tell what is overridden.

    Args:
        settings: the run's flags.
        config: of the backbone.
        classes: of the data.

    Returns:
        What run.json says of the recipe; None without one.
    """
    if settings.recipe is None:
        return None
    recipe, overridden = RECIPES[settings.recipe], settings.overridden()
    clips_per_step = settings.clips_per_step * processes.world_size()
    differs = misfits(recipe, config=config, classes=classes, clips_per_step=clips_per_step)
    for text in differs:
        logger.warning("Recipe %s: %s.", recipe.name, text)
    changed = ", ".join(f"{name} {change['to']} for {change['from']}" for name, change in overridden.items())
    logger.info("Recipe %s (%s)%s.", recipe.name, recipe.kind, f", overridden: {changed}" if changed else "")
    return {
        "name": recipe.name,
        "kind": recipe.kind,
        "source": recipe.source,
        "overridden": overridden,
        "differs": differs,
    }


def misfits(recipe: Recipe, *, config: Any, classes: int, clips_per_step: int) -> list[str]:
    """What of a run differs from what its recipe is for, though no setting says so.

    Args:
        recipe: of the run.
        config: of the backbone.
        classes: of the data.
        clips_per_step: clips of one optimizer step over all processes.

    Returns:
        A sentence for each difference.
    """
    told = []
    if recipe.classes is not None and classes != recipe.classes:
        told.append(f"it is for {recipe.data_set} with {recipe.classes} classes, and the data has {classes}")
    if recipe.backbone is not None:
        wanted = {name: value for name, value in asdict(recipe.backbone).items() if name != "name"}
        found = {name: getattr(config, name, None) for name in wanted}
        other = [f"{name} {found[name]}, not {value}" for name, value in wanted.items() if found[name] != value]
        if other:
            told.append(f"it is for a {recipe.backbone.name}, and the backbone has {'; '.join(other)}")
    if recipe.clips_per_step is not None and clips_per_step != recipe.clips_per_step:
        rates = "; rates are scaled with them" if recipe.settings.get("lr_rule") == "published" else ""
        told.append(f"a step of it takes {recipe.clips_per_step} clips, and here {clips_per_step}{rates}")
    return told
