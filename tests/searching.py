"""How thoroughly hypothesis searches; to be imported by the tests that use it.

HYPOTHESIS_PROFILE=full is for before a change lands (.ci/run), thorough for a long run, brief for a short one that
always tries the same cases.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, Phase, settings

# the first run of anything slow (a cs.binary class, 1 MiB of payload) is no fault of the code under test
settings.register_profile(
    "default",
    max_examples=100,
    deadline=None,
    database=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.register_profile("full", settings.get_profile("default"), max_examples=300)
settings.register_profile("thorough", settings.get_profile("default"), max_examples=5000)
settings.register_profile(
    "brief",
    settings.get_profile("default"),
    max_examples=25,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],  # a failure is enough, its smallest case need not be found
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))
