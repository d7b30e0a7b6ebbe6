"""The rules of ICCP, as docs/iccp.md has them: at a component, and at a controller."""

from __future__ import annotations

import gc
from typing import Any

import pytest

from packetwire import LocalProtocolError
from packetwire.error_text import ERROR_TEXT_LIMIT
from packetwire.iccp import Config, InvalidMessageError, MsgType, Outcome, StopError
from packetwire.iccp.config import config_proto
from packetwire.iccp.protocol import TRANSITIONS, Phase
from packetwire.iccp.refusals import VIOLATIONS
from packetwire.messaging import INVALID

from .fake import OTHER_ROUTE, PEER, ROUTE, Component, Controller, make


def ready() -> Any:
    return make(MsgType.READY, peer=PEER)


def finished() -> Any:
    return make(MsgType.FINISHED, outcome=Outcome.OK)


def configure(values: dict[str, Any] | None = None) -> Any:
    return Controller().protocol.request_config_msg(values or {"n": 1})


def any_message(msg_type: MsgType) -> Any:
    made = {MsgType.READY: ready, MsgType.FINISHED: finished, MsgType.REQUEST: configure}
    return made.get(msg_type, lambda: make(msg_type))()


@pytest.fixture
def component() -> Component:
    component = Component()
    component.ready()
    return component


# 1. The component opens with READY, once


def test_1_component_opens_with_ready() -> None:
    component = Component()
    for msg in (component.protocol.ok_msg(), component.protocol.finished_msg(Outcome.OK)):
        with pytest.raises(LocalProtocolError, match="a component that is not ready does not send"):
            component.send(msg)
    (msg,) = component.send(component.protocol.ready_msg(PEER, {"a": ("inproc://a",)}))
    assert (msg.msg_type, msg.peer, msg.endpoints) == (MsgType.READY, PEER, {"a": ["inproc://a"]})
    with pytest.raises(LocalProtocolError, match="that is ready does not send"):
        component.send(component.protocol.ready_msg(PEER, {}))


def test_1_controller_takes_ready_once() -> None:
    controller = Controller()
    assert controller.hear(ready()).peer == PEER
    session = controller.channel.sessions[ROUTE]
    assert controller.protocol.is_ready(session)
    assert controller.hear(ready()) is INVALID
    assert str(controller.stops[0]) == "Unexpected READY message from component, which is ready"


def test_1_controller_has_components_of_their_own() -> None:
    controller = Controller()
    assert controller.hear(ready(), ROUTE) is not INVALID
    assert controller.hear(ready(), OTHER_ROUTE) is not INVALID
    assert controller.stops == []


# 2. Who may receive what


@pytest.mark.parametrize("msg_type", [MsgType.READY, MsgType.OK, MsgType.ERROR, MsgType.FINISHED])
def test_2_component_receives_request_and_stop_only(component: Component, msg_type: MsgType) -> None:
    assert component.hear(any_message(msg_type)) == []
    (stop,) = component.stops
    assert isinstance(stop, StopError)
    assert str(stop) == f"Wrong message received from controller: ICCPMessage[{msg_type.name}]"


@pytest.mark.parametrize("msg_type", [MsgType.REQUEST, MsgType.STOP])
def test_2_controller_does_not_receive_request_and_stop(msg_type: MsgType) -> None:
    for connected in (False, True):
        controller = Controller()
        if connected:
            controller.hear_ready()
        assert controller.hear(any_message(msg_type)) is INVALID
        (stop,) = controller.stops
        assert "Wrong message received from component" in str(stop)
        assert list(controller.channel.sessions) == [ROUTE] * connected


@pytest.mark.parametrize("msg_type", MsgType)
def test_2_neither_sends_what_the_other_must_not_receive(component: Component, msg_type: MsgType) -> None:
    controller = Controller()
    session = controller.hear_ready()
    if msg_type in (MsgType.REQUEST, MsgType.STOP):
        with pytest.raises(LocalProtocolError):
            component.send(any_message(msg_type))
        controller.channel.send(any_message(msg_type), session)
        assert [each.msg_type for each in controller.channel.take()] == [msg_type]
    else:
        with pytest.raises(LocalProtocolError, match="a controller does not send"):
            controller.channel.send(any_message(msg_type), session)


def test_2_component_has_no_session_that_it_did_not_begin() -> None:
    component = Component()
    assert component.channel.deliver(OTHER_ROUTE, make(MsgType.STOP).as_zmsg()) is INVALID
    assert component.stops == []
    assert list(component.channel.sessions) == [ROUTE]
    assert component.protocol.connect_with_session(component.channel)


# 3. OK and FINISHED before READY are errors, and nothing follows FINISHED


@pytest.mark.parametrize("msg_type", [MsgType.OK, MsgType.FINISHED])
def test_3_controller_refuses_them_before_ready(msg_type: MsgType) -> None:
    controller = Controller()
    assert controller.hear(any_message(msg_type)) is INVALID
    assert str(controller.stops[0]) == (f"Unexpected {msg_type.name} message from component, which is not ready")
    assert controller.channel.sessions == {}
    assert controller.hear(ready()) is not INVALID


@pytest.mark.parametrize("msg_type", [MsgType.READY, MsgType.OK, MsgType.ERROR, MsgType.FINISHED])
@pytest.mark.parametrize("phase", Phase)
def test_3_the_order_of_a_component(phase: Phase, msg_type: MsgType) -> None:
    """What a component may send in each phase, and a controller takes, is one table."""
    component, controller = Component(), Controller()
    session = controller.channel.create_session(ROUTE)
    before = {Phase.NEW: [], Phase.READY: [ready()], Phase.FINISHED: [ready(), finished()]}[phase]
    for msg in before:
        component.send(msg)
        assert controller.hear(msg) is not INVALID
    after = TRANSITIONS.get((phase, msg_type))
    if after is None:
        with pytest.raises(LocalProtocolError):
            component.send(any_message(msg_type))
        assert controller.hear(any_message(msg_type)) is INVALID
        assert len(controller.stops) == 1
    else:
        assert len(component.send(any_message(msg_type))) == 1
        assert controller.hear(any_message(msg_type)) is not INVALID
    for protocol, each in ((component.protocol, component.session), (controller.protocol, session)):
        assert protocol.phase_of(each) is (after or phase)


def test_3_a_new_session_is_a_new_component() -> None:
    controller = Controller()
    session = controller.hear_ready()
    controller.channel.discard_session(session)
    assert controller.protocol.phase_of(session) is Phase.NEW
    del session
    gc.collect()
    assert controller.hear(ready()) is not INVALID


# 4. What else arrives stops the side that received it, with the exception


def test_4_garbage_stops_the_side_that_received_it(component: Component) -> None:
    controller = Controller()
    controller.hear_ready()
    for garbage in ([], [b"\xff\xff"], [b"\0\3", b"more"], [b"\0\1", b"\x0a\x7f", b""]):
        component.stops.clear()
        controller.stops.clear()
        assert component.hear(garbage) == []
        assert controller.hear(garbage) is INVALID
        for (stop,) in (component.stops, controller.stops):
            assert isinstance(stop, InvalidMessageError)


def test_4_a_fault_of_a_handler_stops_too(component: Component, caplog: pytest.LogCaptureFixture) -> None:
    component.protocol.handlers[MsgType.STOP] = lambda channel, session, msg: 1 / 0
    component.hear(make(MsgType.STOP))
    assert isinstance(component.stops[0], ZeroDivisionError)
    assert len(caplog.records) == 1


def test_4_the_end_of_the_link_stops_the_component(component: Component) -> None:
    component.channel.lose_session(component.session)
    assert str(component.stops[0]) == "the controller is gone"
    component = Component()
    cause = OSError("reset")
    component.channel.lose_session(component.session, cause)
    assert component.stops == [cause]


def test_4_the_events_of_all_protocols_are_called_too(component: Component) -> None:
    seen: list[Exception] = []
    component.protocol.on_invalid_msg = lambda channel, session, exc: seen.append(exc)
    component.protocol.on_exception = lambda channel, session, msg, exc: seen.append(exc)
    component.hear([])
    component.hear(make(MsgType.OK))
    assert [type(each) for each in seen] == [InvalidMessageError, StopError]
    assert component.stops == seen


def test_4_all_rules_are_reached() -> None:
    controller = Controller()
    controller.hear(make(MsgType.STOP))
    controller.hear(make(MsgType.OK))
    assert [each.rule for each in controller.stops] == list(VIOLATIONS)  # type: ignore[attr-defined]


# 5. CONFIGURE is answered OK, or ERROR with the handler's exception


def test_5_a_configuration_is_accepted(component: Component) -> None:
    (answer,) = component.hear(configure({"n": 1, "in": {"x": "y"}}))
    assert answer.msg_type is MsgType.OK
    assert Config.from_proto(component.configs[0]).as_dict() == {"n": 1, "in": {"x": "y"}}
    component.protocol.on_config_request = None
    assert [each.msg_type for each in component.hear(configure())] == [MsgType.OK]
    assert component.stops == []


@pytest.mark.parametrize("with_traceback", [False, True])
def test_5_a_configuration_is_refused(with_traceback: bool, caplog: pytest.LogCaptureFixture) -> None:
    component = Component(with_traceback=with_traceback)
    component.ready()

    def refuse(config: Any) -> None:
        raise raised

    component.protocol.on_config_request = refuse
    for raised in (ValueError("bad port"), StopError("not now"), KeyError()):
        (answer,) = component.hear(configure())
        assert answer.msg_type is MsgType.ERROR
        assert (str(raised) or "KeyError") in answer.error
        assert ("Traceback" in answer.error) is with_traceback
    assert component.stops == []
    assert len(caplog.records) == 2, "refusals are no faults"


def test_5_both_shapes_of_the_reference_are_taken(component: Component) -> None:
    for zmsg in ([b"\0\2", config_proto({"n": 1}).SerializeToString()], [b"\0\2", b""]):
        assert [each.msg_type for each in component.hear(zmsg)] == [MsgType.OK]
    assert [dict(each.options) != {} for each in component.configs] == [True, False]


def test_5_an_answer_that_cannot_be_sent_stops_the_component(component: Component) -> None:
    component.channel.error_number = 11
    component.hear(configure())
    (stop,) = component.stops
    assert (str(stop), stop.err_code) == ("Send to controller failed", 11)  # type: ignore[union-attr]


def test_5_controller_takes_ok_and_error_as_often_as_they_come() -> None:
    """The reference answers even a correct CONFIGURE by ERROR, and then ends."""
    controller = Controller()
    controller.hear_ready()
    for msg in (make(MsgType.OK), make(MsgType.ERROR, error="e"), make(MsgType.ERROR, error="f"), finished()):
        assert controller.hear(msg).msg_type is msg.msg_type
    assert controller.stops == []


# 6. STOP and FINISHED


def test_6_stop_and_finished(component: Component) -> None:
    component.hear(make(MsgType.STOP))
    assert component.stops == [None]
    (msg,) = component.send(component.protocol.finished_msg(Outcome.OK, None))
    assert (msg.outcome, msg.details) == (Outcome.OK, [])
    with pytest.raises(LocalProtocolError, match="that is finished does not send"):
        component.send(component.protocol.finished_msg(Outcome.OK, None))


def raise_and_catch() -> Exception:
    try:
        raise ValueError("boom")
    except ValueError as error:
        return error


def test_6_the_details_of_the_end() -> None:
    error = raise_and_catch()
    plain, talkative = Component().protocol, Component(with_traceback=True).protocol
    lines = ["line 1", "zé", ""]
    msg = plain.finished_msg(Outcome.UNKNOWN, lines)
    assert msg.details == lines
    assert msg.details is not lines
    assert plain.finished_msg(Outcome.ERROR, error).details == ["ValueError('boom')"]
    assert plain.finished_msg(Outcome.ERROR, "text").details == ["text"]
    told = talkative.finished_msg(Outcome.ERROR, error).details
    assert told[0].startswith("Traceback")
    assert told[-1] == "ValueError: boom\n"
    assert plain.error_msg(error).error == "boom"
    assert plain.error_msg(KeyError()).error == "KeyError()"
    assert "in raise_and_catch" in talkative.error_msg(error).error


def test_6_what_is_told_of_an_exception_has_a_limit() -> None:
    for component in (Component(), Component(with_traceback=True)):
        error = ValueError("x" * 100_000)
        assert len(component.protocol.error_msg(error).error) == ERROR_TEXT_LIMIT
        assert sum(map(len, component.protocol.finished_msg(Outcome.ERROR, error).details)) == ERROR_TEXT_LIMIT
