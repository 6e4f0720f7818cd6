"""Where the gateway of a home listens: `run/api.sock` in the home, or a short private path named in `run/api.path`.

A unix socket's path may be about 107 bytes long, a home's may be longer; then the socket lies in a folder of its own
under the system's temporary folder and `run/api.path` says where. Imports nothing slow: the CLI uses it too.

IO: makes and removes the folder, the socket's name and the pointer file.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MAX_PATH_BYTES = 100


def find_socket(home: Path) -> Path:
    """The path at which the daemon of a home listens, if it runs."""
    try:
        return Path((home / "run" / "api.path").read_text("utf-8").strip())
    except OSError:
        return home / "run" / "api.sock"


@contextmanager
def claimed_socket(home: Path) -> Iterator[Path]:
    """A free path for the socket, removed afterwards. Only for the daemon that holds the home's lock."""
    run = home / "run"
    run.mkdir(mode=0o700, parents=True, exist_ok=True)
    _remove(home)
    path, pointer = run / "api.sock", run / "api.path"
    if len(bytes(path)) > MAX_PATH_BYTES:
        path = Path(tempfile.mkdtemp(prefix="forge-")) / "api.sock"
        pointer.write_text(f"{path}\n", "utf-8")
    try:
        yield path
    finally:
        _remove(home)


def _remove(home: Path) -> None:
    """Removes what this or a killed daemon left of its socket."""
    left = find_socket(home)
    left.unlink(missing_ok=True)
    if left.parent.name.startswith("forge-") and left.parent.parent == Path(tempfile.gettempdir()):
        shutil.rmtree(left.parent, ignore_errors=True)
    (home / "run" / "api.path").unlink(missing_ok=True)
