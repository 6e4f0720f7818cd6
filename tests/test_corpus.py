"""The sample corpus is what its generator writes, and is fit to learn from.

IO: runs the generator in a subprocess.
"""

import re
import subprocess
import sys
from pathlib import Path

DATA = Path(__file__).parents[1] / "data"


def test_regenerating_gives_the_same_bytes(tmp_path: Path) -> None:
    again = tmp_path / "again.txt"
    subprocess.run([sys.executable, DATA / "generate_corpus.py", "--out", again], check=True, timeout=60)
    assert again.read_bytes() == (DATA / "sample_corpus.txt").read_bytes()


def test_another_seed_gives_another_text(tmp_path: Path) -> None:
    other = tmp_path / "other.txt"
    command = [sys.executable, DATA / "generate_corpus.py", "--seed", "7", "--size", "2000", "--out", other]
    subprocess.run(command, check=True, timeout=60)
    assert 2000 <= other.stat().st_size < 5000
    assert other.read_bytes()[:1000] != (DATA / "sample_corpus.txt").read_bytes()[:1000]


def test_the_corpus_has_the_size_and_the_vocabulary_of_a_small_language() -> None:
    text = (DATA / "sample_corpus.txt").read_text("ascii")
    assert 300_000 <= len(text) <= 600_000
    words = re.findall(r"[a-z]+", text.lower())
    assert len(set(words)) > 2500
