"""What schemathesis does with a case of the server's own document before it is sent.

Loaded by its command (`SCHEMATHESIS_HOOKS`).
"""

from __future__ import annotations

import copy
import math

import schemathesis


def flat(values):
    return [one for value in values for one in (flat(value) if type(value) is list else [value])]


@schemathesis.hook
def filter_case(context, case):
    """JSON Schema has no words for rows of CSV."""
    return case.media_type != "text/csv"


@schemathesis.hook
def map_case(context, case):
    """Each tensor once, with as many values as its shape makes, which JSON Schema cannot say."""
    is_infer = case.path.endswith(("/infer", "/infer_stream"))
    if not is_infer or case.meta is None or not case.meta.generation.mode.is_positive:
        return case
    content = case.operation.definition.raw["requestBody"]["content"]["application/json"]
    sent = content["example"]["inputs"] + case.body["inputs"]
    tensors = {tensor["name"]: copy.deepcopy(tensor) for tensor in sent}
    for tensor in tensors.values():
        tensor["shape"][0] = 1
        width = math.prod(tensor["shape"])
        tensor["data"] = (flat(tensor["data"]) * width)[:width]
    case.body = {**case.body, "inputs": [*tensors.values()]}
    return case
