"""Who may know where whom is, and how exactly. Pure: the one place that decides it, for events, lists and the log of views.

A place is shown to a viewer if the two are friends (which the directory says), both share, and what the owner decided about
the viewer, or else the owner's default, is more than HIDDEN. A decision that has run out is HIDDEN.
"""

from services.ports.privacy_store import GrantRow, Precision, PrivacyRow


def precision_of(grant: GrantRow | None, default: Precision, now_ms: int) -> Precision:
    """How exactly a viewer with this grant (None: there is none) may know a place."""
    if grant is None:
        return default
    return Precision.HIDDEN if has_run_out(grant, now_ms) else grant.precision


def seen_by(owner: PrivacyRow, viewer: PrivacyRow, grant: GrantRow | None, now_ms: int) -> Precision:
    """How exactly the viewer, a friend, may know where the owner is."""
    if not owner.shares_location or not viewer.shares_location:
        return Precision.HIDDEN
    return precision_of(grant, owner.default_precision, now_ms)


def has_run_out(grant: GrantRow, now_ms: int) -> bool:
    """Whether the grant's time is over."""
    return bool(grant.expires_ms) and grant.expires_ms <= now_ms


def is_close(grant: GrantRow | None, now_ms: int) -> bool:
    """Whether the owner has decided that this viewer may know something."""
    return grant is not None and precision_of(grant, Precision.HIDDEN, now_ms) is not Precision.HIDDEN
