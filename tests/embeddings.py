"""Folders of text networks of a few neurons, with their graphs, and their answers by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper
from tests.tiny_pipelines import pipeline, tokenizer
from tokenizers import Tokenizer, processors

WIDTH, TOKENS = 16, 12
TOKEN_INPUTS = ("input_ids", "attention_mask", "token_type_ids")


def sentence_folder(folder: Path, *, mode: str = "mean", normalize: bool = True) -> Path:
    """What sentence-transformers saves, with weights as safetensors."""
    pipe = pipeline("feature-extraction")
    pipe.save_pretrained(folder)
    pooling = folder / "1_Pooling"
    pooling.mkdir()
    flags = {f"pooling_mode_{mode}_token{'s' * (mode != 'cls')}": True}
    (pooling / "config.json").write_text(json.dumps({"word_embedding_dimension": WIDTH, **flags}))
    kinds = {
        "": "Transformer",
        "1_Pooling": "Pooling",
        **({"2_Normalize": "Normalize"} if normalize else {}),
    }
    home = "sentence_transformers.models"
    modules = [{"path": path, "type": f"{home}.{kind}"} for path, kind in kinds.items()]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": TOKENS}))
    return folder


def network(folder: Path) -> Path:
    """The same folder with a graph in place of weights: a token, and the mean of its text."""
    held = {"words": (32, WIDTH)}
    nodes = [
        helper.make_node("Gather", ["words", "input_ids"], ["word"]),
        helper.make_node("Mul", ["word", "column"], ["masked"]),
        helper.make_node("ReduceSum", ["masked", "tokens"], ["sum"]),
        helper.make_node("ReduceSum", ["column", "tokens"], ["count"]),
        helper.make_node("Div", ["sum", "count"], ["mean"]),
        helper.make_node("Mul", ["word", "mean"], ["product"]),
        helper.make_node("Add", ["product", "word"], ["last_hidden_state"]),
    ]
    _write(folder, nodes, held, "last_hidden_state", ["t", WIDTH])
    (folder / "model.safetensors").unlink()
    return folder


def cross_encoder(folder: Path, activation: str = "Sigmoid") -> Path:
    """A network that scores a pair by the tokens of both and their kinds."""
    held = {"words": (32, 1), "kinds": (2, 1)}
    nodes = [
        helper.make_node("Gather", ["words", "input_ids"], ["word"]),
        helper.make_node("Gather", ["kinds", "token_type_ids"], ["kind"]),
        helper.make_node("Mul", ["word", "kind"], ["product"]),
        helper.make_node("Mul", ["product", "column"], ["masked"]),
        helper.make_node("ReduceSum", ["masked", "tokens"], ["logits"], keepdims=0),
    ]
    _write(folder, nodes, held, "logits", [1])
    own = tokenizer().backend_tokenizer
    own.post_processor = processors.TemplateProcessing(
        "[CLS] $A", "[CLS] $A $B:1", special_tokens=[("[CLS]", 2)]
    )
    own.save(str(folder / "tokenizer.json"))
    settings = {"model_max_length": TOKENS, "pad_token": "[PAD]"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    config = {
        "architectures": ["BertForSequenceClassification"],
        "id2label": {"0": "LABEL_0"},
        "sentence_transformers": {"activation_fn": f"torch.nn.modules.{activation}"},
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def _write(folder: Path, nodes: Any, held: Any, answer: str, shape: list[Any]) -> None:
    """`model.onnx` of the nodes, behind a mask as `column`; `held` are shapes of random weights."""
    random = np.random.default_rng(0)
    weights = {name: random.normal(size=size).astype(np.float32) for name, size in held.items()}
    weights |= {"last": np.array([2]), "tokens": np.array([1])}
    mask = [
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=1),
        helper.make_node("Unsqueeze", ["mask", "last"], ["column"]),
    ]
    reads = [helper.make_tensor_value_info(name, 7, ["n", "t"]) for name in TOKEN_INPUTS]
    answers = [helper.make_tensor_value_info(answer, 1, ["n", *shape])]
    constants = [numpy_helper.from_array(values, name) for name, values in weights.items()]
    graph = helper.make_graph([*mask, *nodes], "tiny", reads, answers, constants)
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=9), folder / "model.onnx")


def by_hand(folder: Path, *columns: list[str]) -> list[Any]:
    """What the graph of a folder answers to each row alone, without padding."""
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    own = Tokenizer.from_file(str(folder / "tokenizer.json"))
    own.no_padding()
    own.enable_truncation(TOKENS)
    answers: list[Any] = []
    for texts in zip(*columns, strict=True):
        row = own.encode(*texts)
        parts = (row.ids, row.attention_mask, row.type_ids)
        reads = {name: np.array([part]) for name, part in zip(TOKEN_INPUTS, parts, strict=True)}
        (answer,) = session.run(None, reads)
        answers.append(answer[0])
    return answers
