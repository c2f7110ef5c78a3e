"""Records `ship/`: the files of every target for a canary with a shadow. Review what changes.

python -m tests.golden.make_ship
"""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.shipments import SHADOWED

from bascule.ship import TARGETS

GOLDEN = Path(__file__).parent / "ship"
_SHIPPED_AS_IT_IS = ("rules.yml", "dashboard.json", "monitoring.yaml")
"""Copies of what another room ships, and has tests of its own."""


def golden_files(target: str) -> dict[str, str]:
    rendered = TARGETS[target].render(SHADOWED)
    return {path: text for path, text in rendered.items() if not path.endswith(_SHIPPED_AS_IT_IS)}


def main() -> None:
    shutil.rmtree(GOLDEN, ignore_errors=True)
    for target in TARGETS:
        for path, text in golden_files(target).items():
            (GOLDEN / target / path).parent.mkdir(parents=True, exist_ok=True)
            (GOLDEN / target / path).write_text(text)


if __name__ == "__main__":
    main()
