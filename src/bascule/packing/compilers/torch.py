"""PyTorch modules to programs: by `torch.export`, and from there to ONNX.

The rows are the first dimension of every input and output, and are free; every other length is
that of the training rows.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from bascule.core import Field, Unconvertible, library
from bascule.packing.compilers.tidying import tidy

ROWS = 4
"""How many rows a module is traced with. More than one: a length of one is taken as fixed."""

Ask = Callable[[Mapping[str, Any]], Sequence[Any]]
"""Asks a module about tensors by name; gives its outputs as tensors, in order."""

_LSTM = "aten.lstm.input"


def export(module: Any, ask: Ask, tensors: Mapping[str, Any]) -> Any:
    """What a module does, as an `ExportedProgram` with its inputs in the order of the tensors.

    Args:
        module: In evaluation mode.
        ask: How it is asked.
        tensors: A few rows of each input, in the types that it takes.

    Raises:
        Unconvertible: PyTorch cannot follow it, or it answers for one number of rows only.
    """
    import torch

    class Wrapper(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = module

        def forward(self, *given: Any) -> tuple[Any, ...]:
            return tuple(ask(dict(zip(tensors, given, strict=True))))

    wrapper = Wrapper()
    wrapper.training = False
    few = tuple(_of_rows(tensor) for tensor in tensors.values())
    rows = torch.export.Dim("rows")
    try:
        with quietly(), torch.no_grad():
            return torch.export.export(
                wrapper, few, dynamic_shapes=(tuple({0: rows} for _ in few),), strict=False
            )
    except Exception as problem:  # the module and the tracer may raise anything
        raise Unconvertible(
            f"PyTorch cannot export {type(module).__name__} for any number of rows: "
            f"{gist(problem)}",
            hint="write forward without steps that depend on values or on the number of rows, or "
            "pack it as a bascule.PythonModel, which runs your own code",
        ) from problem


def to_core(exported: Any, whole: Iterable[str]) -> Any:
    """The same in the operators of Core ATen, as far as PyTorch can say it in them.

    Args:
        exported: What `export` gave.
        whole: Operators that are left as they are, for example `aten.linear.default`.
    """
    import torch

    kept = set(whole)
    if any(_is_projected(node) for node in exported.graph.nodes):
        kept.discard(_LSTM)  # of which ONNX has none that answers less than it keeps
    with quietly():
        table = torch.export.default_decompositions()
        for operator in [one for one in table if str(one) in kept]:
            del table[operator]
        return exported.run_decompositions(table)


def _is_projected(node: Any) -> bool:
    """Whether it is an LSTM whose answers are narrower than its cells (`proj_size`)."""
    if str(node.target) != _LSTM:
        return False
    hidden, cells = node.args[1]
    return bool(hidden.meta["val"].shape[-1] != cells.meta["val"].shape[-1])


def to_onnx(exported: Any, inputs: tuple[Field, ...], outputs: tuple[Field, ...]) -> bytes:
    """The graph of what was exported.

    Raises:
        Unconvertible: An operator has no form in ONNX.
        MissingExtra: What PyTorch needs for it is not installed.
    """
    import torch

    library("onnxscript", "torch")  # torch.onnx asks for it, in words of its own
    try:
        with quietly():
            made = torch.onnx.export(exported, dynamo=True, verbose=False)
        assert made is not None
        model = made.model_proto
    except Exception as problem:  # an exporter fails in as many ways as there are operators
        raise Unconvertible(
            f"PyTorch cannot write the module as ONNX: {gist(problem)}"
        ) from problem
    return tidy(model, inputs, outputs)


def _of_rows(tensor: Any) -> Any:
    import torch

    return tensor[torch.arange(ROWS) % len(tensor)]


@contextmanager
def quietly() -> Iterator[None]:
    """Without the warnings of PyTorch about itself."""
    logger = logging.getLogger("torch")
    level, logger_of_onnx = logger.level, logging.getLogger("torch.onnx")
    level_of_onnx = logger_of_onnx.level
    logger.setLevel(logging.CRITICAL)
    logger_of_onnx.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logger.setLevel(level)
        logger_of_onnx.setLevel(level_of_onnx)


def gist(problem: Exception) -> str:
    """The first line that says something: below headings, and without colours."""
    lines = [line.strip() for line in str(problem).splitlines() if line.strip()]
    said = [line for line in lines if not line.startswith(("Failed to", "<class", "[", "##", "- "))]
    return (said or lines or [type(problem).__name__])[0][:300]
