"""The verdicts of the sweep: in words, for the page of the docs, and as a table. Pure."""

from __future__ import annotations

import csv
import io
import math
from collections import Counter
from collections.abc import Mapping, Sequence

from bench.sweep.judge import Verdict

BAD = ("broken", "crash", "timeout")
DEFAULTS = "default/"
"""Boosting as it comes, on ten data sets: none of these may fall back to the original."""
HEADS = ("model", "served by", "claimed", "measured", "rows", "verdict")
_WORDS = {
    "kept": "kept",
    "broken": "broken",
    "crash": "crash",
    "timeout": "no verdict in time",
    "refused": "not packed",
    "unfit": "not fitted",
}


def fallen_back(verdicts: Sequence[Verdict]) -> list[Verdict]:
    """The defaults that the original serves, or that were not packed."""
    return [v for v in verdicts if v.name.startswith(DEFAULTS) and v.serves in ("", "original")]


def is_over_its_claim(verdict: Verdict) -> bool:
    """Whether more was measured than is claimed, be it within the tolerance."""
    return bool(verdict.programs) and verdict.measured > max(verdict.programs.values())


def summary(verdicts: Sequence[Verdict]) -> list[str]:
    """Sentences: how many models, what became of them."""
    counts = Counter(verdict.status for verdict in verdicts)
    asked = [verdict for verdict in verdicts if verdict.rows]
    defaults = [verdict for verdict in verdicts if verdict.name.startswith(DEFAULTS)]
    over = [verdict for verdict in asked if is_over_its_claim(verdict)]
    worst = max((v.measured for v in over if math.isfinite(v.measured)), default=0.0)
    original = sum(verdict.serves == "original" for verdict in asked)
    return [
        f"{len(verdicts)} models, {sum(verdict.rows for verdict in verdicts):,} rows.",
        f"{counts['kept']} kept the promise, {counts['broken']} broke it; "
        f"{counts['crash']} crashes, {counts['timeout']} without a verdict in time.",
        f"{counts['refused']} were refused by `pack`, {counts['unfit']} cannot be fitted here.",
        f"Of {len(asked)} packed models {original} are served by their original.",
        f"Of {len(defaults)} boosted models with default settings "
        f"{len(fallen_back(verdicts))} fall back to the original.",
        f"{sum(v.rounded for v in asked):,} answers differ where rounding decides; "
        f"{sum(v.typed for v in asked):,} rows of {sum(v.typed > 0 for v in asked)} models are "
        "left out because the type of their array decides.",
        f"{sum(v.changed for v in asked):,} answers change with the rows beside theirs.",
        f"{len(over)} measured more than their claim, at most {worst:.1e}: rows that the claim was "
        "not measured on.",
    ]


def cells(verdict: Verdict) -> list[str]:
    """One line of the table."""
    claimed = max(verdict.programs.values(), default=None)
    return [
        verdict.name,
        verdict.serves,
        "" if claimed is None else f"{claimed:.1e}",
        f"{verdict.measured:.1e}" if verdict.rows else "",
        f"{verdict.rows:,}" if verdict.rows else "",
        _WORDS[verdict.status],
    ]


def table(verdicts: Sequence[Verdict]) -> str:
    """A line of CSV for each model, with the reason where there is one."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*HEADS, "why"])
    writer.writerows([*cells(verdict), _why(verdict)] for verdict in verdicts)
    return text.getvalue()


def markdown(verdicts: Sequence[Verdict], versions: Mapping[str, str], processor: str) -> str:
    """The sentences, a line for each family, and what broke."""
    families: dict[str, list[Verdict]] = {}
    for verdict in verdicts:
        families.setdefault(verdict.name.partition("/")[0], []).append(verdict)
    heads = ("models", "count", "compiled", "original", "not packed", "claimed", "measured")
    lines = [*summary(verdicts), "", "| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    lines += [f"| {' | '.join([name, *_family(some)])} |" for name, some in families.items()]
    parts = ", ".join(f"{name} {version}" for name, version in versions.items())
    lines += ["", f"{processor}. With {parts}."]
    broken = [f"`{v.name}` ({_why(v)})" for v in verdicts if v.status in BAD]
    lines += ["", "## Broken", "", ", ".join(broken) + "."] if broken else []
    return "\n".join(lines)


def _family(verdicts: Sequence[Verdict]) -> list[str]:
    originals = sum(verdict.serves == "original" for verdict in verdicts)
    packed = sum(bool(verdict.serves) for verdict in verdicts)
    claimed = max((max(v.programs.values()) for v in verdicts if v.programs), default=0.0)
    measured = max((v.measured for v in verdicts if v.programs), default=0.0)
    refused = sum(verdict.status == "refused" for verdict in verdicts)
    counts = (len(verdicts), packed - originals, originals, refused)
    return [*map(str, counts), f"{claimed:.1e}", f"{measured:.1e}"]


def _why(verdict: Verdict) -> str:
    words = "; ".join(verdict.findings[:3]) if verdict.status == "broken" else verdict.why
    return words.replace("\n", " ").replace("\\ufdd0", "U+FDD0")[:500]
