from __future__ import annotations

import pytest

# vLLM and what it imports warn about their own future.
pytestmark = [pytest.mark.engine, pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")]


def hashes(request: list[bytes]) -> list[bytes]:
    return request


def test_hashes_depend_on_the_request_and_on_the_block() -> None:
    from serve.engines.steering_scheduler import salted

    blocks = [b"one block's hash", b"another's hash.."]
    mine, yours = salted(hashes, "mine")(blocks), salted(hashes, "yours")(blocks)
    assert len({*blocks, *mine, *yours}) == 6
    assert [len(h) for h in mine] == [len(h) for h in blocks]
    assert salted(hashes, "mine")(blocks) == mine
