"""The life cycle of shipped models on a real API server: versions, models, releases, prunes.

It needs kube-apiserver and kube-controller-manager of one release, etcd and kubectl; `build.sh`
makes the first two of Debian's source. There is no kubelet: pods become ready when this says so,
unless their version is one that never does.

    python bench/kubernetes/lifecycle.py FOLDER_OF_BINARIES
"""

from __future__ import annotations

import json
import os
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import yaml

TOKEN = "bench"
PORT, ETCD = 16_443, 12_379
OLDER = (("policy/v1/", "policy/v1beta1/"), ("autoscaling/v2/", "autoscaling/v2beta2/"))
"""Groups whose newest version a release before 1.23 does not know; their fields are the same."""


@contextmanager
def running(command: list[object], log: Path) -> Iterator[None]:
    with (
        log.open("w") as file,
        subprocess.Popen([*map(str, command)], stdout=file, stderr=file) as process,
    ):
        try:
            yield
        finally:
            process.terminate()


class Cluster:
    """An API server with its controllers, and pods that become ready a second after they begin."""

    def __init__(self, binaries: Path, folder: Path) -> None:
        self.binaries, self.folder = binaries, folder
        self.broken: set[str] = set()
        self.seen: list[tuple[float, tuple[str, ...]]] = []
        self._ended = threading.Event()
        self._context = ssl._create_unverified_context()

    @contextmanager
    def up(self) -> Iterator[None]:
        folder = self.folder
        for words in (
            ["genrsa", "-out", "sa.key", "2048"],
            ["rsa", "-in", "sa.key", "-pubout", "-out", "sa.pub"],
        ):
            subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)
        (folder / "tokens.csv").write_text(f'{TOKEN},admin,admin,"system:masters"\n')
        url = f"https://127.0.0.1:{PORT}"
        (folder / "kubeconfig").write_text(
            yaml.safe_dump(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "current-context": "c",
                    "clusters": [
                        {"name": "c", "cluster": {"server": url, "insecure-skip-tls-verify": True}}
                    ],
                    "users": [{"name": "u", "user": {"token": TOKEN}}],
                    "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
                }
            )
        )
        etcd, peers = f"http://127.0.0.1:{ETCD}", f"http://127.0.0.1:{ETCD + 1}"
        with ExitStack() as stack:
            stack.enter_context(
                running(
                    [
                        "etcd",
                        "--data-dir",
                        folder / "etcd",
                        "--listen-client-urls",
                        etcd,
                        "--advertise-client-urls",
                        etcd,
                        "--listen-peer-urls",
                        peers,
                        "--initial-advertise-peer-urls",
                        peers,
                        "--initial-cluster",
                        f"default={peers}",
                    ],
                    folder / "etcd.log",
                )
            )
            stack.enter_context(
                running(
                    [
                        self.binaries / "kube-apiserver",
                        f"--etcd-servers={etcd}",
                        f"--cert-dir={folder}",
                        f"--secure-port={PORT}",
                        "--bind-address=127.0.0.1",
                        f"--token-auth-file={folder}/tokens.csv",
                        f"--service-account-key-file={folder}/sa.pub",
                        f"--service-account-signing-key-file={folder}/sa.key",
                        "--service-account-issuer=https://bench",
                        "--service-cluster-ip-range=10.9.0.0/16",
                        "--authorization-mode=RBAC",
                        "--disable-admission-plugins=ServiceAccount",
                    ],
                    folder / "api.log",
                )
            )
            self.until(self._is_ready, 120)
            stack.enter_context(
                running(
                    [
                        self.binaries / "kube-controller-manager",
                        f"--kubeconfig={folder}/kubeconfig",
                        "--leader-elect=false",
                        f"--service-account-private-key-file={folder}/sa.key",
                        "--controllers=*,-nodeipam,-nodelifecycle,-attachdetach,-service,-route",
                    ],
                    folder / "controllers.log",
                )
            )
            kubelet = threading.Thread(target=self._run_pods)
            kubelet.start()
            try:
                yield
            finally:
                self._ended.set()
                kubelet.join()

    def ask(self, method: str, path: str, body: object = None) -> Any:
        request = urllib.request.Request(
            f"https://127.0.0.1:{PORT}{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={
                "Authorization": f"Bearer {TOKEN}",
                "Content-Type": "application/merge-patch+json"
                if method == "PATCH"
                else "application/json",
            },
        )
        with urllib.request.urlopen(request, context=self._context, timeout=20) as answer:
            return json.load(answer)

    def items(self, path: str) -> Any:
        return self.ask("GET", path)["items"]

    def _is_ready(self) -> bool:
        try:
            return bool(self.ask("GET", "/api/v1/namespaces/kube-system"))
        except (urllib.error.URLError, ConnectionError):
            return False

    def until(self, is_so: Callable[[], bool], within_s: float) -> None:
        end = time.monotonic() + within_s
        while not is_so():
            assert time.monotonic() < end, "not in time"
            time.sleep(0.2)

    def _run_pods(self) -> None:
        """What a kubelet does for the cluster: pods run, and are ready after a second."""
        began: dict[str, float] = {}
        while not self._ended.wait(0.2):
            for pod in self.items("/api/v1/namespaces/bascule/pods"):
                name, labels = pod["metadata"]["name"], pod["metadata"]["labels"]
                if name not in began:
                    began[name] = time.monotonic()
                    target = {"kind": "Node", "name": "bench"}
                    self._pod(
                        "POST",
                        f"{name}/binding",
                        {
                            "apiVersion": "v1",
                            "kind": "Binding",
                            "metadata": {"name": name},
                            "target": target,
                        },
                    )
                if "deletionTimestamp" in pod["metadata"]:
                    self._pod("DELETE", name, {"gracePeriodSeconds": 0})
                    continue
                is_ready = (
                    time.monotonic() > began[name] + 1
                    and labels.get("bascule.dev/version") not in self.broken
                )
                if is_ready and pod["status"]["phase"] == "Pending":
                    self._begin(name, len(began), is_job="job-name" in labels)
            self.seen.append((time.monotonic(), self.answering("gb")))

    def _begin(self, name: str, number: int, *, is_job: bool) -> None:
        conditions = [
            {"type": kind, "status": "True"}
            for kind in ("Ready", "ContainersReady", "Initialized", "PodScheduled")
        ]
        status = (
            {"phase": "Succeeded"}
            if is_job
            else {
                "phase": "Running",
                "podIP": f"10.1.{number // 250}.{number % 250 + 1}",
                "podIPs": [{"ip": f"10.1.{number // 250}.{number % 250 + 1}"}],
                "conditions": conditions,
            }
        )
        self._pod("PATCH", f"{name}/status", {"status": status})

    def _pod(self, method: str, path: str, body: object) -> None:
        try:
            self.ask(method, f"/api/v1/namespaces/bascule/pods/{path}", body)
        except urllib.error.HTTPError as error:
            if error.code != 404:  # it is gone
                raise

    def answering(self, service: str) -> tuple[str, ...]:
        """The images behind a Service now, sorted: what its callers are answered by."""
        try:
            found = self.ask("GET", f"/api/v1/namespaces/bascule/endpoints/{service}")
        except urllib.error.HTTPError:
            return ()
        pods = {
            one["metadata"]["name"]: one for one in self.items("/api/v1/namespaces/bascule/pods")
        }
        names = [
            a["targetRef"]["name"]
            for subset in found.get("subsets") or ()
            for a in subset.get("addresses") or ()
        ]
        chosen = [pods[name] for name in names if name in pods]
        versions = [one["metadata"]["labels"]["bascule.dev/version"] for one in chosen]
        images = [one["spec"]["containers"][0]["image"][-8:] for one in chosen]
        return tuple(sorted(map(" ".join, zip(versions, images, strict=True))))

    def names(self, kind: str) -> list[str]:
        group = {"deployments": "/apis/apps/v1", "jobs": "/apis/batch/v1"}.get(kind, "/api/v1")
        return sorted(
            one["metadata"]["name"] for one in self.items(f"{group}/namespaces/bascule/{kind}")
        )

    def check_selectors(self) -> int:
        """Pods, each of which one Deployment alone selects; the number of pods."""
        deployments = self.items("/apis/apps/v1/namespaces/bascule/deployments")
        pods = [
            one
            for one in self.items("/api/v1/namespaces/bascule/pods")
            if "job-name" not in one["metadata"]["labels"]
        ]
        for pod in pods:
            chosen = [
                d
                for d in deployments
                if d["spec"]["selector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
            ]
            assert len(chosen) == 1, (
                pod["metadata"]["name"],
                [d["metadata"]["name"] for d in chosen],
            )
        return len(pods)


def write_kubectl(folder: Path) -> None:
    """A kubectl that writes the versions of an older API server where this one knows newer."""
    rewrite = " ".join(f"-e 's#{new.rstrip('/')}$#{old.rstrip('/')}#'" for new, old in OLDER)
    words = " ".join(f"-e 's#{new}#{old}#'" for new, old in OLDER)
    script = folder / "kubectl"
    script.write_text(
        "#!/bin/bash\n"
        f'find . -name "*.yaml" -exec sed -i {rewrite} {{}} +\n'
        f'args=(); for one in "$@"; do args+=("$(printf %s "$one" | sed {words})"); done\n'
        f'exec /usr/bin/kubectl --kubeconfig {folder}/kubeconfig "${{args[@]}}"\n'
    )
    script.chmod(0o755)


def main() -> None:
    from sklearn.datasets import load_iris
    from sklearn.linear_model import LogisticRegression

    import bascule

    folder = Path(tempfile.mkdtemp(prefix="bascule-kubernetes."))
    os.environ.update(BASCULE_HOME=str(folder / "home"), PATH=f"{folder}:{os.environ['PATH']}")
    os.chdir(folder)
    X, y = load_iris(return_X_y=True)
    for name, strength in (("gb", 1.0), ("gb", 0.5), ("gb", 0.1), ("iris", 1.0)):
        model = LogisticRegression(C=strength, max_iter=500).fit(X, y)
        bascule.push(
            bascule.pack(model, name=name, train=X, test=(X, y), overwrite=True, measure=False)
        )

    def ship(what: str, *words: str, code: int = 0) -> str:
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "bascule.cli",
                "ship",
                "kubernetes",
                what,
                "--out",
                what.partition("/")[0],
                "--apply",
                "--overlay",
                "plain",
                *words,
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == code, (
            what,
            words,
            done.returncode,
            done.stdout[-2_000:],
            done.stderr[-2_000:],
        )
        return done.stdout

    cluster = Cluster(Path(sys.argv[1]).resolve(), folder)
    with cluster.up():
        write_kubectl(folder)
        for path, name in (("namespaces", "bascule"), ("nodes", "bench")):
            cluster.ask("POST", f"/api/v1/{path}", {"metadata": {"name": name}})

        def since(began: float) -> list[tuple[str, ...]]:
            return [images for at, images in cluster.seen if at >= began]

        def settled(version: str) -> None:
            cluster.until(
                lambda: {one.split()[0] for one in cluster.answering("gb")} == {version}, 60
            )

        ship("gb/1", "--prune")
        settled("gb-v1")
        print("first version:", cluster.answering("gb"), cluster.names("deployments"))
        assert ship("gb/1", "--diff") == "", "the cluster has what is rendered"

        began = time.monotonic()
        ship("gb/2", "--diff", code=1)
        ship("gb/2", "--prune")
        settled("gb-v2")
        fewest = min(len(images) for images in since(began))
        print("second version:", cluster.answering("gb"), "fewest that answered meanwhile:", fewest)
        assert fewest >= 1
        assert "gb--v1" not in cluster.names("services")

        ship("iris/1", "--prune")
        print("second model:", cluster.names("deployments"), "pods:", cluster.check_selectors())

        began = time.monotonic()
        pushed = "r.example.com/ml/gb@sha256:" + "ab" * 32
        subprocess.run(
            [sys.executable, "-m", "bascule.cli", "tag", "gb/2", f"image={pushed}"],
            check=True,
            capture_output=True,
        )
        ship("gb/2", "--prune")
        cluster.until(lambda: all(one.endswith("abababab") for one in cluster.answering("gb")), 60)
        print(
            "second release:",
            cluster.answering("gb"),
            "fewest:",
            min(map(len, since(began))),
            "jobs:",
            cluster.names("jobs"),
        )
        assert min(map(len, since(began))) >= 1

        ship("gb/2", "--with", "gb/3", "--prune")
        print(
            "with a candidate:",
            cluster.names("deployments"),
            cluster.answering("gb--v3"),
            cluster.answering("gb"),
        )
        assert cluster.answering("gb--v3")
        cluster.check_selectors()
        ship("gb/2", "--prune")
        assert "gb--candidate" not in cluster.names("deployments")

        cluster.broken.add("gb-v3")
        began = time.monotonic()
        with subprocess.Popen(
            [
                sys.executable,
                "-m",
                "bascule.cli",
                "ship",
                "kubernetes",
                "gb/3",
                "--out",
                "gb",
                "--apply",
                "--overlay",
                "plain",
                "--prune",
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as waiting:
            time.sleep(15)
            assert waiting.poll() is None, "it waits for pods that are never ready"
            waiting.terminate()
        print("a version that is never ready:", cluster.answering("gb"))
        assert all({"gb-v2"} == {one.split()[0] for one in images} for images in since(began))
        ship("gb/2", "--prune")
        print("back:", cluster.answering("gb"), cluster.names("services"))
        print("pods of one Deployment each:", cluster.check_selectors())


if __name__ == "__main__":
    main()
