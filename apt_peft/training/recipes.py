"""Recipes: frozen tables of settings under a name, one for each published run. A recipe gives defaults; flags override it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any

from apt_peft.presets import PRESETS
from apt_peft.settings import plain

PUBLISHED, DESIGNED = "published", "designed here"
PAPER = "Bandara and Patel, Attention Prompt Tuning, FG 2024, arXiv 2403.06978"


@dataclass(frozen=True)
class Backbone:
    """What a recipe's backbone is like, by the names of transformers' VideoMAE config."""

    name: str
    hidden_size: int
    num_hidden_layers: int = 12
    patch_size: int = 16
    tubelet_size: int = 2


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One run that somebody made and told.

    Args:
        name: for `--recipe`.
        kind: `published`, or `designed here` by measurements that `source` names.
        source: where it comes from.
        data_set: that it is for.
        settings: values of `TrainSettings` by their names; what is not in it keeps its default.
        classes: of the data set, None for any number.
        backbone: that it is for, None for any.
    """

    name: str
    kind: str
    source: str
    data_set: str
    settings: Mapping[str, Any]
    classes: int | None = None
    backbone: Backbone | None = None

    @property
    def clips_per_step(self) -> int | None:
        """Clips of one optimizer step over all processes, None where the recipe leaves it open."""
        batch = self.settings.get("batch_size")
        return None if batch is None else batch * self.settings.get("gradient_accumulation_steps", 1)

    def as_dict(self) -> dict[str, Any]:
        """All of it as JSON can hold it."""
        return {
            "name": self.name,
            "kind": self.kind,
            "source": self.source,
            "data_set": self.data_set,
            "classes": self.classes,
            "backbone": None if self.backbone is None else asdict(self.backbone),
            "settings": plain(self.settings),
        }


SMALL, BASE = Backbone("ViT-S", 384), Backbone("ViT-B", 768)
DATA_SETS = {
    "ucf101": ("UCF101", 101),
    "hmdb51": ("HMDB51", 51),
    "ssv2": ("Something-Something V2", 174),
    "kinetics400": ("Kinetics-400", 400),
}

COMMON: dict[str, Any] = {
    "num_frames": 16,
    "size": 224,
    "resize": "crop",
    "mean": (0.485, 0.456, 0.406),
    "std": (0.229, 0.224, 0.225),
    "augment": "flip",
    "flip": True,
    "rand_augment": "rand-m4-n2-mstd0.2-inc1",
    "random_resized_crop": True,
    "augment_resolution": "full",
    "repeated_augmentation": 2,
    "epochs": 100,
    "gradient_accumulation_steps": 1,
    "drop_last": True,
    # The published runs hold nothing out: the last epoch is kept, or the best one where there is a validation list.
    "val_fraction": 0.0,
    "lr_rule": "published",
    "min_lr": 1e-6,
    "warmup_start_lr": 1e-6,
    "warmup_epochs": 10.0,
    "weight_decay": 1e-5,
    "label_smoothing": 0.1,
    "mixup": 0.0,
    "random_erasing": 0.0,
    "max_grad_norm": 0.0,
    "bf16": False,
    "fp16": True,
}
PROMPTS: dict[str, Any] = {
    "method": "apt",
    "prompt_dropout": 0.1,
    "reparameterization": "max",
    "share_prompts_across_heads": True,
    "init_weights": "published",
    "layers_to_transform": tuple(range(12)),
    "lr": 0.05,
}
# A head alone: its rate is the only one.
LINEAR: dict[str, Any] = {"method": "linear", "head_lr": 0.01}
CLIPS: dict[str, dict[str, Any]] = {
    "ucf101": {"sampling": "dense", "frame_stride": 4, "segments": 5, "crops": 3},
    "hmdb51": {"sampling": "dense", "frame_stride": 4, "segments": 10, "crops": 3},
    "ssv2": {"sampling": "uniform", "segments": 2, "crops": 3, "flip": False},
    "kinetics400": {"sampling": "dense", "frame_stride": 4, "segments": 5, "crops": 3},
}


def _published(name: str, backbone: Backbone, clips_per_step: int, prompts: int | None = 400, **more: Any) -> Recipe:
    """A line of the published table.

    Args:
        name: of the recipe; its first word is the data set.
        backbone: ViT-S or ViT-B.
        clips_per_step: over all processes.
        prompts: of each layer, None for the head alone.
        **more: what differs from the other lines.
    """
    data_set = name.partition("-")[0]
    method = LINEAR if prompts is None else PROMPTS | {"num_prompt_tokens": prompts}
    title, classes = DATA_SETS[data_set]
    return Recipe(
        name=name,
        kind=PUBLISHED,
        source=PAPER,
        data_set=title,
        classes=classes,
        backbone=backbone,
        settings=MappingProxyType(method | COMMON | CLIPS[data_set] | {"batch_size": clips_per_step} | more),
    )


# The preset at a tenth of its rate, on all clips: of a dozen tries the best on folds of both sets, docs/recipes.md.
OWN_CLIPS: Mapping[str, Any] = MappingProxyType(
    PRESETS["best"].settings
    | {
        "sampling": "even",
        "augment": "crop",
        "val_fraction": 0.0,
        "epochs": 20,
        "batch_size": 8,
        "lr": 0.01,
        "weight_decay": 1e-5,
        "label_smoothing": 0.1,
    }
)

RECIPES: Mapping[str, Recipe] = MappingProxyType(
    {
        recipe.name: recipe
        for recipe in (
            _published("ucf101-vit-small-p400", SMALL, 64),
            _published("ucf101-vit-small-p400-batch48", SMALL, 48),
            _published("ucf101-vit-base-p400", BASE, 64, epochs=50),
            _published("ucf101-vit-base-p1", BASE, 48, 1),
            _published("ucf101-vit-base-linear", BASE, 16, None),
            _published("hmdb51-vit-small-p400", SMALL, 64),
            _published("hmdb51-vit-small-p400-lr0.01", SMALL, 48, lr=0.01),
            _published("hmdb51-vit-base-p400", BASE, 64),
            _published("hmdb51-vit-base-p100", BASE, 40, 100),
            _published("ssv2-vit-small-p400", SMALL, 128),
            _published("ssv2-vit-small-p400-no-reparameterization", SMALL, 96, reparameterization="none"),
            _published("ssv2-vit-base-p2", BASE, 64, 2),
            _published("ssv2-vit-base-p2-batch48", BASE, 48, 2),
            _published("kinetics400-vit-small-p400", SMALL, 64),
            _published("kinetics400-vit-small-p400-batch48", SMALL, 48),
            _published("kinetics400-vit-base-p400", BASE, 64),
            _published("kinetics400-vit-base-p400-batch48", BASE, 48),
            Recipe(
                name="own-clips",
                kind=DESIGNED,
                source="chosen on folds of training splits, docs/recipes.md",
                data_set="clips of your own",
                settings=OWN_CLIPS,
            ),
        )
    }
)
