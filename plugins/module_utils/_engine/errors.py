# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What can go wrong, as types.

Every message names the object, the reason and the next step, in sentences that the user reads as they are:
``Cannot restore shop: database "shop" exists on db1:5432. Set replace to replace it, or restore under another name.``

``code`` is part of the public contract: modules return it as ``error``, so that a playbook can branch on it.
"""

from __future__ import annotations

from typing import ClassVar, FrozenSet

from .messages import of_program


class EngineError(Exception):
    """Base of every failure that the engine expects and explains."""

    code: ClassVar[str] = "failed"


class BadInput(EngineError):
    """An option is missing, contradicts another one, or has no usable value."""

    code = "bad_input"


class NotFound(EngineError):
    """The database, backup or file that was asked for does not exist."""

    code = "not_found"


class TargetExists(EngineError):
    """A restore would replace a database, and nobody asked for that."""

    code = "target_exists"


class Unreachable(EngineError):
    """A server did not answer, or a login was refused."""

    code = "unreachable"


class PermissionDenied(EngineError):
    """The account that runs this may not read or write what it has to."""

    code = "permission_denied"


class NotADatabase(EngineError):
    """The file that should be a database is something else."""

    code = "not_a_database"


class Locked(EngineError):
    """Somebody else holds the database or its lock, and went on holding it past the timeout."""

    code = "locked"


class Contended(Locked):
    """Somebody else stands in line for what this work has locked, and is in its way. Begun anew, it lets them pass."""


class Stopped(BaseException):
    """The work was told to stop. No handler of errors may take this for one, and go on."""

    code: ClassVar[str] = "stopped"


class TimedOut(Stopped):
    """The work took longer than its timeout."""

    code = "timeout"


class Interrupted(Stopped):
    """A signal asked this process to stop."""

    code = "interrupted"


class Unanswered(EngineError):
    """The work took longer than its timeout, and was ended from outside."""

    code = "timeout"


class Crashed(EngineError):
    """The process that did the work ended without an answer, by a signal that nobody here sent."""

    code = "crashed"


class Unexpected(EngineError):
    """A fault of this project. Says where in the code, and nothing of the data."""

    code = "unexpected"


class MissingTool(EngineError):
    """A program or library is not installed, or is too old."""

    code = "missing_tool"


class ToolFailed(EngineError):
    """An external program ended with an error.

    ``output`` is the end of what it wrote on standard error, to be judged and never to be shown: it can hold rows.
    ``keywords`` are those of its status lines, where it writes such lines.
    """

    code = "tool_failed"

    def __init__(self, name: str, status: int, output: str, keywords: FrozenSet[str] = frozenset()) -> None:
        ending = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
        said = of_program(name, output)
        # What a program says ends as it likes, and names no next step.
        told = (
            f": {said.rstrip('. ')}. Mend that, and run this again."
            if said
            else " without a message that may be shown."
        )
        super().__init__(f"{name} {ending}{told}")
        self.name = name
        self.status = status
        self.output = output
        self.keywords = keywords


class RepositoryUnusable(EngineError):
    """The repository is missing, read-only, or not what it should be."""

    code = "repository_unusable"


class NoSpace(EngineError):
    """A disk is full, or too small for what is about to be written."""

    code = "no_space"


class Shrunk(EngineError):
    """The new dump is suspiciously smaller than the last backup."""

    code = "shrunk"


class WeakerEncryption(EngineError):
    """A backup is not encrypted with the method that was asked for: whoever can write the repository chose another."""

    code = "weaker_encryption"


class Damaged(EngineError):
    """Stored bytes are not the bytes that were written."""

    code = "damaged"


class BadSignature(EngineError):
    """A signature is not of the bytes beside it, or its signer may not sign them. The message goes on from its name."""

    code = "bad_signature"


class BadManifest(EngineError):
    """A manifest is cut short, of a newer schema, or holds what no manifest may hold."""

    code = "bad_manifest"


class NoKey(EngineError):
    """The backup is encrypted and no key was given."""

    code = "no_key"


class WrongKey(EngineError):
    """Keys were given, and none of them opens the backup."""

    code = "wrong_key"


class AssertionFailed(EngineError):
    """What came back is what was backed up, and yet not what the user's own query must return."""

    code = "assertion_failed"


class Mismatch(EngineError):
    """What came back is not what was backed up."""

    code = "mismatch"


class Stale(EngineError):
    """The newest backup is older than it may be, or there is none."""

    code = "stale"


class Unverifiable(EngineError):
    """Something could not be checked. That is never the same as fine."""

    code = "unverifiable"


class Refused(EngineError):
    """The request would lose data, and a safety rule stops it."""

    code = "refused"


class Incomplete(EngineError):
    """Everything else is restored; what is not is named."""

    code = "incomplete"


class PartlyDone(EngineError):
    """Some repositories have the result, others do not."""

    code = "partly_done"
