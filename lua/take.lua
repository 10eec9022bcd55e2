--[[ Takes each decision's cost from all of its tiers, or from none. The clock is this server's TIME.

Decisions are made in order; each sees what the ones before it took. Amounts are whole microtokens, instants
whole microseconds: a double holds both exactly up to 2^53, so they are printed with %.0f, never as 1e+15.
The arithmetic is that of ratelimitd/core/bucket.py, to the bit.

KEYS  1..n  one hash per bucket, all different:
              tokens  tokens left, in decimal, to the millionth
              last    when they were counted, in us since the epoch
ARGV  1     number of limits; then per limit: capacity (tokens), refill_rate (tokens per s)
      then per decision: cost (microtokens), number of tiers; then per tier: index in KEYS, index of limit
RETURN      per decision: allowed 0|1; then per tier: microtokens left
INVARIANT   0 <= tokens <= capacity; a denial writes nothing; last never goes back; a key expires only once
            its bucket is full again
COMPLEXITY  O(keys + tiers of all decisions), whatever the number of users or the history
]]
local MICRO = 1000000
local EXPIRY_MARGIN_US = 1000000
local MAX_EXACT = 2 ^ 53
local floor, ceil, min, max, format = math.floor, math.ceil, math.min, math.max, string.format

local time = redis.call('TIME')
local now = time[1] * MICRO + time[2]

local at = 1
local function argument()
  at = at + 1
  return tonumber(ARGV[at - 1])
end

local capacity, refill_rate = {}, {}
for limit = 1, argument() do
  capacity[limit] = argument() * MICRO
  refill_rate[limit] = argument()
end

-- A bucket that is absent, or whose numbers are nonsense, is a full one: it stays nil here.
local tokens, last, limit_of = {}, {}, {}
for key = 1, #KEYS do
  local stored = redis.call('HMGET', KEYS[key], 'tokens', 'last')
  local left, since = tonumber(stored[1]), tonumber(stored[2])
  if left and since and left >= 0 and since >= 0 and since < MAX_EXACT then
    tokens[key], last[key] = floor(left * MICRO + 0.5), since
  end
end

local reply = {}
while at <= #ARGV do
  local cost, tiers = argument(), argument()
  local keys, limits, left, allowed = {}, {}, {}, 1
  for tier = 1, tiers do
    local key, limit = argument(), argument()
    local level = capacity[limit]
    if tokens[key] then
      level = min(level, tokens[key] + floor(max(0, now - last[key]) * refill_rate[limit]))
    end
    if level < cost then allowed = 0 end
    keys[tier], limits[tier], left[tier] = key, limit, level
  end
  reply[#reply + 1] = allowed
  for tier = 1, tiers do
    local level = left[tier] - allowed * cost
    if allowed == 1 then
      local key = keys[tier]
      tokens[key], last[key], limit_of[key] = level, max(now, last[key] or now), limits[tier]
    end
    reply[#reply + 1] = level
  end
end

-- Whole tokens are printed as 2, others as 1.500000: six digits lose nothing.
for key, limit in pairs(limit_of) do
  local left = tokens[key]
  local full_in_us = last[key] - now + (capacity[limit] - left) / refill_rate[limit]
  redis.call('HSET', KEYS[key],
    'tokens', format(left % MICRO == 0 and '%.0f' or '%.6f', left / MICRO),
    'last', format('%.0f', last[key]))
  redis.call('PEXPIRE', KEYS[key], format('%.0f', ceil((full_in_us + EXPIRY_MARGIN_US) / 1000)))
end

return reply
