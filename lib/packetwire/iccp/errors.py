"""The errors about a component that does not do as it should.

    MessagingError
    └── ComponentError        it broke the protocol, or closed its pipes and lived on
        └── ConfigureRefused  it answered CONFIGURE by ERROR; it lives on

A component that is gone without FINISHED is a `ChildExited`, one that is late a `RequestTimeout`.
"""

from __future__ import annotations

from packetwire.messaging.errors import MessagingError

__all__ = ["ComponentError", "ConfigureRefused"]


class ComponentError(MessagingError):
    """A component did not do as it should, and was ended."""


class ConfigureRefused(ComponentError):
    """The component did not take its configuration; `error` is what it said."""

    error: str
