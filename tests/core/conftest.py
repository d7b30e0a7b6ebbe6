"""What holds for the tests of the core."""

from __future__ import annotations

import tests.searching  # noqa: F401
