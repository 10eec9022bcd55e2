"""Tests of what all commands share: errors, exit statuses, help, completion, tables."""

import asyncio
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from redis.asyncio import Redis
from typer.core import TyperGroup
from typer.main import get_command

from ratelimitd.cli import main
from ratelimitd.cli.exits import MEANINGS, Exit
from ratelimitd.display import age, printable, tokens
from ratelimitd.errors import RatelimitdError, StoreError
from ratelimitd.process.loopback import free_port
from ratelimitd.store.client import new_connection
from tests.example_limits import limits_json
from tests.system.command import FULL, UNREACHABLE, apply, on_a_terminal, process, publish, run, visible

pytestmark = pytest.mark.usefixtures("operator")
ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs" / "cli.md").read_text()
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


def commands() -> dict[str, str]:
    """Returns the help of every command by its name."""
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


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["explain", "--path", "api"], "the path must begin with /, got 'api'"),
        (["explain", "--path", "/", "--address", "x"], "'x' is not an IP address"),
        (["explain", "--path", "/", "--header", "x"], "must be NAME=VALUE, got 'x'"),
        (["explain", "--path", "/", "--header", "a b=1"], "'a b' is not a header name"),
        (["explain", "--path", "/", "--context", "=x"], "must be NAME=VALUE, got '='"),
        (["explain"], "Missing option '--path'"),
        (["check", "--path", "/", "--target", "nowhere"], "must be HOST:PORT, [IPV6]:PORT or unix:/path"),
        (["bucket", "show"], "give either a user, an address or a key"),
        (["bucket", "reset", "u1", "--address", "::1"], "give either a user, an address or a key"),
        (["bucket", "show", "a,b"], "'a,b' is not a valid user"),
        (["policy", "show", "--text", "--json"], "choose --text or --json"),
        (["policy", "aply"], "No such command 'aply'"),
    ],
)
async def test_a_wrong_command_line_ends_with_2(arguments: list[str], sentence: str) -> None:
    done = await run(*arguments)
    assert (done.status, done.out) == (Exit.USAGE, "")
    assert sentence in " ".join(done.err.split())


async def test_a_table_on_a_terminal_of_80_columns_hides_nothing(store: Redis) -> None:
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
    """Each column is at least as wide as its name; beyond that the terminal wraps the lines."""
    status, screen = on_a_terminal("explain", "--user", "a-user-of-some-length", "--path", "/", columns=40)
    assert status == 0
    table = visible(screen).partition("\n\n")[2].splitlines()
    assert table[0].split() == ["tier", "tokens", "now", "capacity", "refill", "wait", "bucket"]
    width = table[0].index("tokens")
    assert "".join(line[:width].rstrip() for line in table[1:]) == "globaluseruser_api"


@pytest.mark.parametrize("arguments", OF_STORE, ids=" ".join)
async def test_an_unreachable_store_is_one_sentence(arguments: list[str]) -> None:
    done = await run(*arguments, "--redis-url", f"redis://127.0.0.1:{free_port()}/0", text=limits_json())
    assert (done.status, done.out) == (Exit.FAILED, "")
    assert re.fullmatch(r"ratelimitd: the store failed: .*\n", done.err)


async def test_a_silent_store_is_one_sentence() -> None:
    """The driver's time limit of 5 s holds, unless the URL sets another."""
    bound_s = getattr(new_connection("redis://127.0.0.1:1/0"), "socket_timeout", None)
    assert bound_s is not None
    assert bound_s <= 5
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"redis://127.0.0.1:{silent.getsockname()[1]}/0?socket_timeout=0.1"
        done = await run("policy", "status", "--redis-url", url)
    assert (done.status, len(done.err.splitlines())) == (Exit.FAILED, 1)


@pytest.mark.parametrize("arguments", OF_STORE, ids=" ".join)
async def test_embedded_is_not_the_store_of_another_process(arguments: list[str]) -> None:
    done = await run(*arguments, "--redis-url", "embedded", text=limits_json())
    assert (done.status, done.out) == (Exit.FAILED, "")
    assert done.err.startswith("ratelimitd: RATELIMITD_REDIS_URL: an `embedded` store belongs to ")


def test_some_errors_have_exit_statuses_of_their_own() -> None:
    names = {kind.__name__: status for kind, status in main.EXITS.items()}
    conflicts = {"ConflictError": 4, "NothingLostError": 4}
    assert names == {"RequestSpecError": 2, "PolicyError": 3, "WaitError": 5} | conflicts
    assert main.EXITS.get(StoreError) is None
    assert all(issubclass(kind, RatelimitdError) for kind in main.EXITS)


def test_every_command_has_an_example_in_the_document() -> None:
    sections = re.findall(
        r"^### `ratelimitd ([a-z ]+)`\n.*?^```(?:sh|console)\n(.*?)^```", DOCUMENT, re.MULTILINE | re.DOTALL
    )
    examples = dict(sections)
    assert len(examples) == len(sections)
    assert set(commands()) <= set(examples)
    for name, example in examples.items():
        assert (ROOT / "ratelimitd" / "cli" / f"{name.split()[0]}.py").exists()
        assert f"ratelimitd {name}" in example


def test_the_document_lists_all_exit_statuses() -> None:
    rows = re.findall(r"^\| (\d) \| (.*) \|$", DOCUMENT, re.MULTILINE)
    assert [(int(number), meaning) for number, meaning in rows] == [(int(one), MEANINGS[one]) for one in Exit]


def test_every_help_lists_the_exit_statuses() -> None:
    for name, text in commands().items():
        lines = [line.strip() for line in text.splitlines()]
        for one in (Exit.DONE, Exit.FAILED, Exit.USAGE):
            assert f"{int(one)}  {MEANINGS[one]}" in lines, name
    assert f"  6  {MEANINGS[Exit.DENIED]}" in commands()["explain"]
    assert f"  5  {MEANINGS[Exit.BEHIND]}" in commands()["policy apply"]


def test_the_shell_completes_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bash script runs in bash; for zsh the test calls the command as the script does."""
    # There may be no shell to detect.
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
def test_a_full_disk_is_one_sentence(arguments: tuple[str, ...]) -> None:
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


def test_the_installed_command_behaves_the_same(tmp_path: Path) -> None:
    """The other tests run the command inside the test process."""
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


def test_numbers_and_durations_are_short() -> None:
    """Tokens are rounded down."""
    assert [tokens(micro) for micro in (0, 999, 1_999_999, 5_000_000)] == ["0", "0", "1.999", "5"]
    assert [age(us) for us in (-5, 1_500_000, 90_000_000, 5_400_000_000, 129_600_000_000)] == [
        *("0.0 s", "1.5 s", "1.5 min", "1.5 h", "1.5 d")
    ]
    assert printable("é\x1b\n\udcff") == r"é\u001b\n\udcff"
