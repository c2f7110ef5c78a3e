"""Triton through pytriton: its own server in front, this process behind it.

python -m bench.peers.pytriton_server PORT
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

from bench.peers.model import NAME, load


def main(port: int, input_name: str) -> None:
    predict = load()

    @batch
    def infer(**inputs: NDArray[Any]) -> dict[str, NDArray[Any]]:
        labels, probabilities = predict(inputs[input_name])
        return {
            "label": labels.reshape(-1, 1),
            "probabilities": probabilities.astype(np.float64, copy=False),
        }

    config = TritonConfig(
        http_port=port, http_address="127.0.0.1", allow_grpc=False, allow_metrics=False
    )
    with Triton(config=config) as triton:
        triton.bind(
            model_name=NAME,
            infer_func=infer,
            inputs=[Tensor(name=input_name, dtype=np.float64, shape=(30,))],
            outputs=[
                Tensor(name="label", dtype=np.int64, shape=(1,)),
                Tensor(name="probabilities", dtype=np.float64, shape=(2,)),
            ],
            config=ModelConfig(max_batch_size=128, batcher=DynamicBatcher()),
        )
        triton.serve()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
