"""What must happen in one step at the server.

A map is a hash at its key. Each of its fields holds eight bytes, the millisecond of the server's clock at which the field runs
out, and then its value: Redis itself knows times for whole keys only. The key runs out with the longest time that a field got.
"""

import hashlib
import struct
from dataclasses import dataclass
from functools import cached_property

_EXPIRY = struct.Struct(">Q")


@dataclass(frozen=True)
class Script:
    """A script for one key."""

    text: str

    @cached_property
    def digest(self) -> str:
        """By which a server knows it that has run it before."""
        return hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()


_NOW_MS = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
"""

# An expected and a new value each come as a flag, "1" if there is one, and the value. MGET, as GET fails on a map.
COMPARE_AND_SET = Script("""
local present = redis.call('MGET', KEYS[1])[1]
if ARGV[1] == '1' then
    if present ~= ARGV[2] then return 0 end
elseif present then
    return 0
end
if ARGV[3] == '1' then
    redis.call('SET', KEYS[1], ARGV[4], 'PX', ARGV[5])
else
    redis.call('DEL', KEYS[1])
end
return 1
""")

# Field, value, time to live in milliseconds, most fields. Of too many, those go that ran out, or else the one that does so next.
PUT_FIELD = Script(
    _NOW_MS
    + """
local key, field = KEYS[1], ARGV[1]
local expires = now + tonumber(ARGV[3])
if redis.call('TYPE', key).ok ~= 'hash' then redis.call('DEL', key) end
redis.call('HSET', key, field, struct.pack('>I8', expires) .. ARGV[2])
if redis.call('PEXPIRETIME', key) < expires then redis.call('PEXPIREAT', key, expires) end
if redis.call('HLEN', key) <= tonumber(ARGV[4]) then return end
local fields = redis.call('HGETALL', key)
local first, first_expires
for i = 1, #fields, 2 do
    local field_expires = struct.unpack('>I8', fields[i + 1])
    if field_expires <= now then
        redis.call('HDEL', key, fields[i])
    elseif fields[i] ~= field and (not first or field_expires < first_expires) then
        first, first_expires = fields[i], field_expires
    end
end
if redis.call('HLEN', key) > tonumber(ARGV[4]) then redis.call('HDEL', key, first) end
"""
)

# Field, then an expected value as in COMPARE_AND_SET.
DELETE_FIELD = Script(
    _NOW_MS
    + """
if redis.call('TYPE', KEYS[1]).ok ~= 'hash' then return 0 end
local found = redis.call('HGET', KEYS[1], ARGV[1])
if not found or struct.unpack('>I8', found) <= now then return 0 end
if ARGV[2] == '1' and string.sub(found, 9) ~= ARGV[3] then return 0 end
return redis.call('HDEL', KEYS[1], ARGV[1])
"""
)


def live_value(stored: bytes, now_ms: int) -> bytes | None:
    """A field's value as it is stored, or None if it has run out."""
    (expires_ms,) = _EXPIRY.unpack_from(stored)
    return stored[_EXPIRY.size :] if expires_ms > now_ms else None
