"""Files that people send: kept whole or not at all, bounded, for their owner, for a day."""

import os
import time

import anyio
import pytest
from tests.homes import inline_jobs

from bascule.console import uploads
from bascule.console.uploads import Uploads, plain_name
from bascule.core import Invalid, NotFound, TooLarge
from bascule.jobs import Task
from bascule.settings import Settings


def receive(folder, pieces, name="rows.csv", owner="ada", suffixes=(".csv",), **more):
    async def run():
        async def stream():
            for piece in pieces:
                if isinstance(piece, Exception):
                    raise piece
                yield piece

        return await Uploads(folder).receive(stream(), name, owner, suffixes, **more)

    return anyio.run(run)


def kept(folder):
    return sorted(one.name for one in folder.rglob("*") if one.is_file())


def test_a_file_is_found_by_its_owner_alone(tmp_path):
    made = receive(tmp_path, [b"a,b\n", b"1,2\n"])
    found, path = Uploads(tmp_path).find(made.id, "ada")
    assert path.read_bytes() == b"a,b\n1,2\n"
    assert (found.name, found.size_bytes) == ("rows.csv", 8)
    for name, owner in ((made.id, "eve"), ("../" + made.id, "ada"), ("", "ada"), ("x" * 22, "ada")):
        with pytest.raises(NotFound):
            Uploads(tmp_path).find(name, owner)


@pytest.mark.parametrize(
    ("pieces", "options", "kind"),
    [
        ([b"12345", b"6"], {"max_bytes": 5}, TooLarge),
        ([], {}, Invalid),
        ([b"1", RuntimeError("the browser went away")], {}, RuntimeError),
        ([b"1"], {"name": "rows.exe"}, Invalid),
    ],
)
def test_what_is_refused_leaves_nothing_behind(tmp_path, pieces, options, kind):
    with pytest.raises(kind):
        receive(tmp_path, pieces, **options)
    assert kept(tmp_path) == []


def test_a_file_of_the_largest_size_is_taken(tmp_path):
    assert receive(tmp_path, [b"12345"], max_bytes=5).size_bytes == 5


def test_all_files_together_are_bounded_and_old_ones_make_room(tmp_path, monkeypatch):
    first = receive(tmp_path, [b"x" * 1_000])
    used = sum(one.stat().st_size for one in tmp_path.rglob("*") if one.is_file())
    monkeypatch.setattr(uploads, "MAX_ALL_BYTES", used + 10)
    with pytest.raises(TooLarge, match="removed after a day"):
        receive(tmp_path, [b"x" * 11])
    folder = tmp_path / "console" / "uploads" / first.id
    old = time.time() - 90_000
    os.utime(folder, (old, old))
    assert receive(tmp_path, [b"x" * 11]).size_bytes == 11
    assert not folder.exists()


def test_a_pickle_is_refused_with_the_safe_forms(tmp_path):
    with pytest.raises(Invalid) as refused:
        receive(tmp_path, [b"x"], name="model.pkl", suffixes=(".onnx", ".skops"))
    assert "skops" in refused.value.hint


@pytest.mark.parametrize(
    ("name", "kept_name"),
    [
        ("../../etc/passwd.csv", "passwd.csv"), ("C:\\Users\\x\\rows.csv", "rows.csv"),
        ("a\nb\x00.csv", "ab.csv"), ("x" * 500 + ".csv", "x" * 124 + ".csv"),
    ],
)  # fmt: skip
def test_names_keep_no_folder_and_no_control_character(name, kept_name):
    assert plain_name(name) == kept_name


@pytest.mark.parametrize("name", ["", "..", "/", "\x00"])
def test_a_file_without_a_name_is_refused(name):
    with pytest.raises(Invalid, match="no name"):
        plain_name(name)


@pytest.mark.parametrize("content", [b"PAR1 and no more", b""])
def test_an_error_of_a_task_shows_no_place_of_an_upload(
    tmp_path, cancer_bundle, monkeypatch, content
):
    monkeypatch.chdir(tmp_path)  # a task goes to the folder of its job
    folder = tmp_path / "console" / "uploads" / ("a" * 22)
    folder.mkdir(parents=True)
    (folder / "file.parquet").write_bytes(content)
    job = {"model": str(cancer_bundle), "from": f"{folder}/file.parquet", "to": f"{folder}/x.csv"}
    with pytest.raises(Invalid) as refused:
        inline_jobs(Settings(home=tmp_path)).answer(
            Task(kind="preview", input=job, folder=str(folder))
        )
    assert "file.parquet" in refused.value.message
    assert str(tmp_path) not in refused.value.message + refused.value.hint
