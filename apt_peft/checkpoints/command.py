"""`apt-peft convert`: weight files of the reference and of VideoMAE, to Hugging Face folders and back."""

import argparse
import json
from pathlib import Path

from ..errors import CheckpointError
from .convert import convert_checkpoint
from .export import convert_adapter
from .options import CheckpointOptions

EXAMPLE = """examples:
  apt-peft convert checkpoint-99.pth OUT                        to OUT/base and OUT/adapter
  apt-peft convert videomae_pretrain.pth OUT --num-frames 16    to OUT/base
  apt-peft convert OUT/adapter back.pth                         to one file of the reference's format
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments.

    Args:
        parser: of the command.
    """
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = EXAMPLE
    parser.add_argument(
        "source", metavar="SOURCE", help="weight file to convert, or an adapter's folder for the way back"
    )
    parser.add_argument(
        "out", metavar="OUT", help="new folder for a weight file's conversion, new file for an adapter's"
    )
    told = parser.add_argument_group("what the weight file may not tell (each overrides the file's own settings)")
    told.add_argument("--image-size", type=int, metavar="N", help="pixels along each side of a frame")
    told.add_argument("--num-frames", type=int, metavar="N", help="frames of a clip")
    told.add_argument(
        "--tubelet-size", type=int, metavar="N", help="frames of one patch token; must agree with the file"
    )
    told.add_argument("--num-attention-heads", type=int, metavar="N", help="heads of the encoder")
    told.add_argument(
        "--decoder-num-attention-heads", type=int, metavar="N", help="heads of a pre-training file's decoder"
    )
    told.add_argument("--prompt-start", type=int, metavar="N", help="index of the first layer with prompts")
    told.add_argument("--labels", metavar="FILE", help="names of the classes: one a line, or a JSON list or id2label")
    told.add_argument("--no-decoder", action="store_true", help="leave a pre-training file's decoder out")
    told.add_argument(
        "--allow-leftover", action="store_true", help="convert even if tensors have no place in the model"
    )
    parser.add_argument(
        "--base-name", metavar="DIR_OR_HUB", help="what the adapter names as its base (default: OUT/base)"
    )
    parser.add_argument("--base", metavar="DIR_OR_HUB", help="way back: the base (default: the one the adapter names)")
    parser.add_argument("--every-tensor", action="store_true", help="list every tensor with its shape and its keys")


def run(args: argparse.Namespace) -> int:
    """Convert, and print what was done.

    Args:
        args: parsed arguments.

    Returns:
        0, the exit code.

    Raises:
        CheckpointError: the conversion cannot be done, or arguments belong to the other direction.
    """
    options = {
        "image_size": args.image_size,
        "num_frames": args.num_frames,
        "tubelet_size": args.tubelet_size,
        "num_attention_heads": args.num_attention_heads,
        "decoder_num_attention_heads": args.decoder_num_attention_heads,
        "prompt_start": args.prompt_start,
        "labels": args.labels,
    }
    if Path(args.source).is_dir():
        given = [f"--{name.replace('_', '-')}" for name, value in options.items() if value is not None]
        given += [
            flag
            for flag, value in (("--no-decoder", args.no_decoder), ("--allow-leftover", args.allow_leftover))
            if value
        ]
        given += ["--base-name"] if args.base_name is not None else []
        _refuse(given, args.source, "a folder")
        report = convert_adapter(args.source, args.out, base=args.base)
    else:
        _refuse(["--base"] if args.base is not None else [], args.source, "no folder")
        labels = None if args.labels is None else read_labels(args.labels)
        report = convert_checkpoint(
            args.source,
            args.out,
            options=CheckpointOptions(
                **{**options, "labels": labels}, keep_decoder=not args.no_decoder, allow_leftover=args.allow_leftover
            ),
            base_name=args.base_name,
        )
    print(report.text(every_tensor=args.every_tensor))
    return 0


def _refuse(flags: list[str], source: str, found: str) -> None:
    if flags:
        wanted = "an adapter's folder" if found == "no folder" else "a weight file"
        raise CheckpointError(
            f"{', '.join(flags)} must go with {wanted}, but SOURCE ({source}) is {found}. Leave "
            f"{'it' if len(flags) == 1 else 'them'} out, or give another SOURCE."
        )


def read_labels(path: str | Path) -> list[str]:
    """Read the names of the classes.

    Args:
        path: text with one name a line, or JSON: a list, or an object from index to name.

    Returns:
        The names by index.

    Raises:
        CheckpointError: no such file, no text, or JSON of another form.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError):
        raise CheckpointError(
            f"labels ({path}) must be a text file, but cannot be read as one. Check the path."
        ) from None
    if not text.lstrip().startswith(("[", "{")):
        return [line.strip() for line in text.splitlines() if line.strip()]
    try:
        content = json.loads(text)
        names = [content[str(index)] for index in range(len(content))] if isinstance(content, dict) else content
    except (ValueError, KeyError):
        names = None
    if names is None or not all(isinstance(name, str) and name for name in names):
        raise CheckpointError(
            f'labels ({path}) must be JSON like ["wave", "nod"] or {{"0": "wave", "1": "nod"}} without gaps, or text with '
            "one name a line, but is neither."
        )
    return names
