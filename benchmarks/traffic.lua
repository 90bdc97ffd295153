-- The traffic of a row: wrk -s traffic.lua URL -- KIND SEED. Names, order and sizes are drawn from the seed.
local letters = "abcdefghijklmnopqrstuvwxyz0123456789"
local kind, host, count = "json", "", 0
local template, fixed = {}, nil

local function word(size)
  local made = {}
  for at = 1, size do
    local index = math.random(#letters)
    made[at] = letters:sub(index, index)
  end
  return table.concat(made)
end

local function shuffled(list)
  for at = #list, 2, -1 do
    local other = math.random(at)
    list[at], list[other] = list[other], list[at]
  end
  return list
end

-- What a browser sends, in some order: the same in each request.
local function browser()
  return shuffled({
    "User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:" .. math.random(100, 140) .. ".0) Gecko/20100101 Firefox/" .. word(5),
    "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
    "Accept-Language: en-GB,en;q=0." .. math.random(9),
    "Accept-Encoding: gzip, deflate, br",
    "Cookie: session=" .. word(math.random(24, 40)),
    "Sec-Fetch-Mode: navigate",
    "X-" .. word(math.random(4, 12)) .. ": " .. word(math.random(8, 30)),
  })
end

-- What a proxy passes on: "%" stands for what is new in each request.
local function proxied()
  return shuffled({
    "User-Agent: " .. word(math.random(40, 90)),
    "Accept: application/json",
    "Accept-Encoding: gzip, deflate, br",
    "Cookie: session=%; theme=" .. word(4),
    "X-Forwarded-For: 203.0.113.&",
    "X-Forwarded-Proto: https",
    "X-Request-Id: %",
    "traceparent: 00-0000000000000000%-00000000000000ff-01",
  })
end

local function order(size)
  local lines = {}
  repeat
    lines[#lines + 1] = string.format('{"article":"%s","quantity":%d,"price":"%d.50"}', word(12), math.random(99), math.random(99))
  until #lines * 52 >= size
  return '{"id":%,"customer":"' .. word(12) .. '","lines":[' .. table.concat(lines, ",") .. "]}"
end

local function post(path, fields, body)
  return "POST " .. path .. " HTTP/1.1\r\nHost: " .. host .. "\r\n" .. fields .. "Content-Length: " .. #body .. "\r\n\r\n" .. body
end

function init(arguments)
  kind = arguments[1] or "json"
  math.randomseed(tonumber(arguments[2] or "1"))
  host = wrk.host .. ":" .. wrk.port
  local json = "GET /json HTTP/1.1\r\nHost: " .. host .. "\r\n"
  if kind == "json" then
    fixed = json .. "\r\n"
  elseif kind == "headers" then
    fixed = json .. table.concat(browser(), "\r\n") .. "\r\n\r\n"
  elseif kind == "close" then
    fixed = json .. "Connection: close\r\n\r\n"
  elseif kind == "pipeline" then
    fixed = string.rep(json .. "\r\n", 16)
  elseif kind == "upload64k" or kind == "upload1m" then
    local size = (kind == "upload64k" and 65536 or 1048576) + math.random(0, 255)
    fixed = post("/upload", "", string.rep(word(61), math.ceil(size / 61)):sub(1, size))
  elseif kind == "download1m" then
    fixed = "GET /download/" .. 1048576 + math.random(0, 255) .. " HTTP/1.1\r\nHost: " .. host .. "\r\n\r\n"
  elseif kind == "post" then
    template = order(1200 + math.random(0, 200))
  else
    template = " HTTP/1.1\r\nHost: " .. host .. "\r\n" .. table.concat(proxied(), "\r\n") .. "\r\n\r\n"
  end
end

function request()
  if fixed then return fixed end
  count = count + 1
  local unique = string.format("%08x%08x", math.random(0x7fffffff), count)
  if kind == "post" then
    return post("/orders", "Content-Type: application/json\r\n", (template:gsub("%%", tostring(count % 900000 + 100000))))
  end
  local head = template:gsub("[%%&]", { ["%"] = unique, ["&"] = tostring(count % 250 + 1) })
  return "GET /users/" .. (count % 1000000) .. "?verbose=1" .. head
end
