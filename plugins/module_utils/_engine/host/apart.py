# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Doing work apart: in a child of its own, so that a crash, a hang or an error of it ends nothing else.

A command of the agent has three parts. The process that was started supervises and does nothing else, so that nothing
can keep it: it ends what has to end, and ends itself. Its first child is the command, which reads what to do, has
threads that send messages, and prints. Whatever may hang or crash, the command asks the supervisor to do in a further
child: to fork where threads run is not safe. A module has no threads, and supervises its work itself.
"""

from __future__ import annotations

import json
import os
import pickle
import select
import signal
import socket
import struct
import sys
from contextlib import suppress
from dataclasses import replace
from types import FrameType
from typing import Any, Callable, Dict, List, Optional, Tuple

from ..errors import Crashed, EngineError, Interrupted, Stopped, TimedOut, Unanswered
from ..interrupts import between_works, interruptible, time_limit
from .supervision import Child, Ending, Supervisor
from .unexpected import explained_stop

Work = Callable[[], Any]

_HEADER = struct.Struct("!Q")
#: How long a command that is told to stop may take, in seconds: its work takes its time first, and then its messages.
_COMMAND_PATIENCE = 60.0
#: How long the supervisor waits for the command to take an answer, in seconds.
_HANDOVER = 30.0


def apart(work: Work, label: str, seconds: Optional[float] = None, patient: bool = False) -> Any:
    """Do the work in a child of its own, and return what it returns, which JSON can hold; tuples become lists.

    ``label`` says what it is, as in "The backup of shop", and ``seconds`` is how long it may take. Raises the
    EngineError or the order to stop that ended the work, Unanswered where its time was up, Crashed where it ended
    without an answer, and an EngineError for an error that nobody foresaw. In a command, ``work`` is pickled: a
    function of a module, or ``functools.partial`` of one. It has ``between_works`` around it, and stops where it is
    ``interruptible``. A command that is ``patient`` is not stopped itself meanwhile: a signal only stops the work.
    """
    ending = _command.ask(work, label, seconds, patient) if _command else _supervised(work, label, seconds)
    return _result(ending, label, seconds)


def working_process() -> Optional[int]:
    """The process that works apart for this command at the moment."""
    return _command.worker if _command else None


def commanded(act: Callable[[], int], label: str) -> int:
    """Run a command in a child that can have work done apart; its exit status, 128 and its number for a signal."""
    with Supervisor() as supervisor:
        mine, its = socket.socketpair()
        with mine:
            with its:
                command = supervisor.start(
                    lambda _answer: _be_command(act, its), None, _COMMAND_PATIENCE, (mine.fileno(),)
                )
            ending = _serve(supervisor, command, mine)
    if ending.status is not None and ending.status >= 0:
        return ending.status
    if ending.told is not None:
        _complain(_how_it_stopped(ending))
        return 128 + signal.SIGINT
    _complain(_how_it_crashed(ending, label))
    return 1


def _complain(text: str) -> None:
    with suppress(OSError):
        os.write(2, f"fleet-backup: {text}\n".encode("utf-8", "backslashreplace"))


def _serve(supervisor: Supervisor, command: Child, control: socket.socket) -> Ending:
    """Do what a command asks for until it has ended, and nothing that it asked for goes on; how it ended."""
    control.settimeout(_HANDOVER)
    worker: Optional[Child] = None
    listening = True
    while command.ending is None or worker is not None:
        if supervisor.wait([control.fileno()] if listening else []):
            request = _receive(control)
            if request is None:
                listening = False
            elif request == "stop":
                if worker is not None:
                    worker.stop(signal.SIGTERM)
            elif worker is None:
                worker = _begin(supervisor, control, *request)
        if worker is not None and worker.ending is not None:
            if command.ending is None:
                _send(control, worker.ending)
            worker = None
        if command.ending is not None and worker is not None:
            worker.stop(signal.SIGTERM)
    return command.ending


def _begin(
    supervisor: Supervisor, control: socket.socket, work: Work, label: str, seconds: Optional[float]
) -> Optional[Child]:
    try:
        worker = supervisor.start(_answering(work, label, seconds), seconds, foreign=(control.fileno(),))
    except OSError as error:
        _send(control, Ending(0, problem=str(explained_stop(error, label))))
        return None
    _send(control, worker.pid)
    return worker


def _supervised(work: Work, label: str, seconds: Optional[float]) -> Ending:
    with Supervisor() as supervisor:
        try:
            child = supervisor.start(_answering(work, label, seconds), seconds)
        except OSError as error:
            return Ending(0, problem=str(explained_stop(error, label)))
        while child.ending is None:
            supervisor.wait()
        return child.ending


class _Command:
    """A command's way to its supervisor."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        #: The process that works for it.
        self.worker: Optional[int] = None

    def ask(self, work: Work, label: str, seconds: Optional[float], patient: bool) -> Ending:
        """Have work done. A signal stops it; Interrupted is raised where it came before that, unless ``patient``."""
        if not patient:
            with interruptible():
                # One that waited stops this here.
                pass
        _send(self._control, (work, label, seconds))
        self.worker = _receive(self._control)
        try:
            if not isinstance(self.worker, int):
                return self.worker or _gone()
            told = None if patient else self._wait()
            ending: Ending = _receive(self._control) or _gone()
        finally:
            self.worker = None
        return ending if told is None else replace(ending, told=told)

    def _wait(self) -> Optional[int]:
        """Wait for the answer; the signal that came meanwhile, which stopped the work."""
        try:
            with interruptible():
                select.select([self._control], [], [])
        except Interrupted:
            with suppress(OSError):
                _send(self._control, "stop")
            return signal.SIGTERM
        return None


#: This process's way to its supervisor, where it is a command.
_command: Optional[_Command] = None


def _gone() -> Ending:
    return Ending(0, problem="The supervisor of this command has ended. Run this again.")


def _be_command(act: Callable[[], int], control: socket.socket) -> int:
    global _command
    _command = _Command(control)
    status = act()
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
    return status


def _answering(work: Work, label: str, seconds: Optional[float]) -> Callable[[int], int]:
    """What a child does: the work, and then its answer."""

    def body(descriptor: int) -> int:
        global _command
        _command = None
        _let_go_of_streams()
        heard: List[int] = []
        waiting: Optional[int] = None

        def hear(number: int, _frame: Optional[FrameType]) -> None:
            heard.append(number)

        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, hear)
        answer: Dict[str, Any]
        with between_works() as heard_meanwhile:
            try:
                with time_limit(seconds, label):
                    if heard:
                        signal.raise_signal(heard.pop())
                    answer = {"value": work()}
            except BaseException as error:
                why = explained_stop(error, label)
                answer = {"error": getattr(why, "code", EngineError.code), "message": str(why)}
            waiting = heard_meanwhile()
        content = memoryview(_encoded({**answer, "heard": waiting}, label))
        while content:
            content = content[os.write(descriptor, content) :]
        return 0

    return body


def _let_go_of_streams() -> None:
    """Hold no stream of the command: who reads them waits for their end, and a child may have to be left behind."""
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)


def _encoded(answer: Dict[str, Any], label: str) -> bytes:
    try:
        return json.dumps(answer).encode("ascii")
    except (TypeError, ValueError) as error:
        why = explained_stop(error, label)
        return json.dumps({"error": "unexpected", "message": str(why)}).encode("ascii")


def _result(ending: Ending, label: str, seconds: Optional[float]) -> Any:
    """What an answer says. Raises what ended the work."""
    if ending.problem:
        raise EngineError(ending.problem)
    answer = _decoded(ending)
    if answer is None:
        raise _failure(ending, label, seconds)
    late = answer.get("heard") or (ending.told if "value" in answer else None)
    if _command and late:
        # It came too late for the work, and stops what follows in this command.
        signal.raise_signal(late)
    if "error" in answer:
        raise _error(answer["error"], answer["message"])
    return answer["value"]


def _decoded(ending: Ending) -> Optional[Dict[str, Any]]:
    if ending.status != 0 or ending.killed:
        return None
    try:
        answer = json.loads(ending.answer)
    except (ValueError, RecursionError):
        return None
    return answer if isinstance(answer, dict) and ("value" in answer or "error" in answer) else None


def _failure(ending: Ending, label: str, seconds: Optional[float]) -> BaseException:
    """Why there is no answer."""
    if ending.overdue:
        return Unanswered(
            f"{label} took longer than its timeout of {seconds:g} s, did not stop, and was killed.{_left(ending)} "
            "See what it waits for, and raise timeout where it only needs longer."
        )
    if ending.told is not None:
        return Interrupted(_how_it_stopped(ending))
    return Crashed(f"{_how_it_crashed(ending, label)} {_left(ending)}".strip())


def _left(ending: Ending) -> str:
    if ending.status is not None:
        return ""
    return (
        f" Not even SIGKILL ends process {ending.pid}, which the kernel holds, most likely for a disk or a server that "
        "does not answer: it was left behind, and keeps its locks until then."
    )


def _how_it_stopped(ending: Ending) -> str:
    told = signal.Signals(ending.told or signal.SIGTERM).name
    word = " It did not stop by itself, and was killed." if ending.killed else ""
    return f"Stopped by {told}.{word}{_left(ending)} Run this again."


def _how_it_crashed(ending: Ending, label: str) -> str:
    if ending.status is None or ending.status >= 0:
        return f"{label} ended without an answer (status {ending.status}). Run this again."
    number = -ending.status
    hint = "See the kernel's log for why."
    if number == signal.SIGKILL:
        hint = "See the kernel's log: it may have been short of memory."
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = f"signal {number}"
    return f"{label} was killed by {name}. {hint}"


def _error(code: str, message: str) -> BaseException:
    """An error of the class that has this code."""
    if code == TimedOut.code:
        return Unanswered(message)
    for kind in _kinds(Stopped) + _kinds(EngineError):
        if kind.code == code:
            # Those of programs are made from more than a message.
            error: BaseException = kind.__new__(kind, message)
            error.args = (message,)
            return error
    return EngineError(message)


def _kinds(base: Any) -> Tuple[Any, ...]:
    found: Tuple[Any, ...] = (base,)
    for kind in base.__subclasses__():
        found += _kinds(kind)
    return found


def _send(control: socket.socket, message: Any) -> None:
    content = pickle.dumps(message)
    control.sendall(_HEADER.pack(len(content)) + content)


def _receive(control: socket.socket) -> Any:
    """The next message; None where the other side has ended."""
    header = _take(control, _HEADER.size)
    content = _take(control, _HEADER.unpack(header)[0]) if header else None
    return pickle.loads(content) if content else None


def _take(control: socket.socket, size: int) -> Optional[bytes]:
    taken = bytearray()
    while len(taken) < size:
        block = control.recv(min(size - len(taken), 1 << 20))
        if not block:
            return None
        taken += block
    return bytes(taken)
