"""Describing the FBSP messages in the packets of a capture."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from packetwire.cli.conversation import Seen

if TYPE_CHECKING:
    from packetwire.fbsp import FBSPMessage

FRAME_SHOWN = 32
"""Bytes of a frame that are shown, at most."""
FRAMES = 8
"""Frames of a message that are shown, at most."""


def as_fbsp(seen: Seen) -> str | None:
    """A description of the message in a packet; None if the packet holds none."""
    from packetwire.fbsp.requests import message_of

    packet = seen.packet
    if seen.is_special or not (packet.is_request or packet.flags & 1):
        return None  # the text of a refusal
    if not packet.payload:
        return "nothing" if not packet.is_request else None
    return in_words(message_of(packet.payload))


def in_words(msg: FBSPMessage) -> str:
    """A message, as one line."""
    words = [msg.msg_type.name, *[str(flag.name) for flag in type(msg.flags) if flag and flag in msg.flags]]
    words.append(f"token={msg.token.hex()}")
    if not msg.has_ack_reply():
        words += _content(msg)
    return " ".join(words)


def _content(msg: Any) -> list[str]:
    from packetwire.fbsp import MsgType

    kind = msg.msg_type
    if kind in (MsgType.REQUEST, MsgType.REPLY):
        return [_call(msg), *_frames(msg.data)]
    if kind is MsgType.STATE:
        return [_call(msg), msg.state.name]
    if kind is MsgType.DATA:
        return _frames(msg.data)
    if kind is MsgType.HELLO:
        return [_who(msg.data.client, msg.data.instance)]
    if kind is MsgType.WELCOME:
        interfaces = ", ".join(f"{each.number}={each.uid.hex()}" for each in msg.data.api)
        return [_who(msg.data.service, msg.data.instance), f"interfaces {interfaces}"]
    if kind is MsgType.CANCEL:
        return [f"of {msg.request.token.hex()}"]
    if kind is MsgType.ERROR:
        code = getattr(msg.error_code, "name", msg.error_code)
        told = "; caused by ".join(repr(each.description) for each in msg.errors)
        return [f"{code} relates to {msg.relates_to.name}", *([told] if told else [])]
    return []


def _call(msg: Any) -> str:
    return f"call {msg.interface_id}:{msg.api_code}"


def _who(agent: Any, peer: Any) -> str:
    return f"{agent.name!r} {agent.version!r}, process {peer.pid} on {peer.host!r}"


def _frames(frames: list[bytes]) -> list[str]:
    shown = [f"{frame[:FRAME_SHOWN]!r}" + "…" * (len(frame) > FRAME_SHOWN) for frame in frames[:FRAMES]]
    return [f"{len(frames)} frame" + "s" * (len(frames) != 1), *shown, *["…"] * (len(frames) > FRAMES)]
