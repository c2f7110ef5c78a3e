"""ONNX Runtime Web: a folder of static files that predicts in a browser, without a server.

After the first visit a service worker answers for all files, so the page works offline. The files
of the runtime (14 MB) are copied from the npm package `onnxruntime-web`, looked for in `tools` or
else in `node_modules` here. A server in front of it has to allow `'wasm-unsafe-eval'`, as the
page's own policy does. The export is compared in Node.js, which runs the same files.
"""

from __future__ import annotations

import shutil
from importlib.resources import files
from pathlib import Path
from typing import Any

from bascule.bundle import disk
from bascule.core import MissingExtra
from bascule.runtimes.child import open_child
from bascule.runtimes.onnx import export_onnx
from bascule.runtimes.program import ExportedProgram, Interface, Runtime, Source

_RUNTIME = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
_PAGE = ("index.html", "page.css", "page.mjs", "offline.js")
_PLACES = ("", "dist", "onnxruntime-web/dist", "node_modules/onnxruntime-web/dist")


def export(source: Source, folder: Path) -> tuple[disk.ProgramEntry, dict[str, Any]]:
    """Write the graph, the page and the runtime."""
    tools = source.tools or Path()
    places = [tools / place for place in _PLACES if (tools / place / _RUNTIME[0]).is_file()]
    if not places:
        raise MissingExtra(
            f"onnxruntime-web is not in {tools.absolute()}",
            hint="npm install onnxruntime-web, and name the folder with --tools",
        )
    entry, _ = export_onnx(source, folder)
    for name in _RUNTIME:
        shutil.copyfile(places[0] / name, folder / name)
    page = files("bascule.runtimes") / "web_page"
    for name in _PAGE:
        (folder / name).write_bytes((page / name).read_bytes())
    bundle = source.bundle
    example = disk.read_file(bundle.path, bundle.manifest, disk.EXAMPLE)
    (folder / "example.json").write_bytes(example)
    return entry, {}


def open_in_node(folder: Path, _tools: Path | None) -> ExportedProgram:
    """The files in Node.js."""
    node = shutil.which("node")
    if node is None:
        raise MissingExtra("Node.js is not installed, to compare the page with the program")
    script = str(files("bascule.runtimes") / "web_page" / "check.mjs")
    command = [node, script, str(folder.absolute())]
    return open_child("web", Interface.read(folder), command)


WEB = Runtime(export, open_in_node)
