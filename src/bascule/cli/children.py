"""Asks a module that runs in a process of its own: JSON to its input, JSON from its output.

The control process must stay small and quick, and what it is asked about may be large or hostile.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from bascule.core import KINDS, BasculeError, ModelFailed, TimedOut

if TYPE_CHECKING:
    from bascule.settings import Settings

_NICE = 10


def told_settings(settings: Settings) -> dict[str, Any]:
    """The settings as JSON, for a process that must have the same."""
    from pydantic import TypeAdapter

    from bascule.settings import Settings as Kind

    told: dict[str, Any] = TypeAdapter(Kind).dump_python(settings, mode="json")
    return told


def ask_child(
    module: str, asked: Mapping[str, Any], *, what: str, timeout_s: float, is_nice: bool = False
) -> dict[str, Any]:
    """What `module` answers, which must call `answer_parent`.

    Args:
        module: Started by `python -m`; it ends with this process.
        asked: With `settings`, as `told_settings` gives them.
        what: Of errors: `the push to late`.
        timeout_s: Until the process is killed.
        is_nice: Whether the processes of the server go before it.

    Raises:
        BasculeError: What the module raised, by its kind.
        ModelFailed: The process died.
        TimedOut: It took too long, and was killed.
    """
    command = [sys.executable, "-m", module, str(os.getpid())]
    if is_nice:
        command = ["nice", "-n", str(_NICE), *command]
    try:
        done = subprocess.run(
            command, input=json.dumps(asked).encode(), stdout=subprocess.PIPE, timeout=timeout_s,
            check=False,
        )  # fmt: skip
        said: dict[str, Any] = json.loads(done.stdout)
    except subprocess.TimeoutExpired:
        raise TimedOut(f"{what} took over {timeout_s:g} s", hint="retry") from None
    except ValueError:
        raise ModelFailed(f"{what} failed; see the server's log") from None
    if "kind" in said and "error" in said:
        kind = next((one for one in KINDS if one.__name__ == said["kind"]), ModelFailed)
        raise kind(said["error"], hint=said["hint"])
    return said


def answer_parent(answer: Callable[[Settings, dict[str, Any]], dict[str, Any]]) -> None:
    """Print what `answer` makes of the settings and the question of the parent; or its error."""
    from pydantic import TypeAdapter

    from bascule.bundle.programs import die_with
    from bascule.cli.screen import error_json, print_json
    from bascule.settings import Settings as Kind

    die_with(int(sys.argv[1]))
    asked: dict[str, Any] = json.loads(sys.stdin.read())
    settings = TypeAdapter(Kind).validate_python(asked["settings"])
    try:
        print_json(answer(settings, asked))
    except BasculeError as error:
        kind = next(one for one in type(error).__mro__ if one in KINDS)
        print_json({**error_json(error), "kind": kind.__name__})
