"""Bascule's engine in a replica of Ray Serve: `python -m bench --only bascule bascule-ray`."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from tests.own_environments import ROOT, python_of

from bench.subject import NAME
from bench.systems.bascule import Bascule


class BasculeOnRay(Bascule):
    name = "bascule-ray"
    about = "the same in one replica of Ray Serve; proxy, router and replica are counted"
    ready_within_s = 400.0

    @property
    def _home(self) -> Path:
        return self.folder / "on-ray" / "home"

    def command(self) -> list[str]:
        shutil.rmtree(self._home.parent, ignore_errors=True)
        rendered = self._home.parent / "serve"
        for words in (
            ["push", str(self.subject.bundle)],
            ["ship", "ray", f"{NAME}/1", "--replicas", "1", "--out", str(rendered)],
        ):
            subprocess.run(
                [Path(super().command()[0]), *words], check=True, capture_output=True,
                env={"BASCULE_HOME": str(self._home)},
            )  # fmt: skip
        driver = [python_of("ray"), ROOT / "tests/ray_driver.py", rendered / "serve.yaml"]
        return [*map(str, driver), str(self.port)]

    def environment(self) -> Mapping[str, str]:
        return {
            "PYTHONPATH": str(ROOT / "src"), "BASCULE_HOME": str(self._home),
            "RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled",
        }  # fmt: skip
