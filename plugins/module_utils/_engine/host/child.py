# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Engine code in a process of its own, as another account where one is named.

The parent trusts nothing that the child says or does: it may crash, hang, be stopped, flood or lie, because the account
that it becomes can do as it likes with its own processes, and because it reads files that others made. So

- the child is a new program and not a fork: no secret of the parent is in its memory, its environment or its
  descriptors;
- it gets its task as a pickle, and answers in JSON of a bounded size, within a bounded time; the parent takes no
  descriptor and opens no path that the child names;
- data go through pipes that the parent made;
- it dies with its parent, and whatever becomes of it, the parent goes on: it ends the child, or leaves one behind that
  not even SIGKILL ends.
"""

from __future__ import annotations

import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from types import TracebackType
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Type

from ..errors import EngineError, MissingTool
from ..text import shown
from . import inside
from .inside import LENGTH, Serve, Task, Whom

_BOOT = (
    "import sys; from importlib import import_module; sys.dont_write_bytecode = True; "
    "sys.path[:] = sys.argv[3:]; import_module(sys.argv[2]).main(int(sys.argv[1]))"
)
#: What another account's process gets of this one's environment: what its interpreter needs to start, and where
#: temporary files go.
_ENVIRONMENT = ("LD_LIBRARY_PATH", "LD_PRELOAD", "PATH", "SQLITE_TMPDIR", "TMPDIR", "TZ")

#: How long a child may take to start, and to answer where nothing else is said, in seconds.
START = 60.0
ANSWER = 86400.0
#: How long a child may tidy up after itself, and then how long each signal may take.
_TIDYING, _SIGNAL = 10.0, 2.0
#: The most bytes of an answer, and the most values in it: an empty list of two bytes takes 64 in memory.
_MOST_BYTES = 16 << 20
_MOST_PARTS = 600_000
_MOST_DIGITS = 20
_MOST_QUESTIONS = 2_000
_MESSAGE_LENGTH = 4000

#: Children that no signal ended: they are in an uninterruptible sleep, and end when they wake up.
_left_behind: List[subprocess.Popen[bytes]] = []


class ChildFailed(EngineError):
    """A child ended, hung or lied. The database and the work of others are as they were."""

    code = "tool_failed"


class Child:
    """A child at work. Leaving the context ends it.

    ``serve`` is a function of a module, a context manager: it gets a way to ask the parent (``answers`` holds what can
    be asked), then ``arguments``, and yields an ``Offer``. ``descriptors`` are inherited under their own numbers, and
    closed here. ``label`` says in messages what the child is at: "the process that reads /srv/shop.db".
    """

    def __init__(
        self,
        serve: Serve,
        arguments: Sequence[Any],
        label: str,
        whom: Whom = None,
        descriptors: Sequence[int] = (),
        answers: Optional[Mapping[str, Callable[..., Any]]] = None,
    ) -> None:
        self._label, self._answers = label, dict(answers or {})
        self._failure: Optional[ChildFailed] = None
        self._given_up = False
        self._control, theirs = socket.socketpair()
        try:
            self._popen = _spawn(theirs.fileno(), descriptors)
        except BaseException:
            self._control.close()
            raise
        finally:
            theirs.close()
            for descriptor in descriptors:
                os.close(descriptor)
        try:
            self._send(Task(serve, tuple(arguments), whom, os.getpid()), START)
        except BaseException:
            self.close(abort=True)
            raise

    def __enter__(self) -> Child:
        return self

    def __exit__(
        self, kind: Optional[Type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self.close(abort=kind is not None)

    def greeting(self, limit: float = ANSWER) -> Any:
        """What the child says first. To be taken once, before anything is asked. Raises what ``ask`` raises."""
        return self._answer(limit)

    def ask(self, name: str, *arguments: Any, limit: float = ANSWER) -> Any:
        """Let the child do something, and return what it says: plain values, of which nothing is certain.

        Raises the error of the engine that the child reports, and ChildFailed where it ends, lies, or has not answered
        after ``limit`` seconds.
        """
        self._send((name, arguments), limit)
        return self._answer(limit)

    def abort(self) -> None:
        """Make a pending ``ask`` fail, and the child end. From any thread."""
        self._given_up = True
        with suppress(OSError):
            self._control.shutdown(socket.SHUT_RDWR)

    def verdict(self) -> Optional[ChildFailed]:
        """How the child failed, where it ended by itself. Its pipes end a moment before it does, so this waits."""
        if self._failure is None and not self._given_up and self._ended(_SIGNAL):
            self._failed(self._ending())
        return self._failure

    def kill(self) -> None:
        """End the child at once: whatever reads or writes its pipes goes on. From any thread."""
        self.abort()
        self._signal(signal.SIGKILL)

    def close(self, abort: bool = False) -> None:
        """End the child, which takes seconds at the most. ``abort`` leaves it no time to tidy up at leisure."""
        self.abort()
        self._control.close()
        if self._ended(_SIGNAL / 4 if abort else _TIDYING):
            return
        for number in (signal.SIGTERM, signal.SIGKILL):
            self._signal(number)
            if self._ended(_SIGNAL):
                return
        _left_behind.append(self._popen)

    def _signal(self, number: signal.Signals) -> None:
        # A service without CAP_KILL may not; the end of the channel has told the child to end.
        with suppress(PermissionError):
            self._popen.send_signal(number)

    def _ended(self, seconds: float) -> bool:
        try:
            self._popen.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def _send(self, message: Any, limit: float) -> None:
        body = pickle.dumps(message)
        self._control.settimeout(limit)
        try:
            self._control.sendall(LENGTH.pack(len(body)) + body)
        except socket.timeout:
            raise self._failed(f"did not listen for {limit:g} s") from None
        except OSError:
            # It has ended, and may have said why.
            pass

    def _answer(self, limit: float) -> Any:
        end = time.monotonic() + limit
        for _question in range(_MOST_QUESTIONS):
            message = self._receive(end, limit)
            if "question" in message:
                self._reply(message, max(0.1, end - time.monotonic()))
            elif "error" in message:
                raise _error(message)
            else:
                return message.get("value")
        raise self._failed("asked without end")

    def _reply(self, message: Mapping[str, Any], limit: float) -> None:
        name, arguments = message["question"], message.get("arguments")
        if not isinstance(name, str) or name not in self._answers or not isinstance(arguments, list):
            raise self._failed("asked what it may not ask")
        try:
            reply = self._answers[name](*arguments)
        except (TypeError, ValueError, OverflowError):
            raise self._failed(f"asked for {name} of what cannot be") from None
        self._send(reply, limit)

    def _receive(self, end: float, limit: float) -> Dict[str, Any]:
        size = LENGTH.unpack(self._take(LENGTH.size, end, limit))[0]
        if size > _MOST_BYTES:
            raise self._failed(f"answered with {size} bytes")
        body = self._take(size, end, limit)
        if sum(body.count(mark) for mark in (b",", b"[", b"{")) > _MOST_PARTS:
            raise self._failed("answered with too many values")
        try:
            message = json.loads(body.decode("ascii"), parse_int=_integer, parse_constant=_integer)
        except (ValueError, RecursionError):
            raise self._failed("answered with what makes no sense") from None
        if not isinstance(message, dict):
            raise self._failed("answered with what makes no sense")
        return message

    def _take(self, size: int, end: float, limit: float) -> bytes:
        taken = bytearray()
        while len(taken) < size:
            self._control.settimeout(max(0.001, end - time.monotonic()))
            try:
                part = self._control.recv(min(size - len(taken), 1 << 20))
            except socket.timeout:
                raise self._failed(f"has not answered for {limit:g} s") from None
            except OSError:
                part = b""
            if not part:
                raise self._failed(self._ending())
            taken += part
        return bytes(taken)

    def _ending(self) -> str:
        """How the child ended, whose channel is closed."""
        if not self._ended(_SIGNAL):
            return "stopped answering"
        status = self._popen.returncode
        if status < 0:
            return f"was killed by {_signal_name(-status)}"
        return f"ended with status {status}"

    def _failed(self, what: str) -> ChildFailed:
        failure = ChildFailed(
            f"{self._label[:1].upper()}{self._label[1:]} {what}. See what changes or damages its files, "
            "then run this again."
        )
        self._failure = self._failure or failure
        return failure


def _spawn(control: int, descriptors: Sequence[int]) -> subprocess.Popen[bytes]:
    if not sys.executable:
        raise MissingTool("Python cannot be started again: it does not know its own path. Run it by its whole path.")
    path = [os.path.abspath(entry) for entry in sys.path]
    environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
    try:
        return subprocess.Popen(
            # -I and -S: neither the environment nor a directory of the account can put code into it. UTF-8, so that
            # names of files mean the same on both sides whatever the locale is.
            [sys.executable, "-I", "-S", "-X", "utf8", "-c", _BOOT, str(control), inside.__name__, *path],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=dict(environment, LC_ALL="C.UTF-8"),
            cwd="/",
            pass_fds=(control, *descriptors),
            # The terminal's Ctrl-C reaches this process, which then ends the child in order.
            start_new_session=True,
        )
    except OSError as error:
        raise MissingTool(
            f"Python cannot be started again: {sys.executable}: {(error.strerror or str(error)).lower()}. "
            "Check its file, and the limits of this service."
        ) from None


def _error(message: Mapping[str, Any]) -> EngineError:
    """The error that a child reports; of its text, what can be shown."""
    code, text = message["error"], message.get("message")
    said = shown(text[:_MESSAGE_LENGTH]) if isinstance(text, str) and text else "It failed and does not say why."
    kind = _kinds().get(code) if isinstance(code, str) else None
    return (kind or EngineError)(said)


def _kinds() -> Dict[str, Type[EngineError]]:
    """The errors that are made of a message alone, by their code."""
    found: Dict[str, Type[EngineError]] = {}
    for kind in EngineError.__subclasses__():
        if kind.__init__ is EngineError.__init__:
            found.setdefault(kind.code, kind)
    return found


def _integer(text: str) -> int:
    if len(text) > _MOST_DIGITS:
        raise ValueError("too many digits")
    return int(text)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
