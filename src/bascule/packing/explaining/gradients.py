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
"""Of completeness: what a rule of 1,024 points leaves of a steep step, at most."""
_ROWS = 256
_HINT = "integrated gradients are of networks of PyTorch that take one matrix of numbers"


def make(sources: Sources) -> Made:
    """See `Maker`: for a network of PyTorch that takes one matrix of numbers."""
    subject, signature = sources.subject, sources.subject.signature
    field = signature.inputs[0]
    if subject.saved_format != aten.FORMAT or subject.train is None:
        raise Unconvertible("the model is no network of PyTorch", hint=_HINT)
    if not signature.is_matrix or not field.dtype.is_float or sources.background:
        raise Unconvertible("the network takes no matrix, or has a background", hint=_HINT)
    answer, rows = answer_of(sources.outputs), subject.train.columns[field.name]
    module = module_from(subject.saved, subject.saved_file, signature)
    graph = gradient_graph(module, aten.tensor_of(rows), field, answer)
    entry = ProgramEntry(
        name="gradients", kind="onnx", file="gradients.onnx", inputs=(field,),
        batch_invariant=False, tolerance=sources.tolerance,
    )  # fmt: skip
    explanation = Explanation(
        method="gradients", link="identity", answer=answer.name,
        columns=tuple(place.name for place in column_places(signature)),
        outputs=names_of(answer, subject.classes), tolerance=max(_TOLERANCE, sources.tolerance),
        about="integrated gradients from the mean training row", features=entry,
    )  # fmt: skip
    baseline = rows.mean(axis=0, dtype=np.float64)
    arrays = {"features": np.frombuffer(graph, np.uint8), "baseline": baseline}
    return Made(explanation, arrays, measured_rows=_ROWS)
