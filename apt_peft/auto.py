"""Loading an adapter together with its base in one call."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from peft import PeftConfig, PeftModel
from peft.auto import _BaseAutoPeftModel
from transformers import AutoConfig, AutoModelForVideoClassification

from .checkpoints.adapter import load_adapter
from .checkpoints.backbone import check_backbone
from .checkpoints.source import find_adapter

# Options of the Hub that are for the adapter and its base alike.
HUB = ("token", "cache_dir", "local_files_only")
# Options of PeftModel.from_pretrained; what is left goes to the base.
PEFT = ("autocast_adapter_dtype", "low_cpu_mem_usage", "torch_device")


class AutoPeftModelForVideoClassification(_BaseAutoPeftModel):
    """PEFT's auto class for video classification: `from_pretrained(adapter)` brings base, prompts, head and labels.

    A `device_map` and an `offload_folder` go to the base.
    """

    _target_class = AutoModelForVideoClassification
    _target_peft_class = PeftModel

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        adapter_name: str = "default",
        is_trainable: bool = False,
        config: PeftConfig | None = None,
        revision: str | None = None,
        subfolder: str | None = None,
        **kwargs: Any,
    ) -> PeftModel:
        """Load an adapter, and the base that it names.

        Args:
            pretrained_model_name_or_path: folder of the adapter, or `user/name` on the Hub.
            adapter_name: of the adapter in the model.
            is_trainable: whether it is trained further.
            config: settings instead of the adapter's own.
            revision: branch, tag or commit of the adapter; the base has the one that the adapter's config names.
            subfolder: where in the folder or the repository the adapter is.
            **kwargs: `token`, `cache_dir` and `local_files_only` of the Hub; `autocast_adapter_dtype`, `low_cpu_mem_usage`
                and `torch_device` of PEFT; others, such as `dtype` and `device_map`, are for the base.

        Returns:
            The model, in evaluation mode unless it is trained further.

        Raises:
            CheckpointError: the adapter is not there, not whole, not safe to read or made for another base.
        """
        shared = {name: kwargs[name] for name in HUB if name in kwargs}
        for_peft = {name: kwargs.pop(name) for name in PEFT if name in kwargs}
        kwargs.pop("import_allowlist", None)  # nothing is imported that an adapter names
        files = find_adapter(pretrained_model_name_or_path, revision=revision, subfolder=subfolder, **shared)
        if config is not None:
            files = replace(files, config=config)
        name = files.backbone("Load the base yourself, and then PeftModel.from_pretrained(base, adapter).")
        of_base = {"revision": files.config.revision or "main", "trust_remote_code": False}
        base_config = AutoConfig.from_pretrained(name, **of_base, **shared)
        if "fc_norm" in (files.config.modules_to_save or []) and hasattr(base_config, "use_mean_pooling"):
            kwargs.setdefault("use_mean_pooling", True)  # the adapter was trained so
        check_backbone(name)
        base = cls._target_class.from_pretrained(name, **(of_base | kwargs))
        # PEFT takes Accelerate's hooks off a base with a device map and dispatches it anew, which fails around an
        # attention. Prompts need none of that: they are small, and stay where their layer computes.
        device_map = base.__dict__.pop("hf_device_map", None)
        model = load_adapter(base, files, name=name, adapter_name=adapter_name, is_trainable=is_trainable, **for_peft)
        if device_map is not None:
            base.hf_device_map = device_map
        return model
