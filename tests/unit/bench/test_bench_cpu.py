import os
import subprocess
import sys

import pytest
from bench import cpu
from bench.cpu import Process, busiest, cpu_seconds, members, parse_stat

STAT = "{pid} ({name}) S {parent} 1 1 0 -1 4194560 100 0 0 0 {u} {s} {cu} {cs} 20 0 1 0 5 6 7 8"


def stat(pid=42, name="nginx", parent=7, u=0, s=0, cu=0, cs=0):
    return STAT.format(pid=pid, name=name, parent=parent, u=u, s=s, cu=cu, cs=cs)


def test_a_stat_line_gives_parent_and_user_plus_system_time():
    assert parse_stat(stat(u=30, s=12, cu=5, cs=1)) == Process(42, 7, 42, 6)


@pytest.mark.parametrize("name", ["a b", "evil) R 1 1", "((", "x) S 9 9"])
def test_a_command_name_with_spaces_and_brackets_does_not_shift_the_fields(name):
    assert parse_stat(stat(name=name, u=30, s=12)) == Process(42, 7, 42, 0)


def test_a_tree_is_the_root_and_all_that_descends_from_it():
    processes = [
        Process(pid, parent, 0, 0) for pid, parent in [(4, 3), (1, 0), (3, 2), (9, 1), (2, 1)]
    ]

    assert {process.pid for process in members(2, processes)} == {2, 3, 4}


def test_a_root_that_is_gone_has_no_tree():
    assert members(2, [Process(3, 2, 0, 0)]) == []


def test_time_of_reaped_children_is_counted_too():
    ticks = cpu.TICKS_PER_SECOND

    assert cpu_seconds([Process(1, 0, ticks, 2 * ticks), Process(2, 1, ticks, 0)]) == 4.0


def test_the_busiest_process_is_judged_by_what_it_did_in_between():
    before = [Process(1, 0, 900, 0), Process(2, 1, 10, 0)]
    after = [Process(1, 0, 905, 0), Process(2, 1, 90, 0), Process(3, 1, 70, 0)]

    assert busiest(before, after) == 2


def test_work_of_a_living_child_process_is_seen():
    burn = "import time\nwhile time.process_time() < 0.1: pass\nprint(flush=True)\ninput()"
    before = cpu_seconds(cpu.tree(os.getpid()))
    with subprocess.Popen(
        [sys.executable, "-c", burn], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        child.stdout.readline()
        tree = cpu.tree(os.getpid())
        own = next(process for process in tree if process.pid == child.pid)
        child.communicate(b"\n")

    assert own.own_ticks / cpu.TICKS_PER_SECOND >= 0.08
    assert cpu_seconds(tree) - before >= 0.08


def test_memory_is_in_megabytes_and_its_fair_share_is_not_more_than_all_of_it():
    own = cpu.memory(os.getpid())

    assert 5 < own.proportional <= own.resident < 5_000
