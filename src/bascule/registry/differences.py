"""Two versions side by side: metrics, gates, cost, signature, data, environment, program.

Pure: facts in, changes out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bascule.bundle.disk import Manifest, Statement, versions_of
from bascule.core import Field, counted
from bascule.registry.metrics import metrics_of_all

SECTIONS = (
    "metrics", "gates", "cost", "signature", "data", "parameters", "code", "environment", "program",
)  # fmt: skip
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
    """One thing in two versions; `before` or `after` is None where it is not there."""

    section: str
    name: str
    before: Any
    after: Any

    @property
    def is_same(self) -> bool:
        """Whether it is the same in both. 3 and 3.0 are two settings to many a framework."""
        return bool(self.before == self.after) and type(self.before) is type(self.after)

    @property
    def moved(self) -> str:
        """By how much a number changed; `added`, `removed` or `changed` of anything else."""
        if not self._is_of_numbers:
            return (
                "added" if self.before is None else "removed" if self.after is None else "changed"
            )
        share = "" if self.share is None else f" ({self.share:+.1%})"
        return f"{self.after - self.before:+.6g}{share}"

    @property
    def share(self) -> float | None:
        """The change of a number as a share of `before`; None of anything else, and of zero."""
        if not self._is_of_numbers or not self.before:
            return None
        return float((self.after - self.before) / abs(self.before))

    @property
    def _is_of_numbers(self) -> bool:
        both = (self.before, self.after)
        return all(isinstance(x, int | float) and not isinstance(x, bool) for x in both)


def differences(before: Facts, after: Facts) -> list[Change]:
    """What changed, by section and name; empty where the two are equal in everything compared."""
    return [change for change in side_by_side(before, after) if not change.is_same]


def side_by_side(before: Facts, after: Facts) -> list[Change]:
    """All that is compared, by section and name: also what is the same."""
    old, new = _sections(before), _sections(after)
    return [
        Change(section, name, old[section].get(name), new[section].get(name))
        for section in SECTIONS
        for name in dict.fromkeys((*old[section], *new[section]))
    ]


def _sections(facts: Facts) -> dict[str, dict[str, Any]]:
    said: Mapping[str, Mapping[str, Any]] = {one.kind: one.body for one in facts.statements}
    known, quality = said.get("provenance", {}), said.get("quality", {})
    figures = {name: one.value for name, one in metrics_of_all(facts.statements).items()}
    return {
        "metrics": {**dict(_flat(quality.get("overall") or {})), **figures},
        "gates": dict(_gates(said.get("gates", {}))),
        "cost": dict(_cost(said.get("cost", {}))),
        "signature": dict(_signature(facts.manifest)),
        "data": dict(_flat({name: known.get(name) for name in ("train", "test", "calibration")})),
        "parameters": {
            **dict(_flat(known.get("model_parameters") or {})),
            **dict(_flat(known.get("parameters") or {})),
        },
        "code": dict(_flat(known.get("git") or {})),
        "environment": versions_of(facts.environment),
        "program": dict(_program(facts.manifest)),
    }


def _gates(body: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The verdict on each criterion; the measured values are metrics."""
    for one in body.get("results") or ():
        yield str(one["criterion"]), "passed" if one["passed"] else "failed"


def _cost(body: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The times of one row and of the largest batch, memory, disk, and where it was measured."""
    for program, times in (body.get("latency_us") or {}).items():
        for rows in dict.fromkeys((1, max(map(int, times), default=1))):
            if (us := times.get(str(rows))) is not None:
                yield f"{program}: {counted(rows, 'row')}, us", us
    machine = (body.get("machine") or {}).get("cpu")
    yield from _flat({"peak memory, bytes": body.get("peak_memory_bytes"), "measured on": machine})


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
