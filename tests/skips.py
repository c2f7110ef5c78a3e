"""Every reason for which a test may skip: what a library or a kernel cannot do.

A test skips by `skip("NAME")` alone; any other skip fails. What a reason claims of this machine is
compared with what is true of it by `test_skips.py`, so that a reason that has gone is taken out.
"""

from __future__ import annotations

import ctypes
import os
import shutil
from collections.abc import Callable, Generator
from dataclasses import dataclass

import pytest

_PR_GET_MDWE = 66


@dataclass(frozen=True)
class Reason:
    """Why some tests cannot run here.

    Attributes:
        text: For the summary.
        claimed: Whether they are to be skipped on a machine like this one.
        is_true: Whether what they need really lacks; looked up, not concluded from a version.
    """

    text: str
    claimed: Callable[[], bool]
    is_true: Callable[[], bool]


def _kernel() -> tuple[int, ...]:
    return tuple(int(part) for part in os.uname().release.split("-")[0].split(".")[:2])


REASONS = {
    "mdwe": Reason(
        "this kernel cannot forbid code to be made: PR_SET_MDWE came with Linux 6.3",
        lambda: _kernel() < (6, 3),
        lambda: ctypes.CDLL(None).prctl(_PR_GET_MDWE, 0, 0, 0, 0) < 0,
    ),
    "networks": Reason(
        "a network of its own needs root and the program ip",
        lambda: os.geteuid() != 0 and "CI" not in os.environ,
        lambda: os.geteuid() != 0 or shutil.which("ip") is None,
    ),
}


def skip(name: str) -> None:
    """Skip this test for a reason of the list."""
    pytest.skip(f"{name}: {REASONS[name].text}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A test that skips for a reason of its own fails: see the module."""
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and not _is_listed(report):
        report.outcome = "failed"
        report.longrepr = f"skipped for no reason of tests/skips.py: {report.longrepr}"
    return report


def _is_listed(report: pytest.TestReport) -> bool:
    text = str(report.longrepr)
    return any(f"{name}: {reason.text}" in text for name, reason in REASONS.items())
