"""The wheel, installed in a new environment with the locked versions, runs the demo."""

import sys
from pathlib import Path

import pytest

from ratelimitd.process.loopback import free_port
from tests.tools.conftest import shell

UV = 'uv=$(command -v uv || echo "$PWD/.tools/bin/uv")'


@pytest.mark.timeout(300)  # it downloads what it installs
def test_the_wheel_with_the_extra_demo_runs_the_demo(tmp_path: Path) -> None:
    built = shell(f"{sys.executable} -m hatchling build -t wheel -d {tmp_path}")
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("*.whl")
    into = f"--quiet --python {tmp_path}/env --constraint requirements/dev.txt"
    installed = shell(f'{UV}; "$uv" venv --quiet {tmp_path}/env; "$uv" pip install {into} \'{wheel}[demo]\'')
    assert installed.returncode == 0, installed.stderr
    # Outside the repository, so that nothing but the wheel can provide the files.
    shown = shell(f"cd {tmp_path}; env/bin/ratelimitd demo --once --port {free_port()}")
    assert shown.returncode == 0, shown.stderr
    assert "\n3 x 200" in shown.stdout
    assert "\n7 x 429" in shown.stdout
