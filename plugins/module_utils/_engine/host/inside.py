# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The half of ``child`` that runs in the child: become the account, serve, and end with the parent.

Everything that the child needs is imported while it still is its parent's account: the other one may not be able to
read the interpreter's or the engine's files. After that it opens nothing but what its account may open.
"""

from __future__ import annotations

import json
import os
import pickle
import resource
import select
import signal
import socket
import struct
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, Callable, ContextManager, Mapping, Optional, Tuple, Union

from ..command import Account
from ..errors import EngineError, PermissionDenied
from .unexpected import explained

#: A message is its length and then itself: a pickle from the parent, JSON from the child.
LENGTH = struct.Struct(">I")
#: prctl(2).
_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38
#: How long the work may go on without its parent, and how long tidying up may take then, in seconds.
_GRACE, _TIDYING = 2.0, 30.0
_MESSAGE_LENGTH = 4000


@dataclass(frozen=True)
class Offer:
    """What a child says first, and what it can be asked for. Everything is plain values that JSON has.

    ``cancel`` makes a call that is running end soon; it is called from another thread, once the parent is gone.
    """

    greeting: Any
    calls: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    cancel: Optional[Callable[[], None]] = None


#: Asks the parent something, by name; what it answers.
Asking = Callable[..., Any]
#: What runs in a child: a function of a module, which gets what was given to ``Child``.
Serve = Callable[..., ContextManager["Offer"]]
#: Whom to become: an account, or what finds it out in the child, before it becomes it; None to stay as it is.
Whom = Union[None, Account, Callable[..., Optional[Account]]]


@dataclass(frozen=True)
class Task:
    """What a parent sends first."""

    serve: Serve
    arguments: Tuple[Any, ...]
    whom: Whom
    parent: int


class _State:
    """``ending`` is set once only tidying up is left, which no signal may cut short."""

    ending = False


def main(descriptor: int) -> None:
    """The child's whole life. ``descriptor`` is its end of the channel to its parent."""
    # Nothing of the parent's secrets is in this memory, but rows of a database will be.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.umask(0o077)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, _end)
    control = socket.socket(fileno=descriptor)
    try:
        task: Task = receive(control)
        prctl = _prctl()
        become(task.whom(*task.arguments) if callable(task.whom) else task.whom)
        # To become another account clears it, so it is set now; the parent may have ended meanwhile.
        prctl(_PR_SET_NO_NEW_PRIVS, 1)
        prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM))
        if os.getppid() == task.parent:
            _serve(control, task)
    except EngineError as error:
        _send(control, _explained(error))
    except (BrokenPipeError, ConnectionError, EOFError):
        # The parent is gone: nobody is left to tell.
        pass
    except Exception as error:
        _send(control, _explained(error))


def _serve(control: socket.socket, task: Task) -> None:
    def ask(name: str, *arguments: Any) -> Any:
        _send(control, {"question": name, "arguments": arguments})
        return receive(control)

    watch = _Watch(control)
    watch.start()
    try:
        with task.serve(ask, *task.arguments) as offer:
            watch.cancel = offer.cancel
            _send(control, {"value": offer.greeting})
            while True:
                try:
                    name, arguments = receive(control)
                except (EOFError, ConnectionError):
                    break
                _send(control, _answer(offer.calls[name], arguments))
            _State.ending = True
    finally:
        _State.ending = True


def _answer(call: Callable[..., Any], arguments: Tuple[Any, ...]) -> Mapping[str, Any]:
    try:
        return {"value": call(*arguments)}
    except Exception as error:
        return _explained(error)


def _explained(error: Exception) -> Mapping[str, Any]:
    told = explained(error, "Working on the database")
    return {"error": told.code, "message": str(told)}


def become(account: Optional[Account]) -> None:
    """Become an account for good. Raises PermissionDenied, and never goes on as somebody else."""
    if account is None or os.getresuid() == (account.uid,) * 3:
        return
    try:
        os.setgroups(account.groups or (account.gid,))
        os.setresgid(account.gid, account.gid, account.gid)
        os.setresuid(account.uid, account.uid, account.uid)
    except OSError as error:
        raise PermissionDenied(
            f"Cannot become {account.name}: {(error.strerror or str(error)).lower()}. "
            f"Run this as root with the right to become other accounts, or as {account.name}."
        ) from error
    if os.getresuid() != (account.uid,) * 3 or os.getresgid() != (account.gid,) * 3:
        raise PermissionDenied(f"Cannot become {account.name}: the system kept another account. Run this as it.")


def receive(control: socket.socket) -> Any:
    """What the parent says next. Raises EOFError when it says no more."""
    size = LENGTH.unpack(_take(control, LENGTH.size))[0]
    return pickle.loads(_take(control, size))


def _take(control: socket.socket, size: int) -> bytes:
    parts = []
    while size:
        part = control.recv(min(size, 1 << 20))
        if not part:
            raise EOFError
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def _send(control: socket.socket, message: Mapping[str, Any]) -> None:
    if "message" in message:
        message = {**message, "message": message["message"][:_MESSAGE_LENGTH]}
    body = json.dumps(message).encode("ascii")
    with suppress(BrokenPipeError, ConnectionError):
        control.sendall(LENGTH.pack(len(body)) + body)


class _Watch(threading.Thread):
    """Ends this process when its parent is gone, in whatever call it is."""

    def __init__(self, control: socket.socket) -> None:
        super().__init__(daemon=True)
        self._control = control
        self.cancel: Optional[Callable[[], None]] = None

    def run(self) -> None:
        poll = select.poll()
        poll.register(self._control, select.POLLRDHUP)
        poll.poll()
        if self.cancel is not None:
            self.cancel()
        # Idle, the other thread sees the end of the channel itself.
        time.sleep(0.2)
        if not _State.ending:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(_GRACE)
        if _State.ending:
            time.sleep(_TIDYING)
        os._exit(1)


def _end(_number: int, _frame: Optional[FrameType]) -> None:
    if not _State.ending:
        _State.ending = True
        raise SystemExit(1)


def _prctl() -> Callable[[int, int], Any]:
    """prctl(2), or where this Python cannot call it nothing: the end of the channel then ends the child alone."""
    try:
        import ctypes

        # Loaded before the account changes, and without callbacks, which a hardened service may not make.
        function = ctypes.CDLL(None, use_errno=True).prctl
    except (ImportError, MemoryError, OSError, AttributeError):
        return lambda option, argument: None

    def call(option: int, argument: int) -> Any:
        long = ctypes.c_ulong
        return function(ctypes.c_int(option), long(argument), long(0), long(0), long(0))

    return call
