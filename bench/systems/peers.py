"""Other projects' servers, each in an environment of its own, with the two forms of the model.

A custom model class where a project has one, as its documentation shows it: less than what its
ready-made runtimes do, so that the comparison errs in the peer's favour. Access logs are off.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from bench import environments
from bench.subject import NAME
from bench.systems.grpc import Grpc
from bench.systems.system import System

_ROOT = Path(__file__).resolve().parent.parent.parent
ENVIRONMENTS = _ROOT / "build" / "peers"
REQUIREMENTS = _ROOT / "bench" / "peers"


class Peer(System):
    """A server that runs in `build/peers/PROJECT`.

    Attributes:
        project: Names its environment and its requirements.
        expensive: Whether it is measured only when asked for by name: it takes minutes.
    """

    project: str
    runs = "scikit-learn"
    expensive: ClassVar[bool] = False
    ready_within_s = 120.0

    @classmethod
    def folder_of_environment(cls) -> Path:
        return ENVIRONMENTS / cls.project

    @classmethod
    def requirements(cls) -> Path:
        return REQUIREMENTS / f"{cls.project}.txt"

    def python(self, *arguments: str) -> list[str]:
        return [str(environments.python_of(self.folder_of_environment())), *arguments]

    def script(self, name: str) -> str:
        return str(self.folder_of_environment() / "bin" / name)

    def model_path(self) -> str:
        return str(self.subject.pickle if self.runs == "scikit-learn" else self.subject.program)

    def environment(self) -> Mapping[str, str]:
        return {
            "MODEL_PATH": self.model_path(),
            "PYTHONPATH": str(_ROOT),
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
        }


class MlServer(Peer):
    name = "mlserver"
    project = "mlserver"
    about = "MLServer, a custom runtime, parallel_workers=0 (its faster form)"
    distributions = ("mlserver",)
    path = f"/v2/models/{NAME}/infer"

    def command(self) -> list[str]:
        folder = self.folder / self.name
        folder.mkdir(exist_ok=True)
        (folder / "settings.json").write_text(
            json.dumps(
                {
                    "debug": False,
                    "host": "127.0.0.1",
                    **self.ports(),
                    "metrics_endpoint": None,
                    "parallel_workers": 0,
                    "logging_settings": {"version": 1, "disable_existing_loggers": True},
                }
            )
        )
        (folder / "model-settings.json").write_text(
            json.dumps(
                {
                    "name": NAME,
                    "implementation": "bench.peers.mlserver_runtime.Runtime",
                    "parameters": {"uri": self.model_path()},
                    **self.batching(),
                }
            )
        )
        return [self.script("mlserver"), "start", str(folder)]

    def ports(self) -> dict[str, int]:
        return {"http_port": self.port, "grpc_port": self.other_port}

    def batching(self) -> dict[str, float]:
        """What its model's settings say of running callers together: nothing, its default."""
        return {}


class MlServerOnnx(MlServer):
    name = "mlserver-onnx"
    about = "the same around the same ONNX program"
    runs = "onnx"


class MlServerGrpc(Grpc, MlServerOnnx):
    name = "mlserver-grpc"
    about = "the same around the same ONNX program, over gRPC"
    path = Grpc.path

    def ports(self) -> dict[str, int]:
        return {"http_port": self.other_port, "grpc_port": self.port}


class KServe(Peer):
    name = "kserve"
    project = "kserve"
    about = "KServe's Python server, a custom model, one worker, no latency log"
    distributions = ("kserve",)
    codings: tuple[str, ...] = ("json", "binary")
    path = f"/v2/models/{NAME}/infer"

    def command(self) -> list[str]:
        return self.python(
            *("-m", "bench.peers.kserve_server", "--enable_latency_logging=False"),
            *self.ports(),
        )

    def ports(self) -> list[str]:
        return [f"--http_port={self.port}", "--enable_grpc=False"]


class KServeOnnx(KServe):
    name = "kserve-onnx"
    about = "the same around the same ONNX program"
    runs = "onnx"


class KServeGrpc(Grpc, KServeOnnx):
    name = "kserve-grpc"
    about = "the same around the same ONNX program, over gRPC"
    path = Grpc.path

    def ports(self) -> list[str]:
        return [f"--http_port={self.other_port}", f"--grpc_port={self.port}"]


class LitServe(Peer):
    name = "litserve"
    project = "litserve"
    about = "LitServe, one worker"
    distributions = ("litserve",)

    def command(self) -> list[str]:
        return self.python(
            "-m", "bench.peers.litserve_server", str(self.port), *map(str, self.batching())
        )

    def batching(self) -> tuple[float, ...]:
        """The most callers that run together, and how long it waits for them; nothing for one."""
        return ()


class LitServeOnnx(LitServe):
    name = "litserve-onnx"
    about = "the same around the same ONNX program"
    runs = "onnx"


class BentoMl(Peer):
    name = "bentoml"
    project = "bentoml"
    about = "BentoML, one worker, no access log"
    distributions = ("bentoml",)

    def command(self) -> list[str]:
        return [
            *(self.script("bentoml"), "serve", "bench.peers.bentoml_service:GradientBoosting"),
            *("--host", "127.0.0.1", "--port", str(self.port)),
        ]

    def environment(self) -> Mapping[str, str]:
        return {**super().environment(), "BENTOML_DO_NOT_TRACK": "True"}


class BentoMlOnnx(BentoMl):
    name = "bentoml-onnx"
    about = "the same around the same ONNX program"
    runs = "onnx"


class PyTriton(Peer):
    name = "pytriton"
    project = "pytriton"
    about = "Triton through pytriton: its server in front, Python behind, its batcher on"
    distributions = ("nvidia-pytriton",)
    codings: tuple[str, ...] = ("json", "binary")
    path = f"/v2/models/{NAME}/infer"

    def command(self) -> list[str]:
        return self.python(
            "-m", "bench.peers.pytriton_server", str(self.port), self.subject.input_name
        )


class PyTritonOnnx(PyTriton):
    name = "pytriton-onnx"
    about = "the same around the same ONNX program"
    runs = "onnx"


class RayServe(Peer):
    name = "ray"
    project = "ray"
    about = "Ray Serve, one replica; proxy, router and replica are counted"
    distributions = ("ray",)
    expensive = True

    def command(self) -> list[str]:
        return self.python("-m", "bench.peers.ray_server", str(self.port))

    def environment(self) -> Mapping[str, str]:
        return {**super().environment(), "RAY_USAGE_STATS_ENABLED": "0"}


PEERS: dict[str, type[Peer]] = {
    peer.name: peer
    for peer in (
        *(MlServer, MlServerOnnx, MlServerGrpc, KServe, KServeOnnx, KServeGrpc),
        *(LitServe, LitServeOnnx),
        *(BentoMl, BentoMlOnnx, PyTriton, PyTritonOnnx, RayServe),
    )
}
"""By the name that `--only` takes, in the order in which a round visits them."""
