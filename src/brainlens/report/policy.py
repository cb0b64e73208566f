"""The content security policy of a page allows its own style and scripts by their hashes, and nothing else."""

from __future__ import annotations

import base64
import hashlib


def source_hash(text: str) -> str:
    """The hash by which a policy allows an inline style or script: 'sha256-HASH' there."""
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
