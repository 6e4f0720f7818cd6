"""What the machine has, with and without a GPU, inside and outside a container."""

import types
from pathlib import Path

import pytest

from peer import resources


def test_this_machine_has_cores_memory_and_disk(tmp_path: Path) -> None:
    found = resources.measure(tmp_path / "not" / "there" / "yet")
    assert found.cores >= 1
    assert 0 < found.available_bytes <= found.memory_bytes
    assert found.disk_free_bytes > 0
    assert found.cpu


def test_a_container_limit_is_believed_only_where_it_is_a_number(tmp_path: Path) -> None:
    file = tmp_path / "memory.max"
    assert resources._container_limit(file) == 0
    file.write_text("max\n")
    assert resources._container_limit(file) == 0
    file.write_text("1073741824\n")
    assert resources._container_limit(file) == 1 << 30


def test_a_machine_without_the_library_has_no_gpu() -> None:
    assert resources.gpus("no_such_module") == ()


class NVMLError(Exception):
    pass


def fake(fail_at: str = "") -> types.SimpleNamespace:
    def call(name: str, value: object) -> object:
        def function(*arguments: object) -> object:
            if name == fail_at:
                raise NVMLError(name)
            return value

        return function

    memory = types.SimpleNamespace(total=16 << 30, free=15 << 30)
    values = {"Init": None, "Shutdown": None, "DeviceGetCount": 2, "DeviceGetHandleByIndex": "handle",
              "DeviceGetName": b"Card", "DeviceGetMemoryInfo": memory}  # fmt: skip
    return types.SimpleNamespace(NVMLError=NVMLError, **{f"nvml{name}": call(name, v) for name, v in values.items()})


@pytest.mark.parametrize(("fail_at", "count"), [("", 2), ("Init", 0), ("DeviceGetName", 0)])
def test_gpus_are_counted_where_there_is_a_driver(monkeypatch: pytest.MonkeyPatch, fail_at: str, count: int) -> None:
    monkeypatch.setattr(resources.importlib, "import_module", lambda name: fake(fail_at))
    found = resources.gpus()
    assert len(found) == count
    assert all(gpu.name == "Card" and gpu.memory_bytes == 16 << 30 for gpu in found)


def test_the_device_is_cuda_where_there_is_a_gpu() -> None:
    def machine(*gpus: resources.Gpu) -> resources.Resources:
        return resources.Resources(
            cores=1, memory_bytes=8, available_bytes=4, disk_free_bytes=1, cpu="x", gpus=tuple(gpus)
        )

    gpu = resources.Gpu(name="Card", memory_bytes=16, free_bytes=15)
    assert (machine().device, machine().device_memory_bytes) == ("cpu", 8)
    assert (machine(gpu).device, machine(gpu).device_memory_bytes) == ("cuda", 16)
