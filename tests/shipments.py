"""Shipments for tests of what is rendered: a version alone, a canary, one with a shadow."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from bascule.ship import Package, Resources, Shipment, Shipped

ARM = Shipped(
    arm="current",
    model="late",
    number=3,
    digest="sha256:" + "3a" * 32,
    share_percent=90,
    folder=Path("/nowhere"),
    packages=(Package("bascule", "0.2.0", "Apache-2.0"), Package("numpy", "2.4.6", "BSD-3-Clause")),
    resources=Resources(cpu_millis=250, memory_mib=384),
    image="registry.example.com/ml/late:3-3a3a3a3a3a3a-0d0d0d0d",
)
CANDIDATE = replace(
    ARM,
    arm="candidate",
    number=4,
    digest="sha256:" + "4b" * 32,
    share_percent=10,
    image="registry.example.com/ml/late:4-4b4b4b4b4b4b-0d0d0d0d",
)
CANARY = Shipment("late", (ARM, CANDIDATE))
ALONE = Shipment("late", (replace(ARM, share_percent=100),))
SHADOW = replace(
    ARM,
    arm="shadow",
    number=5,
    digest="sha256:" + "5c" * 32,
    share_percent=40,
    image="registry.example.com/ml/late:5-5c5c5c5c5c5c-0d0d0d0d",
)
SHADOWED = replace(CANARY, shadow=SHADOW)


def documents(text: str) -> list[Any]:
    return [one for one in yaml.safe_load_all(text) if one is not None]
