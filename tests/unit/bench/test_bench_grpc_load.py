import pytest
from bench.grpc_load import parse

SAID = """\
finished in 1.50s, 2000.00 req/s, 1.00MB/s
requests: 3000 total, 3000 started, 3000 done, %d succeeded, %d failed, %d errored, %d timeout
status codes: 3000 2xx, 0 3xx, 0 4xx, 0 5xx
traffic: 1.00MB (1048576) total, 100.00KB (102400) headers (space savings 0.00%%), 293KB (%d) data
"""
TIMES = "".join(f"1600000000000000\t200\t{micros}\n" for micros in range(1_000, 2_000))


def test_what_h2load_prints_is_read():
    seen = parse(SAID % (3_000, 0, 0, 0, 300_000), TIMES, 100)

    assert (seen.requests, seen.rps, seen.errors) == (3_000, 2_000.0, 0)
    assert seen.p50_ms == pytest.approx(1.4995)
    assert seen.p99_ms == pytest.approx(1.99, abs=0.001)


@pytest.mark.parametrize("kinds", [(1, 0, 0), (0, 1, 0), (0, 0, 1)])
def test_every_kind_of_failure_is_an_error(kinds):
    assert parse(SAID % (2_999, *kinds, 299_900), TIMES, 100).errors == 1


@pytest.mark.parametrize(("data", "errors"), [(300_000, 0), (299_900, 1), (300_001, 1), (0, 3_000)])
def test_an_answer_of_another_length_is_an_error(data, errors):
    """A refusal has no body, and its status is 200 too."""
    assert parse(SAID % (3_000, 0, 0, 0, data), TIMES, 100).errors == errors


def test_a_tool_that_failed_is_not_mistaken_for_one_without_errors():
    with pytest.raises(ValueError, match="could not connect"):
        parse("could not connect to host", "", 100)
