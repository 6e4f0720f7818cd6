"""Ties a worker's life to its parent's, takes its network away where that is allowed, and sets what libraries read.

IO: process settings only. Call before any thread starts.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_CLONE_NEWUSER = 0x10000000
_CLONE_NEWNET = 0x40000000


def die_with_parent(parent: int | None = None) -> None:
    """Ask Linux to kill this process when the thread that started it ends; end now if `parent` is dead already."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if parent is not None and os.getppid() != parent:
        os._exit(0)


def leave_network() -> bool:
    """Enter an empty network namespace; False where that is not allowed. Unix sockets and pipes keep working."""
    if sys.platform != "linux":
        return False
    unshare = ctypes.CDLL(None, use_errno=True).unshare
    uid, gid = os.geteuid(), os.getegid()
    if unshare(_CLONE_NEWNET) == 0:
        return True
    if unshare(_CLONE_NEWUSER | _CLONE_NEWNET) != 0:
        return False
    # Keep the own user and group inside the new user namespace, so that files look as before.
    for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
        try:
            Path(f"/proc/self/{name}").write_text(text)
        except OSError:
            break
    return True


def isolate(parent: int | None = None) -> bool:
    """Both; a new user namespace clears the death signal, so it is set again. Returns whether the network is gone."""
    die_with_parent(parent)
    isolated = leave_network()
    die_with_parent(parent)
    return isolated


def environment(threads: int) -> None:
    """Settings that libraries read when they are imported."""
    os.environ.update(
        HF_HUB_OFFLINE="1",
        TRANSFORMERS_OFFLINE="1",
        HF_HUB_DISABLE_TELEMETRY="1",
        HF_HUB_DISABLE_PROGRESS_BARS="1",
        TRANSFORMERS_VERBOSITY="error",
        TOKENIZERS_PARALLELISM="true",
        OMP_NUM_THREADS=str(threads),
        RAYON_NUM_THREADS=str(threads),
    )
