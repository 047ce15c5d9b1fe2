"""An HTTP listener on a running event loop: uvicorn, on a port that several processes of a node may share."""

from __future__ import annotations

import asyncio
import socket

import uvicorn
from starlette.types import ASGIApp

from serve.config import Config
from serve.errors import EngineUnavailable

BACKLOG = 2_048


class Listener:
    """Serves an application until `shutdown`; made on the event loop it runs on."""

    def __init__(self, app: ASGIApp, config: Config) -> None:
        """Bind and start. Raises OSError if the port cannot be bound."""
        host = config.http.host
        self._socket = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self._socket.bind((host, config.http.port))
        self._server = uvicorn.Server(
            uvicorn.Config(
                app,
                access_log=False,
                backlog=BACKLOG,
                lifespan="off",
                log_level="warning",
                server_header=False,
                timeout_graceful_shutdown=int(config.engine.drain_timeout_s) or None,
                timeout_keep_alive=75,
            )
        )
        self._task = asyncio.get_running_loop().create_task(self._server.serve(sockets=[self._socket]))

    def check_health(self) -> None:
        """Raise EngineUnavailable if the listener has stopped."""
        if self._task.done():
            raise EngineUnavailable("The HTTP listener has stopped.")

    async def shutdown(self) -> None:
        """Stop accepting, let running requests finish, and close."""
        self._server.should_exit = True
        await asyncio.gather(self._task, return_exceptions=True)
        self._socket.close()
