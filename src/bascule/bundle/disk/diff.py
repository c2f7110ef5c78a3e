"""What sets two packings of one model apart, and what may have caused it. Pure.

Two bundles are the same when their digests are. Where they are not, each file and each part of the
manifest that differs is named, and beside it what is known to be different around them: versions,
the processor. A cause is a fact and not a proof; where there is none, that is said.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from bascule.bundle.disk.manifest import ENVIRONMENT, Manifest

_SHOWN = 5
_UNEXPLAINED = "nothing that is recorded explains it"


@dataclass(frozen=True, slots=True)
class Facts:
    """One packing.

    Attributes:
        manifest: What it came to.
        environment: The text of its `environment.txt`.
        made_with: Versions of the tools, and the processor; empty where it was not recorded.
    """

    manifest: Manifest
    environment: str
    made_with: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Difference:
    """One file, or one part of the manifest.

    Attributes:
        what: The file, or for example `bundle.json: signature`.
        packed: Its digest, or `-` where it is not there; a word for a part of the manifest.
        rebuilt: The same after packing again.
        why: What may have caused it.
    """

    what: str
    packed: str
    rebuilt: str
    why: str

    def to_json(self) -> dict[str, str]:
        return asdict(self)


def differences(packed: Facts, rebuilt: Facts) -> tuple[Difference, ...]:
    """Everything that the digest covers and that is not the same; empty for equal digests."""
    packages = _changed(versions_of(packed.environment), versions_of(rebuilt.environment))
    causes = [*packages, *_changed(packed.made_with, rebuilt.made_with)]
    why = _listed(list(dict.fromkeys(causes))) or _UNEXPLAINED
    found = list(_parts(packed.manifest, rebuilt.manifest, why))
    before, after = packed.manifest.files, rebuilt.manifest.files
    for name in sorted({*before, *after}):
        was, now = before.get(name), after.get(name)
        if was != now:
            own = _listed(packages) if name == ENVIRONMENT else ""
            found.append(
                Difference(name, was.sha256 if was else "-", now.sha256 if now else "-", own or why)
            )
    return tuple(found)


def _parts(packed: Manifest, rebuilt: Manifest, why: str) -> Iterator[Difference]:
    before, after = packed.to_json(), rebuilt.to_json()
    for part in sorted({*before, *after} - {"files"}):
        was, now = before.get(part), after.get(part)
        if was != now:
            yield Difference(f"bundle.json: {part}", _short(was), _short(now), why)


def _short(value: Any) -> str:
    return str(value) if isinstance(value, str | int) else "another"


def _changed(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    """What differs, where both or at least the first is known."""
    if not before:
        return []
    return [
        f"{name} {before.get(name, 'missing')} -> {after.get(name, 'missing')}"
        for name in sorted({*before, *after})
        if before.get(name) != after.get(name)
    ]


def versions_of(environment: str) -> dict[str, str]:
    """The versions that an `environment.txt` names, that of Python among them."""
    lines = [line.strip() for line in environment.splitlines()]
    pairs = [line.removeprefix("# ").replace("python ", "python==", 1) for line in lines]
    named = (pair.split("==", 1) for pair in pairs if "==" in pair)
    return {name: version.split()[0].rstrip(";\\") for name, version in named if version.strip()}


def _listed(causes: list[str]) -> str:
    more = len(causes) - _SHOWN
    return ", ".join(causes[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
