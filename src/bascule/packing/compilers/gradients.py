"""The gradient of a PyTorch network as an ONNX graph: no server needs PyTorch to explain it.

PyTorch traces its own backward pass with symbolic shapes, and the trace is exported as any network
is. Attention in one kernel is replaced by its parts. The backward pass of a convolution has no form
in ONNX.
"""

from __future__ import annotations

from typing import Any

from bascule.bundle.explaining import ANSWERS, GRADIENTS
from bascule.core import Field, Unconvertible
from bascule.packing.compilers.torch import ROWS, gist, quietly, to_onnx


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
    made = (
        Field(GRADIENTS, field.dtype, (*field.shape, *numbers)),
        Field(ANSWERS, field.dtype, numbers),
    )
    return to_onnx(exported, (field,), made)
