--[[ Takes the cost of each decision from all of its tiers, or from none. The clock is TIME of this server.

Tiers in shadow cannot deny. If the other tiers can pay, the cost is also taken from all tiers in shadow, or from
none of them.

Decisions are made in order; each one sees the effect of those before it. Amounts are whole microtokens, and
times are whole microseconds. A double holds both exactly up to 2^53; WHOLE prints them without an exponent. The
arithmetic is bit for bit that of ratelimitd/core/bucket.py.

KEYS  1..n  per decision, one hash per tier, tiers in shadow last. Decisions may share keys; the keys of one
            decision differ
              tokens  tokens left, a decimal number with up to six places
              last    when they were counted (us since the epoch)
ARGV  1     number of kinds K
      K kinds, each:
              cost       microtokens
              dry_run    1: decide but take nothing; 0: take
              tiers      number of tiers that can deny
              in_shadow  number of tiers in shadow
              then per tier, tiers in shadow last: capacity (tokens), refill_rate (tokens per s)
      then per decision: the number of its kind, starting at 1
RETURN      per decision: 0 denied, -1 denied and the last of one of its tiers is in the future, 1 allowed, 2 allowed
            but denied by its tiers in shadow; then per tier, in the order of its keys: microtokens left. A tier that
            cannot pay and whose last is in the future has as many less as would refill until then.
            At the end, only if keys of another type were replaced by buckets: an array of KEY, TYPE, KEY, TYPE ...
INVARIANT   0 <= tokens <= capacity; a denial, a dry run and a cost of 0 write nothing; last never decreases; a
            key never expires before its bucket is full again
COMPLEXITY  O(keys + tiers of all decisions), independent of the number of users and of past requests
]]
local MICRO = 1000000
local EXPIRY_MARGIN_US = 1000000
local MAX_EXACT = 2 ^ 53
local MAX_WITHHELD = 2 ^ 62
local floor, ceil, min, max, format = math.floor, math.ceil, math.min, math.max, string.format

-- %d takes a third of the time of %.0f, but prints all of these numbers only where it takes 64 bits.
local WHOLE = format('%d', MAX_EXACT) == '9007199254740992' and '%d' or '%.0f'

local time = redis.call('TIME')
local now = time[1] * MICRO + time[2]

local at = 1
local function argument()
  at = at + 1
  return ARGV[at - 1] + 0 -- tonumber would convert the text twice
end

local kinds = {}
for kind = 1, argument() do
  local cost, dry_run, tiers, in_shadow = argument(), argument() == 1, argument(), argument()
  local capacity, refill_rate = {}, {}
  for tier = 1, tiers + in_shadow do
    capacity[tier], refill_rate[tier] = argument() * MICRO, argument()
  end
  kinds[kind] = {
    cost = cost, takes = cost > 0 and not dry_run, tiers = tiers, all = tiers + in_shadow,
    capacity = capacity, refill_rate = refill_rate,
  }
end

-- A bucket that is absent or has invalid fields counts as full: its tokens and last stay nil. So does a key of
-- another type, because an error would fail the decisions of all other users in the call. Every other error does.
local read, tokens, last, other_type = {}, {}, {}, {}
for _, key in ipairs(KEYS) do
  if not read[key] then
    local stored = redis.pcall('HMGET', key, 'tokens', 'last')
    if stored.err then
      if not string.find(stored.err, 'WRONGTYPE', 1, true) then return stored end
      other_type[key] = redis.call('TYPE', key).ok
    end
    local left, since = tonumber(stored[1]), tonumber(stored[2])
    if left and since and left >= 0 and left < MAX_EXACT and since >= 0 and since < MAX_EXACT then
      tokens[key], last[key] = floor(left * MICRO + 0.5), since
    end
    read[key] = true
  end
end

local reply, keys_done = {}, 0
local charged_capacity, charged_refill_rate = {}, {}

-- Takes the cost from all of the tiers `from` to `to` of the next decision, or from none. Takes nothing if
-- `wanted` is false. Appends the microtokens left in each tier to the reply, and returns whether all can pay and
-- whether the last of one is in the future.
local function take(kind, from, to, wanted)
  local capacity, refill_rate, cost = kind.capacity, kind.refill_rate, kind.cost
  local allowed, before, withheld = true, #reply - from + 1, false
  for tier = from, to do
    local key = KEYS[keys_done + tier]
    local level, held = capacity[tier], tokens[key]
    if held then
      local elapsed = now - last[key]
      if elapsed >= 0 then
        level = min(level, held + floor(elapsed * refill_rate[tier]))
      else
        level, withheld = min(level, held), true
        if level < cost then level = level - min(MAX_WITHHELD, -floor(elapsed * refill_rate[tier])) end
      end
    end
    if level < cost then allowed = false end
    reply[before + tier] = level
  end
  if wanted and allowed and kind.takes then
    for tier = from, to do
      local key, level = KEYS[keys_done + tier], reply[before + tier] - cost
      reply[before + tier] = level
      tokens[key], last[key] = level, max(now, last[key] or now)
      charged_capacity[key], charged_refill_rate[key] = capacity[tier], refill_rate[tier]
    end
  end
  return allowed, withheld
end

while at <= #ARGV do
  local kind = kinds[argument()]
  local verdict = #reply + 1
  reply[verdict] = 0
  local allowed, withheld = take(kind, 1, kind.tiers, true)
  local allowed_in_shadow = take(kind, kind.tiers + 1, kind.all, allowed)
  if allowed then
    reply[verdict] = allowed_in_shadow and 1 or 2
  elseif withheld then
    reply[verdict] = -1
  end
  keys_done = keys_done + kind.all
end

-- UNLINK frees a large value in another thread. It comes first: if an ACL forbids it, nothing has been written.
local replaced = {}
for key, type in pairs(other_type) do
  if charged_capacity[key] then
    redis.call('UNLINK', key)
    replaced[#replaced + 1] = key
    replaced[#replaced + 1] = type
  end
end
if #replaced > 0 then reply[#reply + 1] = replaced end

-- Whole tokens are printed as 2, others as 1.500000. A microtoken is the sixth place, so no digit is lost.
for key, capacity in pairs(charged_capacity) do
  local left = tokens[key]
  local full_in_us = last[key] - now + (capacity - left) / charged_refill_rate[key]
  redis.call('HSET', key,
    'tokens', format(left % MICRO == 0 and WHOLE or '%.6f', left / MICRO),
    'last', format(WHOLE, ceil(last[key]))) -- a last that was written by hand may have a fraction
  redis.call('PEXPIRE', key, format(WHOLE, ceil((full_in_us + EXPIRY_MARGIN_US) / 1000)))
end

return reply
