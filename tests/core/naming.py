"""Names of cases that stay the same however often a process collects them.

pytest escapes a backslash in a given name, and whatever is not ASCII, and each time anew. The mutation test runs
tests by their names, in a process that has collected them before.
"""

from __future__ import annotations

import re


def plain(text: str) -> str:
    """`text` without what pytest would escape."""
    return re.sub(r"[^ -\[\]-~]", "", text)
