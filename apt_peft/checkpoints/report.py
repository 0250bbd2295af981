"""What a conversion did, for people to read."""

from dataclasses import dataclass


@dataclass(frozen=True)
class TensorLine:
    """One tensor's way: key and shape in the reference's file, and its key or keys in the folders."""

    key: str
    shape: tuple[int, ...]
    targets: tuple[str, ...]


@dataclass(frozen=True)
class ConversionReport:
    """What a conversion read, wrote and left out.

    Args:
        source: the file or folder that was converted.
        kind: what it holds, in words.
        tensors: every tensor that was carried over.
        leftover: keys without a place in the model, by name.
        left_out: keys that need no place: an unwanted decoder, a position table that transformers computes itself.
        other_entries: the file's other entries, which are no weights of the model, such as the optimizer's state.
        settings: sizes of the model, each with where it comes from.
        written: what stands where now.
        notes: what to know before use.
    """

    source: str
    kind: str
    tensors: tuple[TensorLine, ...]
    leftover: tuple[str, ...]
    left_out: tuple[str, ...]
    other_entries: tuple[str, ...]
    settings: tuple[tuple[str, str], ...]
    written: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]

    def text(self, every_tensor: bool = False) -> str:
        """The report as lines.

        Args:
            every_tensor: list all tensors with their shapes and keys, not only the count.

        Returns:
            Text without a trailing newline.
        """
        count = sum(len(line.targets) for line in self.tensors)
        lines = [
            f"{self.source}: {self.kind}",
            f"tensors: {len(self.tensors)} of the reference's layout are {count} of transformers', every shape as it must be",
        ]
        if every_tensor:
            lines += [f"  {line.key} {line.shape} = {', '.join(line.targets)}" for line in self.tensors]
        lines += ["missing: none", f"left over: {', '.join(self.leftover) or 'none'}"]
        if self.left_out:
            lines.append(
                f"left out (an unwanted decoder, positions that transformers computes itself): {', '.join(self.left_out)}"
            )
        if self.other_entries:
            lines.append(f"other entries, not carried over: {', '.join(self.other_entries)}")
        lines += [f"{name}: {value}" for name, value in self.settings]
        lines += [f"note: {note}" for note in self.notes]
        lines += [f"wrote {path}: {what}" for path, what in self.written]
        return "\n".join(lines)
