--[[ Records a revision of the policy, unless the caller's view is out of date. The clock is TIME.

A commit also writes its text to the config key, which must still have the value that the caller read. An
adoption records a direct write or deletion of the config key and leaves the key unchanged. Repeating an adoption
has no effect.

KEYS  1  the config key: the text in force
      2  {CONFIG_KEY}:revisions, a hash:
           head    number of the newest revision; absent: 0
           stored  sha1hex of the config key's value after the newest revision; '' or absent: no key
           NUMBER  JSON of each of the last 100: number, at_us, sha256, author, note, text
      3  {CONFIG_KEY}:lost, JSON of the policy that replicas run since the store was emptied: number, noticed_us, text
ARGV  1  number of the newest revision that the caller knows; '' skips this check
      2  state of the config key that the caller read: sha1hex of its value, '' absent, 'WRONGTYPE' not a string
      3  channel to publish the new number on
      4  the revision's JSON from sha256 on, with the closing brace
      5  the text to write to the config key; absent: an adoption
RETURN      1 recorded, 0 not recorded; number of the newest revision; its JSON, or '' if it is not kept. A repeated
            adoption returns 1 and the newest revision
INVARIANT   numbers increase by one, also from that of a lost policy, which is removed; at most 100 revisions are
            kept; `stored` reveals direct writes; all or nothing is written, before Redis 7 only if no ACL forbids a
            part of it
COMPLEXITY  O(bytes of the old and the new text)
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

-- Replicas report the number that they run, so that of the next revision must be higher.
local function lost_number()
  local lost = redis.pcall('GET', KEYS[3])
  local decoded, policy = pcall(cjson.decode, type(lost) == 'string' and lost)
  return decoded and type(policy) == 'table' and tonumber(policy.number) or 0
end

local known, seen, channel, rest, text = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local kept = redis.call('HMGET', KEYS[2], 'head', 'stored')
local head, stored = tonumber(kept[1] or lost_number()), kept[2] or ''
if not head then return redis.error_reply('ERR the head of the revisions is not a number') end

local function newest(recorded)
  return {recorded, head, redis.call('HGET', KEYS[2], format('%.0f', head)) or ''}
end

if known ~= '' and tonumber(known) ~= head then return newest(0) end
if sha1_at_config() ~= seen then return newest(0) end
if not text and stored == seen then return newest(1) end

-- %.0f never prints a number as 1e+15. The caller encodes the other fields, because cjson knows only doubles.
local number, time = format('%.0f', head + 1), redis.call('TIME')
local now = format('%.0f', time[1] * MICRO + time[2])
local revision = '{"number":' .. number .. ',"at_us":' .. now .. ',' .. rest

local writes = {
  {'HSET', KEYS[2], number, revision, 'head', number, 'stored', text and redis.sha1hex(text) or seen},
  {'HDEL', KEYS[2], format('%.0f', head + 1 - KEPT)},
  {'UNLINK', KEYS[3]},
}
if text then writes[#writes + 1] = {'SET', KEYS[1], text} end

-- A refused call keeps what the calls before it wrote. Redis before version 7 cannot check permissions in a script.
for _, write in ipairs(redis.acl_check_cmd and writes or {}) do
  if not redis.acl_check_cmd(unpack(write)) then
    return redis.error_reply('NOPERM this user has no permissions to run ' .. write[1] .. ' on ' .. write[2])
  end
end

for _, write in ipairs(writes) do redis.call(unpack(write)) end
-- If an ACL forbids PUBLISH, replicas find the change by polling.
redis.pcall('PUBLISH', channel, number)
return {1, head + 1, revision}
