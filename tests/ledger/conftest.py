"""What the tests of `forge-ledger` share."""

import pytest

from .cli_kit import make_home


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A home folder with a small ledger; to be copied before it is changed."""
    return make_home(tmp_path_factory.mktemp("home"))
