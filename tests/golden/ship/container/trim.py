"""Makes the root of an image: Python, installed packages, and the libraries that they load.

It runs in the build stage: `python3 trim.py SITE ROOT UID`. The same input gives the same bytes.
"""

import compileall
import filecmp
import os
import py_compile
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

SITE, ROOT, UID = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
HOME = SITE.parent / "homes" / "bascule"
STDLIB = Path(sysconfig.get_path("stdlib"))

# Of the standard library: what builds, installs, tests or draws.
NOT_OF_PYTHON = (
    "config-*", "dist-packages", "ensurepip", "idlelib", "lib2to3", "pydoc_data", "site-packages",
    "sitecustomize.py", "test", "tkinter", "turtle*", "unittest/test", "lib-dynload/_test*",
    "lib-dynload/_tkinter*", "lib-dynload/xx*", "**/__pycache__",
)  # fmt: skip
# Of packages: tests, headers, sources, type stubs, and parts that no server of models loads. Some
# packages read their `__init__.pyi`.
NOT_OF_PACKAGES = (
    "bin", "**/__pycache__", "**/tests", "**/test", "**/[!_]*.pyi", "**/*.pxd", "**/*.pyx",
    "**/*.pxi", "**/*.h", "**/*.hpp", "**/*.a", "**/*.c", "**/*.cc", "**/*.cpp",
    "**/direct_url.json", "**/RECORD",
    "numpy/f2py", "numpy/_core/include", "numpy/_core/_*tests*.so",
    "onnxruntime/quantization", "onnxruntime/tools", "onnxruntime/transformers",
    "onnxruntime/datasets", "pyarrow/include", "pyarrow/src", "pyarrow/*flight*",
    "pygments/lexers/[!_]*.py", "sqlalchemy/testing",
)  # fmt: skip
LOADED = (
    "bascule.processes.server", "bascule.control.process", "duckdb", "numpy", "onnxruntime",
    "pyarrow.compute", "pyarrow.dataset", "pyarrow.fs", "pyarrow.parquet", "simdjson", "uvloop",
)  # fmt: skip
LIBRARIES = ("/lib", "/usr/lib", "/usr/local/lib")


def main() -> None:
    remove(SITE, NOT_OF_PACKAGES)
    place(SITE)
    place(STDLIB)
    remove(inside(STDLIB), NOT_OF_PYTHON)
    place_python()
    for path in (inside(SITE), inside(STDLIB)):
        one_copy_of_equal_libraries(path)
    strip(inside(SITE))
    for library in libraries():
        place_library(library)
    for path in ("/etc/ssl/certs/ca-certificates.crt", "/usr/share/zoneinfo", "/etc/mime.types"):
        if Path(path).exists():
            place(Path(path))
    place_accounts()
    place_packages_of_debian()
    for path in (inside(SITE), inside(STDLIB)):
        compileall.compile_dir(
            path, stripdir=str(ROOT), quiet=2, workers=1,
            invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
        )  # fmt: skip
    check_that_it_loads()


def inside(path: Path) -> Path:
    return ROOT / path.relative_to("/")


def place(path: Path) -> None:
    if path.is_dir():
        shutil.copytree(path, inside(path), symlinks=False, ignore_dangling_symlinks=True,
                        dirs_exist_ok=True)  # fmt: skip
        return
    inside(path).parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(path, inside(path))


def remove(folder: Path, patterns: tuple[str, ...]) -> None:
    for pattern in patterns:
        for path in sorted(folder.glob(pattern), reverse=True):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def place_python() -> None:
    """The interpreter, and `python3` beside it; `/lib` and `/bin` are links where they are here."""
    for name in ("lib", "lib64", "bin"):
        if Path("/", name).is_symlink():
            (ROOT / name).symlink_to(os.readlink(Path("/", name)))
            (ROOT / os.readlink(Path("/", name))).mkdir(parents=True, exist_ok=True)
    real = Path(sys.executable).resolve()
    place(real)
    link = inside(real).with_name("python3")
    if link.name != real.name:
        link.symlink_to(real.name)
    place(Path("/usr/bin/nice"))  # the server's own processes of low priority start with it


def one_copy_of_equal_libraries(folder: Path) -> None:
    """A wheel has no links, so it has a library once for each of its names."""
    for first in sorted(folder.rglob("*.so*")):
        for other in sorted(first.parent.glob(first.name + ".*")):
            if not first.is_symlink() and filecmp.cmp(first, other, shallow=False):
                first.unlink()
                first.symlink_to(other.name)


def strip(site: Path) -> None:
    """Remove symbols, but of packages with a folder `NAME.libs`: these do not load afterwards."""
    repaired = {path.stem for path in site.glob("*.libs")}
    for path in sorted(site.rglob("*.so*")) if shutil.which("strip") else ():
        package = path.relative_to(site).parts[0]
        if package.removesuffix(".libs") not in repaired and not path.is_symlink():
            subprocess.run(["strip", "--strip-unneeded", path], check=True)


def libraries() -> list[Path]:
    """Shared libraries of the system that the interpreter, its modules and the packages load."""
    loading = [inside(Path(sys.executable).resolve()), ROOT / "usr/bin/nice"]
    loading += [one for one in sorted(ROOT.rglob("*.so*")) if not one.is_symlink()]
    told = subprocess.run(["ldd", *loading], capture_output=True, text=True, check=False).stdout
    found = {word for line in told.splitlines() for word in line.split() if word[:1] == "/"}
    return [Path(one) for one in sorted(found) if one.startswith(LIBRARIES) and Path(one).is_file()]


def place_library(path: Path) -> None:
    """A library under the name that it is loaded by; the loader looks in the same folders."""
    real = Path(os.path.realpath(path.parent)) / path.name
    target = inside(real)
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(path, target)


def check_that_it_loads() -> None:
    """Fail the build, and not the first request, if something of use was removed."""
    subprocess.run(
        [sys.executable, "-B", "-c", f"import {', '.join(LOADED)}"], check=True,
        env={**os.environ, "PYTHONPATH": str(inside(SITE)), "PYTHONDONTWRITEBYTECODE": "1"},
    )  # fmt: skip


def place_accounts() -> None:
    lines = {
        "passwd": f"root:x:0:0::/:\nbascule:x:{UID}:{UID}::/var/lib/bascule:\n",
        "group": f"root:x:0:\nbascule:x:{UID}:\n",
        "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
    }
    (ROOT / "etc").mkdir(exist_ok=True)
    for name, text in lines.items():
        (ROOT / "etc" / name).write_text(text)
    (ROOT / "tmp").mkdir()
    (ROOT / "tmp").chmod(0o1777)
    HOME.mkdir(parents=True)
    HOME.chmod(0o770)  # OpenShift runs images as another user, of group 0
    if shutil.which("ldconfig") and Path("/etc/ld.so.conf").exists():
        place(Path("/etc/ld.so.conf"))
        if Path("/etc/ld.so.conf.d").is_dir():
            place(Path("/etc/ld.so.conf.d"))
        subprocess.run(["ldconfig", "-r", ROOT], check=True)
        shutil.rmtree(ROOT / "var/cache", ignore_errors=True)


def place_packages_of_debian() -> None:
    """What Debian's packages with a file here are: scanners and writers of SBOMs read this."""
    for name in ("os-release", "debian_version"):
        if Path("/etc", name).exists():
            place(Path("/etc", name))
    here = {f"/{path.relative_to(ROOT)}" for path in ROOT.rglob("*") if not path.is_dir()}
    here |= {path.removeprefix("/usr") for path in here}  # some packages say /lib for /usr/lib
    kept = {
        listed.stem.partition(":")[0]
        for listed in Path("/var/lib/dpkg/info").glob("*.list")
        if not here.isdisjoint(listed.read_text().split("\n"))
    }
    status = Path("/var/lib/dpkg/status")
    for entry in status.read_text().split("\n\n") if kept else ():
        name = entry.partition("\n")[0].removeprefix("Package: ")
        if name in kept:
            target = inside(status.with_name("status.d")) / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(f"{entry}\n")


if __name__ == "__main__":
    main()
