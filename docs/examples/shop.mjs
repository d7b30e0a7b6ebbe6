// The shop of docs/typed.md in Node.js, without packages: `node shop.mjs` serves it on its standard input and
// output, `node shop.mjs COMMAND ARGUMENT...` starts a command that serves it, and calls that.
import { spawn } from "node:child_process";

// MessagePack, as far as the shop needs it: null, booleans, numbers, strings, lists and maps
const head = (small, limit, wide, n) => Buffer.from(n < limit ? [small | n] : [wide, n >> 8, n & 255]);
function pack(value) {
  if (value === null || value === undefined) return Buffer.from([0xc0]);
  if (typeof value === "boolean") return Buffer.from([value ? 0xc3 : 0xc2]);
  if (Number.isInteger(value) && value >= 0 && value < 65536) return head(0, 128, 0xcd, value);
  if (typeof value === "number") {
    const data = Buffer.alloc(9, 0xcb);
    data.writeDoubleBE(value, 1);
    return data;
  }
  if (typeof value === "string") {
    const text = Buffer.from(value);
    return Buffer.concat([head(0xa0, 32, 0xda, text.length), text]);
  }
  if (Array.isArray(value)) return Buffer.concat([head(0x90, 16, 0xdc, value.length), ...value.map(pack)]);
  const entries = Object.entries(value);
  return Buffer.concat([head(0x80, 16, 0xde, entries.length), ...entries.flat().map(pack)]);
}
function unpack(data) {
  let at = 0;
  const size = (width) => data.readUIntBE((at += width) - width, width);
  const text = (n) => data.toString("utf8", at, (at += n));
  const list = (n) => Array.from({ length: n }, next);
  const map = (n) => Object.fromEntries(Array.from({ length: n }, () => [next(), next()]));
  const readers = {
    0xc0: () => null, 0xc2: () => false, 0xc3: () => true, 0xcb: () => data.readDoubleBE((at += 8) - 8),
    0xcc: () => size(1), 0xcd: () => size(2), 0xce: () => size(4), 0xd9: () => text(size(1)),
    0xda: () => text(size(2)), 0xdc: () => list(size(2)), 0xde: () => map(size(2)),
  };
  function next() {
    const first = data[at++];
    if (first < 0x80) return first;
    if (first < 0x90) return map(first & 15);
    if (first < 0xa0) return list(first & 15);
    if (first < 0xc0) return text(first & 31);
    if (first >= 0xe0) return first - 256;
    if (!(first in readers)) throw new Error(`the byte ${first} begins nothing that the shop knows`);
    return readers[first]();
  }
  return next();
}

// packets: their fields are integers in base 128, up to 63 bits, so each is a BigInt
const LONGEST = 1n << 26n; // of a packet that is taken
function integer(n) {
  const bytes = [Number(BigInt(n) & 127n)];
  while ((n = BigInt(n) >> 7n) > 0n) bytes.unshift(Number(n & 127n) | 128);
  return Buffer.from(bytes);
}
function packet(tag, flags, payload, ...rest) { // the rest: channel, type
  const body = Buffer.concat([tag, flags, ...rest].map(integer).concat(payload));
  return Buffer.concat([integer(body.length), body]);
}
const END = Buffer.concat([packet(1, 2, [], 0), packet(0, 2, [], 0)]); // ERQ and EOF
const refused = (text) => [0, Buffer.from(text)];

function connect(input, output, handle, answered = () => false) {
  let rest = Buffer.alloc(0), asks = true, over = false;
  const stop = () => ((over = true), output.writableEnded || output.end(END)); // at EOF, and at an error
  output.on("error", () => {}); // the other end has left: the end of the input tells
  const integerAt = (at, end) => { // [the integer, where it ends]; undefined if it does not end there
    for (let n = 0n, size = 0; at + size < end && size < 9; ) {
      n = n * 128n + BigInt(rest[at + size] & 127);
      if (rest[at + size++] < 128) return [n, at + size];
    }
  };
  const take = (at, end) => { // one packet
    const read = () => {
      const [n, behind] = integerAt(at, end);
      at = behind;
      return n;
    };
    const tag = read(), flags = read(), channel = flags & 1n ? read() : 0n, type = flags & 2n ? read() : undefined;
    const payload = rest.subarray(at, end), where = channel > 0n ? [channel] : [];
    if (type === undefined) {
      if (channel > 0n || !answered(tag, (flags & 4n) > 0n, payload)) throw new Error("it was never asked for");
    } else if (type > 0n) {
      let answer = refused(asks ? `channel ${channel} is not served` : "requests no longer allowed");
      if (asks && channel === 0n) answer = handle(type - 1n, flags >> 2n, payload);
      output.write(packet(tag, answer[0] | where.length, answer[1], ...where));
    } else if (flags === 2n && tag < 2n && payload.length === 0) tag > 0n ? (asks = false) : stop();
    else throw new Error("type 0 is reserved");
  };
  input.on("data", (chunk) => {
    rest = Buffer.concat([rest, chunk]);
    try {
      while (!over) {
        const [length, at] = integerAt(0, rest.length) ?? [];
        if (length === undefined && rest.length < 9) return;
        if (!(length <= LONGEST)) throw new Error("it is too long");
        const end = at + Number(length);
        if (end > rest.length) return;
        take(at, end);
        rest = rest.subarray(end);
      }
    } catch {
      stop();
    }
  });
  input.on("end", () => over || stop());
}

// the shop
const items = [];
const methods = {
  1: ({ title, tags = [] }) => items.push({ title, tags }),
  2: ({ prefix = "", least = 0 }) => {
    const found = items.filter((item) => item.title.startsWith(prefix)), left = found.length;
    if (left < least) throw { $: "out-of-stock", text: `${prefix}: only ${left} left`, title: prefix, left };
    return found;
  },
};
function handle(type, flags, payload) {
  try {
    if (!Object.hasOwn(methods, type)) throw new Error(`unknown request type ${type}`);
    return [4, pack(methods[type](payload.length ? unpack(payload) : {}))]; // ok
  } catch (error) { // flag 1 of a request: its caller understands errors with fields
    return [0, error.$ && flags & 1n ? pack(error) : Buffer.from(String(error.text ?? error.message))];
  }
}

const [command, ...words] = process.argv.slice(2);
if (command === undefined) connect(process.stdin, process.stdout, handle);
else {
  const child = spawn(command, words, { stdio: ["pipe", "pipe", "inherit"] });
  const asks = [[1, { title: "Emma", tags: ["novel"] }], [2, { prefix: "E" }], [2, { prefix: "E", least: 3 }]];
  let tag = 1;
  const ask = () => {
    if (asks.length === 0) return child.stdin.end(END);
    const [type, fields] = asks.shift();
    child.stdin.write(packet(++tag, (1 << 2) | 2, pack(fields), type + 1));
  };
  connect(child.stdout, child.stdin, handle, (answersTag, ok, payload) => {
    if (answersTag !== BigInt(tag)) return answersTag < tag; // one that is late is dropped
    console.log(ok ? "ok" : "not ok", JSON.stringify(unpack(payload)));
    ask();
    return true;
  });
  ask();
}
