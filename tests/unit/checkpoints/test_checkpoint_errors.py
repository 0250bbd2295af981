"""Files that must not be converted: one clear message each, nothing run, and no folder left behind."""

import argparse
import gzip
import os
import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from checkpoint_files import GOLDEN, PRETRAIN, finetuned, golden, save
from helpers import raises_exactly
from safetensors.torch import save_file

from apt_peft import CheckpointError
from apt_peft.checkpoints import CheckpointOptions, convert_checkpoint, folders

FORM = "checkpoint ({path}) must be a PyTorch checkpoint, but it is "
DAMAGED = (
    "checkpoint ({path}) must be a whole PyTorch checkpoint, but it cannot be read to its end: it is damaged, truncated "
    "or of another kind. Download or copy it again."
)
RUNS = (
    "checkpoint ({path}) must hold nothing but weights and settings, but loading it would run {name}. Nothing of it was "
    "run. If you trust whoever made it, save its state dict alone and convert that."
)
SIZES = {"input_size": 32, "num_frames": 4}


class Runs:
    """A pickle that calls something when it is loaded by plain pickle."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


@pytest.fixture
def refused(tmp_path):
    """Expect this message from the conversion of `file.pth`, and no trace of an output."""
    path = tmp_path / "file.pth"

    def check(message, **options):
        before = sorted(tmp_path.iterdir())
        with raises_exactly(CheckpointError, message.replace("{path}", str(path))):
            convert_checkpoint(path, tmp_path / "new" / "out", options=CheckpointOptions(**options))
        assert sorted(tmp_path.iterdir()) == before

    check.path = path
    return check


# ------------------------------------------------------------------------------------------- files of another kind


def test_no_file(refused):
    refused("checkpoint ({path}) must be a file, but it is not there. Check the path.")


def test_folder(refused):
    refused.path.mkdir()
    refused("checkpoint ({path}) must be a file, but it is a folder. Check the path.")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", FORM + "empty. Download or copy it again."),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
            FORM + "a Git LFS pointer. Fetch the file itself with `git lfs pull`.",
        ),
        (
            b"<!DOCTYPE html><html><body>Virus scan warning</body></html>",
            FORM + "a web page. Download the file itself; some hosts answer with a page that asks for consent first.",
        ),
        (gzip.compress(b"weights", mtime=0), FORM + "a gzip archive. Unpack it first."),
        (b"\x89HDF\r\n\x1a\n" + bytes(50), FORM + "an HDF5 file. Give the PyTorch file (.pth, .pt) instead."),
        (b"PK\x03\x04" + bytes(50), DAMAGED),
        (b"not a checkpoint at all, only some text", DAMAGED),
        (pickle.dumps([1, 2, 3], protocol=4), DAMAGED),
        (bytes(range(128, 256)) * 20, DAMAGED),
    ],
)
def test_content_of_another_kind(content, message, refused):
    refused.path.write_bytes(content)
    refused(message)


def test_safetensors(refused):
    save_file(finetuned(), refused.path)
    refused(FORM + "a safetensors file. The reference writes .pth files; a Hugging Face folder needs no conversion.")


def test_zip_of_other_files(refused):
    with zipfile.ZipFile(refused.path, "w") as archive:
        archive.writestr("weights/readme.txt", "hello")
    refused(FORM + "a zip archive of other files. Unpack it and give the checkpoint inside.")


def test_compressed_zip(refused):
    save(refused.path)
    with zipfile.ZipFile(refused.path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(refused.path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    refused(FORM + "a compressed zip archive, which torch.save never writes. Unpack it first.")


def test_torchscript(refused):
    save(refused.path)
    with zipfile.ZipFile(
        refused.path, "a"
    ) as archive:  # what tells such archives apart; torch.jit.script itself is deprecated
        archive.writestr("file/constants.pkl", b"")
    refused(FORM + "a TorchScript archive, which holds code. Give the state dict it was made from.")


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.99])
@pytest.mark.parametrize("new_format", [True, False])
def test_truncated(keep, new_format, refused):
    torch.save({"model": golden()["model"]}, refused.path, _use_new_zipfile_serialization=new_format)
    content = refused.path.read_bytes()
    refused.path.write_bytes(content[: int(len(content) * keep)])
    refused(DAMAGED)


def test_a_flipped_bit(refused):
    save(refused.path, {"weight": torch.full((1000,), 0.5)})
    content = bytearray(refused.path.read_bytes())
    content[content.index(torch.full((1000,), 0.5).numpy().tobytes()) + 400] ^= 1
    refused.path.write_bytes(content)
    refused(
        "checkpoint ({path}) must hold what was written, but the checksum of file/data/0 in it does not match: it is "
        "damaged. Download or copy it again."
    )


# ------------------------------------------------------------------------------------------------------ unsafe files


@pytest.mark.parametrize("new_format", [True, False])
@pytest.mark.parametrize(
    ("function", "name"), [(os.system, f"{os.name}.system"), (eval, "eval"), (exec, "exec"), (print, "print")]
)
def test_malicious_pickle(function, name, new_format, refused, tmp_path, capfd):
    mark = tmp_path / "mark"
    code = f"touch {mark}" if function is os.system else f"open({str(mark)!r}, 'w')"
    torch.save(
        {"model": golden()["model"], "args": Runs(function, code)},
        refused.path,
        _use_new_zipfile_serialization=new_format,
    )
    refused(RUNS.replace("{name}", name))
    assert not mark.exists()
    assert capfd.readouterr().out == ""


def test_malicious_pickle_inside_the_allowed_namespace(refused, tmp_path):
    mark = tmp_path / "mark"
    save(refused.path, output_dir=Runs(os.system, f"touch {mark}"))
    refused(RUNS.replace("{name}", f"{os.name}.system"))
    assert not mark.exists()


def test_whole_module(refused):
    torch.save(torch.nn.Linear(2, 2), refused.path)
    refused(RUNS.replace("{name}", "torch.nn.modules.linear.Linear"))


def test_object_in_settings(refused):
    save(refused.path, output_dir=Path("here"))
    refused(RUNS.replace("{name}", f"{type(Path()).__module__}.{type(Path()).__name__}"))


def test_allowance_ends_with_the_call(tmp_path):
    convert_checkpoint(GOLDEN / "apt_all_layers.pth", tmp_path / "out")
    assert argparse.Namespace not in torch.serialization.get_safe_globals()


# ------------------------------------------------------------------------------------------- files without the model


HOLDS = (
    "checkpoint ({path}) must hold tensors, at its top or under 'model', 'module', 'state_dict', but holds {found}. Give "
    "a file with a state dict."
)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ({}, "nothing"),
        ({"model": {}}, "nothing"),
        ([1, 2], "a list"),
        (torch.zeros(3), "a Tensor"),
        ({"epoch": 3, "lr": 0.1}, "epoch, lr"),
        ({f"entry{i}": i for i in range(25)}, ", ".join(f"entry{i}" for i in range(20)) + " and 5 more"),
    ],
)
def test_no_weights(content, found, refused):
    torch.save(content, refused.path)
    refused(HOLDS.replace("{found}", found))


def test_a_mapping_nested_in_itself(refused):
    content = {}
    content["model"] = content
    torch.save(content, refused.path)
    refused(HOLDS.replace("{found}", "model"))


def test_values_that_are_no_plain_tensors(refused):
    state = golden()["model"] | {
        "blocks.0.norm1.weight": "text",
        "blocks.1.norm1.weight": torch.zeros(48, dtype=torch.int64),
        "blocks.2.norm1.weight": torch.zeros(48).to_sparse(),
        "blocks.3.norm1.weight": torch.zeros(1).expand(10**12),
        7: torch.zeros(1),
    }
    save(refused.path, state)
    keys = ", ".join(f"blocks.{index}.norm1.weight" for index in range(4))
    refused(
        "checkpoint ({path}) must hold dense floating-point tensors that are all stored in the file, but "
        f"{keys}, 7 are not. Save the state dict alone."
    )


def test_one_value_that_is_no_tensor(refused):
    save(refused.path, golden()["model"] | {"version": 3})
    refused(
        "checkpoint ({path}) must hold dense floating-point tensors that are all stored in the file, but version is not. "
        "Save the state dict alone."
    )


def test_weights_that_are_not_finite(refused):
    state = golden()["model"]
    state["head.bias"] = state["head.bias"].clone()
    state["head.bias"][2] = float("nan")
    save(refused.path, state)
    refused(
        "checkpoint ({path}) must hold finite weights, but head.bias has NaN or infinite values: its training diverged, "
        "or it is damaged. Give an earlier file."
    )


def test_two_models_in_one(refused):
    state = finetuned() | {"backbone.head.bias": torch.zeros(7), "head_norm.bias": torch.zeros(48)}
    save(refused.path, state)
    refused(
        "checkpoint ({path}) must hold one model, but keys name the same tensor twice: head.bias and backbone.head.bias, "
        "fc_norm.bias and head_norm.bias. Save the state dict of one model alone."
    )


def test_image_model_of_timm(refused):
    state = {
        "cls_token": torch.zeros(1, 1, 48),
        "pos_embed": torch.zeros(1, 17, 48),
        "patch_embed.proj.weight": torch.zeros(48, 3, 8, 8),
        "patch_embed.proj.bias": torch.zeros(48),
        "blocks.0.norm1.weight": torch.zeros(48),
        "blocks.0.mlp.fc1.weight": torch.zeros(192, 48),
        "head.weight": torch.zeros(7, 48),
    }
    save(refused.path, state, nest=None)
    refused(
        "checkpoint ({path}) must be of VideoMAE or APT, but has no patch_embed.proj.weight (5 axes): its 7 tensors begin "
        "with cls_token (1, 1, 48), pos_embed (1, 17, 48), patch_embed.proj.weight (48, 3, 8, 8), patch_embed.proj.bias "
        "(48,), blocks.0.norm1.weight (48,). Give a file of the reference's or of VideoMAE's training scripts."
    )


def test_another_project(refused):
    save(refused.path, {"conv1.weight": torch.zeros(64, 3, 7, 7), "fc.bias": torch.zeros(10)}, nest="state_dict")
    refused(
        "checkpoint ({path}) must be of VideoMAE or APT, but has no patch_embed.proj.weight (5 axes), "
        "blocks.0.mlp.fc1.weight (2 axes): its 2 tensors begin with conv1.weight (64, 3, 7, 7), fc.bias (10,). Give a "
        "file of the reference's or of VideoMAE's training scripts."
    )


def test_prompts_alone(refused):
    save(refused.path, {key: value for key, value in golden()["model"].items() if key.startswith("prompt")})
    refused(
        "checkpoint ({path}) must be of VideoMAE or APT, but has no patch_embed.proj.weight (5 axes), "
        "blocks.0.mlp.fc1.weight (2 axes), head.weight (2 axes): its 3 tensors begin with prompt_embeddings_k (4, 5, 12), "
        "prompt_embeddings_v (4, 5, 12), prompt_scale (4, 2, 5). Give a file of the reference's or of VideoMAE's "
        "training scripts."
    )


def test_missing_leftover_and_misshapen_are_all_listed(refused):
    state = golden()["model"]
    del state["head_norm.weight"], state["blocks.3.mlp.fc2.bias"]
    state |= {
        "blocks.1.gamma_1": torch.ones(48),
        "blocks.1.gamma_2": torch.ones(48),
        "blocks.2.attn.qkv.weight": torch.zeros(48, 144),
        "prompt_embeddings_v": torch.zeros(4, 6, 12),
    }
    save(refused.path, state, **SIZES)
    refused(
        "checkpoint ({path}) must hold the 61 tensors of its model, but 2 are missing: blocks.3.mlp.fc2.bias, "
        "head_norm.weight; 2 are left over: blocks.1.gamma_1, blocks.1.gamma_2; 2 are of another shape: "
        "blocks.2.attn.qkv.weight (48, 144) instead of (144, 48), prompt_embeddings_v (4, 6, 12) instead of (4, 5, 12). "
        "allow_leftover (--allow-leftover) converts without what is left over."
    )


def test_gap_in_the_blocks(refused):
    state = {key.replace("blocks.3.", "blocks.9."): value for key, value in finetuned().items()}
    names = ["norm1.weight", "norm1.bias", "attn.qkv.weight", "attn.q_bias", "attn.v_bias", "attn.proj.weight"]
    names += [
        "attn.proj.bias",
        "norm2.weight",
        "norm2.bias",
        "mlp.fc1.weight",
        "mlp.fc1.bias",
        "mlp.fc2.weight",
        "mlp.fc2.bias",
    ]
    found = [key.removeprefix("blocks.9.") for key in state if key.startswith("blocks.9.")]
    save(refused.path, state, **SIZES)
    refused(
        "checkpoint ({path}) must hold the 58 tensors of its model, but 13 are missing: "
        f"{', '.join(f'blocks.3.{name}' for name in names)}; 13 are left over: "
        f"{', '.join(f'blocks.9.{name}' for name in found)}. allow_leftover (--allow-leftover) converts without what is "
        "left over.",
        num_attention_heads=4,
    )


def test_missing_cannot_be_allowed(refused):
    state = golden()["model"]
    del state["head.bias"]
    save(refused.path, state, **SIZES)
    refused(
        "checkpoint ({path}) must hold the 61 tensors of its model, but 1 is missing: head.bias.", allow_leftover=True
    )


def test_scale_promised_but_missing(refused):
    save(refused.path, golden("apt_no_reparam")["model"], prompt_reparam=True, **SIZES)
    refused("checkpoint ({path}) must hold the 61 tensors of its model, but 1 is missing: prompt_scale.")


def test_learned_positions(refused):
    save(refused.path, golden()["model"] | {"pos_embed": torch.ones(1, 32, 48)}, **SIZES)
    refused(
        "checkpoint ({path}) must hold the 61 tensors of its model, but 1 is left over: pos_embed. allow_leftover "
        "(--allow-leftover) converts without what is left over."
    )


# ---------------------------------------------------------------------------------- options that do not fit the file


AGREE = "checkpoint ({path}) and options must agree, but: "
OPTIONS = [
    ({"image_size": 0}, "image_size (0) must be a positive multiple of the patch size, 8"),
    ({"image_size": 36}, "image_size (36) must be a positive multiple of the patch size, 8"),
    ({"num_frames": -2}, "num_frames (-2) must be a positive multiple of the tubelet size, 2"),
    ({"num_frames": 5}, "num_frames (5) must be a positive multiple of the tubelet size, 2"),
    ({"tubelet_size": 4}, "tubelet_size (4) must be 2, as patch_embed.proj.weight says"),
    (
        {"num_attention_heads": 6},
        "num_attention_heads (6) must be 4: prompts are 12 wide and the hidden size is 48",
    ),
    (
        {"prompt_start": 1},
        "prompt_start (1) must leave room for 4 layers with prompts, but the model has 4 layers (0-3)",
    ),
    (
        {"prompt_start": -1},
        "prompt_start (-1) must leave room for 4 layers with prompts, but the model has 4 layers (0-3)",
    ),
    (
        {"image_size": 80_000, "num_frames": 2},
        "image_size (80000) and num_frames (2) must give at most 1,000,000 patch tokens, but give 100,000,000",
    ),
    (
        {"decoder_num_attention_heads": 2, "keep_decoder": False, "image_size": 36},
        "decoder_num_attention_heads must be left out for an APT model: backbone, prompts and head; keep_decoder=False "
        "must be left out for an APT model: backbone, prompts and head; image_size (36) must be a positive multiple of the "
        "patch size, 8",
    ),
]


@pytest.mark.parametrize(("options", "problem"), OPTIONS)
def test_options(options, problem, refused):
    save(refused.path, **SIZES)
    refused(f"{AGREE}{problem}.", **options)


def test_settings_of_the_file_are_checked_alike(refused):
    save(refused.path, input_size=10**9, num_frames=4)
    refused(
        f"{AGREE}image_size (1000000000) and num_frames (4) must give at most 1,000,000 patch tokens, but give "
        "31,250,000,000,000,000."
    )


def test_options_of_other_kinds_of_file(refused):
    refused.path.write_bytes((GOLDEN / "videomae_pretrain.pth").read_bytes())
    refused(
        f"{AGREE}prompt_start must be left out for a VideoMAE pre-training file: encoder and decoder; labels must be left "
        "out for a VideoMAE pre-training file: encoder and decoder.",
        **PRETRAIN,
        prompt_start=0,
        labels=["a"],
    )


def test_heads_must_be_given(refused):
    refused.path.write_bytes((GOLDEN / "videomae_pretrain.pth").read_bytes())
    refused(
        f"{AGREE}num_attention_heads must be given, for no published model has a hidden size of 48; "
        "decoder_num_attention_heads must be given, or the decoder left out, for no published decoder has a hidden size "
        "of 24.",
        image_size=32,
        num_frames=4,
    )


def test_heads_must_divide(refused):
    refused.path.write_bytes((GOLDEN / "videomae_pretrain.pth").read_bytes())
    refused(
        f"{AGREE}num_attention_heads (5) must divide the hidden size, 48; decoder_num_attention_heads (0) must divide the "
        "decoder's hidden size, 24.",
        image_size=32,
        num_frames=4,
        num_attention_heads=5,
        decoder_num_attention_heads=0,
    )


def test_prompts_of_a_width_that_fits_no_head(refused):
    state = golden()["model"]
    state["prompt_embeddings_k"] = torch.zeros(4, 5, 13)
    save(refused.path, state, **SIZES)
    refused(f"{AGREE}prompts are 13 wide, which must divide the hidden size, 48.")


def test_oblong_patches(refused):
    save(refused.path, golden()["model"] | {"patch_embed.proj.weight": torch.zeros(48, 3, 2, 8, 4)}, **SIZES)
    refused(f"{AGREE}patch_embed.proj.weight must have square patches, but they are 8 x 4.")


def test_prompt_layers_untold(refused):
    save(refused.path, golden("apt_middle_layers")["model"], **SIZES)
    refused(f"{AGREE}prompt_start must be given: prompts stand in 2 of 4 layers, the file not telling which.")


def test_prompt_layers_told_wrong(refused):
    save(refused.path, golden("apt_middle_layers")["model"], prompt_start=0, prompt_end=3, **SIZES)
    refused(f"{AGREE}the file's settings put prompts in layers 0-3, but it holds prompts of 2 layers.")


@pytest.mark.parametrize(
    ("labels", "problem"),
    [
        (["a", "b"], "there are 2"),
        (list("abcdeff"), "some are repeated: f"),
        (list("aabbc"), "there are 5 and some are repeated: a, b"),
    ],
)
def test_labels(labels, problem, refused):
    save(refused.path, **SIZES)
    refused(f"labels must be 7 different names, one for each row of the head, but {problem}.", labels=labels)


# ------------------------------------------------------------------------------------------------- where output goes


def test_out_holds_something(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("keep")
    with raises_exactly(
        CheckpointError,
        f"out ({tmp_path / 'out'}) must be new or an empty folder, but it is a folder that is not empty. Choose another "
        "place.",
    ):
        convert_checkpoint(GOLDEN / "apt_all_layers.pth", tmp_path / "out")
    assert (tmp_path / "out" / "mine.txt").read_text() == "keep"


def test_out_below_a_file(tmp_path):
    (tmp_path / "file").touch()
    out = tmp_path / "file" / "out"
    with raises_exactly(
        CheckpointError,
        f"out ({out}) must be at a place where folders can be made, but {out.parent} cannot. Choose another place.",
    ):
        convert_checkpoint(GOLDEN / "apt_all_layers.pth", out)


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_interrupted_writing_leaves_nothing(kind, tmp_path):
    def write():
        with folders.written_whole(tmp_path / "new" / "deep" / "out") as draft:
            if kind == "folder":
                draft.mkdir()
                draft = draft / "part"
            draft.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write()
    assert list(tmp_path.iterdir()) == []
