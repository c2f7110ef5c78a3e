"""Networks of random weights whose cost is what matters: how the server treats costly models.

python -m bench.storm.networks alone MODEL.onnx BATCH SECONDS     (prints rows per second)
"""

from __future__ import annotations

import itertools
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

INPUT, OUTPUT = "rows", "scores"
BATCH = 16
"""At which the model alone is measured, and which peers are told to run together."""


@dataclass(frozen=True, slots=True)
class Network:
    """A chain of dense layers; those of one shape share their weights.

    Attributes:
        name: Of the model.
        widths: From the inputs to the outputs.
    """

    name: str
    widths: tuple[int, ...]


COSTLY = Network("costly", (30, *[4096] * 9, 2))
"""Eight layers share 67 MB of weights, and reading them is most of the cost: 16 rows cost twice
what one does, and so much that a network of 4 ms is a small part of it."""
MIDDLING = Network("middling", (30, *[2048] * 4, 2))
"""Cheap enough for the event loop; costly enough that the generator can ask for thrice of it.

To refuse a request costs what it takes to read it and to write some bytes. Where to answer it costs
less than twenty times as much, to refuse two of three takes more than a tenth of the time, and no
server can keep nine tenths of its capacity."""


def build(network: Network, path: Path) -> None:
    """Write the network as ONNX. The same bytes every time."""
    random = np.random.default_rng(11)
    nodes: list[Any] = []
    weights: dict[tuple[int, int], list[Any]] = {}
    previous = INPUT
    for number, (wide, narrow) in enumerate(itertools.pairwise(network.widths)):
        last = number == len(network.widths) - 2
        if (wide, narrow) not in weights:
            matrix = random.normal(0, (2 / wide) ** 0.5, (wide, narrow)).astype(np.float32)
            weights[wide, narrow] = [
                numpy_helper.from_array(matrix, f"w{number}"),
                numpy_helper.from_array(np.zeros(narrow, np.float32), f"b{number}"),
            ]
        names = [weight.name for weight in weights[wide, narrow]]
        nodes.append(helper.make_node("Gemm", [previous, *names], [f"z{number}"]))
        previous = OUTPUT if last else f"a{number}"
        nodes.append(helper.make_node("Tanh" if last else "Relu", [f"z{number}"], [previous]))
    graph = helper.make_graph(
        nodes,
        network.name,
        [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, [None, network.widths[0]])],
        [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, [None, network.widths[-1]])],
        [weight for pair in weights.values() for weight in pair],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, path)


def session(path: Path) -> Any:
    """The network on one thread."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def some_rows(network: Network, count: int) -> NDArray[np.float32]:
    """Rows that differ, and whose answers do."""
    random = np.random.default_rng(5)
    return random.normal(size=(count, network.widths[0])).astype(np.float32)


def alone_hz(path: Path, batch: int, seconds: float) -> float:
    """Rows per second of the model alone, in this process, at this batch size."""
    runner = session(path)
    columns = runner.get_inputs()[0].shape[1]
    rows = np.random.default_rng(5).normal(size=(batch, columns)).astype(np.float32)
    runner.run(None, {INPUT: rows})
    runs, start = 0, time.perf_counter()
    while (spent := time.perf_counter() - start) < seconds:
        runner.run(None, {INPUT: rows})
        runs += 1
    return runs * batch / spent


if __name__ == "__main__":
    print(alone_hz(Path(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])))
