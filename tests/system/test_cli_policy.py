"""The operator's commands, over a real store: what they print, what they change, and how they end."""

import asyncio
import io
import json
import os
import pty
import re
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from redis.asyncio import Redis
from typer.core import TyperGroup
from typer.main import get_command

from ratelimitd import settings
from ratelimitd.app import run_service
from ratelimitd.cli import main
from ratelimitd.cli.exits import MEANINGS, Exit
from ratelimitd.cli.output import printable
from ratelimitd.display import age, tokens
from ratelimitd.errors import RatelimitdError, StoreError
from ratelimitd.policy.schema import schema_text
from ratelimitd.policy.text import DEFAULT_TEXT
from ratelimitd.process.loopback import free_port
from ratelimitd.rollout.replicas import Replicas
from ratelimitd.store.client import new_connection
from tests.limits import KEY, STILL, limits_json
from tests.replicas import replica

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs" / "cli.md").read_text()
FULL = """\
tiers:
  global: { capacity: 500, refill_rate: 50 }
  user: { capacity: 100, rate: 300/min, shadow: true }
  user_api: { capacity: 4, refill_rate: 0.000001 }
routes:
  - { path: /api/users/*/orders, methods: [GET, POST], api: orders, cost: 3 }
  - { path: /api/status, exempt: true }
  - { path: /api/status, methods: [GET] }
overrides:
  users: { mallory: { blocked: true } }
  headers: { x-plan: { gold: { user_api: { capacity: 9, rate: 1/s } } } }
  context: { plan: { gold: { exempt: true } } }
"""
UNREACHABLE = "routes[2]: is never reached: routes[1] before it matches all that it does"


@dataclass(frozen=True)
class Done:
    """How a command ended, and what it wrote."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """What it wrote for programs."""
        return json.loads(self.out)


@pytest.fixture(autouse=True)
def _environment(store_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The service's settings, and somebody who is logged in."""
    monkeypatch.setenv("RATELIMITD_REDIS_URL", store_url)
    monkeypatch.setenv("USER", "alice")


@pytest.fixture(autouse=True)
async def store_of_test(store: Redis) -> Redis:
    """Every test has an empty store."""
    return store


async def run(*arguments: str, text: str | bytes = "") -> Done:
    """The command as `ratelimitd` runs it, with this standard input; not on a terminal."""
    return await asyncio.to_thread(_run, arguments, text if isinstance(text, bytes) else text.encode())


def _run(arguments: Sequence[str], text: bytes) -> Done:
    out, err = io.StringIO(), io.StringIO()
    status = 0
    with (
        patch.object(sys, "argv", ["ratelimitd", *arguments]),
        patch.object(sys, "stdin", io.TextIOWrapper(io.BytesIO(text))),
        redirect_stdout(out),
        redirect_stderr(err),
    ):
        try:
            main.main()
        except SystemExit as error:
            status = int(error.code or 0)
    return Done(status, out.getvalue(), err.getvalue())


def process(*arguments: str, **env: str) -> Done:
    """The same in a process of its own, by the name that people use."""
    script = Path(sys.executable).parent / "ratelimitd"
    done = subprocess.run(
        [script, *arguments], env=os.environ | env, capture_output=True, text=True, check=False
    )
    return Done(done.returncode, done.stdout, done.stderr)


def on_a_terminal(*arguments: str, typed: str = "", columns: int = 80) -> tuple[int, str]:
    """The same on a terminal: the exit status and what is on the screen."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "ratelimitd", *arguments],
        env=os.environ | {"COLUMNS": str(columns), "TERM": "xterm"},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    ) as child:
        os.close(theirs)
        os.write(ours, f"{typed}\x04".encode())  # the end of input: who asks for more does not wait
        screen = b"".join(_read(ours))
    os.close(ours)
    return child.returncode, screen.decode().replace("\r\n", "\n")


def _read(terminal: int) -> Iterator[bytes]:
    while True:
        try:
            yield os.read(terminal, 4096)
        except OSError:  # nobody holds its other end any more
            return


def visible(screen: str) -> str:
    """A screen without colours."""
    return re.sub(r"\x1b\[[0-9;]*m", "", screen)


async def apply(text: str = FULL, *arguments: str) -> Done:
    """A policy from standard input, in force."""
    done = await run("policy", "apply", "-", *arguments, text=text)
    assert done.status == 0, done.err
    return done


async def publish(store: Redis, name: str, number: int, refused: str | None = None) -> None:
    """A replica that was seen just now."""
    seconds, micros = await store.time()
    now_us = seconds * 1_000_000 + micros
    await Replicas(store, KEY).publish(
        replica(
            name,
            number=number,
            refused=refused,
            version="9.9.9",
            started_us=now_us - 90_000_000,
            seen_us=now_us,
        )
    )


# policy


async def test_without_a_policy_the_defaults_are_shown() -> None:
    """As what they are: nobody accepted them."""
    shown = await run("policy", "show")
    assert shown.status == 0
    assert re.search(r"^accepted +never: these are the defaults$", shown.out, re.MULTILINE)
    assert "  global: {capacity: 500, refill_rate: 50}\n" in shown.out
    assert (await run("policy", "show", "--text")).out == DEFAULT_TEXT
    assert (await run("policy", "show", "--json")).json["revision"]["number"] == 0


async def test_an_applied_policy_is_shown_with_who_when_and_why(store: Redis) -> None:
    """By the name of who is logged in; the text is kept byte for byte."""
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


async def test_an_author_can_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a name and without a login it is `cli`."""
    await apply(FULL, "--author", "deploy")
    monkeypatch.delenv("USER")
    await apply(FULL)
    history = (await run("policy", "history", "--json")).json["revisions"]
    assert [revision["author"] for revision in history] == ["cli", "deploy"]


@pytest.mark.parametrize(
    ("option", "value", "sentence"),
    [
        ("--author", "External", "must be another: external is who writes past ratelimitd"),
        ("--author", "", "must have 1 to 100 characters"),
        ("--author", "a" * 101, "must have 1 to 100 characters"),
        ("--note", "n" * 501, "must have at most 500 characters"),
    ],
)
async def test_who_and_why_are_bounded_as_in_the_api(option: str, value: str, sentence: str) -> None:
    """Nobody passes for who writes past ratelimitd, and a history stays one that can be read."""
    for command in (("apply", "-"), ("rollback", "0")):
        done = await run("policy", *command, option, value, text=limits_json())
        assert done.status == Exit.USAGE
        assert sentence in " ".join(done.err.split())
    assert (await run("policy", "history", "--json")).json == {"revisions": []}


async def test_a_file_is_applied_as_standard_input_is(tmp_path: Path, store: Redis) -> None:
    """A byte order mark and a missing end of line are part of it."""
    file = tmp_path / "limits.json"
    file.write_bytes(b"\xef\xbb\xbf" + limits_json().encode())
    assert (await run("policy", "apply", str(file))).status == 0
    assert await store.get(KEY) == file.read_bytes()


async def test_an_earlier_revision_can_be_shown() -> None:
    """In every form; one that is unknown is a sentence."""
    await apply(limits_json())
    await apply()
    assert (await run("policy", "show", "--revision", "1", "--text")).out == limits_json()
    assert (await run("policy", "show", "--revision", "1", "--json")).json["number"] == 1
    unknown = await run("policy", "show", "--revision", "7")
    assert (unknown.status, unknown.out) == (Exit.FAILED, "")
    assert unknown.err == "ratelimitd: there is no revision 7: kept are 1 to 2 (policy history)\n"


async def test_a_policy_that_is_not_valid_changes_nothing_and_every_reason_is_told(store: Redis) -> None:
    """Each on its own line, with its path."""
    bad = FULL.replace("cost: 3", "cost: -1").replace("capacity: 500", "capacity: 0")
    done = await run("policy", "apply", "-", text=bad)
    assert (done.status, done.out) == (Exit.INVALID, "")
    lines = done.err.splitlines()
    assert [line.split(": ")[:2] for line in lines] == [
        ["ratelimitd", "tiers.global.capacity"],
        ["ratelimitd", "routes[0].cost"],
    ]
    assert await store.get(KEY) is None


async def test_bytes_that_are_no_text_are_no_policy() -> None:
    """For every command that reads one."""
    for command in ("validate", "apply", "diff"):
        done = await run("policy", command, "-", text=b"\xff\xfe")
        assert (done.status, done.err) == (Exit.INVALID, "ratelimitd: must be text in UTF-8\n")


async def test_somebody_who_was_faster_is_named(store: Redis) -> None:
    """Nothing is written."""
    await apply(limits_json(), "--author", "bob")
    done = await run("policy", "apply", "-", "--expect", "0", text=FULL)
    assert (done.status, done.out) == (Exit.CONFLICT, "")
    assert "revision 1 by bob" in done.err
    assert await store.get(KEY) == limits_json().encode()
    assert (await run("policy", "apply", "-", "--expect", "1", text=FULL)).status == 0


async def test_waiting_ends_when_every_replica_has_it(store: Redis) -> None:
    """They are named."""
    await publish(store, "one:1", 1)
    await publish(store, "two:2", 5)
    done = await apply(FULL, "--wait")
    assert done.out.splitlines()[1] == "every replica runs it: one:1, two:2"


async def test_waiting_in_vain_names_who_lacks_it_and_the_revision_stands(store: Redis) -> None:
    """What was accepted is told all the same, to programs too."""
    await publish(store, "one:1", 1)
    await publish(store, "late:2", 0)
    done = await run("policy", "apply", "-", "--wait", "--timeout-s", "0.2", "--json", text=limits_json())
    assert done.status == Exit.BEHIND
    assert done.json["revision"]["number"] == 1
    assert done.err == "ratelimitd: after 0.2 s revision 1 does not run yet on late:2\n"
    assert await store.get(KEY) == limits_json().encode()
    rolled = await run("policy", "rollback", "1", "--wait", "--timeout-s", "0.2")
    assert rolled.status == Exit.BEHIND


async def test_waiting_for_nobody_is_a_warning() -> None:
    """It ends at once."""
    done = await apply(limits_json(), "--wait")
    assert done.err == "ratelimitd: warning: no replica is running, so none has the revision yet\n"


async def test_a_dry_run_shows_the_difference_and_changes_nothing(store: Redis) -> None:
    """It meets the same conflict, and the same refusal."""
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
    """Standard output stays empty."""
    await apply(limits_json())
    same = await run("policy", "diff", "-", text=limits_json().replace(",", ",\n"))
    assert (same.status, same.out) == (0, "")
    assert same.err == "ratelimitd: no difference: both policies mean the same\n"
    assert (await run("policy", "diff", "-", "--json", text=limits_json())).json == {"same": True, "diff": ""}
    against = await run("policy", "diff", "-", "--against", "0", text=limits_json())
    assert against.out.startswith("--- revision 0\n+++ new\n")


async def test_the_history_is_newest_first_and_a_rollback_is_a_part_of_it() -> None:
    """A row for each, in one line, whatever its note holds."""
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
    """Not an empty table."""
    assert (
        await run("policy", "history")
    ).out == "no policy has been accepted yet: the defaults are in force\n"


async def test_the_status_shows_every_replica_and_what_shadows_would_have_denied(store: Redis) -> None:
    """Who is behind, who refused what, and since when."""
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
    assert list(status) == ["at", "revision", "refused", "replicas", "shadow"]
    assert [(one["id"], one["behind"]) for one in status["replicas"]] == [("late:2", True), ("one:1", False)]
    assert status["shadow"] == {"tiers.user": 12}


async def test_a_foreign_text_that_was_refused_is_shown_loudly(store: Redis) -> None:
    """Wherever the policy in force is shown; the text itself is not mixed with it."""
    await apply(limits_json())
    await store.set(KEY, "{nonsense")
    for command in ("show", "status"):
        done = await run("policy", command)
        assert done.out.startswith(f"REFUSED: the text at {KEY} is not in force\n  must be ")
        assert (await run("policy", command, "--json")).json["refused"][0]["reason"].startswith("must be ")
    text = await run("policy", "show", "--text")
    assert text.out == limits_json()
    assert text.err.startswith(f"ratelimitd: warning: REFUSED: the text at {KEY} is not in force: must be")


async def test_a_good_foreign_text_is_shown_as_a_revision(store: Redis) -> None:
    """It is in force, so it has a number."""
    await store.set(KEY, limits_json())
    shown = (await run("policy", "show", "--json")).json["revision"]
    assert (shown["number"], shown["author"]) == (1, "external")


async def test_a_policy_is_validated_without_a_store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What its author may have missed is a warning."""
    monkeypatch.setenv("RATELIMITD_REDIS_URL", "embedded")
    file = tmp_path / "limits.yaml"
    file.write_text(FULL)
    done = await run("policy", "validate", str(file))
    assert (done.status, done.out) == (0, f"{file} is a valid policy\n")
    assert done.err == f"ratelimitd: warning: {UNREACHABLE}\n"
    told = await run("policy", "validate", "-", "--json", text=FULL)
    assert (told.status, told.json["valid"], told.json["problems"]) == (0, True, [])
    assert told.json["advice"][0]["path"] == "routes[2]"
    bad = await run("policy", "validate", "-", "--json", text="{}")
    assert (bad.status, bad.json["valid"], bad.err) == (Exit.INVALID, False, "")
    assert (await run("policy", "validate", "-", text="{}")).status == Exit.INVALID
    assert (await run("policy", "validate", str(tmp_path / "none"))).status == Exit.USAGE


async def test_advice_on_what_is_applied_is_a_warning() -> None:
    """In the answer to programs, too."""
    done = await apply(FULL, "--json")
    assert done.err == f"ratelimitd: warning: {UNREACHABLE}\n"
    assert done.json["advice"][0]["path"] == "routes[2]"
    assert (await run("policy", "diff", "-", text=FULL)).err.startswith(
        f"ratelimitd: warning: {UNREACHABLE}\n"
    )


async def test_the_schema_is_printed_as_it_is_committed() -> None:
    """It is JSON with and without the flag."""
    assert (await run("policy", "schema")).out == schema_text()
    assert (await run("policy", "schema", "--json")).json == json.loads(schema_text())


async def test_a_table_on_a_terminal_of_80_columns_hides_nothing(store: Redis) -> None:
    """Long values go on in the next line."""
    name = "ratelimitd-7d9f8b6c5d-x2x7k.default.cluster.local:1"
    await apply(FULL, "--note", "ñ" * 90)
    await publish(store, name, 0, refused="ŕ" * 60)
    status, screen = await asyncio.to_thread(on_a_terminal, "policy", "status")
    assert status == 0
    assert "\x1b[" in screen
    lines = visible(screen).splitlines()
    assert max(map(len, lines)) <= 80
    assert (screen.count("ñ"), screen.count("ŕ"), screen.count("…")) == (90, 60, 0)
    (head,) = [line for line in lines if line.rstrip().endswith("replica")]
    below = lines[lines.index(head) + 1 :]
    assert "".join(line[head.index("replica") :].rstrip() for line in below) == name


async def test_a_table_on_a_narrow_terminal_keeps_every_column() -> None:
    """Each has the width of its name at least; where that is too much, the terminal breaks the lines."""
    status, screen = on_a_terminal("explain", "--user", "a-user-of-some-length", "--path", "/", columns=40)
    assert status == 0
    table = visible(screen).partition("\n\n")[2].splitlines()
    assert table[0].split() == ["tier", "tokens", "now", "capacity", "refill", "wait", "bucket"]
    width = table[0].index("tokens")
    assert "".join(line[:width].rstrip() for line in table[1:]) == "globaluseruser_api"


# explain


async def test_what_would_be_allowed_is_explained_tier_by_tier(store: Redis) -> None:
    """The rule, the tokens, and when it changes. It spends nothing."""
    await apply()
    done = await run("explain", "--user", "u1", "--path", "/api/users/7/orders?q=1", "--method", "post")
    assert done.status == 0
    assert done.out.startswith("allowed: every tier can pay 3\n")
    assert re.search(r"^identity +u1 \(by header\) *$", done.out, re.MULTILINE)
    assert re.search(r"^route +routes\[0\] *$", done.out, re.MULTILINE)
    assert re.search(r"^changes +denied after 1 such request at once *$", done.out, re.MULTILINE)
    assert re.search(r"^user_api +4 +4 +1e-06/s +0 s +rate:user:u1:api:orders *$", done.out, re.MULTILINE)
    assert re.search(r"^user \(shadow\) +100 +100 +5/s +0 s +rate:shadow:user:u1 *$", done.out, re.MULTILINE)
    assert await store.keys("rate:*") == []


async def test_what_would_be_denied_ends_with_6(store: Redis) -> None:
    """And says how long, rounded up."""
    await apply(limits_json(user_rate=3))
    seconds, micros = await store.time()
    now_us = seconds * 1_000_000 + micros
    await store.hset("rate:user:u1", mapping={"tokens": 0, "last": now_us + 60_000_000})
    done = await run("explain", "--user", "u1", "--path", "/")
    assert done.status == Exit.DENIED
    assert done.out.startswith("denied: user holds 0.000 tokens and the request costs 1\n")
    assert re.search(
        r"^changes +allowed in 0\.334 s, if no other request spends tokens meanwhile *$",
        done.out,
        re.MULTILINE,
    )
    answer = (await run("explain", "--user", "u1", "--path", "/", "--json")).json
    assert (answer["outcome"], answer["denied_by"], answer["retry_after_s"]) == ("denied", "user", 0.333334)


async def test_overrides_are_explained() -> None:
    """By user, header and context; who is blocked ends as who is denied."""
    await apply()
    blocked = await run("explain", "--user", "mallory", "--path", "/")
    assert blocked.status == Exit.DENIED
    assert blocked.out.startswith("blocked: overrides.users.mallory blocks it\n")
    assert re.search(r"^changes +only with the policy *$", blocked.out, re.MULTILINE)
    gold = (await run("explain", "--path", "/", "--header", "X-Plan=gold", "--json")).json
    assert gold["override"] == "overrides.headers.x-plan.gold"
    exempt = (await run("explain", "--path", "/", "--context", "plan=gold", "--json")).json
    assert (exempt["outcome"], exempt["override"]) == ("exempt", "overrides.context.plan.gold")
    by_address = (await run("explain", "--path", "/", "--address", "203.0.113.9", "--json")).json
    assert by_address["identity"] == {"kind": "address", "key": "ip=203.0.113.9"}


async def test_a_header_that_is_given_twice_is_joined_as_envoy_does() -> None:
    """So it names nobody."""
    headers = ("--header", "x-user-id=a", "--header", "X-User-Id=b")
    done = await run("explain", "--path", "/", *headers, "--json")
    assert done.json["identity"]["kind"] == "anonymous"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["explain", "--path", "api"], "the path must begin with /, got 'api'"),
        (["explain", "--path", "/", "--address", "x"], "'x' is no IP address"),
        (["explain", "--path", "/", "--header", "x"], "must be NAME=VALUE, got 'x'"),
        (["explain", "--path", "/", "--header", "a b=1"], "'a b' is no name of a header"),
        (["explain", "--path", "/", "--context", "=x"], "must be NAME=VALUE, got '='"),
        (["explain"], "Missing option '--path'"),
        (["check", "--path", "/", "--target", "nowhere"], "must be HOST:PORT, [IPV6]:PORT or unix:/path"),
        (["bucket", "show"], "name a user or an address, one of the two"),
        (["bucket", "reset", "u1", "--address", "::1"], "name a user or an address, one of the two"),
        (["bucket", "show", "a,b"], "'a,b' names nobody"),
        (["policy", "show", "--text", "--json"], "choose --text or --json"),
        (["policy", "aply"], "No such command 'aply'"),
    ],
)
async def test_a_command_line_that_is_wrong_ends_with_2(arguments: list[str], sentence: str) -> None:
    """And says what would be right."""
    done = await run(*arguments)
    assert (done.status, done.out) == (Exit.USAGE, "")
    assert sentence in " ".join(done.err.split())


# bucket


async def test_buckets_are_shown_as_they_are_now(store: Redis) -> None:
    """Those of the user on each API, and those in shadow."""
    await apply()
    last = 1_800_000_000_123_456
    await store.hset("rate:shadow:user:u1", mapping={"tokens": 7.5, "last": last})
    await store.hset("rate:user:u1:api:orders", mapping={"tokens": 2, "last": last})
    await store.hset("rate:user:u2", mapping={"tokens": 1, "last": last})
    done = await run("bucket", "show", "u1")
    assert done.status == 0
    rows = [row.split() for row in done.out.splitlines()][1:]
    assert rows == [
        ["rate:shadow:user:u1", "7.5", "100", "5/s", "2027-01-15T08:00:00.123Z"],
        ["rate:user:u1:api:orders", "2", "4", "1e-06/s", "2027-01-15T08:00:00.123Z"],
    ]
    buckets = (await run("bucket", "show", "u1", "--json")).json["buckets"]
    assert [(one["tier"], one["api"], one["shadow"]) for one in buckets] == [
        ("user", None, True),
        ("user_api", "orders", False),
    ]


async def test_who_has_no_bucket_has_full_ones() -> None:
    """A sentence, or an empty list."""
    assert (
        await run("bucket", "show", "u1")
    ).out == "u1 has no bucket in the store, so all of them are full\n"
    assert (await run("bucket", "show", "--address", "::1", "--json")).json == {"buckets": []}
    assert (await run("bucket", "reset", "u1")).out == (
        "u1 has no bucket in the store, so all of them are full already\n"
    )


async def test_a_reset_makes_every_bucket_full_and_nobody_elses(store: Redis) -> None:
    """By user or by address."""
    for key in ("user:u1", "user:u1:api:/x", "user:u11", "user:ip=203.0.113.9"):
        await store.hset(f"rate:{key}", mapping={"tokens": 0, "last": 1})
    done = await run("bucket", "reset", "u1")
    assert (done.status, done.out) == (0, "rate:user:u1 is full\nrate:user:u1:api:/x is full\n")
    reset = await run("bucket", "reset", "--address", "203.0.113.9", "--json")
    assert reset.json == {"deleted": ["rate:user:ip=203.0.113.9"]}
    assert await store.keys("rate:*") == [b"rate:user:u11"]


async def test_on_a_terminal_a_reset_asks_first(store: Redis) -> None:
    """No is the answer unless it is yes, or --yes."""
    await store.hset("rate:user:u1", mapping={"tokens": 0, "last": 1})
    status, screen = await asyncio.to_thread(on_a_terminal, "bucket", "reset", "u1", typed="n\n")
    assert status == Exit.FAILED
    assert "Make all buckets of u1 full? [y/N]" in screen
    assert await store.exists("rate:user:u1")
    assert (await asyncio.to_thread(on_a_terminal, "bucket", "reset", "u1", "--yes"))[0] == 0
    assert not await store.exists("rate:user:u1")


# check


async def test_a_running_service_is_asked(store_url: str, store: Redis) -> None:
    """A dry run spends nothing; who is denied ends with 6."""
    await apply(limits_json(user_api_capacity=1, **STILL))
    flags = {"redis_url": store_url, "listen": "127.0.0.1:0"}
    async with run_service(settings.load({}, flags=flags), "grpcio") as listener:
        ask = ["check", "--user", "u1", "--path", "/api/x", "--target", str(listener.address)]
        ask += ["--timeout-s", "10"]
        dry = await run(*ask, "--dry-run")
        assert (dry.status, dry.out.splitlines()[0]) == (0, "allowed (OK)")
        assert await store.keys("rate:user:u1*") == []
        allowed = (await run(*ask, "--json", "--context", "api=a")).json
        assert (allowed["outcome"], allowed["metadata"]["outcome"]) == ("allowed", "allowed")
        assert await store.exists("rate:user:u1:api:a")
        denied = await run(*ask, "--context", "api=a")
    assert denied.status == Exit.DENIED
    lines = denied.out.splitlines()
    assert lines[:2] == ["denied, HTTP 429 (RESOURCE_EXHAUSTED)", '{"error":"rate limit exceeded"}']
    assert re.search(r"^x-ratelimit-tier +user_api *$", denied.out, re.MULTILINE)


@pytest.mark.parametrize(("answer", "status"), [("deny", 1), ("envoy", 1), ("allow", 0)])
async def test_a_service_that_cannot_decide_has_not_denied(answer: str, status: int) -> None:
    """Its refusal says nothing about limits."""
    flags = {"redis_url": "unix:///nowhere.sock", "listen": "127.0.0.1:0", "on_store_error": answer}
    async with run_service(settings.load({}, flags=flags), "grpcio") as listener:
        done = await run("check", "--path", "/", "--target", str(listener.address), "--timeout-s", "10")
    assert done.status == status


async def test_the_service_of_the_settings_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """With no store needed; when nobody is there it is a sentence."""
    address = f"127.0.0.1:{free_port()}"
    monkeypatch.setenv("RATELIMITD_LISTEN", address)
    monkeypatch.setenv("RATELIMITD_REDIS_URL", "embedded")
    done = await run("check", "--path", "/")
    assert (done.status, done.err) == (1, f"ratelimitd: {address} does not answer: UNAVAILABLE\n")


# the store, and how commands end

OF_STORE = [
    ["policy", "show"],
    ["policy", "apply", "-"],
    ["policy", "apply", "-", "--dry-run"],
    ["policy", "diff", "-"],
    ["policy", "history"],
    ["policy", "rollback", "1"],
    ["policy", "status"],
    ["explain", "--path", "/"],
    ["bucket", "show", "u1"],
    ["bucket", "reset", "u1"],
]


@pytest.mark.parametrize("arguments", OF_STORE, ids=" ".join)
async def test_a_store_that_is_away_is_one_sentence(arguments: list[str]) -> None:
    """By the flag that wins over the setting."""
    done = await run(*arguments, "--redis-url", f"redis://127.0.0.1:{free_port()}/0", text=limits_json())
    assert (done.status, done.out) == (Exit.FAILED, "")
    assert re.fullmatch(r"ratelimitd: the store failed: .*\n", done.err)


async def test_a_store_that_says_nothing_is_one_sentence() -> None:
    """The driver's own bound holds, unless the URL has another."""
    bound_s = getattr(new_connection("redis://127.0.0.1:1/0"), "socket_timeout", None)
    assert bound_s is not None
    assert bound_s <= 5
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"redis://127.0.0.1:{silent.getsockname()[1]}/0?socket_timeout=0.1"
        done = await run("policy", "status", "--redis-url", url)
    assert (done.status, len(done.err.splitlines())) == (Exit.FAILED, 1)


@pytest.mark.parametrize("arguments", OF_STORE, ids=" ".join)
async def test_the_store_of_another_process_cannot_be_named_embedded(arguments: list[str]) -> None:
    """It says what can."""
    done = await run(*arguments, "--redis-url", "embedded", text=limits_json())
    assert (done.status, done.out) == (Exit.FAILED, "")
    assert done.err.startswith("ratelimitd: RATELIMITD_REDIS_URL: an `embedded` store belongs to ")


def test_every_error_of_ours_ends_with_the_status_that_its_meaning_has() -> None:
    """A few have their own; all others are failures."""
    names = {kind.__name__: status for kind, status in main.EXITS.items()}
    assert names == {"RequestSpecError": 2, "PolicyError": 3, "ConflictError": 4, "WaitError": 5}
    assert main.EXITS.get(StoreError) is None
    assert all(issubclass(kind, RatelimitdError) for kind in main.EXITS)


def commands() -> dict[str, str]:
    """Every command by its name, with its help."""
    root = get_command(main.app)
    assert isinstance(root, TyperGroup)
    found = {}
    for name, command in root.commands.items():
        inner = command.commands if isinstance(command, TyperGroup) else {"": command}
        for last, one in inner.items():
            found[f"{name} {last}".strip()] = one.get_help(
                one.make_context(last or name, [], resilient_parsing=True)
            )
    return found


def test_every_command_has_its_example_in_the_document_and_none_is_left_over() -> None:
    """An example begins with the command."""
    sections = re.findall(
        r"^### `ratelimitd ([a-z ]+)`\n.*?^```(?:sh|console)\n(.*?)^```", DOCUMENT, re.MULTILINE | re.DOTALL
    )
    examples = dict(sections)
    assert len(examples) == len(sections)
    assert set(commands()) <= set(examples)
    for name, example in examples.items():
        assert (ROOT / "ratelimitd" / "cli" / f"{name.split()[0]}.py").exists()
        assert f"ratelimitd {name}" in example


def test_the_table_of_exit_statuses_is_the_codes() -> None:
    """None missing, none left over, the same words."""
    rows = re.findall(r"^\| (\d) \| (.*) \|$", DOCUMENT, re.MULTILINE)
    assert [(int(number), meaning) for number, meaning in rows] == [(int(one), MEANINGS[one]) for one in Exit]


def test_every_help_says_how_the_command_may_end() -> None:
    """In the words of the table."""
    for name, text in commands().items():
        lines = [line.strip() for line in text.splitlines()]
        for one in (Exit.DONE, Exit.FAILED, Exit.USAGE):
            assert f"{int(one)}  {MEANINGS[one]}" in lines, name
    assert f"  6  {MEANINGS[Exit.DENIED]}" in commands()["explain"]
    assert f"  5  {MEANINGS[Exit.BEHIND]}" in commands()["policy apply"]


def test_the_shell_completes_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the script for bash, run in one, and by what the one for zsh asks. A test has no shell to detect."""
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)
    script = process("--show-completion", "bash").out
    assert "complete -o default -F _ratelimitd_completion ratelimitd" in script
    ask = (
        "COMP_WORDS=(ratelimitd policy ro); COMP_CWORD=2; _ratelimitd_completion ratelimitd; echo $COMPREPLY"
    )
    asked = subprocess.run(["bash", "-c", f"{script}\n{ask}"], capture_output=True, text=True, check=True)
    assert asked.stdout.split() == ["rollback"]
    assert "compdef _ratelimitd_completion ratelimitd" in process("--show-completion", "zsh").out
    words = process(_RATELIMITD_COMPLETE="complete_zsh", _TYPER_COMPLETE_ARGS="ratelimitd policy ro").out
    assert words.startswith('_arguments \'*: :(("rollback":')


@pytest.mark.parametrize(
    "arguments", [("policy", "schema"), ("policy", "show"), ("policy", "show", "--json")]
)
def test_an_answer_that_cannot_be_written_is_one_sentence(arguments: tuple[str, ...]) -> None:
    """A full disk is not a defect of ours, and a script learns that it has no answer."""
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        done = subprocess.run(
            [sys.executable, "-m", "ratelimitd", *arguments],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert (done.returncode, done.stderr) == (
        Exit.FAILED,
        "ratelimitd: [Errno 28] No space left on device\n",
    )


def test_a_process_of_its_own_ends_the_same_way(tmp_path: Path) -> None:
    """Statuses, streams and colours are the process's, not the test's."""
    file = tmp_path / "limits.yaml"
    file.write_text(FULL)
    applied = process("policy", "apply", str(file))
    assert (applied.status, applied.err) == (0, f"ratelimitd: warning: {UNREACHABLE}\n")
    assert process("policy", "apply", str(file), "--expect", "0").status == 4
    file.write_text("{}")
    refused = process("policy", "validate", str(file))
    assert (refused.status, refused.out) == (3, "")
    explained = process("explain", "--user", "mallory", "--path", "/")
    assert (explained.status, "\x1b" in explained.out) == (6, False)
    away = process("policy", "status", RATELIMITD_REDIS_URL="unix:///nowhere.sock")
    assert (away.status, away.out, "Traceback" in away.err) == (1, "", False)


def test_amounts_and_times_are_short_and_never_flatter() -> None:
    """Tokens are rounded down; ages have one unit."""
    assert [tokens(micro) for micro in (0, 999, 1_999_999, 5_000_000)] == ["0", "0", "1.999", "5"]
    assert [age(us) for us in (-5, 1_500_000, 90_000_000, 5_400_000_000, 129_600_000_000)] == [
        *("0.0 s", "1.5 s", "1.5 min", "1.5 h", "1.5 d")
    ]
    assert printable("é\x1b\n\udcff") == r"é\u001b\n\udcff"
