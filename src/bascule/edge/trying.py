"""The trial: requests of this device, answered again by a candidate beside the version that serves.

`python -m bascule.edge.trying` does it in a process of its own, within a time: a candidate that
hangs or crashes delays no caller, and ends that process alone.
"""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Mapping
from typing import Any

from bascule.bundle.statements import USUAL, row_differences
from bascule.core import BasculeError, Columns, answer_parent
from bascule.edge.channels import Offer
from bascule.edge.device import Opened
from bascule.edge.slots import Home


def compare(question: Mapping[str, Any]) -> dict[str, Any]:
    """Answer recorded `requests` by `current` and by `candidate`, two offers of a `home`.

    Returns:
        How many `requests` both were asked; how many `failed` by the candidate alone, and
        the first `problem`; how many were `differing`.
    """
    requests = [(b64decode(body), json_bytes) for body, json_bytes in question["requests"]]
    own, others = (
        _answers(Home(question["home"]), Offer(**question[name]), requests)
        for name in ("current", "candidate")
    )
    problems, differing = [], 0
    for answer, other in zip(own, others, strict=True):
        if isinstance(answer, BasculeError):
            continue
        if isinstance(other, BasculeError):
            problems.append(other.message)
        else:
            differing += _differ(answer, other)
    return {
        "requests": len(requests), "failed": len(problems), "differing": differing,
        "problem": problems[0] if problems else "",
    }  # fmt: skip


def _answers(
    home: Home, offer: Offer, requests: list[tuple[bytes, int]]
) -> list[Columns | BasculeError]:
    """Of one version, which is closed again: two at once may take more memory than there is."""
    opened, answers = Opened(offer, home.slot(offer.digest)), list[Columns | BasculeError]()
    for request in requests:
        try:
            answers.append(opened.reply(*request)[1].outputs)
        except BasculeError as problem:
            answers.append(problem)
    return answers


def _differ(own: Columns, other: Columns) -> bool:
    """Whether two answers differ, beyond what programs of one model may differ by."""
    if {name: values.shape for name, values in own.items()} != {
        name: values.shape for name, values in other.items()
    }:
        return True
    distance, labels, _ = row_differences(own, other, USUAL, 0, None)
    return bool((distance > USUAL).any() or labels.any())


if __name__ == "__main__":
    answer_parent(compare)
