"""Presets: which prompts, with which additions, and how fast they learn, under a name. The default is the published method.

A recipe is a whole run for a data set; a preset is the method's part of a run, and may stand over a recipe.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from apt_peft.settings import check_known

if TYPE_CHECKING:
    from apt_peft.tuner import AttentionPromptConfig


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A variant of attention prompts that was chosen by measurement.

    Args:
        name: for `--preset`.
        source: the page with the measurements.
        config: values of `AttentionPromptConfig` by their names.
        training: values of `TrainSettings` beside them.
    """

    name: str
    source: str
    config: Mapping[str, Any]
    training: Mapping[str, Any]

    @property
    def settings(self) -> dict[str, Any]:
        """All of it as values of `TrainSettings`."""
        return {"method": "apt", **self.config, **self.training}


PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        preset.name: preset
        for preset in (
            Preset(
                name="best",
                source="docs/science.md",
                config=MappingProxyType(
                    {
                        "num_prompt_tokens": 4,
                        "prompt_dropout": 0.0,
                        "reparameterization": "max",
                        "key_gate": 15,
                        "train_norms": True,
                        "share_prompts_across_heads": True,
                        "init_weights": "data",
                    }
                ),
                training=MappingProxyType({"lr_rule": "absolute", "lr": 0.1, "head_lr": 0.01}),
            ),
        )
    }
)


def preset_of(name: str) -> Preset:
    """A preset by its name.

    Args:
        name: a key of `PRESETS`.

    Returns:
        The preset.

    Raises:
        ConfigError: there is none of that name.
    """
    check_known("preset", name, PRESETS)
    return PRESETS[name]


def preset_config(name: str, **more: Any) -> "AttentionPromptConfig":
    """The config of a preset, for `get_peft_model`.

    Args:
        name: a key of `PRESETS`.
        **more: settings of `AttentionPromptConfig`, which stand over those of the preset.

    Returns:
        A new config. One that starts from data needs `initialize_prompts_from_data` before the first forward.

    Raises:
        ConfigError: there is no such preset, or a value breaks its rule.
    """
    from apt_peft.tuner import AttentionPromptConfig

    return AttentionPromptConfig(**{**preset_of(name).config, **more})
