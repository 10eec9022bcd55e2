"""The revisions that are kept, and the way back to one: a new revision, so nothing is lost by it."""

from http import HTTPStatus

from starlette.responses import Response

from ratelimitd.admin.panel.diff import DiffLine, diff_lines
from ratelimitd.admin.panel.endpoint import Call, Panel
from ratelimitd.admin.panel.form_fields import MAX_NOTE, note_of, number_of
from ratelimitd.admin.panel.policy_editor import in_force
from ratelimitd.errors import ConflictError, PolicyError, UnknownRevisionError
from ratelimitd.rollout.revision import Revision
from ratelimitd.rollout.revisions import KEPT

SHOWN = 20
"""Revisions on the first page of the history."""


async def newest(panel: Panel, call: Call) -> Response:
    """The newest revisions."""
    limit = KEPT if "all" in call.sent else SHOWN
    revisions = await panel.control.history(limit)
    return call.page("history.html", revisions=revisions, more=len(revisions) == SHOWN, kept=KEPT)


async def one(panel: Panel, call: Call) -> Response:
    """A revision: its text, and what it changed."""
    revision = await _revision(panel, call)
    current = (await panel.control.current()).revision
    return call.page(
        "revision.html", revision=revision, newest=current.number, changed=await _changed(panel, revision)
    )


async def ask_rollback(panel: Panel, call: Call) -> Response:
    """What going back would change, and whether it is meant."""
    return await _rollback_page(panel, call, note="", faster=False)


async def rollback(panel: Panel, call: Call) -> Response:
    """Makes the text of an earlier revision a new one."""
    number, note = number_of(call.request.path_params["number"]), note_of(call.sent)
    expected = number_of(call.sent.get("expected", ""))
    try:
        revision = await panel.control.rollback(
            number, author=call.visitor.author, note=note, expected=expected
        )
    except ConflictError:
        return await _rollback_page(panel, call, note=note, faster=True)
    return await in_force(panel, call, revision)


async def _revision(panel: Panel, call: Call) -> Revision:
    return await panel.control.revision(number_of(call.request.path_params["number"]))


async def _rollback_page(panel: Panel, call: Call, *, note: str, faster: bool) -> Response:
    revision = await _revision(panel, call)
    current = (await panel.control.current()).revision
    return call.page(
        "rollback.html",
        status=HTTPStatus.CONFLICT if faster else HTTPStatus.OK,
        revision=revision,
        current=current,
        lines=diff_lines(await panel.control.diff(revision.text)),
        note=note,
        faster=faster,
        max_note=MAX_NOTE,
    )


async def _changed(panel: Panel, revision: Revision) -> list[DiffLine] | None:
    """What a revision changed; None when the one before is not kept, or not readable any more."""
    try:
        return diff_lines(await panel.control.diff(revision.text, revision.number - 1))
    except (UnknownRevisionError, PolicyError):
        return None
