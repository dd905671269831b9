# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What can stand where the cursor is, by the parser's own commands and options. Pure, but for what it asks."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Callable, List, Optional, Sequence, Tuple

from .manual import commands_of, options_of

BASH = r"""# Completes the words of fleet-backup in bash: source <(fleet-backup completion bash)
_fleet_backup() {
    mapfile -t COMPREPLY < <(printf '%s\n' "${COMP_WORDS[@]}" | "$1" completion words "$COMP_CWORD" 2>/dev/null)
}
complete -o default -F _fleet_backup fleet-backup
"""

ZSH = r"""#compdef fleet-backup
# Completes the words of fleet-backup in zsh: source <(fleet-backup completion zsh), or a file _fleet-backup in fpath
_fleet_backup() {
    local -a found
    found=("${(@f)$(print -rl -- "${words[@]}" | "${words[1]}" completion words $((CURRENT - 1)) 2>/dev/null)}")
    if [[ -n "${found[1]}" ]]; then compadd -- "${found[@]}"; else _files; fi
}
# A file in fpath is itself the function that completes the first time.
if [[ "${funcstack[1]}" == _fleet-backup ]]; then _fleet_backup "$@"; else compdef _fleet_backup fleet-backup; fi
"""


@dataclass(frozen=True)
class Knowledge:
    """What only the host knows, asked for when it is needed; each is given what --config says, or None."""

    jobs: Callable[[Optional[str]], Sequence[str]]
    #: The ids of a job's backups, newest first, and the labels of its repositories.
    backups: Callable[[Optional[str], str], Sequence[str]]
    repositories: Callable[[Optional[str], str], Sequence[str]]


@dataclass(frozen=True)
class _Line:
    """What stands before the cursor: positional words, options, and the option that waits for its value."""

    words: Tuple[str, ...]
    options: Tuple[str, ...]
    config: Optional[str]
    waiting: Optional[argparse.Action]


def candidates(parser: argparse.ArgumentParser, words: Sequence[str], index: int, knowledge: Knowledge) -> List[str]:
    """The words that can stand at an index of the line, whose first word is the program; none where files can."""
    # bash takes --backup=ID for three words.
    line = [word for word in words[1:index] if word != "="]
    current = words[index] if index < len(words) and words[index] != "=" else ""
    commands = commands_of(parser).choices
    named = next((number for number, word in enumerate(line) if word in commands), None)
    if named is None:
        found: Sequence[str] = ["--help", "--version"] if current.startswith("-") else list(commands)
    else:
        found = _within(commands[line[named]], line[named + 1 :], current, knowledge)
    return [word for word in found if word.startswith(current)]


def _within(
    command: argparse.ArgumentParser, before: Sequence[str], current: str, knowledge: Knowledge
) -> Sequence[str]:
    actions = options_of(command)
    line = _read(actions, before)
    if line.waiting is not None:
        return _values(line.waiting, line, knowledge)
    if current.startswith("-"):
        return [
            name
            for action in actions
            for name in action.option_strings
            if name not in line.options or isinstance(action, argparse._AppendAction)
        ]
    positional = [action for action in actions if not action.option_strings]
    if len(line.words) < len(positional):
        return _values(positional[len(line.words)], line, knowledge)
    # The last one may take all that follows.
    return _values(positional[-1], line, knowledge) if positional and positional[-1].nargs == "*" else []


def _read(actions: Sequence[argparse.Action], before: Sequence[str]) -> _Line:
    by_name = {name: action for action in actions for name in action.option_strings}
    words: List[str] = []
    options: List[str] = []
    config: Optional[str] = None
    waiting: Optional[argparse.Action] = None
    for word in before:
        if waiting is not None:
            config = word if waiting.dest == "config" else config
            waiting = None
        elif word in by_name:
            options.append(word)
            waiting = None if by_name[word].nargs == 0 else by_name[word]
        elif not word.startswith("-"):
            words.append(word)
    return _Line(tuple(words), tuple(options), config, waiting)


def _values(action: argparse.Action, line: _Line, knowledge: Knowledge) -> Sequence[str]:
    if action.choices is not None:
        return [str(choice) for choice in action.choices]
    if action.metavar == "JOB":
        return [name for name in knowledge.jobs(line.config) if name not in line.words]
    if action.dest == "backup" and line.words:
        return ["latest", *knowledge.backups(line.config, line.words[0])]
    if action.dest == "repository" and line.words:
        return knowledge.repositories(line.config, line.words[0])
    return []
