"""The gradient of a PyTorch network as an ONNX graph: no server needs PyTorch to explain it.

PyTorch traces its own backward pass with symbolic shapes (`make_fx`), and the trace is exported as
any network is. Two steps of it have no form in ONNX and are replaced: the backward pass of a
convolution, which is a convolution transposed, and attention in one kernel, which is taken apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bascule.bundle.explaining import ANSWERS, GRADIENTS
from bascule.core import Field, Unconvertible
from bascule.packing.compilers.torch import ROWS, gist, quietly, to_onnx


def gradient_graph(module: Any, rows: Any, field: Field, output: str) -> tuple[bytes, int]:
    """A graph from one input to an output, and the gradients of the output by the input.

    Args:
        module: Answers a dict of tensors, and takes one tensor by the name of `field`.
        rows: A few rows of it as a tensor. Shape (rows, columns).
        field: Of the input.
        output: Which of the answers, with one axis or two.

    Returns:
        ONNX with the outputs `gradients`, of shape (rows, columns, numbers), and `answers`, of
        shape (rows, numbers); and how many numbers the output has.

    Raises:
        Unconvertible: PyTorch cannot follow the gradient, or ONNX has no form for a step of it.
    """
    import torch
    from torch.fx.experimental.proxy_tensor import make_fx
    from torch.nn.attention import SDPBackend, sdpa_kernel

    def answers(given: Any) -> Any:
        return module(**{field.name: given})[output].reshape(given.shape[0], -1)

    def gradients(given: Any) -> Any:
        point = given.detach().requires_grad_(True)
        answer = answers(point)
        by_output = [
            torch.autograd.grad(total, point, retain_graph=True)[0]
            for total in answer.sum(dim=0).unbind()
        ]
        return torch.stack(by_output, dim=2), answer.detach()

    try:
        few = rows[torch.arange(ROWS) % len(rows)]
        numbers = answers(few).shape[1]
        with quietly(), sdpa_kernel(SDPBackend.MATH):
            # The weights are constants of the trace, which are real tensors.
            traced = make_fx(
                gradients, tracing_mode="symbolic", decomposition_table=_table(),
                _allow_non_fake_inputs=True,
            )(few)  # fmt: skip
            traced.training = False
            with torch.no_grad():
                exported = torch.export.export(
                    traced, (few,), dynamic_shapes=({0: torch.export.Dim("rows")},), strict=False
                )
    except Exception as problem:  # the module and the tracer may raise anything
        raise Unconvertible(f"PyTorch cannot follow the gradient: {gist(problem)}") from problem
    made = Field(GRADIENTS, field.dtype, (*field.shape, numbers))
    return to_onnx(exported, (field,), (made, Field(ANSWERS, field.dtype, (numbers,)))), numbers


def _table() -> dict[Any, Any]:
    import torch

    table = torch.export.default_decompositions()
    backward = torch.ops.aten.convolution_backward.default
    return {**table.materialize(), backward: _convolution_backward}


def _convolution_backward(
    gradient: Any, given: Any, weight: Any, _bias: Any, stride: Sequence[int],
    padding: Sequence[int], dilation: Sequence[int], transposed: bool, _extra: Sequence[int],
    groups: int, _mask: Sequence[bool],
) -> tuple[Any, None, None]:  # fmt: skip
    """`aten.convolution_backward` for the input alone."""
    import torch

    # What the stride leaves over at the end of the input.
    left_over = [0] * len(stride)
    if not transposed:
        left_over = [
            given.shape[2 + axis]
            - ((gradient.shape[2 + axis] - 1) * stride[axis] - 2 * padding[axis])
            - dilation[axis] * (weight.shape[2 + axis] - 1)
            - 1
            for axis in range(len(stride))
        ]
    back = torch.ops.aten.convolution(
        gradient, weight, None, stride, padding, dilation, not transposed, left_over, groups
    )
    return back, None, None
