"""The newest state on its way into the blob store: nobody waits for it between rounds, and nobody misses it.

IO: a blob store.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from peer.blobs.chunks import id_of
from peer.blobs.store import BlobStore
from peer.errors import QuotaFull, RunError
from peer.runs.keeping import Keeping

STATE = b"state" * 1000


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "blobs", quota_bytes=6000)


def written(tmp_path: Path, data: bytes = STATE) -> tuple[str, Path]:
    """A state that the worker wrote: its id, and the file."""
    path = tmp_path / "state.safetensors"
    path.write_bytes(data)
    return id_of(data), path


async def test_a_state_is_in_the_store_once_it_is_waited_for(store: BlobStore, tmp_path: Path) -> None:
    keeping = Keeping(store, "run")
    state, path = written(tmp_path)
    keeping.begin(state, path)
    await keeping.done("another blob")
    await keeping.done(state)
    assert store.has(state)
    await keeping.done()


async def test_what_cannot_be_kept_is_told_to_whoever_asks_and_tried_again(store: BlobStore, tmp_path: Path) -> None:
    other = await store.add_bytes(b"x" * 3000)
    await store.pin([other], "somebody")
    keeping = Keeping(store, "run")
    state, path = written(tmp_path)
    keeping.begin(state, path)
    for _ in range(2):
        with pytest.raises(QuotaFull):
            await keeping.done()
    await store.unpin("somebody")
    await keeping.done()
    assert store.has(state)


async def test_a_state_whose_file_went_away_is_given_up(store: BlobStore, tmp_path: Path) -> None:
    keeping = Keeping(store, "run")
    state, path = written(tmp_path)
    path.unlink()
    keeping.begin(state, path)
    with pytest.raises(FileNotFoundError):
        await keeping.done()
    await keeping.done()
    assert not store.has(state)


async def test_a_worker_that_wrote_something_else_than_it_named_is_found_out(store: BlobStore, tmp_path: Path) -> None:
    keeping = Keeping(store, "run")
    _, path = written(tmp_path)
    keeping.begin(id_of(b"other"), path)
    with pytest.raises(RunError, match="FP-406"):
        await keeping.done()
    await keeping.done()


async def test_the_end_waits_but_breaks_nothing(store: BlobStore, tmp_path: Path) -> None:
    keeping = Keeping(store, "run")
    await keeping.end()
    keeping.begin(id_of(b"other"), written(tmp_path)[1])
    await keeping.end()
