"""Limits and times of the directory, with their defaults."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class DirectorySettings:
    """All times in seconds unless a name says otherwise."""

    access_ttl_s: int = 24 * 3600
    refresh_ttl_s: int = 30 * 24 * 3600
    # Sessions that one user may have at a time; the least recently refreshed goes first.
    sessions_most: int = 100

    # Attempts at a user's password that are looked at within the window, wrong ones only.
    wrong_passwords_most: int = 10
    wrong_passwords_window_s: float = 15 * 60
    # Users whose wrong passwords are remembered at a time.
    wrong_passwords_users: int = 100_000

    # Argon2id: passes, memory and lanes of one hash; threads that hash; requests that hash or wait to.
    hash_passes: int = 2
    hash_memory_kib: int = 19 * 1024
    hash_lanes: int = 1
    hash_threads: int = 2
    hash_waiting_most: int = 64

    members_most: int = 100
    # Friends and open requests of one user together; also the most that ListFriendIds answers.
    friends_most: int = 10_000
    page_size: int = 50

    # How long the answer to a request id is kept, and an expired session so that it can still be called expired.
    answers_kept_s: int = 48 * 3600
    expired_sessions_kept_s: int = 7 * 24 * 3600
    prune_interval_s: float = 600.0
    prune_batch: int = 500

    # A change is announced within this time or, if the bus is away, once it is back.
    announce_timeout_s: float = 1.0
    announce_retry_s: float = 1.0
    announcements_most: int = 10_000
