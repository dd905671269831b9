# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Temporary files, decrypted copies among them, are in the one directory that was chosen, or nowhere."""

from __future__ import annotations

import ast
import errno
import os
import tempfile
from pathlib import Path

import pytest

from _engine.errors import BadInput, PermissionDenied, Refused
from _engine.host.temporary import temporary_directory
from _engine.scratch import Purpose, private_directory

ENGINE = Path(__file__).resolve().parents[2] / "plugins" / "module_utils" / "_engine"


def test_the_directory_is_the_one_in_tmpdir_and_else_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    assert temporary_directory() == tmp_path
    monkeypatch.delenv("TMPDIR")
    # What Python would also look at says nothing.
    monkeypatch.setenv("TEMP", str(tmp_path))
    assert temporary_directory() == Path("/tmp")


@pytest.mark.parametrize("missing", ["nowhere", "a file", "relative"])
def test_a_directory_that_is_missing_is_replaced_by_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    (tmp_path / "a file").write_text("")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", "." if missing == "relative" else str(tmp_path / missing))
    refused = pytest.raises(BadInput, match="does not exist, and no other one is taken instead")
    with refused, private_directory(Purpose.SPOOL):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["a file"]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become an account that may not write there")
def test_a_directory_that_cannot_be_written_is_replaced_by_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)
        monkeypatch.setenv("TMPDIR", directory)
        os.seteuid(65534)
        try:
            with pytest.raises(PermissionDenied, match="cannot be written by user 65534"):
                temporary_directory()
        finally:
            os.seteuid(0)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give a directory away")
def test_root_keeps_nothing_where_another_account_could_exchange_it(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir()
    os.chown(own, 65534, -1)
    refused = pytest.raises(Refused, match=f"Root cannot keep temporary files in {own}: {own} belongs to")
    with refused, private_directory(Purpose.VERIFICATION, own):
        pass
    assert list(own.iterdir()) == []


def test_a_directory_that_is_full_is_replaced_by_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    made = []

    def full(path: object, *_arguments: object) -> None:
        made.append(str(path))
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "mkdir", full)
    with pytest.raises(OSError, match="No space left"), private_directory(Purpose.SPOOL):
        pass
    assert made and all(path.startswith(str(tmp_path)) for path in made)


@pytest.mark.once
def test_nothing_in_the_engine_asks_python_for_a_directory() -> None:
    for path in ENGINE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "tempfile":
                assert node.attr in ("mkdtemp", "mkstemp"), f"{path}:{node.lineno} uses tempfile.{node.attr}"
            if isinstance(node, ast.Call) and getattr(node.func, "attr", "") in ("mkdtemp", "mkstemp"):
                named = [keyword.arg for keyword in node.keywords]
                assert "dir" in named, f"{path}:{node.lineno} names no directory"
                assert path.name == "scratch.py", f"{path}:{node.lineno} makes a directory that unlock does not know"
