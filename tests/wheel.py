"""The wheel, as a stranger meets it: `python tests/wheel.py` (or `make wheel-test`).

Builds the wheel, installs it into an empty environment, and each light extra alone into a copy of
that; with the extra `sklearn` it packs a model, pushes it, serves it, and asks the server for a
prediction. Needs Python and pip alone. The versions of other packages are those of
`requirements.lock`.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PATIENCE_S = 30.0
LIGHT_EXTRAS = ("delta", "gcs", "llvm", "oidc", "otel", "postgresql", "s3", "signing")
"""Those without a framework; the doctor looks for what each requires."""

PACK = """
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import GradientBoostingClassifier
import bascule

X, y = load_breast_cancer(return_X_y=True)
model = GradientBoostingClassifier(n_estimators=10, random_state=0).fit(X[:400], y[:400])
bundle = bascule.pack(model, name="gb", train=X[:400], test=(X[400:], y[400:]), measure=False)
assert "site-packages" in bascule.__file__, bascule.__file__
assert bundle.parity.passed, bundle.parity.reason
"""

ASK = """
import sys, bascule
from sklearn.datasets import load_breast_cancer

X, _ = load_breast_cancer(return_X_y=True)
expected = bascule.load("gb.bundle").predict(X)["label"]
with bascule.Client(sys.argv[1], model="gb") as client:
    assert (client.predict(X)["label"] == expected).all()
"""


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="wheel-") as folder:
        place = Path(folder)
        wheel = built(place)
        environment = place / "environment"
        say("installing it into an empty environment")
        run(sys.executable, "-m", "venv", environment)
        install(environment, str(wheel))
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(partial(check_alone, wheel, environment), LIGHT_EXTRAS))
        install(environment, f"{wheel}[sklearn]")
        used(environment / "bin", place)
    say(f"{wheel.name}: installed, packed, served, asked")


def built(place: Path) -> Path:
    say("building the wheel")
    run(sys.executable, "-m", "pip", "--quiet", "wheel", "--no-deps", "--wheel-dir", place, ROOT)
    (wheel,) = place.glob("bascule-*.whl")
    return wheel


def install(environment: Path, requirement: str) -> None:
    run(
        environment / "bin" / "python", "-m", "pip", "--quiet", "--disable-pip-version-check",
        "install", "--no-compile", "--constraint", ROOT / "requirements.lock", requirement,
    )  # fmt: skip


def check_alone(wheel: Path, environment: Path, extra: str) -> None:
    """Install one extra into a copy of the environment; `bascule doctor` must find all of it."""
    say(f"the extra {extra} alone")
    copy = environment.with_name(f"with-{extra}")
    shutil.copytree(environment, copy, symlinks=True, copy_function=os.link)
    install(copy, f"{wheel}[{extra}]")
    doctor = subprocess.run(
        [copy / "bin" / "python", "-m", "bascule.cli", "doctor", "--json"],
        cwd=copy, env=clean(), stdout=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip
    states = {one["what"]: one["state"] for one in json.loads(doctor.stdout)}
    if states[f"extra {extra}"] != "ok":
        raise SystemExit(f"error: bascule[{extra}] is not whole: {states[f'extra {extra}']}")
    shutil.rmtree(copy)


def used(programs: Path, place: Path) -> None:
    work = place / "work"
    work.mkdir()
    say("packing, checking and pushing a model")
    run(programs / "python", "-c", PACK, cwd=work)
    run(programs / "bascule", "check", "gb.bundle", "-c", "roc_auc >= 0.9", cwd=work)
    run(programs / "bascule", "push", "gb.bundle", cwd=work)
    say("serving it")
    server = subprocess.Popen(
        [programs / "bascule", "serve", "gb", "--port=0", "--control-port=0", "--json"],
        cwd=work, env=clean(), stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        infer = address_of(server)
        say("asking it")
        ask_by_hand(infer, work / "gb.bundle" / "data" / "example.json")
        run(programs / "python", "-c", ASK, infer.partition("/v2/")[0], cwd=work)
        server.send_signal(signal.SIGTERM)
        if server.wait(PATIENCE_S) != 0:
            raise SystemExit(f"error: the server ended with {server.returncode}")
    finally:
        server.kill()
        server.wait()


def address_of(server: subprocess.Popen[str]) -> str:
    """Where to ask; the server writes one JSON document as soon as it answers."""
    assert server.stdout is not None
    too_late = threading.Timer(PATIENCE_S, server.kill)
    too_late.start()
    text = ""
    for line in server.stdout:
        text += line
        if line == "}\n":
            break
    too_late.cancel()
    if not text:
        raise SystemExit(f"error: the server did not start: {server.wait()}")
    return str(json.loads(text)["serving"][0]["infer"])


def ask_by_hand(infer: str, example: Path) -> None:
    request = urllib.request.Request(infer, example.read_bytes())
    with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
        outputs = [output["name"] for output in json.load(answer)["outputs"]]
    if outputs != ["label", "probabilities"]:
        raise SystemExit(f"error: the outputs are {outputs}")


def clean() -> dict[str, str]:
    """The environment without what would let another copy or other settings in."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTHON", "BASCULE", "VIRTUAL_ENV"))
    }


def run(*words: object, cwd: Path | None = None) -> None:
    done = subprocess.run(
        list(map(str, words)), cwd=cwd, env=clean(), capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise SystemExit(
            f"error: {words[0]} {words[1]} ended with {done.returncode}\n{done.stdout}{done.stderr}"
        )


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
