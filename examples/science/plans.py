"""Lists of runs by name: what `docs/science.md` tells of, in the order in which it was tried.

A trained number costs: a prompt 130 a layer, a direction of the key-side gate 65, a row of a mix 128, factors or summands of
queries or values 128, norms 512, all biases 1,280; LoRA of rank 4 has 2,048.
"""

from typing import Any


def apt(lr: float, **more: Any) -> dict[str, Any]:
    """Attention prompts, or prototypes alone where there are none."""
    return {"method": "apt", "lr": lr, **more}


def lora(lr: float, **more: Any) -> dict[str, Any]:
    """The contender: 12,288 numbers beside the head."""
    return {"method": "lora", "lr": lr, "size": 4} | more


# One part at a time, each within LoRA's number.
PARTS = [
    lora(0.005),
    lora(0.01),
    lora(0.02),
    apt(0.3, prompts=15),
    apt(0.3, prompts=15, init="data"),
    apt(0.1, prompts=8, init="data", key_gate=15, gate_lr=0.05),
    apt(0.01, norms=True),
    apt(0.03, norms=True),
    apt(0.01, biases=True),
    apt(0.01, query_mix=16),
    apt(0.01, value_mix=16),
    apt(0.01, query_mix=8, value_mix=8),
    apt(0.03, query_mix=8, value_mix=8),
    apt(0.01, value_mix_from_keys=16),
    apt(0.01, query_affine="sb", value_affine="sb"),
    apt(0.05, value_gate=16, key_gate=8, prompts=1),
]
# Parts together, each sum within LoRA's number.
SUMS = [
    apt(0.1, norms=True),
    apt(0.03, query_mix=16),
    apt(0.1, query_mix=8, value_mix=8),
    apt(0.1, prompts=4, init="data", key_gate=15, gate_lr=0.05, norms=True, norms_lr=0.03),
    apt(0.1, prompts=4, init="data", key_gate=15, gate_lr=0.02, norms=True, norms_lr=0.03),
    apt(0.03, query_mix=6, value_mix=6, norms=True),
    apt(0.1, prompts=1, init="data", key_gate=8, gate_lr=0.05, norms=True, norms_lr=0.03, query_mix=6, extra_lr=0.03),
    apt(
        0.1,
        prompts=4,
        init="data",
        query_mix=6,
        value_mix=2,
        extra_lr=0.03,
        query_affine="b",
        norms=True,
        norms_lr=0.03,
    ),
]
# Norms, which are few and learn at rates of prompts, with what else fits.
NORMS = [
    apt(0.3, norms=True),
    apt(0.1, prompts=4, init="data", key_gate=15, gate_lr=0.05, norms=True),
    apt(0.1, prompts=1, init="data", key_gate=21, gate_lr=0.05, norms=True),
    apt(0.1, prompts=11, init="data", norms=True),
    apt(0.3, prompts=11, init="data", norms=True, norms_lr=0.1),
    apt(0.1, biases=True, norms=True),
    apt(0.1, query_mix=6, extra_lr=0.03, norms=True),
    apt(0.1, query_affine="s", value_affine="sb", norms=True),
    lora(0.01, size=3, norms=True, norms_lr=0.1),
]
# On the other task and backbone, with twice the steps; LoRA's grid goes on until it falls.
BEST = {"prompts": 4, "init": "data", "key_gate": 15, "norms": True}
SCREEN = [
    apt(0.1, norms=True),
    lora(0.01),
    apt(0.1, **BEST, gate_lr=0.05),
    apt(0.1, prompts=11, init="data", norms=True),
    apt(0.3, prompts=15, init="data"),
    lora(0.02),
    lora(0.04),
    apt(0.1, **BEST),
]
AGAIN = [lora(0.01), lora(0.02), apt(0.1, **BEST), apt(0.1, norms=True)]
# What was chosen, against LoRA at its best rate and the norms alone; then what else stands in the table.
CHOSEN = [apt(0.1, **BEST), apt(0.1, norms=True)]
LORA_RATE = {"red": 0.02, "faster": 0.01}
# The other contenders, over rates that go on until they fall: 16 prompts before the tokens of each layer train as many numbers as
# LoRA, and the probe none beside the head.
OTHERS = [{"method": "vpt-deep", "size": 16, "lr": lr} for lr in (0.003, 0.01, 0.03, 0.1, 0.3)] + [
    {"method": "linear", "lr": lr, "head_lr": lr} for lr in (0.003, 0.01, 0.03, 0.1)
]
ASIDE = [apt(0.3, prompts=15, init="data")]  # at the first seed alone
OTHERS_RATE = {"red": (0.01, 0.01), "faster": (0.1, 0.03)}  # of vpt-deep and of the probe, the best above
PLANS: dict[str, list[dict[str, Any]]] = {
    "glance": [{**run, "task": "faster", "epochs": 3} for run in PARTS],
    "glance-sums": [{**run, "task": "faster", "epochs": 3} for run in SUMS],
    "glance-norms": [{**run, "task": "faster", "epochs": 3} for run in NORMS],
    "again": [{**run, "task": "faster", "epochs": 6} for run in AGAIN],
    "screen": [{**run, "epochs": 6} for run in SCREEN],
    "others-faster": [{**run, "task": "faster", "epochs": 6} for run in OTHERS],
    "others-red": [{**run, "epochs": 6} for run in OTHERS],
    **{
        f"final-{task}": [
            {**run, "part": "test", "task": task, "seed": seed, "epochs": 6}
            for seed in range(3)
            for run in [lora(rate), *CHOSEN]
        ]
        for task, rate in LORA_RATE.items()
    },
    # LoRA's best rate on one half of a pool was a poor one on a draw: its next lower one as well.
    "final-red-lower": [{**lora(0.01), "part": "test", "seed": seed, "epochs": 6} for seed in range(3)],
    **{
        f"final-others-{task}": [
            {**run, "part": "test", "task": task, "seed": seed, "epochs": 6}
            for seed in range(3)
            for run in [
                {"method": "vpt-deep", "size": 16, "lr": vpt},
                {"method": "linear", "lr": linear, "head_lr": linear},
            ]
        ]
        for task, (vpt, linear) in OTHERS_RATE.items()
    },
    "aside-red": [{**run, "part": "test", "epochs": 6} for run in ASIDE],
    "long": [{**run, "part": "test", "epochs": 12} for run in (lora(0.01), CHOSEN[0])],
    "aside-faster": [{**run, "part": "test", "task": "faster", "epochs": 6} for run in ASIDE],
}
