from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from itertools import pairwise

import pytest
from tests.tiers import first_of

from bascule.catalogue import Lease, Leases, check_held, schema
from bascule.core import Conflict, Invalid

TTL_S = 0.4
PATIENCE_S = 30.0

HOLD = """
import sys, time
from pathlib import Path
from tests.stores import open_database
from bascule.catalogue import Leases
lease = Leases(open_database(Path(sys.argv[1]), sys.argv[2])).acquire("job", "victim", 1.0)
print(lease.fence, lease.ends_at_s, flush=True)
time.sleep(60)
"""

COMPETE = """
import json, os, random, signal, sys, time, traceback
from pathlib import Path
from tests.stores import open_database
from bascule.catalogue import Leases

home, store, ttl_s, lasts_s, kills = *sys.argv[1:3], *map(float, sys.argv[3:6])
catalogue = open_database(Path(home), store)
until, results = time.monotonic() + lasts_s, Path(home)

def compete(who):
    leases, chance = Leases(catalogue), random.Random(who)
    with open(results / f"{who}.log", "w", buffering=1) as log:
        tell = lambda *said: log.write(json.dumps(said) + "\\n")
        while time.monotonic() < until:
            lease = leases.acquire("job", str(who), ttl_s)
            if lease is None:
                time.sleep(chance.uniform(0, 0.01))
                continue
            tell("began", lease.fence, time.monotonic(), lease.ends_at_s)
            for _ in range(chance.randrange(3)):
                time.sleep(chance.uniform(0, 0.02))
                lease = leases.renew(lease) or lease
                tell("renewed", lease.fence, time.monotonic(), lease.ends_at_s)
            tell("ended", lease.fence, time.monotonic(), lease.ends_at_s)
            leases.release(lease)

def start(who):
    pid = os.fork()
    if pid == 0:
        try:
            compete(who)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return pid

pids = [start(who) for who in range(4)]
for who in range(4, 4 + int(kills)):
    time.sleep(lasts_s / (kills + 1))  # the moment of death is what is tested
    os.kill(pids[0], signal.SIGKILL)
    killed_at_s = time.monotonic()
    os.waitpid(pids.pop(0), 0)
    with open(results / f"{who - 4}.log", "a") as log:
        log.write(json.dumps(["ended", None, killed_at_s, killed_at_s]) + "\\n")
    pids.append(start(who))
assert not any(os.waitpid(pid, 0)[1] for pid in pids)
"""


@pytest.fixture
def leases(catalogue):
    return Leases(catalogue)


def acquire_soon(leases, holder="second"):
    """The lease, as soon as it can be had."""
    give_up_at_s = time.monotonic() + PATIENCE_S
    while (lease := leases.acquire("job", holder, TTL_S)) is None:
        assert time.monotonic() < give_up_at_s
        time.sleep(0.01)
    return lease


def test_a_lease_is_given_to_one_holder_and_others_get_it_when_it_is_released(leases):
    first = leases.acquire("job", "first", 60)
    assert (first.name, first.holder, leases.holder("job")) == ("job", "first", "first")
    assert leases.acquire("job", "second", 60) is None
    assert leases.acquire("job", "first", 60) is None, "a namesake is another process"
    assert leases.acquire("another job", "second", 60).fence == 1

    leases.release(first)
    assert leases.holder("job") is None
    assert leases.acquire("job", "second", 60).fence == first.fence + 1


def test_a_lease_ends_after_its_time_and_not_before(leases):
    began_s = time.monotonic()
    first = leases.acquire("job", "first", TTL_S)
    second = acquire_soon(leases)

    assert time.monotonic() - began_s >= TTL_S
    assert second.fence == first.fence + 1
    assert first.remaining_s == 0
    assert leases.renew(first) is None


def test_a_renewed_lease_lasts_from_its_renewal_under_the_same_fence(catalogue, leases):
    lease = leases.acquire("job", "first", 60)
    before = ends_at(catalogue)
    renewed = leases.renew(lease)

    assert (renewed.fence, renewed.holder, renewed.ttl_s) == (lease.fence, "first", 60)
    assert renewed.ends_at_s > lease.ends_at_s
    assert ends_at(catalogue) > before
    assert leases.acquire("job", "second", 60) is None


def ends_at(catalogue):
    with catalogue.read() as connection:
        return connection.execute(schema.leases.select()).one().expires_at


def test_a_holder_believes_in_its_lease_no_longer_than_the_database(leases):
    before_s = time.monotonic()
    lease = leases.acquire("job", "first", 60)
    assert before_s + 60 <= lease.ends_at_s <= time.monotonic() + 60
    assert 59 < lease.remaining_s <= 60


def test_a_released_or_lost_lease_cannot_be_renewed_or_released_again(leases):
    first = leases.acquire("job", "first", 60)
    leases.release(first)
    assert leases.renew(first) is None

    second = leases.acquire("job", "second", 60)
    leases.release(first)  # late, by a process that was stopped meanwhile
    assert leases.holder("job") == "second"
    assert leases.renew(second).fence == second.fence


@pytest.mark.parametrize("ttl_s", [0, -1, float("nan")])
def test_a_lease_lasts_longer_than_nothing(leases, ttl_s):
    with pytest.raises(Invalid, match="ttl_s"):
        leases.acquire("job", "first", ttl_s)


def test_what_a_late_holder_writes_is_refused(catalogue, leases):
    first = leases.acquire("job", "first", 60)
    with catalogue.write() as connection:
        check_held(connection, first)
    leases.release(first)
    with pytest.raises(Conflict, match="first no longer holds"), catalogue.write() as connection:
        check_held(connection, first)

    second = leases.acquire("job", "second", 60)
    with pytest.raises(Conflict), catalogue.write() as connection:
        check_held(connection, first)
    with catalogue.write() as connection:
        check_held(connection, second)
    never = Lease("never", "first", 1, 60, time.monotonic() + 60)
    with pytest.raises(Conflict), catalogue.write() as connection:
        check_held(connection, never)


def test_no_other_holder_begins_before_a_checked_write_is_committed(catalogue, leases):
    first = leases.acquire("job", "first", TTL_S)
    taken = []
    other = threading.Thread(target=lambda: taken.append((acquire_soon(leases), time.monotonic())))
    with catalogue.write() as connection:
        check_held(connection, first)
        other.start()
        time.sleep(2 * TTL_S)
        committed_at_s = time.monotonic()
        assert taken == []
    other.join()

    ((second, at_s),) = taken
    assert at_s >= committed_at_s
    assert second.fence == first.fence + 1


def run(code, *arguments):
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)], stdout=subprocess.PIPE, text=True
    )


def test_a_holder_that_is_killed_loses_the_lease_after_its_time(tmp_path, current, leases):
    with run(HOLD, tmp_path, current) as victim:
        fence, ends_at_s = victim.stdout.readline().split()
        victim.send_signal(signal.SIGKILL)
    second = acquire_soon(leases)

    assert second.fence == int(fence) + 1
    assert time.monotonic() >= float(ends_at_s)


def leases_of(log):
    """Fence, begin and end of each lease that a process had."""
    held = []
    for line in log.read_text().splitlines():
        said, fence, at_s, ends_at_s = json.loads(line)
        if said == "began":
            held.append([fence, at_s, ends_at_s])
        elif said == "renewed":
            held[-1][2] = ends_at_s
        elif held:
            held[-1][2] = min(held[-1][2], at_s)
    return held


@pytest.mark.parametrize("current", first_of(["new_file", "new_server_database"]), indirect=True)
def test_of_competing_processes_that_are_killed_too_never_two_hold_it(tmp_path, current):
    with run(COMPETE, tmp_path, current, TTL_S, 1.5, 3) as processes:
        assert processes.wait(PATIENCE_S * 2) == 0

    held = [lease for log in tmp_path.glob("*.log") for lease in leases_of(log)]
    held.sort()

    assert len(held) >= 2, "on a busy machine the lease changes hands rarely"
    assert len({fence for fence, *_ in held}) == len(held)
    for (_, _, earlier_ended_s), (_, later_began_s, later_ended_s) in pairwise(held):
        assert earlier_ended_s <= later_began_s or later_ended_s <= later_began_s
