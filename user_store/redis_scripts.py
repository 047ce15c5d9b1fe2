"""Lua for what must happen at once in Redis: append with idempotency, compare-and-set, withdrawal, deletion.

All keys of one script carry one person's hash tag, so that every script also runs on a cluster. Fields of the state
hash and of the index hash are named in `docs/store.md`. Scripts return arrays only, which RESP2 and RESP3 agree on.
"""

# The log is a list of body, evidence, body, evidence, …: event number seq lies at 2 seq - 2. (A stream would set 4 KiB
# aside for everyone's first event.) An entry is {seq, body, evidence or late evidence, is_withdrawn}.
_ENTRY = """
local function entry(seq, body, evidence, index, late)
    if evidence == '' then evidence = redis.call('HGET', late, seq) or '' end
    return {seq, body, evidence, redis.call('HEXISTS', index, 'w:' .. seq)}
end
local function entry_of(id, log, index, late)
    local seq = tonumber(redis.call('HGET', index, 'i:' .. id))
    if not seq then return {} end
    local raw = redis.call('LRANGE', log, 2 * seq - 2, 2 * seq - 1)
    return entry(seq, raw[1], raw[2], index, late)
end
"""

# KEYS state log index pending; ARGV epoch, then id, key, subject, created_at, body, evidence, pending, withdrawn each.
APPEND = """
local state, log, index, pending = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
if redis.call('HSETNX', state, 'epoch', ARGV[1]) == 1 then
    redis.call('HSETNX', state, 'created', ARGV[5])
end
local epoch = redis.call('HGET', state, 'epoch')
local seq = tonumber(redis.call('HGET', state, 'seq') or '0')
local rev = tonumber(redis.call('HGET', state, 'rev') or '0')
local receipts = {}
for i = 2, #ARGV, 8 do
    local id, key, subject, pends, withdrawn = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 6], ARGV[i + 7]
    local known = redis.call('HEXISTS', index, 'i:' .. id) == 1 and id
    if not known and key ~= '' then known = redis.call('HGET', index, 'k:' .. key) end
    if not known then
        seq = seq + 1
        redis.call('RPUSH', log, ARGV[i + 4], ARGV[i + 5])
        redis.call('HSET', index, 'i:' .. id, seq)
        if key ~= '' then redis.call('HSET', index, 'k:' .. key, id) end
        if subject ~= '' and redis.call('HSET', index, 's:' .. subject, seq) == 0 then rev = rev + 1 end
        if pends == '1' then redis.call('HSET', pending, id, seq) end
        if withdrawn == '1' then redis.call('HSET', index, 'w:' .. seq, '1') end
    end
    receipts[#receipts + 1] = {known or id, known and 1 or 0, epoch, seq, rev}
end
redis.call('HSET', state, 'seq', seq, 'rev', rev)
return receipts
"""

# KEYS log index late; ARGV last seq already seen, count.
READ_LOG = (
    _ENTRY
    + """
local entries = {}
local after, count = tonumber(ARGV[1]), tonumber(ARGV[2])
local raw = redis.call('LRANGE', KEYS[1], 2 * after, 2 * (after + count) - 1)
for i = 1, #raw, 2 do
    entries[#entries + 1] = entry(after + (i + 1) / 2, raw[i], raw[i + 1], KEYS[2], KEYS[3])
end
return entries
"""
)

# KEYS log index late; ARGV id. An empty array when there is none.
READ_EVENT = _ENTRY + "return entry_of(ARGV[1], KEYS[1], KEYS[2], KEYS[3])"

# KEYS log index late pending.
READ_PENDING = (
    _ENTRY
    + """
local entries = {}
for _, id in ipairs(redis.call('HKEYS', KEYS[4])) do
    entries[#entries + 1] = entry_of(id, KEYS[1], KEYS[2], KEYS[3])
end
return entries
"""
)

# KEYS state log index late pending; ARGV id.
WITHDRAW = (
    _ENTRY
    + """
local seq = redis.call('HGET', KEYS[3], 'i:' .. ARGV[1])
if not seq then return {} end
if redis.call('HSETNX', KEYS[3], 'w:' .. seq, '1') == 1 then
    redis.call('HINCRBY', KEYS[1], 'rev', 1)
    redis.call('HDEL', KEYS[5], ARGV[1])
end
return entry_of(ARGV[1], KEYS[2], KEYS[3], KEYS[4])
"""
)

# KEYS state index late pending; ARGV id, evidence. {-1}: no such event, {0}: not pending, {1}: attached.
ATTACH = """
local seq = redis.call('HGET', KEYS[2], 'i:' .. ARGV[1])
if not seq then return {-1} end
if redis.call('HDEL', KEYS[4], ARGV[1]) == 0 then return {0} end
redis.call('HSET', KEYS[3], seq, ARGV[2])
redis.call('HINCRBY', KEYS[1], 'rev', 1)
return {1}
"""

# KEYS state; ARGV expected version, expected epoch ('' = unknown), new epoch, arrays, population, seq, rev, time.
PUT_POSTERIOR = """
local epoch = redis.call('HGET', KEYS[1], 'epoch') or ''
local version = tonumber(redis.call('HGET', KEYS[1], 'post_v') or '0')
if epoch ~= ARGV[2] then return {0, 0} end
if version ~= tonumber(ARGV[1]) then return {0, version} end
if epoch == '' then redis.call('HSET', KEYS[1], 'epoch', ARGV[3], 'created', ARGV[8]) end
redis.call('HSET', KEYS[1], 'post', ARGV[4], 'post_v', version + 1, 'post_pop', ARGV[5],
    'post_seq', ARGV[6], 'post_rev', ARGV[7], 'post_at', ARGV[8])
return {1, version + 1}
"""

# KEYS state; ARGV expected version, new epoch, created_at, profile.
PUT_PROFILE = """
local version = tonumber(redis.call('HGET', KEYS[1], 'profile_v') or '0')
if version ~= tonumber(ARGV[1]) then return {0, version} end
if redis.call('HSETNX', KEYS[1], 'epoch', ARGV[2]) == 1 then redis.call('HSET', KEYS[1], 'created', ARGV[3]) end
redis.call('HSET', KEYS[1], 'profile', ARGV[4], 'profile_v', version + 1)
return {1, version + 1}
"""

# KEYS completions; ARGV id, time when even the tombstone goes, now, milliseconds until then.
INDEX_COMPLETION = """
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', ARGV[3])
redis.call('ZADD', KEYS[1], ARGV[2], ARGV[1])
if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[4]) then redis.call('PEXPIRE', KEYS[1], ARGV[4]) end
return {1}
"""

# KEYS data tombstone; ARGV '1' to keep what is there, body, features, ms to live, ms of the tombstone, expires_at.
PUT_COMPLETION = """
if ARGV[1] == '1' and redis.call('EXISTS', KEYS[1]) == 1 then return {0} end
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], 'body', ARGV[2], 'features', ARGV[3])
redis.call('PEXPIRE', KEYS[1], ARGV[4])
redis.call('SET', KEYS[2], ARGV[6], 'PX', ARGV[5])
return {1}
"""

# KEYS data tombstone.
READ_COMPLETION = """
local data = redis.call('HMGET', KEYS[1], 'body', 'features')
return {data[1] or '', data[2] or '', redis.call('GET', KEYS[2]) or ''}
"""

# KEYS index completions.
OWNED = """
local events = {}
for _, field in ipairs(redis.call('HKEYS', KEYS[1])) do
    if string.sub(field, 1, 2) == 'i:' then events[#events + 1] = string.sub(field, 3) end
end
return {events, redis.call('ZRANGE', KEYS[2], 0, -1)}
"""

# KEYS state log index late pending completions. Counts, then what `OWNED` returns.
DROP = """
local events = {}
for _, field in ipairs(redis.call('HKEYS', KEYS[3])) do
    if string.sub(field, 1, 2) == 'i:' then events[#events + 1] = string.sub(field, 3) end
end
local found = {redis.call('LLEN', KEYS[2]) / 2, redis.call('HEXISTS', KEYS[1], 'post'),
    redis.call('HEXISTS', KEYS[1], 'profile'), events, redis.call('ZRANGE', KEYS[6], 0, -1)}
redis.call('DEL', unpack(KEYS))
return found
"""
