"""The agent's client of a repository, under the command line of the suite tuf-conformance.

The suite is not on the package index: install its source into an environment, and Debian's
`faketime`; then run `pytest tuf_conformance --entrypoint FILE`, a script that runs `python -m
bench.tuf_client "$@"`. All of its 113 tests pass, also the one that python-tuf alone is known to
fail: this client forgets what it has read when it ends.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

from bascule.core import BasculeError
from bascule.edge.trusting import Trust, connection

_ANY = 1 << 62


def main() -> int:
    """Do what the command line says; 1 where the repository was refused."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--metadata-dir", type=Path, required=True)
    for name in ("--metadata-url", "--target-base-url"):
        parser.add_argument(name, default="")
    parser.add_argument("--target-dir", type=Path)
    parser.add_argument("--target-name", action="append", default=[])
    acts = parser.add_subparsers(dest="act", required=True)
    acts.add_parser("init").add_argument("root", type=Path)
    acts.add_parser("refresh")
    acts.add_parser("download")
    options = parser.parse_args()
    if options.act == "init":
        shutil.copyfile(options.root, options.metadata_dir / "root.json")
        return 0
    try:
        _ask(options)
    except BasculeError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _ask(options: argparse.Namespace) -> None:
    with connection() as client:
        trust = Trust(
            options.metadata_dir, options.metadata_url, options.target_base_url or "none:", client
        )
        trust.refresh()
        for name in options.target_name:
            target = trust.target(name)
            if target is None:
                raise SystemExit(1)
            file = options.target_dir / name.replace("/", "%2F")
            if not file.is_file() or not _is(target, file):
                trust.download(target, file.with_suffix(".part"), file, _ANY)


def _is(target: object, file: Path) -> bool:
    from tuf.api.exceptions import LengthOrHashMismatchError

    with file.open("rb") as content:
        try:
            target.verify_length_and_hashes(content)  # type: ignore[attr-defined]
        except LengthOrHashMismatchError:
            return False
    return True


if __name__ == "__main__":
    sys.exit(main())
