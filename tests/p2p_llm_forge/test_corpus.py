"""The corpus: every text is read back exactly, everything that is not text is refused with its place."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from p2p_llm_forge.data import corpus
from p2p_llm_forge.errors import CorpusError


def refusal(path: Path) -> str:
    """What reading this file says."""
    with pytest.raises(CorpusError) as caught:
        list(corpus.pieces(path))
    assert caught.value.code == "FP-102"
    return caught.value.message


def test_missing_empty_and_folder_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").touch()
    assert "No such file" in refusal(tmp_path / "none.txt")
    assert "is empty" in refusal(tmp_path / "empty.txt")
    assert "is a folder" in refusal(tmp_path)


def test_binary_is_refused_with_the_offset(tmp_path: Path) -> None:
    (tmp_path / "b").write_bytes(b"abc\x00def")
    assert "a zero byte at 3" in refusal(tmp_path / "b")
    (tmp_path / "c").write_bytes(b"a" * 10 + b"\xff\xfe")
    assert "not UTF-8 text at byte 10" in refusal(tmp_path / "c")
    (tmp_path / "d").write_bytes(b"a" * (corpus.PIECE_BYTES - 1) + b"\xc3" + b"(")
    assert f"not UTF-8 text at byte {corpus.PIECE_BYTES - 1}" in refusal(tmp_path / "d")
    (tmp_path / "e").write_bytes(b"cut \xe2\x82")
    assert "not UTF-8 text at byte 4" in refusal(tmp_path / "e")


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), min_size=1), st.integers(1, 9))
def test_the_pieces_are_the_text(tmp_path: Path, text: str, piece_bytes: int) -> None:
    path = tmp_path / "t"
    path.write_bytes(text.encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(corpus, "PIECE_BYTES", piece_bytes)
        assert "".join(corpus.pieces(path)) == text


def test_progress_ends_at_the_size(tmp_path: Path) -> None:
    (tmp_path / "t").write_text("a line\n" * 100_000)
    seen: list[tuple[str, int, int]] = []
    list(corpus.pieces(tmp_path / "t", lambda *event: seen.append(event), "phase"))
    assert seen[-1] == ("phase", 700_000, 700_000)
