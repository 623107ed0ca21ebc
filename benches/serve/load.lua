-- For wrk: a text of its own in each request, in the place of TEXT in the body's file. Arguments after wrk's "--":
-- the body's file, the token, a seed, and after how many texts they begin anew (0 for never). Prints JSON at the end.

local before, after, head, seed, again
local number = 0

function init(args)
  local file = assert(io.open(args[1]))
  local body = file:read("*a")
  file:close()
  local from, to = body:find("TEXT", 1, true)
  before, after = body:sub(1, from - 1), body:sub(to + 1)
  seed, again = args[3] .. " ", tonumber(args[4])
  local length = #before + #seed + 6 + #after
  head = "POST " .. wrk.path .. " HTTP/1.1\r\nhost: " .. wrk.host .. ":" .. wrk.port .. "\r\nauthorization: Bearer "
    .. args[2] .. "\r\ncontent-type: application/json\r\ncontent-length: " .. length .. "\r\n\r\n" .. before .. seed
end

-- The number as letters: digits could be taken for a telephone number and redacted.
local function letters(n)
  local a, b, c, d, e, f = n % 26, math.floor(n / 26), math.floor(n / 676), math.floor(n / 17576), math.floor(n / 456976), math.floor(n / 11881376)
  return string.char(97 + a, 97 + b % 26, 97 + c % 26, 97 + d % 26, 97 + e % 26, 97 + f % 26)
end

function request()
  local text = letters(number)
  number = number + 1
  if number == again then number = 0 end
  return head .. text .. after
end

function done(summary, latency)
  local errors = summary.errors
  print(string.format('{"requests": %d, "seconds": %.3f, "status": %d, "broken": %d, "late": %d, "p50": %.2f, "p99": %.2f}',
    summary.requests, summary.duration / 1e6, errors.status, errors.connect + errors.read + errors.write, errors.timeout,
    latency:percentile(50) / 1e3, latency:percentile(99) / 1e3))
end
