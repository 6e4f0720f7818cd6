"""A pytest plugin (`-p more_examples`) that gives every hypothesis test FORGE_EXAMPLES times its examples (default 20).

It is loaded before the test modules, so it also reaches those that set their own `max_examples`.

IO: reads the environment; changes hypothesis in this process.
"""

from __future__ import annotations

import os
from typing import Any

import hypothesis

FACTOR = int(os.environ.get("FORGE_EXAMPLES", "20"))
USUAL = 100
_settings: Any = hypothesis.settings


class More(_settings):  # type: ignore[misc]
    """`hypothesis.settings` with more examples."""

    def __init__(self, *arguments: Any, **values: Any) -> None:
        """As usual, but for `max_examples`."""
        values["max_examples"] = FACTOR * int(values.get("max_examples", USUAL))
        super().__init__(*arguments, **values)


os.environ["HYPOTHESIS_PROFILE"] = "nightly"  # tests/conftest.py leaves it alone then
_settings.register_profile(
    "nightly",
    max_examples=FACTOR * USUAL,
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
_settings.load_profile("nightly")
hypothesis.settings = More  # type: ignore[misc]
