"""The certified ledger, made once, and copies of it to tamper with.

IO: SQLite files in temporary folders.
"""

import pytest

from ledger.store.store import Store

from .kit import DATA, GENESIS, RUN_LOG, Ledger, build, head


@pytest.fixture(scope="session")
def sound_file(tmp_path_factory):
    """The file that nobody tampers with."""
    return build(tmp_path_factory.mktemp("certified"))


@pytest.fixture
def ledger(sound_file, tmp_path):
    """A copy to tamper with."""
    return Ledger(sound_file, tmp_path / "ledger.db")


@pytest.fixture
def replica(tmp_path):
    """An empty store of the network, which believes nothing that it has not checked."""
    with Store.open(tmp_path / "replica.db", GENESIS, create=True) as store:
        yield store


@pytest.fixture
def note():
    """The run's head, signed by its leader."""
    return head(RUN_LOG, DATA[RUN_LOG])
