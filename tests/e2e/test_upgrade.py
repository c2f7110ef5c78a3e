"""Two releases over one PostgreSQL: an upgrade, and the way back, while requests are answered."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from shutil import copytree, ignore_patterns

import numpy as np
import pytest
import sqlalchemy as sa
from tests.stores import open_database
from tests.waiting import until

import bascule
from bascule.catalogue import HEAD

SOURCE = Path(__file__).parents[2] / "src"
NEXT_HEAD = f"{int(HEAD) + 1:04}"
MIGRATION = f"""
import sqlalchemy as sa
from alembic import op

revision, down_revision, branch_labels, depends_on = "{NEXT_HEAD}", "{HEAD}", None, None


def upgrade():
    op.create_table("colours", sa.Column("name", sa.Text(), primary_key=True))
    op.add_column("events", sa.Column("colour", sa.Text(), server_default="blue"))
"""


class Release:
    """A copy of the sources of a release, and what its commands run with."""

    def __init__(self, place: Path, home: Path, url: str) -> None:
        copytree(SOURCE, place, ignore=ignore_patterns("__pycache__"))
        self.place = place
        self.env = {
            "PYTHONPATH": str(place), "BASCULE_HOME": str(home), "BASCULE_REGISTRY__STORE": url,
        }  # fmt: skip

    def run(self, *words: str) -> tuple[int, str]:
        """The exit code of a command, and what it prints."""
        done = subprocess.run(
            [sys.executable, "-m", "bascule.cli", *words],
            env={**os.environ, **self.env}, capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        return done.returncode, done.stdout + done.stderr


def next_release(release: Release) -> Release:
    """Make of a copy the release after this, whose schema has more."""
    migrations = release.place / "bascule/catalogue/migrations/versions"
    (migrations / f"{NEXT_HEAD}_colours.py").write_text(MIGRATION)
    for path, before, after in (
        ("bascule/catalogue/schema.py", f'HEAD = "{HEAD}"', f'HEAD = "{NEXT_HEAD}"'),
        ("bascule_client/version.py", f'"{bascule.__version__}"', '"0.9.0"'),
    ):
        text = (release.place / path).read_text()
        assert before in text
        (release.place / path).write_text(text.replace(before, after))
    return release


class Traffic:
    """A caller of the servers that a load balancer would ask now; counts what they answer."""

    def __init__(self) -> None:
        self.servers: list[object] = []
        self.answers: Counter[int] = Counter()
        self.errors: list[Exception] = []
        self._is_done = threading.Event()

    @contextmanager
    def running(self):
        thread = threading.Thread(target=self._ask)
        thread.start()
        try:
            yield self
        finally:
            self._is_done.set()
            thread.join()

    def more(self, server, count=20):
        """Wait until this server has answered so many more."""
        before = self.answers[server.port]
        until(lambda: self.errors or self.answers[server.port] >= before + count)
        assert not self.errors

    def leave(self, server):
        """Ask the others alone, as a load balancer does with a server that is to be stopped."""
        self.servers = [each for each in self.servers if each is not server]
        until(lambda: self._port != server.port)

    _port = 0

    def _ask(self) -> None:
        row = np.zeros((1, 4))
        while not self._is_done.wait(0.002):
            for server in list(self.servers):
                self._port = server.port
                try:
                    with bascule.Client(f"http://127.0.0.1:{server.port}", model="gb") as client:
                        client.predict(row)
                    self.answers[server.port] += 1
                except Exception as error:
                    self.errors.append(error)
                self._port = 0


@pytest.fixture
def releases(tmp_path, postgresql_url, packed):
    """The release of today and the next, and `gb/1` in the catalogue of today's."""
    from sklearn.linear_model import LogisticRegression

    X = np.random.default_rng(0).normal(size=(200, 4))
    home = tmp_path / "home"
    today = Release(tmp_path / "today", home, postgresql_url)
    after = next_release(Release(tmp_path / "next", home, postgresql_url))
    folder = packed("gb", LogisticRegression().fit(X, X[:, 0] > 0), X)
    assert today.run("migrate")[0] == 0
    for words in (("push", str(folder)), ("deploy", "gb/1", "--yes"), ("keys", "list")):
        code, text = today.run(*words)
        assert code == 0, text
    return today, after


def columns_of(url, table):
    with open_database(Path(), url).read() as connection:
        return [each["name"] for each in sa.inspect(connection).get_columns(table)]


@pytest.mark.slow
def test_an_upgrade_and_the_way_back_lose_no_request(releases, serve, postgresql_url):
    today, after = releases
    first, second = serve("gb", env=today.env), serve("gb", env=today.env)
    traffic = Traffic()
    traffic.servers = [first, second]
    with traffic.running():
        traffic.more(first)
        # A newer laptop looks: it changes nothing, and says what to do.
        code, text = after.run("models")
        assert code != 0
        assert "bascule migrate" in text
        assert "colour" not in columns_of(postgresql_url, "events")

        code, text = after.run("migrate")
        assert code == 0, text
        assert NEXT_HEAD in text
        assert "colour" in columns_of(postgresql_url, "events")
        traffic.more(second)

        # In the middle of it a server of today's release is restarted, and today's commands act.
        traffic.leave(first)
        first.end()
        first = serve("gb", env=today.env)
        traffic.servers.append(first)
        traffic.more(first)
        for words in (
            ("alias", "gb/1", "champion"), ("keys", "create", "ci", "--allow", "read:*"),
            ("migrate",), ("models",),
        ):  # fmt: skip
            code, text = today.run(*words)
            assert code == 0, text
        code, text = today.run("backup", str(today.place / "backup.tar"))
        assert code != 0
        assert "newer release" in text

        # The second server becomes one of the next release, and both answer.
        traffic.leave(second)
        second.end()
        second = serve("gb", env=after.env)
        traffic.servers.append(second)
        traffic.more(second)
        code, text = after.run("history", "gb", "--json")
        assert code == 0, text
        assert any(event.get("alias") == "champion" for event in json.loads(text))

        # And back.
        traffic.leave(second)
        second.end()
        second = serve("gb", env=today.env)
        traffic.servers.append(second)
        traffic.more(second)
        traffic.more(first)
    assert traffic.errors == []
