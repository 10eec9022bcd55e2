"""The forms in which the compose project runs. All publish the same ports, so only one runs at a time."""

from dataclasses import dataclass

import pytest

from tests.containers.engine import CALL_S, EngineError, Project

REPLICAS = 3
UP_S = 600.0
"""Time to build the images and start all containers on a slow machine with a cold cache."""

PATIENT = "tests/containers/patient-health.yml"
FILES = ("docker-compose.yml", "tests/containers/proxy-variables.yml", PATIENT)
"""The second sets proxy variables in every container, as Docker's configuration can. Nothing may use them."""

QUICK = "tests/containers/quick-health.yml"


@dataclass(frozen=True)
class Form:
    """A form: the arguments of `docker compose up`, and the compose files besides FILES."""

    arguments: tuple[str, ...]
    files: tuple[str, ...] = ()


PLAIN = Form(("--scale", f"ratelimitd={REPLICAS}"))
SIDECAR = Form((), ("docker-compose.sidecar.yml",))
TLS = Form(("envoy",), ("docker-compose.tls.yml", QUICK))
SOCKET = Form(("envoy",), ("docker-compose.socket.yml", QUICK))


class Deployment:
    """Runs the project in the form that a test needs."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._form: Form | None = None
        self._used: list[Project] = []
        self._failure = ""

    async def change(self, form: Form) -> Project:
        """Returns the project in a form, with healthy containers. The volumes keep their content."""
        project = Project(self._name, (*FILES, *form.files))
        if form == self._form:
            return project
        if self._failure:  # it would fail again, after minutes
            pytest.fail(self._failure)
        self._form = None
        self._used.append(project)
        # A timeout of 0, because a replica that gets SIGTERM leaves Envoy only after seconds.
        up = ("up", "--detach", "--wait", "--timeout", "0", "--remove-orphans")
        try:
            await project.compose(*up, *form.arguments, timeout_s=UP_S)
        except (EngineError, TimeoutError) as error:
            logs = await project.compose("logs", "--no-color", "--tail", "100")
            self._failure = f"{error}\n{await project.compose('ps', '--all')}\n{logs}"
            pytest.fail(self._failure)
        self._form = form
        return project

    async def remove(self) -> None:
        """Removes the containers, and the volumes and images of each form that was used."""
        down = ("down", "--volumes", "--rmi", "local", "--remove-orphans", "--timeout", "0")
        for project in self._used:  # their files cannot be merged
            await project.compose(*down, timeout_s=2 * CALL_S)
