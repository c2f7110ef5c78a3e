"""Acts done again, by two at once, on two hosts, killed between two steps, without their database.

The table is `ACTS` by `CELLS`. One rule holds in every cell: when the act has been done once more
where it was interrupted, what is there is what one undisturbed act leaves. An act that is given
again either does nothing more (exit code 0) or is refused with the code that the table states, and
of several at once one at least succeeds. An interrupted act leaves no traceback.

Commands run in forks of a process that has imported everything. A step is a commit, a statement
that changes rows or tables, or a change of a file; `kill_at` kills the fork before that step.
"""

from __future__ import annotations

import json
import secrets
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from tests.scenarios.commands import run
from tests.stores import free_ports
from tests.tiers import first_of

RUNNER = r"""
import functools, gc, importlib, json, os, pkgutil, signal, sys, threading, typer.main
import alembic.command, psycopg, pyarrow.csv, pyarrow.parquet, sqlalchemy.event, sqlalchemy.engine
import bascule.app, bascule.backups, bascule.batch, bascule.catalogue.postgresql
import bascule.catalogue.migrations, bascule.cli, bascule.endpoints, bascule.release.rollouts
import bascule.monitoring

import bascule.cli.commands, bascule.jobs, bascule.kinds, bascule.registry, bascule.settings
for module in pkgutil.iter_modules(bascule.cli.__path__):
    if module.name != "__main__":
        importlib.import_module("bascule.cli." + module.name)
typer.main.get_command = functools.cache(typer.main.get_command)
typer.main.get_command(bascule.cli.commands.app)
gc.collect()
gc.freeze()  # forks need not look through what was imported

CHANGES = ("INSERT", "UPDATE", "DELETE", "CREATE", "ALTER", "DROP")
steps, kill_at = 0, 0

def step(*_):
    global steps
    steps += 1
    if steps == kill_at:
        os.kill(os.getpid(), signal.SIGKILL)

def statement(connection, cursor, text, *_):
    if text.lstrip().upper().startswith(CHANGES):
        step()

def audit(event, arguments):
    if event in ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link"):
        step()
    elif event == "open" and isinstance(arguments[2], int) and arguments[2] & os.O_CREAT:
        step()

def begin(plan, gate, out):
    global kill_at
    os.environ.update(plan["environment"])
    for number, name in ((1, "out"), (2, "errors")):
        os.dup2(os.open(plan[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)
    sys.argv = ["bascule", *plan["words"]]
    kill_at = plan["kill_at"]
    engine = sqlalchemy.engine.Engine
    sqlalchemy.event.listen(engine, "commit", step)
    sqlalchemy.event.listen(engine, "before_cursor_execute", statement)
    sys.addaudithook(audit)
    os.read(gate, 1)
    code = 0
    try:
        bascule.cli.main()
    except SystemExit as end:
        code = int(end.code or 0)
    sys.stdout.flush()
    sys.stderr.flush()
    os.write(out, json.dumps([code, steps]).encode())
    os._exit(0)

for line in sys.stdin:
    gate, opened = os.pipe()
    begun = []
    for plan in json.loads(line):
        answer, out = os.pipe()
        pid = os.fork()
        if not pid:
            os.close(opened)
            begin(plan, gate, out)
        os.close(out)
        begun.append((pid, answer))
    os.close(gate)
    os.close(opened)  # they begin together
    ends = []
    for pid, answer in begun:
        said = os.read(answer, 1000)
        os.close(answer)
        os.waitpid(pid, 0)
        ends.append(json.loads(said) if said else [-9, 0])
    print(json.dumps(ends), flush=True)
"""


class End(NamedTuple):
    """How a command ended: -9 for one that was killed."""

    code: int
    steps: int
    said: str
    errors: str


class Runner:
    """Runs commands in forks; those of one call begin together."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process = subprocess.Popen(
            [sys.executable, "-c", RUNNER], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            text=True, cwd=folder,
        )  # fmt: skip

    def __call__(self, *commands: Command) -> list[End]:
        files = [
            (self._folder / f"out-{n}", self._folder / f"err-{n}") for n in range(len(commands))
        ]
        plans = [
            {**command._asdict(), "words": [str(word) for word in command.words],
             "out": str(out), "errors": str(errors)}
            for command, (out, errors) in zip(commands, files, strict=True)
        ]  # fmt: skip
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(plans) + "\n")
        self._process.stdin.flush()
        ends = json.loads(self._process.stdout.readline())
        return [
            End(code, steps, out.read_text(), errors.read_text())
            for (code, steps), (out, errors) in zip(ends, files, strict=True)
        ]

    def end(self) -> None:
        self._process.communicate(timeout=30)


class Command(NamedTuple):
    """Words of a command line, in an environment; `kill_at` is the step before which it dies."""

    words: Sequence[Any]
    environment: dict[str, str]
    kill_at: int = 0


@dataclass(frozen=True)
class Act:
    """One act.

    Attributes:
        words: Its command line, by the folder that holds bundles and files.
        again: The exit code where it has been done already: 0, or 4 for a refusal.
        at_once: That where the same act is under way, beside the codes 0 and `again`.
        on_empty: It begins in an empty home, and not in one with two versions and an endpoint.
        needs_catalogue: False for one that works while the database is away.
    """

    words: Callable[[Path], Sequence[Any]]
    again: int = 0
    at_once: int = 0
    on_empty: bool = False
    needs_catalogue: bool = True


ACTS = {
    # The same bundle is the same version.
    "push": Act(lambda it: ["push", it / "b3"]),
    # An alias that is there already stays, without a second event.
    "alias": Act(lambda it: ["alias", "gb/2", "champion"]),
    # The second deployment is refused with the number of the plan that the first one has made.
    "deploy": Act(lambda it: ["deploy", "gb/2", "--yes"], again=4),
    "rollout": Act(lambda it: ["deploy", "gb/2", "--strategy", "canary", "--yes"], again=4),
    # Names are taken once.
    "schedule": Act(
        lambda it: ["schedule", "add", "nightly", "--cron", "0 2 * * *", "--job", it / "job.toml"],
        again=4,
    ),
    # The token of a key whose command was killed is lost: its name is taken, and can be revoked.
    "keys": Act(lambda it: ["keys", "create", "ada", "--allow", "read:*"], again=4),
    # A file that is there is not replaced unless the command says so.
    "backup": Act(lambda it: ["backup", it / "new.tar"], again=4),
    "restore": Act(lambda it: ["restore", it / "kept.tar"], again=4, on_empty=True),
    "migrate": Act(lambda it: ["migrate"], on_empty=True),
    # The newest truth of a prediction counts: the same one again changes nothing.
    "outcomes": Act(
        lambda it: ["outcomes", "import", "gb", it / "truths.csv"], needs_catalogue=False
    ),
    # The same job is the same run, of which a sink has one at a time. `test_batch_twice` has each
    # sink and mode.
    "batch": Act(
        lambda it: [
            *("batch", "run", "gb/1", "--from", it / "rows.csv", "--to", f"{it}/scored/"),
            *("--format", "csv", "--workers", "1"),
        ],
        at_once=4,
    ),
}
each_act = pytest.mark.parametrize("name", ACTS)

KILLED_SOON = ("push",)
"""The first tier kills this act, which takes 3 s of a processor, and has the others done by two at
once."""

GIVEN_AGAIN = ("alias", "schedule")
"""One of those that change nothing the second time and one of those that are refused then."""

AT_ONCE = ("deploy", "keys", "restore", "outcomes", "batch")
"""The first tier has these done by two at once: one for each place that keeps what an act does."""

WITHOUT_DATABASE = ("deploy", "backup", "outcomes")
"""The first tier has these without their database: an act, one that leaves a file, and one that
needs none."""


def first_tier(is_in_it: Callable[[str], bool]) -> pytest.MarkDecorator:
    """Each act, and those of which it is false in the second tier."""
    slow = [pytest.mark.slow]
    return pytest.mark.parametrize(
        "name", [pytest.param(act, marks=[] if is_in_it(act) else slow) for act in ACTS]
    )


class Place:
    """A catalogue with its bundles, and the homes of the hosts that share them."""

    def __init__(self, folder: Path, store: str) -> None:
        self.folder, self.store = folder, store
        self.homes = [folder / "home", folder / "other"]

    def environment(self, host: int = 0) -> dict[str, str]:
        return {
            "BASCULE_HOME": str(self.homes[host]),
            "BASCULE_REGISTRY__STORE": self.store,
            "BASCULE_REGISTRY__OBJECTS": f"files://{self.folder / 'objects'}",
        }

    def said(self, *words: Any) -> Any:
        code, out, errors = run(self.homes[0], *words, "--json", **self.environment())
        assert code == 0, errors
        return json.loads(out)

    def facts(self) -> dict[str, Any]:
        """What is there, without ids and times."""
        endpoint = run(self.homes[0], "endpoints", "show", "gb", "--json", **self.environment())
        kept = self.folder / "new.tar"
        told = self.said("history", "gb") if self.said("models") else []
        return {
            "models": [
                (one["name"], one["versions"], one["aliases"]) for one in self.said("models")
            ],
            "events": sorted((one["kind"], one["number"] or 0, one["alias"] or "") for one in told),
            "plans": [one["plan"]["arms"] for one in json.loads(endpoint[1]).get("plans", ())],
            "rollouts": [one["state"] for one in self.said("rollout", "status")],
            "schedules": [one["name"] for one in self.said("schedule", "list")],
            "keys": [(one["name"], one["state"]) for one in self.said("keys", "list")],
            "outcomes": self.outcomes(),
            "scored": len([*self.folder.glob("scored/part-*")]),
            "backup": kept.exists() and bool(self.said("restore", "--check", kept)),
        }

    def outcomes(self) -> list[tuple[str, str]]:
        from bascule.monitoring import Ledger

        found = set()
        for home in self.homes:
            if (home / "outcomes").exists():
                table = Ledger(home).query("SELECT id, truth FROM outcomes")
                found |= set(zip(*(column.to_pylist() for column in table.columns), strict=True))
        return sorted(found)


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    made = Runner(tmp_path_factory.mktemp("runner"))
    yield made
    made.end()


def prepared(folder: Path, store: str) -> Place:
    """Two versions, an endpoint, a backup of them, and the files that acts read."""
    place = Place(folder, store)
    for words in (["push", folder / "b1"], ["push", folder / "b2"], ["deploy", "gb/1", "--yes"]):
        place.said(*words)
    place.said("backup", folder / "kept.tar")
    return place


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three bundles, a job and truths."""
    import numpy as np
    from sklearn.linear_model import LogisticRegression

    import bascule

    folder = tmp_path_factory.mktemp("acts")
    rows = np.random.default_rng(0).normal(size=(200, 2))
    for number in (1, 2, 3):
        model = LogisticRegression().fit(rows, rows[:, 0] * number + rows[:, 1] > 0)
        to = folder / f"b{number}"
        bascule.pack(model, name="gb", train=rows, to=to, measure=False)
    (folder / "job.toml").write_text('model = "gb/1"\nfrom = "rows.csv"\nto = "scored/"\n')
    (folder / "rows.csv").write_text("x0,x1\n1,2\n")
    (folder / "truths.csv").write_text("id,truth\na,1\nb,0\n")
    return folder


@pytest.fixture(scope="module")
def on_sqlite(files: Path) -> Path:
    prepared(files, "sqlite")
    return files


@pytest.fixture(scope="module")
def on_postgresql(files: Path, postgresql_server: str, tmp_path_factory: Any) -> tuple[Path, str]:
    """The same in a database, which is copied for each cell."""
    folder = tmp_path_factory.mktemp("shared") / "it"
    shutil.copytree(files, folder)
    for left in ("home", "objects"):
        shutil.rmtree(folder / left, ignore_errors=True)
    (folder / "kept.tar").unlink(missing_ok=True)  # where the cells on SQLite came first
    prepared(folder, copied_database(postgresql_server, "template1"))
    return folder, "acts_0"


def copied_database(server: str, template: str) -> str:
    import psycopg

    name = "acts_0" if template == "template1" else f"acts_{secrets.token_hex(6)}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
    return server.removesuffix("/postgres") + f"/{name}"


def begun(act: Act, base: Path, folder: Path, store: str = "sqlite") -> Place:
    """A copy of the prepared place, of its own."""
    shutil.copytree(base, folder, dirs_exist_ok=True)
    place = Place(folder, store)
    if act.on_empty:
        for left in (*place.homes, folder / "objects"):
            shutil.rmtree(left, ignore_errors=True)
    return place


def check(ends: Sequence[End], act: Act, *, needs_success: bool = True) -> None:
    codes = [end.code for end in ends]
    assert set(codes) <= {0, act.again, act.at_once}, [end.errors for end in ends]
    assert not needs_success or 0 in codes, [end.errors for end in ends]
    for end in ends:
        assert "Traceback" not in end.errors


@pytest.fixture(scope="module")
def expected(runner: Runner, on_sqlite: Path, tmp_path_factory: Any) -> Callable[[str], Any]:
    """`expected(act)`: what one undisturbed act leaves, and its steps."""
    known: dict[str, Any] = {}

    def of(name: str) -> tuple[dict[str, Any], int]:
        if name not in known:
            act = ACTS[name]
            place = begun(act, on_sqlite, tmp_path_factory.mktemp(name))
            (end,) = runner(Command(act.words(place.folder), place.environment()))
            assert end.code == 0, end.errors
            known[name] = place.facts(), end.steps
        return known[name]

    return of


@first_tier(lambda name: name in GIVEN_AGAIN)
def test_an_act_that_is_given_again_adds_nothing(name, runner, on_sqlite, expected, tmp_path):
    act = ACTS[name]
    place = begun(act, on_sqlite, tmp_path)
    command = Command(act.words(place.folder), place.environment())
    ends = [*runner(command), *runner(command), *runner(command)]
    assert [end.code for end in ends] == [0, act.again, act.again], ends
    check(ends, act)
    assert place.facts() == expected(name)[0]


@pytest.mark.parametrize("many", first_of([2, 6]))
@first_tier(lambda name: name in AT_ONCE)
def test_of_acts_at_once_one_at_least_succeeds(name, many, runner, on_sqlite, expected, tmp_path):
    act = ACTS[name]
    place = begun(act, on_sqlite, tmp_path)
    ends = runner(*[Command(act.words(place.folder), place.environment())] * many)
    check(ends, act)
    assert place.facts() == expected(name)[0]
    if act.again:
        assert [end.code for end in ends].count(0) == 1


@pytest.mark.slow
@each_act
def test_of_acts_at_once_on_two_hosts_one_at_least_succeeds(
    name, runner, on_postgresql, postgresql_server, expected, tmp_path
):
    act, (base, template) = ACTS[name], on_postgresql
    store = copied_database(postgresql_server, "template0" if act.on_empty else template)
    place = begun(act, base, tmp_path, store)
    words = act.words(place.folder)
    ends = runner(*[Command(words, place.environment(host)) for host in (0, 1, 0, 1)])
    check(ends, act)
    assert place.facts() == expected(name)[0]
    if act.again:
        assert [end.code for end in ends].count(0) == 1


@pytest.mark.parametrize("part", first_of(["some", "all"]))
@first_tier(lambda name: name in KILLED_SOON)
def test_an_act_that_is_killed_is_done_by_doing_it_again(
    name, part, runner, on_sqlite, expected, tmp_path
):
    act = ACTS[name]
    facts, steps = expected(name)
    points = {1, steps // 2 + 1, steps} if part == "some" else range(1, steps + 1, 1 + steps // 60)
    for point in sorted(points):
        place = begun(act, on_sqlite, tmp_path / str(point))
        command = Command(act.words(place.folder), place.environment(), kill_at=point)
        (killed,) = runner(command)
        assert killed.code in (-9, 0), killed.errors  # a step or two depend on what is cached
        check(runner(command._replace(kill_at=0)), act, needs_success=False)
        assert place.facts() == facts, f"killed before step {point} of {steps}"


@first_tier(lambda name: name in WITHOUT_DATABASE)
def test_an_act_without_its_database_says_so_and_leaves_nothing(name, runner, on_sqlite, tmp_path):
    (port,) = free_ports(1)
    act = ACTS[name]
    place = begun(act, on_sqlite, tmp_path, f"postgresql://bascule:x@127.0.0.1:{port}/none")
    (end,) = runner(Command(act.words(place.folder), place.environment()))
    assert end.code == (6 if act.needs_catalogue else 0), end.errors
    assert "Traceback" not in end.errors
    assert not (place.folder / "new.tar").exists()
