"""`scripts/setup` tells in one clear line what keeps it from working.

IO: runs a copy of the script in a temporary folder.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """What a fresh clone has, as far as the script reads it."""
    for name in ("pyproject.toml", "constraints.txt", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "scripts" / "setup", tmp_path / "scripts" / "setup")
    return tmp_path


def setup(clone: Path, **environment: str) -> tuple[int, str]:
    """Exit status, and the lines on standard error."""
    done = subprocess.run(
        [clone / "scripts" / "setup"],
        env=os.environ | {"FORGE_PYTHON": sys.executable} | environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    return done.returncode, done.stderr


def wrapper(folder: Path, body: str) -> str:
    """A script that stands in for Python."""
    path = folder / "python-of-this-test"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return str(path)


def test_an_unsupported_python_is_one_line(clone: Path) -> None:
    status, told = setup(clone, FORGE_PYTHON=wrapper(clone, "echo 3.9.2"))
    assert status == 1
    assert told.count("\n") == 1
    assert "unsupported Python" in told
    assert "3.9.2" in told


def test_a_missing_venv_module_is_one_line_with_the_package_to_install(clone: Path) -> None:
    python = wrapper(clone, f'case "$*" in *ensurepip*) exit 1;; esac\nexec {sys.executable} "$@"')
    status, told = setup(clone, FORGE_PYTHON=python)
    assert status == 1
    assert told.count("\n") == 1
    assert "has no venv module" in told
    assert f"apt install python{sys.version_info[0]}.{sys.version_info[1]}-venv" in told


def test_an_unknown_torch_is_one_line(clone: Path) -> None:
    status, told = setup(clone, FORGE_TORCH="fast")
    assert status == 1
    assert told == (
        "setup: FORGE_TORCH is 'fast', wanted cpu, cuda, a version such as 2.13.0, or the URL or path of a wheel\n"
    )


def test_without_a_network_it_says_so_in_one_line(clone: Path) -> None:
    nowhere = {"PIP_CONFIG_FILE": os.devnull, "PIP_INDEX_URL": "http://127.0.0.1:9/", "PIP_FIND_LINKS": str(clone)}
    status, told = setup(clone, FORGE_TORCH="2.13.0", PIP_EXTRA_INDEX_URL="", PIP_NO_CACHE_DIR="1", **nowhere)
    assert status == 1
    assert told.count("\n") == 1
    assert "no network: pip cannot reach its package index" in told


def test_a_set_up_tree_is_left_alone(clone: Path) -> None:
    (clone / ".venv" / "bin").mkdir(parents=True)
    (clone / ".venv" / "bin" / "python").symlink_to(sys.executable)
    script = (ROOT / "scripts" / "setup").read_text()
    stamp = script[script.index("stamp_now()") :].splitlines()[0]
    write = f'cd {clone}; {stamp}; stamp_now | sha256sum >.venv/forge-stamp'
    subprocess.run(["bash", "-c", write], env=os.environ | {"FORGE_PYTHON": sys.executable}, check=True)
    assert setup(clone) == (0, "")
    (clone / "constraints.txt").write_text("")
    nowhere = {"PIP_CONFIG_FILE": os.devnull, "PIP_INDEX_URL": "http://127.0.0.1:9/", "PIP_FIND_LINKS": str(clone)}
    assert setup(clone, FORGE_TORCH="2.13.0", PIP_EXTRA_INDEX_URL="", **nowhere)[0] == 1
