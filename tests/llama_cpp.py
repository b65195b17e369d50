"""llama.cpp as an oracle: its tokens, its greedy choices and its log-probabilities, through `xllamacpp`."""

import json
import os
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True)
class Step:
    """One generated token: its id and the log-probabilities of the 20 most likely ones, by id."""

    token: int
    top: dict[int, float]


class LlamaCpp:
    """A running llama.cpp server on the loopback interface."""

    def __init__(self, server):
        self._server = server

    def _post(self, route, body):
        request = urllib.request.Request(
            f"{self._server.listening_address}{route}",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=600) as response:
            return json.load(response)

    def tokenize(self, text: str) -> list[int]:
        """Return llama.cpp's ids of a text, special tokens parsed."""
        return self._post("/tokenize", {"content": text, "add_special": True, "parse_special": True})[
            "tokens"
        ]

    def greedy(self, ids: list[int], n_tokens: int) -> list[Step]:
        """Return up to n_tokens greedy steps behind ids, fewer where llama.cpp stops.

        One request a token, because a longer reply merges tokens that end inside a UTF-8 character. For
        those llama.cpp gives no probabilities: `top` is empty.
        """
        steps = []
        while len(steps) < n_tokens:
            prompt = [*ids, *(step.token for step in steps)]
            body = {
                "prompt": prompt,
                "n_predict": 1,
                "temperature": 0.0,
                "n_probs": 20,
                "return_tokens": True,
            }
            reply = self._post("/completion", body)
            if reply["stop_type"] == "eos":
                break
            shown = reply.get("completion_probabilities", [])
            top = {other["id"]: other["logprob"] for step in shown for other in step["top_logprobs"]}
            steps.append(Step(reply["tokens"][0], top))
        return steps

    def forced(self, ids: list[int]) -> list[dict[int, float]]:
        """Return the log-probabilities of the 20 most likely tokens behind each of ids, by id.

        The reply is forced to be "a", whatever is likely, because llama.cpp gives no probabilities with a
        reply that ends inside a UTF-8 character. The probabilities are those without force.
        """
        a = self._post("/tokenize", {"content": "a", "add_special": False})["tokens"][0]
        body = {"n_predict": 1, "temperature": 0.0, "n_probs": 20, "logit_bias": [[a, 1e6]]}
        found = []
        for end in range(1, len(ids) + 1):
            (step,) = self._post("/completion", body | {"prompt": ids[:end]})["completion_probabilities"]
            assert step["id"] == a
            found.append({other["id"]: other["logprob"] for other in step["top_logprobs"]})
        return found


@contextmanager
def llama_cpp(xllamacpp, path, n_context=1024, n_threads=None, **settings):
    """Run llama.cpp on a GGUF file, its cache in float32 as ours is; `settings` are more of its parameters.

    Its threads wait for each other in loops: on a busy machine a small model is faster with one.
    """
    params = xllamacpp.CommonParams()
    for name, value in settings.items():
        setattr(params, name, value)
    params.model.path = str(path)
    params.n_ctx = n_context
    params.n_parallel = 1
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    params.warmup = False
    params.verbosity = 2  # warnings and errors
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = n_threads or os.cpu_count() or 1
    server = xllamacpp.Server(params)
    try:
        yield LlamaCpp(server)
    finally:
        del server
