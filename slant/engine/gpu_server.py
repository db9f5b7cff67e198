"""A server process that computes on a GPU for several workers, which do the rest of their jobs on the CPU.

A worker handles its scan, and holds the lock of the scan, from reading to writing. It sends only the arguments of one
function to the server, over a local socket, and receives the result. So the GPU serves one scan at a time, and it is
kept busy.
"""

from __future__ import annotations

import multiprocessing
import os
import secrets
import shutil
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Client, Connection, Listener
from typing import Any

from slant.errors import OutputError, SlantError
from slant.files import make_temporary_folder
from slant.quiet import silence_libraries

_RESTART_S = 60.0
_SOCKET, _MAX_SOCKET_PATH = "socket", 103  # bytes; macOS has the least
_STARTED, _DONE, _REJECTED, _FAILED = "started", "done", "rejected", "failed"


@dataclass(frozen=True)
class GpuClient:
    """Connection of a worker to the GPU server: path of a local socket, authentication key of the run, and device."""

    address: str
    key: bytes
    device: str

    def call(self, *request: Any) -> Any:
        """Send a request to the server and return its result.

        Raises
        ------
        SlantError
            If the server was killed while processing this request, did not restart, or raised an error.
        """
        end = time.monotonic() + _RESTART_S
        while True:
            started = False
            try:
                with Client(self.address, authkey=self.key) as connection:
                    connection.send(request)
                    while (answer := connection.recv())[0] == _STARTED:
                        started = True
            except (EOFError, OSError) as error:
                if started or time.monotonic() > end:
                    raise SlantError(
                        "the GPU server was killed while processing this scan, probably out of memory; "
                        "run again with more free GPU memory, or with --device cpu"
                    ) from error
                time.sleep(0.2)  # it is restarting after another scan
                continue
            if answer[0] == _DONE:
                return answer[1]
            raise answer[1] if answer[0] == _REJECTED else SlantError(f"the GPU server failed: {answer[1]}")


class GpuServer:
    """The server process, which is restarted if it is killed, until `stop`.

    Parameters
    ----------
    function : callable
        Picklable function that computes the result of a request.

    Raises
    ------
    OutputError
        If the folder for temporary files cannot hold the socket.
    """

    def __init__(self, device: str, function: Callable[..., Any]) -> None:
        self._folder = _socket_folder()
        self.client = GpuClient(os.path.join(self._folder, _SOCKET), secrets.token_bytes(16), device)  # noqa: PTH118
        self._function = function
        self._stopping = threading.Event()
        self._process = self._start()
        self._watcher = threading.Thread(target=self._restart, daemon=True)
        self._watcher.start()

    def stop(self) -> None:
        """Stop the server and remove its socket."""
        self._stopping.set()
        self._process.kill()
        self._watcher.join()
        self._process.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _start(self) -> Any:
        with suppress(FileNotFoundError):
            os.unlink(self.client.address)  # noqa: PTH108
        context = multiprocessing.get_context("spawn")
        process = context.Process(target=_serve, args=(self.client, self._function, os.getpid()), daemon=True)
        process.start()
        return process

    def _restart(self) -> None:
        while True:
            self._process.join()
            if self._stopping.wait(0.1):
                return
            self._process = self._start()


def _socket_folder() -> str:
    folder = make_temporary_folder()
    length = len(os.fsencode(folder / _SOCKET))
    if length > _MAX_SOCKET_PATH:
        folder.rmdir()
        raise OutputError(
            f"the path of the folder for temporary files, {folder.parent}, is too long for a local socket "
            f"(found {length} bytes, expected at most {_MAX_SOCKET_PATH}); set the environment variable TMPDIR to a "
            "folder with a shorter path"
        )
    return str(folder)


def start_child(parent: int) -> None:
    """Ignore signals, which the parent handles; end this child process if the parent of this id is killed."""
    for signal_number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signal_number, signal.SIG_IGN)
    silence_libraries()
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def _serve(client: GpuClient, function: Callable[..., Any], parent: int) -> None:
    start_child(parent)
    one_at_a_time = threading.Lock()
    with Listener(client.address, authkey=client.key) as listener:
        while True:
            with suppress(OSError, EOFError, multiprocessing.AuthenticationError):
                connection = listener.accept()
                threading.Thread(target=_answer, args=(connection, function, one_at_a_time), daemon=True).start()


def _answer(connection: Connection[Any, Any], function: Callable[..., Any], one_at_a_time: threading.Lock) -> None:
    with suppress(OSError, EOFError), connection:
        request = connection.recv()
        with one_at_a_time:
            connection.send((_STARTED, None))
            try:
                answer = (_DONE, function(*request))
            except SlantError as error:
                answer = (_REJECTED, error)
            except Exception as error:  # noqa: BLE001 (one scan must not stop the others)
                answer = (_FAILED, f"{type(error).__name__}: {error}")
        connection.send(answer)
