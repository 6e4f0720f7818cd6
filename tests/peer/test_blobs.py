"""The blob store: whole or not there, within its quota, honest after a crash and on a full disk."""

import errno
import os
from pathlib import Path

import pytest

from peer.blobs.chunks import CHUNK_BYTES, id_of, leaves_of
from peer.blobs.store import BlobStore
from peer.errors import BlobMissing, DiskFull, Oversize, QuotaFull

BIG = os.urandom(3 * CHUNK_BYTES + 7)


def store(tmp_path: Path, quota_bytes: int = 1 << 30) -> BlobStore:
    return BlobStore(tmp_path / "blobs", quota_bytes)


def files(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "blobs").rglob("*") if path.is_file())


async def test_bytes_are_kept_under_their_id(tmp_path: Path) -> None:
    blobs = store(tmp_path)
    blob = await blobs.add_bytes(b"hello")
    assert blob == id_of(b"hello")
    assert blobs.has(blob)
    assert blobs.path(blob).read_bytes() == b"hello" == await blobs.read(blob)
    assert await blobs.add_bytes(b"hello") == blob
    assert blobs.used_bytes == 5


async def test_a_file_is_kept_with_the_same_id_and_survives_its_source(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(BIG)
    blobs = store(tmp_path)
    blob = await blobs.add_file(source)
    source.unlink()
    assert blob == id_of(BIG)
    assert blobs.path(blob).read_bytes() == BIG
    assert await blobs.leaves(blob) == leaves_of(BIG)
    assert files(tmp_path) == [blob]


async def test_a_file_on_another_disk_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_link(*arguments: object) -> None:
        raise OSError(errno.EXDEV, "other device")

    monkeypatch.setattr(os, "link", no_link)
    source = tmp_path / "source"
    source.write_bytes(BIG)
    blobs = store(tmp_path)
    assert blobs.path(await blobs.add_file(source)).read_bytes() == BIG


async def test_the_empty_blob_can_be_kept(tmp_path: Path) -> None:
    blobs = store(tmp_path)
    assert await blobs.read(await blobs.add_bytes(b"")) == b""


async def test_chunks_are_read_singly(tmp_path: Path) -> None:
    blobs = store(tmp_path)
    blob = await blobs.add_bytes(BIG)
    assert b"".join([await blobs.chunk(blob, index) for index in range(4)]) == BIG
    for index in (4, 2**40):
        with pytest.raises(BlobMissing):
            await blobs.chunk(blob, index)


async def test_what_is_not_here_is_named(tmp_path: Path) -> None:
    blobs = store(tmp_path)
    missing = id_of(b"missing")
    for ask in (blobs.chunk(missing, 0), blobs.leaves(missing), blobs.read(missing)):
        with pytest.raises(BlobMissing, match=missing[:16]):
            await ask


async def test_reading_has_a_limit(tmp_path: Path) -> None:
    blobs = store(tmp_path)
    with pytest.raises(Oversize):
        await blobs.read(await blobs.add_bytes(BIG))


# ---------------------------------------------------------------- quota


async def test_the_least_recently_used_unpinned_blob_is_evicted_first(tmp_path: Path) -> None:
    blobs = store(tmp_path, 30)
    a, b, c = [await blobs.add_bytes(bytes([number]) * 10) for number in range(3)]
    await blobs.pin([a], "run")
    blobs.path(b)
    d = await blobs.add_bytes(b"d" * 10)
    assert blobs.ids() == [a, b, d]
    await blobs.unpin("run")
    await blobs.add_bytes(b"e" * 10)
    assert not blobs.has(a)
    assert not blobs.has(c)


async def test_a_full_quota_is_refused_and_evicts_nothing_in_vain(tmp_path: Path) -> None:
    blobs = store(tmp_path, 30)
    pinned = await blobs.add_bytes(b"p" * 20)
    loose = await blobs.add_bytes(b"l" * 10)
    await blobs.pin([pinned], "run")
    with pytest.raises(QuotaFull, match="blob_quota_gb"):
        await blobs.add_bytes(b"x" * 15)
    assert blobs.has(loose)
    assert blobs.used_bytes == 30


async def test_a_pin_may_come_before_its_blob(tmp_path: Path) -> None:
    blobs = store(tmp_path, 20)
    await blobs.pin([id_of(b"a" * 10)], "run")
    a, b = await blobs.add_bytes(b"a" * 10), await blobs.add_bytes(b"b" * 10)
    await blobs.add_bytes(b"c" * 10)
    assert (blobs.has(a), blobs.has(b)) == (True, False)


# ---------------------------------------------------------------- crashes and full disks


async def test_a_restart_finds_what_was_kept_and_sweeps_what_was_not(tmp_path: Path) -> None:
    blobs = store(tmp_path)
    first, second = await blobs.add_bytes(b"first"), await blobs.add_bytes(b"second")
    folder = tmp_path / "blobs"
    (folder / ".tmp-dead").write_bytes(b"x")
    (folder / first[:2] / ".tmp-dead").write_bytes(b"x")
    (folder / "parts" / "junk").write_bytes(b"x")
    (folder / second[:2] / second).write_bytes(b"sec")
    again = store(tmp_path)
    assert again.ids() == [first]
    assert files(tmp_path) == [first]


async def test_a_file_that_is_cut_short_behind_our_back_is_not_believed(tmp_path: Path) -> None:
    blobs = store(tmp_path)
    blob = await blobs.add_bytes(b"whole")
    (tmp_path / "blobs" / blob[:2] / blob).write_bytes(b"who")
    with pytest.raises(BlobMissing):
        blobs.path(blob)
    assert not blobs.has(blob)


async def test_on_a_full_disk_nothing_half_written_is_left_or_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blobs = store(tmp_path)
    real = os.write

    def full_after_one_byte(handle: int, data: bytes) -> int:
        if len(data) > 4:
            return real(handle, data[:4])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full_after_one_byte)
        with pytest.raises(DiskFull, match=r"the disk is full, needs 7 bytes"):
            await blobs.add_bytes(b"1234567")
    assert files(tmp_path) == []
    assert blobs.used_bytes == 0
    assert await blobs.read(await blobs.add_bytes(b"1234567")) == b"1234567"


async def test_a_download_that_does_not_fit_on_the_disk_is_refused_before_it_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    blobs = store(tmp_path)
    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(DiskFull, match=str(len(BIG))):
        async with blobs.download(id_of(BIG), leaves_of(BIG)):
            pytest.fail("it began")
    assert files(tmp_path) == []
    assert blobs.used_bytes == 0


# ---------------------------------------------------------------- downloads


async def test_a_finished_download_is_a_blob(tmp_path: Path) -> None:
    blobs = store(tmp_path)
    blob = id_of(BIG)
    async with blobs.download(blob, leaves_of(BIG)) as partial:
        for index in range(4):
            partial.write(index, BIG[index * CHUNK_BYTES : (index + 1) * CHUNK_BYTES])
    assert blobs.path(blob).read_bytes() == BIG
    assert files(tmp_path) == [blob]
    assert blobs.used_bytes == len(BIG)


async def test_an_interrupted_download_resumes_after_a_restart_with_what_is_really_there(tmp_path: Path) -> None:
    blob, leaves = id_of(BIG), leaves_of(BIG)
    with pytest.raises(RuntimeError, match="interrupted"):
        async with store(tmp_path).download(blob, leaves) as partial:
            partial.write(1, BIG[CHUNK_BYTES : 2 * CHUNK_BYTES])
            partial.write(3, BIG[3 * CHUNK_BYTES :])
            raise RuntimeError("interrupted")
    with (tmp_path / "blobs" / "parts" / f"{blob}.part").open("r+b") as file:
        file.seek(3 * CHUNK_BYTES + 2)
        file.write(b"\0\0\0")
    again = store(tmp_path)
    assert not again.has(blob)
    assert again.used_bytes == len(BIG)
    assert again.kept_leaves(blob) == b"".join(leaves)
    with pytest.raises(RuntimeError, match="again"):
        async with again.download(blob, leaves) as partial:
            assert partial.have == {1}
            assert await again.chunk(blob, 1) == BIG[CHUNK_BYTES : 2 * CHUNK_BYTES]
            with pytest.raises(BlobMissing):
                await again.chunk(blob, 3)
            raise RuntimeError("again")


async def test_parts_nobody_works_on_are_evicted_before_blobs(tmp_path: Path) -> None:
    blob, leaves = id_of(BIG), leaves_of(BIG)
    blobs = store(tmp_path, len(BIG) + 10)
    small = await blobs.add_bytes(b"small")
    with pytest.raises(RuntimeError):
        async with blobs.download(blob, leaves) as partial:
            partial.write(0, BIG[:CHUNK_BYTES])
            raise RuntimeError
    await blobs.add_bytes(b"x" * 100)
    assert blobs.has(small)
    assert blobs.kept_leaves(blob) == b""


async def test_a_late_write_of_a_cancelled_download_touches_nothing(tmp_path: Path) -> None:
    blobs = store(tmp_path)
    async with blobs.download(id_of(BIG), leaves_of(BIG)) as partial:
        pass
    other = os.open(tmp_path / "other", os.O_RDWR | os.O_CREAT)  # takes the number of the closed handle
    try:
        partial.write(0, BIG[:CHUNK_BYTES])
        with pytest.raises(BlobMissing):
            partial.read(0)
        assert os.fstat(other).st_size == 0
    finally:
        os.close(other)
