"""The client of a device for tuf-conformance; its CLIENT-CLI.md says what the commands do.

The suite is in no package index. In a copy of its repository, with what its pyproject.toml
requires and `faketime`: `pytest tuf_conformance --entrypoint "python PATH/tuf_client.py"`.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path
from urllib.parse import quote

from tuf.api.exceptions import LengthOrHashMismatchError

from bascule.core import BasculeError
from bascule.edge import Trust, connection


def download(trust: Trust, name: str, folder: Path) -> None:
    target = trust.target(name)
    if target is None:
        sys.exit(1)
    file = folder / quote(name, "")
    try:
        with file.open("rb") as before:
            target.verify_length_and_hashes(before)
    except (OSError, LengthOrHashMismatchError):
        trust.download(target, folder.parent / "part", file, 1 << 62)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--metadata-dir", type=Path)
    parser.add_argument("--metadata-url")
    parser.add_argument("--target-name", action="append")
    parser.add_argument("--target-base-url", default="")
    parser.add_argument("--target-dir", type=Path)
    parser.add_argument("command")
    parser.add_argument("root", nargs="?")
    given = parser.parse_args()
    if given.command == "init":
        shutil.copyfile(given.root, given.metadata_dir / "root.json")
        return
    with connection() as client:
        trust = Trust(given.metadata_dir, given.metadata_url, given.target_base_url, client)
        trust.refresh()
        for name in given.target_name or ():
            download(trust, name, given.target_dir)


if __name__ == "__main__":
    try:
        main()
    except BasculeError as error:
        sys.exit(f"{type(error).__name__}: {error}")
