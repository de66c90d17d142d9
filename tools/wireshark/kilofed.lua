-- Wireshark dissector of kilofed's link (firmware/PROTOCOL.md), for what `kilofed run --capture FILE` writes.
--
--   wireshark -X lua_script:tools/wireshark/kilofed.lua FILE        (or copy it into Wireshark's plugin folder)
--
-- The file's link type is DLT_USER0 and a packet holds bytes of a serial line or stream, cut anywhere: they are joined for
-- each line and direction and cut at 0x00. Clear frames are checked; a session's check needs its id, and encrypted frames
-- their keys, which only `kilofed decode --fleet` has.

local proto = Proto("kilofed", "kilofed link")
local directions = { [0] = "from device", [1] = "from host" }
local types = { [0] = "clear", [1] = "session", [2] = "encrypted" }
local f = {
    version = ProtoField.uint8("kilofed.version", "Protocol version"),
    direction = ProtoField.uint8("kilofed.direction", "Direction", base.DEC, directions),
    type = ProtoField.uint8("kilofed.type", "Type", base.DEC, types),
    number = ProtoField.uint16("kilofed.number", "Number (low 16 bits)"),
    message = ProtoField.string("kilofed.message", "Message"),
    check = ProtoField.uint32("kilofed.check", "Check", base.HEX),
    good = ProtoField.bool("kilofed.check.good", "Check is right"),
    sealed = ProtoField.bytes("kilofed.ciphertext", "Ciphertext"),
    tag = ProtoField.bytes("kilofed.tag", "Tag"),
    stray = ProtoField.string("kilofed.stray", "Stray bytes"),
    why = ProtoField.string("kilofed.stray.why", "Why"),
}
for _, field in pairs(f) do proto.fields[#proto.fields + 1] = field end

-- Type of a message -> its name and its fields, as protocol.cddl has them.
local messages = {
    [0] = { "probe", "version" },
    [1] = { "hello", "version", "device_id", "device_nonce", "board", "firmware", "max_frame", "window", "flags" },
    [2] = { "welcome", "version", "device_nonce", "host_nonce", "max_frame", "heartbeat_ms", "proof" },
    [3] = { "refuse", "device_nonce", "reason", "wait_ms" },
    [4] = { "info", "model", "labels", "classes", "features", "capacity", "train", "held_out", "head", "state", "round" },
    [5] = { "offer", "kind", "hash", "size" },
    [6] = { "accept", "id", "offset", "verdict" },
    [7] = { "chunk", "id", "offset", "data" },
    [8] = { "train", "round", "head", "seed", "epochs", "batch", "lr_weights", "lr_weights_shift", "lr_bias", "lr_bias_shift",
            "prox", "prox_shift", "codec", "flags" },
    [9] = { "status", "state", "round", "progress", "loss_q12" },
    [10] = { "result", "round", "update", "size", "train", "held_out", "loss_q12", "base_correct", "own_correct", "elapsed_ms" },
    [11] = { "commit", "round", "verdict" },
    [12] = { "cancel", "round" },
    [13] = { "ping" },
    [14] = { "error", "code", "detail", "text" },
    [15] = { "busy", "ms" },
    [16] = { "bye", "reason" },
}

local MAX_FRAME = 1024
local held = {} -- line and direction -> bytes that no 0x00 has ended yet
local pieces = {} -- packet number -> what ended in it: in the order of the first pass, for later ones

function proto.init()
    held, pieces = {}, {}
end

local way_of = Field.new("frame.packet_flags_direction")
local line_of = Field.new("frame.interface_id")

-- The text without its COBS, or nil.
local function unstuffed(text)
    local out, at = {}, 1
    while at <= #text do
        local code = text:byte(at)
        local following = at + code
        if code == 0 or following > #text + 1 then return nil end
        out[#out + 1] = text:sub(at + 1, following - 1)
        if code ~= 255 and following <= #text then out[#out + 1] = "\0" end
        at = following
    end
    return table.concat(out)
end

local bits = bit or bit32 or require("bit")
local function crc32(text, crc)
    crc = bits.bnot(crc)
    for i = 1, #text do
        crc = bits.bxor(crc, text:byte(i))
        for _ = 1, 8 do
            local low = bits.band(crc, 1)
            crc = bits.rshift(crc, 1)
            if low == 1 then crc = bits.bxor(crc, 0xEDB88320) end
        end
    end
    crc = bits.bnot(crc)
    return crc % 4294967296
end

local function printable(text)
    return (text:gsub("[^\32-\126]", function(char) return string.format("\\x%02x", char:byte()) end))
end

local function hex(text)
    return (text:gsub(".", function(char) return string.format("%02x", char:byte()) end))
end

-- One CBOR item at `at`: what it says and where the next begins; nil for what no message of ours has.
local function item(text, at)
    local first = text:byte(at)
    if not first then return nil end
    local major, value = math.floor(first / 32), first % 32
    if first == 0xf6 then return "none", at + 1 end
    at = at + 1
    if value > 27 then return nil end
    if value >= 24 then
        local size = 2 ^ (value - 24)
        if at + size - 1 > #text then return nil end
        value = 0
        for i = at, at + size - 1 do value = value * 256 + text:byte(i) end
        at = at + size
    end
    if major == 0 then return string.format("%d", value), at end
    if (major == 2 or major == 3) and at + value - 1 <= #text then
        local bytes = text:sub(at, at + value - 1)
        return major == 3 and '"' .. printable(bytes) .. '"' or hex(bytes), at + value
    end
    return nil
end

local function message(tree, range, text)
    local first = text:byte(1) or 0
    local at = 2
    if first == 0x98 then at = 3 elseif first < 0x81 or first > 0x97 then return "malformed" end
    local kind, following = item(text, at)
    local names = messages[tonumber(kind) or -1]
    if not names then return "unknown message" end
    local below = tree:add(f.message, range, names[1])
    local parts = { names[1] }
    for i = 2, #names do
        if following > #text then break end
        local value, behind = item(text, following)
        if not value then break end
        below:add(range, names[i] .. ": " .. value)
        parts[#parts + 1] = names[i] .. "=" .. (#value > 24 and value:sub(1, 20) .. ".." or value)
        following = behind
    end
    return table.concat(parts, " ")
end

local function stray(tree, range, piece, why)
    tree:add(f.stray, range, printable(piece)):append_text(" (" .. why .. ")")
    tree:add(f.why, range, why)
    return "stray: " .. printable(piece:sub(1, 40)) .. " (" .. why .. ")"
end

local function frame(tree, piece, up)
    local buffer = ByteArray.new(piece, true):tvb("bytes of the line")
    if #piece >= MAX_FRAME then return stray(tree, buffer(), piece, "longer than any frame") end
    local raw = unstuffed(piece)
    if not raw then return stray(tree, buffer(), piece, "broken COBS") end
    local first = raw:byte(1) or 0
    local version, direction, kind = math.floor(first / 16), math.floor(first / 8) % 2, first % 8
    local tail = kind == 2 and 16 or 4
    if #raw < 4 + tail then return stray(tree, buffer(), piece, "too short for a frame") end
    if version ~= 1 then return stray(tree, buffer(), piece, "protocol version " .. version) end
    if kind > 2 then return stray(tree, buffer(), piece, "frame type " .. kind) end
    if (direction == 0) ~= up then return stray(tree, buffer(), piece, "a frame of the other direction, come back") end
    local range = ByteArray.new(raw, true):tvb("frame")
    local body = raw:sub(4, -tail - 1)
    local good = true
    if kind == 0 then
        local b1, b2, b3, b4 = raw:byte(-4, -1)
        good = crc32(raw:sub(1, -5), crc32(string.rep("\0", 8), 0)) == b1 + b2 * 256 + b3 * 65536 + b4 * 16777216
        if not good then return stray(tree, buffer(), piece, "its check is wrong") end
    end
    local below = tree:add(proto, range(), "kilofed frame, " .. types[kind] .. ", " .. directions[direction])
    below:add(f.version, range(0, 1), version)
    below:add(f.direction, range(0, 1), direction)
    below:add(f.type, range(0, 1), kind)
    below:add_le(f.number, range(1, 2))
    local words
    if kind == 2 then
        below:add(f.sealed, range(3, #body))
        below:add(f.tag, range(#raw - 16, 16))
        words = "encrypted, " .. #body .. " bytes"
    else
        words = message(below, range(3, #body), body)
        below:add_le(f.check, range(#raw - 4, 4))
        if kind == 0 then below:add(f.good, range(#raw - 4, 4), true) end
    end
    return (kind == 0 and "" or "#" .. (raw:byte(2) + raw:byte(3) * 256) .. " ") .. words
end

local function cut(text, key)
    local found = {}
    local whole = (held[key] or "") .. text
    local start = 1
    while true do
        local zero = whole:find("\0", start, true)
        if not zero then break end
        if zero > start then found[#found + 1] = whole:sub(start, zero - 1) end
        start = zero + 1
    end
    local rest = whole:sub(start)
    if #rest >= MAX_FRAME then -- noise: shown now, so that no more than this is held
        found[#found + 1] = rest
        rest = ""
    end
    held[key] = rest
    return found
end

function proto.dissector(buffer, info, tree)
    local flags, line = way_of(), line_of()
    local up = not (flags and flags.value == 2)
    if not pieces[info.number] then
        local key = (line and tostring(line.value) or "0") .. (up and "u" or "d")
        pieces[info.number] = cut(buffer:raw(), key)
    end
    info.cols.protocol = "kilofed"
    local root = tree:add(proto, buffer(), "kilofed, " .. buffer:len() .. " bytes " .. (up and "up" or "down"))
    local words = {}
    for _, piece in ipairs(pieces[info.number]) do words[#words + 1] = frame(root, piece, up) end
    if #words == 0 then words[1] = buffer:len() .. " bytes of what ends later" end
    info.cols.info = (up and "up: " or "down: ") .. table.concat(words, " | ")
    return buffer:len()
end

DissectorTable.get("wtap_encap"):add(wtap.USER0, proto)
