"""Where the frozen part of a classifier ends and the trained head begins: found by watching one forward pass.

No table of architectures: whatever runs as a chain (frozen backbone, then trained module after trained module, then the
logits) has a seam, and what goes into the first of them can be stored in place of the clip.
"""

from dataclasses import dataclass
from typing import Any

import torch
from peft.utils.other import ModulesToSaveWrapper
from torch import Tensor, nn
from transformers.modeling_outputs import ImageClassifierOutput

from apt_peft.errors import ConfigError

# Difference of features, in parts of their size, that rounding may make between two forwards of the same clips.
ROUNDING = 1e-4


@dataclass(frozen=True)
class Seam:
    """What a model trains, as a chain.

    Args:
        modules: the trained modules in the order of the forward, each fed with what the one before gives.
        rows: rows that the first of them sees of a clip: 1, or the frames where a model classifies each by itself.
        numbers: how many numbers go into the first of them for a clip.
    """

    modules: tuple[nn.Module, ...]
    rows: int
    numbers: int

    @torch.no_grad()
    def features(self, model: nn.Module, clips: Tensor) -> Tensor:
        """What goes into the first trained module.

        Args:
            model: whose seam this is.
            clips: (n, T, C, height, width).

        Returns:
            (n, ...), or (n, rows, ...), in the dtype that it has there.
        """
        seen: list[Tensor] = []
        with self.modules[0].register_forward_pre_hook(lambda _, args: seen.append(args[0].detach())):
            model(clips)
        return seen[0].unflatten(0, (len(clips), self.rows)) if self.rows > 1 else seen[0]

    def logits(self, features: Tensor) -> Tensor:
        """What the trained modules make of features.

        Args:
            features: as `features` gives them.

        Returns:
            The logits as the model gives them.
        """
        value: Any = features.flatten(0, 1) if self.rows > 1 else features
        for module in self.modules:
            value = _first(module(value))
        return value


def find_seam(model: Any, clips: Tensor) -> Seam:
    """Look for the seam of a model.

    Args:
        model: a `PeftModel` whose head alone is trained; its mode and torch's random state stay as they were.
        clips: two or more clips of any content, (n, T, C, height, width).

    Returns:
        The seam.

    Raises:
        ConfigError: there is none: something else is trained, the trained modules are no chain, or the frozen part
            draws at random in training.
    """
    heads = {name: m for name, m in model.named_modules() if isinstance(m, ModulesToSaveWrapper)}
    loose = [
        name
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and not any(name.startswith(f"{head}.") for head in heads)
    ]
    if loose or not heads:
        shown = ", ".join(loose[:3]) + (f" and {len(loose) - 3} more" if len(loose) > 3 else "")
        raise _no_seam(f"it trains {shown or 'no head'}")
    calls: list[tuple[nn.Module, tuple, dict, Any]] = []
    hooks = [
        module.register_forward_hook(lambda *call: calls.append(call), with_kwargs=True) for module in heads.values()
    ]
    was_training = model.training
    try:
        model.eval()
        with torch.no_grad():
            logits = model(clips).logits
    finally:
        for hook in hooks:
            hook.remove()
        model.train(was_training)
    names = {module: name.rpartition("base_model.model.")[2] for name, module in heads.items()}
    order = [names[module] for module, *_ in calls]
    if sorted(order) != sorted(names.values()):
        raise _no_seam(f"of the trained modules {sorted(names.values())} a forward pass calls {order}")
    links = [_first(output) for *_, output in calls]
    for (module, args, kwargs, _), before in zip(calls, [None, *links[:-1]], strict=True):
        tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
        if len(tensors) != 1 or not args or tensors[0] is not args[0]:
            raise _no_seam(f"{names[module]} takes {len(tensors)} tensors")
        if before is not None and tensors[0] is not before:
            raise _no_seam(f"{names[module]} is not fed with what {order[order.index(names[module]) - 1]} gives")
    if logits is not links[-1]:
        raise _no_seam(f"its logits are not what {order[-1]} gives")
    entering = calls[0][1][0]
    length = len(entering)
    if length % len(clips):
        raise _no_seam(f"{order[0]} sees {length} rows of {len(clips)} clips")
    seam = Seam(tuple(module for module, *_ in calls), length // len(clips), entering.numel() // len(clips))
    _see_that_nothing_is_drawn(model, seam, clips)
    return seam


def take_features(model: Any, seam: Seam) -> None:
    """Make a model take features where it took clips; from now on its forward is that of its head.

    Args:
        model: a `PeftModel`, changed in place.
        seam: its seam.
    """
    base = model.get_base_model()
    name = base.main_input_name

    def forward(features: Tensor | None = None, **inputs: Any) -> ImageClassifierOutput:
        given = inputs[name] if features is None else features
        return ImageClassifierOutput(logits=seam.logits(given))  # type: ignore[arg-type]

    base.forward = forward


def _see_that_nothing_is_drawn(model: Any, seam: Seam, clips: Tensor) -> None:
    was_training = model.training
    try:
        still = seam.features(model.eval(), clips)
        with torch.random.fork_rng(devices=[clips.device] if clips.device.type == "cuda" else []):
            moving = seam.features(model.train(), clips)
    finally:
        model.train(was_training)
    difference = float((moving.float() - still.float()).abs().max() / still.float().abs().max().clamp_min(1e-12))
    if not difference <= ROUNDING:
        raise _no_seam(
            "its frozen part draws at random in training (dropout, or paths that are dropped)",
            "Set these to 0 in its config",
        )


def _first(output: Any) -> Any:
    return output[0] if isinstance(output, tuple) else output


def _no_seam(reason: str, remedy: str = "Leave it out") -> ConfigError:
    return ConfigError(
        f"feature_cache must go with a model that is a frozen part and then trained modules in a row, but {reason}. {remedy}."
    )
