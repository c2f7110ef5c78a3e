"""A release, checked and built: `python tests/release.py`; the last step of CONTRIBUTING's list.

Changes nothing but `dist/`: the commands that tag and upload are printed, for a person to run.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DIST = ROOT / "dist"


def problems(version: str, changelog: str, changed_files: str, tags: list[str]) -> list[str]:
    """What stands against a release of this version; empty where nothing does. Pure."""
    heading = re.search(r"^## (\S+) \((.+)\)$", changelog, re.MULTILINE)
    found = []
    if heading is None or heading[1] != version:
        found.append(f"the first section of CHANGELOG.md is not of {version}")
    elif not re.fullmatch(r"\d{4}-\d{2}-\d{2}", heading[2]):
        found.append(f"CHANGELOG.md has {heading[2]!r} where the date of {version} belongs")
    if changed_files:
        found.append(f"files are not committed:\n{changed_files}")
    if f"v{version}" in tags:
        found.append(f"the tag v{version} exists")
    return found


def main() -> int:
    """Check and build; 1 where something stands against it."""
    sys.path.insert(0, str(ROOT / "src"))
    from bascule_client.version import VERSION

    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    found = problems(VERSION, changelog, _git("status", "--porcelain"), _git("tag").split())
    if found:
        sys.stderr.write("\n".join(found) + "\n")
        return 1
    if DIST.exists() and any(DIST.iterdir()):
        sys.stderr.write(f"{DIST} is not empty\n")
        return 1
    places = [str(ROOT), *(str(ROOT / "packages" / name) for name in ("client", "edge"))]
    wheel = [sys.executable, "-m", "pip", "--quiet", "wheel", "--no-deps", "--wheel-dir", str(DIST)]
    for place in places:
        subprocess.run([*wheel, place], check=True)
    for file in sorted(DIST.iterdir()):
        sys.stdout.write(f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n")
    sys.stdout.write(f"git tag --sign v{VERSION} && git push origin v{VERSION}\n")
    sys.stdout.write("twine upload dist/*\n")
    return 0


def _git(*words: str) -> str:
    done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.rstrip()


if __name__ == "__main__":
    sys.exit(main())
