"""The card: what a person wants to know of a bundle, rendered from what is recorded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bascule.bundle.cost import BATCH_SIZES, Cost
from bascule.bundle.format import Manifest
from bascule.bundle.parity import Parity
from bascule.core.fields import Field

_MAX_FIELDS = 60


def render(
    manifest: Manifest,
    parity: Parity,
    cost: Cost,
    provenance: Mapping[str, Any],
    calibration: str = "",
) -> str:
    """The card as Markdown."""
    parts = [
        f"# {manifest.name}",
        _text(provenance.get("description", "")),
        _facts(manifest, provenance),
        "## Parity\n\n" + _text(parity.reason).capitalize() + f" (tolerance {parity.tolerance:g}).",
        calibration and "## Calibration\n\n" + _sentence(calibration),
        "## Inputs\n\n" + _fields(manifest.signature.inputs),
        "## Outputs\n\n" + _fields(manifest.signature.outputs),
        "## Cost\n\n" + _cost(cost),
    ]
    if provenance.get("metrics"):
        rows = [(name, f"{value}") for name, value in provenance["metrics"].items()]
        parts.append("## Metrics\n\n" + _table(("metric", "value"), rows))
    return "\n\n".join(part for part in parts if part) + "\n"


def _facts(manifest: Manifest, provenance: Mapping[str, Any]) -> str:
    served = manifest.served
    how = "the original" if served is None else f"{served.name} in {served.precision}"
    rows = [
        ("digest", f"`{manifest.digest}`"),
        ("flavor", manifest.flavor),
        ("task", manifest.task),
        ("serves", how),
    ]
    if manifest.classes is not None:
        shown = ", ".join(str(label) for label in manifest.classes[:20])
        rows.append(("classes", shown + (", ..." if len(manifest.classes) > 20 else "")))
    if served is not None:
        rows.append(("batch-invariant", "yes" if served.batch_invariant else "no"))
    git = provenance.get("git")
    if git:
        rows.append(("git", git["commit"] + (", with changes" if git["dirty"] else "")))
    rows += [
        (f"{name} rows", f"{provenance[name]['rows']:,}")
        for name in ("train", "test")
        if provenance.get(name)
    ]
    return _table(("", ""), rows)


def _fields(fields: Sequence[Field]) -> str:
    rows = [
        (
            field.name,
            field.dtype.value,
            "x".join(str(length) for length in field.shape) or "1",
            "yes" if field.nullable else "no",
            "any" if field.categories is None else f"{len(field.categories)} known",
        )
        for field in fields[:_MAX_FIELDS]
    ]
    table = _table(("name", "type", "per row", "may be missing", "values"), rows)
    return table + (
        f"\n\n... and {len(fields) - _MAX_FIELDS} more" if len(fields) > _MAX_FIELDS else ""
    )


def _cost(cost: Cost) -> str:
    rows = [
        (program, *(f"{sizes[size]:,.0f}" if size in sizes else "" for size in BATCH_SIZES))
        for program, sizes in cost.latency_us.items()
    ]
    heads = ("us per batch of", *(f"{size:,}" for size in BATCH_SIZES))
    memory = (
        "not measured"
        if cost.peak_memory_bytes is None
        else f"{cost.peak_memory_bytes / 1e6:,.0f} MB"
    )
    return (
        _table(heads, rows)
        + f"\n\nPeak memory of a process {memory}; on disk {cost.size_bytes / 1e6:,.2f} MB; "
        + f"measured on {cost.machine.get('cpu', 'an unknown processor')}, one thread."
    )


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    lines += ["| " + " | ".join(_cell(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def _cell(text: str) -> str:
    return _text(text).replace("|", "\\|")


def _sentence(text: str) -> str:
    text = _text(text)
    return text[:1].upper() + text[1:] + "."


def _text(text: str) -> str:
    return " ".join(str(text).split())
