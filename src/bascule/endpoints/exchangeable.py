"""Which versions may answer the same requests: those whose signatures have one form.

Whether a value may be missing is no part of the form: a version that also takes missing values
answers every request of one that takes none. The reverse breaks callers; see `refuses_missing`.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import zip_longest

from bascule.core import Field, Signature

_LARGEST = 3.4e38
"""About the largest number of FP32. Bounds out there are the number type of a program: those of two
libraries differ, and no data comes near them."""


def is_exchangeable(ours: Signature, theirs: Signature) -> bool:
    """Whether two versions take the same inputs and return the same outputs."""
    return _form_of(ours) == _form_of(theirs)


def refuses_missing(candidate: Signature, current: Signature) -> str:
    """The first input that may be missing for `current` and not for `candidate`; empty for none.

    Requests without it are answered now, and would fail.
    """
    takes = {one.name for one in candidate.inputs if one.nullable}
    return next((one.name for one in current.inputs if one.nullable and one.name not in takes), "")


def difference(ours: Signature, theirs: Signature) -> str:
    """What the first field that differs has in place of what: `x: dtype FP32 in place of FP64`."""
    pairs = zip_longest(_form_of(ours), _form_of(theirs))
    here, there = next(pair for pair in pairs if pair[0] != pair[1])
    said, was = ({} if one is None else one.to_json() for one in (here, there))
    changed = (
        f"{key} {said.get(key)} in place of {was.get(key)}"
        for key in said | was
        if said.get(key) != was.get(key)
    )
    return f"{(here or there).name}: {', '.join(changed)}"


def _form_of(signature: Signature) -> list[Field]:
    inputs = [
        replace(one, nullable=False, bounds=None if _takes_any_number(one) else one.bounds)
        for one in signature.inputs
    ]
    return [*inputs, *signature.outputs]


def _takes_any_number(field: Field) -> bool:
    bounds = field.bounds
    return bounds is None or (bounds[0] <= -_LARGEST and bounds[1] >= _LARGEST)
