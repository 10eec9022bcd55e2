"""The result of an attack: figures, and the faults that they show."""

from collections import Counter
from dataclasses import dataclass

STALL_MS = 100.0
"""The longest that a service may keep a user waiting by itself."""
REFUSED_SHARE = 0.001
"""The share of the user's calls that may be refused. A machine that is paused for a second causes some."""
GROWTH_BYTES = 64 * 2**20
"""How much the memory of a service may grow after the first tenth of the messages.

The first tenth fills most of its bounded tables. With `grpcio`, memory grew by up to 18 MB more in runs of
half a million messages. In a run of a million, a leak of 75 bytes for each message exceeds this limit.
"""


@dataclass(frozen=True)
class User:
    """What a user beside the attack noticed.

    Args:
        calls: its calls, of which `allowed` were allowed and `refused` were refused as under overload.
        failed: the first calls that ended with another status.
        p50_ms: median duration of a call.
        p99_ms: 99th percentile.
        longest_ms: the longest call.
        stall_ms: the longest call without the time in which threads of the service, of the store or of the
            user, or the virtual machine, waited for a CPU. The rest is what the service itself takes.
    """

    calls: int
    allowed: int
    refused: int
    failed: list[str]
    p50_ms: float
    p99_ms: float
    longest_ms: float
    stall_ms: float


@dataclass(frozen=True)
class Outcome:
    """The figures of an attack over one transport.

    Args:
        transport: its name.
        messages: messages that the service has read, by kind.
        unread: messages that it may not have read, because it closed the connection.
        connections: connections of the attack.
        responses: responses to its calls that ended with trailers, and those over HTTP/1.1.
        stuck: connections on which nothing happened for a long time.
        undecided: checks over HTTP/1.1 that were allowed without a decision.
        took_s: duration of the attack.
        grown_bytes: growth of the service's memory after the first tenth.
        status: exit status of the service, None if it still ran at the end of the attack.
        serving: whether it answered a health check at the end of the attack.
        errors: events of its log that report a defect.
        user: the user beside the attack.
        spent: tokens that the bucket of this user paid.
        untouched: whether the bucket of another user, who made no call, is as it was.
    """

    transport: str
    messages: Counter[str]
    unread: int
    connections: int
    responses: int
    stuck: int
    undecided: int
    took_s: float
    grown_bytes: int
    status: int | None
    serving: bool
    errors: list[str]
    user: User
    spent: int
    untouched: bool

    def faults(self, *, timing: bool) -> list[str]:
        """Returns a sentence for each thing that must not happen.

        `timing`: also for a stall and refused calls, which depend on the machine as well.
        """
        user = self.user
        checks = {
            f"The service ended with status {self.status}.": self.status is not None,
            "The service does not serve.": not self.serving,
            f"The log of the service reports errors: {self.errors}": bool(self.errors),
            f"{self.stuck} connections got no answer.": bool(self.stuck),
            f"{self.undecided} checks were allowed without a decision.": bool(self.undecided),
            f"Calls of the user failed: {user.failed}": bool(user.failed),
            f"The bucket of the user paid {self.spent} tokens for {user.allowed} calls.": self.spent
            != user.allowed,
            "The bucket of a user who made no call has changed.": not self.untouched,
            f"The memory of the service grew by {self.grown_mb:.0f} MB.": self.grown_bytes > GROWTH_BYTES,
            f"The service kept the user waiting for {user.stall_ms:.0f} ms.": timing
            and user.stall_ms > STALL_MS,
            f"{user.refused} calls of the user were refused.": timing
            and user.refused > user.calls * REFUSED_SHARE,
        }
        return [sentence for sentence, failed in checks.items() if failed]

    @property
    def grown_mb(self) -> float:
        """Growth of the memory in MB of 2**20 bytes."""
        return self.grown_bytes / 2**20

    def lines(self) -> list[str]:
        """Returns the figures as lines of text."""
        kinds = ", ".join(f"{kind} {count:,}" for kind, count in self.messages.most_common())
        user = self.user
        attack = f"{self.transport}: {self.messages.total():,} messages over {self.connections:,} connections"
        times = f"p50 {user.p50_ms:.0f} ms, p99 {user.p99_ms:.0f} ms, longest {user.longest_ms:.0f} ms"
        return [
            f"{attack} in {self.took_s:.0f} s; {self.responses:,} responses; {self.unread:,} perhaps unread",
            f"  messages: {kinds}",
            f"  user: {user.calls:,} calls, {user.refused} refused; {times}",
            f"  longest call of the user without waits for a CPU: {user.stall_ms:.0f} ms",
            f"  memory after the first tenth: {self.grown_mb:+.1f} MB",
        ]
