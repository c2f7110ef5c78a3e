"""ONNX Runtime Web: a folder of static files that predicts in a browser.

After the first visit a service worker answers for all files, so the page works offline. The files
of the runtime (14 MB) are copied from `node_modules`, in the folder that `tools` names or else
here. A server in front of it has to allow `'wasm-unsafe-eval'`, as the page's own policy does.
The export is compared in Node.js, which runs the same files.
"""

from __future__ import annotations

import shutil
from importlib.resources import files
from pathlib import Path
from typing import Any

from bascule.bundle import Bundle
from bascule.bundle.disk import EXAMPLE, ProgramEntry
from bascule.core import MissingExtra
from bascule.runtimes.tools import Ask, asked_by, bytes_of

_RUNTIME = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
_PAGE = ("index.html", "page.css", "page.mjs", "offline.js")


def to_web(
    bundle: Bundle, entry: ProgramEntry, folder: Path, tools: Path | None
) -> tuple[Ask, dict[str, Any]]:
    """Write the graph, the page and the runtime."""
    package = (tools or Path()).absolute() / "node_modules/onnxruntime-web/dist"
    if not package.is_dir():
        hint = "npm install onnxruntime-web; --tools names the folder where that ran"
        raise MissingExtra(f"{package} is not there", hint=hint)
    for name in _RUNTIME:
        shutil.copyfile(package / name, folder / name)
    page = files("bascule.runtimes") / "web_page"
    for name in _PAGE:
        (folder / name).write_bytes((page / name).read_bytes())
    (folder / "model.onnx").write_bytes(bytes_of(bundle, entry.file))
    (folder / "example.json").write_bytes(bytes_of(bundle, EXAMPLE))
    command = ["node", str(page / "check.mjs"), str(folder.absolute())]
    return asked_by(command, bundle, entry, "install Node.js: the page is compared in it"), {}
