"""A folder that is served as a version of a name: `late/3=./late.bundle`."""

import pytest

from bascule.control import named_folder, spec_of_folder
from bascule.core import Invalid


def test_a_named_folder_is_served_as_that_version(cancer_bundle):
    version, folder = named_folder(f"late/3={cancer_bundle}")
    spec = spec_of_folder(folder, version)
    assert (spec.model, spec.version, spec.path) == ("late", "3", cancer_bundle.resolve())


@pytest.mark.parametrize(
    "reference", ["late", "late/3", "late@champion", "./a=b", "/year=2026/", "a="]
)
def test_other_references_are_no_named_folders(reference):
    assert named_folder(reference) is None


def test_a_folder_that_exists_is_itself_whatever_its_name(tmp_path, monkeypatch, cancer_bundle):
    (tmp_path / "late=new").symlink_to(cancer_bundle)
    monkeypatch.chdir(tmp_path)
    assert named_folder("late=new") is None


@pytest.mark.parametrize("reference", ["late=bundle", "late@champion=bundle"])
def test_a_name_without_a_number_is_refused_with_what_to_write(reference):
    with pytest.raises(Invalid, match="does not say which version") as caught:
        named_folder(reference)
    assert "late/1=bundle" in caught.value.hint
