"""Checks of the stored weights: names and shapes against the config, then one pass over the numbers."""

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch

from ..checkpoints.reading import listing
from ..tuner.families import fold_names
from .config import grid, is_query_or_value_bias
from .findings import Finding, Mend
from .patient import Loading, Patient

LAYER = re.compile(r"^(?P<list>(?:.*\.)?(?:layers?|\w+_layers))\.(?P<index>\d+)\.(?P<rest>.+)$")
# What a pre-training checkpoint of VideoMAE holds beside its encoder, and what transformers computes itself.
EXPECTED_REST = re.compile(
    r"(?:^|\.)(?:decoder|encoder_to_decoder|mask_token|layernorm|position_embeddings|pooler)(?:\.|$)"
)
PATCH_KERNEL = re.compile(r"patch_embeddings.*projection\.weight$|patch_embeddings\.proj\.weight$")
POSITIONS = re.compile(r"position_embeddings?(?:\.weight)?$")
KEY_BIAS = re.compile(r"\.attention\.attention\.key\.bias$")
# Biases are drawn as zeros, or by SigLIP with a deviation of 1e-6.
DRAWN_BIAS = 1e-5
# Its norms multiply by 1 + weight, so that zero is what others call one.
AROUND_ZERO = ("videoprism", "videoprism_vision_model")


class Stats(NamedTuple):
    """A stored tensor in a few numbers."""

    shape: tuple[int, ...]
    finite: bool
    low: float
    high: float
    deviation: float

    @property
    def largest(self) -> float:
        """Largest absolute value."""
        return max(abs(self.low), abs(self.high))


Layers = dict[tuple[str, int], dict[str, Stats]]  # (list of layers, index) -> name in the layer -> numbers


def statistics(patient: Patient) -> dict[str, Stats]:
    """Read every stored tensor that the model uses once, one at a time.

    Args:
        patient: the model.

    Returns:
        Name -> numbers.
    """
    assert patient.weights is not None
    found = {}
    for name in patient.used():
        tensor = patient.weights[name]
        if not tensor.is_floating_point() or tensor.numel() == 0:
            continue
        values = tensor.float()
        low, high = (float(value) for value in values.aminmax())  # NaN where one is
        deviation = float(values.std()) if values.numel() > 1 else 0.0
        finite = bool(torch.isfinite(torch.tensor([low, high])).all())
        found[name] = Stats(tuple(tensor.shape), finite, low, high, deviation)
    return found


def by_layer(found: dict[str, Stats]) -> Layers:
    """Group tensors by the layer that they are in; those outside layers are left out."""
    layers: Layers = {}
    for name, stats in found.items():
        if match := LAYER.match(name):
            layers.setdefault((match["list"], int(match["index"])), {})[match["rest"]] = stats
    return layers


def check_names(patient: Patient) -> Iterator[Finding]:
    """Stored names and shapes against those that the config gives.

    Args:
        patient: the model.

    Yields:
        Findings.
    """
    loading = patient.loading
    if loading is None or patient.weights is None:
        return
    mismatched = dict(loading.mismatched)
    yield from _kernel(patient, mismatched)
    tables = [name for name in mismatched if POSITIONS.search(name)]
    for name in tables:
        stored, wanted = mismatched.pop(name)
        yield Finding("position-table", f"{name} is stored as {list(stored)}, the config gives {list(wanted)}")
    missing, left_over = list(loading.missing), list(loading.left_over)
    count = _layer_count(patient)
    if count is not None:
        known, whole = count
        outside = lambda name: (match := LAYER.match(name)) and int(match["index"]) >= min(known, whole)  # noqa: E731
        missing = [name for name in missing if not outside(name)]
        left_over = [name for name in left_over if not outside(name)]
        yield Finding(
            "layer-count",
            f"num_hidden_layers is {known}, and {whole} layers are stored",
            Mend(config={"num_hidden_layers": whole}),
        )
    if patient.model_type == "videomae":
        # not those whose matrix is missing with them
        biases = [n for n in missing if is_query_or_value_bias(n) and n.removesuffix("bias") + "weight" not in missing]
        missing = [name for name in missing if name not in biases]
        if biases:
            yield Finding("qv-bias-lost", f"not stored: {listing(fold_names(biases))}")
        elif not patient.config.qv_bias and not any(map(is_query_or_value_bias, patient.weights)):
            yield Finding("qv-bias-lost", "qv_bias is false, and none are stored")
        left_over = [name for name in left_over if not KEY_BIAS.search(name) and not EXPECTED_REST.search(name)]
        if not patient.config.qv_bias:
            left_over = [name for name in left_over if not is_query_or_value_bias(name)]
    if missing:
        text = f"{len(missing)} of them: {listing(fold_names(missing))}"
        # stored under other names, most likely: one fault, not two
        text += f"; stored without a place: {listing(fold_names(left_over))}" if left_over else ""
        yield Finding("tensors-missing", text)
    elif left_over:
        yield Finding("tensors-left-over", f"{len(left_over)} of them: {listing(fold_names(left_over))}")
    if mismatched:
        shown = [f"{name} {list(stored)}, not {list(wanted)}" for name, (stored, wanted) in mismatched.items()]
        yield Finding("shapes-disagree", listing(shown, 5))
    yield from _head(patient, loading)


def check_numbers(patient: Patient) -> Iterator[Finding]:
    """What the stored numbers show.

    Args:
        patient: the model.

    Yields:
        Findings; of layers that are untrained nothing else is said.
    """
    if patient.weights is None or patient.loading is None:
        return
    found = statistics(patient)
    if odd := [name for name, stats in found.items() if not stats.finite]:
        yield Finding("not-finite", f"{len(odd)} tensors: {listing(odd, 5)}")
    layers = by_layer(found)
    neutral = 0.0 if patient.model_type in AROUND_ZERO else 1.0
    fresh = [place for place, tensors in layers.items() if _is_drawn(tensors, neutral)]
    if fresh:
        yield Finding("untrained", _drawn(patient, layers, fresh))
    trained = {place: tensors for place, tensors in layers.items() if place not in fresh}
    if not trained:
        return
    yield from _zeros(found, fresh, norms=neutral != 0)
    if pairs := list(_twins(patient, trained)):
        yield Finding("layers-duplicated", "; ".join(f"{a} and {b}" for a, b in pairs))
    if patient.model_type == "videomae":
        yield from _query_and_value_biases(trained)
        yield from _key_biases(patient)


def _kernel(patient: Patient, mismatched: dict[str, tuple[tuple[int, ...], tuple[int, ...]]]) -> Iterator[Finding]:
    """A patch kernel of other sizes than the config's; its last axes are the sizes themselves."""
    name = next((name for name in mismatched if PATCH_KERNEL.search(name)), None)
    if name is None:
        return
    stored, wanted = mismatched[name]
    if stored[0] != wanted[0] or len(stored) != len(wanted):  # another width: that of another model
        return
    del mismatched[name]
    mend = None
    if len(stored) == 5 and stored[3] == stored[4] and isinstance(getattr(patient.config, "patch_size", None), int):
        mend = Mend(config={"num_channels": stored[1], "tubelet_size": stored[2], "patch_size": stored[3]})
    tubelet, patch = grid(patient.config)
    yield Finding(
        "patch-kernel",
        f"the kernel is {list(stored)} (width, channels, frames, height, width), the config has tubelets of {tubelet} and "
        f"patches of {patch[0]} x {patch[1]}",
        mend,
    )


def _layer_count(patient: Patient) -> tuple[int, int] | None:
    """Layers of the config and stored layers, where these differ and the stored ones are whole."""
    known = getattr(patient.config, "num_hidden_layers", None)
    assert patient.weights is not None
    lists: dict[str, set[int]] = {}
    for name in patient.weights:
        if (match := LAYER.match(name)) and match["list"].endswith(("encoder.layer", "vit.layers", "vivit.layers")):
            lists.setdefault(match["list"], set()).add(int(match["index"]))
    lists = {name: indices for name, indices in lists.items() if "decoder" not in name and "predictor" not in name}
    if known is None or len(lists) != 1:
        return None
    indices = next(iter(lists.values()))
    if indices != set(range(len(indices))) or len(indices) == known:
        return None
    return known, len(indices)


def _head(patient: Patient, loading: Loading) -> Iterator[Finding]:
    """A classifier that is stored, and whether it fits the config and has its norm."""
    assert patient.weights is not None
    if not patient.is_video or "classifier.weight" not in patient.weights:
        return
    rows = patient.weights.shape("classifier.weight")[0]
    if rows != patient.config.num_labels:
        yield Finding("head-shape", f"the config has {patient.config.num_labels} labels, the stored classifier {rows}")
    elif patient.model_type == "videomae" and "fc_norm.weight" in loading.head_missing:
        yield Finding("fc-norm-missing", f"a classifier of {rows} labels is stored, fc_norm is not")
    else:
        names = [str(name) for name in patient.config.id2label.values()]
        yield Finding("head-present", f"a classifier of {rows} labels is stored: {listing(names, 5)}")


def _is_drawn(tensors: dict[str, Stats], neutral: float) -> bool:
    """Whether a layer is as transformers draws it: no training leaves every norm at one and every bias at zero."""
    norms = [stats for name, stats in tensors.items() if _is_norm(name) and name.endswith("weight")]
    biases = [stats for name, stats in tensors.items() if name.endswith("bias") and "relative" not in name]
    return (
        bool(norms)
        and all(stats.low == stats.high == neutral for stats in norms)
        and all(stats.largest <= DRAWN_BIAS for stats in biases)
    )


def _is_norm(name: str) -> bool:
    return "norm" in name.rpartition(".")[0].rpartition(".")[2].lower()


def _drawn(patient: Patient, layers: Layers, fresh: Sequence[tuple[str, int]]) -> str:
    which = "all" if len(fresh) == len(layers) else listing(f"{name}.{index}" for name, index in fresh)
    deviations = [stats.deviation for place in fresh for name, stats in layers[place].items() if len(stats.shape) > 1]
    text = f"{len(fresh)} of {len(layers)} layers ({which})"
    if deviations:
        text += f"; their matrices have deviations from {min(deviations):.4f} to {max(deviations):.4f}"
        if (drawn := getattr(patient.config, "initializer_range", None)) is not None:
            text += f", initializer_range is {drawn:g}"
    return text


def _zeros(found: dict[str, Stats], fresh: Sequence[tuple[str, int]], norms: bool) -> Iterator[Finding]:
    """Matrices and norms of layers, and the patch kernel, that are zero all over."""
    zero = []
    for name, stats in found.items():
        match = LAYER.match(name)
        if match and (match["list"], int(match["index"])) in fresh:
            continue
        matters = PATCH_KERNEL.search(name) or (match and (len(stats.shape) > 1 or (norms and _is_norm(name))))
        if matters and name.endswith("weight") and stats.low == stats.high == 0:
            zero.append(name)
    if zero:
        yield Finding("zeros", f"{len(zero)} tensors: {listing(fold_names(zero), 5)}")


def _twins(patient: Patient, layers: Layers) -> Iterator[tuple[str, str]]:
    """Pairs of layers of one list whose matrices are equal, each layer with the first like it."""
    assert patient.weights is not None
    first: dict[tuple, tuple[str, int]] = {}
    for (name, index), tensors in layers.items():
        matrices = sorted(rest for rest, stats in tensors.items() if len(stats.shape) > 1)
        if not matrices or all(tensors[rest].deviation == 0 for rest in matrices):
            continue
        key = (name, *((rest, tensors[rest]) for rest in matrices))
        if key not in first:
            first[key] = (name, index)
            continue
        other = first[key]
        if all(
            torch.equal(patient.weights[f"{name}.{index}.{rest}"], patient.weights[f"{other[0]}.{other[1]}.{rest}"])
            for rest in matrices
        ):
            yield f"{other[0]}.{other[1]}", f"{name}.{index}"


def _query_and_value_biases(layers: Layers) -> Iterator[Finding]:
    """Biases that VideoMAE trains, and that a conversion left at zero."""
    lost = {}
    for (name, index), tensors in layers.items():
        zero = [rest for rest, stats in tensors.items() if is_query_or_value_bias(f".{rest}") and stats.largest == 0]
        if zero:
            lost[f"{name}.{index}"] = zero
    if lost:
        kinds = sorted({rest.rpartition("attention.")[2] for zero in lost.values() for rest in zero})
        yield Finding(
            "qv-bias-lost", f"{' and '.join(kinds)} are zero in {len(lost)} of {len(layers)} layers: {listing(lost, 5)}"
        )


def _key_biases(patient: Patient) -> Iterator[Finding]:
    assert patient.weights is not None
    names = [name for name in patient.weights if KEY_BIAS.search(name)]
    largest = max((float(patient.weights[name].float().abs().max()) for name in names), default=0.0)
    if largest > 0:
        yield Finding(
            "key-bias",
            f"{len(names)} are stored, the largest value is {largest:.3g}",
            Mend(without_tensors=tuple(names)),
        )
