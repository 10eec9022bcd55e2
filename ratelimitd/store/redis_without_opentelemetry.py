"""Imports redis-py without OpenTelemetry. The entry points import this module before anything else.

If the SDK is installed, redis-py imports it for metrics of its own, which ratelimitd does not use: 60
modules, 2 MB and a tenth of a second of each start.
"""

import sys

if "redis" not in sys.modules and "opentelemetry" not in sys.modules:
    # For Python, None marks a module that cannot be imported. redis-py then goes on without it.
    sys.modules["opentelemetry"] = None  # type: ignore[assignment] # typed as a mapping to modules
    try:
        import redis.asyncio  # noqa: F401 - it stays imported
    finally:
        del sys.modules["opentelemetry"]
