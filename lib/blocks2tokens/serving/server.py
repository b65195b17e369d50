"""The server: one model behind OpenAI's protocol.

    GET   /                       a page to chat (page.html)
    GET   /health  /metrics       is it there; what has it done (metrics.py)
    GET   /v1/models
    POST  /v1/chat/completions    messages -> an answer, whole or as server-sent events
    POST  /v1/completions         a text -> its continuation

    body --protocol.py--> Wanted --encode--> ids --job.py--> pieces of text --replies.py--> JSON

`app` is an ASGI application; listening.py puts it on a port.
"""

import asyncio
import hmac
from collections.abc import AsyncIterator
from math import ceil
from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, Response, StreamingResponse
from starlette.routing import Route

from blocks2tokens.generate import Model
from blocks2tokens.grammar import Grammar
from blocks2tokens.serving import protocol, replies
from blocks2tokens.serving.job import Job
from blocks2tokens.serving.metrics import Metrics
from blocks2tokens.serving.protocol import RequestError, Wanted, is_local, refused
from blocks2tokens.serving.scheduler import Batcher, QueueFull

MAX_BODY = 2**20  # bytes: about 250,000 tokens of English
READ_SECONDS = 30  # for a whole request to arrive
OPEN = {"/", "/health"}  # without a key
GONE = 499  # as nginx counts a caller who left; nobody reads it
SELF_CONTAINED = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
PAGE_HEADERS = {
    "Content-Security-Policy": SELF_CONTAINED,
    "X-Content-Type-Options": "nosniff",
}


def app(model: Model, batcher: Batcher, name: str, key: str | None = None) -> Starlette:
    """Return the application that serves `model` under a name; `app.state.service` is its Service.

    With a key every caller must show it. Without one only those are answered who address this very machine:
    else a page of any web site could, by giving its own name this machine's address, ask from a browser here.
    """
    service = Service(model, batcher, name)
    routes = [
        Route("/", service.page),
        Route("/health", service.health),
        Route("/metrics", service.prometheus),
        Route("/v1/models", service.models),
        Route("/v1/models/{name:path}", service.model_named),
        Route("/v1/chat/completions", service.chat, methods=["POST"]),
        Route("/v1/completions", service.complete, methods=["POST"]),
    ]
    handlers = {HTTPException: _http_error, RequestError: _request_error, Exception: _own_error}
    made = Starlette(routes=routes, exception_handlers=handlers)
    made.add_middleware(Guard, key=key)
    made.add_middleware(Counted, metrics=service.metrics, paths={route.path for route in routes})
    made.state.service = service
    return made


class Service:
    """What the routes do; `jobs` are the answers that are being written."""

    def __init__(self, model: Model, batcher: Batcher, name: str):
        self.model, self.batcher, self.name = model, batcher, name
        self.metrics, self.jobs = Metrics(), set()
        self._page = (Path(__file__).parent / "page.html").read_text(encoding="utf-8")

    def cut(self) -> None:
        """End all answers where they are; their callers get what there is."""
        for job in self.jobs:
            job.cut()

    async def page(self, request: Request) -> Response:
        """Return the page to chat."""
        return HTMLResponse(self._page, headers=PAGE_HEADERS)

    async def health(self, request: Request) -> Response:
        """Say that the server is there, and how busy."""
        return _json({"status": "ok", "model": self.name} | self._load())

    async def prometheus(self, request: Request) -> Response:
        """Return all metrics as text."""
        return Response(self.metrics.text(self._load()), media_type="text/plain; version=0.0.4")

    async def models(self, request: Request) -> Response:
        """List the one model that there is."""
        return _json({"object": "list", "data": [self._described()]})

    async def model_named(self, request: Request) -> Response:
        """Describe the model, if that is its name."""
        if (asked := request.path_params["name"]) != self.name:
            message = f"model: {asked!r:.80} is not served here; {self.name!r} is"
            raise RequestError(message, "model", "model_not_found", 404)
        return _json(self._described())

    async def chat(self, request: Request) -> Response:
        """Answer messages."""
        return await self._answer(request, True, replies.ChatReply)

    async def complete(self, request: Request) -> Response:
        """Continue a text."""
        return await self._answer(request, False, replies.TextReply)

    def _described(self):
        context = self.model.config.context_length
        return {
            "id": self.name,
            "object": "model",
            "created": 0,
            "owned_by": "blocks2tokens",
            "context_length": context,
        }

    def _load(self) -> dict[str, int]:
        waiting = sum(job.waits for job in self.jobs)
        return {"slots": self.batcher.slots, "running": len(self.jobs) - waiting, "waiting": waiting}

    # --- One answer ---------------------------------------------------------------------------------------

    async def _answer(self, request, chat, reply_of):
        body = await read(request)
        wanted = protocol.wanted(body, chat, self.name)
        prepared = await asyncio.to_thread(prepare, self.model, wanted)
        job = self._begun(wanted, *prepared)
        reply = reply_of(self.name, self.model.tokenizer, wanted.alternatives is not None)
        if wanted.stream:
            return Events(self, job, events(job, reply, wanted.include_usage))
        try:
            return await unless_gone(request, whole(job, reply))
        except ValueError as error:  # a grammar that the vocabulary cannot go on with
            raise refused(error, "response_format") from None
        finally:
            self.finish(job)

    def _begun(self, wanted, ids, sampler, max_tokens) -> Job:
        try:
            job = Job(self.model, self.batcher, wanted, ids, sampler, max_tokens)
        except QueueFull:
            raise RequestError(
                "too many requests are waiting; try again later", None, "queue_full", 429
            ) from None
        except ValueError as error:  # longer than all pages
            raise refused(error) from None
        self.jobs.add(job)
        return job

    def finish(self, job: Job) -> None:
        """Give a job's slot back, if it still has one, and count what it took."""
        if job not in self.jobs:
            return
        self.jobs.remove(job)
        self.metrics.cancelled += not job.over
        job.cancel()
        self.metrics.prompt_tokens += job.prompt_tokens
        self.metrics.completion_tokens += job.tokens
        if job.over:
            self.metrics.duration.add(job.seconds)
        if job.to_first is not None:
            self.metrics.to_first.add(job.to_first)

    def retry_after(self) -> int:
        """Return in how many seconds a slot may be free, from how long answers have taken so far."""
        return max(1, ceil(self.metrics.duration.mean / self.batcher.slots))


def prepare(model: Model, wanted: Wanted) -> tuple[list[int], object, int]:
    """Return the ids to continue, the sampler, and how many tokens there may be.

    Raises RequestError for what the model's template refuses, for a prompt that leaves no room in the
    context, and for a schema that is none.
    """
    tokenizer, sampler = model.tokenizer, wanted.sampler
    try:
        if wanted.chat:
            ids = tokenizer.encode_chat(wanted.prompt, **wanted.variables)
        elif isinstance(wanted.prompt, str):
            ids = tokenizer.encode(wanted.prompt)
        else:
            ids = [int(i) for i in model.transformer.check_ids(wanted.prompt)]
    except ValueError as error:
        raise refused(error, "messages" if wanted.chat else "prompt") from None
    room = _room(model, ids, "messages" if wanted.chat else "prompt")
    if wanted.schema is not None:
        try:
            sampler = Grammar(tokenizer, wanted.schema).sampler(sampler)
        except ValueError as error:
            raise RequestError(f"response_format: {error}", "response_format") from None
    return ids, sampler, min(wanted.max_tokens, room)


def _room(model: Model, ids: list[int], param: str) -> int:
    """Return how many tokens there is room for behind a prompt."""
    context = model.config.context_length
    if not ids:
        raise RequestError(f"{param}: the prompt is empty", param)
    if len(ids) >= context:
        message = f"{param}: {len(ids):,} tokens, and the model's context is {context:,}"
        raise RequestError(message, param, "context_length_exceeded")
    return context - len(ids)


async def whole(job: Job, reply) -> Response:
    """Return the reply with a whole answer, when it has been written."""
    pieces = [piece async for piece in job.pieces()]
    text = "".join(piece.text for piece in pieces)
    return _json(reply.whole(text, [entry for piece in pieces for entry in piece.entries], job))


async def events(job: Job, reply, include_usage: bool) -> AsyncIterator[bytes]:
    """Yield the events of an answer, each as soon as there is text for it."""
    usage = {"usage": None} if include_usage else {}

    def part(choice):
        return replies.event(reply.part(choice) | usage)

    if (first := reply.first()) is not None:
        yield part(first)
    try:
        async for piece in job.pieces():
            yield part(reply.piece(piece.text, piece.entries))
    except Exception as error:  # the status was sent long ago; an event is the only way to say it
        told = refused(error) if isinstance(error, ValueError) else _own(error)
        yield replies.event(told.body())
        return
    yield part(reply.last(job.ended))
    if include_usage:
        yield replies.event(reply.part(None) | {"usage": replies.usage(job)})
    yield replies.DONE


class Events(StreamingResponse):
    """An answer as server-sent events; if the caller leaves, its job is finished."""

    def __init__(self, service: Service, job: Job, parts: AsyncIterator[bytes]):
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        super().__init__(parts, media_type="text/event-stream", headers=headers)
        self._service, self._job = service, job

    async def __call__(self, scope, receive, send) -> None:
        """Send all events, or as many as the caller stays for."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._service.finish(self._job)


# --- The way in and out -----------------------------------------------------------------------------------


async def read(request: Request) -> bytes:
    """Return the body of a request; RequestError for one too large, too slow, or not said to be JSON.

    No more than MAX_BODY bytes of it are kept; the rest is read and dropped: who is still sending does not
    hear an answer. Only a caller who asks first, "Expect: 100-continue", is told at once.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise RequestError("Content-Type: expected application/json", status=415)
    if "expect" in request.headers and int(request.headers.get("content-length", 0)) > MAX_BODY:
        raise _too_large()
    body, n_bytes = bytearray(), 0
    try:
        async with asyncio.timeout(READ_SECONDS):
            async for part in request.stream():
                n_bytes += len(part)
                if n_bytes <= MAX_BODY:
                    body += part
    except TimeoutError:
        message = f"body: expected all of it within {READ_SECONDS} seconds"
        raise RequestError(message, status=408) from None
    if n_bytes > MAX_BODY:
        raise _too_large()
    return bytes(body)


def _too_large() -> RequestError:
    return RequestError(f"body: expected at most {MAX_BODY:,} bytes", status=413)


async def unless_gone(request: Request, work) -> Response:
    """Return what `work` returns, or give it up when the caller leaves."""
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else Response(status_code=GONE)
    finally:
        task.cancel()
        gone.cancel()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _json(value: object, status: int = 200, headers: dict | None = None) -> Response:
    return Response(replies.encoded(value), status, headers, "application/json")


async def _request_error(request: Request, error: RequestError) -> Response:
    headers = {}
    if error.status == 429:
        headers["Retry-After"] = str(request.app.state.service.retry_after())
    if error.status == 408:  # there may be more to come, which is not the next request
        headers["Connection"] = "close"
    return _json(error.body(), error.status, headers)


async def _http_error(request: Request, error: HTTPException) -> Response:
    """Say, under OpenAI's names, that there is no such path, or that it is asked for in another way."""
    told = RequestError(f"{request.method} {request.url.path}: {error.detail}", status=error.status_code)
    return _json(told.body(), error.status_code, dict(error.headers or {}))


async def _own_error(request: Request, error: Exception) -> Response:
    return _json(_own(error).body(), 500)


def _own(error: Exception) -> RequestError:
    return RequestError(f"the server has failed: {type(error).__name__}", status=500)


class Guard:
    """Lets through who shows the key or, where there is none, who addresses this machine by a local name."""

    def __init__(self, app, key: str | None):
        self._app, self._key = app, key

    async def __call__(self, scope, receive, send) -> None:
        """Answer for those who must not get in."""
        if scope["type"] == "http" and (refusal := self._refusal(Request(scope))) is not None:
            headers = {"WWW-Authenticate": "Bearer"} if refusal.status == 401 else None
            await _json(refusal.body(), refusal.status, headers)(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _refusal(self, request: Request) -> RequestError | None:
        if self._key is None:
            host = request.headers.get("host", "")
            name = host if host.endswith("]") else host.rpartition(":")[0] or host
            message = f"Host: {host!r:.80} is not served without a key, which b2t serve --api-key gives"
            return None if is_local(name) else RequestError(message, status=403)
        shown = request.headers.get("authorization", "")
        right = hmac.compare_digest(shown.encode(), f"Bearer {self._key}".encode())
        if request.url.path in OPEN or right:
            return None
        return RequestError("Authorization: expected Bearer and the key", None, "invalid_api_key", 401)


class Counted:
    """Counts what is answered, by path and status; quiet about callers who leave before they have asked."""

    def __init__(self, app, metrics: Metrics, paths: set[str]):
        self._app, self._metrics, self._paths = app, metrics, paths

    async def __call__(self, scope, receive, send) -> None:
        """Pass a request on and note the status of its answer."""

        path = scope.get("path") if scope.get("path") in self._paths else "other"

        async def noting(message):
            if message["type"] == "http.response.start":
                self._metrics.requests[path, message["status"]] += 1
            await send(message)

        try:
            await self._app(scope, receive, noting)
        except ClientDisconnect:
            await Response(status_code=GONE)(scope, receive, noting)
        except Exception:  # Starlette answers, further out
            self._metrics.requests[path, 500] += 1
            raise
