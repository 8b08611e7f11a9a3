"""Hashes by which a run knows that nothing has changed."""

import hashlib
import json
from typing import Any


def fingerprint_of(*parts: Any) -> str:
    """A hash of JSON-ready values: settings, versions, file names with size and time."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]
