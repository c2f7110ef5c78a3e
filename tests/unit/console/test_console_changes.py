"""Open pages learn of changes of the catalogue; streams are bounded, and end with the process."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import pytest
from tests.pace import is_within

from bascule.app import open_catalogue, open_endpoints
from bascule.console.changes import MAX_STREAMS, Changes

WITHIN_S = 20.0
LEAST_S = 1.5


@pytest.fixture
def changes(settings):
    made = Changes(lambda: open_catalogue(settings))
    yield made
    made.end()


async def until_changed(stream):
    """The text of the first event; comments and the first lines are passed over."""
    async with asyncio.timeout(WITHIN_S):
        async for text in stream:
            if "event: changed" in text:
                return text
    return ""


async def began(stream):
    """Start a stream and have its thread look once."""
    first = await anext(stream)
    await asyncio.sleep(0)
    return first


def held():
    """Of a session that goes on."""
    return True


def deploy(settings, version):
    open_endpoints(settings).deploy(version, by="ada")


def test_a_page_is_told_once_of_a_change_and_not_before(changes, settings):
    async def play():
        stream = changes.stream("", held, least_s=0.0)
        assert (await began(stream)).startswith("retry: 2000\nid: ")
        task = asyncio.ensure_future(until_changed(stream))
        await asyncio.sleep(1.5)
        assert not task.done(), "nothing has changed"
        await asyncio.to_thread(deploy, settings, "rain/2")
        assert (await task).startswith("id: ")
        await stream.aclose()

    asyncio.run(play())


def test_a_page_that_comes_back_is_told_of_what_it_has_missed(changes):
    async def play():
        stream = changes.stream("of-another-process-7", held, least_s=0.0)
        await began(stream)
        assert await until_changed(stream)
        await stream.aclose()

    asyncio.run(play())


def test_changes_in_quick_succession_are_told_together(changes, settings):
    async def play():
        told_s = []

        async def note():
            while await until_changed(stream):
                told_s.append(asyncio.get_running_loop().time())

        stream = changes.stream("another", held, least_s=LEAST_S)
        await began(stream)
        noting = asyncio.ensure_future(note())
        for version in ("rain/2", "rain/1", "rain/2", "rain/1"):
            await asyncio.to_thread(deploy, settings, version)
            await asyncio.sleep(0.3)
        await asyncio.sleep(2 * LEAST_S)
        noting.cancel()
        assert len(told_s) > 1, "of what it has missed, and of the last"
        assert min(after - before for before, after in pairwise(told_s)) > LEAST_S / 2

    asyncio.run(play())


def test_streams_are_bounded_and_end_with_the_process(changes):
    async def play():
        streams = [changes.stream("", held) for _ in range(MAX_STREAMS)]
        for one in streams:
            await began(one)
        assert not changes.has_room
        await streams.pop().aclose()
        assert changes.has_room
        changes.end()
        async with asyncio.timeout(WITHIN_S):
            for one in streams:
                assert [text async for text in one] == []
        assert changes._streams == 0

    asyncio.run(play())


def test_the_stream_of_a_session_that_ends_ends_within_a_second(changes):
    """It went on for ten minutes."""
    ended = False

    def holds():
        return not ended

    async def play():
        nonlocal ended
        stream = changes.stream("", holds)
        await began(stream)
        rest = asyncio.ensure_future(until_changed(stream))
        await asyncio.sleep(1.5)
        assert not rest.done()
        ended, began_s = True, asyncio.get_running_loop().time()
        assert await rest == ""
        assert is_within(asyncio.get_running_loop().time() - began_s, 1.5)
        assert changes._streams == 0

    asyncio.run(play())
