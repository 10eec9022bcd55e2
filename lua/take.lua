--[[ Takes each decision's cost from all of its tiers, or from none. The clock is this server's TIME.

Tiers in shadow cannot deny. When the others could pay, the cost is taken from all of those in shadow, or from
none of those.

Decisions are made in order; each sees what the ones before it took. Amounts are whole microtokens, instants
whole microseconds: a double holds both exactly up to 2^53, so they are printed with %.0f, never as 1e+15.
The arithmetic is that of ratelimitd/core/bucket.py, to the bit.

KEYS  1..n  one hash per bucket, all different:
              tokens  tokens left, in decimal, to the millionth
              last    when they were counted, in us since the epoch
ARGV  1     number of limits; then per limit: capacity (tokens), refill_rate (tokens per s)
      then per decision: cost (microtokens; a negative one is only looked for: nothing is taken), number of
            tiers, number of tiers in shadow; then per tier, those in shadow last: index in KEYS, index of limit
RETURN      per decision: 0 denied, 1 allowed, 2 allowed though its shadow says no; then per tier, in the same
            order: microtokens left
INVARIANT   0 <= tokens <= capacity; a denial writes nothing, and neither does a cost of 0; last never goes
            back; a key expires only once its bucket is full again
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

-- Takes `cost` from the next tiers, all or none, unless `wanted` is false; appends what is left of each.
local function take(tiers, needed, cost, wanted)
  local keys, limits, left, allowed = {}, {}, {}, true
  for tier = 1, tiers do
    local key, limit = argument(), argument()
    local level = capacity[limit]
    if tokens[key] then
      level = min(level, tokens[key] + floor(max(0, now - last[key]) * refill_rate[limit]))
    end
    if level < needed then allowed = false end
    keys[tier], limits[tier], left[tier] = key, limit, level
  end
  for tier = 1, tiers do
    local level = left[tier]
    if wanted and allowed and cost > 0 then
      local key = keys[tier]
      level = level - cost
      tokens[key], last[key], limit_of[key] = level, max(now, last[key] or now), limits[tier]
    end
    reply[#reply + 1] = level
  end
  return allowed
end

while at <= #ARGV do
  local cost, tiers, in_shadow = argument(), argument(), argument()
  local needed = math.abs(cost)
  local verdict = #reply + 1
  reply[verdict] = 0
  local allowed = take(tiers, needed, cost, true)
  local allowed_in_shadow = take(in_shadow, needed, cost, allowed)
  if allowed then reply[verdict] = allowed_in_shadow and 1 or 2 end
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
