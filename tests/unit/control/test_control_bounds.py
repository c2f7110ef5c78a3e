"""Each bound of each parameter of the control API: thousands of requests.

A file of its own: to draw them takes seconds before any test is run.
"""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings
from schemathesis.specs.openapi.checks import (
    negative_data_rejection,
    positive_data_acceptance,
    unsupported_method,
)
from tests.unit.control.test_control_api import (
    answers_as_the_schema_says,
    document,
    fuzzed,  # noqa: F401
    schema_of,
)

pytestmark = pytest.mark.slow
all_bounds = schema_of(document, coverage=True)

BEYOND_SCHEMAS = {
    "/api/v1/predictions", "/api/v1/endpoints/{endpoint}/incident",
    "/api/v1/models/{model}/versions/{number}/differences", "/api/v1/search",
    "/api/v1/usage", "/api/v1/usage/export",
}  # fmt: skip
"""What they take depends on two parameters together or on the day, or is a text with a grammar of
its own."""


@all_bounds.parametrize()
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
def test_whatever_is_asked_again_and_again_is_answered_as_the_schema_says(case, fuzzed):  # noqa: F811
    more = [negative_data_rejection, unsupported_method]
    # No schema has the cursors of a list.
    is_told = "cursor" not in (case.query or ()) and case.path not in BEYOND_SCHEMAS
    if case.method == "GET" and is_told:
        more.append(positive_data_acceptance)
    answers_as_the_schema_says(case, fuzzed, *more)
