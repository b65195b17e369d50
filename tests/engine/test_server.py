"""What OpenAI's client reads from the server is what the engine gives; what is refused is named."""

import json
import re
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import jsonschema
import numpy as np
import pytest
from live_server import NAME, serving
from small_model import small_model

import blocks2tokens as b2t
from blocks2tokens.serving import listening, protocol, server
from blocks2tokens.session import MAX_TOKENS
from blocks2tokens.stops import cut_at_stops

openai = pytest.importorskip("openai")

MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Where is the cat?"}]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = small_model(context_length=256).write(tmp_path_factory.mktemp("models") / "small.gguf")
    return b2t.load(path)


@pytest.fixture(scope="module")
def live(model):
    with serving(model) as live:
        yield live


@pytest.fixture(scope="module")
def client(live):
    return openai.OpenAI(base_url=f"{live.address}/v1", api_key="none", max_retries=0)


def expected(model, prompt, max_tokens, **sampling):
    """Return what the engine says to a text or to messages, and the ids of that."""
    tokenizer, chat = model.tokenizer, not isinstance(prompt, str)
    ids = tokenizer.encode_chat(prompt) if chat else tokenizer.encode(prompt)
    found = list(model.generate(ids, max_tokens, b2t.Sampler(**sampling)))
    return "".join(tokenizer.decode_stream(found, whole=chat)), found, ids


def chat(client, **fields):
    return client.chat.completions.create(**{"model": NAME, "messages": MESSAGES, "temperature": 0} | fields)


# --- Answers ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampling", [{"temperature": 0}, {"temperature": 1.5, "top_p": 0.9, "seed": 7}])
def test_a_chat_is_answered_as_by_the_engine(client, model, sampling):
    text, found, ids = expected(model, MESSAGES, 12, **sampling)
    answer = chat(client, max_tokens=12, **sampling)
    choice = answer.choices[0]
    assert (choice.message.role, choice.message.content) == ("assistant", text)
    assert choice.finish_reason == ("length" if len(found) == 12 else "stop")
    assert (answer.model, answer.object, choice.logprobs) == (NAME, "chat.completion", None)
    usage = answer.usage
    assert (usage.prompt_tokens, usage.completion_tokens) == (len(ids), len(found))
    assert usage.total_tokens == len(ids) + len(found)


def test_a_seed_below_zero_is_one_as_well(client):
    same = [chat(client, temperature=1.5, seed=-1, max_tokens=12).choices[0].message.content for _ in "ab"]
    assert (
        same[0] == same[1] != chat(client, temperature=1.5, seed=5, max_tokens=12).choices[0].message.content
    )


@pytest.mark.parametrize("prompt", ["The cat is on", ["The cat is on"], "ids"])
def test_a_text_is_continued_as_by_the_engine(client, model, prompt):
    text, found, ids = expected(model, "The cat is on", 9)
    prompt = ids if prompt == "ids" else prompt
    answer = client.completions.create(model=NAME, prompt=prompt, max_tokens=9, temperature=0)
    assert (answer.choices[0].text, answer.usage.completion_tokens) == (text, len(found))
    assert answer.object == "text_completion" and answer.id.startswith("cmpl-")


def test_without_a_length_an_answer_has_the_usual_one(client, model, monkeypatch):
    room = model.config.context_length - len(model.tokenizer.encode_chat(MESSAGES))
    assert room < MAX_TOKENS
    monkeypatch.setattr(model.tokenizer, "stop_tokens", frozenset())
    answer = chat(client)
    assert (answer.usage.completion_tokens, answer.choices[0].finish_reason) == (room, "length")
    answer = client.completions.create(model=NAME, prompt="The cat", temperature=0)
    assert answer.usage.completion_tokens == protocol.TEXT_TOKENS


def test_events_add_up_to_the_answer(client, model):
    whole = chat(client, max_tokens=30)
    parts = list(chat(client, max_tokens=30, stream=True, stream_options={"include_usage": True}))
    assert {part.id for part in parts} == {parts[0].id} and parts[0].object == "chat.completion.chunk"
    assert parts[0].choices[0].delta.role == "assistant"
    texts = [part.choices[0].delta.content or "" for part in parts[:-1]]
    assert "".join(texts) == whole.choices[0].message.content and sum(map(bool, texts)) > 9
    assert [part.choices[0].finish_reason for part in parts[:-1]] == [None] * (len(parts) - 2) + ["length"]
    assert (parts[-1].choices, parts[-1].usage) == ([], whole.usage)
    assert all(part.usage is None for part in parts[:-1])


def test_a_continuation_comes_as_events(client):
    fields = {"model": NAME, "prompt": "The cat", "max_tokens": 12, "temperature": 0}
    parts = list(client.completions.create(**fields, stream=True))
    assert (
        "".join(part.choices[0].text for part in parts) == client.completions.create(**fields).choices[0].text
    )
    assert parts[-1].choices[0].finish_reason == "length"


def test_events_are_sent_one_by_one_as_the_protocol_has_them(live):
    status, headers, raw = live.request(
        "POST",
        "/v1/completions",
        json.dumps({"prompt": "The cat", "max_tokens": 5, "temperature": 0, "stream": True}),
        {"Content-Type": "application/json; charset=utf-8"},
    )
    assert (status, headers["Content-Type"]) == (200, "text/event-stream; charset=utf-8")
    assert raw.endswith(b"\n\ndata: [DONE]\n\n")
    for event in raw.decode().split("\n\n")[:-2]:
        assert json.loads(event.removeprefix("data: "))["choices"]


def test_no_piece_breaks_a_character(client, model):
    ids = model.tokenizer.encode("Привет, là-bas 🐱!")
    assert any(b"\xf0" in model.tokenizer.token_bytes(i) for i in ids)
    scripted = b2t.Sampler.__call__

    def say(self, logits, history):
        return ids[len(history) - n]

    n = len(model.tokenizer.encode("x"))
    b2t.Sampler.__call__ = say
    try:
        fields = {"model": NAME, "prompt": "x", "max_tokens": len(ids), "temperature": 0}
        parts = [p.choices[0].text for p in client.completions.create(**fields, stream=True)]
        half = client.completions.create(**fields | {"max_tokens": len(ids) - 2, "logprobs": 0})
    finally:
        b2t.Sampler.__call__ = scripted
    assert "".join(parts) == "Привет, là-bas 🐱!" and "\ufffd" not in "".join(parts)
    assert len(half.choices[0].logprobs.tokens) == len(ids) - 2


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_ends_in_front_of_a_stop_wherever_tokens_part_it(client, model, stream):
    text, found, _ = expected(model, "The cat is on", 40)
    pieces = list(model.tokenizer.decode_stream(found))
    pairs = pairwise(pieces[5:])
    stop = next(first[-1] + second[0] for first, second in pairs if first and second)
    assert stop in text
    fields = {
        "model": NAME,
        "prompt": "The cat is on",
        "max_tokens": 40,
        "temperature": 0,
        "stop": ["###", stop],
    }
    shown = "".join(cut_at_stops(pieces, [stop]))
    if stream:
        parts = list(client.completions.create(**fields, stream=True))
        assert "".join(part.choices[0].text for part in parts) == shown
        assert parts[-1].choices[0].finish_reason == "stop"
    else:
        answer = client.completions.create(**fields)
        assert (answer.choices[0].text, answer.choices[0].finish_reason) == (shown, "stop")
        assert answer.usage.completion_tokens < len(found)


# --- Log-probabilities ------------------------------------------------------------------------------------


def judged(model, ids, found):
    """Return the log-probabilities of all tokens at each step of an answer, float64 [steps, vocab]."""
    logits = model.logits(ids + found)[len(ids) - 1 : -1].astype(np.float64)
    return logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)


@pytest.mark.parametrize("stream", [False, True])
def test_a_chat_tells_log_probabilities(client, model, stream):
    text, found, ids = expected(model, MESSAGES, 10)
    answer = chat(client, max_tokens=10, logprobs=True, top_logprobs=3, stream=stream)
    if stream:
        entries = [entry for p in answer if p.choices[0].logprobs for entry in p.choices[0].logprobs.content]
    else:
        entries = answer.choices[0].logprobs.content
    assert b"".join(bytes(entry.bytes) for entry in entries).decode("utf-8", "replace") == text
    for entry, token, row in zip(entries, found, judged(model, ids, found), strict=True):
        assert entry.logprob == pytest.approx(row[token], abs=1e-3)
        assert [t.logprob for t in entry.top_logprobs] == pytest.approx(sorted(row)[:-4:-1], abs=1e-3)
        assert entry.top_logprobs[0].bytes == entry.bytes  # greedy


def test_a_continuation_tells_log_probabilities(client, model):
    _, found, ids = expected(model, "The cat is on", 8)
    fields = {"model": NAME, "prompt": "The cat is on", "max_tokens": 8, "temperature": 0}
    told = client.completions.create(**fields, logprobs=2).choices[0].logprobs
    rows = judged(model, ids, found)
    assert told.token_logprobs == pytest.approx(
        [row[i] for row, i in zip(rows, found, strict=True)], abs=1e-3
    )
    assert all(1 <= len(top) <= 2 for top in told.top_logprobs)
    assert told.text_offset == [len("".join(told.tokens[:i])) for i in range(len(found))]
    parts = client.completions.create(**fields, logprobs=2, stream=True)
    lists = [part.choices[0].logprobs for part in parts if part.choices[0].logprobs]
    assert [i for part in lists for i in part.text_offset] == told.text_offset


# --- JSON -------------------------------------------------------------------------------------------------

SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 8}, "age": {"type": "integer", "maximum": 99}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


def form(schema):
    return {"type": "json_schema", "json_schema": {"name": "person", "strict": True, "schema": schema}}


def test_an_answer_follows_a_schema(client):
    for seed in range(3):
        answer = chat(client, temperature=1.5, seed=seed, response_format=form(SCHEMA), max_tokens=120)
        assert answer.choices[0].finish_reason == "stop"
        jsonschema.validate(json.loads(answer.choices[0].message.content), SCHEMA)
    parts = chat(client, response_format=form({"enum": ["cat", "dog"]}), stream=True)
    assert json.loads("".join(part.choices[0].delta.content or "" for part in parts)) in ("cat", "dog")


def test_an_answer_is_some_json_object_or_plain_text(client, model):
    text = chat(client, max_tokens=8, response_format={"type": "json_object"}).choices[0].message.content
    assert text.startswith("{")
    text = chat(client, max_tokens=8, response_format={"type": "text"}).choices[0].message.content
    assert text == expected(model, MESSAGES, 8)[0]


# --- What is refused --------------------------------------------------------------------------------------

HELLO = {"messages": [{"role": "user", "content": "Hello"}]}
REFUSED = {
    "unknown": ({"colour": "red"}, "colour", "unknown field"),
    "lacking": ({"reasoning_effort": "low"}, "reasoning_effort", "not supported here"),
    "tools": ({"tools": [{"type": "function"}]}, "tools", "only [] is supported"),
    "n": ({"n": 2}, "n", "only 1 is supported"),
    "n, a boolean": ({"n": True}, "n", "only 1 is supported"),
    "penalty": ({"presence_penalty": 0.5}, "presence_penalty", "only 0"),
    "temperature": ({"temperature": -1}, "temperature", ">= 0"),
    "temperature, text": ({"temperature": "hot"}, "temperature", "a number"),
    "temperature, huge": ({"temperature": 10**400}, "temperature", "too large"),
    "top_p": ({"top_p": 2}, "top_p", "top_p <= 1"),
    "top_k": ({"top_k": -1}, "top_k", "a whole number"),
    "max_tokens": ({"max_tokens": 0}, "max_tokens", "a whole number"),
    "max_tokens, half": ({"max_tokens": 1.5}, "max_tokens", "a whole number"),
    "seed": ({"seed": 2**64}, "seed", "a whole number"),
    "stop, empty": ({"stop": ""}, "stop", "at least one character"),
    "stop, numbers": ({"stop": [1]}, "stop", "strings"),
    "stop, many": ({"stop": ["x"] * 17}, "stop", "up to 16"),
    "stream": ({"stream": "yes"}, "stream", "true or false"),
    "stream_options": ({"stream_options": {"x": 1}}, "stream_options.x", "unknown field"),
    "top_logprobs": ({"top_logprobs": 2}, "top_logprobs", "needs logprobs"),
    "alternatives": ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "0 to 20"),
    "format": ({"response_format": {"type": "xml"}}, "response_format.type", "expected one of"),
    "no schema": ({"response_format": {"type": "json_schema"}}, "response_format.json_schema", "missing"),
    "schema": ({"response_format": form({"type": "thing"})}, "response_format", "schema"),
    "messages": ({"messages": []}, "messages", "at least one"),
    "messages, text": ({"messages": "Hi"}, "messages", "an array"),
    "message": ({"messages": ["Hi"]}, "messages[0]", "an object"),
    "role": ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role", "expected one of"),
    "content": ({"messages": [{"role": "user"}]}, "messages[0].content", "missing"),
    "picture": (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
        "messages[0].content[0]",
        "text only",
    ),
    "field of a message": (
        {"messages": [{"role": "user", "content": "x", "mood": 1}]},
        "messages[0].mood",
        "unknown field",
    ),
    "variables": (
        {"chat_template_kwargs": {"messages": 1}},
        "chat_template_kwargs.messages",
        "model's to say",
    ),
    "too long": ({"messages": [{"role": "user", "content": "cat " * 999}]}, "messages", "context"),
}


@pytest.mark.parametrize(("fields", "param", "part"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused_is_named(live, fields, param, part):
    status, _, answer = live.post("/v1/chat/completions", HELLO | fields)
    error = answer["error"]
    assert (status, error["param"], error["type"]) == (400, param, "invalid_request_error")
    assert error["message"].startswith(param) and part in error["message"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": ["a", "b"]}, "prompt"),
        ({"prompt": [1, 2.5]}, "prompt"),
        ({"prompt": [10**9]}, "prompt"),
        ({"prompt": [-(10**30)]}, "prompt"),
        ({"prompt": "x", "echo": True}, "echo"),
        ({"prompt": "x", "suffix": "y"}, "suffix"),
        ({"prompt": "x", "logprobs": True}, "logprobs"),
    ],
)
def test_what_is_refused_of_a_continuation_is_named(live, fields, param):
    status, _, answer = live.post("/v1/completions", fields)
    assert (status, answer["error"]["param"]) == (400, param)


def test_what_changes_nothing_is_taken(client, model):
    harmless = {"n": 1, "presence_penalty": 0, "frequency_penalty": 0.0, "user": "me", "tools": []}
    harmless |= {"stop": None, "seed": None, "logit_bias": {}, "response_format": None, "tool_choice": "auto"}
    parts = [{"type": "text", "text": "Where is"}, {"type": "text", "text": "the cat?"}]
    messages = [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": parts}]
    answer = chat(client, max_tokens=6, messages=messages, extra_body=harmless)
    said = [MESSAGES[0], {"role": "user", "content": "Where is\nthe cat?"}]
    assert answer.choices[0].message.content == expected(model, said, 6)[0]


BODIES = {
    "nothing": (b"", "expected JSON"),
    "no JSON": (b"hello", "expected JSON"),
    "half": (b'{"messages": [', "expected JSON"),
    "no object": (b"[1]", "expected a JSON object, got an array"),
    "bytes": (b'{"a": "\xff"}', "byte 0xff at 7"),
    "NaN": (b'{"temperature": NaN}', "NaN"),
    "deep": (b'{"a":' * 100_000, "too deep"),
    "digits": (b'{"seed": ' + b"9" * 5000 + b"}", "expected JSON"),
}


@pytest.mark.parametrize(("body", "part"), BODIES.values(), ids=BODIES)
def test_a_body_that_is_no_request_is_told_why(live, body, part):
    status, _, answer = live.post("/v1/chat/completions", body)
    assert status == 400 and part in answer["error"]["message"]


def test_half_of_a_surrogate_pair_goes_in_and_out(live):
    status, _, answer = live.post("/v1/chat/completions", b'{"\\ud800": 1}')
    assert status == 400 and answer["error"]["param"] == "\ud800"
    said = b'{"messages": [{"role": "user", "content": "\\udfff"}], "max_tokens": 2}'
    assert live.post("/v1/chat/completions", said)[0] == 200


def test_another_model_is_not_found(client, live):
    with pytest.raises(openai.NotFoundError, match="'small' is"):
        chat(client, model="gpt-9")
    assert live.request("GET", "/v1/models/other")[0] == 404
    assert [model.id for model in client.models.list()] == [NAME]
    assert client.models.retrieve(NAME).id == NAME


def test_a_model_without_a_template_says_so(live, model, monkeypatch):
    monkeypatch.setattr(model.tokenizer, "chat_template", None)
    status, _, answer = live.post("/v1/chat/completions", HELLO)
    assert status == 400 and "no chat template" in answer["error"]["message"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/v1/chat/completions", 405), ("POST", "/", 405), ("GET", "/v2", 404)],
)
def test_other_ways_and_paths_are_told_in_json(live, method, path, status):
    found, _, raw = live.request(method, path)
    assert found == status and path in json.loads(raw)["error"]["message"]


def test_a_form_of_another_web_site_is_not_taken(live):
    body = json.dumps(HELLO)
    for kind in ("text/plain", "application/x-www-form-urlencoded"):
        assert live.request("POST", "/v1/chat/completions", body, {"Content-Type": kind})[0] == 415
    assert live.post("/v1/chat/completions", HELLO, Host="evil.example")[0] == 403
    assert live.request("GET", "/", headers={"Host": "evil.example:80"})[0] == 403
    for host in ("localhost:1", "127.0.0.1", "127.9.9.9:80", "[::1]:80", "LOCALHOST"):
        assert live.request("GET", "/", headers={"Host": host})[0] == 200


def test_a_key_is_asked_for(model):
    with serving(model, key="open sesame") as live:
        for shown in (
            {},
            {"Authorization": "Bearer wrong"},
            {"Authorization": "Bearer \xff"},
            {"Authorization": ""},
        ):
            for path in ("/v1/models", "/v1/chat/completions", "/metrics", "/v2"):
                status, headers, raw = live.request("GET", path, headers=shown)
                assert (status, headers["WWW-Authenticate"]) == (401, "Bearer")
                assert json.loads(raw)["error"]["code"] == "invalid_api_key"
        assert live.request("GET", "/")[0] == live.request("GET", "/health")[0] == 200
        right = openai.OpenAI(base_url=f"{live.address}/v1", api_key="open sesame")
        assert chat(right, max_tokens=2).usage.completion_tokens == 2
        with pytest.raises(openai.AuthenticationError):
            right.with_options(api_key="wrong", max_retries=0).models.list()


# --- Bodies that are too large, too slow, cut off ---------------------------------------------------------

HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


def test_a_body_that_is_too_large_is_refused_and_not_kept(live):
    body = b" " * (server.MAX_BODY - 2) + b"{}"
    assert live.post("/v1/chat/completions", body)[0] == 400  # it is read: it has no messages
    status, _, answer = live.post("/v1/chat/completions", b" " + body)
    assert status == 413 and "1,048,576" in answer["error"]["message"]
    assert live.post("/v1/chat/completions", b" " * 100_000_000)[0] == 413
    sent = HEAD + b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    chunks = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    assert b" 413 " in live.talk(sent + chunks * 20 + b"0\r\n\r\n").partition(b"\r\n")[0]
    waits = HEAD + b"Content-Length: 999999999\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n"
    assert live.talk(waits).startswith(b"HTTP/1.1 413 ")


HALVES = {
    b"": b"",
    b"POST /v1/chat/comp": b"HTTP/1.1 408 ",
    HEAD + b"Content-Length: 100\r\n\r\n{": b"HTTP/1.1 408 ",
    HEAD + b"Content-Length: 9999999\r\nExpect: 100-continue\r\n\r\n{": b"HTTP/1.1 413 ",
}


def test_what_is_sent_by_half_is_closed_in_time(live):
    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor() as pool:
        patch.setattr(server, "READ_SECONDS", 1)
        patch.setattr(listening.Connection, "seconds", 2)
        answers = list(pool.map(live.talk, HALVES))
    assert [answer[:13] for answer in answers] == list(HALVES.values())
    assert b"within 1 seconds" in answers[2]
    assert live.post("/v1/chat/completions", HELLO | {"max_tokens": 1})[0] == 200


def test_a_caller_who_leaves_in_the_middle_of_a_request_is_no_error(live, capfd):
    for data in (b"POST", HEAD, HEAD + b"Content-Length: 100\r\n\r\n{"):
        with live.connected() as connection:
            connection.sendall(data)
    assert live.post("/v1/chat/completions", HELLO | {"max_tokens": 1})[0] == 200
    assert capfd.readouterr().err == ""


def test_what_is_no_http_is_told_so(live):
    assert live.talk(b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n").startswith(b"HTTP/1.1 400 ")


# --- What is told of the server ---------------------------------------------------------------------------


def test_metrics_count_what_was_done(model):
    with serving(model, slots=3) as live:
        health = json.loads(live.request("GET", "/health")[2])
        assert health == {"status": "ok", "model": NAME, "slots": 3, "running": 0, "waiting": 0}
        n = [live.post("/v1/chat/completions", HELLO | {"max_tokens": 5})[2]["usage"] for _ in "ab"]
        live.post("/v1/chat/completions", {})
        live.request("GET", "/nowhere")
        status, headers, raw = live.request("GET", "/metrics")
    assert status == 200 and headers["Content-Type"].startswith("text/plain; version=0.0.4")
    lines = raw.decode().splitlines()
    assert all(re.fullmatch(r'# TYPE \w+ \w+|\w+(\{(\w+="[^"]*",?)+\})? \d+(\.\d+)?', line) for line in lines)
    found = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    assert found['b2t_requests_total{path="/v1/chat/completions",status="200"}'] == "2"
    assert found['b2t_requests_total{path="/v1/chat/completions",status="400"}'] == "1"
    assert found['b2t_requests_total{path="other",status="404"}'] == "1"
    assert int(found["b2t_prompt_tokens_total"]) == sum(usage["prompt_tokens"] for usage in n)
    assert int(found["b2t_completion_tokens_total"]) == sum(usage["completion_tokens"] for usage in n)
    assert (found["b2t_slots"], found["b2t_running"], found["b2t_cancelled_total"]) == ("3", "0", "0")
    assert found['b2t_request_duration_seconds_bucket{le="+Inf"}'] == "2"


def test_a_model_has_a_date_and_answers_have_one(client):
    assert abs(chat(client, max_tokens=1).created - time.time()) < 60
