"""Work that nobody awaits does not end unseen."""

from __future__ import annotations

import asyncio
import logging

import pytest

from serve.background import guarded
from serve.errors import ConfigurationError


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ConfigurationError("Another layout."), "Another layout."),
        (KeyError("ann"), "work in the background ended: KeyError"),
    ],
)
async def test_an_unexpected_end_is_logged(caplog: pytest.LogCaptureFixture, error: Exception, line: str) -> None:
    async def fail() -> None:
        raise error

    with caplog.at_level(logging.CRITICAL, "palate"):
        await guarded(fail)
    assert [record.getMessage() for record in caplog.records] == [line]


async def test_being_cancelled_is_no_unexpected_end(caplog: pytest.LogCaptureFixture) -> None:
    task = asyncio.create_task(guarded(lambda: asyncio.sleep(60)))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not caplog.records
