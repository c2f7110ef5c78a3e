"""Which versions may answer the same requests: those whose signatures have one form."""

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
        replace(one, bounds=None)
        if one.bounds is not None and one.bounds[0] <= -_LARGEST and one.bounds[1] >= _LARGEST
        else one
        for one in signature.inputs
    ]
    return [*inputs, *signature.outputs]
