# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The role that brings public keys to hosts, and how secrets come in: what a host has decrypts nothing."""

from __future__ import annotations

import getpass
import grp
import json
import os
import re
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from _engine import keys
from _engine.agent.config.secrets import SecretKind, SecretSource
from _engine.errors import PermissionDenied
from _engine.model import Encryption, EncryptionSettings
from sqlite_processes import as_nobody
from world import World

ROOT = Path(__file__).parents[2]
OPS: dict[str, Any] = {"name": "ops", "generate": True}


class Fleet:
    """Hosts on this machine, each with everything below a directory of its own, and a controller with an inventory."""

    def __init__(self, directory: Path) -> None:
        self.root = directory
        self.world = World(directory / "world")
        self.world.make_shop()
        self.pairs = directory / "inventory" / "fleet-backup-keys"
        self.inventory = directory / "inventory" / "hosts.yml"
        self.inventory.parent.mkdir()
        parent = directory / "collections" / "ansible_collections" / "fleet"
        parent.mkdir(parents=True)
        (parent / "backup").symlink_to(ROOT)
        self.output = ""

    def etc(self, host: str = "web1") -> Path:
        return self.root / host / "etc"

    def public(self, host: str = "web1") -> dict[str, str]:
        """The files in a host's directory of keys."""
        return {path.name: path.read_text() for path in sorted((self.etc(host) / "keys").glob("*"))}

    def deploy(
        self,
        *options: str,
        role: str = "keys",
        hosts: dict[str, Any] | None = None,
        fails: bool = False,
        **variables: Any,
    ) -> dict[str, int]:
        """Run a role on the hosts, whose own variables are given; how many tasks changed something, by host."""
        common = {
            "ansible_connection": "local",
            "ansible_python_interpreter": sys.executable,
            "agent_packages": False,
            "agent_python": sys.executable,
            "agent_path": f"{self.root}/{{{{ inventory_hostname }}}}/fleet-backup",
            "agent_directory": f"{self.root}/{{{{ inventory_hostname }}}}/etc",
            "agent_logrotate": "",
            "agent_share": "",
            "agent_owner": getpass.getuser(),
            "agent_group": grp.getgrgid(os.getegid()).gr_name,
            **variables,
        }
        inventory = {"all": {"hosts": hosts or {"web1": {}}, "vars": common}}
        for host in inventory["all"]["hosts"]:
            (self.root / host).mkdir(exist_ok=True)
        self.inventory.write_text(yaml.safe_dump(inventory))
        play = {"hosts": "all", "gather_facts": False, "roles": [f"fleet.backup.{role}"]}
        (self.root / "deploy.yml").write_text(yaml.safe_dump([play]))
        done = subprocess.run(
            ["ansible-playbook", "-i", str(self.inventory), str(self.root / "deploy.yml"), *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(self.root / "collections"), "COLUMNS": "400"},
            text=True,
            check=False,
        )
        # Ansible folds what it warns of.
        self.output = done.stdout
        assert (done.returncode != 0) is fails, done.stdout
        return {host: int(count) for host, count in re.findall(r"^(\S+) +: .*changed=(\d+)", done.stdout, re.MULTILINE)}

    def reason(self, host: str) -> str:
        """Why a host failed."""
        failures = re.findall(rf"^fatal: \[{host}\]: FAILED! => (.*?)^(?=\S|$)", self.output, re.MULTILINE | re.DOTALL)
        return " ".join(" ".join(failures).split()).replace('\\"', '"')

    @property
    def said(self) -> str:
        """What Ansible said, without its line breaks."""
        return " ".join(self.output.split())

    def agent(self, *arguments: str, status: int = 0, **environment: str) -> str:
        command = [str(self.root / "web1" / "fleet-backup"), *arguments, "--config", str(self.etc() / "agent.json")]
        done = subprocess.run(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, "FLEET_BACKUP_STATE": str(self.root / "web1" / "state"), **environment},
            text=True,
            check=False,
        )
        assert done.returncode == status, done.stdout
        return done.stdout

    def job(self, name: str = "shop", **options: Any) -> dict[str, Any]:
        return {
            "name": name,
            "engine": "sqlite",
            "database": str(self.world.path),
            "repositories": [{"path": self.world.repository.label}],
            "encryption": {"recipients": ["ops"]},
            **options,
        }

    def pair(self) -> tuple[Path, Path]:
        return self.pairs / "ops.pem", self.pairs / "ops.pem.pub"


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return Fleet(tmp_path)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_pair_is_made_on_the_controller_and_hosts_get_the_public_key_alone(fleet: Fleet) -> None:
    predicted = fleet.deploy("--check", "--diff", fleet_backup_keys=[OPS])
    assert not fleet.pairs.exists() and not fleet.etc().exists()
    assert "WARNING" not in fleet.output
    assert fleet.deploy(fleet_backup_keys=[OPS]) == predicted
    private, public = fleet.pair()
    assert fleet.public() == {"ops.pem.pub": public.read_text()}
    assert keys.public_pem(private.read_bytes()) == public.read_bytes()
    assert (mode(fleet.pairs), mode(private)) == (0o700, 0o600)
    assert (mode(fleet.etc() / "keys"), mode(fleet.etc() / "keys" / "ops.pem.pub")) == (0o700, 0o644)
    assert fleet.deploy(fleet_backup_keys=[OPS]) == {"web1": 0}
    assert "PRIVATE" not in fleet.output


def test_each_host_gets_its_own_keys_and_one_pair_serves_several_hosts(fleet: Fleet) -> None:
    hosts: dict[str, dict[str, Any]] = {
        "web1": {"fleet_backup_keys": [OPS]},
        "db1": {"fleet_backup_keys": [OPS, {"name": "dba", "generate": True}]},
        "db2": {"fleet_backup_keys": [OPS]},
        "old1": {},
    }
    for variables in hosts.values():
        variables["ansible_become"] = False
    # What an inventory says of its hosts is not meant for the controller: nobody becomes somebody else there.
    become = {"ansible_become": True, "ansible_become_user": "nobody", "ansible_become_exe": "/bin/false"}
    fleet.deploy(hosts=hosts, **become)
    assert [sorted(fleet.public(host)) for host in hosts] == [
        ["ops.pem.pub"],
        ["dba.pem.pub", "ops.pem.pub"],
        ["ops.pem.pub"],
        [],
    ]
    assert len({fleet.public(host)["ops.pem.pub"] for host in ("web1", "db1", "db2")}) == 1
    assert set(fleet.deploy(hosts=hosts, **become).values()) == {0}


def test_a_private_key_in_clear_is_warned_of_until_it_is_encrypted_or_moved(fleet: Fleet) -> None:
    fleet.deploy(fleet_backup_keys=[OPS])
    private, public = fleet.pair()
    fleet.deploy(fleet_backup_keys=[OPS])
    assert fleet.said.count(f"The private key {private} is not encrypted") == 1
    before = public.read_text()
    password = fleet.root / "password"
    password.write_text("correct horse")
    vault = ["--vault-password-file", str(password), str(private)]
    subprocess.run(["ansible-vault", "encrypt", *vault], check=True, stderr=subprocess.DEVNULL)
    encrypted = private.read_bytes()
    assert fleet.deploy(fleet_backup_keys=[OPS]) == {"web1": 0}
    assert "is not encrypted" not in fleet.said
    assert private.read_bytes() == encrypted, "an encrypted private key is present, and is never replaced"
    private.unlink()
    assert fleet.deploy(fleet_backup_keys=[OPS]) == {"web1": 0}
    assert not private.exists() and public.read_text() == before, "a private key may be kept elsewhere"


def test_private_keys_are_encrypted_with_ansible_vault_and_read_backups_when_they_are_opened(fleet: Fleet) -> None:
    vault = {"fleet_backup_keys_vault_password": "correct horse", "fleet_backup_keys_vault_id": "ops"}
    hosts: dict[str, Any] = {"web1": {}, "web2": {}}
    made = fleet.deploy("-vvv", "--diff", hosts=hosts, fleet_backup_keys=[OPS], **vault)
    assert made["web1"] - made["web2"] == 3, "one of them makes the directory and the pair, and encrypts it"
    assert "is not encrypted" not in fleet.said and "PRIVATE KEY" not in fleet.output
    private, _public = fleet.pair()
    assert private.read_text().startswith("$ANSIBLE_VAULT;1.2;AES256;ops\n")
    assert mode(private) == 0o600
    before = private.read_bytes()
    assert fleet.deploy(fleet_backup_keys=[OPS], **vault) == {"web1": 0}
    assert private.read_bytes() == before
    fleet.deploy(role="agent", fleet_backup_keys=[OPS], fleet_backup_jobs=[fleet.job()], **vault)
    fleet.agent("run", "shop")
    orders = fleet.world.orders()
    password = fleet.root / "password"
    password.write_text("correct horse")
    view = ["ansible-vault", "view", "--vault-password-file", str(password), str(private)]
    identity = subprocess.run(view, stdout=subprocess.PIPE, text=True, check=True).stdout
    fleet.world.path.unlink()
    (report,) = json.loads(fleet.agent("list", "--json"))["backups"]
    fleet.world.restore(backup=report["id"], encryption=EncryptionSettings(identities=(identity,)))
    assert fleet.world.orders() == orders


def test_an_encrypted_private_key_without_its_public_one_is_left_alone(fleet: Fleet) -> None:
    fleet.deploy(fleet_backup_keys=[OPS], fleet_backup_keys_vault_password="correct horse")
    private, public = fleet.pair()
    before = private.read_bytes()
    public.unlink()
    fleet.deploy(fleet_backup_keys=[OPS], fails=True)
    assert f"web1: key ops: generate: {private} is there, and ops.pem.pub is not" in fleet.said
    assert "ansible-vault view" in fleet.said
    assert private.read_bytes() == before and not public.exists()


def test_a_public_key_of_another_pair_is_refused_before_backups_are_encrypted_for_it(fleet: Fleet) -> None:
    fleet.deploy(fleet_backup_keys=[OPS])
    private, public = fleet.pair()
    public.write_text(fleet.world.public)
    fleet.deploy(fleet_backup_keys=[OPS], fails=True)
    assert f"{public} does not belong to {private}" in fleet.said
    assert fleet.public()["ops.pem.pub"] != fleet.world.public


def test_a_key_that_leaves_the_inventory_leaves_the_hosts_and_no_private_key_is_removed(fleet: Fleet) -> None:
    new = {"name": "ops2026", "generate": True}
    fleet.deploy(fleet_backup_keys=[OPS, new])
    assert sorted(fleet.public()) == ["ops.pem.pub", "ops2026.pem.pub"]
    predicted = fleet.deploy("--check", fleet_backup_keys=[new])
    assert fleet.deploy(fleet_backup_keys=[new]) == predicted == {"web1": 1}
    assert sorted(fleet.public()) == ["ops2026.pem.pub"]
    assert fleet.deploy(fleet_backup_keys=[new], fleet_backup_state="absent") == {"web1": 1}
    assert not (fleet.etc() / "keys").exists()
    assert fleet.deploy(fleet_backup_keys=[new], fleet_backup_state="absent") == {"web1": 0}
    assert sorted(path.name for path in fleet.pairs.iterdir()) == [
        "ops.pem",
        "ops.pem.pub",
        "ops2026.pem",
        "ops2026.pem.pub",
    ]


def gpg_key(home: Path) -> tuple[str, str]:
    """A public and a private key, armoured."""
    home.mkdir(mode=0o700)
    gpg = ["gpg", "--homedir", str(home), "--batch", "--quiet", "--passphrase", "", "--pinentry-mode", "loopback"]
    subprocess.run([*gpg, "--quick-generate-key", "ops@example.com", "rsa2048", "encrypt"], check=True)
    armoured = [
        subprocess.run([*gpg, "--armor", kind], stdout=subprocess.PIPE, text=True, check=True).stdout
        for kind in ("--export", "--export-secret-keys")
    ]
    subprocess.run(["gpgconf", "--homedir", str(home), "--kill", "all"], check=True)
    return armoured[0], armoured[1]


def age_key() -> tuple[str, str]:
    """A recipient and the file of its identity."""
    identity = subprocess.run(["age-keygen"], capture_output=True, text=True, check=True).stdout
    return next(line.split()[-1] for line in identity.splitlines() if "public key" in line), identity


def test_gpg_and_age_recipients_are_files_that_jobs_name(fleet: Fleet) -> None:
    gpg_public, gpg_private = gpg_key(fleet.root / "gnupg")
    age_public, age_private = age_key()
    fleet.pairs.mkdir()
    (fleet.pairs / "boss.asc").write_text(gpg_public)
    shared = {
        "fleet_backup_keys": [
            {"name": "boss", "type": "gpg", "public": "boss.asc"},
            {"name": "offline", "type": "age", "public": age_public},
        ],
        "fleet_backup_jobs": [
            fleet.job("a", encryption={"method": "gpg", "recipients": ["boss"]}),
            fleet.job("b", encryption={"method": "age", "recipients": ["offline"]}),
        ],
    }
    fleet.deploy(**shared)
    assert fleet.public() == {"boss.asc": gpg_public, "offline.age.pub": f"{age_public}\n"}
    fleet.deploy(role="agent", **shared)
    orders = fleet.world.orders()
    for job, method, private in (("a", Encryption.GPG, gpg_private), ("b", Encryption.AGE, age_private)):
        (report,) = json.loads(fleet.agent("run", job, "--json"))
        encryption = EncryptionSettings(method, identities=(private,))
        fleet.world.restore(backup=report["backup"]["id"], encryption=encryption, safety_backup=False)
        assert fleet.world.orders() == orders


BAD_KEYS: list[tuple[dict[str, Any], str]] = [
    ({"name": "ops"}, "key ops: public: it is missing"),
    ({"name": "Ops", "generate": True}, '"Ops" cannot be the name of a key'),
    ({"name": "ops", "public": "gone.pub"}, r"key ops: public: \S*/gone\.pub cannot be read .*No such file"),
    ({"name": "ops", "public": "/etc"}, "key ops: public: .* cannot be read .*Is a directory"),
    ({"name": "ops", "public": "MC4CAQAwBQYDK2VuBCIEIA" * 3}, "key ops: public: this is no path"),
    ({"name": "ops", "public": "/dev/null"}, "key ops: this is no public key in PEM"),
    ({"name": "ops", "type": "age", "public": "/dev/null"}, "key ops: these are no recipients that age knows"),
    ({"name": "ops", "type": "gpg", "public": "/dev/null"}, "key ops: this is not one whole OpenPGP public key"),
    ({"name": "ops", "type": "gpg", "public": "/bin/true"}, "key ops: public: /bin/true is no text"),
    ({"name": "ops", "type": "gpg", "generate": True}, "key ops: generate: only x25519 pairs are made"),
    ({"name": "ops", "public": "x.pub", "generate": True}, "exclude each other"),
    ({"name": "ops", "type": "ssh", "public": "x"}, "value of type must be one of: x25519, gpg, age"),
]


def test_a_key_that_cannot_be_meant_fails_on_the_controller_by_host_and_name(fleet: Fleet) -> None:
    hosts = {f"web{number}": {"fleet_backup_keys": [key]} for number, (key, _says) in enumerate(BAD_KEYS)}
    hosts["good"] = {"fleet_backup_keys": [OPS]}
    fleet.deploy("-vvv", "--diff", hosts=hosts, fails=True, fleet_backup_keys_vault_password="correct horse")
    assert "correct horse" not in fleet.output
    for number, (_key, says) in enumerate(BAD_KEYS):
        assert re.search(says, fleet.reason(f"web{number}")), fleet.reason(f"web{number}")
        assert not fleet.etc(f"web{number}").exists()
    assert sorted(fleet.public("good")) == ["ops.pem.pub"], "one wrong host stops no other one"


def test_a_private_key_in_the_place_of_a_public_one_reaches_no_host_and_no_output(fleet: Fleet) -> None:
    privates = {"x25519": fleet.world.private, "gpg": gpg_key(fleet.root / "gnupg")[1], "age": age_key()[1]}
    hosts = {}
    for kind, private in privates.items():
        given = fleet.root / f"{kind}.key"
        given.write_text(private)
        hosts[f"{kind}-inline"] = {"fleet_backup_keys": [{"name": "ops", "type": kind, "public": private}]}
        hosts[f"{kind}-file"] = {"fleet_backup_keys": [{"name": "ops", "type": kind, "public": str(given)}]}
    fleet.deploy("-vvv", "--diff", hosts=hosts, fails=True)
    for host in hosts:
        assert "this is a private key, and hosts must not have one" in fleet.reason(host)
        assert not fleet.etc(host).exists()
    for private in privates.values():
        assert private.splitlines()[-2] not in fleet.output


def test_a_private_key_on_a_host_is_named_and_neither_kept_in_silence_nor_removed(fleet: Fleet) -> None:
    fleet.deploy(fleet_backup_keys=[OPS])
    lost = fleet.etc() / "keys" / "ops.pem"
    lost.write_text(fleet.world.private)
    for state in ("present", "absent"):
        fleet.deploy(fleet_backup_keys=[], fleet_backup_state=state, fails=True)
        assert f"web1 has private keys in {fleet.etc()}/keys" in fleet.said and str(lost) in fleet.said
        assert lost.read_text() == fleet.world.private
        assert "ops.pem.pub" in fleet.public()


BAD_RECIPIENTS: list[tuple[dict[str, Any], str]] = [
    ({"recipients": ["ops", "opps"]}, r'recipients: there is no key "opps".*The keys of this host: boss, ops'),
    ({"recipients": ["boss"]}, r'recipients: the key "boss" is of type age, which aes256-gcm cannot use'),
    ({"recipients": ["{keys}/gone.pem.pub"]}, r'recipients: there is no key "/.*/keys/gone\.pem\.pub'),
    ({"recipients": ["MC4CAQAwBQYDK2VuBCIEIA=="]}, "recipients: item 1 is no key"),
    ({"recipients": ["{private}"]}, "recipients: item 1 is a private key, and hosts must not have one"),
    ({"recipients": ["ops"], "identities": ["{private}"]}, "identities: this is a private key itself"),
    ({}, "recipients: there is none, and no passphrase, so that nobody could read the backups"),
    ({"method": "gpg"}, "recipients: there is none, and no passphrase"),
]


def test_a_job_whose_recipient_is_missing_fails_on_the_controller_by_host_job_and_option(fleet: Fleet) -> None:
    hosts = {}
    for number, (encryption, _says) in enumerate(BAD_RECIPIENTS):
        text = json.dumps(encryption).replace("{keys}", f"{fleet.etc(f'web{number}')}/keys")
        settings = json.loads(text.replace("{private}", json.dumps(fleet.world.private)[1:-1]))
        hosts[f"web{number}"] = {"fleet_backup_jobs": [fleet.job(), fleet.job("orders", encryption=settings)]}
    boss = {"name": "boss", "type": "age", "public": age_key()[0]}
    fleet.deploy("-vvv", role="agent", hosts=hosts, fleet_backup_keys=[OPS, boss], fails=True)
    for number, (_encryption, says) in enumerate(BAD_RECIPIENTS):
        reason = fleet.reason(f"web{number}")
        assert re.search(f"web{number}: job orders: encryption.{says}", reason), reason
        assert not fleet.etc(f"web{number}").exists()


def test_what_a_host_has_decrypts_nothing(fleet: Fleet) -> None:
    shared = {"fleet_backup_keys": [OPS], "fleet_backup_jobs": [fleet.job(verify={"level": "contents"})]}
    fleet.deploy(**shared)
    fleet.deploy(role="agent", **shared)
    (report,) = json.loads(fleet.agent("run", "shop", "--json"))
    backup = report["backup"]["id"]
    files = [path for path in (fleet.root / "web1").rglob("*") if path.is_file()]
    assert len(files) > 5
    private, _public = fleet.pair()
    raw = keys.load_identities([private.read_text()])[0].private
    for path in files:
        content = path.read_bytes()
        program = path.name in ("fleet-backup", "code.zip")
        assert b"PRIVATE KEY" not in content.replace(b'"PRIVATE KEY', b"") or program, path
        assert raw not in content and private.read_bytes().split(b"\n")[1] not in content, path
    for identity in files:
        # Each file in turn as if it were the key.
        with pytest.raises(Exception, match="."):
            fleet.world.restore(backup=backup, encryption=EncryptionSettings(identities=(str(identity),)))
    (verified,) = json.loads(fleet.agent("verify", "shop", "--json", status=3))
    assert verified["error"] == "unverifiable" and "encryption.identities" in verified["message"]


def test_a_secret_that_cannot_be_had_names_its_file_and_option_and_stops_no_other_job(fleet: Fleet) -> None:
    secrets = fleet.root / "secrets"
    secrets.mkdir()
    for name, content, bits in (("empty", "", 0o600), ("open", "open sesame", 0o644)):
        (secrets / name).write_text(content)
        (secrets / name).chmod(bits)
    sources = {
        "absent": ({"file": f"{secrets}/gone"}, f"absent: passphrase: there is no file {secrets}/gone"),
        "directory": ({"file": str(secrets)}, f"directory: passphrase: {secrets} is not a file"),
        "empty": ({"file": f"{secrets}/empty"}, f"empty: passphrase: the file {secrets}/empty is empty"),
        "open": ({"file": f"{secrets}/open"}, f"open: passphrase: {secrets}/open can be read or written by everybody"),
        "unset": ({"environment": "SHOP_KEY"}, "unset: passphrase: the environment has no variable SHOP_KEY"),
        "handed": ({"credential": "shop"}, "handed: passphrase: systemd hands this process no credentials"),
    }
    jobs = [
        fleet.job(name, encryption={"method": "aes256-cbc", "passphrase": source})
        for name, (source, _says) in sources.items()
    ]
    good = fleet.job(encryption={"method": "aes256-cbc", "passphrase": "correct horse"})
    fleet.deploy(role="agent", fleet_backup_jobs=[*jobs, good])
    reports = {report["job"]: report for report in json.loads(fleet.agent("run", "--all", "--json", status=1))}
    assert reports["shop"]["error"] is None
    for name, (_source, says) in sources.items():
        assert says in reports[name]["message"]
    told = fleet.agent("run", "unset", "--json", SHOP_KEY="correct horse")
    assert json.loads(told)[0]["error"] is None
    assert "no variable SHOP_KEY" in fleet.agent("run", "unset", status=1, SHOP_KEY="")


def test_a_secret_that_this_account_may_not_read_names_the_file_and_the_account(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can become another account")
    secret = tmp_path / "password"
    secret.write_text("open sesame")

    def read() -> None:
        with pytest.raises(PermissionDenied, match=f"^orders: login_password: {secret} cannot be read by user 65534"):
            SecretSource(SecretKind.FILE, str(secret), "orders: login_password").read()

    as_nobody(read)


def test_a_credential_that_systemd_encrypted_reaches_the_agent(fleet: Fleet) -> None:
    # systemd itself hands it over in the same way: a file in a directory that it names (systemd.exec(5)).
    creds, handed = ["systemd-creds", "--name=shop"], fleet.root / "credentials"
    environment = {**os.environ, "SYSTEMD_CREDENTIAL_SECRET": str(fleet.root / "host.secret")}
    stored = fleet.root / "shop.cred"
    for words, said in (
        (["--with-key=host", "encrypt", "-", str(stored)], b"correct horse"),
        (["decrypt", str(stored), "-"], b""),
    ):
        done = subprocess.run([*creds, *words], input=said, stdout=subprocess.PIPE, env=environment, check=True)
    handed.mkdir()
    (handed / "shop").write_bytes(done.stdout)
    (handed / "shop").chmod(0o400)
    settings = {"method": "aes256-cbc", "passphrase": {"credential": "shop"}}
    fleet.deploy(role="agent", fleet_backup_jobs=[fleet.job(encryption=settings)])
    fleet.agent("run", "shop", CREDENTIALS_DIRECTORY=str(handed))
    (listed,) = json.loads(fleet.agent("list", "--json"))["backups"]
    orders = fleet.world.orders()
    key = EncryptionSettings(Encryption.AES256_CBC, passphrase="correct horse")
    fleet.world.restore(backup=listed["id"], encryption=key)
    assert fleet.world.orders() == orders


def test_secrets_of_ansible_vault_reach_their_files_and_nothing_that_is_said(fleet: Fleet) -> None:
    password = fleet.root / "password"
    password.write_text("correct horse")
    vault = [
        "ansible-vault",
        "encrypt_string",
        "--vault-password-file",
        str(password),
        "--stdin-name",
        "login_password",
    ]
    text = subprocess.run(vault, input="open sesame", stdout=subprocess.PIPE, text=True, check=True).stdout
    orders = {**fleet.job("orders"), "engine": "postgresql", "database": "orders", "encryption": {"method": "none"}}
    # The job's last option is the encrypted password, as it stands in an inventory.
    block = yaml.safe_dump([orders], default_flow_style=False) + "".join(f"  {line}\n" for line in text.splitlines())
    variables = fleet.inventory.parent / "group_vars"
    variables.mkdir()
    (variables / "all.yml").write_text(
        "fleet_backup_jobs:\n" + block + "wrong_jobs:\n" + block.replace("database: orders", "databse: orders")
    )
    options = ("-vvv", "--diff", "--vault-password-file", str(password))
    fleet.deploy(*options, role="agent")
    assert "orders" in fleet.output and "open sesame" not in fleet.output
    secret = fleet.etc() / "secrets" / "orders.login_password"
    assert secret.read_text() == "open sesame\n" and mode(secret) == 0o600
    assert "open sesame" not in (fleet.etc() / "jobs.d" / "orders.json").read_text()
    assert fleet.deploy(*options, role="agent") == {"web1": 0}
    fleet.deploy(*options, role="agent", agent_jobs="{{ wrong_jobs }}", fails=True)
    assert "databse" in fleet.output and "open sesame" not in fleet.output


EMPTY_SECRETS: list[tuple[str, dict[str, Any]]] = [
    ("encryption.passphrase", {"encryption": {"method": "aes256-cbc", "passphrase": ""}}),
    ("login_password", {"engine": "postgresql", "database": "orders", "login_password": ""}),
]


def test_an_empty_secret_fails_on_the_controller_by_host_job_and_option(fleet: Fleet) -> None:
    hosts = {
        f"web{number}": {"fleet_backup_jobs": [fleet.job("orders", **change)]}
        for number, (_option, change) in enumerate(EMPTY_SECRETS)
    }
    fleet.deploy(role="agent", hosts=hosts, fleet_backup_keys=[OPS], fails=True)
    for host, (option, _change) in zip(hosts, EMPTY_SECRETS):
        assert f"{host}: job orders: {option} is empty" in fleet.reason(host), fleet.output
        assert not fleet.etc(host).exists()
