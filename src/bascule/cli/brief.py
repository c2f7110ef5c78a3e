"""One version in about ten lines; `bascule show --full` prints the rest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bascule.cli.screen import print_blocks, say, when
from bascule.core import duration_words
from bascule.documents import Figures

if TYPE_CHECKING:
    from bascule.bundle import Bundle
    from bascule.bundle.disk import Statement
    from bascule.core import Field
    from bascule.registry import Version

_SHOWN = 8


def print_brief(
    bundle: Bundle,
    version: Version | None,
    statements: Sequence[Statement],
    others: Sequence[Version],
) -> None:
    """Identity, what it takes and returns, quality, gates, parity, cost: a line each."""
    say(f"{version or bundle.name}  {bundle.digest}")
    print_blocks(Figures(tuple(_lines(bundle, version, statements, others))))


def _lines(
    bundle: Bundle,
    version: Version | None,
    statements: Sequence[Statement],
    others: Sequence[Version],
) -> Iterator[tuple[str, str]]:
    latest = {one.kind: one.body for one in sorted(statements, key=lambda one: one.at)}
    if version is not None:
        yield "pushed", f"{when(version.pushed_at)} by {version.pushed_by}"
    yield "model", f"{bundle.manifest.flavor} {bundle.task}"
    yield "inputs", _fields(bundle.signature.inputs)
    yield "outputs", _fields(bundle.signature.outputs)
    overall = latest.get("quality", {}).get("overall", {})
    if figures := [f"{name} {value:.4g}" for name, value in overall.items() if value is not None]:
        yield "quality", ", ".join(figures)
    yield "gates", _gates(version, latest.get("gates", {}))
    roles = bundle.roles()
    serving = bundle.manifest.serves if roles is None else roles.requests
    batches = "" if roles is None or roles.batches_in_words() == serving else (
        f"; batches: {roles.batches_in_words()}"
    )  # fmt: skip
    yield "answers", serving + batches
    if parity := bundle.parities.get(serving) or bundle.parity:
        yield "parity", parity.reason
    if (cost := bundle.cost) and serving in cost.latency_us:
        one_row = cost.latency_us[serving].get(1)
        memory = cost.peak_memory_bytes
        shown = [f"one row {duration_words(one_row * 1e-6)}"] if one_row is not None else []
        shown += [f"peak memory {memory / 1e6:,.0f} MB"] if memory is not None else []
        yield "cost", ", ".join([*shown, f"on disk {cost.size_bytes / 1e6:,.2f} MB"])
    if len(others) > 1:
        yield "versions", ", ".join(map(numbered, others))


def numbered(version: Version) -> str:
    """The number of a version and its state, as in a list of all of them."""
    state = f"{version.gates}, deprecated" if version.deprecated else version.gates
    return f"{version.number} ({'retired' if version.retired else state})"


def _fields(fields: Sequence[Field]) -> str:
    shown = [
        one.name + (f" [{' x '.join(map(str, one.shape))}]" if one.shape else "")
        for one in fields[:_SHOWN]
    ]
    more = f" and {len(fields) - _SHOWN} more" if len(fields) > _SHOWN else ""
    return ", ".join(shown) + more


def _gates(version: Version | None, body: Mapping[str, Any]) -> str:
    results = body.get("results")
    if not isinstance(results, list) or not results:
        return "unchecked" if version is None else version.gates
    state = "passed" if body.get("passed") is True else "failed"
    if version is not None:
        state = version.gates
    failed = [one for one in results if one.get("passed") is not True]
    return f"{state}: " + ", ".join(
        f"{one['criterion']} ({_judged(one, by_value=not failed)})" for one in (failed or results)
    )


def _judged(result: Mapping[str, Any], *, by_value: bool) -> str:
    value = result.get("value")
    if by_value and isinstance(value, int | float):
        return f"{value:.4g}"
    return str(result.get("reason", "no reason"))
