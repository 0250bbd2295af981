"""Bytes that autograd saves: against sums by hand and real runs, and nothing below the first prompted layer."""

import pytest
import torch
import torch.nn as nn
from torch.autograd.graph import Node

from apt_peft.cost.arithmetic import Shapes
from apt_peft.cost.contenders import Contender, build, example
from apt_peft.cost.memory import saved_by, saved_bytes

TINY = Shapes(hidden=32, layers=4, heads=2, mlp=64, image=(32, 32), patch=(16, 16), frames=4, labels=3)
FLOAT = 4
CASES = [
    Contender("linear"),
    Contender("full"),
    Contender("apt", 5),
    Contender("apt", 5, (2, 3)),
    Contender("published", 5),
    Contender("vpt-deep", 5),
    Contender("lora", 2),
    Contender("adaptformer", 3),
    Contender("vpt-shallow", 5),
    Contender("bitfit"),
    Contender("ln"),
    Contender("ia3"),
    Contender("partial", 2),
]


def test_a_sum_by_hand():
    layers = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3))
    inputs = {"input": torch.randn(11, 5)}
    for without_numbers in (False, True):
        # the input of the first, and the ReLU's output, which the second keeps too
        assert saved_by(layers, inputs, without_numbers=without_numbers).total == FLOAT * 11 * (5 + 7)
    layers[0].requires_grad_(False)
    assert saved_by(layers, inputs).total == FLOAT * 11 * 7
    layers[2].requires_grad_(False)
    assert saved_by(layers, inputs).total == 0


@pytest.mark.parametrize("contender", CASES, ids=lambda contender: contender.label)
def test_shapes_alone_tell_what_a_real_step_keeps(contender):
    torch.manual_seed(0)
    model, inputs = build(contender, TINY), example(TINY, batch=3)
    real, counted = saved_by(model, inputs), saved_bytes(contender, TINY, batch=3)
    assert real.total > 0
    assert (counted.total, counted.by_module, counted.by_layer) == (real.total, real.by_module, real.by_layer)


def test_it_leaves_the_model_as_it_was():
    model, inputs = build(Contender("apt", 5), TINY), example(TINY, batch=2)
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    saved_by(model, inputs, without_numbers=True)
    assert all(torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    model(**inputs).loss.backward()


def test_half_precision_keeps_half_and_a_batch_in_proportion():
    one, two = (saved_bytes(Contender("apt", 2), TINY, batch=batch).total for batch in (4, 8))
    assert 1.8 < two / one < 2
    half = saved_bytes(Contender("apt", 2), TINY, batch=4, dtype="bfloat16").total
    assert 0.5 <= half / one < 0.65  # statistics of norms, and prompts, stay in float32


def test_the_published_design_keeps_the_weights_of_the_attention_and_ours_what_computes_them_anew():
    wide = TINY.changed(image=128)
    ours, theirs = (saved_bytes(Contender(method, 5), wide).total for method in ("apt", "published"))
    n, h = wide.tokens, wide.hidden
    weights = wide.layers * wide.heads * n * (n + 5)
    fused = wide.layers * (n * h + wide.heads * n)  # our outputs, and a logarithm for each query and head
    # keys and values that they join: a copy of the prompts for each clip and head; in the first layer, where queries need
    # no gradient, they keep the values alone, and we neither
    joined = 2 * (wide.layers - 1) * 5 * h + (n + 5) * h
    # what we keep instead: the prompts once, of which the scale's gradient keeps nothing of this size
    apart = 2 * wide.layers * 5 * wide.head_dim
    # tokens of keys and values in the layers above the first, which they keep inside the joined ones
    assert theirs - ours == FLOAT * (weights + joined - fused - apart)


def nodes(loss) -> list[Node]:
    """All nodes of the graph."""
    found, todo = [], [loss.grad_fn]
    while todo:
        node = todo.pop()
        if node is not None and node not in found:
            found.append(node)
            todo += [following for following, _ in node.next_functions]
    return found


def attentions(loss) -> int:
    """How many attentions the backward goes through."""
    return sum("ScaledDotProduct" in node.name() or "PromptedAttention" in node.name() for node in nodes(loss))


def test_no_graph_exists_below_the_first_prompted_layer():
    model = build(Contender("apt", 5, (2, 3)), TINY)
    inputs = example(TINY, batch=2)
    blocks = model.base_model.model.videomae.encoder.layer
    needs: dict[int, bool] = {}
    handles = [
        block.register_forward_hook(lambda _, __, output, index=index: needs.update({index: output.requires_grad}))
        for index, block in enumerate(blocks)
    ]
    loss = model(**inputs).loss
    for handle in handles:
        handle.remove()
    assert needs == {0: False, 1: False, 2: True, 3: True}

    assert attentions(loss) == 2
    assert attentions(build(Contender("apt", 5), TINY)(**inputs).loss) == 4

    saved = saved_by(model, inputs)
    everywhere = saved_by(build(Contender("apt", 5), TINY), inputs)
    assert set(saved.by_layer) == {2, 3}
    assert set(everywhere.by_layer) == {0, 1, 2, 3}
    assert saved.by_layer[3] == everywhere.by_layer[3]
    # the first prompted layer is the lowest of its model, as layer 0 is of the other
    assert saved.by_layer[2] == everywhere.by_layer[0] < everywhere.by_layer[2]
