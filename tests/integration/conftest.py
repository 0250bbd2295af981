"""What runs need."""

from runs import backbone, data, quick  # noqa: F401
from trainers import arguments  # noqa: F401
