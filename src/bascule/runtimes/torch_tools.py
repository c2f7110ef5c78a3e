"""Run by a Python that has the converters, and no Bascule.

    torch_tools.py convert PROGRAM.pt2 FILE    converts an exported program
    torch_tools.py run FILE                    runs rows for `bascule.runtimes.tools`

FILE ends with `.tflite` or `.pte`, and rows are run one after the other, as a device does.
"""

from __future__ import annotations

import base64
import json
import sys
import time
from collections.abc import Callable
from typing import Any


def convert(program: str, file: str) -> None:
    """Write the file of a runtime."""
    import torch

    exported = torch.export.load(program)
    if file.endswith(".tflite"):
        import litert_torch

        litert_torch.convert(exported.module(), exported.example_inputs[0]).export(file)
        return
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    lowered = to_edge_transform_and_lower(exported, partitioner=[XnnpackPartitioner()])
    with open(file, "wb") as opened:
        opened.write(lowered.to_executorch().buffer)


def opened(file: str) -> Callable[[list[Any]], list[Any]]:
    """Asks the file about arrays of one row."""
    if file.endswith(".tflite"):
        from ai_edge_litert.interpreter import Interpreter

        runner = Interpreter(file, num_threads=1).get_signature_runner()

        def ask(row: list[Any]) -> list[Any]:
            answers = runner(**{f"args_{place}": array for place, array in enumerate(row)})
            return [answers[f"output_{place}"] for place in range(len(answers))]

        return ask
    import torch
    from executorch.runtime import Runtime

    method = Runtime.get().load_program(file).load_method("forward")
    return lambda row: [
        answer.numpy().copy() for answer in method.execute([torch.from_numpy(a) for a in row])
    ]


def run(file: str) -> None:
    """Answer rows."""
    import numpy as np

    ask, us, rows = opened(file), [], []
    columns = [
        np.frombuffer(base64.b64decode(each["data"]), each["type"]).reshape(each["shape"])
        for each in json.load(sys.stdin)
    ]
    for place in range(len(columns[0])):
        row = [column[place : place + 1].copy() for column in columns]
        start = time.perf_counter()
        rows.append(ask(row))
        us.append((time.perf_counter() - start) * 1e6)
    whole = (b"".join(each.tobytes() for each in output) for output in zip(*rows, strict=True))
    outputs = [base64.b64encode(data).decode() for data in whole]
    sys.stdout.write(f"answer {json.dumps({'outputs': outputs, 'us': us})}")


if __name__ == "__main__":
    act, *files = sys.argv[1:]
    convert(*files) if act == "convert" else run(*files)
