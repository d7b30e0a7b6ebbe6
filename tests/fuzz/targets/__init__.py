"""All targets, by their names."""

from __future__ import annotations

from ..target import Target
from . import (
    brokers,
    builds,
    butler,
    capable,
    farends,
    group,
    inside,
    recorded,
    reports,
    requests,
    streams,
    texts,
    typedvalues,
    zmqlink,
    zmqpeers,
)

MODULES = (
    *(streams, builds, capable, requests, typedvalues, recorded, reports, inside, farends),
    *(zmqpeers, zmqlink, butler, group, brokers, texts),
)

TARGETS: dict[str, Target] = {target.name: target for module in MODULES for target in module.TARGETS}
