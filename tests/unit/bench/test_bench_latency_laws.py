"""The promises of the default guards on latency, by a simulation of a few rollouts a law."""

import pytest
from bench.latency_laws import AT_MARGIN, EQUAL, EQUAL_UNDER_LOAD, LAWS, SLOW, ends

RUNS = 25


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("cell", [EQUAL, EQUAL_UNDER_LOAD], ids=["steady", "load"])
def test_equal_versions_are_promoted(law, cell):
    assert ends(law, cell, RUNS).promotions == RUNS


@pytest.mark.parametrize("law", LAWS)
def test_versions_at_the_margin_are_seldom_promoted(law):
    assert ends(law, AT_MARGIN, RUNS).promotions <= 4  # of 25 at 5 %: 3.4 % of tests


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("cell", SLOW, ids=[cell.name for cell in SLOW])
def test_slow_versions_are_rolled_back(law, cell):
    assert ends(law, cell, RUNS).rollbacks >= RUNS - 1
