"""What the prompted attention keeps and copies, against other ways: in time and in bytes.

    python examples/benchmarks/attention_kept.py --check                 # gradients against plain autograd's, and bytes; seconds
    python examples/benchmarks/attention_kept.py --rounds 21 --one-layer --out docs/results/attention_kept.jsonl

Variants of what happens in every prompted layer:

- joined: torch's attention over `[K ; P_k]`, `[V ; P_v]`. Autograd keeps the joined keys and values, for each head and clip a
  copy of the prompts. The package does so wherever `apt_peft/tuner/lean.py` stands aside.
- rejoin: keys, values and prompts are kept apart and joined again in the backward.
- package: rejoin, and where keys and values need no gradient (the first prompted layer) the backward computes the gradients
  of the prompts' columns alone: N x P instead of five times N x (N + P), and neither keys nor values are kept.

With `--one-layer`, for one layer's projections and attention by itself, forward alone:

- room: keys and values are projected into buffers with room for the prompts, so that the tokens are not copied. In a model
  it needs the projections' seam.
- split: tokens and prompts attended to apart, and merged by their logarithms of sums.

CPU, float32: the fused kernels are called by their names there.
"""

import argparse
import json
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface

from apt_peft.cost.arithmetic import VIT_S, Shapes
from apt_peft.cost.contenders import Contender, build, example
from apt_peft.cost.measure import in_turns, ratio, training_step
from apt_peft.cost.memory import saved_by
from apt_peft.tuner import interface
from apt_peft.tuner.functional import append_prompts
from apt_peft.tuner.interface import IMPLEMENTATION, attention_prompt_forward


def joined(*args: Any, **kwargs: Any) -> Any:
    """Attention of a wrapped module without `lean.py`."""
    stands_for = interface.keeps_little
    interface.keeps_little = lambda *given: False
    try:
        return attention_prompt_forward(*args, **kwargs)
    finally:
        interface.keeps_little = stands_for


def rejoin(module: Any, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Any:
    """Attention of a wrapped module in which the keys of the first layer, too, ask for a gradient."""
    if torch.is_grad_enabled() and not key.requires_grad:
        key = key.detach().requires_grad_()
    return attention_prompt_forward(module, query, key, value, *args, **kwargs)


VARIANTS: dict[str, Callable[..., Any]] = {"joined": joined, "rejoin": rejoin, "package": attention_prompt_forward}


def using(name: str, run: Callable[[], Any]) -> Callable[[], Any]:
    """A run in which all wrapped modules attend by a variant."""

    def inside() -> Any:
        AttentionInterface.register(IMPLEMENTATION, VARIANTS[name])
        try:
            return run()
        finally:
            AttentionInterface.register(IMPLEMENTATION, attention_prompt_forward)

    return inside


def gradients(model: torch.nn.Module, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Of one backward, by parameter."""
    model.zero_grad()
    model(**inputs).loss.backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}


def check(shapes: Shapes) -> None:
    """Compare all variants' gradients with those of joined tensors, without dropout.

    Raises:
        AssertionError: they differ.
    """
    torch.manual_seed(0)
    model, inputs = build(Contender("apt", 7), shapes).eval(), example(shapes, batch=2)
    wanted = gradients(model, inputs)
    for name in VARIANTS:
        found = using(name, lambda: gradients(model, inputs))()
        largest = max(
            float((found[key] - wanted[key]).abs().max() / (wanted[key].abs().max() + 1e-30)) for key in wanted
        )
        print(f"{name}: largest relative difference of a gradient {largest:.1e}")
        assert found.keys() == wanted.keys()
        assert largest < 1e-4, name


def one_layer(shapes: Shapes, count: int, rounds: int) -> dict[str, float]:
    """One layer's projections with attention, forward: other ways against joining."""
    n, h, heads = shapes.tokens, shapes.hidden, shapes.heads
    tokens, weights = torch.randn(1, n, h), [torch.randn(h, h) * h**-0.5 for _ in range(3)]
    prompts = torch.randn(2, count, h // heads)
    buffers = torch.empty(2, 1, n + count, h)
    attention = torch.nn.functional.scaled_dot_product_attention
    fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu

    def project(states: Tensor) -> Tensor:
        return states.view(1, -1, heads, h // heads).transpose(1, 2)

    def joining() -> Tensor:
        query, key, value = (project(tokens @ weight) for weight in weights)
        return attention(query, append_prompts(key, prompts[0]), append_prompts(value, prompts[1]))

    def room() -> Tensor:
        query = project(tokens @ weights[0])
        for buffer, weight, prompt in zip(buffers, weights[1:], prompts, strict=True):
            torch.mm(tokens[0], weight, out=buffer[0, :n])
            buffer[0, n:].view(count, heads, -1).copy_(prompt[:, None].expand(-1, heads, -1))
        return attention(query, project(buffers[0]), project(buffers[1]))

    def split() -> Tensor:
        query, key, value = (project(tokens @ weight) for weight in weights)
        output, of_tokens = fused(query, key, value, 0.0, False)
        scores = (query @ prompts[0].t()).mul_(query.shape[-1] ** -0.5)
        total = torch.logaddexp(of_tokens, scores.logsumexp(-1))
        of_prompts = scores.sub_(total[..., None]).exp_() @ prompts[1]
        return torch.addcmul(of_prompts, output, (of_tokens - total).exp_()[..., None])

    with torch.no_grad():
        for other in (room, split):
            assert torch.allclose(joining(), other(), atol=1e-4)
        table = in_turns({"joining": joining, "room": room, "split": split}, rounds, "cpu")
    return {name: ratio(table, name, "joining") for name in ("room", "split")}


def main() -> None:
    """Check, then measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare gradients and count bytes, measure no time")
    parser.add_argument(
        "--one-layer", action="store_true", help="also measure other ways to join, forward of one layer"
    )
    parser.add_argument("--prompts", type=int, nargs="+", default=[100, 400])
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, help="append one JSON line for each ratio")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    check(Shapes(hidden=64, layers=3, heads=2, mlp=128, image=(64, 64), frames=4, labels=3))

    shapes = VIT_S.changed(layers=options.layers)
    setting = f"median of {options.rounds}, cpu, float32, {options.threads} threads"
    for count in options.prompts:
        inputs = example(shapes, batch=options.batch)
        sides = {"lora": build(Contender("lora", 8), shapes), "apt": build(Contender("apt", count), shapes)}
        kept = {"lora r=8": saved_by(sides["lora"], inputs).total}
        for name in VARIANTS:
            kept[name] = using(name, lambda model=sides["apt"], given=inputs: saved_by(model, given).total)()
        found = [
            ("bytes kept", name, base, kept[name] / kept[base]) for name in VARIANTS for base in ("lora r=8", "joined")
        ]
        if not options.check:
            step = training_step(sides["apt"], inputs)
            runs = {name: using(name, step) for name in VARIANTS}
            table = in_turns(runs | {"lora r=8": training_step(sides["lora"], inputs)}, options.rounds, "cpu")
            found += [
                ("training step", name, base, ratio(table, name, base))
                for name in VARIANTS
                for base in ("lora r=8", "joined")
            ]
        if options.one_layer:
            what = "forward of one layer's projections and attention"
            found += [(what, n, "joining", value) for n, value in one_layer(shapes, count, options.rounds).items()]
        for what, name, base, value in found:
            if name == base:
                continue
            how = "counted" if what == "bytes kept" else setting
            print(f"P = {count}, {what}: {name} / {base} = {value:.3f}x ({how})", flush=True)
            if options.out:
                record = {
                    "P": count, "what": what, "ours": name, "baseline": base, "ratio": round(value, 4),
                    **{k: v for k, v in vars(options).items() if k not in ("out", "prompts", "check", "one_layer")},
                    "torch": torch.__version__, "machine": platform.machine(),
                }  # fmt: skip
                with options.out.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(record) + "\n")


if __name__ == "__main__":
    main()
