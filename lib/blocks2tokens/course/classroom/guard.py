"""What a submission may not do while it is judged, and how much time and memory it has.

    audit hook    refuses processes, connections and changes of files that the submission's own code asks for
    POSIX         a group of processes, which is ended as a whole; limits of memory and of files' sizes
    elsewhere     the time and the memory that the parent counts: see processes

Python's audit hooks are no prison (PEP 578): who means harm gets out. They stop accidents and jokes.
"""

import os
import sys
from pathlib import Path

import psutil

from blocks2tokens.course import check

FORBIDDEN = {
    "os.fork": "starts a process",
    "os.forkpty": "starts a process",
    "os.posix_spawn": "starts a process",
    "os.spawn": "starts a process",
    "os.exec": "starts a process",
    "os.startfile": "starts a process",
    "os.system": "starts a process",
    "pty.spawn": "starts a process",
    "subprocess.Popen": "starts a process",
    "os.kill": "ends a process",
    "os.killpg": "ends a process",
    "socket.connect": "goes to the network",
    "socket.bind": "goes to the network",
    "os.remove": "deletes a file",
    "os.rmdir": "deletes a folder",
    "shutil.rmtree": "deletes a folder",
    "os.rename": "renames a file",
    "os.truncate": "writes a file",
    "os.mkdir": "makes a folder",
    "os.link": "makes a link",
    "os.symlink": "makes a link",
    "os.chmod": "changes a file",
    "os.chown": "changes a file",
}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
LARGEST_FILE = 100_000_000  # bytes
ENGINE = Path(check.__file__).parents[2].as_posix()  # and the course: what these do is theirs
OURS = (f"{ENGINE}/", "/numba/core/caching.py", "/importlib/", "<frozen importlib")


class RefusedError(BaseException):
    """Raised in a submission that does what it may not; no `except Exception` of theirs stops it."""


def refuse(program: Path, refused: list[str]) -> None:
    """From now on refuse what is forbidden to the code of `program`, and note it in `refused`."""
    name = str(program)

    def hook(event, arguments):
        told = _writes(arguments) if event == "open" else FORBIDDEN.get(event)
        if told and _asked_for_by(name):
            refused.append(told)
            raise RefusedError(told)

    sys.addaudithook(hook)


def _writes(arguments):
    path, mode, flags = arguments
    is_writing = bool(set(mode or "") & set("wax+")) or (isinstance(flags, int) and flags & WRITING)
    return "writes a file" if is_writing and path != os.devnull else None


def _asked_for_by(program):
    """Does the program's own code ask, itself or by a library, and not the engine or Numba for it?"""
    frame = sys._getframe(2)
    while frame is not None:
        name = frame.f_code.co_filename.replace("\\", "/")
        if name == program.replace("\\", "/"):
            return True
        if any(part in name for part in OURS):
            return False
        frame = frame.f_back
    return False


def limit(memory: int) -> None:
    """Put this process, on POSIX, into a group of its own, with at most `memory` more bytes than it has."""
    if os.name != "posix":
        return
    import resource

    os.setsid()
    own = psutil.Process().memory_info().vms
    for what, most in {
        resource.RLIMIT_AS: own + memory,
        resource.RLIMIT_FSIZE: LARGEST_FILE,
        resource.RLIMIT_CORE: 0,
    }.items():
        _, hard = resource.getrlimit(what)
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        try:
            resource.setrlimit(what, (most, most))
        except (ValueError, OSError):  # macOS has no limit of addresses
            continue
