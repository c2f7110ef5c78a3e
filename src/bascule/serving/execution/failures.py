"""What a caller gets of an exception of a program; the log has the rest."""

from __future__ import annotations

import logging
import re

from bascule.bundle.programs import place_of
from bascule.core import BasculeError, ModelFailed, Program

log = logging.getLogger(__name__)

_NODE = re.compile(r"while running (\w+) node\. Name:'([^']*)'")
"""How ONNX Runtime names the part of a graph that failed."""


def failure_of(program: Program, error: Exception) -> BasculeError:
    """The error for the caller; it is being handled, and its details are logged here."""
    if isinstance(error, ModelFailed):
        reason = _reason(error)
        trace = error.facts.get("trace", "")
        log.exception("the program %s failed: %s\n%s", program.name, reason, trace)
        part = f"part {error.facts['part']} of " if "part" in error.facts else ""
        return ModelFailed(f"{part}the model failed", reason=reason)
    if isinstance(error, BasculeError):
        return error
    log.exception("the program %s failed", program.name)
    return ModelFailed("the model failed", reason=place_of(error))


def _reason(error: ModelFailed) -> str:
    """Why a program failed, without what its exception says: that may quote the caller's rows."""
    reason = error.facts.get("reason")
    if reason is not None:
        return str(reason)
    cause = error.__cause__ or error
    node = _NODE.search(str(cause))
    return place_of(cause) + (f", in the graph's {node[1]} node {node[2]!r}" if node else "")
