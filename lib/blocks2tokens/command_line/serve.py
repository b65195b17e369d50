"""serve: a model behind OpenAI's protocol, until Ctrl-C or SIGTERM."""

import errno
from pathlib import Path

import blocks2tokens as b2t
from blocks2tokens.command_line.answer import counted, load
from blocks2tokens.command_line.notice import Notice, say
from blocks2tokens.serving.protocol import is_local

NEEDED = ("starlette", "uvicorn", "h11")  # the extra "serve"

EXAMPLE = """\
curl {address}/v1/chat/completions -H 'Content-Type: application/json'{key} \\
  -d '{{"messages": [{{"role": "user", "content": "Why is the sky blue?"}}], "max_tokens": 60}}'"""


def run(args) -> None:
    """Serve a model; print where, and an example to try."""
    listening, app = _installed()
    check_key(args.host, args.api_key)
    with listen(listening, args.host, args.port) as socket:
        model = load(args.model, args.threads, args.chat_template)
        with b2t.Batcher(model, args.slots) as batcher:
            with Notice("warming up"):
                list(batcher.submit([0], 2))
                list(batcher.submit([0, 0], 1))  # two are a prompt, and go another way
            name = Path(args.model).stem
            server = listening.Server(app(model, batcher, name, args.api_key), say)
            print(greeting(listening.address(socket), name, args), flush=True)
            server.run([socket])


def _installed():
    """Return what serves, which needs packages that nothing else does."""
    try:
        from blocks2tokens.serving import listening, server
    except ModuleNotFoundError as error:
        if error.name not in NEEDED:
            raise
        missing = f'serve needs the package {error.name}: pip install ".[serve]" brings it'
        raise b2t.UnsupportedError(missing) from None
    return listening, server.app


def check_key(host: str, key: str | None) -> None:
    """Raise ValueError for a server that anybody in the network could use."""
    if not is_local(host) and key is None:
        raise ValueError(
            f"--host {host}: whoever reaches this machine could use the model; give an --api-key"
        )


def listen(listening, host: str, port: int):
    """Return a listening socket; an error says in one line what is wrong with the address."""
    try:
        return listening.bound(host, port)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise ValueError(f"port {port} is taken; --port chooses another, 0 any free one") from None
        raise ValueError(f"--host {host} --port {port}: {error.strerror or error}") from None


def greeting(address: str, name: str, args) -> str:
    """Return what is printed when the server is ready."""
    key = "" if args.api_key is None else " -H 'Authorization: Bearer KEY'"
    example = EXAMPLE.format(address=address, key=key)
    slots = counted(args.slots, "answer")
    return (
        f"{name}: {slots} at once, more wait; Ctrl-C ends\n"
        f"  {address}     a page to chat\n"
        f"  {address}/v1  for programs that speak OpenAI's protocol\n\n{example}"
    )
