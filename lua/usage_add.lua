--[[ Adds counts of a replica to the usage series. Repeating a call has no effect.

The caller chooses the keys by a time of the store's clock that it has just read.

KEYS  1     number of the replica's last addition, a string
      2     names of the day's APIs, a hash: id -> name; `#` is how many there are
      3..n  hashes to add to: usage/layout.py describes them
ARGV  1 number of this addition; 2 how long KEYS[1] is kept, in s; 3 how long KEYS[2] is kept, in s
      4 most names in KEYS[2]; 5 the id for all other APIs; 6 how many APIs follow; for each: its id, its name
      then for each of KEYS[3..n]: how long it is kept, in s; how many fields follow; for each: its two parts,
      the first of which may be the id of an API; and the count to add, or `=` and the text to write
RETURN      '', or the error of the store for the last field that could not be written
INVARIANT   all counts are added once or, if the first write is refused, not at all; a field that has another
            type, or may not be written, keeps no other from being added; KEYS[2] has at most ARGV[4] names
COMPLEXITY  O(fields to add * fields of their hash)
]]
local number, most, other = ARGV[1], tonumber(ARGV[4]), ARGV[5]

if redis.call('GET', KEYS[1]) == number then return '' end
redis.call('SET', KEYS[1], number, 'EX', ARGV[2])

local failure, at = '', 5

local function argument()
  at = at + 1
  return ARGV[at]
end

local function tried(...)
  local reply = redis.pcall(...)
  if type(reply) ~= 'table' or not reply.err then return reply end
  failure = reply.err
end

-- The ids of the APIs that exceed the limit of names. An absent field is false, and one that cannot be read is nil.
local without_room = {}
local apis = tonumber(argument())
local names = apis > 0 and tonumber(tried('HGET', KEYS[2], '#') or 0) or most
for _ = 1, apis do
  local id, name = argument(), argument()
  local known = tried('HGET', KEYS[2], id)
  if known == false and names < most then
    tried('HSET', KEYS[2], id, name)
    names = tried('HINCRBY', KEYS[2], '#', 1) or most
  elseif not known then
    without_room[id] = true
  end
end
if apis > 0 then tried('EXPIRE', KEYS[2], ARGV[3]) end

for key = 3, #KEYS do
  local kept_s, fields = argument(), tonumber(argument())
  for _ = 1, fields do
    local first, second, value = argument(), argument(), argument()
    local field = (without_room[first] and other or first) .. second
    if value:sub(1, 1) == '=' then
      tried('HSET', KEYS[key], field, value:sub(2))
    else
      tried('HINCRBY', KEYS[key], field, value)
    end
  end
  tried('EXPIRE', KEYS[key], kept_s)
end
return failure
