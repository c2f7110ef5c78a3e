"""Packs integrated gradients of a PyTorch network: the graph of its gradients, and a baseline.

PyTorch traces its own backward pass with symbolic shapes, and the trace is exported as any network
is: no server needs PyTorch to explain it. Attention in one kernel is replaced by its parts. The
backward pass of a convolution has no form in ONNX.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from bascule.bundle.disk import ProgramEntry
from bascule.bundle.explaining import ANSWERS, GRADIENTS, Explanation, column_places
from bascule.bundle.originals import aten
from bascule.core import Field, Unconvertible
from bascule.packing.compilers import ROWS, gist, quietly, to_onnx
from bascule.packing.explaining.making import Method, Sources
from bascule.packing.explaining.sampling import answer_of, names_of
from bascule.packing.flavors import module_from

_TOLERANCE = 1e-3
"""Of completeness: what a rule of 1,024 points leaves of a steep step, at most."""
_ROWS = 256
_HINT = "integrated gradients are of networks of PyTorch that take one matrix of numbers"


def make(sources: Sources) -> Method:
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
    return Method(explanation, arrays, measured_rows=_ROWS)


def gradient_graph(module: Any, rows: Any, field: Field, output: Field) -> bytes:
    """A graph from one input to an output, and the gradients of the output by the input.

    Args:
        module: Answers with tensors by name, and takes one tensor by the name of `field`.
        rows: A few rows of it as a tensor. Shape (rows, columns).
        field: The input.
        output: Which of the answers: a number or a vector.

    Returns:
        ONNX with the outputs `gradients`, of shape (rows, columns, numbers), and `answers`, of
        shape (rows, numbers).

    Raises:
        Unconvertible: PyTorch cannot follow the gradient, or ONNX has no form for a step of it.
    """
    import torch
    from torch.fx.experimental.proxy_tensor import make_fx
    from torch.nn.attention import SDPBackend, sdpa_kernel

    def gradients(given: Any) -> Any:
        point = given.detach().requires_grad_(True)
        answer = module(**{field.name: point})[output.name].reshape(point.shape[0], -1)
        totals = answer.sum(dim=0).unbind()
        by_number = [torch.autograd.grad(one, point, retain_graph=True)[0] for one in totals]
        return torch.stack(by_number, dim=2), answer.detach()

    few = rows[torch.arange(ROWS) % len(rows)]
    table: Any = torch.export.default_decompositions().materialize()
    try:
        with quietly(), sdpa_kernel(SDPBackend.MATH):
            # The weights are constants of the trace, which are real tensors.
            traced = make_fx(
                gradients, tracing_mode="symbolic", decomposition_table=table,
                _allow_non_fake_inputs=True,
            )(few)  # fmt: skip
            traced.training = False
            shapes = ({0: torch.export.Dim("rows")},)
            with torch.no_grad():
                exported = torch.export.export(traced, (few,), dynamic_shapes=shapes, strict=False)
    except Exception as problem:  # the module and the tracer may raise anything
        message = f"PyTorch cannot follow the gradient: {gist(problem)}"
        raise Unconvertible(message, hint="other explanations ask the model") from problem
    numbers = output.shape or (1,)
    outputs = (
        Field(GRADIENTS, field.dtype, (*field.shape, *numbers)),
        Field(ANSWERS, field.dtype, numbers),
    )
    return to_onnx(exported, (field,), outputs)
