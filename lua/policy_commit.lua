--[[ Records a revision of the policy on top of what was seen, or nothing. The clock is this server's TIME.

A commit writes the text too, over whatever stands there, as long as it is what the caller saw. An adoption
records what somebody else wrote or deleted, and leaves it as it is; done once, it is not done again.

KEYS  1  C, the text in force
      2  {C}:revisions, a hash:
           head    number of the newest revision; absent: 0
           stored  sha1hex of C's value as the newest revision left it; '' or absent: there was no key
           NUMBER  JSON of each of the last 100: number, at_us, sha256, author, note, text
ARGV  1  number of the newest revision that the caller knows; '' to build on whichever it is
      2  what the caller saw at C: sha1hex of its value, '' no key, 'WRONGTYPE' no string
      3  channel, told the new number
      4  the revision's JSON from sha256 on, with the closing brace
      5  the text to write at C; absent: an adoption
RETURN      1 recorded, 0 not; number of the newest revision; its JSON, or '' when it is not kept. An adoption
            that found its work done returns 1 and the newest
INVARIANT   numbers go up by one; 100 revisions at most are kept; stored tells a write past us; all or nothing
COMPLEXITY  O(bytes of the old text and of the new one)
]]
local KEPT = 100
local MICRO = 1000000
local format = string.format

local function sha1_at_config()
  local kind = redis.call('TYPE', KEYS[1]).ok
  if kind == 'none' then return '' end
  if kind ~= 'string' then return 'WRONGTYPE' end
  return redis.sha1hex(redis.call('GET', KEYS[1]))
end

local known, seen, channel, rest, text = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local kept = redis.call('HMGET', KEYS[2], 'head', 'stored')
local head, stored = tonumber(kept[1] or '0'), kept[2] or ''
if not head then return redis.error_reply('ERR the head of the revisions is no number') end

local function newest(verdict)
  return {verdict, head, redis.call('HGET', KEYS[2], format('%.0f', head)) or ''}
end

if known ~= '' and tonumber(known) ~= head then return newest(0) end
if sha1_at_config() ~= seen then return newest(0) end
if not text and stored == seen then return newest(1) end

-- Numbers are printed with %.0f, never as 1e+15; the caller made the rest, for cjson knows only doubles.
local number, time = format('%.0f', head + 1), redis.call('TIME')
local now = format('%.0f', time[1] * MICRO + time[2])
local revision = '{"number":' .. number .. ',"at_us":' .. now .. ',' .. rest

-- First, because it may be forbidden to this user: then nothing was written. It is sent when the script ends.
redis.call('PUBLISH', channel, number)
redis.call('HSET', KEYS[2], number, revision, 'head', number, 'stored', text and redis.sha1hex(text) or seen)
redis.call('HDEL', KEYS[2], format('%.0f', head + 1 - KEPT))
if text then redis.call('SET', KEYS[1], text) end
return {1, head + 1, revision}
