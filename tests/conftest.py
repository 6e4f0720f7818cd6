"""What all tests share: hypothesis without clocks, and the same examples in every run.

`scripts/nightly` draws other examples, and more of them.
"""

import os

from hypothesis import HealthCheck, settings

settings.register_profile(
    "repeatable", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
if "HYPOTHESIS_PROFILE" not in os.environ:
    settings.load_profile("repeatable")
