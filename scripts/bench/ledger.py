"""The benchmark of the ledger, which is `ledger_bench.py`, under the name by which it is called.

A script's folder stands first in `sys.path`, so the scripts beside this file find it where they mean the package of the
same name. When it is imported, it therefore steps aside for the package.

IO: runs the benchmark.
"""

from __future__ import annotations

import importlib
import runpy
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


def step_aside() -> None:
    """Put the package in place of this module, as if it had been found at once."""
    before = list(sys.path)
    sys.path[:] = [place for place in before if Path(place).resolve() != HERE]
    del sys.modules[__name__]
    try:
        importlib.import_module(__name__)
    finally:
        sys.path[:] = before


if __name__ == "__main__":
    runpy.run_path(str(HERE / "ledger_bench.py"), run_name="__main__")
else:
    step_aside()
