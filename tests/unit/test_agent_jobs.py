# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Jobs are read strictly: what cannot be meant is refused, with the file and the option."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Dict, List, Optional

import pytest

from _engine.agent.config.jobs import Job, Limits, Surroundings
from _engine.agent.config.reading import read_job, read_jobs
from _engine.agent.config.secrets import SecretKind, SecretSource
from _engine.agent.console.exits import Exit, exit_of
from _engine.agent.work.health import complaints, health_of
from _engine.catalogue import Catalogue
from _engine.errors import BadInput, NotFound, PermissionDenied
from _engine.model import Encryption, Level

ENGINE = Path(__file__).resolve().parents[2] / "plugins" / "module_utils" / "_engine"
SHOP: Dict[str, Any] = {
    "engine": "sqlite",
    "database": "/srv/shop/shop.db",
    "repositories": [{"path": "/srv/backups"}],
}


def read(**options: Any) -> Job:
    return read_job({**SHOP, **options}, "shop", "shop.json", "web1")


def test_a_job_needs_little_and_defaults_to_the_strong() -> None:
    job = read()
    assert job.backup.source_host == "web1"
    assert job.backup.encryption.method is Encryption.AES256_GCM
    assert job.backup.lock_timeout == 60.0
    assert job.rotations() == ()


@pytest.mark.parametrize(
    ("options", "level"),
    [
        ({"encryption": {"recipients": ["/etc/ops.pub"]}}, Level.CHECKSUM),
        ({"encryption": {"method": "age", "recipients": ["age1x"]}}, Level.CHECKSUM),
        ({"encryption": {"method": "aes256-cbc"}}, Level.CHECKSUM),
        ({"encryption": {"recipients": ["/etc/ops.pub"]}, "verify": {"sample": 3, "backup": "all"}}, Level.CHECKSUM),
        ({"encryption": {"recipients": ["/etc/ops.pub"]}, "verify": {"level": "restore"}}, Level.RESTORE),
        ({"encryption": {"identities": ["/etc/ops.pem"]}}, Level.CONTENTS),
        ({"encryption": {"method": "aes256-cbc"}, "passphrase": {"file": "/etc/secret"}}, Level.CONTENTS),
        ({"encryption": {"method": "gpg", "recipients": ["ops"]}}, Level.CONTENTS),
        ({"encryption": {"method": "none"}}, Level.CONTENTS),
    ],
)
def test_a_host_verifies_by_itself_as_far_as_what_it_holds_can_read(options: Dict[str, Any], level: Level) -> None:
    assert read(**options).verification.level is level


def test_a_job_accepts_other_methods_where_it_reads_and_only_those_it_names() -> None:
    job = read(accept_encryption=["gpg"])
    assert job.opened().verification.encryption.accepted == (Encryption.GPG,)
    assert job.accepting((Encryption.NONE,)).opened().verification.encryption.accepted == (
        Encryption.GPG,
        Encryption.NONE,
    )
    assert read().opened().verification.encryption.accepted == ()


def test_what_a_restore_needs_around_it_is_read() -> None:
    job = read(restore={"stop_services": ["shop.service"], "before": [["/bin/true"]], "after": [["/bin/echo", "a"]]})
    assert job.surroundings == Surroundings(("shop.service",), (("/bin/true",),), (("/bin/echo", "a"),))


def test_a_repository_keeps_its_own_policy_or_the_jobs() -> None:
    job = read(
        retention={"keep_daily": 7},
        repositories=[{"path": "/srv/a", "retention": {"keep_last": 2}}, {"path": "/srv/b"}],
    )
    kept = {request.repositories[0].label: request.policy for request in job.rotations()}
    assert kept["/srv/a"] is not None and kept["/srv/a"].last == 2 and kept["/srv/a"].daily == 0
    assert kept["/srv/b"] is not None and kept["/srv/b"].daily == 7


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"engine": "sqlit"}, 'engine .*"sqlit" is none of sqlite, postgresql'),
        ({"engine": None}, "engine .*missing"),
        ({"database": "shop.db"}, "not an absolute path"),
        ({"database": ""}, "database .*empty"),
        ({"database": "//srv/shop.db"}, "several spellings"),
        ({"database": "/srv/x/../shop.db"}, "several spellings"),
        ({"databse": "x"}, 'unknown option "databse"; did you mean "database"'),
        ({"login_host": "db1"}, "an SQLite database is a file"),
        ({"repositories": []}, "repositories .*empty"),
        ({"repositories": ["/srv/backups"]}, r"repositories\[0\]: this must be an object, and is text"),
        ({"repositories": [{"path": "backups"}]}, r"repositories\[0\]: path .*not absolute"),
        ({"repositories": [{"path": "/a"}, {"path": "/a"}]}, "/a is named twice"),
        ({"repositories": [{"path": "/a/b"}, {"path": "/a/c/../b/"}]}, "are one directory"),
        ({"repositories": [{"path": "/a/b/c"}, {"path": "/a/b"}]}, "/a/b/c lies inside /a/b"),
        ({"repositories": [{"path": "/a", "type": "tape"}]}, '"tape" is no kind of repository'),
        ({"retention": {}}, "retention: .*empty"),
        ({"retention": {"keep_daily": "seven"}}, "retention: keep_daily .*whole number, and is text"),
        ({"retention": {"keep_daily": True}}, "retention: keep_daily .*whole number, and is true or false"),
        ({"retention": {"keep_within": "soon"}}, 'keep_within: "soon" is not a duration'),
        ({"compression": "zstd", "compression_level": 99}, "compression_level 99 is out of range"),
        ({"min_size_ratio": 2}, "2 is out of range"),
        ({"min_size_ratio": 10**400}, "10000000000000000000 is out of range"),
        ({"globals": "yes"}, "globals .*true or false, and is text"),
        ({"encryption": {"method": "rot13"}}, 'encryption: method .*"rot13"'),
        ({"accept_encryption": ["rot13"]}, 'accept_encryption .*"rot13"'),
        ({"accept_encryption": "none"}, "accept_encryption .*must be a list"),
        ({"encryption": {"passphrase": "sesame"}}, 'encryption: unknown option "passphrase". Remove it.'),
        ({"passphrase": {"file": "/a", "environment": "B"}}, "passphrase: .*name one of file, environment, credential"),
        ({"login_password": "sesame"}, "login_password: this must be an object, and is text"),
        ({"verify": {"assertions": [{"sql": "SELECT 1", "expect": 1}]}}, "level must be restore"),
        ({"verify": {"backup": "newest"}}, '"newest" is neither latest, all, nor the id'),
        ({"hooks": {"before": ["systemctl stop shop"]}}, "hooks: before .*each a list of words"),
        ({"hooks": {"before": [["systemctl", "stop", "shop"]]}}, "not the absolute path of a program"),
        ({"hooks": {"befor": []}}, 'hooks: unknown option "befor"; did you mean "before"?'),
        ({"restore": {"stop_services": ["--now"]}}, '"--now" cannot be the name of a unit'),
        ({"restore": {"stop_services": ["shop*"]}}, "cannot be the name of a unit"),
        ({"restore": {"stop_services": "shop"}}, "stop_services .*must be a list"),
        ({"restore": {"before": [["stop"]]}}, "restore: before .*not the absolute path of a program"),
        ({"restore": {"stop": []}}, 'restore: unknown option "stop"; did you mean "stop_services"?'),
        ({"health": {"max_age": "1"}}, 'max_age: "1" is not a duration'),
    ],
)
def test_what_cannot_be_meant_is_refused_by_name(options: Dict[str, Any], says: str) -> None:
    with pytest.raises(BadInput, match=f"^shop.json: .*{says}") as caught:
        read(**options)
    assert "sesame" not in str(caught.value)
    assert str(caught.value).endswith((".", "?"))


@pytest.mark.parametrize("name", ["", "Shop", "../shop", "a" * 64, "shop.db", "-shop", "shöp"])
def test_a_name_that_no_unit_can_have_is_refused(name: str) -> None:
    with pytest.raises(BadInput, match="cannot be the name of a job"):
        read_job(SHOP, name, "x.json", "web1")


def test_a_broken_file_stops_no_other_job(tmp_path: Path) -> None:
    (tmp_path / "shop.json").write_text(json.dumps(SHOP))
    (tmp_path / "cut.json").write_text(json.dumps(SHOP)[:40])
    (tmp_path / "list.json").write_text("[]")
    (tmp_path / "deep.json").write_text("[" * 100_000)
    (tmp_path / "gone.json").symlink_to("nowhere")
    (tmp_path / "half.json").write_text(json.dumps({**SHOP, "database": "/srv/\ud800.db"}))
    (tmp_path / "huge.json").write_text(json.dumps({**SHOP, "min_size_ratio": 10**400}))
    (tmp_path / ".shop.json.swp").write_text("an editor's")
    jobs, broken = read_jobs(tmp_path, "web1")
    assert [job.name for job in jobs] == ["shop"]
    assert [job.name for job in broken] == ["cut", "deep", "gone", "half", "huge", "list"]
    assert all(job.error.code in ("bad_input", "permission_denied") for job in broken)
    assert all(str(tmp_path) in str(job.error) for job in broken)


def test_a_directory_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="There is no directory .*jobs.d"):
        read_jobs(tmp_path / "jobs.d", "web1")


def test_a_secret_in_a_file_is_read_when_it_is_used_and_only_from_a_private_one(tmp_path: Path) -> None:
    path = tmp_path / "password"
    path.write_text("open sesame\n")
    path.chmod(0o600)
    source = SecretSource(SecretKind.FILE, str(path), "shop: login_password")
    assert source.read() == "open sesame"
    path.chmod(0o604)
    with pytest.raises(PermissionDenied, match="mode 0604"):
        source.read()
    path.chmod(0o600)
    path.write_text("\n")
    with pytest.raises(BadInput, match="is empty"):
        source.read()
    path.unlink()
    with pytest.raises(NotFound, match="shop: login_password: there is no file"):
        source.read()
    path.mkdir()
    with pytest.raises(BadInput, match="is not a file"):
        source.read()


def test_a_secret_in_the_environment_or_from_systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOP_PASSWORD", "open sesame")
    assert SecretSource(SecretKind.ENVIRONMENT, "SHOP_PASSWORD", "shop: x").read() == "open sesame"
    with pytest.raises(NotFound, match="no variable OTHER"):
        SecretSource(SecretKind.ENVIRONMENT, "OTHER", "shop: x").read()
    credential = SecretSource(SecretKind.CREDENTIAL, "password", "shop: x")
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    with pytest.raises(NotFound, match="hands this process no credentials"):
        credential.read()
    (tmp_path / "password").write_text("open sesame")
    (tmp_path / "password").chmod(0o400)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert credential.read() == "open sesame"


@pytest.mark.parametrize(
    ("codes", "status"),
    [
        ([], 0),
        ([None, None], 0),
        ([None, "unverifiable"], 3),
        (["unverifiable", "incomplete"], 4),
        (["unverifiable", "incomplete", "bad_input"], 2),
        (["bad_input", "damaged", None], 1),
        (["damaged", "interrupted"], 130),
    ],
)
def test_the_worst_outcome_is_the_exit_status(codes: List[Optional[str]], status: int) -> None:
    assert exit_of(codes) is Exit(status)


def test_a_place_without_a_backup_is_never_healthy() -> None:
    nothing = Catalogue((), ())
    now = datetime(2026, 3, 15, tzinfo=timezone.utc)
    (complaint,) = complaints(health_of(nothing, now), nothing, Limits(), None, now)
    assert complaint == ("no_backup", "there is no good backup")
