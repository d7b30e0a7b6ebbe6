"""Deadlines against a list that is searched each time."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from packetwire.hololinked.deadlines import KEPT_AT_LEAST, Deadlines

ACTS = st.one_of(
    st.tuples(st.just("set"), st.integers(0, 9), st.integers(0, 100)),
    st.tuples(st.just("remove"), st.integers(0, 9), st.just(0)),
    st.tuples(st.just("due"), st.just(0), st.integers(0, 100)),
)


@given(st.lists(ACTS))
def test_what_is_due(acts: list[tuple[str, int, int]]) -> None:
    deadlines: Deadlines[int] = Deadlines()
    expected: dict[int, int] = {}
    for act, item, when in acts:
        if act == "set":
            deadlines.set(item, when)
            expected[item] = when
        elif act == "remove":
            deadlines.remove(item)
            expected.pop(item, None)
        else:
            due = {key for key, value in expected.items() if value <= when}
            found = list(deadlines.due(when))
            assert set(found) == due
            assert [expected[key] for key in found] == sorted(expected[key] for key in found)
            for key in due:
                del expected[key]
        assert len(deadlines) == len(expected)
        assert deadlines.next() == (min(expected.values()) if expected else None)
        assert [deadlines.get(key) for key in range(10)] == [expected.get(key) for key in range(10)]


def test_what_was_removed_is_not_kept() -> None:
    deadlines: Deadlines[object] = Deadlines()
    deadlines.set("stays", -1.0)  # so that nothing is found to be stale at the front
    for number in range(10_000):
        deadlines.set(number, 5.0)
        deadlines.remove(number)
    assert len(deadlines._heap) <= KEPT_AT_LEAST + 3
