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

// packets: their fields are integers in base 128
function integer(n) {
  const bytes = [n % 128];
  while ((n = Math.floor(n / 128)) > 0) bytes.unshift((n % 128) | 128);
  return Buffer.from(bytes);
}
function packet(tag, flags, payload, ...type) {
  const body = Buffer.concat([tag, flags, ...type].map(integer).concat(payload));
  return Buffer.concat([integer(body.length), body]);
}
const END = Buffer.concat([packet(1, 2, [], 0), packet(0, 2, [], 0)]); // ERQ and EOF

function connect(input, output, handle, answered) {
  let rest = Buffer.alloc(0);
  input.on("data", (chunk) => {
    rest = Buffer.concat([rest, chunk]);
    for (;;) {
      let at = 0;
      const read = () => {
        for (let n = 0; at < rest.length; ) {
          n = n * 128 + (rest[at] & 127);
          if (rest[at++] < 128) return n;
        }
        return NaN; // it has not come yet
      };
      const length = read(), end = at + length;
      if (!(end <= rest.length)) return;
      const tag = read(), flags = read(), type = flags & 2 ? read() : undefined;
      const payload = rest.subarray(at, end);
      rest = rest.subarray(end);
      if (type === undefined) answered((flags & 4) > 0, payload);
      else if (type > 0) output.write(packet(tag, ...handle(type - 1, flags >> 2, payload)));
      else if (tag === 0) output.end(END);
    }
  });
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
    if (!(type in methods)) throw new Error(`unknown request type ${type}`);
    return [4, pack(methods[type](payload.length ? unpack(payload) : {}))]; // ok
  } catch (error) { // flag 1 of a request: its caller understands errors with fields
    return [0, error.$ && flags & 1 ? pack(error) : Buffer.from(String(error.text ?? error.message))];
  }
}

const [command, ...words] = process.argv.slice(2);
if (command === undefined) connect(process.stdin, process.stdout, handle);
else {
  const child = spawn(command, words, { stdio: ["pipe", "pipe", "inherit"] });
  const asks = [[1, { title: "Emma", tags: ["novel"] }], [2, { prefix: "E" }], [2, { prefix: "E", least: 3 }]];
  let tag = 2;
  const ask = () => {
    if (asks.length === 0) return child.stdin.write(END);
    const [type, fields] = asks.shift();
    child.stdin.write(packet(tag++, (1 << 2) | 2, pack(fields), type + 1));
  };
  connect(child.stdout, child.stdin, handle, (ok, payload) => {
    console.log(ok ? "ok" : "not ok", JSON.stringify(unpack(payload)));
    ask();
  });
  ask();
}
