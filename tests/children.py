# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What children of the tests do: well-behaved ones, and hostile ones. A child imports this under its own name."""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import socket
import struct
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable, Iterator

from _engine.command import Account
from _engine.errors import Locked
from _engine.host.inside import Offer

NOBODY = Account("nobody", 65534, 65534, (65534,), "/nonexistent")


def look() -> dict[str, Any]:
    """What a child can see of itself."""
    descriptors = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            descriptors[name] = os.readlink(f"/proc/self/fd/{name}")
        except OSError:  # the listing's own
            continue
    return {
        "ids": [*os.getresuid(), *os.getresgid(), *os.getgroups()],
        "environment": dict(os.environ),
        "descriptors": descriptors,
        "core": list(resource.getrlimit(resource.RLIMIT_CORE)),
        "arguments": Path("/proc/self/cmdline").read_bytes().decode("utf-8", "replace"),
        "status": Path("/proc/self/status").read_text(encoding="utf-8"),
    }


def regain() -> str:
    """Try to become root again."""
    try:
        os.setuid(0)
    except PermissionError:
        return "refused"
    return "root"


def crash() -> None:
    ctypes.string_at(0)


def fail(kind: str) -> None:
    if kind == "locked":
        raise Locked("It stayed locked\x1b[31m\n\u202e. Wait.")
    raise RuntimeError("row 1 of people: Alice")


def echo(value: Any) -> Any:
    return value


def hang() -> None:
    while True:
        time.sleep(60)


def ignore_signals() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    hang()


def stop() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


@contextmanager
def obedient(ask: Callable[..., Any], path: str = "") -> Iterator[Offer]:
    """A child with many talents, which removes a file at its end."""
    calls = {
        "look": look,
        "regain": regain,
        "crash": crash,
        "fail": fail,
        "echo": echo,
        "hang": hang,
        "ignore_signals": ignore_signals,
        "stop": stop,
        "ask": ask,
        "end": os._exit,
        "write": lambda descriptor, text: os.write(descriptor, text.encode()),
    }
    if path:
        Path(path).touch()
    try:
        yield Offer({"pid": os.getpid()}, calls)
    finally:
        if path:
            Path(path).unlink()


@contextmanager
def refusing(ask: Callable[..., Any]) -> Iterator[Offer]:
    if callable(ask):
        raise Locked("It is locked. Wait.")
    yield Offer(None)


@contextmanager
def liar(ask: Callable[..., Any], what: str) -> Iterator[Offer]:
    """Writes onto its channel what no honest child writes. The channel is the one socket that it has."""
    channel = socket.socket(fileno=os.dup(_channel()))
    bodies = {
        "digits": b'{"value": ' + b"9" * 100_000 + b"}",
        "depth": b'{"value": ' + b"[" * 200_000 + b"]" * 200_000 + b"}",
        "values": b'{"value": [' + b"[]," * 700_000 + b"0]}",
        "nothing": b"",
        "list": b"[]",
        "binary": b"\x80\x04N.",
        "infinite": b'{"value": Infinity}',
        "question": b'{"question": "passwords", "arguments": []}',
        "question_kind": b'{"question": ["users"], "arguments": 7}',
        "question_value": b'{"question": "number", "arguments": ["x", {}, 3]}',
        "error": json.dumps({"error": ["no"], "message": {"a": 1}}).encode(),
    }
    if what == "flood":
        # Whatever length it says, the parent reads no more than it allows.
        channel.sendall(struct.pack(">I", 0xFFFFFFFF) + b"x" * (1 << 20))
        hang()
    if what == "questions":
        while True:
            body = b'{"question": "number", "arguments": [1]}'
            channel.sendall(struct.pack(">I", len(body)) + body)
    body = bodies[what]
    channel.sendall(struct.pack(">I", len(body)) + body)
    hang()
    yield Offer(None)


def _channel() -> int:
    for name in os.listdir("/proc/self/fd"):
        try:
            if os.readlink(f"/proc/self/fd/{name}").startswith("socket:"):
                return int(name)
        except OSError:
            continue
    raise AssertionError("there is no channel")
