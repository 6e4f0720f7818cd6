"""Files of which only the newest few are kept: updates and states that the worker wrote.

IO: deletes files.
"""

from __future__ import annotations

from pathlib import Path

KEPT_FILES = 3


def keep_newest(folder: Path, pattern: str, newest: Path) -> None:
    """Keep the newest files of a kind."""
    newest.touch()
    files = sorted(folder.glob(pattern), key=lambda file: file.stat().st_mtime_ns, reverse=True)
    for file in files[KEPT_FILES:]:
        file.unlink(missing_ok=True)
