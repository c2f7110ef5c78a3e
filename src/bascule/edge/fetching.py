"""A bundle from a repository into a folder, in a process that ends: the device's own stays small.

Rules of this module: a folder appears once its bundle is verified and whole; what was received
stays for the next try, which asks for the rest alone (`Range`); no try receives more bytes than the
full file has.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from bascule.bundle.disk import digest_of
from bascule.core import (
    Child,
    Invalid,
    Limits,
    ModelFailed,
    NotFound,
    Scratch,
    TimedOut,
    Unavailable,
    Untrusted,
    answer_parent,
    sha256_file,
    writing,
)
from bascule.edge.channels import Channel
from bascule.edge.deltas import Archive, corrupted, expand, pack, unpack

if TYPE_CHECKING:
    from tuf.api.metadata import TargetFile

    from bascule.edge.trusting import Trust

_LOOK_S, _OBTAIN_S = 300.0, 86_400.0
_NO_BUDGET = 1 << 62


class Repository:
    """A signed repository, as a device sees it. One process asks at a time."""

    def __init__(self, home: Path, url: str, root: Path) -> None:
        """Ask nothing yet.

        Args:
            home: Of the device; `metadata` and `downloads` are made in it.
            url: Of the repository, over HTTP.
            root: The file of the root that is trusted since the enrolment.

        Raises:
            Invalid: There is none.
        """
        if not root.is_file():
            raise Invalid(f"{root} is missing", hint="bascule-edge enroll FILE, or --root FILE")
        self._about = {"home": str(home), "url": url.rstrip("/"), "root": str(root)}

    def channel(self, name: str) -> Channel:
        """What a channel offers now.

        Raises:
            Untrusted: The repository was refused; the message begins with the name of the attack:
                `rolled back`, `frozen`, `mixed and matched`, `corrupted`, `unknown role`,
                `endless data`.
            Unavailable: It does not answer.
            NotFound: It has no such channel.
        """
        reply = self._answer(f"channel {name}", _LOOK_S, do="channel", name=name)
        return msgspec.convert(reply, Channel)

    def obtain(
        self, digest: str, have: Path | None, into: Path, budget_bytes: int | None = None
    ) -> int:
        """Put a bundle into the folder `into`, which must not be there.

        Args:
            digest: Of the bundle.
            have: The folder of another version, of which a difference may lead to this one.
            into: The bundle; complete, or absent.
            budget_bytes: How many may be received now; None for any number.

        Returns:
            The bytes received, of the bundle or of the difference, without metadata.

        Raises:
            Untrusted: As for `channel`. A difference that was refused is not tried again.
            Unavailable: The repository does not answer, or the budget is used up; what came is
                kept. The fact `bytes_received` counts it.
            NotFound: It does not publish this bundle.
            Invalid: There is no space for it.
        """
        reply = self._answer(
            f"the download of {digest}", _OBTAIN_S, do="obtain", digest=digest, into=str(into),
            have=have and str(have), budget_bytes=budget_bytes,
        )  # fmt: skip
        return int(reply["bytes_received"])

    def _answer(self, what: str, timeout_s: float, **question: Any) -> dict[str, Any]:
        child = Child(
            __name__, {**self._about, **question}, Limits(timeout_s, is_nice=True), what=what
        )
        try:
            return child.answer()
        except (ModelFailed, TimedOut) as problem:  # no model ran: another download may do
            raise Unavailable(problem.message, hint=problem.hint) from None


def answer(question: dict[str, Any]) -> Mapping[str, Any]:
    """What the child does; see `Repository`."""
    from bascule.edge.trusting import Trust, connection

    home, url = Path(question["home"]), question["url"]
    root = Path(question["root"]).read_bytes()
    with writing(home), connection() as client:
        trust = Trust(home / "metadata", f"{url}/metadata", f"{url}/targets", client, root)
        fetch = _Fetch(trust, home / "downloads")
        fetch.folder.mkdir(exist_ok=True)
        if question["do"] == "channel":
            return fetch.channel(question["name"])
        have, budget_bytes = question["have"], question["budget_bytes"]
        return fetch.obtain(
            question["digest"], Path(have) if have else None, Path(question["into"]),
            _NO_BUDGET if budget_bytes is None else budget_bytes,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Fetch:
    trust: Trust
    folder: Path

    def channel(self, name: str) -> Mapping[str, Any]:
        channel = Channel.parse(self._content(f"channels/{name}.json"))
        reply: dict[str, Any] = msgspec.to_builtins(channel)
        return reply

    def _content(self, name: str) -> bytes:
        """Of a small target."""
        target, file = self._target(name), self.folder / "content"
        self.trust.download(target, self._part(target), file, _NO_BUDGET)
        return file.read_bytes()

    def obtain(
        self, digest: str, have: Path | None, into: Path, budget_bytes: int
    ) -> Mapping[str, Any]:
        from bascule.edge.golden import lay_statements  # loads programs, which Repository does not

        full = self._target(f"bundles/{hex_of(digest)}.tar.zst")
        with Scratch("bascule-edge-", parent=into.parent) as scratch:
            old = pack(have, scratch / "old.tar") if have else None
            delta = self._delta(digest, have, old, full) if have and old else None
            target, file, new = delta or full, scratch / "file", scratch / "new.tar"
            method: Any = delta.custom["method"] if delta else "full"
            try:
                received = self.trust.download(target, self._part(target), file, budget_bytes)
                expand(file, new, method, full.custom["archive_bytes"], old if delta else None)
                if sha256_file(new) != full.custom["archive_sha256"]:
                    raise corrupted("the archive is another one")
                draft = scratch / "bundle"
                draft.mkdir(mode=0o755)
                unpack(new, draft)
                lay_statements(draft, self._content(f"statements/{hex_of(digest)}.json"))
                draft.rename(into)
            except Untrusted:
                if delta:
                    self._refused(delta).touch()
                raise
        shutil.rmtree(self.folder)
        return {"bytes_received": received}

    def _target(self, name: str) -> TargetFile:
        target = self.trust.target(name)
        if target is None:
            raise NotFound(f"the repository has no {name}", hint="publish it first")
        return target

    def _delta(self, digest: str, have: Path, old: Archive, full: TargetFile) -> TargetFile | None:
        """The difference from what is there, where it saves bytes and was not refused."""
        delta = self.trust.target(f"deltas/{hex_of(digest_of(have))}-{hex_of(digest)}.zst")
        if delta is None or self._refused(delta).exists():
            return None
        saves = self._missing(delta) < self._missing(full)
        return delta if saves and delta.custom["from_sha256"] == old.sha256 else None

    def _part(self, target: TargetFile) -> Path:
        return self.folder / f"{target.hashes['sha256']}.part"

    def _refused(self, target: TargetFile) -> Path:
        return self._part(target).with_suffix(".refused")

    def _missing(self, target: TargetFile) -> int:
        part = self._part(target)
        return int(target.length) - (part.stat().st_size if part.exists() else 0)


def hex_of(digest: str) -> str:
    """A digest in names of targets: without `sha256:`."""
    return digest.removeprefix("sha256:")


if __name__ == "__main__":
    answer_parent(answer)
