"""A process that does what a server does with a bundle, and says how much memory that took.

`python -m bascule.release.probe BUNDLE`; prints the peak of its resident memory in bytes.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from bascule.bundle import open_program
from bascule.bundle.disk import generates_text, read_manifest
from bascule.release.rows import batch_of, example_rows

BATCHES = (1, 100)
"""Rows in the requests that it answers."""


def main(path: Path) -> None:
    manifest = read_manifest(path, verify=False)
    program = open_program(path, manifest)
    rows = example_rows(path, manifest, program)
    for batch in BATCHES[:1] if generates_text(manifest.signature) else BATCHES:
        program.run(batch_of(rows, batch))
    child = 0 if program.pid is None else peak_memory_bytes(program.pid)
    print(peak_memory_bytes() + child)  # noqa: T201  # the answer to who started it


def peak_memory_bytes(process: int | str = "self") -> int:
    """Of one process alone; `getrusage` would count what its parent had when it forked."""
    status = Path(f"/proc/{process}/status").read_text()
    found = re.search(r"^VmHWM:\s*(\d+) kB$", status, re.MULTILINE)
    if found is None:
        raise OSError("the system does not tell the peak of a process's memory")
    return int(found[1]) * 1024


if __name__ == "__main__":
    main(Path(sys.argv[1]))
