"""Devices for tests: a repository in a folder, and `bascule-edge` on it in a process of its own.

REPOSITORY/channel.json          the content of its only channel
REPOSITORY/bundles/HEX/          published bundles
REPOSITORY/attack                what `channel` refuses, if it is there
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import msgspec

from bascule.bundle import read_manifest
from bascule.core import Unavailable, Untrusted
from bascule.edge.channels import Candidate, Channel, Offer


class FolderRepository:
    """An `agent.Repository` that copies folders."""

    def __init__(self, home: Path, url: str | Path, root: Path) -> None:
        self.folder = Path(url)

    def channel(self, name: str) -> Channel:
        if (self.folder / "attack").exists():
            raise Untrusted((self.folder / "attack").read_text())
        try:
            return Channel.parse((self.folder / "channel.json").read_bytes())
        except FileNotFoundError:
            raise Unavailable("the repository does not answer") from None

    def obtain(
        self, digest: str, have: Path | None, into: Path, budget_bytes: int | None = None
    ) -> int:
        bundle = self.folder / "bundles" / digest.removeprefix("sha256:")
        size = sum(file.stat().st_size for file in bundle.rglob("*") if file.is_file())
        if budget_bytes is not None and size > budget_bytes:
            raise Unavailable("the budget is used up", bytes_received=budget_bytes)
        shutil.copytree(bundle, into)
        return size


class Publisher:
    """Puts versions into a `FolderRepository`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._sequence = 0

    def publish(self, bundle: Path, version: str, candidate: dict[str, Any] | None = None) -> Offer:
        """Publish a copy of a bundle as what the channel offers; `candidate` to some devices."""
        offer = Offer(version, read_manifest(bundle).digest)
        shutil.copytree(bundle, self.place_of(offer), dirs_exist_ok=True)
        self._sequence += 1
        stable, tried = offer, None
        if candidate is not None:
            tried = Candidate(version, offer.digest, **candidate)
            stable = self.channel().stable
        channel = Channel("late", stable, self._sequence, tried)
        (self.folder / "draft").write_bytes(msgspec.json.encode(channel))
        (self.folder / "draft").rename(self.folder / "channel.json")
        return offer

    def channel(self) -> Channel:
        return Channel.parse((self.folder / "channel.json").read_bytes())

    def place_of(self, offer: Offer) -> Path:
        return self.folder / "bundles" / offer.digest.removeprefix("sha256:")


def alter_statement(bundle: Path, kind: str, change: Any) -> None:
    """Write the last statement of a kind again, with another body."""
    from bascule.bundle.disk import read_statements, write_statement

    body = json.loads(json.dumps(read_statements(bundle, kind)[-1].body))
    change(body)
    for file in (bundle / "statements").glob(f"{kind}-*.json"):
        file.unlink()
    write_statement(bundle, kind, body, by="test")


if __name__ == "__main__":
    from bascule.edge.__main__ import main

    sys.exit(main(repository=FolderRepository))
