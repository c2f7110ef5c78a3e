"""ONNX: a graph with two inputs and two outputs, asked through the reference implementation; and
real models out of packages, asked through ONNX Runtime, which they are to equal bit for bit."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnxruntime
from conformance_sample import Sample
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from tests.own_environments import ROOT, files_of


def two_in_two_out() -> Sample:
    random = np.random.default_rng(5)
    weights = random.normal(size=(4, 3)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["numbers", "w"], ["m"]),
            helper.make_node("Add", ["m", "shift"], ["sums"]),
            helper.make_node("Tanh", ["sums"], ["bent"]),
        ],
        "two",
        [
            helper.make_tensor_value_info("numbers", TensorProto.FLOAT, ["n", 4]),
            helper.make_tensor_value_info("shift", TensorProto.FLOAT, ["n", 3]),
        ],
        [
            helper.make_tensor_value_info("sums", TensorProto.FLOAT, ["n", 3]),
            helper.make_tensor_value_info("bent", TensorProto.FLOAT, ["n", 3]),
        ],
        [numpy_helper.from_array(weights, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    reference = ReferenceEvaluator(model)
    names = [value.name for value in graph.output]

    def ask(rows):
        return dict(zip(names, reference.run(None, dict(rows)), strict=True))

    rows = {
        "numbers": random.normal(size=(80, 4)).astype(np.float32),
        "shift": random.normal(size=(80, 3)).astype(np.float32),
    }
    train = {name: values[:20] for name, values in rows.items()}
    return Sample(model, train, rows, ask, saved_within=1e-5)


def _by_the_runtime(file):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    (given,), (answer,) = session.get_inputs(), session.get_outputs()

    def ask(rows):
        rows = rows[given.name] if isinstance(rows, dict) else rows
        return {answer.name: session.run(None, {given.name: rows})[0]}

    return ask


def file_types() -> Sample:
    """Magika: which of 214 kinds a file is of, from its first and last thousand bytes."""
    package = Path(find_spec("magika").submodule_search_locations[0])
    file = package / "models" / "standard_v3_3" / "model.onnx"
    sources = sorted((ROOT / "src").rglob("*.py"))[:80]
    rows = np.stack([first_and_last_bytes(source.read_bytes()) for source in sources])
    ask = _by_the_runtime(file)
    # Sums of 2,048 floats, which matrix products of other sizes add up in another order.
    return Sample(file, rows[:4], rows[4:], ask, within=0, saved_within=0, company_within=1e-3)


def first_and_last_bytes(content: bytes) -> np.ndarray:
    """As Magika itself does it: blanks are cut off at both ends, and 256 stands for no byte."""
    made = np.full(2048, 256, np.int32)
    first, last = content[:4096].lstrip()[:1024], content[-4096:].rstrip()[-1024:]
    made[: len(first)] = list(first)
    made[2048 - len(last) :] = list(last)
    return made


def turned_text() -> Sample:
    """RapidOCR: whether a line of text is upside down, from an image of any size."""
    models = files_of("rapidocr") / "rapidocr_onnxruntime" / "models"
    file = models / "ch_ppocr_mobile_v2.0_cls_infer.onnx"
    rows = np.random.default_rng(0).normal(size=(70, 3, 48, 64)).astype(np.float32)
    ask = _by_the_runtime(file)
    return Sample(file, rows[:4], rows, ask, within=0, saved_within=0, allows_huge=False)


SAMPLES = {
    "two-in-two-out": two_in_two_out,
    "file-types": file_types,
    "turned-text": turned_text,
}
