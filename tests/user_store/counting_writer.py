"""A process that counts in one person's posterior by compare-and-set alone, without any log.

Usage: python -m tests.user_store.counting_writer URL INCREMENTS
"""

import asyncio
import sys

import numpy as np

from tests.user_store.samples import ANN, NOW
from user_store.errors import Conflict
from user_store.open import open_store
from user_store.types import StoredPosterior


async def main(url: str, increments: int) -> None:
    store = await open_store(url)
    print("ready", flush=True)
    sys.stdin.readline()  # all begin together
    done = 0
    while done < increments:
        state = await store.get_state(ANN)
        old = state.posterior
        count = int(old.arrays["count"]) if old else 0
        arrays = {"count": np.array(count + 1, np.int64)}
        try:
            new = StoredPosterior(arrays, "counting", state.position, NOW)
            await store.put_posterior(ANN, new, expected_version=old.version if old else 0)
            done += 1
        except Conflict:
            pass
    await store.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
