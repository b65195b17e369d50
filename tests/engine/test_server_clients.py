"""Many callers at once, callers who leave, what no caller would send, the page in a browser, and the end."""

import http.client
import json
import random
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from argparse import Namespace
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from conftest import absent
from live_server import NAME, WAIT, serving, wait_for
from small_model import small_model

import blocks2tokens as b2t
from blocks2tokens.command_line import main
from blocks2tokens.command_line import serve as serve_command
from blocks2tokens.serving import listening, server
from blocks2tokens.serving.scheduler import Scheduler

openai = pytest.importorskip("openai")

HELLO = {"messages": [{"role": "user", "content": "Hello"}]}
CHROMIUM = Path("/usr/bin/chromium")


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """A chat model that says something else to each question, and seldom stops by itself."""
    return small_model(context_length=4096).write(tmp_path_factory.mktemp("models") / "small.gguf")


@pytest.fixture(scope="module")
def model(path):
    return b2t.load(path)


@pytest.fixture
def endless(model, monkeypatch):
    """The model, without a token to stop at."""
    monkeypatch.setattr(model.tokenizer, "stop_tokens", frozenset())
    return model


def alone(model, question, max_tokens, **sampling):
    """Return what the engine says to a question when nobody else asks."""
    ids = model.tokenizer.encode_chat([{"role": "user", "content": question}])
    found = model.generate(ids, max_tokens, b2t.Sampler(**sampling))
    return "".join(model.tokenizer.decode_stream(found, whole=True))


# --- Many at once -----------------------------------------------------------------------------------------

CLIENTS, TOKENS = 64, 16


def ask(live, model_name, i):
    """Ask as client i does: whole, as events, slowly, or leaving after the first events."""
    client = openai.OpenAI(base_url=f"{live.address}/v1", api_key="none", max_retries=0, timeout=WAIT)
    how = ("whole", "events", "slow", "gone", "cut off")[i % 5]
    sampling = {"temperature": 0} if i % 2 else {"temperature": 1.0, "seed": i}
    fields = {
        "model": model_name,
        "max_tokens": TOKENS,
        "messages": [{"role": "user", "content": f"Cat {i}?"}],
    }
    fields |= sampling
    if how == "whole":
        return how, sampling, client.chat.completions.create(**fields).choices[0].message.content
    if how == "cut off":  # the question is sent, and nobody waits
        body = json.dumps(fields).encode()
        with live.connected() as connection:
            head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
            connection.sendall(head.encode() + b"Content-Type: application/json\r\n\r\n" + body)
        return how, sampling, None
    text = ""
    with client.chat.completions.create(**fields, stream=True) as parts:
        for n, part in enumerate(parts):
            text += part.choices[0].delta.content or ""
            if how == "slow":
                time.sleep(0.02)
            if how == "gone" and n == 3:
                return how, sampling, None
    return how, sampling, text


def test_each_of_64_clients_gets_what_it_would_get_alone(model):
    with serving(model, slots=8) as live:
        with ThreadPoolExecutor(CLIENTS) as pool:
            answers = list(pool.map(lambda i: ask(live, NAME, i), range(CLIENTS)))
        live.wait_until_idle()
        assert live.request("GET", "/health")[0] == 200
        cancelled = live.service.metrics.cancelled
    assert cancelled > 0
    for i, (how, sampling, text) in enumerate(answers):
        if how not in ("gone", "cut off"):
            assert text == alone(model, f"Cat {i}?", TOKENS, **sampling), (i, how)


@pytest.mark.parametrize("stream", [False, True])
def test_who_leaves_gives_the_slot_back(endless, stream):
    long = HELLO | {"max_tokens": 4000, "stream": stream}
    with serving(endless, slots=1) as live:
        connection = http.client.HTTPConnection("127.0.0.1", live.port, timeout=WAIT)
        connection.request(
            "POST", "/v1/chat/completions", json.dumps(long), {"Content-Type": "application/json"}
        )
        wait_for(lambda: live.service.jobs and next(iter(live.service.jobs)).tokens > 2)
        connection.close()
        live.wait_until_idle()
        metrics = live.service.metrics
        assert (metrics.cancelled, metrics.completion_tokens < 4000) == (1, True)
        assert live.post("/v1/chat/completions", HELLO | {"max_tokens": 2})[0] == 200


def test_a_caller_who_does_not_read_holds_nobody_up(endless):
    with serving(endless, slots=2) as live:
        with live.connected() as deaf:
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            body = json.dumps(HELLO | {"max_tokens": 1500, "stream": True, "logprobs": True}).encode()
            head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
            deaf.sendall(head.encode() + b"Content-Type: application/json\r\n\r\n" + body)
            wait_for(lambda: live.service.jobs)
            assert live.post("/v1/chat/completions", HELLO | {"max_tokens": 3})[0] == 200
            (job,) = live.service.jobs
            wait_for(lambda: job.over)  # written to the end, though nobody reads
        live.wait_until_idle()


def test_a_full_queue_says_when_to_come_again(model, monkeypatch):
    def full(*_):
        raise server.QueueFull("full")

    with serving(model) as live:
        monkeypatch.setattr(live.batcher, "submit", full)
        live.service.metrics.duration.add(41.0)
        status, headers, answer = live.post("/v1/chat/completions", HELLO)
        assert (status, answer["error"]["code"], headers["Retry-After"]) == (429, "queue_full", "11")
        client = openai.OpenAI(base_url=f"{live.address}/v1", api_key="none", max_retries=0)
        with pytest.raises(openai.RateLimitError):
            client.completions.create(model=NAME, prompt="x")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("error", [ValueError("grammar: no token goes on"), OSError("disk")])
def test_an_answer_that_fails_fails_alone(model, monkeypatch, stream, error):
    usual = b2t.Sampler.__call__

    def failing(self, logits, history=()):
        if self.temperature == 1.25:
            raise error
        return usual(self, logits, history)

    monkeypatch.setattr(b2t.Sampler, "__call__", failing)
    fields = HELLO | {"max_tokens": 3, "temperature": 1.25, "stream": stream}
    with serving(model) as live:
        status, _, raw = live.request(
            "POST", "/v1/chat/completions", json.dumps(fields), {"Content-Type": "application/json"}
        )
        expected = 400 if isinstance(error, ValueError) else 500
        told = json.loads(raw.split(b"\n\n")[-2].removeprefix(b"data: ") if stream else raw)["error"]
        assert status == (200 if stream else expected)
        assert ("grammar" in told["message"]) == (expected == 400)
        assert "disk" not in told["message"]
        assert live.post("/v1/chat/completions", HELLO | {"max_tokens": 2})[0] == 200
        assert not live.service.jobs


# --- What no caller would send ----------------------------------------------------------------------------

VALUES = [None, True, False, 0, 1, -1, 2.5, 1e308, 10**30, "", "x", "\ud800", [], [1], ["x"], [[]], {}]
VALUES += [
    {"type": "text"},
    {"type": "json_object"},
    {"include_usage": True},
    [{"role": "user", "content": "x"}],
]
VALUES += [{"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}, {"\0": {}}]


def odd_body(rng: random.Random) -> bytes:
    """Return a request that is right but for some fields, or some bytes."""
    known = [*server.protocol.CHAT, *server.protocol.TEXT, "colour"]
    fields = {"max_tokens": 1} | (HELLO if rng.random() < 0.5 else {"prompt": "x"})
    for _ in range(rng.randrange(4)):
        fields[rng.choice(known)] = rng.choice(VALUES)
    if isinstance(fields.get("max_tokens"), int):
        fields["max_tokens"] = min(fields["max_tokens"], 2)
    if isinstance(fields.get("max_completion_tokens"), int):
        fields["max_completion_tokens"] = min(fields["max_completion_tokens"], 2)
    raw = bytearray(json.dumps(fields).encode())
    for _ in range(rng.choice([0, 0, 0, 1, 3])):
        raw[rng.randrange(len(raw))] = rng.randrange(256)
    return bytes(raw[: rng.choice([None, None, None, len(raw) // 2])])


def test_nothing_that_is_sent_makes_the_server_fail(model):
    rng = random.Random(0)
    seen = set()
    with serving(model) as live:
        connection = http.client.HTTPConnection("127.0.0.1", live.port, timeout=WAIT)
        for _ in range(400):
            path = rng.choice(["/v1/chat/completions", "/v1/completions"])
            body = odd_body(rng)
            connection.request("POST", path, body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            answer = response.read()
            assert response.status in (200, 400, 404), (body, answer)
            seen.add(response.status)
            if response.status != 200:
                assert json.loads(answer)["error"]["message"], body
        connection.close()
        live.wait_until_idle()
    assert {200, 400} <= seen


# --- In a browser -----------------------------------------------------------------------------------------


@pytest.fixture
def page():
    """A page of a real browser."""
    sync_api = pytest.importorskip("playwright.sync_api")
    if not CHROMIUM.exists():
        absent(str(CHROMIUM), "apt install chromium")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()
        page.set_default_timeout(1000 * WAIT)
        yield page
        browser.close()


def test_the_page_chats(page, model):
    problems = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    with serving(model) as live:
        page.goto(live.address)
        page.get_by_text(NAME, exact=True).wait_for()
        page.get_by_text("Settings").click()
        page.get_by_label("Temperature").fill("0")
        page.get_by_label("Longest answer").fill("12")
        page.get_by_label("Message", exact=True).fill("Where is the cat?")
        page.keyboard.press("Enter")
        page.get_by_text("tokens per second").wait_for()
        text = alone(model, "Where is the cat?", 12)
        answers = page.get_by_role("article")
        assert answers.nth(1).locator("div").text_content() == text
        assert page.get_by_role("log").get_attribute("aria-busy") == "false"
        page.get_by_label("Message", exact=True).fill("a second\nline " * 2000)
        page.get_by_role("button", name="Send").click()
        page.get_by_text("context is").wait_for()
        assert "line" in page.get_by_label("Message", exact=True).input_value()  # to be sent again, shorter
        assert answers.count() == 2
        page.get_by_role("button", name="New chat").click()
        assert answers.count() == 0
        live.wait_until_idle()
    assert [text for text in problems if "400" not in text] == []  # the refusal, which is also shown


def test_escape_stops_an_answer_on_the_page(page, endless, monkeypatch):
    turn = Scheduler.turn
    monkeypatch.setattr(Scheduler, "turn", lambda self: time.sleep(0.01) or turn(self))  # as a large model
    with serving(endless, slots=1) as live:
        page.goto(live.address)
        page.get_by_text("Settings").click()
        page.get_by_label("Longest answer").fill("4000")
        page.get_by_label("Message", exact=True).fill("Hello")
        page.keyboard.press("Enter")
        page.get_by_role("button", name="Stop").wait_for()
        wait_for(lambda: live.service.jobs and next(iter(live.service.jobs)).tokens > 5)
        page.keyboard.press("Escape")
        page.get_by_text("Stopped.").wait_for()
        live.wait_until_idle()
        assert live.service.metrics.cancelled == 1


def test_the_page_asks_for_the_key(page, model):
    with serving(model, key="sesame") as live:
        page.goto(live.address)
        page.get_by_text("asks for its key").wait_for()
        page.keyboard.type("sesame")  # the field has the focus
        page.keyboard.press("Tab")
        page.get_by_text(NAME, exact=True).wait_for()


# --- The program ------------------------------------------------------------------------------------------


@pytest.fixture
def serve():
    """Start `b2t serve` on a free port; return the process and the port."""
    started = []

    def serve(path, *options):
        argv = [sys.executable, "-m", "blocks2tokens", "serve", str(path), "--port", "0", *options]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        started.append(subprocess.Popen(argv, **pipes))
        seen = ""
        while "127.0.0.1:" not in seen:
            line = started[-1].stdout.readline()
            assert line, started[-1].stderr.read()
            seen += line
        return started[-1], int(seen.partition("127.0.0.1:")[2].split()[0])

    yield serve
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.skipif(sys.platform == "win32", reason="it has no SIGTERM")
def test_sigterm_lets_answers_end(serve, path):
    process, port = serve(path, "--slots", "2")
    address = f"http://127.0.0.1:{port}/v1"
    client = openai.OpenAI(base_url=address, api_key="none", max_retries=0, timeout=WAIT)
    fields = {"model": path.stem, "max_tokens": 40, "temperature": 0, "stream": True, "prompt": "The cat"}
    parts = iter(client.completions.create(**fields))
    first = [next(parts) for _ in range(2)]
    process.send_signal(signal.SIGTERM)
    rest = list(parts)
    model = b2t.load(path)
    found = list(model.generate(model.tokenizer.encode("The cat"), 40))
    text = "".join(part.choices[0].text for part in [*first, *rest])
    assert text == "".join(model.tokenizer.decode_stream(found)) and rest[-1].choices[0].finish_reason
    _, err = process.communicate(timeout=WAIT)
    assert process.returncode == 143 and "Traceback" not in err
    with pytest.raises(openai.APIConnectionError):
        client.completions.create(**fields)


def test_what_takes_too_long_is_cut_at_the_end_and_sent(endless, monkeypatch):
    monkeypatch.setattr(listening, "GRACE", 0.2)
    answers = []
    with serving(endless) as live:
        asking = threading.Thread(
            target=lambda: answers.append(live.post("/v1/chat/completions", HELLO | {"max_tokens": 4000}))
        )
        asking.start()
        wait_for(lambda: live.service.jobs and next(iter(live.service.jobs)).tokens > 2)
    asking.join(WAIT)
    assert live.said == ["1 unfinished: up to 0.2 seconds for them; Ctrl-C ends at once"]
    ((status, _, answer),) = answers
    choice = answer["choices"][0]
    assert (status, choice["finish_reason"]) == (200, "length")
    assert choice["message"]["content"] and answer["usage"]["completion_tokens"] < 4000


@pytest.fixture
def refused(capsys):
    """Run `b2t serve` in this process; return the one line of its error."""

    def refused(*argv):
        assert main(["serve", *map(str, argv)]) == 1
        out, err = capsys.readouterr()
        assert out == "" and err.startswith("error: ") and err.count("\n") == 1
        return err

    return refused


def test_a_port_that_is_taken_is_one_line(refused, path):
    with listening.bound("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        assert f"port {port} is taken" in refused(path, "--port", port)
    assert "--host 192.0.2.1" in refused(path, "--host", "192.0.2.1", "--api-key", "sesame")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org", ""])
def test_a_host_beyond_this_machine_needs_a_key(refused, path, host):
    assert "--api-key" in refused(path, "--host", host)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.9.9.9"])
def test_this_machine_needs_none(host):
    serve_command.check_key(host, None)
    serve_command.check_key("0.0.0.0", "sesame")


@pytest.mark.parametrize("key", ["", " x", "schl\u00fcssel", "a\nb"])
def test_a_key_that_is_no_header_is_an_error_of_usage(path, key, capsys):
    with pytest.raises(SystemExit):
        main(["serve", str(path), "--api-key", key])
    assert "--api-key" in capsys.readouterr().err


def test_without_its_packages_it_says_what_to_install(refused, path, monkeypatch):
    monkeypatch.delitem(sys.modules, "blocks2tokens.serving.listening")
    monkeypatch.delattr("blocks2tokens.serving.listening")
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert 'uvicorn: pip install ".[serve]"' in refused(path, "--port", 0)


def test_the_greeting_can_be_pasted(model):
    args = Namespace(api_key="sesame", slots=4)
    with serving(model, key="sesame") as live:
        said = serve_command.greeting(live.address, NAME, args)
        assert "sesame" not in said  # a screen may be shared
        words = shlex.split(said.partition("\n\n")[2].replace("\\\n", " ").replace("KEY", "sesame"))
        assert words[0] == "curl"
        headers = dict(words[i + 1].split(": ") for i, word in enumerate(words) if word == "-H")
        assert (
            live.request("POST", words[1].removeprefix(live.address), words[words.index("-d") + 1], headers)[
                0
            ]
            == 200
        )
