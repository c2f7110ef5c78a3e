"""The facts of a shipment: read from the registry, the bundle and the installed packages."""

from __future__ import annotations

import platform
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import metadata

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from bascule.bundle import Bundle, Said, load
from bascule.bundle.originals import distribution_of, installed_version
from bascule.core import VERSION, Conflict, Invalid, Unavailable
from bascule.endpoints import CANDIDATE, CURRENT, PREVIOUS, Plan
from bascule.registry import ModelRegistry, Version
from bascule.ship.sbom import ml_bill_of_materials
from bascule.ship.shipment import (
    Cluster,
    Package,
    Resources,
    Shipment,
    Shipped,
    content_mark,
    image_of,
    resources_of,
    whole_shares,
)

IMAGE_TAG = "image"
"""The tag of a version with its pushed image, by digest."""
EXTRAS = ("postgresql", "s3")
"""Of Bascule in an image where nothing else is chosen: what a shared registry needs."""
_PUSHED = re.compile(r"[a-z0-9][\w.:/-]*@sha256:[0-9a-f]{64}")

_NOT_TO_SERVE: Mapping[str, frozenset[str]] = {
    "bascule": frozenset({"onnx"}),  # graphs are made with it, not run
    "onnxruntime": frozenset({"coloredlogs", "flatbuffers", "protobuf", "sympy"}),  # its tools
    "sqlalchemy": frozenset({"greenlet"}),  # for asyncio
}
"""Requirements, by what requires them, that no server of a compiled program imports."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageOptions:
    """How images are named and built.

    Attributes:
        repository: `REGISTRY/PATH`; empty for none.
        base: The image to build on; empty for the slim one of the same Python.
        extras: Extras of Bascule.
        is_built: Whether an image is built: its packages must be installed here, and a pushed
            image of the version is not taken in its place.
    """

    repository: str = ""
    base: str = ""
    extras: Sequence[str] = EXTRAS
    is_built: bool = False


def shipment_of(
    registry: ModelRegistry,
    reference: str,
    *,
    plan: Plan | None = None,
    candidate: str = "",
    images: ImageOptions | None = None,
    replicas: int = 2,
    max_replicas: int = 10,
    cluster: Cluster | None = None,
) -> Shipment:
    """The facts for every target.

    Args:
        registry: Where the versions are.
        reference: `MODEL`, `MODEL/NUMBER` or `MODEL@ALIAS`; ignored with a plan.
        plan: The plan of an endpoint. Its arms are shipped, but not the former version that waits
            for a rollback.
        candidate: A version that is shipped too, without a share, before a rollout begins; empty
            for none.
        images: None for the defaults.
        replicas: Pods of each arm, at least.
        max_replicas: Likewise, at most.
        cluster: None for the defaults.

    Raises:
        NotFound: There is no such version.
        Unavailable: A package of an image that is built is not installed here.
    """
    chosen = images or ImageOptions()
    major, minor, _ = platform.python_version_tuple()
    shipment = Shipment(
        "", (), replicas=replicas, max_replicas=max(max_replicas, replicas),
        cluster=cluster or Cluster(), python=f"{major}.{minor}", base=chosen.base,
    )  # fmt: skip

    def shipped(arm: str, version: Version, share: int) -> Shipped:
        return _shipped(registry, arm, version, share, chosen, shipment.base_image)

    shadow: Shipped | None = None
    if plan is None:
        version = registry.resolve(reference)
        arms = [shipped(CURRENT, version, 100)]
        endpoint = version.model
    else:
        shares = whole_shares({arm.name: arm.share_percent for arm in plan.arms})
        ordered = sorted(plan.arms, key=lambda arm: arm.name != plan.current.name)
        arms = [
            shipped(arm.name, registry.resolve(arm.version), shares[arm.name])
            for arm in ordered
            if arm.share_percent > 0 or arm.name != PREVIOUS
        ]
        endpoint = plan.endpoint
        if plan.shadow is not None:
            share = max(1, round(plan.shadow.share_percent))
            shadow = shipped("shadow", registry.resolve(plan.shadow.version), share)
    if candidate:
        _add_candidate(arms, shipped(CANDIDATE, registry.resolve(candidate), 0))
    return replace(shipment, endpoint=endpoint, arms=tuple(arms), shadow=shadow)


def _add_candidate(arms: list[Shipped], candidate: Shipped) -> None:
    if candidate.digest in {arm.digest for arm in arms}:
        return  # a rollout of it has begun
    taken = next((arm for arm in arms if arm.arm == candidate.arm), None)
    if taken is not None:
        raise Conflict(
            f"the plan has the candidate {taken.model}/{taken.number} already",
            hint="end its rollout before another candidate is shipped",
        )
    arms.append(candidate)


def _shipped(
    registry: ModelRegistry,
    arm: str,
    version: Version,
    share: int,
    images: ImageOptions,
    base_image: str,
) -> Shipped:
    folder = registry.path(version)
    bundle = load(folder)
    packages: tuple[Package, ...] = ()
    pushed = "" if images.is_built else registry.tags(version).get(IMAGE_TAG, "")
    if not pushed:
        try:
            packages = packages_of(bundle, images.extras)
        except Unavailable:  # then no image can be built here, but one built elsewhere can run
            if images.is_built:
                raise
    elif not _PUSHED.fullmatch(pushed):
        raise Invalid(
            f"the tag {IMAGE_TAG} of {version} is {pushed!r}, which is no image by digest",
            hint=f"bascule tag {version} {IMAGE_TAG}=REGISTRY/PATH/NAME@sha256:...",
        )
    mark = content_mark(VERSION, base_image, packages)
    return Shipped(
        arm=arm,
        model=version.model,
        number=version.number,
        digest=version.digest,
        share_percent=share,
        folder=folder,
        packages=packages,
        resources=_resources(bundle),
        ml_bom=ml_bill_of_materials(
            bundle.manifest, Said.of(registry.statements(version)), str(version)
        ),
        image=pushed
        or image_of(images.repository, version.model, version.number, version.digest, mark),
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
        required = canonicalize_name(need.name)
        name = _installed_as(required)
        try:
            distribution = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            missing[name] = need
            continue
        found[name] = Package(name, distribution.version, _license(name))
        left_out: frozenset[str] = frozenset()
        if manifest.served is not None:
            left_out = _NOT_TO_SERVE.get(required, left_out)
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


def _installed_as(name: str) -> str:
    """Builds of ONNX Runtime with other execution providers are distributions of other names."""
    if name != "onnxruntime" or installed_version(name) != "none":
        return name
    return canonicalize_name(distribution_of(name))


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
