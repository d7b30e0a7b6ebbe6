"""Fifty members that query their leader at once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from packetwire.riaps import GroupAnsPort, GroupKeys, GroupQryPort

from .peers import Running, address_of

MEMBERS = 50
QUESTIONS = 10

Make = Callable[..., Any]


@pytest.mark.parametrize("answerers", [1, 4])
def test_each_answer_goes_to_the_member_that_asked(make: Make, keys: GroupKeys | None, answerers: int) -> None:
    ans = make(GroupAnsPort, keys=keys, timed=True)
    members = [make(GroupQryPort, keys=keys, timed=True) for _ in range(MEMBERS)]
    at_once = threading.Barrier(MEMBERS)

    def ask(number: int, qry: Any) -> list[bytes]:
        qry.update(*address_of(ans))
        at_once.wait(20)
        for turn in range(QUESTIONS):
            qry.sendToLeader(b"mtl", b"%d of member %d" % (turn, number))
        return [qry.recvFromLeader().payload for _ in range(QUESTIONS)]

    def answer() -> None:
        for _ in range(MEMBERS * QUESTIONS // answerers):
            question = ans.recvFromMember()
            ans.sendToMember(b"mfl", b"answer to " + question.payload, question.identity)

    answering = [Running(answer) for _ in range(answerers)]
    asking = [Running(ask, number, qry) for number, qry in enumerate(members)]
    for number, one in enumerate(asking):
        expected = {b"answer to %d of member %d" % (turn, number) for turn in range(QUESTIONS)}
        assert set(one.result()) == expected
    for one in answering:
        one.result()


def test_answers_in_another_order_than_the_questions(make: Make) -> None:
    ans = make(GroupAnsPort)
    members = [make(GroupQryPort) for _ in range(MEMBERS)]
    for number, qry in enumerate(members):
        qry.update(*address_of(ans))
        qry.sendToLeader(b"mtl", b"%d" % number)
    questions = [ans.recvFromMember() for _ in members]
    assert len({question.identity for question in questions}) == MEMBERS
    for question in reversed(questions):
        ans.sendToMember(b"mfl", question.payload, question.identity)
    for number, qry in enumerate(members):
        assert qry.recvFromLeader().payload == b"%d" % number
