"""Graphs that read texts: a network of tokens, the pooling of its answers, and its tokenizer.

The files of a folder of sentence-transformers or transformers say how texts are cut and pooled.
"""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import numpy as np

from bascule.bundle.programs import METADATA, TOKENS, open_session
from bascule.core import DType, Field, Invalid, Unconvertible, first_line, library
from bascule.packing.compilers.torch import gist, quietly, to_onnx

_GRAPHS = ("model.onnx", "onnx/model.onnx")
_MODULES = ("Transformer", "Pooling", "Normalize")
_POOLING = {
    "pooling_mode_mean_tokens": (
        "t_mask = Cast <to = 1> (attention_mask)",
        "t_wide = Constant <value_ints = [0, 1, -1]> ()",
        "t_high = Constant <value_ints = [0, -1, 1]> ()",
        "t_least = Constant <value_float = 1e-9> ()",
        "t_across = Reshape (t_mask, t_wide)",
        "t_down = Reshape (t_mask, t_high)",
        "t_count = MatMul (t_across, t_down)",
        "t_some = Max (t_count, t_least)",
        "t_sum = MatMul (t_across, t_tokens)",
        "t_pooled = Div (t_sum, t_some)",
    ),
    "pooling_mode_cls_token": (
        "t_first = Constant <value_int = 0> ()",
        "t_pooled = Gather <axis = 1> (t_tokens, t_first)",
    ),
}
"""From `t_tokens`, (rows, tokens, width), to `t_pooled`, in operators that all versions have."""
_CHANGING = ("do_lower_case", "default_prompt_name")
"""Settings of sentence-transformers that change texts before the tokenizer."""
_TOLERANCE = 1e-4
"""Of vectors of tokens, before pooling: PyTorch and ONNX Runtime differ by some 4e-6."""


def is_text_folder(folder: Path) -> bool:
    """Whether it has a tokenizer, and a graph or what sentence-transformers saves."""
    names = (*_GRAPHS, "modules.json")
    has_network = any((folder / name).is_file() for name in names)
    return has_network and (folder / "tokenizer.json").is_file()


def text_graph(folder: Path) -> bytes:
    """The graph of such a folder, which answers `embedding` of a text, or `score` of a pair.

    Weights without a graph are exported by PyTorch, and compared with the network. A network with
    one number for a sequence is a cross-encoder of a query and a document.

    Raises:
        Invalid: The files are of no kind that is known.
        Unconvertible: PyTorch cannot export the network, or it answers otherwise as a graph.
        MissingExtra: tokenizers, or for weights transformers or PyTorch, is not installed.
    """
    import onnx

    graphs = [folder / name for name in _GRAPHS if (folder / name).is_file()]
    try:
        model = onnx.load(graphs[0]) if graphs else onnx.load_from_string(_exported(folder))
    except (OSError, ValueError, onnx.onnx_cpp2py_export.checker.ValidationError) as problem:
        message = f"{folder} cannot be read: {first_line(problem)}"
        raise Invalid(message, hint="save the model there again") from None
    config, graph = _json(folder / "config.json"), model.graph
    is_pair = str(config.get("architectures")).endswith("ForSequenceClassification']")
    width = 1 if is_pair else config.get("hidden_size", 0)
    ranks = {len(each.type.tensor_type.shape.dim): each for each in graph.output}
    answer, columns = ranks.get(2 if is_pair else 3), ["query", "document"]
    if answer is None or not width or (is_pair and len(config.get("id2label") or ()) != 1):
        raise Invalid(
            "the graph answers neither vectors of tokens nor one number for a pair",
            hint="export it with last_hidden_state, or with one label and logits, and keep "
            "config.json with its hidden_size",
        )
    name, last = "score", "Identity (t_row)"
    lines = [f"t_tokens = Cast <to = 1> ({answer.name})"]
    if is_pair:
        lines += ["t_shape = Constant <value_ints = [-1]> ()", "t_pooled = Identity (t_tokens)"]
        own = config.get("sentence_transformers") or {}
        kind = own.get("activation_fn") or config.get("sbert_ce_default_activation_function")
        last = last if str(kind).endswith("Identity") else "Sigmoid (t_row)"
    else:
        name, columns = "embedding", ["text"]
        pooling, is_normalized = _pooling_of(folder)
        lines += [f"t_shape = Constant <value_ints = [0, {width}]> ()", *pooling]
        last = "LpNormalization <axis = -1, p = 2> (t_row)" if is_normalized else last
    lines += ["t_row = Reshape (t_pooled, t_shape)", f"{name} = {last}"]
    graph.node.extend(onnx.parser.parse_node(line) for line in lines)
    del graph.output[:], model.metadata_props[:]
    shape = ["rows"] if is_pair else ["rows", width]
    graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape))
    held = {"columns": columns, "tokenizer": _tokenizer_of(folder).to_str()}
    model.metadata_props.add(key=METADATA, value=json.dumps(held, sort_keys=True))
    return bytes(model.SerializeToString(deterministic=True))


def _pooling_of(folder: Path) -> tuple[tuple[str, ...], bool]:
    """The nodes of the pooling, and whether vectors get a length of 1 then."""
    modules = _json(folder / "modules.json") or [{"type": _MODULES[0]}]
    kinds = {each["type"].rpartition(".")[2]: each.get("path", "") for each in modules}
    config = _json(folder / kinds["Pooling"] / "config.json") if "Pooling" in kinds else {}
    modes = [key for key, on in config.items() if key.startswith("pooling_mode_") and on]
    modes = modes or [*_POOLING][:1]
    files = ("sentence_bert_config.json", "config_sentence_transformers.json")
    settings = [name for file in files for name, value in _json(folder / file).items() if value]
    strange = [*({*kinds} - {*_MODULES}), *({*modes} - {*_POOLING}), *modes[1:]]
    if strange := strange or [name for name in _CHANGING if name in settings]:
        raise Invalid(
            f"the folder has {strange[0]}, which is not known",
            hint=f"known are {', '.join(_MODULES)}, and pooling by the mean or the first token; "
            "texts are sent in lower case, and with their prompt, by the caller",
        )
    return _POOLING[modes[0]], "Normalize" in kinds


def _tokenizer_of(folder: Path) -> Any:
    """The tokenizer of a folder, which truncates as the model does, and pads."""
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
    longest = min((limit for limit in limits if limit), default=1e30)
    if longest > 1e9:
        raise Invalid(
            f"{folder} does not say how many tokens the model takes",
            hint='write {"max_seq_length": 256} to sentence_bert_config.json there',
        )
    pad = settings.get("pad_token") or "[PAD]"
    pad = pad["content"] if isinstance(pad, dict) else pad
    tokenizer.enable_truncation(int(longest))
    tokenizer.enable_padding(pad_id=tokenizer.token_to_id(pad) or 0, pad_token=pad)
    return tokenizer


def _exported(folder: Path) -> bytes:
    """The network of saved weights as a graph, compared with it on tokens of two lengths."""
    from bascule.bundle.originals import pipelines

    network = pipelines.pipeline_in(folder, "feature-extraction", {}).model
    import torch

    class Wrapper(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, *tensors: Any) -> Any:
            return self.network(**dict(zip(few, tensors, strict=True))).last_hidden_state

    # Of different lengths: a mask without zeros is taken out of what is traced.
    mask = torch.tensor([[1] * 7, [1] * 4 + [0] * 3])
    taken = inspect.signature(network.forward).parameters
    examples = zip(TOKENS, (torch.arange(14).reshape(2, 7), mask, mask * 0), strict=True)
    few = {name: values for name, values in examples if name in taken}
    free = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    try:
        with quietly(), torch.no_grad():
            expected = Wrapper()(*few.values())
            shapes = (tuple(free for _ in few),)
            wrapper, tensors = Wrapper().eval(), tuple(few.values())
            traced = torch.export.export(wrapper, tensors, dynamic_shapes=shapes, strict=False)
    except Exception as problem:  # the network and the tracer may raise anything
        message = f"PyTorch cannot export the network: {gist(problem)}"
        raise Unconvertible(message, hint="export it as model.onnx in its folder") from problem
    inputs = tuple(Field(name, DType.INT64, (-1,)) for name in few)
    output = Field("last_hidden_state", DType.FP32, (-1, expected.shape[2]))
    graph = to_onnx(traced, inputs, (output,))
    (answer,) = open_session(graph, "the graph").run(None, {k: v.numpy() for k, v in few.items()})
    difference = float(np.abs(answer - expected.numpy())[mask.numpy() == 1].max())
    if not difference <= _TOLERANCE:
        message = f"the exported graph differs from the network by {difference:.2g}"
        raise Unconvertible(message, hint="export it as model.onnx in its folder")
    return graph


def _json(file: Path) -> Any:
    try:
        return json.loads(file.read_bytes()) if file.is_file() else {}
    except ValueError as problem:
        raise Invalid(f"{file} is no JSON: {problem}", hint="save it again") from None
