-- A bucket of class R. `rates/bucket.rs` is the specification; this does the same in the same order, and is compared with it on random calls.
--
-- KEYS[1]  the bucket: a string of
--            40 characters: the incarnation it was made in
--            5 numbers: how many parts a unit has, its level in those, up to when it has refilled, from when on it is as good as absent, how many leases there are
--            for each lease, in the order of their ends: 16 bytes of its id; units, spent, when it ends
-- ARGV     a string of
--            10 numbers: now in microseconds, or 0 for the server's clock
--              for how long units are lent, the longest of all such times, and after how long an idle bucket is as good as absent, in microseconds
--              parts of a unit, parts that a microsecond refills, burst in units, units wished for, how many reports follow, how many returns
--            16 bytes: id of the lease that is wished for
--            for each report, then for each lease that ends: 16 bytes of its id; spent of it so far
--          time to live after this call in milliseconds, or 0 for ever
--          then for each incarnation that is known: its name, and for how many microseconds at least
-- Answers  units lent, level, outstanding, microseconds until there is one unit more        or: "unknown", the present incarnation
--
-- Numbers in strings are of 64 bits, the lowest byte first. Here they are doubles: exact up to 2^53, and no rate comes here that holds more (`RateTerms::are_short_lived`).
-- It runs for every lease of every rate, so it makes no table for a lease, and calls the server as seldom as it can.

local call, pack, unpack = redis.call, struct.pack, struct.unpack
local floor, max, min = math.floor, math.max, math.min
local BUCKET, LEASE, REPORT = '<c40I8I8I8I8I8', '<c16I8I8I8', '<c16I8'

local key, words = KEYS[1], ARGV[1]
local now, lease_time, longest, idle, scale, rate, burst, want, told, returned, lease, place =
  unpack('<I8I8I8I8I8I8I8I8I8I8c16', words)
if now == 0 then
  local time = call('TIME')
  now = time[1] * 1000000 + time[2]
end

local info = call('INFO', 'replication')
local _, before = string.find(info, 'master_replid:', 1, true)
local incarnation = string.sub(info, before + 1, before + 40)
local age
for i = 3, #ARGV, 2 do
  if ARGV[i] == incarnation then age = tonumber(ARGV[i + 1]) end
end
if not age then return { 'unknown', incarnation } end

-- Leases 1 to `count`, in the order of their ends.
local ids, units, spent, ends, count = {}, {}, {}, {}, 0
local level, last, outstanding = 0, max(0, now - age) + longest, 0

local function room() return max(0, burst - outstanding) * scale end
local function refill(instant)
  level = min(level + max(0, instant - last) * rate, room())
  last = max(last, instant)
end
-- Leaves out so many, from one on.
local function leave_out(from, many)
  for i = from, count - many do
    ids[i], units[i], spent[i], ends[i] = ids[i + many], units[i + many], spent[i + many], ends[i + many]
  end
  count = count - many
end
-- The next report, and the place of its lease.
local function note()
  local id, so_far
  id, so_far, place = unpack(REPORT, words, place)
  for i = 1, count do
    if ids[i] == id then
      local more = min(so_far, units[i]) - spent[i]
      if more > 0 then spent[i], outstanding = spent[i] + more, outstanding - more end
      return i
    end
  end
end

-- 1. A bucket that is absent, forgotten, or of another incarnation, begins.
local stored = call('GET', key)
if stored then
  local of, parts, was, refilled, forgotten, lent, at = unpack(BUCKET, stored)
  if of == incarnation and now < forgotten then
    level, last = was, refilled
    -- 2. In the new parts, by way of millionths, rounded down.
    if parts ~= scale then
      local millionths = floor(level % parts * 1000000 / parts)
      level = floor(level / parts) * scale + floor(millionths * scale / 1000000)
    end
    for i = 1, lent do
      ids[i], units[i], spent[i], ends[i], at = unpack(LEASE, stored, at)
      outstanding = outstanding + units[i] - spent[i]
    end
    count = lent
  end
end

-- 3. Leases end in the order of time, with the refill until each end before it.
local dead = 0
while dead < count and ends[dead + 1] <= now do
  dead = dead + 1
  refill(ends[dead])
  outstanding = outstanding - (units[dead] - spent[dead])
end
if dead > 0 then leave_out(1, dead) end
-- 4. And until now.
refill(now)

-- 5. Reports, then returns.
for _ = 1, told do note() end
for _ = 1, returned do
  local i = note()
  if i then
    local rest = units[i] - spent[i]
    leave_out(i, 1)
    outstanding = outstanding - rest
    level = min(level + rest * scale, room())
  end
end

-- 6. What is wished for.
local granted
for i = 1, count do
  if ids[i] == lease then granted = units[i] end
end
if not granted then
  granted = min(want, floor(level / scale))
  if granted > 0 then
    level, outstanding = level - granted * scale, outstanding + granted
    local dies, i = now + lease_time, count
    while i > 0 and ends[i] > dies do
      ids[i + 1], units[i + 1], spent[i + 1], ends[i + 1] = ids[i], units[i], spent[i], ends[i]
      i = i - 1
    end
    ids[i + 1], units[i + 1], spent[i + 1], ends[i + 1] = lease, granted, 0, dies
    count = count + 1
  end
end

stored = pack(BUCKET, incarnation, scale, level, last, last + idle, count)
for i = 1, count do stored = stored .. pack(LEASE, ids[i], units[i], spent[i], ends[i]) end
if ARGV[2] == '0' then
  call('SET', key, stored)
else
  call('SET', key, stored, 'PX', ARGV[2])
end

local whole = floor(level / scale)
local next_in = 0
if (whole + 1) * scale <= room() then
  next_in = max(0, last - now) + math.ceil(((whole + 1) * scale - level) / rate)
else
  -- All of it is lent: the first lease that ends makes room.
  for i = 1, count do
    if spent[i] < units[i] then
      next_in = max(0, ends[i] - now)
      break
    end
  end
end
return { granted, whole, outstanding, next_in }
