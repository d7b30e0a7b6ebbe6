"""The table of cells, from a report of the suite; fails if they did not all pass the same behaviours.

python -m pytest tests/connections/cells --all-cells --junit-xml=report.xml
python -m tests.connections.cells.table report.xml
"""

from __future__ import annotations

import re
import sys
import xml.etree.ElementTree as ET
from collections import Counter

from .cells import ASKING, FACES, TRANSPORTS

CASE = re.compile(rf"\w+\[({'|'.join(ASKING)})-({'|'.join(map(re.escape, TRANSPORTS))})-({'|'.join(FACES)})\]")


def passed(report: str) -> Counter[tuple[str, str, str]]:
    """The number of passed behaviours by transport, faces and who asks."""
    found: Counter[tuple[str, str, str]] = Counter()
    for case in ET.parse(report).iter("testcase"):
        named = CASE.fullmatch(case.get("name", ""))
        if named and not any(case.findall(bad) for bad in ("failure", "error", "skipped")):
            asking, transport, faces = named.groups()
            found[transport, faces, asking] += 1
    return found


def main(report: str) -> int:
    found = passed(report)
    print(f"| transport | {' | '.join(FACES)} |")
    print("|---|" + "---:|" * len(FACES))
    for transport in TRANSPORTS:
        cells = ["+".join(str(found[transport, faces, asking]) for asking in ASKING) for faces in FACES]
        print(f"| {transport} | {' | '.join(cells)} |")
    numbers = {found[transport, faces, asking] for transport in TRANSPORTS for faces in FACES for asking in ASKING}
    if len(numbers) == 1 and 0 not in numbers:
        return 0
    print(f"the cells differ: {sorted(numbers)}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
