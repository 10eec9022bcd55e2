from ratelimitd.core.decision import Decision
from ratelimitd.core.model import Identity, Request, Verdict
from ratelimitd.rollout.shadow_counts import MAX_NAMES, ShadowCounts
from ratelimitd.telemetry.label_names import OTHER


def decision(shadow: str | None, *, dry_run: bool = False) -> Decision:
    request = Request("GET", "/", "host", {}, "203.0.113.9", {})
    return Decision(
        Verdict.ALLOWED, request, Identity("header", "u"), "", None, shadow=shadow, dry_run=dry_run
    )


def test_totals_continue_after_the_counts_were_taken() -> None:
    shadow = ShadowCounts()
    for path in ("tiers.user", None, "overrides.users.alice", "overrides.users.a.b"):
        shadow.decided(decision(path))
        shadow.decided(decision(path, dry_run=True))
    assert shadow.counts == {"tiers.user": 1, "overrides.users.alice": 1, "overrides.users.a.b": 1}
    shadow.counts.clear()
    shadow.decided(decision("tiers.user"))
    assert shadow.totals == {"tiers.user": 2, "overrides.users": 2}


def test_totals_have_a_bounded_number_of_names() -> None:
    shadow = ShadowCounts()
    for number in range(MAX_NAMES + 7):
        for _ in range(2):
            shadow.decided(decision(f"routes[{number}]"))
    assert len(shadow.totals) == MAX_NAMES + 1
    assert shadow.totals[OTHER] == 14
