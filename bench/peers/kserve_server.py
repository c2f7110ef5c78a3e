"""KServe's Python server around a custom model.

python -m bench.peers.kserve_server --http_port=PORT --enable_grpc=False
"""

from __future__ import annotations

from typing import Any

from kserve import InferOutput, InferRequest, InferResponse, Model, ModelServer
from kserve.utils.utils import generate_uuid

from bench.peers.model import NAME, load


class GradientBoosting(Model):
    def __init__(self) -> None:
        super().__init__(NAME)
        self._predict = load()
        self.ready = True

    async def predict(self, payload: InferRequest, *_: Any, **__: Any) -> InferResponse:
        labels, probabilities = self._predict(payload.inputs[0].as_numpy())
        float_type = "FP64" if probabilities.dtype.itemsize == 8 else "FP32"
        outputs = [
            InferOutput("label", list(labels.shape), "INT64"),
            InferOutput("probabilities", list(probabilities.shape), float_type),
        ]
        binary = payload.use_binary_outputs
        for output, values in zip(outputs, (labels, probabilities), strict=True):
            output.set_data_from_numpy(values, binary_data=bool(binary))
        return InferResponse(
            payload.id or generate_uuid(),
            NAME,
            outputs,
            use_binary_outputs=binary,
            requested_outputs=payload.request_outputs,
        )


if __name__ == "__main__":
    ModelServer(workers=1).start([GradientBoosting()])
