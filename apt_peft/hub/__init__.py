"""The Hugging Face Hub: files whole or not at all, requests within bounds, and one clear line where it fails."""

from .fetching import download, list_files
from .pushing import CARD, HERE, check, push
from .reasons import reason

__all__ = ["CARD", "HERE", "check", "download", "list_files", "push", "reason"]
