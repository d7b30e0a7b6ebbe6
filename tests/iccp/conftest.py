"""What holds for the tests of ICCP."""

from __future__ import annotations

import tests.searching  # noqa: F401
