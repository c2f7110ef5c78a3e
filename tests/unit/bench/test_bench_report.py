import json

import pytest
from bench.report import (
    MARKS,
    Claim,
    Report,
    Sample,
    Start,
    claims,
    markdown,
    put_between_marks,
    ratio,
    rows,
    start_rows,
)


def sample(system, cost, *, number=1, work="1 row", errors=0):
    return Sample(number, system, work, cost, 1000.0, 1.0, 2.0, errors)


def report(samples, starts=()):
    settings: dict[str, object] = dict.fromkeys(
        ["rounds", "seconds", "connections", "server_core", "load_core"], 1
    )
    settings["pinned_program"] = "llvm"
    settings["load_average_before"] = 0.1
    return Report(list(samples), list(starts), {"cores": "2"}, {"numpy": "2"}, settings, {"a": "b"})


def test_a_row_is_the_median_of_its_rounds_and_says_how_far_they_spread():
    (row,) = rows([sample("bare", cost, number=n) for n, cost in enumerate([0.2, 0.1, 0.4])])

    assert (row.cpu_s_per_1k, row.rounds, row.errors) == (0.2, 3, 0)
    assert row.spread == pytest.approx(1.5)


def test_errors_of_all_rounds_add_up():
    (row,) = rows([sample("bare", 1.0, number=n, errors=n) for n in (1, 2)])

    assert row.errors == 3


def test_a_ratio_compares_within_rounds_so_that_a_drifting_clock_cancels_out():
    drift = [1.0, 5.0, 2.0]
    samples = [sample("bascule", 2 * d, number=n) for n, d in enumerate(drift)]
    samples += [sample("bare", d, number=n) for n, d in enumerate(drift)]

    assert ratio(samples, "bascule", "bare", "1 row") == 2.0


@pytest.mark.parametrize("broken", ["bascule", "bare"])
def test_an_error_on_either_side_voids_the_ratio(broken):
    samples = [sample(name, 1.0, errors=int(name == broken)) for name in ("bascule", "bare")]

    assert ratio(samples, "bascule", "bare", "1 row") is None
    assert claims(samples, []) == []


def test_an_error_elsewhere_does_not():
    samples = [sample("bascule", 1.0), sample("bare", 1.0), sample("nginx", 1.0, errors=1)]

    assert ratio(samples, "bascule", "bare", "1 row") == 1.0


def test_what_was_not_measured_is_not_claimed():
    assert ratio([sample("bascule", 1.0)], "bascule", "bare", "1 row") is None
    assert claims([sample("bascule", 1.0)], []) == []


@pytest.mark.parametrize(("value", "met"), [(1.99, True), (2.0, True), (2.01, False)])
def test_a_claim_is_met_up_to_its_bar(value, met):
    assert Claim("x", value, 2.0).met is met


def test_the_claims_are_those_of_the_project():
    systems = {"bascule": 0.04, "bare": 0.025, "fastapi": 0.5}
    samples = [
        sample(name, cost, work=work)
        for name, cost in systems.items()
        for work in ("1 row", "100 rows")
    ]
    made = claims(samples, [Start("bascule", 0.7, 70.0, 50.0, 100.0)])

    assert [claim.bar for claim in made] == [1.8, 0.1, 0.8, 0.125, 1.5, 150.0]
    assert [claim.met for claim in made] == [True, True, False, True, True, True]


def test_starts_without_load_count_for_the_time_and_not_for_the_memory():
    starts = [Start("bascule", 1.0, 70.0, 50.0, 90.0), Start("bascule", 3.0), Start("bascule", 2.0)]
    (row,) = start_rows(starts)

    assert (row["starts"], row["first_answer_s"], row["worker_rss_mb"]) == (3, 2.0, 70.0)


def test_the_file_holds_rows_and_ratios_under_their_agreed_names(tmp_path):
    path = tmp_path / "build" / "serving.json"
    report([sample("bascule", 1.0), sample("bare", 1.0)]).write(path)
    written = json.loads(path.read_text())

    figures = {"system", "work", "cpu_s_per_1k", "rps", "p50_ms", "p99_ms", "errors", "spread"}
    assert figures <= written["rows"][0].keys()
    assert written["ratios"][0].keys() >= {"name", "value", "bar", "met"}


def test_errors_show_in_the_table_as_void():
    assert "| 7 (void) |" in markdown(report([sample("bare", 1.0, errors=7)]))


def test_the_page_says_which_program_was_measured():
    """One and the same bundle may be served by either, at very different costs."""
    assert "bascule pinned `llvm`" in markdown(report([sample("bascule", 1.0)]))


def test_the_page_keeps_what_stands_around_the_marks():
    page = f"# Title\n\nbefore\n\n{MARKS[0]}\nold\n{MARKS[1]}\n\nafter\n"
    written = put_between_marks(page, "new")

    assert written.startswith("# Title\n\nbefore\n")
    assert written.endswith("\n\nafter\n")
    assert "new" in written
    assert "old" not in written
    assert put_between_marks(written, "new") == written


def test_a_page_without_marks_gets_them_at_its_end():
    written = put_between_marks("# Title\n", "new")

    assert written == f"# Title\n\n{MARKS[0]}\n\nnew\n\n{MARKS[1]}\n"


def test_a_page_whose_marks_do_not_close_is_left_alone():
    with pytest.raises(ValueError, match="never closes"):
        put_between_marks(MARKS[0], "new")
