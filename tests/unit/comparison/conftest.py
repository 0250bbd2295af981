"""What comparisons need: a tiny backbone and tiny clips."""

from runs import backbone, data  # noqa: F401
