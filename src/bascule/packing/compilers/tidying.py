"""Graphs that other libraries make, brought into the form of a bundle.

Exporters choose the names of inputs and outputs themselves, and leave notes in the graph: the
source lines of an operator, with the folders of the user that exported it. A program has the names
of the signature, and the same model has the same bytes wherever it is packed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from bascule.core import DType, Field, Unconvertible

_ROWS = "rows"


def tidy(model: Any, inputs: tuple[Field, ...], outputs: tuple[Field, ...]) -> bytes:
    """The bytes of an exported model with the names and shapes of the signature, without notes.

    Args:
        model: A `ModelProto`, which is changed. Its inputs and outputs are in the order of these.
        inputs: What the inputs are to be.
        outputs: What the outputs are to be.

    Raises:
        Unconvertible: It has another number of them.
    """
    graph = model.graph
    constants = {tensor.name for tensor in graph.initializer}
    reads = [value.name for value in graph.input if value.name not in constants]
    if len(reads) != len(inputs) or len(graph.output) != len(outputs):
        raise Unconvertible(
            f"the exported graph has {len(reads)} inputs and {len(graph.output)} outputs, and the "
            f"model has {len(inputs)} and {len(outputs)}"
        )
    answers = [value.name for value in graph.output]
    names = dict(zip(reads, (field.name for field in inputs), strict=True))
    taken = {"", *(field.name for field in (*inputs, *outputs))}
    for place, name in enumerate(dict.fromkeys(_names_in(graph))):
        if name not in names and name:
            inner = f"v{place}"
            names[name] = inner if inner not in taken else f"{inner}.inner"
    names[""] = ""  # an optional input that is left out
    _rename(graph, names)
    for name, field in zip(answers, outputs, strict=True):
        # By a node of its own: one tensor may be an input as well, or be answered twice. The
        # runtime takes it out again where it can.
        graph.node.add(op_type="Identity", input=[names[name]], output=[field.name])
    del graph.input[:]
    del graph.output[:]
    graph.input.extend(_described(field) for field in inputs)
    graph.output.extend(_described(field) for field in outputs)
    _forget(model)
    return bytes(model.SerializeToString(deterministic=True))


def _described(field: Field) -> Any:
    from onnx import TensorProto, helper

    is_text = field.dtype is DType.BYTES
    element = TensorProto.STRING if is_text else helper.np_dtype_to_tensor_dtype(field.dtype.numpy)
    lengths = [None if length < 0 else length for length in field.shape]
    return helper.make_tensor_value_info(field.name, element, [_ROWS, *lengths])


def _graphs_of(node: Any) -> Iterator[Any]:
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def _names_in(graph: Any) -> Iterator[str]:
    """Every name of a tensor in a graph and in those inside it; no two are called the same."""
    yield from (tensor.name for tensor in graph.initializer)
    yield from (tensor.values.name for tensor in graph.sparse_initializer)
    yield from (value.name for value in (*graph.input, *graph.output))
    for node in graph.node:
        yield from node.output
        for inner in _graphs_of(node):
            yield from _names_in(inner)


def _rename(graph: Any, names: dict[str, str]) -> None:
    for tensor in (*graph.initializer, *(sparse.values for sparse in graph.sparse_initializer)):
        tensor.name = names[tensor.name]
        tensor.doc_string = ""
    for value in (*graph.input, *graph.output):
        value.name = names[value.name]
    del graph.value_info[:]
    for node in graph.node:
        node.input[:] = [names[name] for name in node.input]
        node.output[:] = [names[name] for name in node.output]
        node.name = node.doc_string = ""
        del node.metadata_props[:]
        for inner in _graphs_of(node):
            _rename(inner, names)
            inner.name, inner.doc_string = "inner", ""
            del inner.metadata_props[:]


def _forget(model: Any) -> None:
    model.graph.name, model.graph.doc_string, model.doc_string = "model", "", ""
    del model.graph.metadata_props[:]
    del model.graph.quantization_annotation[:]
    del model.metadata_props[:]
    for function in model.functions:
        function.doc_string = ""
        del function.metadata_props[:]
        del function.value_info[:]
        for node in function.node:
            node.name = node.doc_string = ""
            del node.metadata_props[:]
