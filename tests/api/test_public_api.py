"""All that 0.1.0 offered is still here, under the same names, to be called alike: later releases only add."""

from __future__ import annotations

import json
from typing import Any

import pytest

import packetwire

from .surface import RECORDED, documented_paths, imported, package_surface, public_modules, surface_of

RECORD = json.loads(RECORDED.read_text())
NOW = package_surface()["modules"]
NAMES = [(module, name) for module, names in RECORD["modules"].items() for name in names]

CHANGED_DEFAULTS: dict[str, str] = {"packetwire.PacketConnection(spin)": "5e-05"}
"""`path(parameter)` -> the default that 0.1.0 had, where it changed since; docs/upgrading.md says why."""

CHANGED_VALUES: frozenset[str] = frozenset()
"""Paths of constants that may differ; docs/upgrading.md says why."""


def broken_parameters(path: str, before: list[list[str]] | None, now: list[list[str]] | None) -> list[str]:
    """What a caller of 0.1.0 would stumble over."""
    if before is None or now is None:
        return []
    here = {name: (kind, default) for name, kind, default in now}
    takes_any_keyword = any(kind == "VAR_KEYWORD" for kind, _ in here.values())
    faults = []
    for name, kind, default in before:
        if name not in here:
            if kind == "KEYWORD_ONLY" and takes_any_keyword:
                continue
            faults.append(f"{path}({name}) is gone")
        elif here[name][0] != kind and here[name][0] != "POSITIONAL_OR_KEYWORD":
            faults.append(f"{path}({name}) was {kind}, is {here[name][0]}")
        elif default != "required" and here[name][1] == "required":
            faults.append(f"{path}({name}) may no longer be left out")
        elif default not in ("required", here[name][1]) and CHANGED_DEFAULTS.get(f"{path}({name})") != default:
            faults.append(f"{path}({name}) was {default} by default, is {here[name][1]}")
    known = {name for name, _, _ in before}
    faults += [
        f"{path}({name}) is new and must be given"
        for name, kind, default in now
        if name not in known and default == "required" and not kind.startswith("VAR_")
    ]
    by_position = ("POSITIONAL_ONLY", "POSITIONAL_OR_KEYWORD")
    order_before = [name for name, kind, _ in before if kind in by_position]
    order_now = [name for name, kind, _ in now if kind in by_position]
    if order_now[: len(order_before)] != order_before and not faults:
        faults.append(f"{path}: positions were {order_before}, are {order_now}")
    return faults


def broken(path: str, before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What a user of 0.1.0 would stumble over in one public thing."""
    faults = broken_parameters(path, before.get("parameters"), now.get("parameters"))
    if before["kind"] in ("class", "function") and now["kind"] != before["kind"]:
        faults.append(f"{path} was a {before['kind']}, is a {now['kind']}")
    if before.get("value") != now.get("value") and path not in CHANGED_VALUES:
        faults.append(f"{path} was {before.get('value')}, is {now.get('value')}")
    faults += [f"{path} is no {base} any more" for base in set(before.get("bases", ())) - set(now.get("bases", ()))]
    for name, value in before.get("members", {}).items():
        if now.get("members", {}).get(name) != value:
            faults.append(f"{path}.{name} is no longer {value}")
    for name, member in before.get("has", {}).items():
        there = now.get("has", {}).get(name)
        if there is None:
            faults.append(f"{path}.{name} is gone")
        else:
            faults += broken(f"{path}.{name}", member, there)
    return faults


@pytest.mark.parametrize(("module", "name"), NAMES)
def test_a_name_is_still_here_and_used_the_same_way(module: str, name: str) -> None:
    assert name in public_modules()[module].__all__
    assert broken(f"{module}.{name}", RECORD["modules"][module][name], NOW[module][name]) == []


@pytest.mark.parametrize("path", RECORD["paths"])
def test_a_path_of_the_documentation_still_leads_there(path: str) -> None:
    imported(path)


@pytest.mark.parametrize("path", sorted(documented_paths()))
def test_a_path_that_is_documented_today_leads_there(path: str) -> None:
    imported(path)


@pytest.mark.parametrize(("path", "names"), RECORD["references"]["cs.packetstream"].items())
def test_what_the_reference_takes_is_taken(path: str, names: list[str]) -> None:
    class_name, _, method = path.partition(".")
    function = getattr(getattr(packetwire, class_name), method)
    taken = [name for name, _, _ in surface_of(function)["parameters"] or []]
    assert [name for name in names if name not in taken] == []


def shape(**changes: Any) -> dict[str, Any]:
    """A function with the two parameters below, but for what is changed."""
    parameters = {"name": ["POSITIONAL_OR_KEYWORD", "required"], "timeout": ["KEYWORD_ONLY", "5.0"], **changes}
    return {"kind": "function", "parameters": [[name, *rest] for name, rest in parameters.items() if rest]}


@pytest.mark.parametrize(
    ("now", "fault"),
    [
        (shape(timeout=None), "f(timeout) is gone"),
        (shape(timeout=["KEYWORD_ONLY", "1.0"]), "f(timeout) was 5.0 by default, is 1.0"),
        (shape(timeout=["KEYWORD_ONLY", "required"]), "f(timeout) may no longer be left out"),
        (shape(name=["KEYWORD_ONLY", "required"]), "f(name) was POSITIONAL_OR_KEYWORD, is KEYWORD_ONLY"),
        (shape(new=["KEYWORD_ONLY", "required"]), "f(new) is new and must be given"),
        ({"kind": "value"}, "f was a function, is a value"),
    ],
)
def test_a_break_is_found(now: dict[str, Any], fault: str) -> None:
    assert fault in broken("f", shape(), now)


@pytest.mark.parametrize(
    "now", [shape(), shape(new=["KEYWORD_ONLY", "None"]), shape(timeout=["POSITIONAL_OR_KEYWORD", "5.0"])]
)
def test_an_addition_is_none(now: dict[str, Any]) -> None:
    assert broken("f", shape(), now) == []
