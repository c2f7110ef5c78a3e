"""The script of a release refuses what is not ready."""

from __future__ import annotations

import pytest
from tests.release import problems

READY = "# Changelog\n\n## 0.3.0 (2026-12-01)\n\n## 0.2.0 (unreleased)\n"


def test_a_dated_version_with_a_clean_tree_and_no_tag_may_be_released():
    assert problems("0.3.0", READY, "", ["v0.2.0"]) == []


@pytest.mark.parametrize(
    ("version", "changelog", "changed_files", "tags", "problem"),
    [
        ("0.3.1", READY, "", [], "not of 0.3.1"),
        ("0.3.0", "nothing", "", [], "not of 0.3.0"),
        ("0.3.0", READY.replace("2026-12-01", "unreleased"), "", [], "'unreleased' where the date"),
        ("0.3.0", READY, " M README.md", [], "M README.md"),
        ("0.3.0", READY, "", ["v0.3.0"], "the tag v0.3.0 exists"),
    ],
)
def test_what_is_not_ready_is_named(version, changelog, changed_files, tags, problem):
    (found,) = problems(version, changelog, changed_files, tags)
    assert problem in found
