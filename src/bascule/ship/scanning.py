"""Scans what an image is built from, with Trivy: secrets, faults of the Dockerfile, known flaws.

A scan that cannot run says so: it is never taken for one that found nothing.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

_SCANS: Mapping[str, Sequence[str]] = {
    "secrets": ("fs", "--scanners", "secret", "."),
    "configuration": ("config", "--severity", "HIGH,CRITICAL", "."),
    "vulnerabilities": (
        "sbom", "--scanners", "vuln", "--severity", "HIGH,CRITICAL", "--skip-db-update",
        "sbom.cdx.json",
    ),
}  # fmt: skip
"""Trivy's words, by what is looked for. No database is fetched: the caller chooses it."""
_FINDINGS = {
    "secrets": ("Secrets", "RuleID"),
    "configuration": ("Misconfigurations", "ID"),
    "vulnerabilities": ("Vulnerabilities", "VulnerabilityID"),
}


@dataclass(frozen=True, slots=True)
class Scan:
    """What one scan said.

    Attributes:
        what: `secrets`, `configuration` or `vulnerabilities`.
        state: Whether it passed, failed, or could not run.
        findings: Each with its place, `RULE: FILE`; secrets themselves are not repeated.
        reason: Why it could not run.
    """

    what: str
    state: Literal["passed", "failed", "not run"]
    findings: tuple[str, ...] = ()
    reason: str = ""


def scan(folder: Path) -> tuple[Scan, ...]:
    """Scan the context of a build, with the bundle and its SBOM."""
    tool = shutil.which("trivy")
    if tool is None:
        return tuple(Scan(what, "not run", reason="trivy is not installed") for what in _SCANS)
    return tuple(_scanned(tool, what, folder) for what in _SCANS)


def _scanned(tool: str, what: str, folder: Path) -> Scan:
    command = [tool, _SCANS[what][0], "--quiet", "--format", "json", *_SCANS[what][1:]]
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if ended.returncode:
        last = (ended.stderr.strip().splitlines() or ["it says nothing"])[-1]
        return Scan(what, "not run", reason=_plain(last))
    found = findings_of(what, json.loads(ended.stdout or "{}"))
    return Scan(what, "failed" if found else "passed", found)


def findings_of(what: str, report: Mapping[str, Any]) -> tuple[str, ...]:
    """The findings in a report of Trivy, sorted."""
    section, name = _FINDINGS[what]
    return tuple(
        sorted(
            f"{one[name]}: {one.get('PkgName') or result['Target']}"
            for result in report.get("Results") or ()
            for one in result.get(section) or ()
            if one.get("Status") != "PASS"
        )
    )


def _plain(line: str) -> str:
    """The message of a line of Trivy's log, without time and level."""
    if "cannot be specified on the first run" in line:
        return "trivy has no database of vulnerabilities here: trivy image --download-db-only"
    return line.split("\t")[-1][:200]
