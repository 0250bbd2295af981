"""What is asked of every architecture, and the test that answers."""

from typing import NamedTuple


class Column(NamedTuple):
    """One ability: a test with a parameter `name`, the architecture, and perhaps others."""

    title: str
    file: str
    test: str
    parameters: dict[str, str]  # others that the test must have been run with
    means: str


_PROCESSES = ("tests/integration/test_processes.py", "test_every_architecture_trains_as_in_one_process")
_EXPORT = ("tests/unit/export/test_export_architectures.py", "test_ability")
_ARCHITECTURES = "tests/unit/tuner/test_architectures.py"

COLUMNS = (
    Column(
        "train",
        _ARCHITECTURES,
        "test_forward_and_backward",
        {},
        "outputs and gradients equal those of attention written out in plain operations, in float64, with each implementation "
        "of attention that the architecture has",
    ),
    Column(
        "load",
        _ARCHITECTURES,
        "test_train_save_load_unload",
        {},
        "trained, saved and loaded into a new base: equal outputs; unloaded: the base again",
    ),
    Column(
        "pipeline",
        "tests/compatibility/test_pipelines.py",
        "test_pipeline",
        {},
        "transformers' pipeline for videos (an mp4), pictures or sounds gives the model's scores",
    ),
    Column("compile", *_EXPORT, {"ability": "compile"}, "one graph without a break, forward and backward, as eager"),
    Column(
        "export",
        *_EXPORT,
        {"ability": "export"},
        "`torch.export` with a free batch, saved and loaded; BEiT by eager attention",
    ),
    Column("ONNX", *_EXPORT, {"ability": "ONNX"}, "the same in onnxruntime; BEiT likewise, see [export](export.md)"),
    Column(
        "mixed batch",
        "tests/unit/tuner/test_mixed.py",
        "test_every_architecture",
        {},
        "an adapter for each sample, with its head: as separate forwards",
    ),
    Column("DDP", *_PROCESSES, {"way": "DDP"}, "two processes train as one with the whole batch (gloo)"),
    Column("FSDP2", *_PROCESSES, {"way": "FSDP2"}, "the same with sharded parameters (`fully_shard`, gloo)"),
)
