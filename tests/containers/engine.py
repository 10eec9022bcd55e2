"""Calls the container engine. Each call has a timeout, and a failed call shows its output."""

import asyncio
import json
import os
import secrets
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
CALL_S = 60.0
LABEL = "com.docker.compose"
"""The prefix of the labels by which compose knows its containers."""

ADMIN_KEY = secrets.token_hex(16)
"""The admin key in the environment of `docker compose up`."""


class EngineError(Exception):
    """A command of the engine failed."""


def why_no_engine() -> str | None:
    """Returns why containers cannot be started here; None if they can."""
    if shutil.which("docker") is None:
        return "docker is not installed"
    for command in (["docker", "info"], ["docker", "compose", "version"]):
        done = subprocess.run(command, capture_output=True, check=False, timeout=CALL_S)
        if done.returncode:
            return f"`{' '.join(command)}` fails: {done.stderr.decode(errors='replace').strip()}"
    return None


async def run(*command: str, timeout_s: float = CALL_S) -> str:
    """Returns the standard output of a command. Raises EngineError, with all its output, or TimeoutError."""
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=ROOT,
        env=os.environ | {"RATELIMITD_ADMIN_KEY": ADMIN_KEY},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(timeout_s):
            out, err = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        raise
    if process.returncode:
        output = (out + err).decode(errors="replace")
        raise EngineError(f"{' '.join(command)}: exit status {process.returncode}\n{output}")
    return out.decode()


@dataclass(frozen=True)
class Container:
    """A container of the project, running or not. `ports` are (address, published, target)."""

    name: str
    id: str
    service: str
    state: str
    exit_code: int
    ports: frozenset[tuple[str, int, int]]


@dataclass(frozen=True)
class Project:
    """The compose files of the repository, under a unique project name."""

    name: str
    files: tuple[str, ...] = ("docker-compose.yml",)

    async def compose(self, *arguments: str, timeout_s: float = CALL_S) -> str:
        """Runs `docker compose` on this project and returns its output."""
        files = [word for file in self.files for word in ("-f", str(ROOT / file))]
        return await run("docker", "compose", "-p", self.name, *files, *arguments, timeout_s=timeout_s)

    async def containers(self, service: str = "") -> list[Container]:
        """Returns all containers, or only those of one service, sorted by name.

        It calls the engine directly, because compose takes half a second to read its files.
        """
        labels = [f"{LABEL}.project={self.name}", f"{LABEL}.oneoff=False"]
        labels += [f"{LABEL}.service={service}"] if service else []
        filters = [word for label in labels for word in ("--filter", f"label={label}")]
        ids = (await run("docker", "ps", "--all", "--quiet", *filters)).split()
        found = json.loads(await run("docker", "inspect", *ids)) if ids else []
        return sorted(map(_container, found), key=lambda c: c.name)

    async def container(self, service: str) -> Container:
        """Returns the only container of a service."""
        (only,) = await self.containers(service)
        return only

    async def redis(self, *command: str) -> list[str]:
        """Runs redis-cli and returns the lines that it prints."""
        redis = await self.container("redis")
        return (await run("docker", "exec", redis.id, "redis-cli", "-e", *command)).splitlines()


def _container(facts: dict[str, Any]) -> Container:
    """Returns the container that `docker inspect` describes."""
    ports = frozenset(
        (one["HostIp"], int(one["HostPort"]), int(target.partition("/")[0]))
        for target, published in facts["NetworkSettings"]["Ports"].items()
        for one in published or ()  # a port that is exposed but not published
    )
    state, service = facts["State"], facts["Config"]["Labels"][f"{LABEL}.service"]
    return Container(
        facts["Name"].removeprefix("/"), facts["Id"], service, state["Status"], state["ExitCode"], ports
    )


async def inspect(container: Container) -> dict[str, Any]:
    """Returns the output of `docker inspect` for a container."""
    (found,) = json.loads(await run("docker", "inspect", container.id))
    return dict(found)


async def assert_locked_down(container: Container) -> None:
    """Asserts that it is not root, has no capabilities and cannot write to its root file system."""
    assert (await run("docker", "exec", container.id, "id", "-u")).strip() != "0"
    host = (await inspect(container))["HostConfig"]
    assert host["ReadonlyRootfs"]
    assert host["CapDrop"] == ["ALL"]
    assert host["SecurityOpt"] == ["no-new-privileges:true"]
    with pytest.raises(EngineError, match="Read-only file system"):
        await run("docker", "exec", "--user", "0", container.id, "touch", "/written")
