"""The frames that a program's values stand for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from packetwire.core.varint import BytesLike

Frame = BytesLike | str

FRAME_OVERHEAD: Final = 100
"""Bytes that each frame of a message that waits counts in addition, about what Python needs for one."""


def frames_of(result: object) -> list[bytes]:
    """The frames that a result stands for."""
    if type(result) is bytes:
        return [result]
    if result is None:
        return []
    if type(result) is list:
        for each in result:
            if type(each) is not bytes:
                break
        else:
            return result.copy()
    if isinstance(result, list | tuple):
        return [frame_of(each) for each in result]
    return [frame_of(result)]


def weight_of(data: Sequence[bytes]) -> int:
    """Bytes that a message with these data frames takes while it waits, one without any included."""
    return sum(map(len, data)) + FRAME_OVERHEAD * (1 + len(data))


def frame_of(value: object) -> bytes:
    """One frame; raises TypeError for what is neither bytes-like nor str."""
    if type(value) is bytes:
        return value
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    raise TypeError(f"a frame is bytes-like or str, not {type(value).__name__}")
