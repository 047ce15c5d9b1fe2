"""Work that nobody awaits: when it ends by itself, the log says why.

Knows nothing about what the work is.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

from serve.errors import ConfigurationError

logger = logging.getLogger("palate.background")


async def guarded(work: Callable[[], Awaitable[None]]) -> None:
    """Do work to its end, and log an error instead of keeping it in a task that nobody looks at."""
    try:
        await work()
    except ConfigurationError as error:
        logger.critical("%s", error.message)
    except Exception as error:
        logger.critical("work in the background ended: %s", type(error).__name__, exc_info=error)
