"""Which folders a running server loads from, when somebody on the machine names one."""

from __future__ import annotations

import stat

import pytest

from bascule.control.references import check_is_ours, may_be_trusted
from bascule.core.errors import Refused

ME, OTHER, ROOT = 1_000, 1_001, 0


@pytest.mark.parametrize(
    ("owner", "mode", "trusted"),
    [
        (ME, 0o755, True),
        (ROOT, 0o755, True),
        (OTHER, 0o755, False),
        (ME, 0o775, False),
        (ME, 0o757, False),
        (ROOT, 0o777, False),
        (ROOT, 0o777 | stat.S_ISVTX, True),
        (OTHER, 0o777 | stat.S_ISVTX, False),
    ],
)
def test_a_folder_is_trusted_where_nobody_else_decides_what_is_in_it(owner, mode, trusted):
    assert may_be_trusted(owner, mode, ME) is trusted


def test_a_folder_of_ones_own_is_loaded_and_one_that_others_can_write_to_is_not(tmp_path):
    bundle = tmp_path / "open" / "bundle"
    bundle.mkdir(parents=True)
    check_is_ours(bundle)
    bundle.chmod(0o777)
    with pytest.raises(Refused, match=r"other users may write to .*bundle"):
        check_is_ours(bundle)
    bundle.chmod(0o755)
    bundle.parent.chmod(0o777)
    with pytest.raises(Refused, match=r"other users may write to .*open"):
        check_is_ours(bundle)


def test_a_link_is_judged_by_where_it_leads(tmp_path):
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    bundle.chmod(0o777)
    link = tmp_path / "link"
    link.symlink_to(bundle)
    with pytest.raises(Refused):
        check_is_ours(link)


def test_what_is_not_there_is_left_to_loading(tmp_path):
    check_is_ours(tmp_path / "nowhere")
