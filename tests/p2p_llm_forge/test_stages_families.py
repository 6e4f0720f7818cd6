"""The table of families that can be cut into stages says what is found when they are tried."""

import re

import pytest

from scripts import families

pytestmark = pytest.mark.usefixtures("one_thread")

SOME = ["bloom", "falcon", "gemma2", "gpt2", "gptj", "mixtral", "opt", "qwen3", "gemma3n_text", "xlm"]
ROW = re.compile(r"^\| ([\w-]+) \| (exact|·) \| (exact|·) \| (exact|·) \|$", re.MULTILINE)


def committed() -> str:
    """The document in the repository."""
    return families.TABLE.read_text("utf-8")


@pytest.mark.parametrize("family", SOME)
@pytest.mark.filterwarnings("ignore")
def test_a_row_of_the_table_is_what_is_found(family: str) -> None:
    assert families.examine(family).line() in committed().splitlines()


def test_at_least_thirty_families_are_exact_and_every_family_is_in_the_table() -> None:
    rows = ROW.findall(committed())
    assert len(rows) >= 30
    assert all("exact" in row[1:3] for row in rows)
    assert sum("exact" in row[1] and "exact" in row[2] for row in rows) >= 30
    named = re.findall(r"^\| ([\w-]+) \|", committed(), re.MULTILINE)
    assert sorted(set(named) - {"family"}) == families.families()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_whole_table_is_what_is_found() -> None:
    assert families.table(list(families.examined(families.families()))) == committed()
