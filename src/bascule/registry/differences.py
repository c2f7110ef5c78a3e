"""What sets two versions apart: data, code, parameters, metrics, signature, environment, program.

Pure: facts in, changes out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bascule.bundle.disk import Manifest, Statement, versions_of
from bascule.core import Field
from bascule.registry.metrics import metrics_of_all

SECTIONS = ("data", "code", "parameters", "metrics", "signature", "environment", "program")
"""What is compared, in this order."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of one version.

    Attributes:
        manifest: Of its bundle.
        environment: The text of its environment.txt; empty where it has none.
        statements: What has been said about it, the latest last.
    """

    manifest: Manifest
    environment: str
    statements: Sequence[Statement]


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that is not the same; `before` or `after` is None where it is not there."""

    section: str
    name: str
    before: Any
    after: Any


def differences(before: Facts, after: Facts) -> list[Change]:
    """What changed, by section and name; empty where the two are equal in everything compared."""
    old, new = _sections(before), _sections(after)
    changes = []
    for section in SECTIONS:
        names = [*old[section], *(name for name in new[section] if name not in old[section])]
        for name in names:
            was, now = old[section].get(name), new[section].get(name)
            if was != now or type(was) is not type(now):
                changes.append(Change(section, name, was, now))
    return changes


def _sections(facts: Facts) -> dict[str, dict[str, Any]]:
    said = [one.body for one in facts.statements if one.kind == "provenance"]
    known: Mapping[str, Any] = said[-1] if said else {}
    return {
        "data": dict(_flat({name: known.get(name) for name in ("train", "test", "calibration")})),
        "code": dict(_flat(known.get("git") or {})),
        "parameters": {
            **dict(_flat(known.get("model_parameters") or {})),
            **dict(_flat(known.get("parameters") or {})),
        },
        "metrics": {name: one.value for name, one in metrics_of_all(facts.statements).items()},
        "signature": dict(_signature(facts.manifest)),
        "environment": versions_of(facts.environment),
        "program": dict(_program(facts.manifest)),
    }


def _flat(value: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for name, one in sorted(value.items()):
        if isinstance(one, Mapping):
            yield from _flat(one, f"{before}{name}.")
        elif one is not None:
            yield before + name, one


def _signature(manifest: Manifest) -> Iterator[tuple[str, Any]]:
    for side, fields in (
        ("input", manifest.signature.inputs),
        ("output", manifest.signature.outputs),
    ):
        for field in fields:
            yield f"{side} {field.name}", _described(field)
        yield f"order of {side}s", [field.name for field in fields]


def _described(field: Field) -> str:
    shape = "".join(f"[{length}]" for length in field.shape)
    missing = ", may be missing" if field.nullable else ""
    values = "" if field.categories is None else f", one of {list(field.categories)}"
    bounds = "" if field.bounds is None else ", {:g} to {:g}".format(*field.bounds)
    return f"{field.dtype.value}{shape}{missing}{values}{bounds}"


def _program(manifest: Manifest) -> Iterator[tuple[str, Any]]:
    yield "flavor", manifest.flavor
    yield "task", manifest.task
    yield "serves", manifest.serves
    yield "size_bytes", manifest.size_bytes
    if manifest.classes is not None:
        yield "classes", list(manifest.classes)
    if manifest.targets:
        yield "targets", manifest.to_json()["targets"]
    for program in manifest.programs:
        yield f"{program.name}.sha256", manifest.files[program.file].sha256
        yield f"{program.name}.batch_invariant", program.batch_invariant
