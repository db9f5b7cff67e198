"""One process labels on a GPU what several workers have prepared on the CPU.

A worker keeps its scan, with the scan's lock, from reading to writing; it only sends the prepared image over a local
socket and gets the segmentation back. So there is one model and one scan at a time on the GPU, always fed.
"""

from __future__ import annotations

import multiprocessing
import os
import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from multiprocessing.connection import Client, Connection, Listener
from typing import TYPE_CHECKING, Any

from slant.errors import SlantError

if TYPE_CHECKING:
    from slant.config import SegmentSettings
    from slant.nets.model import Model
    from slant.pipeline import Prepared, Segmentation

_RESTART_S = 60.0
_BEGUN, _DONE, _REFUSED, _FAILED = "begun", "done", "refused", "failed"
_current: Feed | None = None


@dataclass(frozen=True)
class Feed:
    """How a worker reaches the labelling process.

    Attributes
    ----------
    address : str
        Of a local socket.
    key : bytes
        Shared by the processes of one run.
    device : str
        Where the networks run.
    """

    address: str
    key: bytes
    device: str

    def ask(self, *request: Any) -> Any:
        """What the labelling process makes of a request.

        Raises
        ------
        SlantError
            If it was killed while it was at this request, or did not come back.
        Exception
            What it raised itself.
        """
        end = time.monotonic() + _RESTART_S
        while True:
            begun = False
            try:
                with Client(self.address, authkey=self.key) as connection:
                    connection.send(request)
                    while (answer := connection.recv())[0] == _BEGUN:
                        begun = True
            except (EOFError, OSError) as error:
                if begun or time.monotonic() > end:
                    raise SlantError(
                        "the labelling process was killed while it was at this scan, most often for want of memory; "
                        "run again, with less on the GPU or with --device cpu"
                    ) from error
                time.sleep(0.2)  # it is being started again, after another scan
                continue
            if answer[0] == _DONE:
                return answer[1]
            raise answer[1] if answer[0] == _REFUSED else SlantError(f"labelling failed: {answer[1]}")

    def label(self, prepared: Prepared, model: str, settings: SegmentSettings) -> Segmentation:
        """`slant.pipeline.label` there."""
        found: Segmentation = self.ask(prepared, model, settings)
        return found


def use(feed: Feed | None) -> None:
    """Let this process send what it prepares to that labelling process."""
    global _current  # noqa: PLW0603 (set once, when a worker starts)
    _current = feed


def current() -> Feed | None:
    """The labelling process of this worker; None if it labels itself."""
    return _current


def label_prepared(prepared: Prepared, model: str, settings: SegmentSettings) -> Segmentation:
    """What the labelling process does."""
    from slant.pipeline import label

    return label(prepared, _model(model), settings)


@cache
def _model(name_or_folder: str) -> Model:
    from slant.io.models import load_model

    return load_model(name_or_folder)


class LabellingProcess:
    """The labelling process, started again whenever it is killed, until the body ends.

    Parameters
    ----------
    device : str
    function : callable, optional
        What it does with a request.
    """

    def __init__(self, device: str, function: Callable[..., Any] = label_prepared) -> None:
        self._folder = tempfile.mkdtemp(prefix="slant-")
        self.feed = Feed(os.path.join(self._folder, "socket"), secrets.token_bytes(16), device)  # noqa: PTH118
        self._function = function
        self._ending = threading.Event()
        self._process = self._start()
        self._watch = threading.Thread(target=self._restart, daemon=True)
        self._watch.start()

    def stop(self) -> None:
        """End it."""
        self._ending.set()
        self._process.kill()
        self._watch.join()
        self._process.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _start(self) -> Any:
        with suppress(FileNotFoundError):
            os.unlink(self.feed.address)  # noqa: PTH108
        context = multiprocessing.get_context("spawn")
        process = context.Process(target=_serve, args=(self.feed, self._function, os.getpid()), daemon=True)
        process.start()
        return process

    def _restart(self) -> None:
        while True:
            self._process.join()
            if self._ending.wait(0.1):
                return
            self._process = self._start()


def _serve(feed: Feed, function: Callable[..., Any], parent: int) -> None:
    from slant.cohort.pools import start_worker

    start_worker(parent, None)
    turn = threading.Lock()
    with Listener(feed.address, authkey=feed.key) as listener:
        while True:
            with suppress(OSError, EOFError, multiprocessing.AuthenticationError):
                connection = listener.accept()
                threading.Thread(target=_answer, args=(connection, function, turn), daemon=True).start()


def _answer(connection: Connection[Any, Any], function: Callable[..., Any], turn: threading.Lock) -> None:
    with suppress(OSError, EOFError), connection:
        request = connection.recv()
        with turn:
            connection.send((_BEGUN, None))
            try:
                answer = (_DONE, function(*request))
            except SlantError as error:
                answer = (_REFUSED, error)
            except Exception as error:  # noqa: BLE001 (one scan must not end the others)
                answer = (_FAILED, f"{type(error).__name__}: {error}")
        connection.send(answer)
