"""What the prompted attention could keep and copy less: variants of the one function, in time and in bytes.

    python examples/benchmarks/attention_kept.py --check                 # gradients against the plain one, and bytes; seconds
    python examples/benchmarks/attention_kept.py --rounds 21 --out docs/results/attention_kept.jsonl

Variants, each in the place of `[K ; P_k]`, `[V ; P_v]` and torch's attention in every prompted layer:

- plain: what the package does. Autograd keeps the joined keys and values, for each head and clip a copy of the prompts.
- rejoin: one autograd function. It keeps keys, values and prompts apart and joins them again in the backward.
- prompts only: rejoin, and where keys and values need no gradient (the first prompted layer) the backward computes the
  gradients of the prompts' columns alone: N x P instead of five times N x (N + P), and neither keys nor values are kept.
- room: keys and values are projected into buffers with room for the prompts, so that the tokens are not copied. It is for
  one layer's projections and attention by itself, forward alone (`--room`): in a model it needs the projections' seam.

CPU, float32 or bfloat16: the fused kernels are called by their names there.
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
from apt_peft.tuner.functional import append_prompts
from apt_peft.tuner.interface import IMPLEMENTATION, attention_prompt_forward

flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
flash_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


class Rejoin(torch.autograd.Function):
    """Attention over tokens and prompts that joins them anew for its backward."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, p_key: Tensor, p_value: Tensor, scaling: float,
                alone: bool) -> Tensor:  # fmt: skip
        joined = append_prompts(key, p_key), append_prompts(value, p_value)
        output, logsumexp = flash(query, *joined, 0.0, False, scale=scaling)
        ctx.scaling = scaling
        ctx.alone = alone and not any(ctx.needs_input_grad[:3])
        kept = (query, p_key, p_value, output, logsumexp)
        ctx.save_for_backward(*kept, *(() if ctx.alone else (key, value)))
        return output

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        query, p_key, p_value, output, logsumexp, *tokens = ctx.saved_tensors
        if ctx.alone:
            scores = query @ p_key.to(query.dtype).t() * ctx.scaling  # (B, H, N, P)
            weights = (scores.float() - logsumexp.view(*scores.shape[:3], 1)).exp().to(query.dtype)
            towards = grad @ p_value.to(grad.dtype).t() - (grad * output).sum(-1, keepdim=True)
            d_key = torch.einsum("bhnp,bhnd->pd", weights * towards, query) * ctx.scaling
            d_value = torch.einsum("bhnp,bhnd->pd", weights, grad)
            return None, None, None, d_key.to(p_key.dtype), d_value.to(p_value.dtype), None, None
        key, value = tokens
        n = key.shape[2]
        joined = append_prompts(key, p_key), append_prompts(value, p_value)
        d_query, d_key, d_value = flash_backward(
            grad, query, *joined, output, logsumexp, 0.0, False, scale=ctx.scaling
        )  # fmt: skip
        prompts = (part[:, :, n:].sum((0, 1)).to(p_key.dtype) for part in (d_key, d_value))
        return d_query, d_key[:, :, :n], d_value[:, :, :n], *prompts, None, None


def variant(alone: bool) -> Callable[..., tuple[Tensor, None]]:
    """An attention function for wrapped modules, in transformers' signature; shared prompts, no masks, no gates."""

    def attend(module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any, **kwargs: Any) -> tuple[Tensor, None]:
        prompts = module.config.prompt_layer.prompts_of_batch()
        output = Rejoin.apply(query, key, value, prompts.keys, prompts.values, kwargs["scaling"], alone)
        return output.transpose(1, 2).contiguous(), None

    return attend


VARIANTS = {"plain": attention_prompt_forward, "rejoin": variant(False), "prompts only": variant(True)}


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
    """Compare all variants' gradients with the plain one's, without dropout.

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


def room(shapes: Shapes, count: int, rounds: int) -> float:
    """One layer's key and value projections with attention, forward: buffers with room against joining."""
    n, h, heads = shapes.tokens, shapes.hidden, shapes.heads
    tokens, weights = torch.randn(1, n, h), [torch.randn(h, h) * h**-0.5 for _ in range(3)]
    prompts = torch.randn(2, count, h // heads)
    buffers = torch.empty(2, 1, n + count, h)

    def split(states: Tensor) -> Tensor:
        return states.view(1, -1, heads, h // heads).transpose(1, 2)

    def joining() -> Tensor:
        query, key, value = (split(tokens @ weight) for weight in weights)
        joined = append_prompts(key, prompts[0]), append_prompts(value, prompts[1])
        return torch.nn.functional.scaled_dot_product_attention(query, *joined)

    def with_room() -> Tensor:
        query = split(tokens @ weights[0])
        for buffer, weight, prompt in zip(buffers, weights[1:], prompts, strict=True):
            torch.mm(tokens[0], weight, out=buffer[0, :n])
            buffer[0, n:].view(count, heads, -1).copy_(prompt[:, None].expand(-1, heads, -1))
        return torch.nn.functional.scaled_dot_product_attention(query, split(buffers[0]), split(buffers[1]))

    with torch.no_grad():
        assert torch.allclose(joining(), with_room(), atol=1e-4)
        return ratio(in_turns({"joining": joining, "room": with_room}, rounds, "cpu"), "room", "joining")


def main() -> None:
    """Check, then measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare gradients and count bytes, measure no time")
    parser.add_argument("--room", action="store_true", help="also measure buffers with room, forward of one layer")
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
            ("bytes kept", name, base, kept[name] / kept[base]) for name in VARIANTS for base in ("lora r=8", "plain")
        ]
        if not options.check:
            step = training_step(sides["apt"], inputs)
            runs = {name: using(name, step) for name in VARIANTS}
            table = in_turns(runs | {"lora r=8": training_step(sides["lora"], inputs)}, options.rounds, "cpu")
            found += [
                ("training step", name, base, ratio(table, name, base))
                for name in VARIANTS
                for base in ("lora r=8", "plain")
            ]
        if options.room:
            value = room(shapes, count, options.rounds)
            found.append(("forward of one layer's projections and attention", "room", "joining", value))
        for what, name, base, value in found:
            if name == base:
                continue
            how = "counted" if what == "bytes kept" else setting
            print(f"P = {count}, {what}: {name} / {base} = {value:.3f}x ({how})", flush=True)
            if options.out:
                record = {
                    "P": count, "what": what, "ours": name, "baseline": base, "ratio": round(value, 4),
                    **{k: v for k, v in vars(options).items() if k not in ("out", "prompts", "check", "room")},
                    "torch": torch.__version__, "machine": platform.machine(),
                }  # fmt: skip
                with options.out.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(record) + "\n")


if __name__ == "__main__":
    main()
