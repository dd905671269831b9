# Copyright (c) 2026, the fleet.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The ledger leaves out no host and no job, and calls nothing done of which nobody said so."""

from __future__ import annotations

import json
from typing import Any, Dict, List, Optional

import pytest
from hypothesis import given
from hypothesis import strategies as st

from _engine.agent.ledger import Entry, JobOutcome, complaint, entries_of, lines_of, ordered, totals


def report(job: str, error: Optional[str] = None, **more: Any) -> Dict[str, Any]:
    """A report as the agent prints it."""
    base = {"job": job, "verb": "backup", "changed": True, "error": error, "message": f"about {job}", "warnings": []}
    return {**base, "seconds": 1.5, **more}


def answered(*reports: Any, rc: int = 0, **more: Any) -> Dict[str, Any]:
    """What Ansible registers where the agent printed these reports."""
    return {"rc": rc, "stdout": json.dumps(list(reports)), "stderr": "", "changed": True, **more}


def outcomes(entries: List[Entry]) -> Dict[str, str]:
    return {entry.job: entry.outcome.value for entry in entries}


def test_a_job_has_the_outcome_that_the_agent_reports() -> None:
    result = answered(
        report("shop", backup={"id": "shop-20260301T020000Z-h3k7", "bytes": 4096}),
        report("fresh", changed=False),
        report("orders", "permission_denied", changed=False),
        report("blog", "unverifiable"),
        rc=1,
    )
    found = entries_of("web1", ["shop", "fresh", "orders", "blog"], result)
    expected = {"shop": "done", "fresh": "nothing to do", "orders": "failed", "blog": "unverifiable"}
    assert outcomes(found) == expected
    shop = found[0]
    assert (shop.host, shop.backup, shop.bytes, shop.seconds) == ("web1", "shop-20260301T020000Z-h3k7", 4096, 1.5)
    assert shop.document["outcome"] == "done"
    assert found[2].message == "about orders"


def test_warnings_of_a_job_are_told_with_it() -> None:
    (entry,) = entries_of("web1", ["shop"], answered(report("shop", warnings=["It shrank."])))
    assert entry.message == "about shop It shrank."


def test_a_job_that_the_host_does_not_have_is_missing_and_the_others_are_told() -> None:
    found = entries_of("web1", ["shop", "orders"], answered(report("shop")))
    assert outcomes(found) == {"shop": "done", "orders": "missing"}
    assert "Deploy" in found[1].message


def test_a_job_that_the_inventory_does_not_have_is_told_as_such() -> None:
    found = entries_of("web1", ["shop"], answered(report("shop"), report("old")))
    assert outcomes(found) == {"shop": "done", "old": "done"}
    assert "not in the inventory" in found[1].message and "not in the inventory" not in found[0].message


def test_jobs_that_an_interrupted_agent_did_not_come_to_are_skipped_and_not_missing() -> None:
    found = entries_of("web1", ["a", "b"], answered(report("a", "interrupted"), rc=130))
    assert outcomes(found) == {"a": "failed", "b": "skipped"}


@pytest.mark.parametrize(
    ("result", "outcome", "says"),
    [
        ({"unreachable": True, "msg": "Task failed: Failed to connect"}, "unreachable", "Failed to connect"),
        ({"skipped": True}, "skipped", "did not come to it"),
        ({}, "skipped", "did not come to it"),
        ({"rc": 2, "stdout": "", "stderr": "", "msg": "Error executing command."}, "missing", "Deploy this host"),
        ({"rc": 2, "stdout": "", "stderr": "fleet-backup: No such job"}, "failed", "No such job"),
        ({"rc": 13, "stdout": "", "msg": "[Errno 13] Permission denied"}, "failed", "Permission denied"),
        ({"rc": 0, "stdout": "shop: all is well"}, "failed", "cannot be read"),
        ({"rc": 0, "stdout": '{"backups": []}'}, "failed", "cannot be read"),
        ({"rc": 0, "stdout": "[1]"}, "failed", "cannot be read"),
        ({"rc": 0, "stdout": '[{"verb": "backup"}]'}, "failed", "cannot be read"),
        ({"rc": 0, "stdout": '[{"job": "shop"'}, "failed", "cannot be read"),
        ({"rc": 0, "stdout": "[" * 100000}, "failed", "cannot be read"),
        ({"rc": 0, "stdout": ""}, "failed", "said nothing, and ended with status 0"),
        ({"rc": -9, "stdout": ""}, "failed", "status -9"),
        ({"failed": True, "skipped": True, "msg": "the conditional is wrong"}, "failed", "conditional is wrong"),
        ({"ansible_job_id": "j1", "msg": "Timeout exceeded", "stdout": ""}, "failed", "fleet_backup_async"),
        ({"rc": 0, "stdout": '[{"job": "shop", "changed": true}]'}, "failed", ""),
    ],
)
def test_without_an_answer_that_can_be_read_no_job_is_done(result: Dict[str, Any], outcome: str, says: str) -> None:
    (entry,) = entries_of("web1", ["shop"], result)
    assert (entry.job, entry.outcome.value) == ("shop", outcome)
    assert says in entry.message


def test_every_job_of_a_host_that_is_not_reached_is_told_and_the_host_where_it_has_none() -> None:
    gone = {"unreachable": True, "msg": "No route to host"}
    assert outcomes(entries_of("web1", ["a", "b"], gone)) == {"a": "unreachable", "b": "unreachable"}
    assert outcomes(entries_of("web1", [], gone)) == {"": "unreachable"}


def test_a_host_without_jobs_has_nothing_to_do() -> None:
    assert outcomes(entries_of("web1", [], {"skipped": True})) == {"": "nothing to do"}
    assert outcomes(entries_of("web1", [], answered())) == {"": "nothing to do"}


def test_an_agent_that_fails_and_does_not_say_what_is_no_success() -> None:
    found = entries_of("web1", ["shop"], answered(report("shop"), rc=1))
    assert outcomes(found) == {"shop": "done", "": "failed"}


def test_what_a_host_says_of_its_configuration_is_an_entry_for_each_job_and_each_problem() -> None:
    document = {
        "host": "web1",
        "jobs": ["shop"],
        "broken": [{"job": "orders", "message": "orders.json is not JSON"}],
        "problems": ["There is no channel ops."],
    }
    found = entries_of("web1", ["shop", "orders", "blog"], {"rc": 2, "stdout": json.dumps(document)})
    assert [(entry.job, entry.outcome.value, entry.message) for entry in found[:3]] == [
        ("shop", "done", "deployed"),
        ("orders", "failed", "orders.json is not JSON"),
        ("", "failed", "There is no channel ops."),
    ]
    assert outcomes(found)["blog"] == "missing"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["job", "error", "message", "changed", "warnings", "backup", "jobs", "broken", "problems"]),
            inner,
            max_size=5,
        )
    ),
    max_leaves=12,
)


@given(document=JSON, rc=st.integers(-9, 130), jobs=st.lists(st.sampled_from(["a", "b", "c"]), unique=True))
def test_whatever_a_host_answers_each_job_has_an_entry_and_only_an_explicit_success_is_one(
    document: Any, rc: int, jobs: List[str]
) -> None:
    entries = entries_of("web1", jobs, {"rc": rc, "stdout": json.dumps(document)})
    assert entries and {entry.job for entry in entries} >= set(jobs)
    if rc:
        assert not all(entry.outcome.good for entry in entries)
    lines = lines_of(ordered(entries))
    assert len(lines) == len(entries) + 1
    json.dumps([entry.document for entry in entries])
    assert bool(complaint(entries)) is not all(entry.outcome.good for entry in entries)


def entry(host: str, job: str, outcome: JobOutcome, message: str = "") -> Entry:
    return Entry(host, job, outcome, message)


FLEET = [
    entry("db2", "orders", JobOutcome.UNREACHABLE, "No route to host"),
    entry("web1", "shop", JobOutcome.DONE, "shop-20260301T020000Z-h3k7, 1.2 MiB"),
    entry("db1", "orders", JobOutcome.FAILED, "The password\nwas refused."),
    entry("lb1", "", JobOutcome.NOTHING, "No job of this host was asked for."),
]


def test_the_table_shows_what_is_wrong_last_and_a_line_for_each_entry() -> None:
    assert [line for line, _outcome in lines_of(ordered(FLEET))] == [
        "HOST  JOB     OUTCOME        TIME  MESSAGE",
        "lb1   -       nothing to do        No job of this host was asked for.",
        "web1  shop    done                 shop-20260301T020000Z-h3k7, 1.2 MiB",
        "db1   orders  failed               The password was refused.",
        "db2   orders  unreachable          No route to host",
    ]


def test_the_totals_count_hosts_jobs_and_outcomes() -> None:
    assert totals(FLEET) == "4 hosts, 3 jobs: 1 done, 1 failed, 1 unreachable"
    assert totals([]) == "0 hosts, 0 jobs"


def test_the_complaint_names_the_hosts_and_not_a_thousand_of_them() -> None:
    assert complaint(FLEET) == "Not done: 2 of 3, on db1 and db2."
    assert complaint([FLEET[1], FLEET[3]]) == ""
    assert complaint([entry("", "shpo", JobOutcome.MISSING)]) == "Not done: 1 of 1."
    many = [entry(f"db{number:03}", "orders", JobOutcome.FAILED) for number in range(1000)]
    assert complaint(many).endswith("db009 and 990 more.") and len(complaint(many)) < 120
