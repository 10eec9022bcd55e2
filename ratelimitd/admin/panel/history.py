"""The page History, and the rollback to one of its revisions, which creates a new revision."""

from http import HTTPStatus

from starlette.responses import Response

from ratelimitd.admin.panel.endpoint import Panel, PanelRequest
from ratelimitd.admin.panel.form_fields import expected, note, revision_number
from ratelimitd.admin.panel.policy_editor import after_change
from ratelimitd.admin.panel.rendering import DiffLine, diff_lines
from ratelimitd.errors import ConflictError, PolicyError, UnknownRevisionError
from ratelimitd.rollout.revision import MAX_NOTE, Revision
from ratelimitd.rollout.revisions import HISTORY_LENGTH, KEPT


async def history(panel: Panel, request: PanelRequest) -> Response:
    """Lists the newest revisions."""
    limit = KEPT if "all" in request.fields else HISTORY_LENGTH
    revisions = await panel.control.history(limit)
    return request.render(
        "history.html", revisions=revisions, more=len(revisions) == HISTORY_LENGTH, kept=KEPT
    )


async def revision_page(panel: Panel, request: PanelRequest) -> Response:
    """Shows a revision: its text, and what it changed."""
    revision = await _revision(panel, request)
    current = (await panel.control.current()).revision
    return request.render(
        "revision.html", revision=revision, newest=current.number, changed=await _changed(panel, revision)
    )


async def confirm_rollback(panel: Panel, request: PanelRequest) -> Response:
    """Shows what a rollback would change, and asks for confirmation."""
    return await _rollback_page(panel, request, typed_note="", conflict=False)


async def rollback(panel: Panel, request: PanelRequest) -> Response:
    """Creates a new revision with the text of an earlier one."""
    number, typed_note = revision_number(request.http.path_params["number"]), note(request.fields)
    try:
        revision = await panel.control.rollback(
            number, author=request.visitor.author, note=typed_note, expected=expected(request.fields)
        )
    except ConflictError:
        return await _rollback_page(panel, request, typed_note=typed_note, conflict=True)
    return await after_change(panel, request, revision)


async def _revision(panel: Panel, request: PanelRequest) -> Revision:
    return await panel.control.revision(revision_number(request.http.path_params["number"]))


async def _rollback_page(panel: Panel, request: PanelRequest, *, typed_note: str, conflict: bool) -> Response:
    revision = await _revision(panel, request)
    current = (await panel.control.current()).revision
    return request.render(
        "rollback.html",
        status=HTTPStatus.CONFLICT if conflict else HTTPStatus.OK,
        revision=revision,
        current=current,
        lines=diff_lines(await panel.control.diff(revision.text)),
        note=typed_note,
        conflict=conflict,
        max_note=MAX_NOTE,
    )


async def _changed(panel: Panel, revision: Revision) -> list[DiffLine] | None:
    """Returns what a revision changed, or None if the one before was removed or cannot be read."""
    try:
        return diff_lines(await panel.control.diff(revision.text, revision.number - 1))
    except (UnknownRevisionError, PolicyError):
        return None
