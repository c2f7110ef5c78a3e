"""The gradient of a PyTorch network as an ONNX graph: no server needs PyTorch to explain it.

PyTorch traces its own backward pass with symbolic shapes, and the trace is exported as any network
is. Two of its steps have no form in ONNX and are replaced: the backward pass of a convolution, by a
transposed convolution, and attention in one kernel, by its parts.
"""

from __future__ import annotations

from collections.abc import Sequence
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
    try:
        with quietly(), sdpa_kernel(SDPBackend.MATH):
            # The weights are constants of the trace, which are real tensors.
            traced = make_fx(
                gradients, tracing_mode="symbolic", decomposition_table=_table(),
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


def _table() -> dict[Any, Any]:
    import torch

    backward = torch.ops.aten.convolution_backward.default
    table = torch.export.default_decompositions()
    return {**table.materialize(), backward: _convolution_backward}


def _convolution_backward(
    gradient: Any, given: Any, weight: Any, _bias: Any, stride: Sequence[int],
    padding: Sequence[int], dilation: Sequence[int], transposed: bool, _extra: Sequence[int],
    groups: int, _mask: Sequence[bool],
) -> tuple[Any, None, None]:  # fmt: skip
    """`aten.convolution_backward` for the input alone."""
    import torch

    # What the stride leaves over at the end of the input.
    left_over = [
        0 if transposed else given.shape[2 + axis] - 1 - (gradient.shape[2 + axis] - 1) * step
        + 2 * padding[axis] - dilation[axis] * (weight.shape[2 + axis] - 1)
        for axis, step in enumerate(stride)
    ]  # fmt: skip
    back = torch.ops.aten.convolution(
        gradient, weight, None, stride, padding, dilation, not transposed, left_over, groups
    )
    return back, None, None
