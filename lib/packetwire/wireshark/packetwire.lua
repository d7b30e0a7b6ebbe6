-- Wireshark: a dissector for packet streams, as docs/wire.md of packetwire specifies them.
--
-- `packetwire wireshark --install` copies this into the directory of your plugins. It is for TCP, at the port that its
-- preference says or by "Decode as", and for captures of packetwire, which `packetwire dump FILE --pcap OUT` turns
-- into TCP segments. There is no heuristic: a packet stream begins with nothing that no other protocol begins with.
-- FBSP and ICCP are shown inside, where the payload begins as theirs does.

local NAME = "packetwire"
local DEFAULT_PORT = "52652"
local proto = Proto(NAME, "packetwire packet stream")
proto.prefs.ports = Pref.range("TCP ports", DEFAULT_PORT, "Ports at which packet streams are expected", 65535)

local CONTROL_CHANNEL, FRAME_CHANNEL = UInt64(1), UInt64(2)
local MAX_VARINT = 9
local MAX_LENGTH = 67108864 -- of a packet; a longer one is taken for a fault
local MOST_WORDS = 8 -- packets of a frame that the column of information tells
local CONTROL = { [5265202] = "HELLO", [1] = "PING", [2] = "DRAIN", [3] = "DESCRIBE" }
local FRAMES = {
    [0] = "META", [1] = "PIECE", [2] = "DATA", [3] = "END", [4] = "CREDIT", [5] = "CANCEL", [6] = "PROGRESS",
    [7] = "STOP",
}
local STATUSES = {
    [0] = "NONE", [1] = "CANCELLED", [2] = "DEADLINE", [3] = "DRAINING", [4] = "BUSY", [5] = "UNKNOWN",
    [6] = "BAD_REQUEST", [7] = "FAILED", [8] = "REPEATED",
}
local HELLO_FIELDS = {
    [1] = "version", [2] = "features", [3] = "max_packet_size", [4] = "max_inbound", [5] = "body_credit",
    [6] = "max_bodies", [7] = "max_piece", [8] = "protocol", [9] = "protocol_version", [10] = "schema_hash",
    [11] = "software", [12] = "epoch", [13] = "client_id", [64] = "metadata",
}
local META_FIELDS = {
    [1] = "milliseconds_left", [2] = "body", [3] = "response_credit", [4] = "progress_interval",
    [5] = "trace_context", [6] = "trace_state", [7] = "request_id", [8] = "typed_errors", [64] = "metadata",
}
local DRAIN_FIELDS = { [1] = "milliseconds", [2] = "text" }
local FBSP_TYPES = {
    [1] = "HELLO", [2] = "WELCOME", [3] = "NOOP", [4] = "REQUEST", [5] = "REPLY", [6] = "DATA", [7] = "CANCEL",
    [8] = "STATE", [9] = "CLOSE", [31] = "ERROR",
}
local ICCP_TYPES = { [1] = "READY", [2] = "REQUEST", [3] = "OK", [4] = "ERROR", [5] = "STOP", [6] = "FINISHED" }

local function field(kind, name, text, ...)
    return ProtoField[kind](NAME .. "." .. name, text, ...)
end
local f = {
    length = field("uint64", "length", "Length"),
    marked = field("bool", "marked", "Marked: HELLO is welcome"),
    tag = field("uint64", "tag", "Tag"),
    request = field("bool", "request", "Request"),
    special = field("string", "special", "Special"),
    channel = field("uint64", "channel", "Channel"),
    flags = field("uint64", "flags", "Flags", base.HEX),
    ok = field("bool", "ok", "Ok"),
    status = field("string", "status", "Status"),
    begun = field("bool", "begun", "A handler had begun"),
    rq_type = field("uint64", "rq_type", "Request type"),
    payload = field("bytes", "payload", "Payload"),
    response_in = field("framenum", "response_in", "Response in", base.NONE, frametype.RESPONSE),
    response_to = field("framenum", "response_to", "Response to", base.NONE, frametype.REQUEST),
    time = field("relative_time", "time", "Time since the request"),
    control = field("string", "control", "Control request"),
    field_id = field("uint64", "field.id", "Field"),
    field_name = field("string", "field.name", "Name"),
    field_value = field("bytes", "field.value", "Value"),
    frame_type = field("uint8", "frame.type", "Frame", base.DEC, FRAMES),
    frame_channel = field("uint64", "frame.channel", "Channel of the request"),
    frame_of_receiver = field("bool", "frame.of_receiver", "About a request of the receiver"),
    frame_code = field("uint64", "frame.code", "Code"),
    frame_text = field("string", "frame.text", "Text"),
    behind_eof = field("bytes", "behind_eof", "Bytes behind EOF"),
    fbsp_type = field("uint8", "fbsp.type", "FBSP message", base.DEC, FBSP_TYPES),
    fbsp_version = field("uint8", "fbsp.version", "Version"),
    fbsp_flags = field("uint8", "fbsp.flags", "Flags", base.HEX),
    fbsp_data = field("uint16", "fbsp.type_data", "Type data", base.HEX),
    fbsp_token = field("bytes", "fbsp.token", "Token"),
    iccp_type = field("uint16", "iccp.type", "ICCP message", base.DEC, ICCP_TYPES),
    part = field("bytes", "part", "Frame of the message"),
}
local all = {}
for _, each in pairs(f) do all[#all + 1] = each end
proto.fields = all
local malformed = ProtoExpert.new(NAME .. ".malformed", "Malformed", expert.group.MALFORMED, expert.severity.ERROR)
proto.experts = { malformed }

-- what is known of the conversations, from the first pass
local conversations = {}
local facts = {} -- of a packet, by its frame and its number there
function proto.init()
    conversations, facts = {}, {}
end

-- The names of the two directions: of this one, and of the other.
local function ends(pinfo)
    local source, target = tostring(pinfo.src) .. " " .. pinfo.src_port, tostring(pinfo.dst) .. " " .. pinfo.dst_port
    return source .. " > " .. target .. " ", target .. " > " .. source .. " "
end

-- By addresses and ports, since no fields can be read in a first pass without a tree. Ports are used again: where both
-- directions are over, another connection begins.
local function conversation_of(pinfo, from, to)
    local found = conversations[from] or conversations[to]
    if not found or (not pinfo.visited and found.over[from] and found.over[to]) then
        found = { asked = {}, over = {} }
        conversations[to] = nil
        conversations[from] = found
    end
    return found
end

-- An integer at `at`, before `stop`: the value and where it ends; nil if it does not end there.
local function integer(tvb, at, stop)
    local value = UInt64(0)
    for size = 1, MAX_VARINT do
        if at + size > stop then return nil end
        local byte = tvb(at + size - 1, 1):uint()
        value = value:lshift(7):bor(UInt64(byte % 128))
        if byte < 128 then return value, at + size end
    end
    return nil
end

-- Where a packet at `at` ends, its length, and where that ends; nil if it is not whole, false if it is malformed.
local function extent(tvb, at)
    local stop = tvb:len()
    local length, behind = integer(tvb, at, stop)
    if not length then
        if stop - at >= MAX_VARINT then return false end
        return nil
    end
    if length > UInt64(MAX_LENGTH) then return false end
    return behind + length:tonumber(), length, behind
end

-- Fields, as HELLO, DRAIN and META have them.
local function add_fields(tvb, at, stop, tree, names)
    while at < stop do
        local id, behind_id = integer(tvb, at, stop)
        local size, behind_size
        if id then size, behind_size = integer(tvb, behind_id, stop) end
        if not size or behind_size + size:tonumber() > stop then
            tree:add_proto_expert_info(malformed, "fields that run past their end")
            return
        end
        local value_end = behind_size + size:tonumber()
        local each = tree:add(tvb(at, value_end - at), "Field " .. tostring(id))
        each:add(f.field_id, tvb(at, behind_id - at), id)
        local name = names[id:tonumber()]
        if name then
            each:add(f.field_name, tvb(at, behind_id - at), name):set_generated()
            each:append_text(", " .. name)
        end
        if size > UInt64(0) then each:add(f.field_value, tvb(behind_size, size:tonumber())) end
        at = value_end
    end
end

-- The frames of a multipart message; false if the bytes are none.
local function parts(tvb, at, stop)
    local found = {}
    while at < stop do
        local size, behind = integer(tvb, at, stop)
        if not size or size > UInt64(stop - behind) then return false end
        found[#found + 1] = { behind, size:tonumber() }
        at = behind + size:tonumber()
    end
    return found
end

local function add_parts(tvb, found, tree)
    for index = 2, #found do
        local at, size = found[index][1], found[index][2]
        if size > 0 then tree:add(f.part, tvb(at, size)) end
    end
end

local function add_fbsp(tvb, at, stop, tree)
    if stop - at < 17 or tvb(at, 5):bytes():tohex() ~= "1046425350" then return nil end -- 16 bytes, "FBSP"
    local found = parts(tvb, at, stop)
    if not found then return nil end
    local head = found[1][1]
    local inner = tree:add(tvb(at, stop - at), "FBSP")
    local byte = tvb(head + 4, 1):uint()
    local kind = math.floor(byte / 8)
    inner:add(f.fbsp_type, tvb(head + 4, 1), kind)
    inner:add(f.fbsp_version, tvb(head + 4, 1), byte % 8)
    inner:add(f.fbsp_flags, tvb(head + 5, 1))
    inner:add(f.fbsp_data, tvb(head + 6, 2))
    inner:add(f.fbsp_token, tvb(head + 8, 8))
    add_parts(tvb, found, inner)
    return "FBSP " .. (FBSP_TYPES[kind] or tostring(kind))
end

local function add_iccp(tvb, at, stop, tree, rq_type)
    if stop - at < 3 or tvb(at, 2):uint() ~= 0x0200 then return nil end -- 2 bytes
    local kind = tvb(at + 2, 1):uint()
    local found = ICCP_TYPES[kind] and parts(tvb, at, stop)
    if not found or (rq_type and rq_type ~= kind) then return nil end
    local inner = tree:add(tvb(at, stop - at), "ICCP")
    inner:add(f.iccp_type, tvb(found[1][1], 2))
    add_parts(tvb, found, inner)
    return "ICCP " .. ICCP_TYPES[kind]
end

local function add_frame(tvb, at, stop, tree, packet)
    local kind = packet.rq_type:tonumber()
    tree:add(f.frame_type, tvb(packet.type_at, packet.type_size), kind)
    tree:add(f.frame_channel, packet.flags:rshift(1)):set_generated()
    tree:add(f.frame_of_receiver, packet.flags:band(UInt64(1)) == UInt64(1)):set_generated()
    if kind == 0 then
        add_fields(tvb, at, stop, tree, META_FIELDS)
    elseif kind == 5 or kind == 7 then
        local code, behind = integer(tvb, at, stop)
        if not code then
            tree:add_proto_expert_info(malformed, "there is no code")
        else
            tree:add(f.frame_code, tvb(at, behind - at), code)
            if behind < stop then tree:add(f.frame_text, tvb(behind, stop - behind)) end
        end
    end
    return (FRAMES[kind] or "unknown frame") .. " of " .. tostring(packet.flags:rshift(1)) .. ":" .. tostring(packet.tag)
end

local function add_control(tvb, at, stop, tree, name)
    tree:add(f.control, name):set_generated()
    if name == "HELLO" and stop - at >= 4 and tvb(at, 3):string() == "pw2" then
        add_fields(tvb, at + 4, stop, tree, HELLO_FIELDS)
    elseif name == "DRAIN" then
        add_fields(tvb, at, stop, tree, DRAIN_FIELDS)
    end
    return name
end

-- The fields of a packet between `at` and `stop`, and its items in the tree. Nil if they do not fit.
local function read_fields(tvb, at, stop, tree)
    local packet = {}
    local tag, flags_at = integer(tvb, at, stop)
    if not tag then return nil end
    tree:add(f.tag, tvb(at, flags_at - at), tag)
    local flags, behind = integer(tvb, flags_at, stop)
    if not flags then return nil end
    local flags_range = tvb(flags_at, behind - flags_at)
    packet.tag, packet.flags, packet.channel = tag, flags:rshift(2), UInt64(0)
    packet.is_request = flags:band(UInt64(2)) == UInt64(2)
    tree:add(f.request, flags_range, packet.is_request)
    tree:add(f.flags, flags_range, packet.flags)
    at = behind
    if flags:band(UInt64(1)) == UInt64(1) then
        packet.channel, behind = integer(tvb, at, stop)
        if not packet.channel then return nil end
        tree:add(f.channel, tvb(at, behind - at), packet.channel)
        at = behind
    else
        tree:add(f.channel, packet.channel):set_generated()
    end
    if packet.is_request then
        local wire_type
        wire_type, behind = integer(tvb, at, stop)
        if not wire_type then return nil end
        packet.type_at, packet.type_size = at, behind - at
        packet.is_reserved = wire_type == UInt64(0)
        if not packet.is_reserved then
            packet.rq_type = wire_type - UInt64(1)
            tree:add(f.rq_type, tvb(at, behind - at), packet.rq_type)
        end
        at = behind
    else
        tree:add(f.ok, flags_range, packet.flags:band(UInt64(1)) == UInt64(1))
    end
    packet.payload_at = at
    return packet
end

local function special_of(packet, stop)
    if not packet.is_reserved then return nil end
    local plain = packet.flags == UInt64(0) and packet.channel == UInt64(0) and packet.payload_at == stop
    if plain and packet.tag == UInt64(0) then return "EOF" end
    if plain and packet.tag == UInt64(1) then return "ERQ" end
    return "reserved"
end

-- What a request and its response have to do with each other: found in the first pass, kept for all others.
local function facts_of(pinfo, index, packet, conversation, from, to)
    local name = tostring(packet.channel) .. ":" .. tostring(packet.tag)
    -- with its name, as Wireshark counts anew behind a packet that it has put together
    local key = pinfo.number .. "/" .. index .. (packet.is_request and ">" or "<") .. name
    local known = facts[key]
    if known or pinfo.visited then return known or {} end
    known = { agreed = conversation.agreed }
    facts[key] = known
    if packet.is_request then
        if packet.channel == CONTROL_CHANNEL and packet.rq_type == UInt64(5265202) then
            conversation.agreed, known.agreed = true, true
        end
        known.frame, known.at, known.rq_type = pinfo.number, pinfo.rel_ts, packet.rq_type
        if packet.channel ~= FRAME_CHANNEL or not known.agreed then conversation.asked[from .. name] = known end
    else
        local request = conversation.asked[to .. name]
        if request then
            conversation.asked[to .. name] = nil
            request.response_in = pinfo.number
            known.request = request
            known.seconds = pinfo.rel_ts - request.at
        end
    end
    return known
end

local function add_links(tree, packet, known)
    if packet.is_request and known.response_in then
        tree:add(f.response_in, known.response_in):set_generated()
    elseif known.request then
        tree:add(f.response_to, known.request.frame):set_generated()
        local seconds = math.floor(known.seconds)
        tree:add(f.time, NSTime(seconds, math.floor((known.seconds - seconds) * 1e9 + 0.5))):set_generated()
        if known.request.rq_type then tree:add(f.rq_type, known.request.rq_type):set_generated() end
    end
end

local function add_status(tree, packet, known)
    local code = packet.flags:rshift(1):tonumber()
    if packet.flags:band(UInt64(1)) == UInt64(1) or not known.agreed or code == 0 or code > 31 then return "" end
    local name = STATUSES[code % 16] or tostring(code % 16)
    tree:add(f.status, name):set_generated()
    tree:add(f.begun, code < 16):set_generated()
    return ", " .. name
end

local function add_content(tvb, stop, tree, packet, known)
    local at = packet.payload_at
    if at < stop then tree:add(f.payload, tvb(at, stop - at)) end
    if packet.is_request then
        if packet.channel == CONTROL_CHANNEL and known.agreed and CONTROL[packet.rq_type:tonumber()] then
            return add_control(tvb, at, stop, tree, CONTROL[packet.rq_type:tonumber()])
        elseif packet.channel == FRAME_CHANNEL and known.agreed then
            return add_frame(tvb, at, stop, tree, packet)
        end
        return add_fbsp(tvb, at, stop, tree) or add_iccp(tvb, at, stop, tree, packet.rq_type:tonumber())
    end
    local rq_type = known.request and known.request.rq_type
    if packet.channel == CONTROL_CHANNEL and rq_type == UInt64(5265202) and packet.flags == UInt64(1) then
        return add_control(tvb, at, stop, tree, "HELLO")
    end
    return add_fbsp(tvb, at, stop, tree)
end

local function describe(packet, special, content, status)
    if special then return special end
    local where = tostring(packet.channel) .. ":" .. tostring(packet.tag)
    if packet.is_request then
        return content or ("request " .. where .. " type " .. tostring(packet.rq_type))
    end
    local ok = packet.flags:band(UInt64(1)) == UInt64(1) and "ok" or "not ok"
    return "response " .. where .. " " .. ok .. status .. (content and (", " .. content) or "")
end

-- One packet; returns what it is in a few words, and whether it is EOF.
local function dissect(tvb, at, stop, length, behind, index, pinfo, tree, conversation, from, to)
    local item = tree:add(proto, tvb(at, stop - at))
    item:add(f.length, tvb(at, behind - at), length)
    if tvb(at, 1):uint() == 0x80 then item:add(f.marked, tvb(at, 1), true) end
    local packet = read_fields(tvb, behind, stop, item)
    if not packet then
        item:add_proto_expert_info(malformed, "a field runs past the end of its packet")
        return "malformed", false
    end
    local special = special_of(packet, stop)
    local content, status = nil, ""
    if special then
        item:add(f.special, tvb(at, stop - at), special)
        if special == "reserved" then item:add_proto_expert_info(malformed, "request type 0 is reserved") end
    else
        local known = facts_of(pinfo, index, packet, conversation, from, to)
        add_links(item, packet, known)
        if not packet.is_request then status = add_status(item, packet, known) end
        content = add_content(tvb, stop, item, packet, known)
    end
    local text = describe(packet, special, content, status)
    item:append_text(", " .. text)
    return text, special == "EOF"
end

local function summary(words)
    local more = #words - MOST_WORDS
    if more <= 0 then return table.concat(words, "; ") end
    return table.concat(words, "; ", 1, MOST_WORDS) .. "; " .. more .. " more"
end

local function is_behind_eof(conversation, from, pinfo)
    local key = "behind " .. pinfo.number
    if not pinfo.visited then
        local over = conversation.over[from]
        facts[key] = facts[key] or (over and over < pinfo.number)
    end
    return facts[key]
end

function proto.dissector(tvb, pinfo, tree)
    pinfo.cols.protocol = "PKTWIRE"
    local from, to = ends(pinfo)
    local conversation = conversation_of(pinfo, from, to)
    local at, index, words = 0, 0, {}
    if is_behind_eof(conversation, from, pinfo) then
        tree:add(proto, tvb()):add(f.behind_eof, tvb())
        return
    end
    while at < tvb:len() do
        local stop, length, behind = extent(tvb, at)
        if stop == false then
            tree:add(proto, tvb(at)):add_proto_expert_info(malformed, "no packet begins like this")
            words[#words + 1] = "malformed"
            break
        elseif stop == nil then
            pinfo.desegment_offset, pinfo.desegment_len = at, DESEGMENT_ONE_MORE_SEGMENT
            break
        elseif stop > tvb:len() then
            pinfo.desegment_offset, pinfo.desegment_len = at, stop - tvb:len()
            break
        end
        local text, is_eof = dissect(tvb, at, stop, length, behind, index, pinfo, tree, conversation, from, to)
        words[#words + 1] = text
        at, index = stop, index + 1
        if is_eof then
            if not pinfo.visited then conversation.over[from] = pinfo.number end
            if at < tvb:len() then tree:add(proto, tvb(at)):add(f.behind_eof, tvb(at)) end
            break
        end
    end
    if #words > 0 then pinfo.cols.info = summary(words) end
end

local tcp_ports = DissectorTable.get("tcp.port")
tcp_ports:add(proto.prefs.ports, proto)
DissectorTable.get("wtap_encap"):add(wtap.USER0, proto) -- link type 147: each frame has whole packets
local ports_now = proto.prefs.ports
function proto.prefs_changed()
    if ports_now ~= proto.prefs.ports then
        tcp_ports:remove(ports_now, proto)
        ports_now = proto.prefs.ports
        tcp_ports:add(ports_now, proto)
    end
end
