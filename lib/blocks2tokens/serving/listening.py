"""Listening: the application on a port, with time limits, and an end that leaves nobody without an answer.

    SIGTERM --> no new connections --> answers go on --GRACE seconds--> cut where they are, and sent

A connection owes the rest of a request from its first byte on, and has READ_SECONDS for it. uvicorn limits
only how long a connection may stay idle between two requests.
"""

import asyncio
import socket
from collections.abc import Callable

import h11
import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.h11_impl import H11Protocol

from blocks2tokens.serving.server import READ_SECONDS

GRACE = 20  # seconds for answers to end by themselves
LAST = 5  # and for what was cut to be sent
TOO_LATE = b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class Connection(H11Protocol):
    """One connection, closed if its caller does not send the rest of a request in time."""

    seconds = READ_SECONDS
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport) -> None:
        """Begin with the time running: nobody connects in order to say nothing."""
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Take some bytes; a request that is complete stops the time."""
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc) -> None:
        """Forget about the time."""
        super().connection_lost(exc)
        self._stop()

    def _watch(self):
        if self.conn.their_state not in (h11.IDLE, h11.SEND_BODY):
            self._stop()
        elif self._timer is None:
            self._timer = self.loop.call_later(self.seconds, self._too_late)

    def _stop(self):
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _too_late(self):
        """Close the connection, unless the application is reading: it has a limit of its own, and says so."""
        self._timer = None
        if self.transport.is_closing() or self.conn.our_state is h11.SEND_RESPONSE:
            return
        if self.conn.our_state is h11.IDLE and self.conn.trailing_data[0]:
            self.transport.write(TOO_LATE)
        self.transport.close()


class Server(uvicorn.Server):
    """uvicorn's server, which at its end cuts the answers that take too long."""

    def __init__(self, app: Starlette, say: Callable[[str], None]):
        """Serve an application that `server.app` has made; `say` is told what the end waits for."""
        limits = {"timeout_graceful_shutdown": GRACE + LAST, "timeout_keep_alive": 15}
        quiet = {"log_level": "error", "access_log": False, "server_header": False}
        super().__init__(
            uvicorn.Config(app, http=Connection, ws="none", lifespan="off", loop="asyncio", **limits, **quiet)
        )
        self._service, self._say = app.state.service, say

    async def shutdown(self, sockets=None) -> None:
        """Let answers end by themselves for a while; then cut them, and send what there is."""
        if n := len(self._service.jobs):
            self._say(f"{n} unfinished: up to {GRACE} seconds for them; Ctrl-C ends at once")
        timer = asyncio.get_running_loop().call_later(GRACE, self._service.cut)
        try:
            await super().shutdown(sockets)
        finally:
            timer.cancel()


def bound(host: str, port: int) -> socket.socket:
    """Return a socket that listens at an address; OSError, such as of a port that is taken."""
    family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
    return socket.create_server((host, port), family=family)


def address(listening: socket.socket) -> str:
    """Return the address of a listening socket as a browser takes it."""
    host, port = listening.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
