"""Progress that is said while something else goes on."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from serve.jobs.load.progress import repeated, replaced


async def test_it_is_said_again_and_again_until_the_end() -> None:
    said: list[float] = []
    heard = asyncio.Event()
    loop = asyncio.get_running_loop()

    def say(held_s: float) -> None:
        said.append(held_s)
        if len(said) == 3:
            loop.call_soon_threadsafe(heard.set)

    async with repeated(say, 0.01):
        await asyncio.wait_for(heard.wait(), 30.0)
    num_said = len(said)
    assert said == sorted(said)
    assert said[0] >= 0.01
    await asyncio.sleep(0.05)
    assert len(said) <= num_said + 1  # the one that was being said at the end


async def test_what_goes_wrong_in_saying_does_not_disturb_and_is_raised_at_the_end() -> None:
    failed = asyncio.Event()
    loop = asyncio.get_running_loop()

    def say(held_s: float) -> None:
        loop.call_soon_threadsafe(failed.set)
        raise RuntimeError("no words")

    steps = []

    async def work() -> None:
        async with repeated(say, 0.01):
            await asyncio.wait_for(failed.wait(), 30.0)
            await asyncio.sleep(0.05)
            steps.append("worked on")

    with pytest.raises(RuntimeError, match="no words"):
        await work()
    assert steps == ["worked on"]


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    replaced(path, "1")
    opened = path.open()
    replaced(path, "22")
    assert opened.read() == "1"  # whoever reads it meanwhile has the old text
    opened.close()
    assert path.read_text() == "22"
    assert [one.name for one in tmp_path.iterdir()] == ["figures.json"]
