"""A server in a thread of this process, on a port of its own.

with serving(model, slots=4) as live:
    live.address                      http://127.0.0.1:PORT
    live.post("/v1/completions", {})  (status, headers, JSON)
    live.talk(b"GET / HTTP/1.1...")   all that comes back over a bare connection
"""

import http.client
import json
import socket
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass

import blocks2tokens as b2t
from blocks2tokens.serving import listening, server

WAIT = 300  # seconds; only a test that has failed waits as long
NAME = "small"


@dataclass
class Live:
    """A running server, and ways to reach it that no client library would take."""

    server: listening.Server
    service: server.Service
    batcher: b2t.Batcher
    port: int
    said: list[str]

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def request(self, method, path, body=None, headers=()):
        """Return the status, the headers and the body of what is answered."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=WAIT)
        try:
            connection.request(method, path, body, dict(headers))
            response = connection.getresponse()
            return response.status, response.headers, response.read()
        finally:
            connection.close()

    def post(self, path, body, **headers):
        """Return the status, the headers and the JSON answered to JSON, or to bytes that pass for it."""
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        status, found, answer = self.request(
            "POST", path, raw, {"Content-Type": "application/json"} | headers
        )
        return status, found, json.loads(answer)

    def connected(self) -> socket.socket:
        """Return a bare connection."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=WAIT)

    def talk(self, data: bytes) -> bytes:
        """Send bytes; return all that comes back until the server closes."""
        with self.connected() as connection:
            connection.sendall(data)
            return b"".join(iter(lambda: connection.recv(65536), b""))

    def wait_until_idle(self) -> None:
        """Wait until no job is left."""
        wait_for(lambda: not self.service.jobs)


def wait_for(condition) -> None:
    """Wait until something is so."""
    end = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


@contextmanager
def serving(model, slots=4, key=None):
    """Serve a model until the end of the block."""
    with b2t.Batcher(model, slots) as batcher:
        app = server.app(model, batcher, NAME, key)
        listener = listening.bound("127.0.0.1", 0)
        port = listener.getsockname()[1]
        said: list[str] = []
        running = listening.Server(app, said.append)
        thread = threading.Thread(target=running.run, args=([listener],))
        thread.start()
        try:
            yield Live(running, app.state.service, batcher, port, said)
        finally:
            running.should_exit = True
            thread.join(WAIT)
            assert not thread.is_alive()
