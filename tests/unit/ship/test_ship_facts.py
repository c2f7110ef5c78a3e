"""What an image of a bundle holds, and what the command says."""

import pytest

from bascule.bundle import load
from bascule.core import Unavailable
from bascule.ship import packages_of


def names(bundle, extras=()):
    return {one.name for one in packages_of(bundle, extras)}


def test_an_image_of_a_compiled_bundle_has_nothing_of_its_framework(cancer_bundle):
    held = names(load(cancer_bundle))
    assert {"bascule", "numpy", "onnxruntime"} <= held
    assert not held & {"scikit-learn", "scipy", "pandas", "skops", "psycopg"}


def test_extras_bring_the_extras_of_what_they_require(cancer_bundle):
    assert {"psycopg", "psycopg-binary"} <= names(load(cancer_bundle), ["postgresql"])


def test_packages_that_are_not_installed_are_named_at_once_with_their_requirements(
    cancer_bundle, monkeypatch
):
    from importlib import metadata

    found = metadata.distribution

    def without_two(name):
        if name in ("numpy", "obstore"):
            raise metadata.PackageNotFoundError(name)
        return found(name)

    monkeypatch.setattr("bascule.ship.facts.metadata.distribution", without_two)
    with pytest.raises(Unavailable, match="needs numpy, obstore, not installed here") as refused:
        packages_of(load(cancer_bundle), ["s3"])
    assert '"obstore' in refused.value.hint
    assert '"numpy' in refused.value.hint
