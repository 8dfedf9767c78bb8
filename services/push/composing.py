"""Makes the wake-up of a push: its words as far as the user lets them be shown, its badge, and ids for the app.

It carries no message. What was read meanwhile is not sent at all.
"""

from services.ports.push_provider import Urgency, WakeUp
from services.ports.push_store import Preview
from services.push.arrivals import Kind
from services.push.jobs import Job
from services.push.names import Names
from services.push.pipeline_settings import PushPolicySettings
from services.push.policy import Plan
from services.push.wording import count_of


class Composer:
    """Asks for names and for what is unread, just before a push is sent."""

    def __init__(self, names: Names, settings: PushPolicySettings) -> None:
        self._names = names
        self._settings = settings

    async def compose(self, job: Job) -> WakeUp | None:
        """The wake-up; None if the user has read it all elsewhere. Without an answer from messaging it has no badge."""
        unread = await job.glance.look()
        plan, messages = job.plan, job.plan.messages
        if unread is not None:
            left = plan.newest.seq - unread.seen.get(plan.conversation_id, 0)
            if left <= 0:
                return None
            messages = min(messages, left)
        title, body = ("", "") if plan.silent else await self._words(plan, job.preview, messages)
        return WakeUp(
            platform=job.token.platform,
            token=job.token.token,
            push_id=job.push_id,
            collapse_id=job.collapse_id,
            urgency=Urgency.HIGH if plan.urgent else Urgency.LOW,
            expires_ms=expires_ms(plan, self._settings),
            title=title,
            body=body,
            badge=unread.total if unread is not None else None,
            data={
                "kind": str(plan.kind),
                "conversation_id": plan.conversation_id,
                "message_id": str(plan.newest.message_id),
                "seq": str(plan.newest.seq),
                "pos": str(plan.newest.pos),
                "messages": str(messages),
                "push_id": job.push_id,
                **({} if unread is None else {"badge": str(unread.total)}),
            },
        )

    async def _words(self, plan: Plan, preview: Preview, messages: int) -> tuple[str, str]:
        """Title and body; the body is never empty."""
        newest = plan.newest
        if preview is Preview.NOTHING:
            return "", "Incoming call" if plan.kind is Kind.CALL else count_of(messages)
        sender = await self._names.user(newest.sender_id)
        group = ""
        if newest.conversation_id.startswith("g."):
            group = await self._names.group(newest.conversation_id, plan.user_id)
        return words(plan.kind, sender, group, newest.excerpt if preview is Preview.TEXT else "", messages)


def words(kind: Kind, sender: str, group: str, excerpt: str, messages: int) -> tuple[str, str]:
    """Title and body of a push that may show who wrote, and what if there is an excerpt. Unknown names are left out."""
    title = group or sender
    if kind is Kind.CALL:
        return title, f"Incoming call from {sender}" if group and sender else "Incoming call"
    if messages > 1:
        counted = count_of(messages)
        if kind is Kind.GROUP and group:
            return title, f"{counted} in {group}"
        return title, f"{counted}: {excerpt}" if excerpt else counted
    by = sender if group else ""
    if excerpt:
        return title, f"{by}: {excerpt}" if by else excerpt
    what = "You were mentioned" if kind is Kind.MENTION else "New message"
    return title, f"{what} by {by}" if by and kind is Kind.MENTION else f"{what} from {by}" if by else what


def expires_ms(plan: Plan, settings: PushPolicySettings) -> int:
    """After when (milliseconds since 1970) nobody need be woken up for this any more."""
    lifetime_s = settings.most_age_s
    if plan.kind is Kind.CALL:
        lifetime_s = settings.call_lifetime_s
    elif plan.silent:
        lifetime_s = settings.silent_lifetime_s
    return plan.newest.create_ms + round(lifetime_s * 1000)
