"""Packs integrated gradients of a PyTorch network: the graph of its gradients, and a baseline."""

from __future__ import annotations

import numpy as np

from bascule.bundle.disk import ProgramEntry
from bascule.bundle.explaining import Explanation, column_places
from bascule.bundle.originals import aten
from bascule.core import Unconvertible
from bascule.packing.compilers import gradient_graph
from bascule.packing.explaining.making import Made, Sources
from bascule.packing.explaining.sampling import answer_of, names_of
from bascule.packing.flavors import module_from

_TOLERANCE = 1e-3
"""Of completeness: a rule of 1,024 points leaves so much of a steep step at most."""
_ROWS = 256


def make(sources: Sources) -> Made:
    """See `Maker`: for a network of PyTorch that takes one matrix of numbers."""
    subject = sources.subject
    signature = subject.signature
    if subject.saved_format != aten.FORMAT:
        raise Unconvertible("the model is no network of PyTorch")
    if not signature.is_matrix or not signature.inputs[0].dtype.is_float:
        raise Unconvertible("the network does not take one matrix of numbers")
    if sources.background:
        raise Unconvertible("integrated gradients have no background rows")
    assert subject.train is not None
    (field,) = signature.inputs
    answer = answer_of(sources.outputs)
    rows = subject.train.columns[field.name]
    module = module_from(subject.saved, subject.saved_file, signature)
    graph, numbers = gradient_graph(module, aten.tensor_of(rows), field, answer.name)
    outputs = names_of(answer, subject.classes)
    if len(outputs) != numbers:
        raise Unconvertible(f"the output {answer.name} is no vector")
    columns = tuple(place.name for place in column_places(signature))
    explanation = Explanation(
        method="gradients", link="identity", answer=answer.name, columns=columns, outputs=outputs,
        tolerance=max(_TOLERANCE, sources.tolerance),
        about="integrated gradients from the mean training row",
        features=ProgramEntry(
            name="gradients", kind="onnx", file="gradients.onnx", inputs=(field,),
            batch_invariant=False, tolerance=sources.tolerance,
        ),
    )  # fmt: skip
    arrays = {
        "features": np.frombuffer(graph, np.uint8),
        "baseline": rows.mean(axis=0, dtype=np.float64),
    }
    return Made(explanation, arrays, measured_rows=_ROWS)
