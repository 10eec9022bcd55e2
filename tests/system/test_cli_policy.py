"""`ratelimitd policy`, on a real store."""

import json
import re
from pathlib import Path

import pytest
from redis.asyncio import Redis

from ratelimitd.cli.exits import Exit
from ratelimitd.policy.schema import schema_text
from ratelimitd.policy.text import DEFAULT_TEXT, digest_of
from ratelimitd.rollout.replicas import Replicas
from ratelimitd.rollout.snapshot import LostPolicy, write_lost
from tests.example_limits import KEY, limits_json
from tests.system.command import FULL, UNREACHABLE, apply, publish, run

pytestmark = pytest.mark.usefixtures("operator")


async def test_without_a_policy_show_prints_the_defaults() -> None:
    shown = await run("policy", "show")
    assert shown.status == 0
    assert re.search(r"^accepted +never: these are the defaults$", shown.out, re.MULTILINE)
    assert "  global: {capacity: 500, refill_rate: 50}\n" in shown.out
    assert (await run("policy", "show", "--text")).out == DEFAULT_TEXT
    assert (await run("policy", "show", "--json")).json["revision"]["number"] == 0


async def test_show_prints_author_time_and_note_of_an_applied_policy(store: Redis) -> None:
    """The author is $USER, and the text is stored byte for byte."""
    applied = await apply(FULL, "--note", "more for gold")
    assert applied.out == f"revision 1 ({applied.out[12:24]}) is in force\n"
    assert await store.get(KEY) == FULL.encode()
    shown = (await run("policy", "show", "--json")).json
    assert (shown["revision"]["author"], shown["revision"]["note"]) == ("alice", "more for gold")
    assert shown["revision"]["text"] == FULL
    assert shown["revision"]["at"].endswith("Z")
    assert (await run("policy", "show", "--text")).out == FULL
    table = (await run("policy", "show")).out
    assert re.search(r"^note +more for gold *$", table, re.MULTILINE)
    assert "  - path: /api/users/*/orders\n    methods: [GET, POST]\n" in table


async def test_the_author_is_an_option(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without --author and $USER the author is `cli`."""
    await apply(FULL, "--author", "deploy")
    monkeypatch.delenv("USER")
    await apply(FULL)
    history = (await run("policy", "history", "--json")).json["revisions"]
    assert [revision["author"] for revision in history] == ["cli", "deploy"]


@pytest.mark.parametrize(
    ("option", "value", "sentence"),
    [
        ("--author", "External", "must not be 'external', which marks changes made directly in Redis"),
        ("--author", "", "must have 1 to 100 characters"),
        ("--author", "a" * 101, "must have 1 to 100 characters"),
        ("--note", "n" * 501, "must have at most 500 characters"),
    ],
)
async def test_author_and_note_are_validated_as_in_the_api(option: str, value: str, sentence: str) -> None:
    for command in (("apply", "-"), ("rollback", "0")):
        done = await run("policy", *command, option, value, text=limits_json())
        assert done.status == Exit.USAGE
        assert sentence in " ".join(done.err.split())
    assert (await run("policy", "history", "--json")).json == {"revisions": []}


async def test_a_file_is_applied_byte_for_byte(tmp_path: Path, store: Redis) -> None:
    """A byte order mark and a missing newline at the end are kept."""
    file = tmp_path / "limits.json"
    file.write_bytes(b"\xef\xbb\xbf" + limits_json().encode())
    assert (await run("policy", "apply", str(file))).status == 0
    assert await store.get(KEY) == file.read_bytes()


async def test_show_prints_an_earlier_revision() -> None:
    await apply(limits_json())
    await apply()
    assert (await run("policy", "show", "--revision", "1", "--text")).out == limits_json()
    assert (await run("policy", "show", "--revision", "1", "--json")).json["number"] == 1
    unknown = await run("policy", "show", "--revision", "7")
    assert (unknown.status, unknown.out) == (Exit.FAILED, "")
    assert unknown.err == "ratelimitd: revision 7 does not exist; 1 to 2 are kept (policy history)\n"


async def test_an_invalid_policy_changes_nothing_and_all_problems_are_printed(store: Redis) -> None:
    bad = FULL.replace("cost: 3", "cost: -1").replace("capacity: 500", "capacity: 0")
    done = await run("policy", "apply", "-", text=bad)
    assert (done.status, done.out) == (Exit.INVALID, "")
    lines = done.err.splitlines()
    assert [line.split(": ")[:2] for line in lines] == [
        ["ratelimitd", "tiers.global.capacity"],
        ["ratelimitd", "routes[0].cost"],
    ]
    assert await store.get(KEY) is None


async def test_bytes_that_are_not_utf8_are_not_a_policy() -> None:
    for command in ("validate", "apply", "diff"):
        done = await run("policy", command, "-", text=b"\xff\xfe")
        assert (done.status, done.err) == (Exit.INVALID, "ratelimitd: must be text in UTF-8\n")


async def test_a_conflict_names_the_author_of_the_newest_revision(store: Redis) -> None:
    await apply(limits_json(), "--author", "bob")
    done = await run("policy", "apply", "-", "--expect", "0", text=FULL)
    assert (done.status, done.out) == (Exit.CONFLICT, "")
    assert "revision 1 by bob" in done.err
    assert await store.get(KEY) == limits_json().encode()
    assert (await run("policy", "apply", "-", "--expect", "1", text=FULL)).status == 0


async def test_wait_ends_when_every_replica_runs_the_revision(store: Redis) -> None:
    await publish(store, "one:1", 1)
    await publish(store, "two:2", 5)
    done = await apply(FULL, "--wait")
    assert done.out.splitlines()[1] == "every replica runs it: one:1, two:2"


async def test_a_wait_timeout_names_the_replicas_behind_and_keeps_the_revision(store: Redis) -> None:
    await publish(store, "one:1", 1)
    await publish(store, "late:2", 0)
    done = await run("policy", "apply", "-", "--wait", "--timeout-s", "0.2", "--json", text=limits_json())
    assert done.status == Exit.BEHIND
    assert done.json["revision"]["number"] == 1
    assert done.err == "ratelimitd: after 0.2 s revision 1 does not run yet on late:2\n"
    assert await store.get(KEY) == limits_json().encode()
    rolled = await run("policy", "rollback", "1", "--wait", "--timeout-s", "0.2")
    assert rolled.status == Exit.BEHIND


async def test_wait_without_replicas_is_a_warning() -> None:
    done = await apply(limits_json(), "--wait")
    assert done.err == "ratelimitd: warning: no replica is running, so none has the revision yet\n"


async def test_a_dry_run_shows_the_difference_and_changes_nothing(store: Redis) -> None:
    """Conflicts and invalid policies end a dry run as they end `apply`."""
    await apply(limits_json())
    done = await run("policy", "apply", "-", "--dry-run", text=limits_json(user_capacity=7))
    assert done.status == 0
    assert [line for line in done.out.splitlines() if line[:1] in "+-"][2:] == [
        "-  user: {capacity: 5, refill_rate: 1}",
        "+  user: {capacity: 7, refill_rate: 1}",
    ]
    assert (await run("policy", "apply", "-", "--dry-run", "--json", text=FULL)).json["same"] is False
    behind = await run("policy", "apply", "-", "--dry-run", "--expect", "0", text=FULL)
    assert behind.status == Exit.CONFLICT
    assert (await run("policy", "apply", "-", "--dry-run", text="{}")).status == Exit.INVALID
    assert await store.get(KEY) == limits_json().encode()
    assert len((await run("policy", "history", "--json")).json["revisions"]) == 1


async def test_policies_that_mean_the_same_have_no_difference() -> None:
    await apply(limits_json())
    same = await run("policy", "diff", "-", text=limits_json().replace(",", ",\n"))
    assert (same.status, same.out) == (0, "")
    assert same.err == "ratelimitd: no difference: both policies mean the same\n"
    assert (await run("policy", "diff", "-", "--json", text=limits_json())).json == {"same": True, "diff": ""}
    against = await run("policy", "diff", "-", "--against", "0", text=limits_json())
    assert against.out.startswith("--- revision 0\n+++ new\n")


async def test_the_history_is_newest_first_and_includes_rollbacks() -> None:
    """Each revision is one line, whatever its note contains."""
    await apply(limits_json(), "--note", "line one\nline two \x1b[2J[bold]" + "x" * 200)
    await apply(FULL)
    assert (await run("policy", "rollback", "1", "--note", "too soon")).status == 0
    rows = (await run("policy", "history")).out.splitlines()
    assert [row.split()[0] for row in rows] == ["revision", "3", "2", "1"]
    assert rows[1].rstrip().endswith("too soon")
    assert rows[3].rstrip().endswith(r"line one\nline two \u001b[2J[bold]" + "x" * 200)
    history = (await run("policy", "history", "--limit", "2", "--json")).json["revisions"]
    assert [revision["number"] for revision in history] == [3, 2]
    assert (await run("policy", "show", "--text")).out == limits_json()
    assert (await run("policy", "rollback", "9")).status == Exit.FAILED
    assert (await run("policy", "rollback", "1", "--expect", "2")).status == Exit.CONFLICT


async def test_an_empty_history_is_a_sentence() -> None:
    assert (
        await run("policy", "history")
    ).out == "no policy has been accepted yet: the defaults are in force\n"


async def test_status_shows_every_replica_and_the_shadow_counts(store: Redis) -> None:
    await apply()
    await publish(store, "one:1", 1)
    await publish(store, "late:2", 0, refused="must be text in UTF-8")
    await Replicas(store, KEY).add_shadow(1, {"tiers.user": 12})
    done = await run("policy", "status")
    assert done.status == 0
    assert re.search(r"^ +1 +ok +\d\.\d s ago +1\.5 min +9\.9\.9 grpcio +one:1 *$", done.out, re.MULTILINE)
    assert re.search(r"^ +0 +behind, refused: must be text in UTF-8 .* late:2 *$", done.out, re.MULTILINE)
    assert re.search(r"^tiers\.user +12 *$", done.out, re.MULTILINE)
    status = (await run("policy", "status", "--json")).json
    assert list(status) == [
        "at",
        "revision",
        "refused",
        "recorded",
        "lost_at",
        "replicas",
        "shadow",
        "warnings",
    ]
    assert [(one["id"], one["behind"]) for one in status["replicas"]] == [("late:2", True), ("one:1", False)]
    assert status["shadow"] == {"tiers.user": 12}


async def test_a_refused_text_in_the_store_is_reported(store: Redis) -> None:
    """`show --text` prints only the text in force; the warning goes to standard error."""
    await apply(limits_json())
    await store.set(KEY, "{nonsense")
    for command in ("show", "status"):
        done = await run("policy", command)
        assert done.out.startswith(f"REFUSED: the text at {KEY} is not in force\n  must be ")
        assert (await run("policy", command, "--json")).json["refused"][0]["reason"].startswith("must be ")
    text = await run("policy", "show", "--text")
    assert text.out == limits_json()
    assert text.err.startswith(f"ratelimitd: warning: REFUSED: the text at {KEY} is not in force: must be")


async def test_a_valid_text_written_by_others_is_shown_and_not_recorded(store: Redis) -> None:
    """The next change records it."""
    await store.set(KEY, limits_json())
    for arguments in (("show",), ("status",), ("history",), ("diff", "-"), ("show", "--revision", "1")):
        done = await run("policy", *arguments, text=limits_json())
        assert (done.status, await store.keys("*")) == (0, [KEY.encode()])
        if arguments in {("show",), ("status",)}:
            assert re.search(
                "^accepted +not yet: the next change, or a running replica", done.out, re.MULTILINE
            )
    shown = (await run("policy", "show", "--json")).json
    assert (shown["revision"]["number"], shown["revision"]["author"]) == (1, "external")
    assert shown["recorded"] is False
    await apply(FULL, "--expect", f"1-{digest_of(limits_json())}")
    listed = (await run("policy", "history", "--json")).json["revisions"]
    assert [(one["number"], one["author"]) for one in listed] == [(2, "alice"), (1, "external")]


async def test_expect_refuses_a_text_that_was_not_read(store: Redis) -> None:
    """The number of a text that is not recorded may stand for another text by now."""
    await store.set(KEY, limits_json())
    seen = f"1-{digest_of(limits_json())}"
    await store.set(KEY, limits_json(user_capacity=9))
    for option in (("--expect", seen, "--dry-run"), ("--expect", seen), ("--expect", "1-123")):
        done = await run("policy", "apply", "-", *option, text=FULL)
        assert done.status == (Exit.USAGE if "123" in option[1] else Exit.CONFLICT), done.err
    await store.set(KEY, limits_json(user_capacity=10))
    done = await run("policy", "apply", "-", "--expect", "2", text=FULL)
    assert (done.status, "revision 2 (" in done.err) == (Exit.CONFLICT, True)
    assert await store.get(KEY) == limits_json(user_capacity=10).encode()


async def test_a_lost_policy_is_shown_and_restored(store: Redis) -> None:
    await write_lost(store, KEY, LostPolicy(number=7, noticed_us=1, text=limits_json()))
    await publish(store, "one:1", 7)
    for command in ("show", "status"):
        done = await run("policy", command)
        assert done.out.startswith(f"LOST: the store was emptied: {KEY} and its revisions are gone.")
        assert "write it back with: ratelimitd policy restore" in done.out
    text = await run("policy", "show", "--text")
    assert (text.out, text.err[:24]) == (limits_json(), "ratelimitd: warning: LOS")
    done = await run("policy", "restore", "--note", "after the outage")
    assert done.out.startswith("revision 8 (")
    assert (await run("policy", "status")).out.startswith("revision  8 ")
    again = await run("policy", "restore")
    assert (again.status, "there is nothing to restore" in again.err) == (Exit.CONFLICT, True)


async def test_the_status_says_that_the_store_refuses_writes(store: Redis) -> None:
    await apply(limits_json())
    await store.config_set("maxmemory", "100kb")
    try:
        done = await run("policy", "status")
        waited = (await run("policy", "status", "--json")).json["warnings"]
    finally:
        await store.config_set("maxmemory", "0")
    assert done.status == 0
    assert done.out.startswith("WARNING: the store refuses writes, so replicas cannot report")
    assert ": OOM " in waited[0]
    assert "no replica has reported" not in done.out


async def test_validate_needs_no_store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RATELIMITD_REDIS_URL", "embedded")
    file = tmp_path / "limits.yaml"
    file.write_text(FULL)
    done = await run("policy", "validate", str(file))
    assert (done.status, done.out) == (0, f"{file} is a valid policy\n")
    assert done.err == f"ratelimitd: warning: {UNREACHABLE}\n"
    validated = await run("policy", "validate", "-", "--json", text=FULL)
    assert (validated.status, validated.json["valid"], validated.json["problems"]) == (0, True, [])
    assert validated.json["advice"][0]["path"] == "routes[2]"
    bad = await run("policy", "validate", "-", "--json", text="{}")
    assert (bad.status, bad.json["valid"], bad.err) == (Exit.INVALID, False, "")
    assert (await run("policy", "validate", "-", text="{}")).status == Exit.INVALID
    assert (await run("policy", "validate", str(tmp_path / "none"))).status == Exit.USAGE


async def test_advice_on_an_applied_policy_is_a_warning() -> None:
    done = await apply(FULL, "--json")
    assert done.err == f"ratelimitd: warning: {UNREACHABLE}\n"
    assert done.json["advice"][0]["path"] == "routes[2]"
    assert (await run("policy", "diff", "-", text=FULL)).err.startswith(
        f"ratelimitd: warning: {UNREACHABLE}\n"
    )


async def test_schema_prints_the_committed_schema() -> None:
    assert (await run("policy", "schema")).out == schema_text()
    assert (await run("policy", "schema", "--json")).json == json.loads(schema_text())
