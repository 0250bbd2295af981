"""What PEFT's tests are given in place of their own: our config in several settings, and models with attention."""

import os
from types import SimpleNamespace
from typing import NamedTuple

import torch
import torch.nn as nn
from models import videomae_config
from transformers import VideoMAEForVideoClassification, VideoMAEModel
from transformers.models.videomae.modeling_videomae import VideoMAESelfAttention

FULL = os.environ.get("PEFT_SUITE") == "full"


class Case(NamedTuple):
    """Settings of our config, and the model to try them on."""

    name: str
    settings: dict
    model: str
    quick: bool = False  # tried in every run, not only in the full one


_P5 = {"num_prompt_tokens": 5}
_NO_HEAD = {**_P5, "modules_to_save": []}
_NAMED = {**_P5, "target_modules": ["attention.attention"]}
_REGEX = r".*encoder\.layer\.[12]\.attention\.attention"

_ALL_CASES = [
    Case("default", {}, "VideoMAE", quick=True),
    Case("no head", _NO_HEAD, "VideoMAE"),
    Case("modules_to_save", {**_P5, "modules_to_save": ["classifier"]}, "VideoMAE"),
    Case("list", {**_NAMED, "modules_to_save": []}, "VideoMAE"),
    Case("regex", {**_NO_HEAD, "target_modules": _REGEX}, "VideoMAE"),
    Case("dropout", {**_NO_HEAD, "prompt_dropout": 0.5}, "VideoMAE"),
    Case("softplus", {**_NO_HEAD, "reparameterization": "softplus"}, "VideoMAE", quick=True),
    Case("none", {**_NO_HEAD, "reparameterization": "none"}, "VideoMAE"),
    Case("per head", {**_NO_HEAD, "share_prompts_across_heads": False}, "VideoMAE"),
    Case("default", _P5, "RecognizerWithConfig"),
    Case("modules_to_save", {**_NAMED, "modules_to_save": ["head"]}, "Recognizer", quick=True),
    Case("list", _NAMED, "Recognizer"),
    Case("regex", {**_P5, "target_modules": _REGEX}, "Recognizer", quick=True),
    Case("dropout", {**_NAMED, "prompt_dropout": 0.5}, "Recognizer"),
    Case("softplus", {**_NAMED, "reparameterization": "softplus"}, "Recognizer"),
    Case("none", {**_NAMED, "reparameterization": "none"}, "Recognizer"),
    Case("per head", {**_NAMED, "share_prompts_across_heads": False}, "Recognizer"),
]
CASES = [case for case in _ALL_CASES if FULL or case.quick]


class Inputs(dict):
    """Inputs that their tests pass as `**inputs`, and look up under the name that text models use."""

    def __missing__(self, key: str) -> torch.Tensor:
        if key == "input_ids":
            return next(iter(self.values()))
        raise KeyError(key)


class SavedModels:
    """Gives a saved VideoMAE a name as on the Hub; that of a folder does not go into a model card.

    Args:
        kind: class to load it as.
        folder: where it is.
    """

    NAME = "tiny/videomae"

    def __init__(self, kind: type[VideoMAEForVideoClassification], folder: str) -> None:
        self.kind = kind
        self.folder = folder

    def from_pretrained(self, model_id: str, **kwargs) -> VideoMAEForVideoClassification:
        model = self.kind.from_pretrained(self.folder if model_id == self.NAME else model_id, **kwargs)
        model.name_or_path = model.config._name_or_path = model_id
        return model


class SpeaksLikeText(VideoMAEForVideoClassification):
    """A VideoMAE for tests that take every transformers model for a text model and look at what it generates.

    Clips come in as `input_ids`, and what it "generates" are its logits.
    """

    def forward(self, input_ids: torch.Tensor, **kwargs):
        return super().forward(input_ids, **kwargs)

    def generate(self, input_ids: torch.Tensor, **kwargs) -> SimpleNamespace:
        return SimpleNamespace(scores=(self(input_ids).logits,))


class Recognizer(nn.Module):
    """A custom model around a VideoMAE, with a head that no table knows."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = VideoMAEModel(videomae_config())
        self.norm = nn.LayerNorm(32)
        self.head = nn.Linear(32, 3)

    def forward(self, X: torch.Tensor) -> torch.Tensor:
        hidden = self.backbone(X.to(self.norm.weight.dtype)).last_hidden_state.mean(1)
        return torch.log_softmax(self.head(self.norm(hidden)), dim=-1)


class RecognizerWithConfig(Recognizer):
    """The same with the config of its backbone, by which the default targets are found."""

    base_model_prefix = "backbone"  # transformers looks for it on all that has a config

    def __init__(self) -> None:
        super().__init__()
        self.config = self.backbone.config
        self.name_or_path = self.config._name_or_path = "RecognizerWithConfig"


class CustomModels:
    """In place of their MockTransformerWrapper: the same weights whenever a model is asked for."""

    @classmethod
    def from_pretrained(cls, model_id: str, dtype: torch.dtype | None = None) -> nn.Module:
        torch.manual_seed(0)
        kinds = {kind.__name__: kind for kind in (Recognizer, RecognizerWithConfig)}
        return kinds[model_id]().to(dtype or torch.float32)


def _attention() -> nn.Module:
    return VideoMAESelfAttention(videomae_config(hidden_size=16, attn_implementation="sdpa"))


class MLP(nn.Module):
    """In place of their MLP: `lin0` and `lin2` are attentions. The first ten numbers of a sample become tokens."""

    def __init__(self, bias: bool = True) -> None:
        super().__init__()
        self.embed = nn.Linear(1, 16)
        self.lin0 = _attention()
        self.lin2 = _attention()
        self.lin1 = nn.Linear(16, 2, bias=bias)

    def forward(self, X: torch.Tensor) -> torch.Tensor:
        tokens = self.embed((X.float().flatten(1)[:, :10] / 90).unsqueeze(-1))
        tokens = tokens + self.lin0(tokens)[0]
        tokens = tokens + self.lin2(tokens)[0]
        return torch.log_softmax(self.lin1(tokens.mean(1)), dim=-1)


class Block(nn.Module):
    """One layer of DeepMLP."""

    def __init__(self) -> None:
        super().__init__()
        self.lin0 = _attention()
        self.lin1 = nn.Linear(16, 16)


class DeepMLP(nn.Module):
    """In place of their DeepMLP, which is never called: `lin0` of every layer is an attention."""

    def __init__(self, bias: bool = True, num_hidden_layers: int = 4, size: int = 16) -> None:
        super().__init__()
        self.layers = nn.ModuleList([Block() for _ in range(num_hidden_layers)])
