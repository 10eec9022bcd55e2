"""From a changed form or text to a revision: first what it would change, then, on a second press, the change.

Each step carries the number of the revision that it began with, so nobody overwrites what he has not seen.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus

from starlette.responses import Response

from ratelimitd.admin.in_time import in_time
from ratelimitd.admin.panel.diff import diff_lines
from ratelimitd.admin.panel.endpoint import Call, Panel, sentence
from ratelimitd.admin.panel.form_fields import MAX_NOTE, note_of, number_of, text_of
from ratelimitd.admin.panel.lines import placed
from ratelimitd.admin.panel.overview import limits_page
from ratelimitd.admin.panel.rendering import plural
from ratelimitd.admin.panel.tier_form import with_numbers
from ratelimitd.errors import ConflictError, PolicyError, Problem, StoreError, UnknownRevisionError, WaitError
from ratelimitd.policy.validation import validate
from ratelimitd.rollout.revision import Revision

WAIT_S = 2.0
"""How long the page after a change waits until every replica runs it: as a rule they take milliseconds."""


@dataclass(frozen=True, slots=True)
class Draft:
    """A text on its way, and the number of the revision that its author began with."""

    text: str
    expected: int
    note: str = ""


async def editor(panel: Panel, call: Call) -> Response:
    """The text in force, or that of another revision, to be edited."""
    current = await panel.control.current()
    start = current.revision
    if "from" in call.sent:
        start = await panel.control.revision(number_of(call.sent["from"]))
    draft = Draft(start.text, current.revision.number)
    return _editor_page(call, draft, (), start=start.number, refused=current.refused)


async def compare_limits(panel: Panel, call: Call) -> Response:
    """What the form's numbers would change."""
    expected = number_of(call.sent.get("expected", ""))
    base = await panel.control.revision(expected)
    try:
        text = with_numbers(base.text, call.sent)
    except PolicyError as error:
        return await limits_page(panel, call, base, error.problems)
    return await _compare(panel, call, Draft(text, expected))


async def compare_text(panel: Panel, call: Call) -> Response:
    """What the text would change; or the text again, to be edited further."""
    draft = _draft(call)
    if "again" in call.sent:
        return _editor_page(call, draft, validate(draft.text).problems)
    try:
        return await in_time(_compare(panel, call, draft))
    except StoreError as error:
        return _editor_page(call, draft, (), away=sentence(str(error)))


async def check(_: Panel, call: Call) -> Response:
    """What is wrong with a text that is being edited, as a part of a page."""
    text = text_of(call.sent)
    reading = validate(text)
    return call.page(
        "check.html", problems=placed(text, reading.problems), advice=placed(text, reading.advice)
    )


async def apply(panel: Panel, call: Call) -> Response:
    """Makes the text the policy in force."""
    draft = _draft(call)
    try:
        applied = await in_time(
            panel.control.apply(
                draft.text, author=call.visitor.author, note=draft.note, expected=draft.expected
            )
        )
    except PolicyError as error:
        return _editor_page(call, draft, error.problems)
    except ConflictError as error:
        return await _conflict(panel, call, draft, str(error))
    except StoreError as error:
        away = (
            f"{sentence(str(error))} Whether your text was accepted is not known: look at the history first."
        )
        return _editor_page(call, draft, (), away=away)
    return await in_force(panel, call, applied.revision)


async def in_force(panel: Panel, call: Call, revision: Revision) -> Response:
    """The answer to a change that was made, once every replica runs it or WAIT_S is over."""
    number = revision.number
    try:
        status = await panel.control.wait(number, WAIT_S)
    except (WaitError, StoreError):
        text = f"Revision {number} is accepted, but after {WAIT_S:g} s not every replica runs it yet."
        return call.then("/admin/replicas", text, "warn")
    running = len(status.replicas)
    if not running:
        return call.then("/admin", f"Revision {number} is accepted. No replica is running.", "warn")
    return call.then("/admin", f"Revision {number} is in force on {plural(running, 'replica')}.")


def _draft(call: Call) -> Draft:
    return Draft(text_of(call.sent), number_of(call.sent.get("expected", "")), note_of(call.sent))


def _editor_page(
    call: Call,
    draft: Draft,
    problems: Sequence[Problem],
    *,
    start: int | None = None,
    refused: Sequence[Problem] = (),
    away: str = "",
) -> Response:
    status = HTTPStatus.SERVICE_UNAVAILABLE if away else HTTPStatus.OK
    return call.page(
        "edit.html",
        status=HTTPStatus.UNPROCESSABLE_ENTITY if problems else status,
        draft=draft,
        problems=placed(draft.text, problems),
        advice=(),
        start=start,
        refused=refused,
        away=away,
    )


async def _compare(panel: Panel, call: Call, draft: Draft) -> Response:
    reading = validate(draft.text)
    if reading.problems:
        return _editor_page(call, draft, reading.problems)
    current = (await panel.control.current()).revision
    if current.number != draft.expected:
        return await _conflict(panel, call, draft, "")
    return call.page(
        "compare.html",
        draft=draft,
        advice=reading.advice,
        lines=diff_lines(await panel.control.diff(draft.text)),
        same=draft.text == current.text,
        max_note=MAX_NOTE,
    )


async def _conflict(panel: Panel, call: Call, draft: Draft, reason: str) -> Response:
    newest = (await panel.control.current()).revision
    try:
        theirs = await panel.control.diff(newest.text, draft.expected)
        yours = await panel.control.diff(draft.text, draft.expected)
    except (UnknownRevisionError, PolicyError):  # it is not kept, or not readable any more
        theirs = yours = ""
    return call.page(
        "conflict.html",
        status=HTTPStatus.CONFLICT,
        draft=draft,
        newest=newest,
        reason=sentence(reason) if reason and newest.number == draft.expected else "",
        theirs=diff_lines(theirs),
        yours=diff_lines(yours),
    )
