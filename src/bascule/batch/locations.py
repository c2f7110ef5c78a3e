"""Where the addresses of a job lead, compared with the places that a server allows.

The libraries that open an address read it by rules of their own: in `mysql://a:1/b@c/d`, SQLAlchemy
finds the host `c`, and others the host `a`. So an address is parsed by one strict grammar, and what
does not fit is refused. Paths of this machine are compared after links are followed.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bascule.batch.jobs import Job
from bascule.core import Invalid, Reference, Refused, masked

log = logging.getLogger(__name__)

_URL = re.compile(
    r"(?:(?P<user>[^/?#@\s\\]*)@)?(?P<host>[\w.-]*|\[[0-9a-f:.]+\])(?::(?P<port>[0-9]{1,5}))?"
    r"(?P<path>/[^?#@%\\]*)?(?:#(?P<table>.*))?",
    re.ASCII | re.IGNORECASE,
)
_LOCAL = ("file", "delta", "sqlite", "duckdb")
_SAME = {"postgres": "postgresql", "gcs": "gs", "abfss": "abfs"}
_FILES = ("s3", "gs", "abfs", "hdfs")
_PORTS = {"postgresql": "5432", "mysql": "3306", "mariadb": "3306"}


@dataclass(frozen=True, slots=True)
class Location:
    """What an address names.

    Attributes:
        kind: The scheme without its driver; `file` for everything on this machine's disks.
        host: Host and port, or bucket; of Azure with the container. Empty for files.
        path: The parts of the path; of a file those of its real path.
        table: Of a database; empty for all of its tables.
    """

    kind: str
    host: str
    path: tuple[str, ...]
    table: str = ""

    def holds(self, other: Location) -> bool:
        """Whether `other` is this location or below it."""
        if (self.kind, self.host) != (other.kind, other.host):
            return False
        if self.table not in ("", other.table):
            return False
        if self.kind == "file" or self.kind in _FILES:
            return other.path[: len(self.path)] == self.path
        return self.path in ((), other.path)


def location_of(address: str, folder: str = "", *, may_be_glob: bool = False) -> Location:
    """The location of an address; paths are relative to `folder`, or to that of this process.

    Where `*?[` may stand for names, it is the folder before them. Raises `Invalid` where libraries
    could read the address in different ways, or where it has options of a driver.
    """
    scheme, is_url, rest = address.partition("://")
    dialect, _, driver = scheme.partition("+")
    kind = _SAME.get(dialect, dialect)
    if not is_url:
        return _local(address, folder, may_be_glob=may_be_glob)
    if not re.fullmatch("[a-z][a-z0-9+.-]*", scheme) or re.search(r"[\x00-\x1f\x7f]", rest):
        raise _unclear(address)
    if kind in _LOCAL and not (kind == "delta" and driver):
        path, _, table = rest.partition("#")
        is_database = kind in ("sqlite", "duckdb")
        is_path = path.startswith("/") or kind == "delta"
        if set(path) & set("?%@\\") or not is_path or (table and not is_database):
            raise _unclear(address)
        found = _local(path[1:] if is_database else path, folder, may_be_glob=kind == "file")
        return Location("file", "", found.path, table)
    if kind == "delta":
        kind = _SAME.get(driver, driver)
    elif kind not in (*_PORTS, *_FILES):
        kind = scheme  # what a driver makes of an address is not known
    match = _URL.fullmatch(rest)
    if match is None or (kind in _FILES and match["table"]):
        raise _unclear(address)
    path = (match["path"] or "")[1:].removesuffix("/")
    parts = tuple(path.split("/")) if path else ()
    if {"", ".", ".."} & set(parts):
        raise _unclear(address)
    container = (match["user"] or "").partition(":")[0] if kind == "abfs" else ""
    port = int(match["port"] or _PORTS.get(kind, 0))
    host = f"{container}@{match['host'].lower()}:{port}"
    return Location(kind, host, parts, match["table"] or "")


def _local(path: str, folder: str, *, may_be_glob: bool) -> Location:
    parts = path.split("/")
    glob = next((n for n, part in enumerate(parts) if set("*?[") & set(part)), None)
    if may_be_glob and glob is not None:
        if ".." in parts:
            raise _unclear(path)
        path = "/".join(parts[:glob]) or ("/" if path[0] == "/" else ".")
    whole = os.path.join(folder or os.getcwd(), os.path.expanduser(path))
    real = os.path.realpath(whole)
    # Libraries that drop `x/..` before they ask the system pass by the link x.
    if real != os.path.realpath(os.path.abspath(whole)):
        raise _unclear(path)
    return Location("file", "", Path(real).parts)


def _unclear(address: str) -> Invalid:
    return Invalid(
        f"{masked(address)} cannot be compared with batch.places",
        hint="write SCHEME://USER:PASSWORD@HOST:PORT/PATH#TABLE without options, % and ..",
    )


def is_below(place: str, allowed: str) -> bool:
    """Whether a place, which may be a glob, is an allowed one or below it."""
    try:
        return location_of(allowed).holds(location_of(place, may_be_glob=True))
    except Invalid:
        return False


class Places:
    """The locations that jobs of callers with keys may read and write."""

    def __init__(self, addresses: Sequence[str]) -> None:
        """Resolve them now, relative to the folder of this process."""
        self._allowed: list[Location] = []
        for one in addresses:
            try:
                self._allowed.append(location_of(one))
            except Invalid as problem:
                log.warning("%s allows nothing: %s", masked(one), problem)

    def check(self, job: Job, folder: str = "") -> None:
        """Raise `Refused` where an address of a job, relative to `folder`, leads elsewhere."""
        # SQL reads any table of its database.
        has_sql = bool(job.query or job.where) and "://" in job.source
        source = job.source.partition("#")[0] if has_sql else job.source
        addresses = {"from": source, "to": job.sink}
        if _is_folder(job.model, folder):
            addresses["model"] = job.model
        if "://" in job.on:
            addresses["on"] = job.on
        for name, address in addresses.items():
            try:
                location = location_of(address, folder, may_be_glob=name == "from")
            except Invalid as problem:
                raise Refused(f"{name}: {problem}", hint=problem.hint, field=name) from None
            self._check(name, location, masked(address))

    def check_files(self, files: Iterable[str]) -> None:
        """Raise `Refused` where a file that a folder or a glob has led to is a link elsewhere."""
        for file in files:
            self._check("from", _local(file, "", may_be_glob=False), file)

    def _check(self, name: str, location: Location, shown: str) -> None:
        if not any(one.holds(location) for one in self._allowed):
            raise Refused(
                f"{name}: {shown} is none of the places that batch.places allows",
                hint="add it to batch.places in the server's bascule.toml",
                field=name,
            )


def _is_folder(model: str, folder: str) -> bool:
    """Whether a model is not one of the registry: a version is unless its bundle is a folder."""
    try:
        Reference.parse(model)
    except Invalid:
        return True
    return Path(folder, model, "bundle.json").exists()
