"""ONNX Runtime Web: a folder of static files that predicts in a browser.

After the first visit a service worker answers for all files, so the page works offline. The files
of the runtime (14 MB) are copied from the npm package `onnxruntime-web`, looked for in `tools` or
else here. A server in front of it has to allow `'wasm-unsafe-eval'`, as the page's own policy does.
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
from bascule.runtimes.child import asked_by
from bascule.runtimes.program import Ask, Interface, Runtime, bytes_of

_RUNTIME = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
_PLACES = ("", "dist", "node_modules/onnxruntime-web/dist")


def export(bundle: Bundle, entry: ProgramEntry, folder: Path, tools: Path | None) -> dict[str, Any]:
    """Write the graph, the page and the runtime."""
    tools = tools or Path()
    places = [tools / place for place in _PLACES if (tools / place / _RUNTIME[0]).is_file()]
    if not places:
        raise MissingExtra(
            f"onnxruntime-web is not in {tools.absolute()}",
            hint="npm install onnxruntime-web, and name the folder with --tools",
        )
    for name in _RUNTIME:
        shutil.copyfile(places[0] / name, folder / name)
    for name in ("index.html", "page.css", "page.mjs", "offline.js"):
        (folder / name).write_bytes(_page(name).read_bytes())
    (folder / "model.onnx").write_bytes(bytes_of(bundle, entry.file))
    (folder / "example.json").write_bytes(bytes_of(bundle, EXAMPLE))
    return {}


def open_in_node(folder: Path, interface: Interface, _tools: Path | None) -> Ask:
    """The files in Node.js."""
    node = shutil.which("node")
    if node is None:
        raise MissingExtra("Node.js is not installed", hint="the page is compared in it")
    return asked_by([node, str(_page("check.mjs")), str(folder.absolute())], interface)


def _page(name: str) -> Any:
    return files("bascule.runtimes") / "web_page" / name


WEB = Runtime(export, open_in_node)
