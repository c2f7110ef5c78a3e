"""Ray Serve around the model: one replica.

python -m bench.peers.ray_server PORT
"""

from __future__ import annotations

import signal
import sys
from typing import Any

import ray
from ray import serve
from starlette.requests import Request

from bench.peers.model import answer_of, load, rows_of


class GradientBoosting:
    def __init__(self) -> None:
        self._predict = load()

    async def __call__(self, request: Request) -> dict[str, Any]:
        return answer_of(*self._predict(rows_of(await request.json())))


if __name__ == "__main__":
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[1])})
    deployment = serve.deployment(GradientBoosting, num_replicas=1, max_ongoing_requests=100)
    serve.run(deployment.bind(), route_prefix="/predict")
    signal.sigwait({signal.SIGTERM})
    serve.shutdown()
    ray.shutdown()
