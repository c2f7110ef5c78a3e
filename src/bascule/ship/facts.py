"""The facts of a shipment: read from the registry, the bundle and the installed packages."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from bascule.bundle import Bundle, load
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

_NOT_TO_SERVE: Mapping[str, frozenset[str]] = {
    "bascule": frozenset({"onnx"}),  # graphs are made with it, not run
    "onnxruntime": frozenset({"coloredlogs", "flatbuffers", "protobuf", "sympy"}),  # its tools
    "sqlalchemy": frozenset({"greenlet"}),  # for asyncio
}
"""Requirements, by what requires them, that no server of a compiled program imports."""


def shipment_of(
    registry: Registry,
    reference: str,
    *,
    plan: Plan | None = None,
    repository: str = "",
    base: str = "",
    extras: Sequence[str] | None = None,
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
        extras: Extras of Bascule in an image; None looks up no packages: only an image needs them.
        replicas: Pods of each version, at least.
        namespace: Of Kubernetes.

    Raises:
        NotFound: There is no such version.
        Unavailable: A package that the bundle needs is not installed here.
    """
    shadow: Shipped | None = None
    if plan is None:
        version = registry.resolve(reference)
        arms = [(CURRENT, version, 100)]
        endpoint = version.model
    else:
        shares = whole_shares({arm.name: arm.share_percent for arm in plan.arms})
        ordered = sorted(plan.arms, key=lambda arm: arm.name != plan.current.name)
        arms = [
            (arm.name, registry.resolve(arm.version), shares[arm.name])
            for arm in ordered
            if arm.share_percent > 0
        ]
        endpoint = plan.endpoint
        if plan.shadow is not None:
            share = max(1, round(plan.shadow.share_percent))
            version = registry.resolve(plan.shadow.version)
            shadow = _shipped(registry, "shadow", version, share, repository, extras)
    major, minor, _ = platform.python_version_tuple()
    return Shipment(
        endpoint,
        tuple(_shipped(registry, *arm, repository, extras) for arm in arms),
        shadow,
        replicas=replicas,
        max_replicas=max(10, replicas),
        namespace=namespace,
        python=f"{major}.{minor}",
        base=base,
    )


def _shipped(
    registry: Registry,
    arm: str,
    version: Version,
    share: int,
    repository: str,
    extras: Sequence[str] | None,
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
        packages=() if extras is None else packages_of(bundle, extras),
        resources=_resources(bundle),
        image=image_of(repository, version.model, version.number, version.digest),
    )


def packages_of(bundle: Bundle, extras: Sequence[str] = ()) -> tuple[Package, ...]:
    """What an image needs to serve a bundle: with a compiled program, nothing of its framework.

    Versions are those installed here, where parity and cost were measured.

    Args:
        bundle: What is served.
        extras: Extras of Bascule, such as `postgresql`.

    Raises:
        Unavailable: Packages are not installed here; the error names all of them.
    """
    manifest = bundle.manifest
    needs = [Requirement(f"bascule[{','.join(extras)}]" if extras else "bascule")]
    if manifest.served is None:
        needs += [Requirement(name) for name in manifest.original.requires]
    found: dict[str, Package] = {}
    seen: set[str] = set()
    missing: dict[str, Requirement] = {}
    while needs:
        need = needs.pop()
        if str(need) in seen:
            continue
        seen.add(str(need))
        name = canonicalize_name(need.name)
        try:
            distribution = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            missing[name] = need
            continue
        found[name] = Package(name, distribution.version, _license(name))
        left_out = frozenset() if manifest.served is None else _NOT_TO_SERVE.get(name, frozenset())
        needs += [
            one
            for one in _required(distribution, need.extras)
            if canonicalize_name(one.name) not in left_out
        ]
    if missing:
        words = " ".join(f'"{missing[name]}"' for name in sorted(missing))
        raise Unavailable(
            f"an image of {bundle.name} needs {', '.join(sorted(missing))}, not installed here",
            hint=f"pip install {words}, or choose the extras of the image with --extra",
        )
    return tuple(found[name] for name in sorted(found))


def _required(distribution: metadata.Distribution, extras: Iterable[str]) -> list[Requirement]:
    """What a distribution requires here, with these extras."""
    said = [Requirement(text) for text in distribution.requires or ()]
    return [
        Requirement(str(need).split(";")[0])
        for need in said
        if need.marker is None
        or any(need.marker.evaluate({"extra": extra}) for extra in ("", *extras))
    ]


def _license(name: str) -> str:
    said = metadata.metadata(name).json
    if "license_expression" in said:
        return str(said["license_expression"])
    named = [
        str(line).rsplit(" :: ", 1)[1]
        for line in said.get("classifier", ())
        if str(line).startswith("License :: OSI")
    ]
    return ", ".join(named) or str(said.get("license", "")).strip().split("\n")[0][:80]


def _resources(bundle: Bundle) -> Resources:
    cost = bundle.cost
    if cost is None:
        return resources_of(None, None)
    served = bundle.manifest.serves
    times: Mapping[int, float] = cost.latency_us.get(served, {})
    return resources_of(cost.peak_memory_bytes, times.get(1))
