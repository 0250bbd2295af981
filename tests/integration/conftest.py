"""What runs need."""

from runs import backbone, data, quick  # noqa: F401
