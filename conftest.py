"""What holds for all tests: how Hypothesis draws examples. HYPOTHESIS_PROFILE=thorough tries many more."""

from __future__ import annotations

import os
from typing import Any

try:
    from hypothesis import HealthCheck, settings
except ImportError:  # some runtimes are tested where there is none
    pass
else:
    # No deadline, and no judgement of how quickly examples are drawn: machines that run tests are busy.
    unhurried: dict[str, Any] = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
    settings.register_profile("quick", max_examples=50, **unhurried)
    settings.register_profile("thorough", max_examples=2_000, **unhurried)
    settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))
