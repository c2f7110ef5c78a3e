"""A gate report for the machines and people around a pipeline: JSON, JUnit XML, Markdown. Pure.

JUnit is the form that CI systems read (the schema is that of Jenkins' xUnit plug-in): a criterion
is a test case; one that could not be evaluated is an `error`, one that was not met a `failure`, and
one that passed because there is nothing yet to compare with is `skipped`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from xml.etree import ElementTree

from bascule.bundle import gates_table
from bascule.core import Invalid
from bascule.documents import Document, markdown
from bascule.release.gates import GateReport

_NOT_IN_XML = re.compile(r"[^\t\n\r\x20-\uD7FF\uE000-\uFFFD\U00010000-\U0010FFFF]")


def as_json(report: GateReport, name: str) -> str:
    """The body of the `gates` statement, with the name of what was checked."""
    return json.dumps({"bundle": name, **report.to_json()}, indent=2) + "\n"


def as_junit(report: GateReport, name: str) -> str:
    """One test suite with one case a criterion."""
    unknown = sum(result.value is None for result in report.failures)
    counts = {
        "tests": str(len(report.results)),
        "failures": str(len(report.failures) - unknown),
        "errors": str(unknown),
        "skipped": str(sum(result.is_waived for result in report.results)),
    }
    suites = ElementTree.Element("testsuites", counts)
    suite = ElementTree.SubElement(suites, "testsuite", {"name": _xml(name), **counts})
    for result in report.results:
        case = ElementTree.SubElement(
            suite, "testcase", {"classname": _xml(name), "name": _xml(str(result.criterion))}
        )
        if result.is_waived:
            ElementTree.SubElement(case, "skipped", {"message": _xml(result.reason)})
        if not result.passed:
            kind = "error" if result.value is None else "failure"
            said = ElementTree.SubElement(case, kind, {"message": _xml(result.reason)})
            said.text = _xml(result.reason)
    ElementTree.indent(suites)
    head = '<?xml version="1.0" encoding="UTF-8"?>\n'
    return head + ElementTree.tostring(suites, encoding="unicode") + "\n"


def as_markdown(report: GateReport, name: str) -> str:
    """A heading with the verdict, and a table."""
    verdict = "passed"
    if not report.passed:
        verdict = f"failed {len(report.failures)} of {len(report.results)} gates"
    table = gates_table([result.to_json() for result in report.results])
    return markdown(Document(f"{name} {verdict}", lead=(table,)), level=3)


FORMS: Mapping[str, Callable[[GateReport, str], str]] = {
    "json": as_json,
    "junit": as_junit,
    "markdown": as_markdown,
}
"""By the name that stands before the colon of `--output`."""


def parse_output(text: str) -> tuple[str, Path]:
    """Read `FORM:FILE`; raises `Invalid`."""
    form, colon, file = text.partition(":")
    if form not in FORMS or not colon or not file:
        raise Invalid(
            f"--output {text!r} is not one of {', '.join(FORMS)}, a colon, and a file",
            hint="write --output junit:gates.xml",
        )
    path = Path(file)
    if not path.absolute().parent.is_dir():
        raise Invalid(f"--output: there is no folder {path.absolute().parent}", hint="make it")
    return form, path


def _xml(text: str) -> str:
    return _NOT_IN_XML.sub("?", text)
