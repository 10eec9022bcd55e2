"""The service without anything that observes its decisions, to find what metrics and top users cost.

It takes the options of `python -m ratelimitd`.
"""

from typing import Any

from ratelimitd import app, decider
from ratelimitd.__main__ import main
from ratelimitd.asgi import application
from ratelimitd.core.decide import Decider


def _without_observers(**parts: Any) -> Decider:
    return Decider(**(parts | {"observers": ()}))


__all__ = ["application"]

vars(decider)["Decider"] = _without_observers

if __name__ == "__main__":
    app.HOSTED = "bench.unobserved:application"
    main()
