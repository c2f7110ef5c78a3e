"""Peers whose servers run callers together, as the storm meets them: set up as their pages say."""

from __future__ import annotations

from bench.storm.networks import BATCH
from bench.systems.peers import LitServeOnnx, MlServerOnnx, Peer

_WAIT_S = 0.005
"""For company: a part of what a run of one row takes, several times what arrivals are apart."""


class BatchingMlServer(MlServerOnnx):
    name = "mlserver-onnx batching"
    about = f"MLServer's adaptive batching, {BATCH} callers, {_WAIT_S * 1e3:g} ms"

    def batching(self) -> dict[str, float]:
        return {"max_batch_size": BATCH, "max_batch_time": _WAIT_S}


class BatchingLitServe(LitServeOnnx):
    name = "litserve-onnx batching"
    about = f"LitServe's batching, {BATCH} callers, {_WAIT_S * 1e3:g} ms"

    def batching(self) -> tuple[float, ...]:
        return BATCH, _WAIT_S


BATCHING: tuple[type[Peer], ...] = (BatchingMlServer, BatchingLitServe)
OUTPUT = "probabilities"
"""What every peer calls the numbers of its answer."""
