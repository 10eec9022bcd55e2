"""The measurement of calls through pyvoy tells the threads apart."""

import pytest

from bench.errors import BenchError
from bench.pyvoy_calls import main, parse
from tests.required_programs import need


def test_a_quick_run_shows_which_threads_take_part(capsys: pytest.CaptureFixture[str]) -> None:
    need("h2load")
    main(["--quick", "--markdown"])
    output = capsys.readouterr().out
    lines = [line.strip("| ").split(" | ") for line in output.splitlines() if line.startswith("| ")]
    calls = [cells for cells in lines if cells[1] in {"direct", "socket", "pyvoy"}]
    loop_switches = {tuple(cells[:3]): float(cells[-1]) for cells in calls}
    for load in ("1 x 1", "4 x 32"):
        for body in ("none", "344 bytes"):
            assert loop_switches[load, "direct", body] == 0
            assert loop_switches[load, "pyvoy", body] > 0
            assert loop_switches[load, "socket", body] > 0
    assert [cells[0] for cells in lines][-4:] == [
        "the coroutine alone",
        "in a task",
        "with a done callback",
        "with a context variable",
    ]


def test_too_few_calls_are_refused() -> None:
    with pytest.raises(BenchError, match="--calls at least 1000"):
        parse(["--calls", "999"])
