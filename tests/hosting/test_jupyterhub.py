"""JupyterHub with the course's own recipe: two learners, one installation that neither can write.

    this folder --pip--> a prefix, read-only --hosting/jupyterhub_config.py--> hub, proxy in Python
                                             --for each of two-->  a server, a home, lessons, a kernel

Needs packages that the course does without: pip install -r hosting/requirements.txt.
"""

import importlib.util
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from pathlib import Path

import pytest

from blocks2tokens.course.setup import bundle, notebooks

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("jupyterhub") is None or os.name != "posix",
    reason="JupyterHub is not here; pip install -r hosting/requirements.txt installs it",
)

ROOT = Path(__file__).resolve().parents[2]
WAIT = 240  # seconds: the machine may be busy, and kernels compile
TOKEN, PASSWORD = "0123456789abcdef" * 2, "a long word"
PEOPLE = ("anna", "ben")
RIGHTS = "-dac_override,-dac_read_search,-fowner"  # by which root writes what nobody may
SETTINGS = """
load_subconfig({recipe!r})
c.JupyterHub.bind_url = "http://127.0.0.1:{ports[0]}"
c.JupyterHub.hub_port = {ports[1]}
c.ConfigurableHTTPProxy.api_url = "http://127.0.0.1:{ports[2]}"
c.JupyterHub.authenticator_class = "dummy"
c.DummyAuthenticator.password = {password!r}
c.JupyterHub.spawner_class = "simple"
c.SimpleLocalProcessSpawner.home_dir_template = {home!r}
c.JupyterHub.services = [{{"name": "test", "api_token": {token!r}}}]
scopes = ["admin:users", "admin:servers", "access:servers"]
c.JupyterHub.load_roles = [{{"name": "test", "scopes": scopes, "services": ["test"]}}]
c.JupyterHub.cleanup_servers = True
"""


# What is started


def no_rights() -> list[str]:
    """Return what stands before a command so that root, too, keeps to permissions."""
    if os.getuid() != 0:
        return []
    if not shutil.which("setpriv"):
        pytest.skip("setpriv of util-linux takes root's rights away")
    return ["setpriv", f"--bounding-set={RIGHTS}", f"--inh-caps={RIGHTS}"]


@pytest.fixture(scope="module")
def prefix(tmp_path_factory, austen_path):
    """The course installed by pip into a folder of its own, compiled once, and then read-only."""
    folder = tmp_path_factory.mktemp("hosted")
    bundle.copy_course(folder / "source")
    shutil.rmtree(folder / "source/data/models", ignore_errors=True)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
    target = folder / "opt"
    subprocess.run([*pip, "--ignore-installed", f"--prefix={target}", folder / "source"], check=True)
    packages = next(target.rglob("blocks2tokens/__init__.py")).parents[1]
    own = os.environ | {"PYTHONPATH": str(packages), "HOME": str(folder)}
    own.pop("BLOCKS2TOKENS_CACHE", None)
    warm = "from blocks2tokens.course.setup import warm_up; warm_up.main()"
    subprocess.run([sys.executable, "-c", warm], check=True, cwd=folder, env=own)
    every = [target, *target.rglob("*")]
    for path in every:
        path.chmod(0o555 if path.is_dir() else 0o444)
    yield target, packages
    for path in every:
        path.chmod(0o755)


def free_ports(n):
    taken = [socket.create_server(("127.0.0.1", 0)) for _ in range(n)]
    ports = [each.getsockname()[1] for each in taken]
    for each in taken:
        each.close()
    return ports


@pytest.fixture(scope="module")
def hub(prefix, tmp_path_factory):
    """The hub at work: (its address, the folder with a home for each learner)."""
    folder, ports = tmp_path_factory.mktemp("hub"), free_ports(3)
    filled = {"recipe": str(ROOT / "hosting/jupyterhub_config.py"), "ports": ports, "token": TOKEN}
    filled |= {"password": PASSWORD, "home": f"{folder}/home/{{username}}"}
    (folder / "config.py").write_text(SETTINGS.format(**filled))
    own = {k: v for k, v in os.environ.items() if not k.startswith(("NUMBA", "XDG", "BLOCKS2TOKENS"))}
    own |= {"PYTHONPATH": str(prefix[1])}
    command = [*no_rights(), sys.executable, "-m", "jupyterhub", "-f", "config.py"]
    with open(folder / "log", "w") as log:
        process = subprocess.Popen(command, cwd=folder, env=own, stdout=log, stderr=log)
    address = f"http://127.0.0.1:{ports[0]}"
    try:
        wait_for(lambda: ask(address, "/hub/api/"), process, folder / "log")
        yield address, folder
    finally:
        process.terminate()  # it ends the servers and the proxy
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()


def wait_for(is_there, process, log):
    end = time.monotonic() + WAIT
    while time.monotonic() < end and process.poll() is None:
        try:
            if found := is_there():
                return found
        except OSError:  # not yet
            pass
        time.sleep(0.5)
    raise AssertionError(log.read_text()[-5000:])


# What is asked of it


def ask(address, path, data=None):
    """Return the answer to a request, decoded; with data, of a POST."""
    headers = {"Authorization": f"token {TOKEN}", "Content-Type": "application/json"}
    body = None if data is None else json.dumps(data).encode()
    request = urllib.request.Request(address + path, body, headers)
    with urllib.request.urlopen(request, timeout=60) as answer:
        text = answer.read().decode()
    return json.loads(text) if text else {}


class Kernel:
    """A kernel on a learner's server, through the hub's proxy."""

    def __init__(self, address, person, notebook):
        import websocket

        body = {"path": notebook, "name": notebook, "type": "notebook", "kernel": {"name": "python3"}}
        session = ask(address, f"/user/{person}/api/sessions", body)
        place = f"/user/{person}/api/kernels/{session['kernel']['id']}/channels"
        header = [f"Authorization: token {TOKEN}"]
        self.socket = websocket.create_connection(
            address.replace("http", "ws") + place, header=header, timeout=WAIT
        )

    def run(self, code):
        """Return all that a cell prints and shows as text; AssertionError with what it raises."""
        number = uuid.uuid4().hex
        header = {"msg_id": number, "msg_type": "execute_request", "username": "", "session": number}
        content = {"code": code, "silent": False, "store_history": True, "allow_stdin": False}
        message = {"header": header | {"version": "5.3"}, "parent_header": {}, "metadata": {}}
        self.socket.send(json.dumps(message | {"content": content, "channel": "shell"}))
        said = []
        while True:
            got = json.loads(self.socket.recv())
            if got["parent_header"].get("msg_id") != number:
                continue
            content = got["content"]
            assert got["msg_type"] != "error", "\n".join(content["traceback"])
            said.append(content.get("text") or content.get("data", {}).get("text/plain", ""))
            if got["msg_type"] == "status" and content["execution_state"] == "idle":
                return "".join(said)


@pytest.fixture(scope="module", params=PEOPLE)
def learner(request, hub):
    """A learner whose server is up: (name, their folder, the hub's address)."""
    address, folder = hub
    name = request.param
    ask(address, f"/hub/api/users/{name}", {})
    ask(address, f"/hub/api/users/{name}/server", {})

    def is_ready():
        return ask(address, f"/hub/api/users/{name}")["servers"].get("", {}).get("ready")

    end = time.monotonic() + WAIT
    while not is_ready() and time.monotonic() < end:
        time.sleep(0.5)
    assert is_ready(), (folder / "log").read_text()[-5000:]
    return name, folder / "home" / name / "blocks2tokens", address


# Tests


def test_each_learner_has_the_lessons(learner):
    name, folder, address = learner
    there = {entry["name"] for entry in ask(address, f"/user/{name}/api/contents/")["content"]}
    assert {"00_start_here.ipynb", "1_formats", "5_beyond"} <= there
    lessons = [path.relative_to(folder) for path in notebooks.find(folder)]
    assert lessons == [path.relative_to(notebooks.NOTEBOOKS) for path in notebooks.find(notebooks.NOTEBOOKS)]


def test_the_first_cells_of_lesson_00_run_with_the_shared_model_and_compiled_code(learner, prefix):
    name, folder, address = learner
    kernel = Kernel(address, name, "00_start_here.ipynb")
    cells = [c.source for c in notebooks.read(folder / "00_start_here.ipynb").cells if c.cell_type == "code"]
    said = "".join(kernel.run(source) for source in cells[:4])
    assert "[ok]" in said and "packages" in said
    where = kernel.run("print(models.austen(), b2t.__file__)").split()
    assert where == [
        f"{prefix[0]}/share/blocks2tokens/data/austen.gguf",
        f"{prefix[1]}/blocks2tokens/__init__.py",
    ]
    cache = folder.parent / ".cache/numba"
    links = [path for path in cache.rglob("*.nbc") if path.is_symlink()]
    assert links and all(path.resolve().is_relative_to(prefix[1]) for path in links)


def test_progress_is_each_learners_own(learner):
    name, folder, address = learner
    assert not (folder / ".progress.jsonl").exists()
    kernel = Kernel(address, name, "1_formats/01_why_blocks.ipynb")
    answer = "8 * fmt.bytes_per_block / fmt.block_size" if name == "anna" else "1.0"
    kernel.run(f"from blocks2tokens.course import check\ndef bits_per_weight(fmt):\n    return {answer}\n")
    kernel.run("check.bits_per_weight(bits_per_weight)")
    lines = (folder / ".progress.jsonl").read_text().splitlines()
    verdicts = [json.loads(line)["verdict"] for line in lines]
    assert verdicts == (["right"] if name == "anna" else ["wrong"])
    assert (folder / "my_engine/why_blocks.py").exists() == (name == "anna")


def test_a_learner_cannot_write_what_all_share(learner, prefix):
    name, _, address = learner
    kernel = Kernel(address, name, "00_start_here.ipynb")
    attempt = f"try:\n    open({str(prefix[0])!r} + '/x', 'w')\nexcept OSError as e:\n    print(e.strerror)"
    assert "Permission denied" in kernel.run(attempt)


def test_a_repository_of_the_class_is_pulled_beside_the_lessons(learner, tmp_path_factory):
    name, folder, address = learner
    repository = tmp_path_factory.mktemp("git") / "class"
    git = ["git", "-c", "user.name=x", "-c", "user.email=x@example.org", "-C", str(repository)]
    repository.mkdir()
    (repository / "notice.txt").write_text("Bring your own model.")
    for words in (["init", "-q", "-b", "main"], ["add", "."], ["commit", "-qm", "a notice"]):
        subprocess.run([*git, *words], check=True)
    link = f"/user/{name}/git-pull/api?repo=file%3A//{repository}&branch=main&targetpath=class"
    request = urllib.request.Request(address + link, headers={"Authorization": f"token {TOKEN}"})
    with urllib.request.urlopen(request, timeout=WAIT) as answer:
        said = answer.read().decode()
    assert '"phase": "finished"' in said, said
    assert (folder / "class/notice.txt").read_text() == "Bring your own model."


def test_who_does_not_say_who_they_are_does_not_come_in(hub):
    address, _ = hub
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"{address}/user/anna/api/contents/", timeout=60)
    assert refused.value.code in (401, 403)
    with urllib.request.urlopen(f"{address}/hub/", timeout=60) as page:
        assert re.search(r'name="password"', page.read().decode())
