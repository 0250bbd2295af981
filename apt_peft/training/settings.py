"""What `apt-peft train` needs to know: the tables of its flags as one class, below which recipes and presets lie."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from apt_peft.presets import PRESETS
from apt_peft.settings import plain
from apt_peft.training.conflicts import conflicts
from apt_peft.training.recipes import RECIPES
from apt_peft.training.table.clips import Clips, Data
from apt_peft.training.table.learning import Prompts, Training
from apt_peft.training.table.run import How, What

# Settings that say where and how a run is carried out and not what comes out of it: a resumed run may change them.
HOW_NOT_WHAT = frozenset(
    {
        *("model", "start_from", "data", "out", "cache", "cache_limit", "feature_cache"),
        *("workers", "prefetch", "decoder", "threads", "progress", "resume", "push_to_hub", "device"),
        *("look_over", "time_limit", "save_steps", "on_error"),
    }
)

# Given in the place of another setting, which a recipe may have: that one is left out then.
INSTEAD_OF = {"warmup_fraction": "warmup_epochs"}


# A dataclass takes the fields of its last base first, so this is the order of --help from the right.
@dataclass(frozen=True, kw_only=True)
class TrainSettings(How, Training, Prompts, Clips, Data, What):
    """What `train` needs to know; every field is a flag of `apt-peft train` and a key of its TOML file.

    Raises:
        ConfigError: values that break their rules, all named at once.
    """

    def conflicts(self) -> list[str]:
        """Values that are fine alone and not together."""
        return conflicts(self)

    @classmethod
    def complete(cls, given: Mapping[str, Any]) -> dict[str, Any]:
        """Put the values of a recipe, and those of a preset over them, below the given ones.

        Args:
            given: settings by name, perhaps with a `recipe` and a `preset`.

        Returns:
            Those of both and the given ones over them.
        """
        below: dict[str, Any] = {}
        for name, table in (("recipe", RECIPES), ("preset", PRESETS)):
            if isinstance(given.get(name), str) and given[name] in table:
                below |= table[given[name]].settings
        left_out = {theirs for ours, theirs in INSTEAD_OF.items() if ours in given}
        return {name: value for name, value in below.items() if name not in left_out} | dict(given)

    @classmethod
    def of_recipe(cls, recipe: str, **given: Any) -> "TrainSettings":
        """The settings of a recipe, some of them given.

        Args:
            recipe: its name.
            **given: settings; `model`, `data` and `out` at least.

        Returns:
            What `apt-peft train --recipe` with these flags would take.

        Raises:
            ConfigError: there is no such recipe, or values break their rules.
        """
        return cls._of(recipe=recipe, **given)

    @classmethod
    def of_preset(cls, preset: str, **given: Any) -> "TrainSettings":
        """The settings of a preset, some of them given.

        Args:
            preset: its name.
            **given: settings; `model`, `data` and `out` at least.

        Returns:
            What `apt-peft train --preset` with these flags would take.

        Raises:
            ConfigError: there is no such preset, or values break their rules.
        """
        return cls._of(preset=preset, **given)

    @classmethod
    def _of(cls, **given: Any) -> "TrainSettings":
        return cls(**cls.complete(given))

    def overridden(self) -> dict[str, dict[str, Any]]:
        """The recipe's values that this run has otherwise: name -> `from` (the recipe's) and `to` (this run's)."""
        return {} if self.recipe is None else self._changed(RECIPES[self.recipe].settings)

    def preset_run(self) -> dict[str, Any] | None:
        """What run.json says of the preset: its name, source and values, and those that this run has otherwise."""
        if self.preset is None:
            return None
        preset = PRESETS[self.preset]
        changed = self._changed(preset.settings)
        return {
            "name": preset.name,
            "source": preset.source,
            "settings": plain(preset.settings),
            "overridden": changed,
        }

    def _changed(self, settings: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        now = self.as_dict()
        return {name: {"from": value, "to": now[name]} for name, value in plain(settings).items() if now[name] != value}

    def warmup_steps(self, steps: int) -> int:
        """Steps in which the rate rises.

        Args:
            steps: of the whole run.

        Returns:
            As many as `warmup_epochs` have, else `warmup_fraction` of all.
        """
        if self.warmup_epochs is not None:
            return round(steps * self.warmup_epochs / self.epochs)
        return round((0.1 if self.warmup_fraction is None else self.warmup_fraction) * steps)

    @property
    def clips_per_step(self) -> int:
        """Clips of one optimizer step of one process."""
        return self.batch_size * self.gradient_accumulation_steps

    def what_comes_out(self) -> dict:
        """The settings that decide the result, which a resumed run must repeat."""
        return {name: value for name, value in self.as_dict().items() if name not in HOW_NOT_WHAT}
