# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The manual page, written from the parser itself, so that it cannot say what the command does not do (man(7), roff).

It is made of the parser's actions and not of its help, which every version of Python lays out in its own way.
"""

from __future__ import annotations

import argparse
from typing import Iterator, List, Sequence, Tuple

from ... import __version__

_DESCRIPTION = (
    "backs up the databases of this host into repositories, proves that the backups can be restored, restores them, "
    "and removes those that no policy keeps. What is to be done for a database is its job, a file that an inventory "
    "makes; no controller is needed to do it. A backup that nobody has restored is called unproven."
)
_EXITS = (
    ("0", "All went well; where nothing was to be done, too."),
    ("1", "Something that should have been done was not, or what was looked at is not as it should be."),
    ("2", "The command line, the settings or a job cannot be used. Of that, nothing was begun."),
    ("3", "All that could be checked is right, and something could not be checked: it is unverifiable."),
    ("4", "A database is restored, and some of its objects are not; they are named."),
    ("130", "It was interrupted by a signal, or left at a question; what it had begun was removed."),
)
_FILES = (
    ("/etc/fleet\\-backup/agent.json", "The agent's settings: the host's name, its state and its jobs."),
    ("/etc/fleet\\-backup/jobs.d/JOB.json", "A job."),
    ("/etc/fleet\\-backup/secrets/", "Secrets of jobs, which only root can read."),
    ("/var/lib/fleet\\-backup/", "The state of this host: locks, and what is running."),
)
_ENVIRONMENT = (
    ("FLEET_BACKUP_CONFIG", "The settings, where --config names none."),
    ("FLEET_BACKUP_STATE", "The directory of the state, instead of the one that the settings name."),
    ("CREDENTIALS_DIRECTORY", "Where systemd puts the credentials that jobs name as their secrets."),
    ("TMPDIR", "Where copies of a database are put while they are verified."),
    ("SQLITE_TMPDIR", "Where the copy of an SQLite database is put while it is backed up, instead of beside it."),
    ("NO_COLOR, TERM", "Where the one is set or the other is dumb, no progress is drawn."),
)
_EXAMPLES = (
    ("Back up all databases of this host:", "fleet-backup run --all"),
    ("Restore one, answering questions:", "fleet-backup restore"),
    (
        "Restore the newest backup of job shop with a key that was brought, and ask nothing:",
        "fleet-backup restore shop --replace --yes --identity - <operators.pem",
    ),
    (
        "Restore what was there at noon, beside the database:",
        "fleet-backup restore shop --before 2026-03-01T12:00Z --into shop_noon",
    ),
    (
        "Prove a backup by restoring it, with a key for this once:",
        "fleet-backup verify shop --identity /run/operators.pem",
    ),
    ("See which backups there are, as a program:", "fleet-backup list --json"),
)


def page(parser: argparse.ArgumentParser) -> str:
    """The page for a parser that has all its commands. Pure; the same for the same parser, on every Python."""
    summary = _plain(str(parser.description)).rstrip(".")
    lines = [
        f'.TH FLEET\\-BACKUP 8 "" "fleet.backup {_plain(__version__)}" "System administration"',
        # Left-aligned and without hyphens of its own: words are there to be copied.
        ".nh",
        ".ad l",
        ".SH NAME",
        f"fleet\\-backup \\- {summary[:1].lower()}{summary[1:]}",
        ".SH SYNOPSIS",
    ]
    commands = list(_commands(parser))
    for name, _purpose, command in commands:
        lines += [".HP", rf"\fBfleet\-backup {_plain(name)}\fR {' '.join(_usage(a) for a in _actions(command))}"]
    lines += [".SH DESCRIPTION", ".B fleet\\-backup", _text(_DESCRIPTION), ".SH COMMANDS"]
    lines += [_text("Each command explains itself with --help.")]
    for name, purpose, command in commands:
        lines += [f'.SS "{_plain(name)}"', _text(f"{purpose[0].upper()}{purpose[1:]}.")]
        for action in _actions(command):
            lines += [".TP", _names(action), _text(_help(action))]
    lines += [".SH EXIT STATUS", *_listed(_EXITS), ".SH FILES", *_listed(_FILES, ".I")]
    lines += [".SH ENVIRONMENT", *_listed(_ENVIRONMENT), ".SH EXAMPLES"]
    for what, words in _EXAMPLES:
        lines += [".PP", _text(what), ".PP", ".RS 4", ".EX", _plain(words), ".EE", ".RE"]
    lines += [".SH SEE ALSO", ".BR systemctl (1),", ".BR journalctl (1),", ".BR age (1),", ".BR gpg (1)"]
    return "\n".join(lines) + "\n"


def commands_of(parser: argparse.ArgumentParser) -> argparse._SubParsersAction[argparse.ArgumentParser]:
    """The action of a parser that has its commands."""
    return next(action for action in parser._actions if isinstance(action, argparse._SubParsersAction))


def options_of(command: argparse.ArgumentParser) -> Tuple[argparse.Action, ...]:
    """All that a command takes but for --help, in the order in which it was said."""
    return tuple(action for action in command._actions if not isinstance(action, argparse._HelpAction))


def _commands(parser: argparse.ArgumentParser) -> Iterator[Tuple[str, str, argparse.ArgumentParser]]:
    action = commands_of(parser)
    purposes = {choice.dest: str(choice.help) for choice in action._choices_actions}
    for name, command in action.choices.items():
        yield name, purposes[name], command


def _actions(command: argparse.ArgumentParser) -> List[argparse.Action]:
    """What is told of a command: first what has no name, then its own options, then those of all commands."""
    every = options_of(command)
    return sorted(every, key=lambda action: (bool(action.option_strings), action.dest in ("config", "json")))


def _usage(action: argparse.Action) -> str:
    if action.option_strings:
        value = f" \\fI{_plain(_value(action))}\\fR" if _value(action) else ""
        return rf"[\fB{_plain(action.option_strings[-1])}\fR{value}]"
    name = rf"\fI{_plain(_value(action))}\fR"
    if action.nargs == "*":
        return f"[{name} ...]"
    return f"[{name}]" if action.nargs == "?" else name


def _names(action: argparse.Action) -> str:
    value = f" \\fI{_plain(_value(action))}\\fR" if _value(action) else ""
    if not action.option_strings:
        return value.strip()
    return ", ".join(rf"\fB{_plain(name)}\fR" for name in action.option_strings) + value


def _value(action: argparse.Action) -> str:
    """What stands for the action's value, empty where it takes none."""
    if action.choices is not None:
        return "|".join(str(choice) for choice in action.choices)
    if action.nargs == 0:
        return ""
    return str(action.metavar or action.dest.upper())


def _help(action: argparse.Action) -> str:
    text = str(action.help or "")
    return f"{text[:1].upper()}{text[1:]}." + (" May be given several times." if _repeats(action) else "")


def _repeats(action: argparse.Action) -> bool:
    return isinstance(action, argparse._AppendAction)


def _listed(entries: Sequence[Tuple[str, str]], font: str = ".B") -> Iterator[str]:
    for name, meaning in entries:
        yield ".TP"
        yield f"{font} {name}" if "\\" in name else f"{font} {_plain(name)}"
        yield _text(meaning)


def _text(sentence: str) -> str:
    """A line of text; one that begins like a request of roff is kept from being one."""
    plain = _plain(sentence)
    return rf"\&{plain}" if plain[:1] in (".", "'") else plain


def _plain(text: str) -> str:
    """Text as it is: hyphens that can be copied, and no escape by accident."""
    return text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq").replace("`", "\\(ga")
