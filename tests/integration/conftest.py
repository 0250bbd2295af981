"""What runs need."""

from runs import backbone, data, quick, steps  # noqa: F401
from trainers import arguments  # noqa: F401
