"""What a count looks like in words."""

import pytest

from bascule.core import counted


@pytest.mark.parametrize(
    ("count", "told"), [(0, "0 rows"), (1, "1 row"), (2, "2 rows"), (1_234, "1,234 rows")]
)
def test_a_noun_after_a_count_is_plural_but_for_one(count, told):
    assert counted(count, "row") == told
