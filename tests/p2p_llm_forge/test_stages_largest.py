"""The table of the largest models says what the cost and memory figures come to."""

import pytest

from scripts import largest

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("peers", [4, 16])
def test_a_row_of_the_table_is_what_is_reckoned(peers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(largest, "SHAPES", [shape for shape in largest.SHAPES if shape[1] <= 2560])
    assert largest.largest(peers).line() in largest.TABLE.read_text("utf-8").splitlines()


def test_the_table_has_a_row_for_every_number_of_peers_and_the_text_of_the_script() -> None:
    text = largest.TABLE.read_text("utf-8")
    assert text.startswith(largest.HEAD)
    assert [line.split(" | ")[0] for line in text.splitlines()[-len(largest.PEERS) :]] == [
        f"| {peers}" for peers in largest.PEERS
    ]


@pytest.mark.slow
def test_the_whole_table_is_what_is_reckoned() -> None:
    assert largest.table([largest.largest(peers) for peers in largest.PEERS]) == largest.TABLE.read_text("utf-8")
