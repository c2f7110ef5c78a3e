"""Small models that exports are tested with, each packed once."""

import pytest
from tests.unit.runtimes.models import MODELS, packed


@pytest.fixture(scope="session")
def bundles(tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported")
    return {name: packed(name, folder) for name in MODELS}
