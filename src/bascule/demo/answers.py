"""Are the answers that came over HTTP the ones that the model gives? Decides; no I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from bascule.demo.client import Reply


@dataclass(frozen=True, slots=True)
class Check:
    """Replies beside the model's own answers.

    Attributes:
        answered: Replies that could be compared.
        wrong: Those of them with another label, or a probability that is off.
        max_difference: The largest difference of a probability.
        probabilities: Of the second class, as they were received; NaN where there was no answer.
    """

    answered: int
    wrong: int
    max_difference: float
    probabilities: NDArray[np.float64]


def check(
    replies: Sequence[Reply | None],
    own: Mapping[str, NDArray[Any]],
    *,
    tolerance: float,
) -> Check:
    """Compare one-row replies with the model's own `label` and `probabilities` for those rows.

    Args:
        replies: In the order of the rows. Those without an answer are not counted as wrong; they
            are errors, and counted as such elsewhere.
        own: What the bundle itself answers for all of the rows.
        tolerance: The largest difference of a probability; 0 asks for the same bits.
    """
    labels, probabilities = own["label"], own["probabilities"]
    received = np.full(probabilities.shape, np.nan, dtype=probabilities.dtype)
    given_labels = np.full(len(labels), -1, dtype=labels.dtype)
    answered = np.zeros(len(labels), dtype=bool)
    for row, reply in enumerate(replies):
        if reply is None or reply.status != 200:
            continue
        answered[row] = True
        if (said := read(reply)) is not None:
            given_labels[row], received[row] = said
    difference = np.abs(received - probabilities)[answered]
    off = ~(difference <= tolerance).all(axis=1)
    wrong = off | (given_labels != labels)[answered]
    return Check(
        answered=int(answered.sum()),
        wrong=int(wrong.sum()),
        max_difference=float(difference.max(initial=0.0)),
        probabilities=received[:, 1].astype(np.float64),
    )


class _Output(msgspec.Struct):
    name: str
    data: list[float]


class _Answer(msgspec.Struct):
    outputs: list[_Output]


_decode = msgspec.json.Decoder(_Answer).decode


def read(reply: Reply) -> tuple[int, list[float]] | None:
    """The label and the two probabilities of a reply to one row; None if it does not hold them."""
    try:
        outputs = {output.name: output.data for output in _decode(reply.body).outputs}
        (label,), (first, second) = outputs["label"], outputs["probabilities"]
    except (msgspec.MsgspecError, KeyError, ValueError):
        return None
    return int(label), [first, second]
