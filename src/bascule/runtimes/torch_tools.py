"""Run by a Python that has the converters, and no Bascule.

torch_tools.py litert|executorch PROGRAM.pt2 FILE     converts an exported program
torch_tools.py run FILE.pte                           runs rows for `bascule.runtimes.child`
"""

from __future__ import annotations

import base64
import json
import sys
import time
from pathlib import Path
from typing import Any


def convert_to_litert(exported: Any, file: str) -> None:
    """Write a TensorFlow Lite file."""
    import litert_torch

    litert_torch.convert(exported.module(), exported.example_inputs[0]).export(file)


def convert_to_executorch(exported: Any, file: str) -> None:
    """Write a program whose operators XNNPACK runs as far as it knows them."""
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    lowered = to_edge_transform_and_lower(exported, partitioner=[XnnpackPartitioner()])
    Path(file).write_bytes(lowered.to_executorch().buffer)


def run(file: str) -> None:
    """Answer each line of rows, which are run one after the other, as a device does."""
    import numpy as np
    import torch
    from executorch.runtime import Runtime

    method = Runtime.get().load_program(file).load_method("forward")
    for line in sys.stdin:
        columns = [
            np.frombuffer(base64.b64decode(each["data"]), each["type"]).reshape(each["shape"])
            for each in json.loads(line)
        ]
        us, rows = [], []
        for row in range(len(columns[0])):
            tensors = [torch.from_numpy(column[row : row + 1].copy()) for column in columns]
            start = time.perf_counter()
            answers = method.execute(tensors)
            us.append((time.perf_counter() - start) * 1e6)
            rows.append([answer.numpy().copy() for answer in answers])
        whole = [np.concatenate(parts) for parts in zip(*rows, strict=True)]
        outputs = [
            {"shape": each.shape, "data": base64.b64encode(each.tobytes()).decode()}
            for each in whole
        ]
        sys.stdout.write(f"answer {json.dumps({'outputs': outputs, 'us': us})}\n")
        sys.stdout.flush()


def main(act: str, *arguments: str) -> None:
    """Convert, or run."""
    if act == "run":
        run(*arguments)
        return
    import torch

    program, file = arguments
    converters = {"litert": convert_to_litert, "executorch": convert_to_executorch}
    converters[act](torch.export.load(program), file)


if __name__ == "__main__":
    main(*sys.argv[1:])
