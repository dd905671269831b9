# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The one way in which this project runs an external program.

Arguments are a list and never a shell's; secrets arrive through anonymous memory files (memfd_create(2)); of this
process's environment a program gets what every program needs, and nothing that may be a secret; the end of what it
writes on standard error is kept for the message; no exit status goes unread; and it ends with the thread that began it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import signal
import subprocess
import termios
import threading
from collections import Counter
from contextlib import suppress
from typing import Callable, Dict, List, Optional, Tuple

from .command import Account, Argument, Command, Secret, Status
from .errors import MissingTool, ToolFailed
from .host.kernel import die_with
from .messages import CUT

_OUTPUT_KEPT, _BEGINNING_KEPT = 4000, 1000
_CUT = f"\n{CUT}\n".encode("ascii")
#: How long the end of a program's messages is waited for once it has ended: what it left running may still hold them.
_LINGER = 1.0
#: What a program writes that "is short", in bytes.
_SHORT = 1 << 20
#: What programs inherit of the environment, besides LC_*; those of another account get less.
_INHERITED = ("LANG", "LANGUAGE", "LD_LIBRARY_PATH", "LD_PRELOAD", "PATH", "TMPDIR", "TZ")
_OWN = ("GNUPGHOME", "HOME", "LOGNAME", "SSL_CERT_DIR", "SSL_CERT_FILE", "USER", "XDG_RUNTIME_DIR")
_PROXIES = ("http_proxy", "https_proxy", "no_proxy")
#: The niceness of a program that makes way: it gets a third of the processor time of one that does not (sched(7)). With
#: 10 it is a tenth, and on a busy host the dump takes so long that its snapshot is what burdens the server.
_MODEST = 5


class Process:
    """A running program. ``stdin`` and ``stdout`` are open descriptors, or None for nothing.

    ``heard`` gets all that it writes on standard error, in pieces and from another thread.
    """

    def __init__(
        self,
        command: Command,
        stdin: Optional[int] = None,
        stdout: Optional[int] = None,
        heard: Optional[Callable[[bytes], None]] = None,
    ) -> None:
        self.command = command
        self._tail: Optional[_Tail] = _Tail(heard)
        #: What it wrote on standard error, once ``failure`` was asked.
        self.said = ""
        # Held open until the program has ended: a terminal that nobody has open hangs up, and the program with it.
        self._terminal: Optional[int] = None
        self._listener: Optional[_Listener] = None
        handed_over: List[int] = []
        try:
            account = command.account
            arguments = [_present(argument, handed_over, account) for argument in command.arguments]
            if command.status:
                self._listener = _Listener(command.status)
                handed_over.append(self._listener.writing)
                arguments[1:1] = [command.status.option, str(self._listener.writing)]
            environment = environment_for(account)
            for key, value in command.environment.items():
                environment[key] = _present(value, handed_over, account)
            if command.terminal_answers:
                self._terminal, self._typist = _open_terminal(command)
            self._popen = self._spawn(arguments, environment, stdin, stdout, handed_over)
        except BaseException:
            self._take_output()
            raise
        finally:
            for descriptor in handed_over:
                os.close(descriptor)
            if self._listener:
                self._listener.start()
            if self._tail is not None:
                self._tail.handed_over()

    def _spawn(
        self,
        arguments: List[str],
        environment: Dict[str, str],
        stdin: Optional[int],
        stdout: Optional[int],
        handed_over: List[int],
    ) -> subprocess.Popen[bytes]:
        account, terminal, parent = self.command.account, self._terminal, os.getpid()
        memory = self.command.memory
        become = account is not None and account.uid != os.geteuid()
        errors = subprocess.DEVNULL if self._tail is None else self._tail.writing

        def prepare() -> None:
            if terminal is not None:
                fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)
            if account is not None and become:
                os.setgroups(account.groups)
                os.setgid(account.gid)
                os.setuid(account.uid)
            # Last, since to become another account takes it back.
            die_with(parent)
            if memory is not None:
                resource.setrlimit(resource.RLIMIT_AS, (memory, memory))

        try:
            return subprocess.Popen(
                arguments,
                stdin=subprocess.DEVNULL if stdin is None else stdin,
                stdout=subprocess.DEVNULL if stdout is None else stdout,
                stderr=errors,
                env=environment,
                pass_fds=handed_over,
                # A session of its own: the terminal's Ctrl-C reaches this project, which then ends its programs in
                # order; and only a session leader can be given a terminal.
                start_new_session=True,
                # PostgreSQL's programs look at the current directory, which another account may not see.
                cwd="/" if become else None,
                # Other threads run meanwhile, but these are single system calls that need no lock of theirs, and only
                # the program's own process can make them.
                preexec_fn=prepare,  # noqa: PLW1509
            )
        except (OSError, subprocess.SubprocessError) as error:
            raise MissingTool(f"{self.command.name} cannot be started: {_why(arguments[0], error)}") from None

    @property
    def pid(self) -> int:
        """The number of its process, until its end was waited for."""
        return self._popen.pid

    def make_way(self) -> None:
        """Let all that is not nice to others go first. One that is nicer already, or has ended, stays so."""
        if self._popen.poll() is not None:
            return
        niceness = max(_MODEST, os.getpriority(os.PRIO_PROCESS, self.pid))
        # A hardened service may not touch a program that has become another account. What the kernel refuses, or
        # lacks, is only slower for others.
        with suppress(PermissionError):
            os.setpriority(os.PRIO_PROCESS, self.pid, niceness)
        # Where sessions are scheduled as groups, niceness counts within a session only, and each program has its own
        # (sched(7), "The autogroup feature").
        with suppress(OSError), open(f"/proc/{self.pid}/autogroup", "w", encoding="ascii") as group:
            group.write(str(niceness))

    @property
    def ended(self) -> bool:
        """Whether it has ended by now."""
        return self._popen.poll() is not None

    def wait(self) -> int:
        """Wait for the end; the exit status, negative for a signal."""
        return self._popen.wait()

    def failure(self) -> Optional[ToolFailed]:
        """How the program failed, or None. Waits for its end, and may be asked once."""
        status = self.wait()
        self.said = output = self._take_output()
        counts: Counter[str] = self._listener.counts() if self._listener else Counter()
        wanted = self.command.status.once if self.command.status else ()
        if status == 0 and all(counts[keyword] == 1 for keyword in wanted):
            return None
        return ToolFailed(self.command.name, status, output, frozenset(counts))

    def interrupt(self) -> None:
        """Ask the program to end, from any thread: who waits for it goes on."""
        self._popen.terminate()

    def stop(self) -> None:
        """End the program, politely first, and forget what it said."""
        if self._popen.poll() is None:
            self._signal(signal.SIGTERM)
            try:
                self._popen.wait(timeout=5)
            except subprocess.TimeoutExpired:
                self._signal(signal.SIGKILL)
                self._popen.wait()
        self._take_output()

    def _signal(self, number: int) -> None:
        """Tell the program, and what it has started in its session."""
        with suppress(ProcessLookupError):
            os.killpg(self._popen.pid, number)

    def _take_output(self) -> str:
        if self._tail is None:
            return ""
        kept = self._tail.end()
        self._tail = None
        if self._terminal is not None:
            os.close(self._terminal)
            self._terminal = None
            self._typist.join()
        return kept.decode("utf-8", "replace").strip()


class _Tail(threading.Thread):
    """Keeps the beginning and the end of what a program writes, in constant memory whatever it writes.

    The reason often comes first, and behind it what it was about, however long that is.
    """

    def __init__(self, heard: Optional[Callable[[bytes], None]]) -> None:
        super().__init__(daemon=True)
        self._reading, self.writing = os.pipe()
        self._heard = heard
        self._begun, self._kept, self._is_cut = b"", b"", False
        try:
            self.start()
        except RuntimeError:
            os.close(self._reading)
            self.handed_over()
            raise

    def handed_over(self) -> None:
        """Let go of the end that a program has by now, or that none will have."""
        if self.writing >= 0:
            os.close(self.writing)
            self.writing = -1

    def run(self) -> None:
        try:
            for block in iter(lambda: os.read(self._reading, 1 << 16), b""):
                room = _BEGINNING_KEPT - len(self._begun)
                self._begun += block[:room]
                end = self._kept + block[room:]
                self._kept = end[-(_OUTPUT_KEPT - _BEGINNING_KEPT - len(_CUT)) :]
                self._is_cut = self._is_cut or len(end) > len(self._kept)
                if self._heard:
                    self._heard(block)
        finally:
            os.close(self._reading)

    def end(self) -> bytes:
        """What it wrote first and last. Waits until all is there, but not for what the program has left running."""
        self.handed_over()
        self.join(_LINGER)
        return self._begun + (_CUT if self._is_cut else b"") + self._kept


class _Listener(threading.Thread):
    """Counts the keywords of a program's status lines, in constant memory whatever it writes."""

    #: No keyword of gpg is longer (doc/DETAILS), and none has more kinds of lines.
    _LONGEST, _MOST = 8192, 200

    def __init__(self, status: Status) -> None:
        super().__init__(daemon=True)
        reading, self.writing = os.pipe()
        self._file = os.fdopen(reading, "rb")
        self._prefix = status.prefix.encode("ascii")
        self._counts: Counter[str] = Counter()

    def run(self) -> None:
        with self._file:
            whole = True
            for line in iter(lambda: self._file.readline(self._LONGEST), b""):
                if whole and line.startswith(self._prefix):
                    self._count(line[len(self._prefix) :].split())
                whole = line.endswith(b"\n")

    def _count(self, words: List[bytes]) -> None:
        keyword = words[0].decode("ascii", "replace") if words else ""
        if keyword in self._counts or len(self._counts) < self._MOST:
            self._counts[keyword] += 1

    def counts(self) -> Counter[str]:
        """How often each keyword came. Waits until the program has closed its descriptor."""
        self.join()
        return self._counts


def _why(program: str, error: Exception) -> str:
    number = error.errno if isinstance(error, OSError) else None
    if isinstance(error, FileNotFoundError):
        return f"{program} does not exist. Install the package that brings it."
    if isinstance(error, PermissionError):
        return f"{program} may not be executed. Check its file mode."
    if number == errno.ENOEXEC:
        return f"{program}: it is no program. Begin a script with the line #!/bin/sh, or name its interpreter."
    if number in (errno.EAGAIN, errno.ENOMEM):
        return f"{program}: {os.strerror(number or 0)}. Raise the limit of processes or of memory."
    return f"{program}: {os.strerror(number) if number else 'it could not be prepared'}. Check the path."


def run(command: Command, stdin: Optional[int] = None, stdout: Optional[int] = None) -> None:
    """Run a program to its end. Raises ToolFailed, or MissingTool when it cannot be started."""
    process = Process(command, stdin=stdin, stdout=stdout)
    try:
        failure = process.failure()
    except BaseException:
        process.stop()
        raise
    if failure is not None:
        raise failure


def output_of(command: Command) -> str:
    """What a program writes on its standard output, which is short. Raises what ``run`` raises."""
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as output:
        try:
            process = Process(command, stdout=writing)
        finally:
            os.close(writing)
        try:
            said = output.read(_SHORT + 1)
            if len(said) > _SHORT:
                raise ToolFailed(command.name, 1, "it wrote far more than it should")
            failure = process.failure()
        except BaseException:
            process.stop()
            raise
    if failure is not None:
        raise failure
    return said.decode("utf-8", "replace")


def environment_for(account: Optional[Account]) -> Dict[str, str]:
    """What a program gets of this process's environment. ``account`` is the one that it runs as, None for this one."""
    names = [name for name in os.environ if name in _INHERITED or name.startswith("LC_")]
    if account is None or account.uid == os.geteuid():
        names += [name for name in os.environ if name in _OWN or name.lower() in _PROXIES]
    environment = {name: os.environ[name] for name in names}
    environment["LC_ALL"] = "C.UTF-8"
    if account is not None:
        environment.update(HOME=account.home, USER=account.name, LOGNAME=account.name)
    return environment


def memory_file(content: bytes) -> int:
    """An anonymous file in memory that holds ``content``, readable by its owner alone; its descriptor, at the start."""
    descriptor = os.memfd_create("secret")
    # libpq and gpg look at the mode of a password file, and memfd_create() makes it 0777.
    os.fchmod(descriptor, 0o600)
    written = 0
    while written < len(content):
        written += os.write(descriptor, content[written:])
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def _present(argument: Argument, handed_over: List[int], account: Optional[Account]) -> str:
    if not isinstance(argument, Secret):
        return argument
    descriptor = memory_file(argument.content)
    if account is not None:
        os.fchown(descriptor, account.uid, account.gid)
    handed_over.append(descriptor)
    return argument.form.format(fd=descriptor, path=f"/proc/self/fd/{descriptor}")


def _open_terminal(command: Command) -> Tuple[int, threading.Thread]:
    ours, theirs = os.openpty()
    answers = [secret.content for secret in command.terminal_answers]
    typist = threading.Thread(target=_answer, args=(ours, answers), daemon=True)
    typist.start()
    return theirs, typist


def _answer(terminal: int, answers: List[bytes]) -> None:
    """Type each answer when the program has written a prompt, then read on until the program closes the terminal."""
    waiting = list(answers)
    seen = b""
    try:
        while True:
            seen += os.read(terminal, 1024)
            if waiting and seen.rstrip().endswith(b":"):
                os.write(terminal, waiting.pop(0) + b"\n")
                seen = b""
    except OSError:
        # EIO is how Linux says that the other side of a pseudo terminal is closed: the program has ended (pty(7)).
        os.close(terminal)
