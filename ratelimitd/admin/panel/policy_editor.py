"""Changes of the policy: a form or a text, then a review of what it changes, then the new revision.

Each step carries number and digest of the revision that it started from, so that no change overwrites a
revision that its author has not seen.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus

from starlette.responses import Response

from ratelimitd.admin.deadlines import store_deadline
from ratelimitd.admin.panel.endpoint import Panel, PanelRequest
from ratelimitd.admin.panel.form_fields import expected, note, policy_text, revision_number
from ratelimitd.admin.panel.limits import limits_page
from ratelimitd.admin.panel.lines import placed
from ratelimitd.admin.panel.rendering import diff_lines, sentence
from ratelimitd.admin.panel.tier_form import with_numbers
from ratelimitd.control.answers import CurrentPolicy
from ratelimitd.display import plural
from ratelimitd.errors import ConflictError, PolicyError, Problem, StoreError, UnknownRevisionError, WaitError
from ratelimitd.policy.validation import validate
from ratelimitd.rollout.expected import Expected
from ratelimitd.rollout.revision import MAX_NOTE, Revision


@dataclass(frozen=True, slots=True)
class Draft:
    """A text that is being edited, and the revision that its author started from."""

    text: str
    expected: Expected
    note: str = ""


async def editor(panel: Panel, request: PanelRequest) -> Response:
    """Shows the text in force, or that of another revision, in the editor."""
    current = await panel.control.current()
    start = current.revision
    if "from" in request.fields:
        start = await panel.control.revision(revision_number(request.fields["from"]))
    draft = Draft(start.text, Expected.of(current.revision))
    return _editor_page(request, draft, (), start=start.number, current=current)


async def review_limits(panel: Panel, request: PanelRequest) -> Response:
    """Shows what the numbers in the form of the page Limits would change."""
    started = expected(request.fields)
    base = await panel.control.revision(started.number)
    try:
        text = with_numbers(base.text, request.fields)
    except PolicyError as error:
        return await limits_page(panel, request, base, error.problems)
    return await _review(panel, request, Draft(text, started))


async def review_text(panel: Panel, request: PanelRequest) -> Response:
    """Shows what the text would change, or the editor again when the visitor wants to go on editing."""
    draft = _draft(request)
    if "again" in request.fields:
        return _editor_page(request, draft, validate(draft.text).problems)
    try:
        async with store_deadline(panel.deadlines.call_s):
            return await _review(panel, request, draft)
    except StoreError as error:
        return _editor_page(request, draft, (), outage=sentence(str(error)))


async def check(_: Panel, request: PanelRequest) -> Response:
    """Lists the problems of a text while it is edited, as a fragment of a page."""
    text = policy_text(request.fields)
    result = validate(text)
    return request.render(
        "check.html", problems=placed(text, result.problems), advice=placed(text, result.advice)
    )


async def apply(panel: Panel, request: PanelRequest) -> Response:
    """Puts the text in force."""
    draft = _draft(request)
    try:
        async with store_deadline(panel.deadlines.call_s):
            applied = await panel.control.apply(
                draft.text, author=request.visitor.author, note=draft.note, expected=draft.expected
            )
    except PolicyError as error:
        return _editor_page(request, draft, error.problems)
    except ConflictError as error:
        return await _conflict_page(panel, request, draft, str(error))
    except StoreError as error:
        outage = f"{sentence(str(error))} Your text may have been accepted: check the history first."
        return _editor_page(request, draft, (), outage=outage)
    return await after_change(panel, request, applied.revision)


async def restore(panel: Panel, request: PanelRequest) -> Response:
    """Writes the policy that the replicas run back to a store that was emptied."""
    applied = await panel.control.restore(
        author=request.visitor.author, note="", expected=expected(request.fields)
    )
    return await after_change(panel, request, applied.revision)


async def after_change(panel: Panel, request: PanelRequest, revision: Revision) -> Response:
    """Redirects after an accepted change, once every replica runs it or the time to wait is over."""
    number, wait_s = revision.number, panel.deadlines.replicas_s
    try:
        status = await panel.control.wait(number, wait_s)
    except (WaitError, StoreError):
        text = f"Revision {number} is accepted, but after {wait_s:g} s not every replica runs it yet."
        return request.redirect("/admin/replicas", text, "warn")
    running = sum(not replica.silent for replica in status.replicas)
    if not running:
        return request.redirect(
            "/admin/limits", f"Revision {number} is accepted. No replica is running.", "warn"
        )
    return request.redirect(
        "/admin/limits", f"Revision {number} is in force on {plural(running, 'replica')}."
    )


def _draft(request: PanelRequest) -> Draft:
    fields = request.fields
    return Draft(policy_text(fields), expected(fields), note(fields))


def _editor_page(
    request: PanelRequest,
    draft: Draft,
    problems: Sequence[Problem],
    *,
    start: int | None = None,
    current: CurrentPolicy | None = None,
    outage: str = "",
) -> Response:
    status = HTTPStatus.SERVICE_UNAVAILABLE if outage else HTTPStatus.OK
    return request.render(
        "edit.html",
        status=HTTPStatus.UNPROCESSABLE_ENTITY if problems else status,
        draft=draft,
        problems=placed(draft.text, problems),
        advice=(),
        start=start,
        current=current,
        outage=outage,
    )


async def _review(panel: Panel, request: PanelRequest, draft: Draft) -> Response:
    result = validate(draft.text)
    if result.problems:
        return _editor_page(request, draft, result.problems)
    current = (await panel.control.current()).revision
    if not draft.expected.names(current):
        reason = "another text was written to the store directly since you opened the form"
        return await _conflict_page(panel, request, draft, reason)
    return request.render(
        "review.html",
        draft=draft,
        advice=result.advice,
        lines=diff_lines(await panel.control.diff(draft.text)),
        same=draft.text == current.text,
        max_note=MAX_NOTE,
    )


async def _conflict_page(panel: Panel, request: PanelRequest, draft: Draft, reason: str) -> Response:
    """Shows both changes. `reason` is for a newest revision that has the expected number."""
    newest = (await panel.control.current()).revision
    try:
        theirs = await panel.control.diff(newest.text, draft.expected.number)
        yours = await panel.control.diff(draft.text, draft.expected.number)
    except (UnknownRevisionError, PolicyError):  # the revision was removed, or cannot be read
        theirs = yours = ""
    return request.render(
        "conflict.html",
        status=HTTPStatus.CONFLICT,
        draft=draft,
        newest=newest,
        reason=sentence(reason) if newest.number == draft.expected.number else "",
        theirs=diff_lines(theirs),
        yours=diff_lines(yours),
    )
