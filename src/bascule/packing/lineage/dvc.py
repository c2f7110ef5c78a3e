"""DVC: a file or folder that it tracks, held against the hash that it recorded.

`dvc:PATH`, with the path as it is in the working folder. The record is `PATH.dvc`, or an output of
a stage in `dvc.lock`, or either of a folder that holds the path. DVC's files are read here, and the
program itself is not needed.
"""

from __future__ import annotations

import configparser
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bascule.core import Invalid, NotFound, Refused, first_line, without_secrets
from bascule.packing.lineage.provenance import git_state

_CHUNK_BYTES = 1 << 20
_LOOKED_AT_BYTES = 512
_TEXT = bytes(range(32, 127)) + b"\n\r\t\f\b"


@dataclass(frozen=True, slots=True)
class _Record:
    """One output that DVC tracks.

    Attributes:
        file: Where it is written down.
        path: What it speaks of.
        out: What it says.
        stage: Which stage makes it; empty for a `.dvc` file.
        imported: Where it was imported from, as DVC says it.
    """

    file: Path
    path: Path
    out: Mapping[str, Any]
    stage: str = ""
    imported: Mapping[str, Any] | None = None


def trace(what: str) -> dict[str, Any]:
    """What DVC recorded of a path, after the path was found to be that.

    Raises:
        Invalid: DVC does not track it, or its record is of a kind that cannot be verified here.
        NotFound: It is not there.
        Refused: It is not what was recorded.
        MissingExtra: What reads the files of DVC is not installed.
    """
    path = Path(what.removesuffix(".dvc") if what.endswith(".dvc") else what).absolute()
    root = _root(path)
    record = _record(path, root)
    if not path.exists():
        raise NotFound(f"there is nothing at {what}", hint=f"dvc pull {what}")
    recorded = str(record.out["md5"])
    if not _is_recorded(record.path, recorded, legacy="hash" not in record.out):
        raise Refused(
            f"{what} is not what DVC recorded in {record.file.relative_to(root)}: it has another "
            f"hash than {recorded}",
            hint=f"dvc checkout {what}, or record it anew with dvc add or dvc repro",
        )
    facts: dict[str, Any] = {
        "path": path.relative_to(root).as_posix(),
        "md5": recorded if path == record.path else _md5(path),
        "size": path.stat().st_size if path.is_file() else record.out.get("size"),
        "record": record.file.relative_to(root).as_posix(),
        "stage": record.stage,
        "remote": _remote(root, record.out.get("remote")),
        "git": git_state(root, record.file),
    }
    if path != record.path:
        facts["inside"] = {"path": record.path.relative_to(root).as_posix(), "md5": recorded}
    if record.imported is not None:
        facts["imported"] = record.imported
    return facts


def _root(path: Path) -> Path:
    for folder in path.parents:
        if (folder / ".dvc").is_dir():
            return folder
    raise Invalid(
        f"{path} is in no repository of DVC", hint="run dvc init and dvc add there", field="lineage"
    )


def _record(path: Path, root: Path) -> _Record:
    """The record of the path, or else of the nearest folder around it."""
    for place in (path, *path.parents):
        if place == root:
            break
        for record in (*_of_dvc_file(place), *_of_lock_files(place, root)):
            if "md5" not in record.out:
                raise Invalid(
                    f"DVC recorded no md5 of {place} in {record.file}, so it cannot be verified",
                    hint="leave it out",
                    field="lineage",
                )
            return record
    raise Invalid(f"DVC does not track {path}", hint=f"dvc add {path.name}", field="lineage")


def _of_dvc_file(place: Path) -> Iterator[_Record]:
    file = place.with_name(place.name + ".dvc")
    if not file.is_file():
        return
    known = _yaml(file)
    for out in known.get("outs", ()):
        if (file.parent / str(known.get("wdir", ".")) / str(out["path"])).resolve() == (
            place.resolve()
        ):
            yield _Record(file, place, out, imported=_imported(known.get("deps") or ()))


def _of_lock_files(place: Path, root: Path) -> Iterator[_Record]:
    for folder in place.parents:
        file = folder / "dvc.lock"
        if file.is_file():
            pipeline = _yaml(folder / "dvc.yaml").get("stages") or {}
            for name, stage in (_yaml(file).get("stages") or {}).items():
                wdir = (pipeline.get(name) or {}).get("wdir", ".")
                for out in stage.get("outs", ()):
                    if (folder / wdir / str(out["path"])).resolve() == place.resolve():
                        yield _Record(file, place, out, stage=str(name))
        if folder == root:
            return


def _imported(deps: Any) -> dict[str, str] | None:
    """Of `dvc import` and `dvc import-url`: from where, and at which revision."""
    for dep in deps:
        repo = dep.get("repo") or {}
        return {
            "path": without_secrets(str(dep.get("path", ""))),
            "repository": without_secrets(str(repo.get("url", ""))),
            "revision": str(repo.get("rev_lock", "")),
        }
    return None


def _remote(root: Path, named: Any) -> dict[str, str] | None:
    """The remote that holds it: the one that its record names, or the usual one."""
    config = configparser.ConfigParser(interpolation=None, strict=False)
    # DVC indents what is in a section, which here would go on with the line before.
    text = (root / ".dvc" / "config").read_text(encoding="utf-8")
    config.read_string("\n".join(line.strip() for line in text.splitlines()))
    name = str(named or config.get("core", "remote", fallback=""))
    url = config.get(f"'remote \"{name}\"'", "url", fallback="") if name else ""
    return {"name": name, "url": without_secrets(url)} if name else None


def _is_recorded(path: Path, recorded: str, *, legacy: bool) -> bool:
    if recorded.endswith(".dir"):
        return path.is_dir() and _md5_of_folder(path, legacy=legacy) == recorded
    if not path.is_file():
        return False
    # Before version 3, DVC took a text with the ends of its lines as on Unix.
    return recorded in (_md5(path), *([_md5(path, as_unix=True)] if legacy else ()))


def _md5_of_folder(path: Path, *, legacy: bool) -> str:
    """As DVC does it: the hash of a sorted list of the files and their hashes."""
    files = [file for file in path.rglob("*") if file.is_file()]
    listed = [
        {"md5": _md5(file, as_unix=legacy), "relpath": file.relative_to(path).as_posix()}
        for file in files
    ]
    listed.sort(key=lambda one: one["relpath"])
    text = json.dumps(listed, sort_keys=True)
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest() + ".dir"


def _md5(path: Path, *, as_unix: bool = False) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        as_unix = as_unix and _is_text(file.read(_LOOKED_AT_BYTES))
        file.seek(0)
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk.replace(b"\r\n", b"\n") if as_unix else chunk)
    return digest.hexdigest()


def _is_text(start: bytes) -> bool:
    """As DVC guesses it: no zero byte, and at most three in ten that no text has."""
    strange = start.translate(None, _TEXT)
    return b"\0" not in start and len(strange) <= 0.3 * len(start)


def _yaml(file: Path) -> dict[str, Any]:
    import yaml

    try:
        known = yaml.safe_load(file.read_text(encoding="utf-8")) if file.is_file() else {}
    except (OSError, ValueError, yaml.YAMLError) as problem:
        raise Invalid(
            f"{file} cannot be read: {first_line(problem)}",
            hint="mend the file, or leave it out of lineage",
        ) from None
    return known if isinstance(known, dict) else {}
