"""What is shipped, as facts: versions with their shares, packages, and resources. Pure."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bascule.core import Invalid

UID = 10_001
"""The user in images; no root."""

PORT, GRPC_PORT, CONTROL_PORT = 8080, 8081, 8082

_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_REPOSITORY = re.compile(r"[a-z0-9][a-z0-9._:-]*(/[a-z0-9][a-z0-9._-]*)*")
_OVERHEAD_BYTES = 200 << 20
"""The supervisor, the control process and the scribe, which every server has."""
_CONCURRENT_REQUESTS = 8
"""Open calls per pod at which the autoscaler adds one."""
_GPU_PROVIDERS = frozenset(
    ("CUDAExecutionProvider", "NvTensorRTRTXExecutionProvider", "TensorrtExecutionProvider")
)


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
        image: The name of its image: by digest where the registry knows the pushed image, else
            with a tag of version, bundle and `content_mark`.
        ml_bom: The bill of materials of the model itself; empty where it was not read.
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
    ml_bom: str = ""

    @property
    def slug(self) -> str:
        """The version as a label of Kubernetes, at most 50 long: `late-v3`."""
        return f"{object_name(self.model)}-v{self.number}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """What is particular to a cluster of Kubernetes.

    Attributes:
        namespace: Of the objects.
        pull_secrets: Names of secrets with which images are pulled.
        host: The name under which clients outside of the cluster call; empty for none.
        tls_secret: The secret with the certificate of `host`; empty for no TLS.
        ingress_class: Of the Ingress; empty for the default of the cluster.
        gateway: The Gateway that routes are attached to: `NAME` or `NAMESPACE/NAME`.
        node_selector: Labels that the nodes of the pods have.
        tolerations: Taints that the pods tolerate, as Kubernetes writes them.
        egress_ports: The ports that the settings name; pods may connect to these alone.
        has_bucket: Whether the bundles of the registry are in a bucket.
        providers: The execution providers that servers run models on; see `serving.providers`.
    """

    namespace: str = "bascule"
    pull_secrets: tuple[str, ...] = ()
    host: str = ""
    tls_secret: str = ""
    ingress_class: str = ""
    gateway: str = "bascule"
    node_selector: Mapping[str, str] = field(default_factory=dict)
    tolerations: tuple[Mapping[str, Any], ...] = ()
    egress_ports: tuple[int, ...] = (443, 5432)
    has_bucket: bool = False
    providers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        # An overlay appends "-staging".
        if not _LABEL.fullmatch(f"{self.namespace}-staging"):
            raise Invalid(
                f"namespace {self.namespace!r} is not a name of Kubernetes",
                hint="at most 55 lower-case letters, digits and dashes, such as ml-serving",
            )

    @property
    def placing(self) -> Mapping[str, object]:
        """The fields of a pod that say where it runs and how its image is pulled."""
        fields = {
            "imagePullSecrets": [{"name": name} for name in self.pull_secrets],
            "nodeSelector": dict(self.node_selector),
            "tolerations": [dict(each) for each in self.tolerations],
        }
        return {name: value for name, value in fields.items() if value}

    @property
    def uses_gpu(self) -> bool:
        """Whether each pod asks for a GPU of NVIDIA."""
        return not _GPU_PROVIDERS.isdisjoint(self.providers)

    @property
    def parent(self) -> Mapping[str, str]:
        """The parent of a route of the Gateway API."""
        namespace, _, name = self.gateway.rpartition("/")
        return {"name": name, **({"namespace": namespace} if namespace else {})}


@dataclass(frozen=True, slots=True)
class Shipment:
    """What one target renders.

    Attributes:
        endpoint: The name that requests use.
        arms: The versions that answer, each with its share; shares add up to 100.
        shadow: The version that gets copies of a share of the requests; None for none.
        replicas: Pods of each version, at least.
        max_replicas: Pods of each version, at most.
        target_cpu_percent: Of the CPU that a pod requests: above, the autoscaler adds pods.
        cluster: Where in Kubernetes.
        python: The Python in images, such as 3.11: the one of this machine.
        base: The image to build on.
    """

    endpoint: str
    arms: tuple[Shipped, ...]
    shadow: Shipped | None = None
    replicas: int = 2
    max_replicas: int = 10
    target_cpu_percent: int = 80
    cluster: Cluster = field(default_factory=Cluster)
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
        return object_name(self.endpoint)

    def part(self, name: str) -> str:
        """The name of an object of this endpoint: no name of another endpoint has two dashes."""
        return f"{self.slug}--{name}"

    def workload(self, arm: Shipped) -> str:
        """The Deployment of an arm, which is the same for the next version."""
        name = "arm control" if arm.arm == "control" else arm.arm  # the control API's is without
        return self.part(object_name(name, most=20))

    def service(self, arm: Shipped) -> str:
        """The Service of a version, whichever arm's pods run it: what routers split between."""
        version = f"v{arm.number}"
        return self.part(version if arm.model == self.endpoint else object_name(arm.slug, most=21))

    def secret(self, name: str) -> str:
        """A secret of this endpoint: `catalogue`, `objects`, `scrape` or `verdicts`."""
        return self.part(name)

    @property
    def migrations(self) -> str:
        """The job that migrates the catalogue. Jobs cannot change, so each image has its own."""
        mark = hashlib.sha256(self.current.image.encode()).hexdigest()[:8]
        return self.part(f"migrate-{mark}")

    @property
    def owned(self) -> Mapping[str, str]:
        """The labels of every object that this tool makes for the endpoint, and prunes by."""
        return {"app.kubernetes.io/managed-by": "bascule", "bascule.dev/endpoint": self.slug}

    @property
    def control_url(self) -> str:
        """Where the control API answers inside Kubernetes."""
        return f"http://{self.part('control')}.{self.cluster.namespace}:{CONTROL_PORT}"

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
    """A name for images: lower case, digits, dashes; at most 40 long."""
    plain = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40].rstrip("-")
    return plain or "model"


def object_name(name: str, *, most: int = 40) -> str:
    """A name for objects of Kubernetes: a label of RFC 1035, without two dashes in a row.

    Different names stay different: one that has to be changed gets a part of its SHA-256.
    """
    plain = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    if plain == name and len(name) <= most and name[:1].isalpha():
        return name
    mark = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:6]
    start = plain if plain[:1].isalpha() else f"m-{plain}"
    return f"{start[: most - 7].rstrip('-')}-{mark}"


def content_mark(release: str, base: str, packages: Iterable[Package]) -> str:
    """8 digits of what is in an image beside the bundle: release, base and exact packages."""
    said = [release, base, *(f"{each.name}=={each.version}" for each in packages)]
    return hashlib.sha256("\n".join(said).encode()).hexdigest()[:8]


def image_of(repository: str, model: str, number: int, digest: str, mark: str) -> str:
    """The name of an image; its tag names version, bundle and `content_mark`, never `latest`.

    Raises:
        Invalid: `repository` is none.
    """
    if repository and not _REPOSITORY.fullmatch(repository):
        raise Invalid(
            f"--image {repository!r} is not a repository",
            hint="give REGISTRY/PATH in lower case without a tag, such as registry.example.com/ml",
        )
    short = digest.removeprefix("sha256:")[:12]
    folder = repository.rstrip("/") + "/" if repository else ""
    return f"{folder}{slug_of(model)}:{number}-{short}-{mark}"


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
    640 MiB where nothing was measured. A model that takes over 10 ms a row asks for a whole core.
    """
    memory = 384 << 20 if peak_memory_bytes is None else peak_memory_bytes * 5 // 4
    mib = -(-(memory + _OVERHEAD_BYTES) // (64 << 20)) * 64
    is_costly = latency_us is not None and latency_us > 10_000
    return Resources(cpu_millis=1_000 if is_costly else 250, memory_mib=mib)
