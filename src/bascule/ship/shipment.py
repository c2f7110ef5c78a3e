"""What is shipped, as facts: versions with their shares, packages, and resources. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bascule.core import Invalid

UID = 10_001
"""The user in images; no root."""

PORT, GRPC_PORT, CONTROL_PORT = 8080, 8081, 8082

_REPOSITORY = re.compile(r"[a-z0-9][a-z0-9._:-]*(/[a-z0-9][a-z0-9._-]*)*")
_OVERHEAD_BYTES = 200 << 20
"""The supervisor, the control process and the scribe, which every server has."""
_CONCURRENT_REQUESTS = 8
"""Open calls per pod at which the autoscaler adds one."""


@dataclass(frozen=True, slots=True)
class Package:
    """One distribution of an image.

    Attributes:
        name: The normalized name of the distribution.
        version: The exact version.
        license: What its metadata says of its licence; empty for nothing.
    """

    name: str
    version: str
    license: str = ""


@dataclass(frozen=True, slots=True)
class Resources:
    """What one pod asks for, from the measured cost of the bundle.

    Attributes:
        cpu_millis: Requested processor time, in thousandths of a core.
        memory_mib: Requested memory; it is the limit too.
        workers: Worker processes.
    """

    cpu_millis: int
    memory_mib: int
    workers: int = 1


@dataclass(frozen=True, slots=True)
class Shipped:
    """One version in one arm of the plan.

    Attributes:
        arm: The arm's name; `current` without a plan.
        model: The registered model.
        number: The version.
        digest: The bundle's identity.
        share_percent: Its share of the requests.
        folder: The bundle on this machine.
        packages: What an image needs to serve it.
        resources: What one pod asks for.
        image: The name of its image, with a tag of version and digest.
    """

    arm: str
    model: str
    number: int
    digest: str
    share_percent: int
    folder: Path
    packages: tuple[Package, ...]
    resources: Resources
    image: str

    @property
    def slug(self) -> str:
        """Its name among Kubernetes' objects: letters, digits and dashes, at most 40."""
        return f"{slug_of(self.model)[:32].rstrip('-')}-v{self.number}"


@dataclass(frozen=True, slots=True)
class Shipment:
    """What one target renders.

    Attributes:
        endpoint: The name that requests use.
        arms: The versions that answer, each with its share; shares add up to 100.
        shadow: The version that gets copies of a share of the requests; None for none.
        replicas: Pods of each version, at least.
        max_replicas: Pods of each version, at most.
        namespace: Of Kubernetes.
        python: The Python in images, such as 3.11: the one of this machine.
        base: The image to build on.
    """

    endpoint: str
    arms: tuple[Shipped, ...]
    shadow: Shipped | None = None
    replicas: int = 2
    max_replicas: int = 10
    namespace: str = "bascule"
    python: str = "3.11"
    base: str = ""

    @property
    def current(self) -> Shipped:
        """The first arm: the plan's current version."""
        return self.arms[0]

    @property
    def versions(self) -> tuple[Shipped, ...]:
        """What runs: the arms, and the shadow where it is no arm too."""
        slugs = {arm.slug for arm in self.arms}
        if self.shadow is None or self.shadow.slug in slugs:
            return self.arms
        return (*self.arms, self.shadow)

    @property
    def slug(self) -> str:
        return slug_of(self.endpoint)

    @property
    def control_url(self) -> str:
        """Where the control API answers inside Kubernetes."""
        return f"http://{self.slug}-control.{self.namespace}:{CONTROL_PORT}"

    @property
    def metric(self) -> str:
        """The metric of the autoscaler; servers export it for each pod."""
        return "bascule_open_calls"

    @property
    def base_image(self) -> str:
        return self.base or f"docker.io/library/python:{self.python}-slim"

    @property
    def open_calls_per_pod(self) -> int:
        """The value of `metric` at which the autoscaler adds a pod."""
        return _CONCURRENT_REQUESTS * self.current.resources.workers


def slug_of(name: str) -> str:
    """A name for Kubernetes' objects and images: lower case, digits, dashes; at most 40 long."""
    plain = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40].rstrip("-")
    return plain or "model"


def image_of(repository: str, model: str, number: int, digest: str) -> str:
    """The name of an image; its tag names the version and the bundle, and is never `latest`.

    Raises:
        Invalid: `repository` is none.
    """
    if repository and not _REPOSITORY.fullmatch(repository):
        raise Invalid(
            f"--image {repository!r} is not a repository",
            hint="give REGISTRY/PATH in lower case without a tag, such as registry.example.com/ml",
        )
    short = digest.removeprefix("sha256:")[:12]
    return f"{repository.rstrip('/') + '/' if repository else ''}{slug_of(model)}:{number}-{short}"


def whole_shares(shares: Mapping[str, float]) -> dict[str, int]:
    """Shares as whole percents that add up to 100: those of routers (largest remainders)."""
    floors = {name: math.floor(share) for name, share in shares.items()}
    by_rest = sorted(shares, key=lambda name: floors[name] - shares[name])
    for name in by_rest[: 100 - sum(floors.values())]:
        floors[name] += 1
    return floors


def resources_of(peak_memory_bytes: int | None, latency_us: float | None) -> Resources:
    """What a pod asks for, from the cost statement of a bundle.

    Memory is the measured peak of the program with a quarter more, beside what every server takes;
    512 MiB where nothing was measured. A model that takes over 10 ms a row asks for a whole core.
    """
    memory = 384 << 20 if peak_memory_bytes is None else peak_memory_bytes * 5 // 4
    mib = -(-(memory + _OVERHEAD_BYTES) // (64 << 20)) * 64
    is_costly = latency_us is not None and latency_us > 10_000
    return Resources(cpu_millis=1_000 if is_costly else 250, memory_mib=mib)
