"""A user beside the attack: makes one call after the other, and measures how long each takes.

It runs in a process of its own until its input ends. It prints a line when it is connected, and its counts as
JSON.
"""

import json
import os
import sys
import threading
import time

import grpc

from fuzz.contention import Waits, children_of
from ratelimitd.transport._pb.envoy.service.auth.v3.external_auth_pb2 import CheckRequest, CheckResponse
from ratelimitd.transport.ext_authz import SERVICE

PAUSE_S = 0.01
TIMEOUT_S = 60.0
"""So long that only a service that has stopped working fails."""
OVERLOAD = (grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE)
"""The statuses with which a replica refuses calls under overload. Such calls take no tokens."""


class Victim:
    """Makes calls, and keeps their results."""

    def __init__(self, channel: grpc.Channel, user: str) -> None:
        self._request = CheckRequest()
        self._request.attributes.request.http.path = "/api/victim"
        self._request.attributes.request.http.headers["x-user-id"] = user
        self._request.attributes.context_extensions["api"] = "/api/victim"
        self._check = channel.unary_unary(
            f"/{SERVICE}/Check",
            request_serializer=CheckRequest.SerializeToString,
            response_deserializer=CheckResponse.FromString,
        )
        self._processes = children_of(os.getppid())  # the service, the store and this process
        self._allowed = self._refused = 0
        self._failed: list[str] = []
        self._took_s: list[float] = []
        self._own_s: list[float] = []

    def call(self) -> None:
        """Makes one call."""
        before = Waits(self._processes)
        started = time.perf_counter()
        try:
            self._allowed += self._check(self._request, timeout=TIMEOUT_S).status.code == 0
        except grpc.RpcError as error:
            if error.code() in OVERLOAD:
                self._refused += 1
            else:
                self._failed.append(str(error))
        self._took_s.append(time.perf_counter() - started)
        self._own_s.append(self._took_s[-1] - Waits(self._processes).since_s(before))

    def result(self) -> dict[str, object]:
        """Returns the fields of fuzz.outcome.User."""
        took = sorted(self._took_s)
        return {
            "calls": len(took),
            "allowed": self._allowed,
            "refused": self._refused,
            "failed": self._failed[:3],
            "p50_ms": took[len(took) // 2] * 1000,
            "p99_ms": took[len(took) * 99 // 100] * 1000,
            "longest_ms": took[-1] * 1000,
            "stall_ms": max(*self._own_s, 0) * 1000,
        }


def _wait_for_input(ended: threading.Event) -> None:
    sys.stdin.read()
    ended.set()


def main(target: str, user: str) -> None:
    """Calls until the standard input ends."""
    ended = threading.Event()
    threading.Thread(target=_wait_for_input, args=(ended,), daemon=True).start()
    with grpc.insecure_channel(target, options=[("grpc.enable_http_proxy", 0)]) as channel:
        victim = Victim(channel, user)
        victim.call()
        print("connected", flush=True)  # noqa: T201 - the attack waits for it
        while not ended.wait(PAUSE_S):
            victim.call()
    print(json.dumps(victim.result()))  # noqa: T201 - read by fuzz.run


if __name__ == "__main__":
    main(*sys.argv[1:])
