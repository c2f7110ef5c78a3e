"""The facts of a shipment: read from the registry, the bundle and the installed packages."""

from __future__ import annotations

import platform
import re
from collections.abc import Mapping
from importlib import metadata

from bascule.bundle import Bundle, load
from bascule.bundle.statements.environment import locked
from bascule.core import Unavailable
from bascule.endpoints import CURRENT, Plan
from bascule.registry import Registry, Version
from bascule.ship.shipment import (
    Package,
    Resources,
    Shipment,
    Shipped,
    image_of,
    resources_of,
    whole_shares,
)


def shipment_of(
    registry: Registry,
    reference: str,
    *,
    plan: Plan | None = None,
    repository: str = "",
    base: str = "",
    replicas: int = 2,
    namespace: str = "bascule",
) -> Shipment:
    """The facts for every target.

    Args:
        registry: Where the versions are.
        reference: `MODEL`, `MODEL/NUMBER` or `MODEL@ALIAS`; ignored with a plan.
        plan: The plan of an endpoint; its arms with a share are shipped.
        repository: `REGISTRY/PATH` of images; empty for none.
        base: The image to build on; empty for the slim one of the same Python.
        replicas: Pods of each version, at least.
        namespace: Of Kubernetes.

    Raises:
        NotFound: There is no such version.
        Unavailable: A package that the bundle needs is not installed here.
    """
    if plan is None:
        version = registry.resolve(reference)
        arms = ((CURRENT, version, 100),)
        endpoint = version.model
    else:
        shares = whole_shares({arm.name: arm.share_percent for arm in plan.arms})
        ordered = sorted(plan.arms, key=lambda arm: arm.name != plan.current.name)
        arms = tuple(
            (arm.name, registry.resolve(arm.version), shares[arm.name])
            for arm in ordered
            if arm.share_percent > 0
        )
        endpoint = plan.endpoint
    major, minor, _ = platform.python_version_tuple()
    return Shipment(
        endpoint,
        tuple(_shipped(registry, *arm, repository) for arm in arms),
        replicas=replicas,
        max_replicas=max(10, replicas),
        namespace=namespace,
        python=f"{major}.{minor}",
        base=base,
    )


def _shipped(
    registry: Registry, arm: str, version: Version, share: int, repository: str
) -> Shipped:
    folder = registry.path(version)
    bundle = load(folder)
    return Shipped(
        arm=arm,
        model=version.model,
        number=version.number,
        digest=version.digest,
        share_percent=share,
        folder=folder,
        packages=packages_of(bundle),
        resources=_resources(bundle),
        image=image_of(repository, version.model, version.number, version.digest),
    )


def packages_of(bundle: Bundle) -> tuple[Package, ...]:
    """What an image needs to serve a bundle: with a compiled program, nothing of its framework.

    Versions are those installed here, where parity and cost were measured.

    Raises:
        Unavailable: A package is not installed here.
    """
    manifest = bundle.manifest
    needs = ["bascule"]
    if manifest.served is None:
        needs += sorted(manifest.original.requires)
    lines = [line for line in locked(needs).splitlines() if not line.startswith("#")]
    found = dict(line.split("==", 1) for line in lines)
    for name in needs:
        if re.sub(r"[-_.]+", "-", name).lower() not in found:
            raise Unavailable(
                f"{bundle.name} needs {name}, which is not installed here",
                hint=f"pip install {name}=={manifest.original.requires.get(name, 'VERSION')}",
            )
    return tuple(Package(name, version, _license(name)) for name, version in found.items())


def _license(name: str) -> str:
    said = metadata.metadata(name)
    expression = said.get("License-Expression")
    if expression:
        return expression
    classified = [
        line.rsplit(" :: ", 1)[1]
        for line in said.get_all("Classifier") or ()
        if line.startswith("License :: OSI")
    ]
    return ", ".join(classified) or (said.get("License") or "").strip().split("\n")[0][:80]


def _resources(bundle: Bundle) -> Resources:
    cost = bundle.cost
    if cost is None:
        return resources_of(None, None)
    served = bundle.manifest.serves
    times: Mapping[int, float] = cost.latency_us.get(served, {})
    return resources_of(cost.peak_memory_bytes, times.get(1))
