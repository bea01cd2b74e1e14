-- A bucket of class R: `rates/bucket.rs` is the specification, and runs the same calls. All of one call, or nothing.
--
-- KEYS[1]  the bucket: a hash of
--            i  the incarnation it was made in        l  its level, in units of 1/D        t  the instant of the level
--            d  D                                     and for each lease its id: "units:spent:expires"
-- ARGV     now in microseconds, or 0 for the server's clock
--          lease time, time to live after this call (0: for ever), in microseconds
--          U and D: the bucket refills by U in a microsecond, in units of 1/D        burst in whole units
--          lease id, units wished for
--          n, then n times: an incarnation that is known, and for how many microseconds at least
--          n, then n times: lease id, spent of it so far
--          n, then n times: lease id of one that ends, spent of it
-- Answers  units lent, level, outstanding, microseconds until there is one unit more        or: "unknown", the present incarnation
--
-- Numbers are doubles: exact up to 2^53, and the caller sends no rate whose burst in units of 1/D is larger.

local at = 0
local function word() at = at + 1; return ARGV[at] end
local function number() return tonumber(word()) end
local function digits(n) return string.format('%.0f', n) end

local now = number()
if now == 0 then
  local time = redis.call('TIME')
  now = time[1] * 1000000 + time[2]
end
local lease_time, ttl = number(), number()
local refill, unit, burst = number(), number(), number()
local lease, want = word(), number()

-- Another than the stored one may have forgotten something.
local incarnation = string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)')
local age
for _ = 1, number() do
  local known, since = word(), number()
  if known == incarnation then age = since end
end
if not age then return { 'unknown', incarnation } end

local key = KEYS[1]
local stored = redis.call('HGETALL', key)
local level, last, leases, outstanding = 0, now - age + lease_time, {}, 0
local fields = {}
for i = 1, #stored, 2 do fields[stored[i]] = stored[i + 1] end
local gone = {}
if fields.i == incarnation then
  level, last = tonumber(fields.l), tonumber(fields.t)
  local former = tonumber(fields.d)
  if former ~= unit then level = math.floor(level / former) * unit end
  fields.i, fields.l, fields.t, fields.d = nil, nil, nil, nil
  for id, text in pairs(fields) do
    local units, spent, expires = string.match(text, '(%d+):(%d+):(%d+)')
    local held = { id = id, units = tonumber(units), spent = tonumber(spent), expires = tonumber(expires) }
    leases[id] = held
    outstanding = outstanding + held.units - held.spent
  end
elseif next(fields) then
  redis.call('DEL', key)
end

local changed = {}
local function room() return math.max(0, (burst - outstanding) * unit) end
local function refill_to(instant)
  level = math.min(room(), level + math.max(0, instant - last) * refill)
  last = math.max(last, instant)
end
local function tell(id, spent)
  local held = leases[id]
  if held and spent > held.spent then
    spent = math.min(spent, held.units)
    outstanding = outstanding - (spent - held.spent)
    held.spent = spent
    changed[id] = held
  end
end

for _ = 1, number() do tell(word(), number()) end

local dying = {}
for _, held in pairs(leases) do
  if held.expires <= now then dying[#dying + 1] = held end
end
table.sort(dying, function(a, b) return a.expires < b.expires or (a.expires == b.expires and a.id < b.id) end)
for _, held in ipairs(dying) do
  refill_to(held.expires)
  outstanding = outstanding - (held.units - held.spent)
  leases[held.id] = nil
  gone[#gone + 1] = held.id
end
refill_to(now)

for _ = 1, number() do
  local id, spent = word(), number()
  tell(id, spent)
  local held = leases[id]
  if held then
    local rest = held.units - held.spent
    outstanding = outstanding - rest
    level = math.min(room(), level + rest * unit)
    leases[id] = nil
    gone[#gone + 1] = id
  end
end

local granted = 0
if leases[lease] then
  granted = leases[lease].units
elseif want > 0 then
  granted = math.min(want, math.floor(level / unit))
  if granted > 0 then
    level = level - granted * unit
    outstanding = outstanding + granted
    leases[lease] = { id = lease, units = granted, spent = 0, expires = now + lease_time }
    changed[lease] = leases[lease]
  end
end

for _, id in ipairs(gone) do
  changed[id] = nil
  redis.call('HDEL', key, id)
end
local write = { 'HSET', key, 'i', incarnation, 'l', digits(level), 't', digits(last), 'd', digits(unit) }
for id, held in pairs(changed) do
  write[#write + 1] = id
  write[#write + 1] = digits(held.units) .. ':' .. digits(held.spent) .. ':' .. digits(held.expires)
end
redis.call(unpack(write))
if ttl > 0 then redis.call('PEXPIRE', key, math.ceil(ttl / 1000)) end

local next_in = 0
if level < burst * unit then
  if level < room() then
    next_in = math.ceil((unit - level % unit) / refill) + math.max(0, last - now)
  else
    -- All of it is lent: the first lease that ends makes room.
    for _, held in pairs(leases) do
      local ends = held.expires - now
      if next_in == 0 or ends < next_in then next_in = ends end
    end
  end
end
return { digits(granted), digits(math.floor(level / unit)), digits(outstanding), digits(next_in) }
