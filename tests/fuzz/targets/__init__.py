"""All targets, by their names."""

from __future__ import annotations

from ..target import Target
from . import brokers, butler, group, recorded, requests, streams, texts, zmqlink, zmqpeers

MODULES = (streams, requests, recorded, zmqpeers, zmqlink, butler, group, brokers, texts)

TARGETS: dict[str, Target] = {target.name: target for module in MODULES for target in module.TARGETS}
