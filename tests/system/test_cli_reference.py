"""docs/cli.md shows the options that the commands have, and what they print."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from redis.asyncio import Redis

from tests.system.command import Result, publish, run

ROOT = Path(__file__).parents[2]
DOCUMENT = (ROOT / "docs" / "cli.md").read_text()
LIMITS = re.findall(r"^```yaml\n(.*?)^```", DOCUMENT, re.MULTILINE | re.DOTALL)[0]
REPLICA = "limits-7d9f:1:3fa9c2"


def test_the_options_are_those_of_the_commands() -> None:
    """The document holds what the generator would write."""
    checked = subprocess.run([sys.executable, ROOT / "docs" / "reference.py", "--check"], check=False)
    assert checked.returncode == 0, "run .venv/bin/python docs/reference.py"


def shown(text: str) -> list[str]:
    """Return the lines of an output without numbers, digests and column widths, which differ in each run."""
    text = re.sub(r"\b(?=[0-9a-f]*\d)[0-9a-f]{12}\b", "DIGEST", text)
    text = re.sub(r"\d{4}-\d\d-\d\dT[\d:.]+Z", "INSTANT", text)
    text = re.sub(r"\d+(\.\d+)+|\d+", "N", text)
    return [" ".join(line.split()) for line in text.splitlines()]


async def test_the_examples_are_what_the_commands_print(
    store_url: str, store: Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Apart from numbers. Rollback runs last, because it takes back the policy of the others."""
    monkeypatch.setenv("RATELIMITD_REDIS_URL", store_url)
    monkeypatch.setenv("USER", "alice")
    monkeypatch.chdir(tmp_path)
    Path("limits.yaml").write_text(LIMITS)
    examples = dict(
        re.findall(r"^\$ ratelimitd ((?:policy|explain|bucket) .*)\n((?:.*\n)*?)^```", DOCUMENT, re.MULTILINE)
    )
    await store.hset("rate:user:alice", mapping={"tokens": "99", "last": "1795470082073405"})
    await store.hset("rate:user:alice:api:/api/search", mapping={"tokens": "9", "last": "1795470082073405"})
    await publish(store, REPLICA, number=2)
    for command in sorted(examples, key=lambda command: "rollback" in command):
        if ">" in command:
            continue
        done: Result = await run(*re.sub('"search costs 5"', "NOTE", command).split())
        assert done.status == 0, (command, done.err)
        assert shown(done.out.replace("NOTE", "search costs 5")) == shown(examples[command]), command
