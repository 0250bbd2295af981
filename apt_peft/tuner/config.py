"""The settings of Attention Prompt Tuning, each checked when the config is made."""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from peft import PeftConfig
from peft.utils import PeftType

from ..errors import ConfigError
from .families import DEFAULT_PATTERNS
from .limits import expression_problem, shortened, size_problems
from .readme import complete

FORMAT_VERSION = 3  # the newest that this version reads; adapters that need none of its additions are saved as 1
MAX_PROMPT_TOKENS = 65_536
MAX_GATE = 1_024
REPARAMETERIZATIONS = ("max", "softplus", "none")


@dataclass
class AttentionPromptConfig(PeftConfig):
    r"""Configuration of Attention Prompt Tuning.

    Args:
        num_prompt_tokens: P, learned keys and values per attention layer, 1 to 65,536. Videos need hundreds.
        num_prompt_tokens_pattern: another P for some layers: regular expressions for the end of a module's name, each with
            its P, for example `{r"layer\.[0-3]\.attention\.attention": 20}`. The first that matches counts.
        prompt_dropout: probability in [0, 1) with which elements of the raw prompts are dropped while training.
        reparameterization: factor on the prompts. "max": max(scale, 1), as published; "softplus": a smooth one, 1 at
            the start; "none": no scale is learned.
        score_bias: each prompt also has a learned bias on its attention score, zero at the start. An addition;
            `add_weighted_adapter` stores the weights of joined adapters in it.
        key_gate: r, learned directions of a layer that score the tokens' own keys; the result joins these tokens' logits,
            zero at the start (see `gate.py`). An addition; 0 for none, as published.
        share_prompts_across_heads: True: one (P, D) tensor for all heads of a layer, as published; False: (H, P, D).
        train_norms: the norms of the blocks that get prompts are trained as well; they join `modules_to_save` by name. An
            addition.
        init_weights: True: uniform, as published; "data": from the backbone's own keys and values, by
            `initialize_prompts_from_data`; False: random at the scale of real keys, with scales around 1.
        target_modules: names (suffixes) or one regular expression for the attention modules. None: every
            self-attention of the encoder of a known architecture. `[]`: none at all, only the head is trained.
        exclude_modules: names or one regular expression for modules to leave out.
        layers_to_transform: indices of the layers that get prompts, with the default target or with names.
        layers_pattern: name of the list of layers, where `layers_to_transform` cannot find it.
        modules_to_save: modules trained and saved in full beside the prompts. None: the model's head (VideoMAE:
            `fc_norm` and `classifier`), nothing where there is none or the architecture is unknown; `[]`: nothing.
        id2label: names of the labels that the head was trained for; filled from the model.
        data_initialized: set by `initialize_prompts_from_data`. A config read from such an adapter counts as carried
            out; set it to False to start another model from data.
        format_version: oldest version of the saved format that can hold the adapter; not to be set by hand.

    Raises:
        ConfigError: a value breaks its rule; all broken rules are listed.

    Source: Bandara & Patel, Attention Prompt Tuning (FG 2024). Softplus, per-head prompts, "data", gates and norms are additions.
    """

    num_prompt_tokens: int = field(default=100, metadata={"help": "Prompt tokens per attention layer."})
    num_prompt_tokens_pattern: dict[str, int] = field(
        default_factory=dict,
        metadata={"help": "Regular expression for the end of a module's name -> its prompt tokens."},
    )
    prompt_dropout: float = field(default=0.1, metadata={"help": "Dropout on the raw prompts while training."})
    reparameterization: Literal["max", "softplus", "none"] = field(
        default="max", metadata={"help": "Factor on the prompts: max(scale, 1), a smooth softplus, or none."}
    )
    score_bias: bool = field(default=False, metadata={"help": "A learned bias on each prompt's attention score."})
    key_gate: int = field(default=0, metadata={"help": "Learned directions that score the tokens' own keys."})
    train_norms: bool = field(default=False, metadata={"help": "Train the norms of the prompted blocks, too."})
    share_prompts_across_heads: bool = field(default=True, metadata={"help": "One set of prompts for all heads."})
    init_weights: bool | Literal["data"] = field(
        default=True, metadata={"help": "True: as published. 'data': from the backbone's keys. False: random."}
    )
    target_modules: list[str] | str | None = field(
        default=None, metadata={"help": "Attention modules: names or a regular expression. [] for the head alone."}
    )
    exclude_modules: list[str] | str | None = field(
        default=None, metadata={"help": "Modules to leave out: names or a regular expression."}
    )
    layers_to_transform: list[int] | int | None = field(
        default=None, metadata={"help": "Indices of the layers that get prompts; all by default."}
    )
    layers_pattern: list[str] | str | None = field(
        default=None, metadata={"help": "Name of the list of layers, where it is not found by itself."}
    )
    modules_to_save: list[str] | None = field(
        default=None, metadata={"help": "Modules trained in full; the model's head by default, [] for none."}
    )
    id2label: dict[int, str] | None = field(
        default=None, metadata={"help": "Names of the labels of the head, filled from the model."}
    )
    data_initialized: bool = field(
        default=False, metadata={"help": "Whether init_weights='data' has been carried out."}
    )
    format_version: int = field(default=1, metadata={"help": "Version of the saved format."})

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = PeftType.ATTENTION_PROMPT  # type: ignore[attr-defined]
        if too_large := list(size_problems(self)):
            raise ConfigError(" ".join(too_large))
        for name in ("target_modules", "exclude_modules"):
            if isinstance(getattr(self, name), set | tuple):
                setattr(self, name, sorted(getattr(self, name)))
        if isinstance(self.layers_to_transform, tuple | set | range):
            self.layers_to_transform = sorted(self.layers_to_transform)
        if isinstance(self.id2label, dict):  # the keys of a JSON file are strings
            self.id2label = {int(k) if str(k).isdecimal() else k: v for k, v in self.id2label.items()}
        if self.num_prompt_tokens_pattern is None:
            self.num_prompt_tokens_pattern = {}
        if (self.num_prompt_tokens_pattern or self.score_bias) and self.format_version == 1:
            self.format_version = 2  # an older apt_peft must not pass over what it does not know
        if self.key_gate and self.format_version in (1, 2):
            self.format_version = 3
        problems = list(self._problems())
        if problems:
            raise ConfigError(" ".join(map(shortened, problems)))

    def save_pretrained(self, save_directory: str, **kwargs: Any) -> None:
        """Save the settings, and add to PEFT's README.md how to load the adapter.

        Args:
            save_directory: folder of the adapter.
            **kwargs: as PEFT passes them.
        """
        super().save_pretrained(save_directory, **kwargs)
        mapping = kwargs.get("auto_mapping_dict") or {}
        in_transformers = str(mapping.get("parent_library", "")).partition(".")[0] == "transformers"
        complete(save_directory, self, mapping["base_model_class"] if in_transformers else None)

    def _problems(self) -> Iterable[str]:
        """Every rule that a value breaks, as a sentence."""
        if not _is_prompt_count(self.num_prompt_tokens):
            yield (
                f"num_prompt_tokens ({self.num_prompt_tokens!r}) must be a whole number from 1 to 65,536. "
                "For a head without prompts, pass target_modules=[]."
            )
        yield from self._pattern_problems()
        if not isinstance(self.score_bias, bool):
            yield f"score_bias ({self.score_bias!r}) must be True or False."
        if not isinstance(self.train_norms, bool):
            yield f"train_norms ({self.train_norms!r}) must be True or False."
        elif self.train_norms and self.target_modules == []:
            yield "train_norms (True) must go with prompts, but target_modules is []. Leave one of them out."
        if not _is_int(self.key_gate) or not 0 <= self.key_gate <= MAX_GATE:
            yield f"key_gate ({self.key_gate!r}) must be a whole number from 0 to {MAX_GATE:,}."
        if not _is_number(self.prompt_dropout) or not 0 <= self.prompt_dropout < 1:
            yield f"prompt_dropout ({self.prompt_dropout!r}) must be a number of at least 0 and below 1."
        if self.reparameterization not in REPARAMETERIZATIONS:
            yield f'reparameterization ({self.reparameterization!r}) must be "max", "softplus" or "none".'
        if not isinstance(self.share_prompts_across_heads, bool):
            yield f"share_prompts_across_heads ({self.share_prompts_across_heads!r}) must be True or False."
        if not (isinstance(self.init_weights, bool) or self.init_weights == "data"):
            yield f'init_weights ({self.init_weights!r}) must be True, False or "data".'
        yield from self._target_problems()
        if self.modules_to_save is not None and not _is_list_of_names(self.modules_to_save):
            yield f"modules_to_save ({self.modules_to_save!r}) must be a list of module names, or None for the model's head."
        labels = self.id2label
        if labels is not None and not (
            isinstance(labels, dict)
            and sorted(map(str, labels)) == sorted(map(str, range(len(labels))))
            and labels
            and all(isinstance(name, str) for name in labels.values())
        ):
            yield f"id2label ({labels!r}) must name the labels 0, 1, 2, ... without gaps."
        if not isinstance(self.data_initialized, bool):
            yield f"data_initialized ({self.data_initialized!r}) must be True or False."
        if not _is_int(self.format_version) or self.format_version < 1:
            yield f"format_version ({self.format_version!r}) must be a whole number from 1 on."
        elif self.format_version > FORMAT_VERSION:
            yield (
                f"format_version ({self.format_version}) must be at most {FORMAT_VERSION} for this version of apt_peft, "
                "but the adapter was saved by a newer one. Run: pip install -U apt-peft"
            )

    def _pattern_problems(self) -> Iterable[str]:
        pattern = self.num_prompt_tokens_pattern
        if not isinstance(pattern, dict) or not all(isinstance(key, str) for key in pattern):
            yield f"num_prompt_tokens_pattern ({pattern!r}) must be a dict of regular expressions and numbers of prompts."
            return
        if wrong := {key: count for key, count in pattern.items() if not _is_prompt_count(count)}:
            yield (
                f"num_prompt_tokens_pattern ({wrong!r}) must give each expression a whole number from 1 to 65,536. "
                "For layers without prompts, pass layers_to_transform."
            )
        for key in pattern:
            if problem := expression_problem(_ending(key)):
                yield f"num_prompt_tokens_pattern ({key!r}) must {problem}"

    def _target_problems(self) -> Iterable[str]:
        if self.target_modules == "all-linear":
            yield (
                'target_modules ("all-linear") must name attention modules, but prompts are keys and values of an '
                "attention, and a Linear has none. Leave target_modules out for all layers of a known model."
            )
        for name in ("target_modules", "exclude_modules", "layers_pattern"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, str) and not _is_list_of_names(value):
                yield f"{name} ({value!r}) must be a list of names or a string."
            elif isinstance(value, str) and name != "layers_pattern" and (problem := expression_problem(value)):
                yield f"{name} ({value!r}) must {problem}"
        patterns = [self.layers_pattern] if isinstance(self.layers_pattern, str) else self.layers_pattern or []
        for pattern in patterns:  # PEFT puts it into an expression
            if isinstance(pattern, str) and (problem := expression_problem(rf"(?:^|.*?\.){pattern}\.\d+\.")):
                yield f"layers_pattern ({pattern!r}) must {problem}"
        layers = self.layers_to_transform
        if layers is None:
            if self.layers_pattern:
                yield "layers_pattern must come with layers_to_transform, but that is None."
            return
        if self.layers_pattern and not isinstance(self.target_modules, list):
            yield (
                f"layers_pattern ({self.layers_pattern!r}) must go with target_modules as a list of names, but the default "
                "target knows its layers. Leave it out."
            )
        indices = layers if isinstance(layers, list) else [layers]
        if not indices or not all(_is_int(index) and index >= 0 for index in indices):
            yield (
                f"layers_to_transform ({layers!r}) must be a layer's index, or a list of at least one, counted from 0. "
                "For a head without prompts, pass target_modules=[]."
            )
        if isinstance(self.target_modules, str) and self.target_modules not in DEFAULT_PATTERNS:
            yield (
                f"layers_to_transform ({layers!r}) must be None when target_modules is a regular expression. "
                "Write the layers into the expression, or pass target_modules as a list."
            )

    @property
    def layer_indices(self) -> list[int] | None:
        """`layers_to_transform` as a list, or None for all layers."""
        return [self.layers_to_transform] if isinstance(self.layers_to_transform, int) else self.layers_to_transform

    def prompt_tokens_of(self, module_name: str) -> int:
        """P of one attention module.

        Args:
            module_name: its full name in the model.

        Returns:
            That of the first expression in `num_prompt_tokens_pattern` that matches, else `num_prompt_tokens`.
        """
        matching = (count for key, count in self.num_prompt_tokens_pattern.items() if ends_with(module_name, key))
        return next(matching, self.num_prompt_tokens)


def ends_with(module_name: str, expression: str) -> bool:
    """Whether the end of a module's name, from a dot on, matches: as PEFT reads `rank_pattern`."""
    return re.fullmatch(_ending(expression), module_name) is not None


def _ending(expression: str) -> str:
    return rf"(?:.*\.)?(?:{expression})"


def _is_prompt_count(value: Any) -> bool:
    return _is_int(value) and 1 <= value <= MAX_PROMPT_TOKENS


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_list_of_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) and name for name in value)
