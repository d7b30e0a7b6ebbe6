"""A component's conversation with its controller, with no connection and no clock."""

from __future__ import annotations

import pytest

from packetwire import LocalProtocolError
from packetwire.iccp import ICCPMessage, MsgType, Outcome, StopError
from packetwire.iccp.componentcore import TOO_LONG, ComponentCore, ConfigureAsked, Orphaned, StopAsked
from packetwire.iccp.phases import Phase
from packetwire.iccp.protocol import MAX_FRAMES

from .children import CONFIGURE, OK, STOP
from .fake import PEER, make

NOW = 100.0


def sent(core: ComponentCore) -> list[ICCPMessage]:
    messages = list(core.outbox)
    core.outbox.clear()
    return messages


def started(orphan_timeout: float | None = None) -> ComponentCore:
    core = ComponentCore(orphan_timeout=orphan_timeout)
    core.ready(PEER, {"x": ("ipc://x",)})
    (msg,) = sent(core)
    assert (msg.msg_type, msg.peer, msg.endpoints) == (MsgType.READY, PEER, {"x": ["ipc://x"]})
    return core


def test_a_whole_life() -> None:
    core = started()
    for error, answer in ((None, MsgType.OK), (ValueError("no"), MsgType.ERROR)):
        assert core.receive(CONFIGURE, NOW) == ConfigureAsked(CONFIGURE.config)
        core.answer(error)
        assert [msg.msg_type for msg in sent(core)] == [answer]
    assert core.receive(STOP, NOW) == StopAsked(None)
    assert core.stopping
    assert core.receive(STOP, NOW) is None
    core.finish(Outcome.OK, ["one", "two"])
    (msg,) = sent(core)
    assert (msg.msg_type, msg.outcome, msg.details) == (MsgType.FINISHED, Outcome.OK, ["one", "two"])


def test_nothing_counts_after_finished() -> None:
    core = started(orphan_timeout=5)
    core.finish(Outcome.OK)
    sent(core)
    assert core.receive(CONFIGURE, NOW) is core.receive(STOP, NOW) is core.receive(OK, NOW) is None
    assert core.refuse(ValueError()) is core.lose(None, NOW) is None
    core.answer()
    assert (sent(core), core.next_deadline()) == ([], None)
    with pytest.raises(LocalProtocolError, match="that is finished does not send"):
        core.finish(Outcome.OK)


def test_what_is_said_out_of_order_is_not_sent() -> None:
    core = ComponentCore()
    for say in (core.answer, lambda: core.finish(Outcome.OK)):
        with pytest.raises(LocalProtocolError, match="that is not ready does not send"):
            say()
    core = started()
    with pytest.raises(LocalProtocolError, match="that is ready does not send"):
        core.ready(PEER, {})
    assert (sent(core), core.phase) == ([], Phase.READY)


def test_each_broken_rule_stops_it() -> None:
    core = started()
    with pytest.raises(StopError, match="Wrong message received from controller") as caught:
        core.receive(OK, NOW)
    for error in (caught.value, caught.value):
        assert core.refuse(error) == StopAsked(error)
    assert core.receive(STOP, NOW) is core.lose(None, NOW) is None, "it stops already"


def test_a_controller_that_is_gone_stops_it_within_a_time() -> None:
    core = started(orphan_timeout=5)
    lost = ConnectionError("reset")
    assert core.lose(lost, NOW) == StopAsked(lost)
    assert core.next_deadline() == NOW + 5
    assert core.expire(NOW + 4.9) is None
    assert core.expire(NOW + 5) == Orphaned()
    assert core.expire(NOW + 6) is core.next_deadline() is None
    core.finish(Outcome.OK)
    assert (sent(core), core.phase) == ([], Phase.FINISHED)


def test_one_that_ends_in_time_is_no_orphan() -> None:
    core = started(orphan_timeout=5)
    asked = core.lose(None, NOW)
    assert isinstance(asked, StopAsked)
    assert str(asked.reason) == "the controller is gone"
    core.finish(Outcome.OK)
    assert core.next_deadline() is core.expire(NOW + 9) is None
    core = started()
    core.lose(None, NOW)
    assert core.next_deadline() is None


@pytest.mark.parametrize("details", [["x" * (17 << 20)], [""] * MAX_FRAMES], ids=["bytes", "lines"])
def test_details_that_are_too_long(details: list[str]) -> None:
    core = started()
    core.finish(Outcome.OK, details)
    assert [msg.details for msg in sent(core)] == [[TOO_LONG]]


def test_exceptions_as_lines_or_tracebacks() -> None:
    for with_traceback in (False, True):
        core = ComponentCore(with_traceback=with_traceback)
        core.ready(PEER, {})
        core.answer(ValueError("no"))
        core.finish(Outcome.ERROR, ValueError("no"))
        _, error, end = sent(core)
        assert error.error == ("ValueError: no\n" if with_traceback else "no")
        assert end.details == (["ValueError: no\n"] if with_traceback else ["ValueError('no')"])


def test_a_new_message_of_each_type_is_refused_or_taken() -> None:
    for msg_type in MsgType:
        core, msg = started(), make(msg_type)
        if msg_type in (MsgType.REQUEST, MsgType.STOP):
            assert core.receive(msg, NOW) is not None
        else:
            with pytest.raises(StopError):
                core.receive(msg, NOW)
