"""Graphs that read texts: a network of tokens, what pools its answers, and its tokenizer, in one.

The folder is that of a model of sentence-transformers or transformers. Its files say how texts are
cut into tokens, how many the network takes, and how vectors of tokens become one of a text.
"""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

from bascule.bundle.originals import library
from bascule.bundle.programs import METADATA, TOKENS
from bascule.core import DType, Field, Invalid, Unconvertible, first_line
from bascule.packing.compilers.torch import gist, quietly, to_onnx

_GRAPHS = ("model.onnx", "onnx/model.onnx")
_MODULES = ("Transformer", "Pooling", "Normalize")
_POOLINGS = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}
_EVERY_LENGTH = 10**9


def graph_in(folder: Path) -> Path | None:
    """The graph of a folder with a tokenizer beside it; None where there is none."""
    graphs = [folder / name for name in _GRAPHS if (folder / name).is_file()]
    return graphs[0] if graphs and (folder / "tokenizer.json").is_file() else None


def pooling_of(folder: Path) -> dict[str, Any]:
    """`mode`, `mean` or `cls`, and `normalize`: how vectors of tokens become one of a text.

    Without `modules.json` it is the mean, as sentence-transformers takes it.

    Raises:
        Invalid: The folder has modules or settings that are not known.
    """
    modules = _json(folder / "modules.json") or [{"type": _MODULES[0]}]
    kinds = {each["type"].rpartition(".")[2]: each.get("path", "") for each in modules}
    config = _json(folder / kinds["Pooling"] / "config.json") if "Pooling" in kinds else {}
    modes = [key for key, value in config.items() if key.startswith("pooling_mode_") and value]
    modes = [_POOLINGS.get(key, key) for key in modes] or ["mean"]
    if strange := [*({*kinds} - {*_MODULES}), *({*modes} - {"mean", "cls"}), *modes[1:]]:
        raise Invalid(
            f"the folder has a {strange[0]}, which is not known",
            hint=f"known are {', '.join(_MODULES)}, and pooling by mean or cls",
        )
    return {"mode": modes[0], "normalize": "Normalize" in kinds}


def tokenizer_of(folder: Path) -> Any:
    """The tokenizer of a folder, which truncates as the model does, and pads.

    Raises:
        Invalid: Its file cannot be read, or nothing says how many tokens the model takes.
        MissingExtra: tokenizers is not installed.
    """
    tokenizers = library("tokenizers", "embeddings")
    try:
        tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception as problem:  # the library raises plain exceptions
        raise Invalid(
            f"{folder}/tokenizer.json cannot be read: {first_line(problem)}",
            hint="save it again: tokenizer.save_pretrained(FOLDER)",
        ) from None
    settings = _json(folder / "tokenizer_config.json")
    limits = (
        _json(folder / "sentence_bert_config.json").get("max_seq_length"),
        settings.get("model_max_length"),
        _json(folder / "config.json").get("max_position_embeddings"),
    )
    longest = int(min((limit for limit in limits if limit), default=_EVERY_LENGTH))
    if longest >= _EVERY_LENGTH:
        raise Invalid(
            f"{folder} does not say how many tokens the model takes",
            hint='write {"max_seq_length": 256} to sentence_bert_config.json there',
        )
    pad = settings.get("pad_token") or "[PAD]"
    pad = pad["content"] if isinstance(pad, dict) else pad
    tokenizer.enable_truncation(longest)
    tokenizer.enable_padding(pad_id=tokenizer.token_to_id(pad) or 0, pad_token=pad)
    return tokenizer


def text_graph(folder: Path, file: Path) -> bytes:
    """The graph of a folder as one that reads texts: `embedding`, or `score` of a pair.

    A network with one number for a sequence is a cross-encoder: it scores a query and a document,
    by a sigmoid unless its configuration names another function.

    Raises:
        Invalid: The graph or the files beside it are of no kind that is known.
    """
    import onnx

    try:
        model = onnx.load(file)
    except Exception as problem:  # protobuf's own
        raise Invalid(f"{file} cannot be read: {first_line(problem)}") from None
    config, tokenizer = _json(folder / "config.json"), tokenizer_of(folder)
    names = [str(name) for name in config.get("architectures") or ()]
    if any(name.endswith("ForSequenceClassification") for name in names):
        return scoring(model, tokenizer, config)
    return embedding(model, tokenizer, pooling_of(folder), config.get("hidden_size"))


def exported(network: Any, width: int) -> Any:
    """The `ModelProto` of a network of transformers, which answers vectors of so many numbers.

    Raises:
        Unconvertible: PyTorch cannot follow it, or an operator has no form in ONNX.
    """
    import onnx
    import torch

    taken = inspect.signature(network.forward).parameters
    names = [name for name in TOKENS if name in taken]

    class Wrapper(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, *given: Any) -> Any:
            return self.network(**dict(zip(names, given, strict=True))).last_hidden_state

    # Of different lengths: a mask without zeros is taken out of what is traced.
    mask = torch.tensor([[1] * 7, [1] * 4 + [0] * 3])
    few = {TOKENS[0]: mask * 2, TOKENS[1]: mask, TOKENS[2]: mask * 0}
    free = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    try:
        with quietly(), torch.no_grad():
            traced = torch.export.export(
                Wrapper().eval(),
                tuple(few[name] for name in names),
                dynamic_shapes=(tuple(free for _ in names),),
                strict=False,
            )
    except Exception as problem:  # the network and the tracer may raise anything
        raise Unconvertible(f"PyTorch cannot export the network: {gist(problem)}") from problem
    inputs = tuple(Field(name, DType.INT64, (-1,)) for name in names)
    graph = to_onnx(traced, inputs, (Field("last_hidden_state", DType.FP32, (-1, width)),))
    return onnx.load_from_string(graph)


def embedding(
    model: Any,
    tokenizer: Any,
    pooling: dict[str, Any],
    width: int | None = None,
    columns: tuple[str, ...] = ("text",),
) -> bytes:
    """A network that answers a vector for each token, with what makes one vector of them.

    Args:
        model: A `ModelProto`, which is changed.
        tokenizer: See `tokenizer_of`.
        pooling: See `pooling_of`.
        width: The length of the vector, where the graph does not say.
        columns: The name of the column of texts.
    """
    hidden = _output(model, rank=3)
    width = hidden.type.tensor_type.shape.dim[2].dim_value or width
    if not width:
        raise Invalid("the graph does not say how long a vector is", hint="set hidden_size")
    means = {"across": [0, 1, -1], "down": [0, -1, 1], "least": 1e-9}
    is_mean = pooling["mode"] == "mean"
    add = _adder(model, {"row": [0, width], **(means if is_mean else {"first": 0})})
    vectors = add("Cast", hidden.name, to=1)
    if is_mean:
        mask = add("Cast", "attention_mask", to=1)
        across, down = add("Reshape", mask, "across"), add("Reshape", mask, "down")
        count = add("Max", add("MatMul", across, down), "least")
        vectors = add("Div", add("MatMul", across, vectors), count)
    else:
        vectors = add("Gather", vectors, "first", axis=1)
    vectors = add("Reshape", vectors, "row")
    if pooling["normalize"]:
        vectors = add("LpNormalization", vectors, axis=-1, p=2)
    return _finished(model, tokenizer, columns, "embedding", vectors, (width,))


def scoring(model: Any, tokenizer: Any, config: dict[str, Any]) -> bytes:
    """A cross-encoder: the score of a query and a document, of shape (rows,).

    Args:
        model: A `ModelProto`, which is changed; it answers one number for a sequence.
        tokenizer: See `tokenizer_of`.
        config: Of the network; the number goes through a sigmoid unless it names the identity.
    """
    if len(config.get("id2label") or ()) != 1:
        raise Invalid(
            "a cross-encoder has one label, and this network has another number of them",
            hint="pack a classifier of texts as a pipeline of transformers",
        )
    add = _adder(model, {"alone": [-1]})
    scores = add("Reshape", add("Cast", _output(model, rank=2).name, to=1), "alone")
    own = config.get("sentence_transformers") or {}
    named = own.get("activation_fn") or config.get("sbert_ce_default_activation_function")
    if not str(named).endswith("Identity"):
        scores = add("Sigmoid", scores)
    return _finished(model, tokenizer, ("query", "document"), "score", scores, ())


def _output(model: Any, rank: int) -> Any:
    for output in model.graph.output:
        if len(output.type.tensor_type.shape.dim) == rank:
            return output
    named = ", ".join(output.name for output in model.graph.output)
    raise Invalid(
        f"the graph has no output of {rank} dimensions; it has {named}",
        hint="export it with last_hidden_state, or of a cross-encoder with logits",
    )


def _adder(model: Any, constants: dict[str, Any]) -> Any:
    """What adds a node and gives the name of its answer; `constants` are put into the graph."""
    import numpy as np
    import onnx

    prefix, graph = "bascule.", model.graph
    for name, value in constants.items():
        values = np.array(value, np.float32 if isinstance(value, float) else np.int64)
        graph.initializer.append(onnx.numpy_helper.from_array(values, prefix + name))

    def add(kind: str, *inputs: str, **attributes: Any) -> str:
        answer = f"{prefix}{len(graph.node)}"
        reads = [prefix + name if name in constants else name for name in inputs]
        graph.node.append(onnx.helper.make_node(kind, reads, [answer], **attributes))
        return answer

    return add


def _finished(
    model: Any,
    tokenizer: Any,
    columns: tuple[str, ...],
    name: str,
    answer: str,
    shape: tuple[int, ...],
) -> bytes:
    import onnx

    graph = model.graph
    constants = {tensor.name for tensor in graph.initializer}
    reads = [value.name for value in graph.input if value.name not in constants]
    if strange := sorted({*reads} - {*TOKENS}):
        raise Invalid(f"the graph reads {strange[0]}", hint=f"known are {', '.join(TOKENS)}")
    graph.node.append(onnx.helper.make_node("Identity", [answer], [name]))
    del graph.output[:]
    graph.output.append(onnx.helper.make_tensor_value_info(name, 1, ["rows", *shape]))
    del model.metadata_props[:]
    held = {"columns": columns, "tokenizer": tokenizer.to_str()}
    model.metadata_props.add(key=METADATA, value=json.dumps(held, sort_keys=True))
    return bytes(model.SerializeToString(deterministic=True))


def _json(file: Path) -> Any:
    try:
        return json.loads(file.read_bytes()) if file.is_file() else {}
    except ValueError as problem:
        raise Invalid(f"{file} is no JSON: {problem}") from None
