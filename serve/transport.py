"""Tokens from engine replicas to ingress replicas, past Ray's object store.

A Ray call carries each request (so Ray Serve balances, limits, cancels and notices deaths); its tokens take this way:
one ZeroMQ message an engine step holds the outputs of all of an ingress's requests in that step. A stream is named by
128 random bits, so nobody else on the network can add to it; messages are msgpack with a fixed schema, never pickle.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections import defaultdict

import msgspec
import zmq
import zmq.asyncio

from serve.engines.protocol import Output
from serve.errors import PalateError, restore

logger = logging.getLogger("palate.transport")
SEND_HIGH_WATER_MARK = 100_000


class Failure(msgspec.Struct, frozen=True, array_like=True):
    """An error on its way between processes."""

    kind: str
    message: str
    param: str | None = None
    code: str | None = None

    @classmethod
    def of(cls, error: PalateError) -> Failure:
        """Describe an error."""
        return cls(type(error).__name__, error.message, error.param, error.code)

    def error(self) -> PalateError:
        """Make the error again."""
        return restore(self.kind, self.message, self.param, self.code)


class Frame(msgspec.Struct, frozen=True, array_like=True):
    """One stream's news: an output, or its end with or without an error."""

    stream: str
    output: Output | None = None
    failure: Failure | None = None

    @property
    def is_last(self) -> bool:
        """Whether the stream ends here."""
        return self.output is None


class ReplyTo(msgspec.Struct, frozen=True):
    """Where an engine replica sends a stream's frames."""

    address: str
    stream: str


class OutputSender:
    """The engine replica's end. Used from one event loop."""

    def __init__(self) -> None:
        self._context = zmq.Context()
        self._sockets: dict[str, zmq.Socket[bytes]] = {}
        self._outbox: defaultdict[str, list[Frame]] = defaultdict(list)
        self._encoder = msgspec.msgpack.Encoder()
        self._is_scheduled = False

    def send(self, to: ReplyTo, output: Output | None = None, failure: Failure | None = None) -> None:
        """Queue a frame; everything queued in one turn of the event loop leaves in one message."""
        self._outbox[to.address].append(Frame(to.stream, output, failure))
        if not self._is_scheduled:
            self._is_scheduled = True
            asyncio.get_running_loop().call_soon(self._flush)

    def close(self) -> None:
        """Send what is queued and close."""
        self._flush()
        self._context.destroy(linger=500)
        self._sockets.clear()

    def _flush(self) -> None:
        self._is_scheduled = False
        for address, frames in self._outbox.items():
            try:
                self._socket(address).send(self._encoder.encode(frames), zmq.NOBLOCK)
            except zmq.Again:
                # The ingress has stopped reading: it is gone, and Ray will cancel its calls.
                logger.warning("ingress %s does not read; dropped %d frames", address, len(frames))
        self._outbox.clear()

    def _socket(self, address: str) -> zmq.Socket[bytes]:
        if address not in self._sockets:
            socket = self._context.socket(zmq.PUSH)
            socket.setsockopt(zmq.SNDHWM, SEND_HIGH_WATER_MARK)
            socket.setsockopt(zmq.LINGER, 0)
            socket.connect(address)
            self._sockets[address] = socket
        return self._sockets[address]


class OutputReceiver:
    """The ingress replica's end. Used from one event loop."""

    def __init__(self, host: str) -> None:
        self._context = zmq.asyncio.Context()
        self._socket = self._context.socket(zmq.PULL)
        self._socket.setsockopt(zmq.RCVHWM, 0)
        port = self._socket.bind_to_random_port(f"tcp://{host}")
        self.address = f"tcp://{host}:{port}"
        self._decoder = msgspec.msgpack.Decoder(list[Frame])
        self._queues: dict[str, asyncio.Queue[Frame]] = {}
        self._task = asyncio.get_running_loop().create_task(self._receive())

    def open(self) -> tuple[ReplyTo, asyncio.Queue[Frame]]:
        """Open a stream: its name, and the queue its frames arrive in."""
        stream = secrets.token_hex(16)
        queue = self._queues[stream] = asyncio.Queue()
        return ReplyTo(self.address, stream), queue

    def close(self, to: ReplyTo) -> None:
        """Forget a stream; frames that still arrive are dropped."""
        self._queues.pop(to.stream, None)

    async def shutdown(self) -> None:
        """Stop receiving."""
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        self._context.destroy(linger=0)

    async def _receive(self) -> None:
        while True:
            data = await self._socket.recv()
            try:
                frames = self._decoder.decode(data)
            except msgspec.DecodeError:
                logger.warning("dropped a message that is not from an engine")
                continue
            for frame in frames:
                queue = self._queues.get(frame.stream)
                if queue is not None:
                    queue.put_nowait(frame)
