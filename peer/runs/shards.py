"""Which shards a manifest names.

IO: reads the manifest's file.
"""

from __future__ import annotations

import json
from pathlib import Path

from peer.errors import RunError

MANIFEST_BYTES = 64 << 20


def shards_of(manifest: Path) -> list[str]:
    """The shards' blob ids that a manifest names; the worker checks the rest of it. Raises RunError."""
    if manifest.stat().st_size > MANIFEST_BYTES:
        raise RunError("FP-407", f"manifest of {manifest.stat().st_size} bytes, at most {MANIFEST_BYTES} are read")
    try:
        shards = json.loads(manifest.read_bytes())["shards"]
        return [str(shard["id"]) if isinstance(shard, dict) else str(shard) for shard in shards]
    except (ValueError, KeyError, TypeError) as exc:
        raise RunError("FP-407", f"manifest {manifest.name[:16]}: names no shards ({exc})") from exc
