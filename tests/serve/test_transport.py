from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import msgspec
import pytest
import zmq

from serve.engines.protocol import Delta, Output
from serve.errors import ContextLengthExceeded, EngineUnavailable, InvalidRequest, PalateError, restore
from serve.transport import Failure, Frame, OutputReceiver, OutputSender, ReplyTo
from tests.patience import PATIENCE_S


@pytest.fixture
async def receiver() -> AsyncIterator[OutputReceiver]:
    receiver = OutputReceiver("127.0.0.1")
    yield receiver
    await receiver.shutdown()


def _output(number: int) -> Output:
    return Output(number, 0, [Delta(0, f"text {number}", 1)])


async def test_frames_arrive_in_order_and_apart(receiver: OutputReceiver) -> None:
    sender = OutputSender()
    (first, first_queue), (second, second_queue) = receiver.open(), receiver.open()
    for number in range(100):
        sender.send(first, _output(number))
        sender.send(second, _output(1_000 + number))
    sender.send(first)
    for number in range(100):
        assert (await first_queue.get()).output == _output(number)
        assert (await second_queue.get()).output == _output(1_000 + number)
    assert (await first_queue.get()).is_last
    assert second_queue.empty()
    sender.close()


async def test_one_turn_of_the_loop_is_one_message() -> None:
    with zmq.Context() as context, context.socket(zmq.PULL) as pull:
        port = pull.bind_to_random_port("tcp://127.0.0.1")
        sender = OutputSender()
        for number in range(32):
            sender.send(ReplyTo(f"tcp://127.0.0.1:{port}", f"s{number}"), _output(number))
        await asyncio.sleep(0)
        frames = msgspec.msgpack.decode(await asyncio.to_thread(pull.recv))
        sender.close()
    assert [frame[0] for frame in frames] == [f"s{number}" for number in range(32)]


async def test_strangers_cannot_add_to_a_stream(receiver: OutputReceiver) -> None:
    reply_to, queue = receiver.open()
    stranger = OutputSender()
    stranger.send(ReplyTo(receiver.address, "a guess"), _output(1))
    with zmq.Context() as context, context.socket(zmq.PUSH) as push:
        push.connect(receiver.address)
        push.send(b"not msgpack at all")
        push.send(msgspec.msgpack.encode([{"stream": reply_to.stream}]))
        push.send(msgspec.msgpack.encode([Frame(reply_to.stream, _output(2))]))  # after those: the receiver still reads
    assert (await asyncio.wait_for(queue.get(), PATIENCE_S)).output == _output(2)
    stranger.send(reply_to, _output(3))
    assert (await asyncio.wait_for(queue.get(), PATIENCE_S)).output == _output(3)
    assert queue.empty()
    stranger.close()


async def test_a_closed_stream_is_forgotten(receiver: OutputReceiver) -> None:
    sender = OutputSender()
    (gone, gone_queue), (kept, kept_queue) = receiver.open(), receiver.open()
    receiver.close(gone)
    sender.send(gone, _output(1))
    sender.send(kept, _output(2))
    assert (await asyncio.wait_for(kept_queue.get(), PATIENCE_S)).output == _output(2)
    assert gone_queue.empty()
    sender.close()


@pytest.mark.parametrize(
    "error",
    [
        InvalidRequest("no", param="n", code="x"),
        EngineUnavailable("gone"),
        ContextLengthExceeded.of(9, 8, "messages"),
        PalateError("plain"),
    ],
)
def test_errors_cross_processes_as_themselves(error: PalateError) -> None:
    again = msgspec.msgpack.decode(msgspec.msgpack.encode(Failure.of(error)), type=Failure).error()
    assert type(again) is type(error)
    assert again.body() == error.body()
    assert again.status == error.status


def test_an_unknown_error_becomes_the_general_one() -> None:
    assert type(restore("FromTheFuture", "m", None, None)) is PalateError
