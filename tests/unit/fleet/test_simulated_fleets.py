"""Ten thousand simulated devices: what a harmful version reaches, and what a harmless one suffers.

`python -m tests.unit.fleet.test_simulated_fleets` writes the table of the page on rollouts over
devices, from many more fleets, whose counts are drawn and pass through the same decisions.
"""

from __future__ import annotations

import math
import sys
from collections import Counter
from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest
from bench.simulated_fleets import Scenario, Simulation
from tests.unit.catalogue.conftest import new_file  # noqa: F401  # migrations run once
from tests.unit.fleet.test_device_rollouts import PLAN, T0

from bascule.catalogue import Catalogue, SqliteDatabase
from bascule.fleet import LOOKS, Seen, candidate_of, decide
from bascule.fleet.rollouts import ERROR, begun

NAMES = [f"device-{number}" for number in range(10_000)]


def ended(folder, copy, seed, **scenario):
    copy(folder)
    catalogue = Catalogue(SqliteDatabase(folder / "catalogue.db"))
    return Simulation(catalogue, Scenario(**scenario), seed).run()


@pytest.mark.slow
def test_a_small_fleet_whose_candidate_fails_its_golden_check_goes_back(tmp_path, new_file):  # noqa: F811
    stored, exposed = ended(
        tmp_path, new_file, 1, devices=500, harmed=1.0, harm="golden", mute=0.0, hours=3.0
    )
    assert (stored.state.status, stored.state.phase) == ("halted", 0)
    assert exposed <= 0.03
    assert stored.ended_at is not None


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("harm", "mute"), [("golden", 0.0), ("golden", 1.0), ("errors", 0.5)])
def test_a_version_that_harms_a_fifth_of_ten_thousand_devices_reaches_two_percent_at_most(
    harm, mute, seed, tmp_path, new_file  # noqa: F811
):  # fmt: skip
    stored, exposed = ended(tmp_path, new_file, seed, harmed=0.2, harm=harm, mute=mute)
    assert stored.state.status == "halted", stored.state.sentence
    assert exposed <= 0.02


@pytest.mark.slow
def test_a_harmless_version_reaches_all_devices_of_a_simulated_fleet(tmp_path, new_file):  # noqa: F811
    stored, exposed = ended(tmp_path, new_file, 3)
    assert (stored.state.status, exposed) == ("promoted", 1.0), stored.state.sentence


def drawn(rng, harmed, silent=0.1, plan=PLAN):
    """The status of one rollout, and the share that was exposed: outcomes are drawn, not reported.

    A device is silent at a full look by chance, at each one anew; a harmed one is sick from its
    first look on, or silent, half and half.
    """
    plan = replace(plan, salt=str(rng.integers(2**60)))
    state, now = begun(plan, T0), T0
    is_harmed, is_mute = rng.random(len(NAMES)) < harmed, rng.random(len(NAMES)) < 0.5
    exposed = 0.0
    while state.status == "running":
        takes = np.array([candidate_of(plan, state).takes(name) for name in NAMES])
        exposed, phase = float(takes.mean()), state.phase
        for number, look in enumerate(LOOKS):
            now = state.since + timedelta(seconds=look * plan.hold_s)
            is_silent = (rng.random(len(NAMES)) < silent) | (takes & is_harmed & is_mute)
            is_sick = takes & is_harmed & ~is_mute | (rng.random(len(NAMES)) < 0.001)
            seen = [
                Seen(name, is_bad=bool(sick), has_taken=bool(taken), seen_at=None if mute else now)
                for name, sick, taken, mute in zip(NAMES, is_sick, takes, is_silent, strict=True)
            ]
            state = decide(plan, state, number, seen, now)
            if state.status != "running" or state.phase != phase:
                break
    status = "not shown" if "not shown" in state.sentence else state.status
    return status, 1.0 if status == "promoted" else exposed


def table(fleets=40):
    """By the share of harmed devices: how many fleets halted, and the devices that were exposed."""
    yield "harmed,fleets,halted,not shown to be safe,promoted,mean exposed,95 % of fleets at most"
    for harmed in (0.0, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3):
        rng = np.random.default_rng(29)
        ends = [drawn(rng, harmed) for _ in range(fleets)]
        counts = Counter(status for status, _ in ends)
        told = ",".join(str(counts[status]) for status in ("halted", "not shown", "promoted"))
        shares = [share for _, share in ends]
        most = np.quantile(shares, 0.95)
        yield f"{harmed:g},{fleets},{told},{np.mean(shares):.4f},{most:.4f}"


@pytest.mark.slow
def test_the_promised_errors_hold_over_many_fleets():
    """A bound of 5 %: of 60 fleets, more than 8 happen with a chance of 0.5 %."""
    rng, fleets = np.random.default_rng(7), 60
    bound = fleets * ERROR + 2.8 * math.sqrt(fleets * ERROR * (1 - ERROR))
    harmless = [drawn(rng, 0.0) for _ in range(fleets)]
    assert sum(status == "halted" for status, _ in harmless) <= bound
    harmful = [drawn(rng, 0.2) for _ in range(fleets)]
    assert sum(share > 0.02 for _, share in harmful) <= bound


if __name__ == "__main__":
    for line in table(*map(int, sys.argv[1:])):
        sys.stdout.write(line + "\n")
        sys.stdout.flush()
