"""LitServe around the model.

python -m bench.peers.litserve_server PORT [BATCH WAIT_S]
"""

# LitServe looks at the annotations themselves, so they must not be texts here.

import sys
from typing import Any, cast

import litserve
import numpy as np
from fastapi import Request
from numpy.typing import NDArray

from bench.peers.model import Answer, answer_of, load, rows_of


class GradientBoosting(litserve.LitAPI):
    def setup(self, device: str) -> None:  # noqa: ARG002 -- LitServe's signature
        self._predict = load()

    def decode_request(self, request: Request) -> NDArray[Any]:
        return rows_of(cast("dict[str, Any]", request))  # so annotated, it comes decoded

    def predict(self, x: NDArray[Any]) -> Answer:
        return self._predict(x)

    def batch(self, inputs: list[NDArray[Any]]) -> NDArray[Any]:
        """One row of each of several callers."""
        return np.concatenate(inputs)

    def unbatch(self, output: Answer) -> list[Answer]:
        labels, probabilities = output
        rows = range(len(labels))
        return [(labels[row : row + 1], probabilities[row : row + 1]) for row in rows]

    def encode_response(self, output: Answer) -> dict[str, Any]:
        return answer_of(*output)


if __name__ == "__main__":
    batching = {}
    if sys.argv[2:]:
        batching = {"max_batch_size": int(sys.argv[2]), "batch_timeout": float(sys.argv[3])}
    api = GradientBoosting(**batching)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1)
    server.run(
        host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False, log_level="warning"
    )
