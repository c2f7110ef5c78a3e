"""Places of files: a path, a glob, or the URL of a bucket, as a file system and paths in it."""

from __future__ import annotations

import fnmatch
import glob
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bascule.core import Invalid, NotFound, Unavailable, first_line, masked

if TYPE_CHECKING:
    import pyarrow.fs as pafs

SUFFIXES = {
    ".parquet": "parquet", ".pq": "parquet", ".csv": "csv", ".jsonl": "json", ".ndjson": "json",
    ".arrow": "ipc", ".feather": "ipc",
}  # fmt: skip
"""The name that pyarrow.dataset has for the files of each suffix."""
_MAGIC = "*?["
AWAY_HINT = "check that it is up, and that this machine may reach it; the same command goes on"
FULL_HINT = "make room there, or choose another place"


def is_url(text: str) -> bool:
    return "://" in text


def open_place(text: str) -> tuple[pafs.FileSystem, str]:
    """The file system of a path or URL, and the path in it.

    Raises:
        Invalid: The URL is of no known kind.
    """
    import pyarrow as pa
    import pyarrow.fs as pafs

    if not is_url(text):
        return pafs.LocalFileSystem(), str(Path(text).expanduser().absolute())
    try:
        filesystem, path = pafs.FileSystem.from_uri(_with_endpoint(text))
    except (pa.ArrowInvalid, ValueError) as problem:
        raise Invalid(
            f"{masked(text)} is no place of files: {first_line(problem)}",
            hint="use a path, s3://BUCKET/PREFIX, gs://BUCKET/PREFIX or abfs://CONTAINER/PREFIX",
        ) from None
    except OSError as problem:
        raise away(masked(text), problem) from None
    return filesystem, path


def away(place: str, problem: Exception) -> Unavailable:
    """The error for a store that does not answer, or not as it should."""
    return Unavailable(f"{place} cannot be reached: {said_in_a_line(problem)}", hint=AWAY_HINT)


def said_in_a_line(problem: Exception) -> str:
    """What a library says, which may put the cause in lines of their own."""
    return first_line(" ".join(str(problem).split()))


def _with_endpoint(url: str) -> str:
    """The URL with the endpoint and region of AWS's usual variables, for stores of others."""
    from urllib.parse import urlencode

    if not url.startswith("s3://") or "?" in url:
        return url
    options: dict[str, str] = {}
    if endpoint := os.environ.get("AWS_ENDPOINT_URL"):
        scheme, _, host = endpoint.rpartition("://")
        options = {"endpoint_override": host, "scheme": scheme or "https"}
    if region := os.environ.get("AWS_REGION"):
        options["region"] = region
    return f"{url}?{urlencode(options)}" if options else url


def find_files(filesystem: pafs.FileSystem, path: str, place: str) -> list[str]:
    """The table files of a file, a folder or a glob, in the order of their names.

    Raises:
        NotFound: There is none.
    """
    import pyarrow.fs as pafs

    if isinstance(filesystem, pafs.LocalFileSystem) and any(one in path for one in _MAGIC):
        found = [one for one in glob.glob(path, recursive=True) if Path(one).is_file()]
    elif any(one in path for one in _MAGIC):
        base = path[: min(path.index(one) for one in _MAGIC if one in path)].rpartition("/")[0]
        found = [one for one in _listed(filesystem, base) if fnmatch.fnmatch(one, path)]
    elif filesystem.get_file_info(path).type == pafs.FileType.File:
        found = [path]
    else:
        found = [one for one in _listed(filesystem, path.rstrip("/")) if _is_data(one, path)]
    if not found:
        raise NotFound(f"no table files at {place}", hint="check the path; a glob is quoted")
    return sorted(found)


def check_no_delta(filesystem: pafs.FileSystem, path: str, text: str) -> None:
    """Raise `Invalid` where a folder is a Delta table: its files also hold deleted rows."""
    import pyarrow.fs as pafs

    if any(one in path for one in _MAGIC):
        return
    log = filesystem.get_file_info(f"{path.rstrip('/')}/_delta_log")
    if log.type == pafs.FileType.Directory:
        url = f"delta+{text}" if is_url(text) else f"delta://{text}"
        raise Invalid(f"{masked(text)} is a Delta table", hint=f"write {masked(url)}")


def _listed(filesystem: pafs.FileSystem, base: str) -> list[str]:
    import pyarrow.fs as pafs

    selector = pafs.FileSelector(base, recursive=True, allow_not_found=True)
    infos: list[Any] = filesystem.get_file_info(selector)
    return [one.path for one in infos if one.type == pafs.FileType.File]


def _is_data(file: str, base: str) -> bool:
    """Whether a file below a folder holds rows; names with `_` and `.` are of writers."""
    parts = file[len(base) :].strip("/").split("/")
    return _suffix(file) in SUFFIXES and not any(part.startswith(("_", ".")) for part in parts)


def _suffix(file: str) -> str:
    """In small letters; `Path` takes longer, and there may be tens of thousands."""
    name = file[file.rfind("/") + 1 :]
    return name[at:].lower() if (at := name.rfind(".")) > 0 else ""


def format_of(files: list[str], place: str) -> str:
    """The one format of files, by their suffixes.

    Raises:
        Invalid: They have several, or one that is not known.
    """
    suffixes = {*map(_suffix, files)}
    formats = {SUFFIXES.get(suffix, "") for suffix in suffixes}
    if len(formats) > 1 or "" in formats:
        raise Invalid(
            f"{place} has files of {', '.join(sorted(suffixes)) or 'no suffix'}",
            hint=f"name files of one kind of {', '.join(SUFFIXES)}",
        )
    return formats.pop()


def is_full(problem: object) -> bool:
    """Whether a library says that a disk is full, each in its own words."""
    return any(one in str(problem) for one in ("No space left", "disk is full", "os error 28"))
