"""Made-up usage, for tests of what shows it."""

import math

from ratelimitd.control.usage_answers import ApiUsage, DecisionTotals, RevisionMark, Usage, UsageStep
from ratelimitd.core.model import MICRO
from ratelimitd.core.tiers import TierName
from ratelimitd.usage.ranges import RESOLUTIONS, UsageRange

NOW_S = 1_795_632_007
HOSTILE = "/api/\x1b[31m\u202e</script>\"'\n<b>"


def usage(over: UsageRange = UsageRange.QUARTER_HOUR, *, apis: int = 3, quiet: bool = False) -> Usage:
    """Returns usage that rises and falls, with a gap and a change of the policy; all zeros if `quiet`."""
    _, _, step_s, _, api_step_s = RESOLUTIONS[over]
    count = over.seconds // step_s
    first_s = NOW_S - NOW_S % step_s - (count - 1) * step_s
    steps = [_step(number, count, first_s + number * step_s, step_s, quiet=quiet) for number in range(count)]
    denied_by = {tier: sum(step.denied_by[tier] for step in steps) for tier in TierName}
    names = ("allowed", "denied", "blocked", "exempt", "undecided", "local", "degraded")
    totals = DecisionTotals(
        **{name: sum(getattr(step, name) for step in steps) for name in names}, denied_by=denied_by
    )
    api_from_s = first_s - first_s % api_step_s
    starts = range(api_from_s, NOW_S + 1, api_step_s)
    return Usage(
        range=over,
        at_us=NOW_S * MICRO + 250_000,
        step_s=step_s,
        steps=steps,
        api_step_s=api_step_s,
        api_from_us=api_from_s * MICRO,
        apis=[] if quiet else [_api(number, len(starts)) for number in range(apis)],
        revisions=[]
        if quiet
        else [
            RevisionMark(
                number=4, at_us=(first_s + count // 2 * step_s) * MICRO, author="alice", note="more </script>"
            )
        ],
        totals=totals,
        cumulative=totals,
        store_p50_s=None if quiet else 0.0004,
        store_p99_s=None if quiet else 0.0021,
    )


def _step(number: int, count: int, at_s: int, step_s: int, *, quiet: bool) -> UsageStep:
    if quiet or number % count == count // 4:
        return UsageStep(at_us=at_s * MICRO)
    wave = 1 + math.sin(number / count * 4 * math.pi)
    by = {TierName.GLOBAL: 0, TierName.USER: int(wave * step_s), TierName.USER_API: int(wave * step_s / 2)}
    return UsageStep(
        at_us=at_s * MICRO,
        complete=number < count - 1,
        allowed=int(20 * wave * step_s),
        denied=sum(by.values()),
        denied_by=by,
        exempt=step_s,
        undecided=step_s * (number % 17 == 0),
        local=int(wave * step_s / 3),
        global_tokens=int((500 - 100 * wave) * MICRO),
        global_capacity=500,
        store_p50_s=0.0004 * wave,
        store_p99_s=0.002 * wave,
        replicas=3,
        revision=3 + (number >= count // 2),
    )


def _api(number: int, steps: int) -> ApiUsage:
    name = HOSTILE if number == 1 else f"/api/{number}/*"
    per_step = [(steps - at) * 10 // (number + 1) for at in range(steps)]
    denied = sum(per_step) // 5
    return ApiUsage(api=name, allowed=sum(per_step) - denied, denied=denied, per_step=per_step)
