"""A team's installation with Compose, started for real but for Grafana: images are made here."""

from __future__ import annotations

import json
import os
import secrets
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests import images
from tests.images import ask, until
from tests.shipped import REPOSITORY
from tests.stores import free_ports, weed_program

pytestmark = [pytest.mark.slow, pytest.mark.serial]

POSTGRES = r"""
RUN ln -s /usr/lib/postgresql/*/bin/initdb /usr/lib/postgresql/*/bin/postgres /usr/local/bin/ \
  && install -d -o postgres -g postgres -m 700 /var/lib/postgresql/data
ENV PGDATA=/var/lib/postgresql/data
USER postgres
ENTRYPOINT ["sh", "-c", "set -e; if [ ! -e $PGDATA/PG_VERSION ]; then \
  echo $POSTGRES_PASSWORD > /tmp/password; \
  initdb --username=$POSTGRES_USER --pwfile=/tmp/password --auth=scram-sha-256 \
    --encoding=UTF8 --locale=C.UTF-8; \
  echo host all all all scram-sha-256 >> $PGDATA/pg_hba.conf; \
  echo CREATE DATABASE $POSTGRES_DB | postgres --single postgres; fi; \
  exec postgres -h '*' -k /tmp"]
"""
PROMETHEUS = r"""
USER prometheus
ENTRYPOINT ["prometheus", "--config.file=/etc/prometheus/prometheus.yml", \
  "--storage.tsdb.path=/tmp/data"]
"""
ALERTMANAGER = r"""
USER prometheus
ENTRYPOINT ["prometheus-alertmanager", "--config.file=/etc/alertmanager/alertmanager.yml", \
  "--storage.path=/tmp/data", "--cluster.listen-address="]
"""
SEAWEEDFS = 'COPY weed /usr/bin/weed\nENTRYPOINT ["weed"]'
GET = "import sys, urllib.request as u; print(u.urlopen(sys.argv[1]).read().decode())"
SERVICES = (
    "catalogue", "objects", "bucket", "migrations", "serve", "control", "prometheus",
    "alertmanager",
)  # fmt: skip


class Team:
    """The services of the rendered files."""

    def __init__(self, folder: Path, variables: dict[str, str]):
        self.folder = folder
        self.environment = {**images.environment(), **variables}

    def compose(self, *words, **options):
        return images.run(
            images.tool("timeout"), "180", images.tool("podman-compose"), "--in-pod=false", *words,
            cwd=self.folder, env=self.environment, **options,
        )  # fmt: skip

    def inside(self, url):
        """What an address of the network of the services answers."""
        return self.compose("exec", "-T", "control", "python3", "-c", GET, url)

    def logs(self):
        return self.compose("logs", check=False)


def images_of_others():
    """Debian's programs in images, by the variables that name them."""
    base = images.debian(
        "team", "postgresql,prometheus,prometheus-alertmanager,ca-certificates",
        suite=images.SUITES[images.PYTHON],
    )  # fmt: skip
    return {
        "POSTGRES_IMAGE": images.derived("postgres", base, POSTGRES),
        "PROMETHEUS_IMAGE": images.derived("prometheus", base, PROMETHEUS),
        "ALERTMANAGER_IMAGE": images.derived("alertmanager", base, ALERTMANAGER),
        "SEAWEEDFS_IMAGE": images.derived("weed", base, SEAWEEDFS, weed=Path(weed_program())),
    }


@contextmanager
def health_checks():
    """Runs the health check of the catalogue, as systemd does for podman where it runs."""
    ended = threading.Event()

    def check():
        while not ended.wait(2):
            images.podman("healthcheck", "run", "bascule_catalogue_1", check=False)

    checks = threading.Thread(target=check)
    checks.start()
    try:
        yield
    finally:
        ended.set()
        checks.join()


@pytest.fixture(scope="module")
def team(shipped, tmp_path_factory):
    folder = tmp_path_factory.mktemp("team")
    shipped.cli(
        "ship", "compose", "late@champion", "--out", folder, "--image", REPOSITORY,
        "--base", images.python_base(),
    )  # fmt: skip
    predictions, grpc, control = free_ports(3)
    variables = {
        "CATALOGUE_PASSWORD": secrets.token_hex(8),
        "OBJECTS_PASSWORD": secrets.token_hex(8),
        "GRAFANA_PASSWORD": secrets.token_hex(8),
        "PREDICTIONS_PORT": str(predictions),
        "GRPC_PORT": str(grpc),
        "CONTROL_PORT": str(control),
        **images_of_others(),
    }
    made = Team(folder, variables)
    try:
        with health_checks():
            made.compose("up", "--detach", *SERVICES)
        until(lambda: ask(f"http://127.0.0.1:{predictions}/v2/health/ready")[0] == 200, made.logs)
        yield made
    finally:
        made.compose("down", "--volumes", "--timeout", "5", check=False)


def test_a_team_makes_keys_predicts_pushes_and_is_scraped(team, shipped, cancer_bundle):
    port, control = (team.environment[name] for name in ("PREDICTIONS_PORT", "CONTROL_PORT"))
    said = until(
        lambda: team.compose(
            "run", "--rm", "-T", "control", "keys", "create", "team", "--allow=infer:*",
            "--allow=metrics", "--allow=read:*", "--allow=write:*", check=False,
        ).split(),
        team.logs,
    )  # fmt: skip
    key = said[-1]
    (team.folder / "secrets" / "scrape_key").write_text(key)
    headers = {"Authorization": f"Bearer {key}"}

    url = f"http://127.0.0.1:{port}/v2/models/late/infer"
    assert ask(url, shipped.request(2))[0] == 401
    _, said = until(
        lambda: (found := ask(url, shipped.request(2), headers))[0] == 200 and found, team.logs
    )
    assert (said["model_name"], said["model_version"]) == ("late", "2")

    server = {"BASCULE_SERVER": f"http://127.0.0.1:{control}", "BASCULE_KEY": key}
    pushed = images.run(
        sys.executable, "-m", "bascule.cli", "push", cancer_bundle, "--json",
        env={**os.environ, **server},
    )  # fmt: skip
    assert json.loads(pushed)["number"] == 1
    stored = team.inside("http://objects:8888/buckets/bascule/objects/?limit=10")
    assert stored, "the bundle is in the bucket"

    def is_scraped():
        said = team.inside("http://prometheus:9090/api/v1/query?query=up")
        return [one["value"][1] for one in json.loads(said)["data"]["result"]] == ["1"]

    until(is_scraped, team.logs)
    rules = json.loads(team.inside("http://prometheus:9090/api/v1/rules"))
    assert rules["data"]["groups"][0]["name"] == "bascule"
    assert team.inside("http://alertmanager:9093/-/ready")
