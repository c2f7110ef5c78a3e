"""Ray Serve: an application whose replicas run the engine and the protocols of `bascule serve`.

Ray is where one machine is outgrown and a Ray cluster is there. Its proxy and its router stand
before every request, so a server costs less for each: `bench/ray` measures both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bascule.core import MissingExtra, Untrusted

if TYPE_CHECKING:
    from bascule.registry import ModelRegistry
    from bascule.serving import ModelSpec

_UPSCALE_DELAY_S = 10.0
_DOWNSCALE_DELAY_S = 120.0


@dataclass(frozen=True, slots=True)
class Arm:
    """One version of the application.

    Attributes:
        name: Of the arm: `current`, `candidate`.
        version: `MODEL/NUMBER`.
        share_percent: Its share of the requests.
        digest: That its bundle must have.
    """

    name: str
    version: str
    share_percent: float
    digest: str


def application(
    endpoint: str,
    arms: Sequence[Arm],
    *,
    min_replicas: int = 1,
    max_replicas: int = 10,
    open_calls_per_replica: int = 8,
    num_cpus: float = 1.0,
    memory_mib: int = 512,
) -> Any:
    """An application for `serve run` or `serve deploy`; it loads nothing here.

    Args:
        endpoint: The name that requests use.
        arms: The versions, whose shares add up to 100; the first is the current one.
        min_replicas: Replicas, at least.
        max_replicas: Replicas, at most.
        open_calls_per_replica: How many requests a replica has open, running and queued, before
            Ray adds one.
        num_cpus: What a replica reserves.
        memory_mib: Likewise.

    Raises:
        MissingExtra: Ray Serve is not installed.
    """
    try:
        from ray import serve
    except ImportError:
        raise MissingExtra("ray[serve] is not installed", hint="pip install 'ray[serve]'") from None
    deployment = serve.deployment(
        name=endpoint,
        autoscaling_config={
            "min_replicas": min_replicas,
            "max_replicas": max_replicas,
            "target_ongoing_requests": open_calls_per_replica,
            "upscale_delay_s": _UPSCALE_DELAY_S,
            "downscale_delay_s": _DOWNSCALE_DELAY_S,
        },
        user_config={"endpoint": endpoint},  # for which Ray calls `reconfigure`
        # The engine bounds its own queue, and answers 429.
        max_ongoing_requests=64 * open_calls_per_replica,
        ray_actor_options={"num_cpus": num_cpus, "memory": memory_mib << 20},
    )
    return deployment(Replica).bind(endpoint, tuple(arms))


class Replica:
    """One replica. Ray makes it in a process of its own."""

    def __init__(self, endpoint: str, arms: Sequence[Arm]) -> None:
        from bascule.serving.workers import Embedded

        self._endpoint = endpoint
        self._arms = arms
        self._engine = Embedded()
        self._is_started = False

    async def reconfigure(self, _config: Any) -> None:
        """Load before the first request: Ray calls this on the event loop that requests run on."""
        await self._start()

    async def __call__(self, request: Any) -> Any:
        """Answer a request of Ray's proxy, which is one of Starlette."""
        from starlette.responses import Response

        await self._start()
        answered = await self._engine.answer(
            request.method, request.url.path, request.headers, await request.body()
        )
        return Response(answered.body, answered.status, dict(answered.headers))

    def check_health(self) -> None:
        """Have Ray replace a replica whose model is stuck."""
        if self._engine.is_stuck:
            raise RuntimeError("a run of the model has not ended in time")

    async def _start(self) -> None:
        if self._is_started:
            return
        from bascule.endpoints import Arm as PlanArm, Plan

        specs = specs_of(self._arms)
        plan = Plan(
            self._endpoint, 1,
            tuple(PlanArm(one.name, one.version, one.share_percent) for one in self._arms),
        )  # fmt: skip
        await self._engine.start(specs, (plan,))
        self._is_started = True


def specs_of(arms: Sequence[Arm]) -> tuple[ModelSpec, ...]:
    """The bundles of arms from the registry, on this machine.

    Raises:
        NotFound: There is no such version.
        Untrusted: A bundle has another digest, or no required key signed it.
    """
    from bascule.serving import ModelSpec

    registry, found = _registry(), {}
    for arm in arms:
        version = registry.resolve(arm.version)
        if version.digest != arm.digest:
            raise Untrusted(
                f"{arm.version} has the digest {version.digest}, and the application names "
                f"{arm.digest}",
                hint="render the application again: bascule ship ray",
            )
        found[arm.version] = ModelSpec(
            version.model, str(version.number), registry.path(version), is_planned=True
        )
    return tuple(found.values())


def _registry() -> ModelRegistry:
    import os

    from bascule.app import open_registry
    from bascule.settings import load_settings

    settings = load_settings()
    if not os.environ.get("BASCULE_SERVER"):
        return open_registry(settings)
    from bascule.registry import RemoteRegistry
    from bascule_client.control import ControlClient

    client = ControlClient(os.environ["BASCULE_SERVER"], key=os.environ.get("BASCULE_KEY", ""))
    return RemoteRegistry(client, required_keys=settings.security.required_keys)
