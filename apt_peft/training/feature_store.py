"""Features on disk: a folder that several processes may fill at once, and any of them be killed.

A file holds the features of some clips in one draw. Its name is a digest of everything that they depend on, so
a changed clip, weight or transform has another file; and it holds a digest of its numbers, so a damaged one is made anew.
"""

import hashlib
import json
import logging
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from peft.utils.other import ModulesToSaveWrapper
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from apt_peft.errors import AptError, ConfigError
from apt_peft.evaluation import unreadable_by_name
from apt_peft.scores.stream import PRECISIONS
from apt_peft.training import processes
from apt_peft.training.record import versions
from apt_peft.training.seam import Seam

logger = logging.getLogger(__name__)
# Clips of a file: so many, or fewer where they would be larger.
CHUNK, FILE_BYTES = 64, 2**28
# Part of every file's name: raise it when the same clips would come out otherwise.
FORMAT = 1
TENSOR, DIGEST, PART = "features", "sha256", ".part"
DAY = 86_400
# Of a data set, what does not decide on its features, or stands in their file's name by itself.
ELSEWHERE = frozenset({"clips", "cache", "seed", "decoder", "on_error", "time_limit"})
# Of a model's config, what does not decide on them.
NAMES = frozenset({"id2label", "label2id", "_name_or_path", "transformers_version"})
PACKAGES = ("torch", "torchvision", "transformers", "av")
# View, and places of the clips.
Job = tuple[int, range]


class FeatureStore:
    """A folder with the features of one model.

    Args:
        folder: made where it is missing.
        model: on its device.
        seam: its seam.
        batch_size: clips x views of a forward pass.
        workers: processes that decode.
        precision: as for `evaluate`.
        progress: show a bar.
    """

    def __init__(
        self,
        folder: Path,
        model: Any,
        seam: Seam,
        *,
        batch_size: int,
        workers: int = 0,
        precision: str = "float32",
        progress: bool = False,
    ) -> None:
        self.folder, self.model, self.seam = folder, model, seam
        self.batch_size, self.workers, self.precision, self.progress = batch_size, workers, precision, progress
        self.computed = self.found = self.bytes = 0
        self._model_key = model_fingerprint(model)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise unusable(folder, error) from None
        sweep(folder)

    def load(self, dataset: Any, *, views: int = 1, seeded: bool = False) -> list[list[Tensor]]:
        """The features of a data set, computed where they are not stored.

        Args:
            dataset: a `VideoDataset`.
            views: how many draws of each clip: those of its first so many epochs.
            seeded: whether draws differ by seed, epoch and place.

        Returns:
            For each draw, tensors (clips, ...) of as many clips, the last of what is left. Test views of a clip, and
            copies of an augmented one, are the second axis.

        Raises:
            DataError: a clip cannot be read.
            ConfigError: a file cannot be written.
        """
        clips = dataset.clips
        bytes_each = 4 * self.seam.numbers * dataset.segments * dataset.crops * dataset.repeats
        size = min(CHUNK, max(1, FILE_BYTES // bytes_each))
        chunks = [range(first, min(first + size, len(clips))) for first in range(0, len(clips), size)]
        jobs = [(view, chunk) for view in range(views) for chunk in chunks]
        paths = {job: self.folder / f"{self._key(dataset, *job, seeded)}.safetensors" for job in jobs}
        stored: dict[Job, Tensor] = {}
        # Each process computes a part; what then is not on the disk of this one is computed here, too.
        part = jobs[processes.rank() :: processes.world_size()]
        for error in processes.gather(self._fill(stored, dataset, part, paths)):
            if error is not None:
                raise error
        if error := self._fill(stored, dataset, jobs, paths):
            raise error
        self.bytes += sum(tensor.nbytes for tensor in stored.values())
        return [[stored[view, chunk] for chunk in chunks] for view in range(views)]

    def told(self) -> str:
        """What was found and made, in a line."""
        return (
            f"Features of the clips are in {self.folder}: {self.computed} files computed, {self.found} found, "
            f"{self.bytes / 1e6:.1f} MB."
        )

    def _fill(
        self, stored: dict[Job, Tensor], dataset: Any, jobs: Sequence[Job], paths: dict[Job, Path]
    ) -> AptError | None:
        """Add what is on the disk, then what is not; an error is given back, since other processes are to hear of it."""
        missing = []
        for job in jobs:
            if job in stored:
                continue
            tensor = self._read(paths[job], len(job[1]))
            if tensor is None:
                missing.append(job)
            else:
                stored[job] = tensor
                self.found += 1
        try:
            with unreadable_by_name():
                for job, tensor in self._compute(dataset, missing):
                    write(paths[job], tensor)
                    self.computed += 1
                    # Read again, the tensor is a part of the file that memory need not hold.
                    there = self._read(paths[job], len(job[1]))
                    stored[job] = tensor if there is None else there
        except AptError as error:
            return error
        return None

    def _compute(self, dataset: Any, jobs: Sequence[Job]) -> Iterator[tuple[Job, Tensor]]:
        dtype = PRECISIONS[self.precision]
        device = next(self.model.parameters()).device
        was_training = self.model.training
        self.model.eval()
        total = sum(len(chunk) for _, chunk in jobs)
        try:
            with tqdm(total=total, desc="features", unit="clip", disable=not self.progress, leave=False) as bar:
                for view, chunk, clips in self._clips(dataset, jobs):
                    parts = []
                    for batch in clips:
                        inputs = batch.flatten(0, -5) if batch.dim() > 5 else batch
                        with torch.autocast(device.type, dtype=dtype or torch.bfloat16, enabled=dtype is not None):
                            rows = [
                                self.seam.features(self.model, part.to(device)).cpu()
                                for part in inputs.split(self.batch_size)
                            ]
                        parts.append(torch.cat(rows).unflatten(0, batch.shape[:-4]))
                        bar.update(len(batch))
                    yield (view, chunk), torch.cat(parts)
        finally:
            self.model.train(was_training)
            dataset.set_epoch(0)

    def _clips(self, dataset: Any, jobs: Sequence[Job]) -> Iterator[tuple[int, range, Iterator[Tensor]]]:
        """Each job's clips in batches that depend on the job alone: what was computed before doesn't change its numbers."""
        size = max(1, self.batch_size // (dataset.segments * dataset.crops * dataset.repeats))
        for view in sorted({view for view, _ in jobs}):
            dataset.set_epoch(view)
            chunks = [chunk for of, chunk in jobs if of == view]
            cuts = {chunk: [list(chunk[i : i + size]) for i in range(0, len(chunk), size)] for chunk in chunks}
            loader = DataLoader(
                dataset,
                batch_sampler=[cut for chunk in chunks for cut in cuts[chunk]],
                num_workers=self.workers,
                # A loader otherwise draws its seed from torch's state, which training goes on with.
                generator=torch.Generator().manual_seed(0),
            )
            batches = iter(loader)
            for chunk in chunks:
                yield view, chunk, (next(batches)["pixel_values"] for _ in cuts[chunk])

    def _key(self, dataset: Any, view: int, chunk: range, seeded: bool) -> str:
        """Changes with the clips, and with everything else that decides on what a file holds."""
        facts = {n: repr(v) for n, v in vars(dataset).items() if n not in ELSEWHERE and not n.startswith("_")}
        if dataset.cache is not None and dataset.cache.format != "raw":  # its frames are not those of the videos
            facts["cache_format"] = dataset.cache.format
        drawn = (dataset.seed, view, chunk) if seeded else ()
        clips = [dataset.clips[index].fingerprint() for index in chunk]
        text = repr((FORMAT, self._model_key, self.precision, versions(PACKAGES), sorted(facts.items()), drawn, clips))
        return hashlib.sha256(text.encode()).hexdigest()

    def _read(self, path: Path, clips: int) -> Tensor | None:
        """A file's tensor, mapped into memory; None where there is no such file or it is not as it was written."""
        try:
            with safe_open(path, framework="pt") as file:
                tensor, wanted = file.get_tensor(TENSOR), (file.metadata() or {}).get(DIGEST)
        except FileNotFoundError:
            return None
        except (SafetensorError, OSError):
            wanted = None
        if wanted is None or len(tensor) != clips or digest(tensor) != wanted:
            logger.warning("%s is damaged; its features are computed anew.", path)
            return None
        return tensor


def digest(tensor: Tensor) -> str:
    """SHA-256 of a tensor's dtype, shape and numbers."""
    found = hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
    found.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return found.hexdigest()


def model_fingerprint(model: nn.Module) -> str:
    """Changes with every number of a model's frozen part, with its config, and with which modules are trained.

    Args:
        model: a `PeftModel` that trains its head alone.

    Returns:
        64 hexadecimal digits.
    """
    heads = [name for name, module in model.named_modules() if isinstance(module, ModulesToSaveWrapper)]
    found = hashlib.sha256(repr(sorted(heads)).encode())
    config = {name: value for name, value in model.config.to_dict().items() if name not in NAMES}
    found.update(json.dumps(config, sort_keys=True, default=str).encode())
    for name, tensor in sorted([*model.named_parameters(), *model.named_buffers()]):
        if not any(name.startswith(f"{head}.") for head in heads):
            found.update(f"{name} {digest(tensor)}".encode())
    return found.hexdigest()


def write(path: Path, tensor: Tensor) -> None:
    """Write features beside their place and move them there: a reader finds the whole file or none.

    Args:
        path: the file.
        tensor: the features.

    Raises:
        ConfigError: it cannot be written.
    """
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.stem, suffix=PART)
        os.close(handle)
        try:
            save_file({TENSOR: tensor.contiguous()}, temporary, metadata={DIGEST: digest(tensor)})
            os.chmod(temporary, 0o644)  # a folder may be shared; mkstemp's files are the user's own
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
    except (OSError, SafetensorError) as error:
        raise unusable(path.parent, error) from None


def unusable(folder: Path, error: Exception) -> ConfigError:
    """The error for a folder that features cannot be written to."""
    return ConfigError(
        f"feature_cache ({folder}) must be a folder that can be written to, but: {getattr(error, 'strerror', None) or error}. "
        "Free space, or name another."
    )


def sweep(folder: Path) -> None:
    """Delete what killed processes left half-written, a day after."""
    for part in folder.glob(f"*{PART}"):
        with suppress(FileNotFoundError):
            if time.time() - part.stat().st_mtime > DAY:
                part.unlink()
