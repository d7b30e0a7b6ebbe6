"use strict";
// Draws the diagram and the list of a report, of the JSON in #data. All texts in it are the peer's: they become text
// nodes, never markup.
(() => {
const data = JSON.parse(document.getElementById("data").textContent);
const columns = data.columns;
const total = columns.time.length;
const MAX_HEIGHT = 4000000; // pixels that can be scrolled at a time: browsers bound it
const ROW = 20; // pixels of a packet, where the axis is their order
const LABELLED = 13; // pixels between two lines that have a label
const OUTCOME_OK = 0;
const OUTCOME_FAILED = 1;
const PAGE = 50;

// texts

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "on") for (const [event, listener] of Object.entries(value)) made.addEventListener(event, listener);
    else if (value !== null && value !== false) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null && child !== ""));
  return made;
}
const figures = (value) => (value >= 100 ? Math.round(value).toLocaleString("en") : String(+value.toPrecision(3)));
function duration(ns) {
  if (ns === null) return "–";
  for (const [unit, size] of [["s", 1e9], ["ms", 1e6], ["µs", 1e3]]) if (ns >= size) return figures(ns / size) + " " + unit;
  return Math.round(ns) + " ns";
}
function bytes(count) {
  for (const [unit, size] of [["GB", 1e9], ["MB", 1e6], ["kB", 1e3]]) if (count >= size) return figures(count / size) + " " + unit;
  return count + " B";
}
const clock = (ns) => (ns / 1e9).toFixed(6) + " s";
const typeText = (at) => {
  if (columns.type[at] === null) return "announced only";
  const type = columns.type[at] < 0 ? "reserved type" : "type " + columns.type[at];
  const label = data.labels[columns.label[at]];
  return (label ? label + " (" + type + ")" : type) + (columns.channel[at] ? ", channel " + columns.channel[at] : "");
};
const shortName = (at) => data.labels[columns.label[at]] || typeText(at);
const outcomeText = (at) => {
  const status = data.statuses[columns.status[at]];
  return data.outcomes[columns.outcome[at]] + (status ? " (" + status + ")" : "");
};
const isAnswered = (at) => columns.outcome[at] <= OUTCOME_FAILED;
const latencyOf = (at) => (isAnswered(at) ? Math.max(0, columns.end[at] - columns.time[at]) : null);
const extraOf = (at) => data.extras[at] || {};
const kindOf = (at) => {
  if (extraOf(at).cancel) return "odd";
  return columns.outcome[at] === OUTCOME_OK ? "ok" : columns.outcome[at] === OUTCOME_FAILED ? "bad" : "odd";
};
function decoded(base64) {
  return Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
}
const ascii = (octets) => Array.from(octets, (octet) => (octet >= 32 && octet < 127 ? String.fromCharCode(octet) : ".")).join("");
function hexDump(octets) {
  const width = 8;
  const rows = [];
  for (let from = 0; from < octets.length; from += width) {
    const row = octets.subarray(from, from + width);
    const hex = Array.from(row, (octet) => octet.toString(16).padStart(2, "0")).join(" ");
    rows.push(from.toString(16).padStart(4, "0") + "  " + hex.padEnd(3 * width - 1) + "  " + ascii(row));
  }
  return rows.join("\n");
}

// what is searched for

const searchTexts = [];
function searchText(at) {
  if (searchTexts[at] === undefined) {
    const extra = extraOf(at);
    const parts = [typeText(at), outcomeText(at), ascii(decoded(columns.request[at])), ascii(decoded(columns.response[at]))];
    if (extra.cancel) parts.push(extra.cancel.text);
    for (const pair of Object.entries(extra.metadata || {})) parts.push(...pair);
    searchTexts[at] = parts.join("\n").toLowerCase();
  }
  return searchTexts[at];
}
const UNITS = { ns: 1, us: 1e3, "µs": 1e3, ms: 1e6, s: 1e9 };
function nanoseconds(text) {
  const found = /^([0-9.]+)(ns|us|µs|ms|s)$/.exec(text);
  return found ? Number(found[1]) * UNITS[found[2]] : NaN;
}
const STATUSES = {
  ok: (at) => columns.outcome[at] === OUTCOME_OK,
  failed: (at) => columns.outcome[at] === OUTCOME_FAILED,
  cancelled: (at) => Boolean(extraOf(at).cancel),
  unanswered: (at) => columns.outcome[at] > OUTCOME_FAILED,
  body: (at) => Boolean(extraOf(at).up || extraOf(at).down),
};
const TERMS = {
  type: (value) => (at) => String(columns.type[at]) === value,
  tag: (value) => (at) => String(columns.tag[at]) === value,
  channel: (value) => (at) => String(columns.channel[at]) === value,
  connection: (value) => (at) => String(columns.connection[at]) === value,
  label: (value) => (at) => data.labels[columns.label[at]].toLowerCase().includes(value),
  status: (value) => STATUSES[value] || ((at) => outcomeText(at).toLowerCase().includes(value)),
  from: (value) => (at) => data.ends[columns.asker[at]].startsWith(value),
  slower: (value) => (at) => latencyOf(at) !== null && latencyOf(at) >= nanoseconds(value),
};
function predicateOf(text) {
  const tests = (text.toLowerCase().match(/-?[a-z]+:"[^"]*"|-?"[^"]*"|\S+/g) || []).map((word) => {
    const isNot = word.startsWith("-") && word.length > 1;
    const found = /^([a-z]+):(.+)$/.exec(isNot ? word.slice(1) : word);
    const bare = (value) => value.replace(/^"|"$/g, "");
    const test = found && TERMS[found[1]] ? TERMS[found[1]](bare(found[2])) : ((words) => (at) => searchText(at).includes(words))(bare(isNot ? word.slice(1) : word));
    return isNot ? (at) => !test(at) : test;
  });
  return (at) => tests.every((test) => test(at));
}

// the controls

const explorer = document.getElementById("explorer");
const search = element("input", { type: "search", id: "search", autocomplete: "off", spellcheck: "false", placeholder: "type:7 status:failed Emma" });
const choice = element("select", { id: "choice" },
  ...[["", "all requests"], ["failed", "not ok"], ["cancelled", "cancelled"], ["unanswered", "no answer"], ["body", "with bodies"]].map(
    ([value, words]) => element("option", { value }, words)));
const connection = element("select", { id: "connection" }, element("option", { value: "" }, "all"),
  ...[...new Set(columns.connection)].sort((one, other) => one - other).map((each) => element("option", { value: String(each) }, String(each))));
const axis = element("select", { id: "axis" }, element("option", { value: "order" }, "one after the other"), element("option", { value: "time" }, "time to scale"));
const button = (words, name, action) => element("button", { type: "button", "aria-label": name, title: name, on: { click: action } }, words);
const status = element("p", { class: "status", role: "status" });
const view = element("div", { class: "view", tabindex: "0", role: "application", "aria-label": "Sequence diagram", "aria-describedby": "diagram-help" });
const canvas = element("canvas", { "aria-hidden": "true" });
const spacer = element("div");
const tip = element("div", { class: "tip", hidden: true });
const panel = element("div", { class: "panel", tabindex: "0", role: "region", "aria-label": "The chosen request" });
const list = element("div");
view.append(canvas, spacer);
explorer.append(
  element("div", { class: "tools" },
    element("label", { class: "wide", for: "search" }, "Search", search),
    element("label", { for: "choice" }, "Show", choice),
    element("label", { for: "connection" }, "Connection", connection),
    element("label", { for: "axis" }, "Axis", axis),
    element("div", { class: "zoom", role: "group", "aria-label": "Zoom" },
      button("−", "Zoom out", () => zoom(1 / 1.6)), button("+", "Zoom in", () => zoom(1.6)), button("Fit", "Fit all", () => fit()))),
  element("details", {}, element("summary", {}, "What can be searched for, and keys"),
    element("p", { id: "diagram-help" },
      "Words are searched for in names, statuses and the beginnings of payloads. ",
      element("code", {}, "type:7 tag:42 channel:16 connection:2 label:put status:busy status:ok status:failed status:cancelled status:unanswered status:body from:first slower:10ms"),
      " narrow it down; a minus before a word excludes it. In the diagram the arrow keys go from packet to packet, + and − zoom, 0 shows all, Enter goes to the details and Escape chooses none. Ctrl and the wheel, or two fingers, zoom.")),
  status,
  element("div", { class: "split" },
    element("div", {},
      element("div", { class: "stage" }, element("div", { class: "lanes", "aria-hidden": "true" }, element("span", {}, data.ends[0]), element("span", {}, data.ends[1])), view, tip)),
    panel),
  element("h3", {}, "The same as a list"),
  list);

// what is shown: marks are packets, in the order of time, and the beginnings and ends of connections

let chosen = null; // a request
let cursor = null; // the mark that was chosen, or that the arrow keys have reached
let shown = []; // requests
let marks = []; // {time, at, what: "request" | "response" | "cancel" | "note", text}
let depths = new Map(); // request -> column of its bar
let bars = new Map(); // request -> the marks at which its bar begins and ends
const over = new Map(data.connections.map((each) => [each.number, each.end]));

function choose() {
  const test = predicateOf(search.value);
  const kind = STATUSES[choice.value];
  const only = connection.value;
  shown = [];
  for (let at = 0; at < total; at++) {
    if ((!only || String(columns.connection[at]) === only) && (!kind || kind(at)) && test(at)) shown.push(at);
  }
  marks = [];
  for (const at of shown) {
    marks.push({ time: columns.time[at], at, what: "request" });
    const cancel = extraOf(at).cancel;
    if (cancel) marks.push({ time: cancel.time, at, what: "cancel" });
    if (isAnswered(at)) marks.push({ time: columns.end[at], at, what: "response" });
  }
  for (const each of data.connections) {
    if (only && String(each.number) !== only) continue;
    marks.push({ time: each.begin, at: null, what: "note", text: "connection " + each.number + " begins" + (each.text ? ": " + each.text : "") });
    if (each.end !== null) marks.push({ time: each.end, at: null, what: "note", isEnd: true, text: "connection " + each.number + " is over: " + each.why });
  }
  const rank = ({ what, isEnd }) => (what !== "note" ? 1 : isEnd ? 2 : 0);
  marks.sort((one, other) => one.time - other.time || rank(one) - rank(other));
  bars = new Map(shown.map((at) => [at, [null, null]]));
  marks.forEach((mark, number) => {
    mark.number = number;
    if (mark.what === "request") bars.get(mark.at)[0] = mark;
    if (mark.what === "response") bars.get(mark.at)[1] = mark;
  });
  place();
  const part = data.count > total ? ", of " + total.toLocaleString("en") + " in the sample" : shown.length < total ? " of " + total.toLocaleString("en") : "";
  status.textContent = shown.length.toLocaleString("en") + (shown.length === 1 ? " request" : " requests") + part;
  if (chosen !== null && !shown.includes(chosen)) select(null);
  page = 0;
  drawList();
  fit();
}

function place() {
  depths = new Map();
  const free = [[], []];
  for (const at of shown) {
    const columnsOfLane = free[columns.asker[at]];
    const end = columns.end[at] ?? over.get(columns.connection[at]) ?? Infinity;
    let depth = columnsOfLane.findIndex((until) => until <= columns.time[at]);
    if (depth < 0) depth = columnsOfLane.length < 5 ? columnsOfLane.length : columnsOfLane.indexOf(Math.min(...columnsOfLane));
    columnsOfLane[depth] = Math.max(end, columnsOfLane[depth] || 0);
    depths.set(at, depth);
  }
}

// the vertical axis: units are packets in their order, or nanoseconds

let scale = ROW; // pixels of a unit
let base = 0; // the unit at the top of what can be scrolled
const byTime = () => axis.value === "time";
const units = () => (byTime() ? Math.max(data.duration, 1) : Math.max(marks.length, 1));
const unitOf = (mark) => (byTime() ? mark.time : mark.number + 0.5);
function unitOfTime(time) {
  if (byTime()) return time;
  let low = 0;
  let high = marks.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (marks[middle].time < time) low = middle + 1;
    else high = middle;
  }
  if (low === 0 || low === marks.length) return low === 0 ? 0 : low;
  const before = marks[low - 1];
  return low - 0.5 + (time - before.time) / Math.max(1, marks[low].time - before.time);
}
const margin = 14;
const topUnit = () => base + (view.scrollTop - margin) / scale;
const yOf = (unit) => (unit - base) * scale + margin - view.scrollTop;
const shownHeight = () => view.clientHeight;

function show(unit, y) { // scrolls so that the unit is at that height
  const height = units() * scale + 2 * margin;
  base = height <= MAX_HEIGHT ? 0 : Math.min(Math.max(0, unit - MAX_HEIGHT / 2 / scale), units() - (MAX_HEIGHT - 2 * margin) / scale);
  spacer.style.height = Math.max(0, Math.min(height, MAX_HEIGHT) - shownHeight()) + "px";
  view.scrollTop = (unit - base) * scale + margin - y;
  redraw();
}
function chosenHeight() { // that of the chosen packet, if it can be seen: else the middle
  const y = cursor === null || marks[cursor.number] !== cursor ? -1 : yOf(unitOf(cursor));
  return y >= 0 && y <= shownHeight() ? y : shownHeight() / 2;
}
function zoom(factor, y = chosenHeight()) {
  const unit = topUnit() + y / scale;
  const least = (shownHeight() - 2 * margin) / units();
  const most = byTime() ? 40 : 44; // 40 pixels a nanosecond
  scale = Math.min(Math.max(scale * factor, Math.min(least, most)), most);
  show(unit, y);
}
function fit() {
  const first = marks.find((mark) => mark.at !== null);
  if (!byTime() || !first) {
    scale = byTime() ? (shownHeight() - 2 * margin) / units() : ROW;
    show(0, margin);
    return;
  }
  const last = marks.findLast((mark) => mark.at !== null);
  scale = Math.min(40, (shownHeight() - 4 * margin) / Math.max(1, last.time - first.time));
  show(first.time, 2 * margin);
}
function showTime(time) {
  show(unitOfTime(time), shownHeight() / 2);
}

// drawing

const styles = {};
function readStyles() {
  const computed = getComputedStyle(document.documentElement);
  for (const name of ["ground", "raised", "line", "text", "quiet", "accent", "forth", "back", "bad", "odd", "mark"]) styles[name] = computed.getPropertyValue("--" + name).trim();
}
let waiting = false;
function redraw() {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => { waiting = false; draw(); });
}
let lanes = [0, 0];
function draw() {
  const width = view.clientWidth;
  const height = shownHeight();
  const ratio = devicePixelRatio || 1;
  if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
    canvas.style.height = height + "px";
  }
  const pen = canvas.getContext("2d");
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.clearRect(0, 0, width, height);
  const gutter = width < 480 ? 66 : 92;
  lanes = [gutter + 34, width - 44];
  pen.font = "12px system-ui, sans-serif";
  pen.textBaseline = "middle";
  const first = firstMark(topUnit() - 30 / scale);
  drawBars(pen, height);
  pen.strokeStyle = styles.quiet;
  pen.lineWidth = 1.5;
  for (const x of lanes) line(pen, x, 0, x, height);
  drawMarks(pen, first, width, height);
  drawTimes(pen, first, height, gutter);
}
function firstMark(unit) {
  let low = 0;
  let high = marks.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (unitOf(marks[middle]) < unit) low = middle + 1;
    else high = middle;
  }
  return low;
}
function line(pen, fromX, fromY, toX, toY) {
  pen.beginPath();
  pen.moveTo(fromX, fromY);
  pen.lineTo(toX, toY);
  pen.stroke();
}
function drawBars(pen, height) {
  for (const at of shown) {
    const [first, last] = bars.get(at);
    const from = yOf(unitOf(first));
    if (from > height) break;
    const end = columns.end[at] ?? over.get(columns.connection[at]);
    const to = last ? yOf(unitOf(last)) : end === null || end === undefined ? height + 9 : yOf(unitOfTime(end));
    if (to < 0 || from > height || (to - from < 2 && at !== chosen)) continue;
    const lane = 1 - columns.asker[at];
    const x = lanes[lane] + (lane ? 3 : -9) + (lane ? 7 : -7) * depths.get(at);
    pen.fillStyle = at === chosen ? styles.accent : { ok: styles.line, bad: styles.bad, odd: styles.odd }[kindOf(at)];
    pen.globalAlpha = at === chosen || kindOf(at) === "ok" ? 1 : 0.55;
    pen.fillRect(x, Math.max(from, -2), 6, Math.max(1, Math.min(to, height + 9) - Math.max(from, -2)));
    pen.globalAlpha = 1;
    const extra = extraOf(at);
    if (extra.up) drawBody(pen, extra.up, columns.asker[at], depths.get(at), height);
    if (extra.down) drawBody(pen, extra.down, 1 - columns.asker[at], depths.get(at), height);
  }
}
function drawBody(pen, body, sender, depth, height) {
  if (body.first === null) return;
  const from = yOf(unitOfTime(body.first));
  const to = Math.max(yOf(unitOfTime(body.last)), from + 2);
  if (to < 0 || from > height) return;
  const [left, right] = lanes;
  const middle = left + (right - left) * (sender ? 0.66 : 0.34) + 14 * depth - 28;
  pen.fillStyle = sender ? styles.back : styles.forth;
  pen.globalAlpha = 0.28;
  pen.fillRect(middle - 6, from, 12, to - from);
  pen.globalAlpha = 0.9;
  pen.fillStyle = styles.odd;
  for (const [since, until] of body.shown) {
    const start = yOf(unitOfTime(since));
    pen.fillRect(middle - 6, start, 4, Math.max(1, yOf(unitOfTime(until)) - start));
  }
  pen.globalAlpha = 1;
}
function drawMarks(pen, first, width, height) {
  let labelled = -100;
  let before = -100;
  const last = {};
  const labels = [];
  for (let number = first; number < marks.length; number++) {
    const mark = marks[number];
    const y = yOf(unitOf(mark));
    if (y > height + 30) break;
    const isChosen = mark.at !== null && mark.at === chosen;
    const after = number + 1 < marks.length ? yOf(unitOf(marks[number + 1])) : Infinity;
    const isDense = Math.min(y - before, after - y) < 2;
    before = y;
    const key = mark.what + (mark.at === null ? "" : columns.asker[mark.at] + kindOf(mark.at));
    if (!isChosen && last[key] !== undefined && y - last[key] < 1) continue; // it would be drawn over the last one
    last[key] = y;
    pen.globalAlpha = isDense && !isChosen ? 0.3 : 1;
    const color = mark.what === "note" ? drawNote(pen, mark, y) : drawArrow(pen, mark, y, isChosen, isDense);
    pen.globalAlpha = 1;
    if (isChosen || (y - labelled >= LABELLED && !isDense)) {
      labels.push([mark, y, color]);
      labelled = y;
    }
  }
  for (const each of labels) drawLabel(pen, ...each);
}
function drawLabel(pen, mark, y, color) {
  if (mark.what === "note") {
    label(pen, mark.text, (lanes[0] + lanes[1]) / 2, y, color, "center");
    return;
  }
  const sender = senderOf(mark);
  label(pen, markText(mark), sender ? lanes[1] - 14 : lanes[0] + 14, y, color, sender ? "right" : "left");
}
function drawNote(pen, mark, y) {
  pen.strokeStyle = styles.quiet;
  pen.lineWidth = 1;
  pen.setLineDash([2, 3]);
  line(pen, lanes[0] - 8, y, lanes[1] + 8, y);
  pen.setLineDash([]);
  return styles.quiet;
}
const senderOf = ({ at, what }) => (what === "response" ? 1 - columns.asker[at] : columns.asker[at]);
const COLORS = { ok: "text", bad: "bad", odd: "odd" };
function drawArrow(pen, mark, y, isChosen, isDense) {
  const { at, what } = mark;
  const sender = senderOf(mark);
  const kind = what === "request" && isAnswered(at) ? "ok" : kindOf(at);
  const color = isChosen ? styles.accent : kind === "ok" ? (sender ? styles.back : styles.forth) : styles[COLORS[kind]];
  const [from, to] = sender ? [lanes[1], lanes[0]] : lanes;
  const head = sender ? 6 : -6;
  pen.strokeStyle = pen.fillStyle = color;
  pen.lineWidth = isChosen ? 2.5 : 1.25;
  if (what === "response") pen.setLineDash([6, 3]);
  if (what === "cancel") pen.setLineDash([2, 2]);
  line(pen, from, y, to + head / 2, y);
  pen.setLineDash([]);
  if (!isDense || isChosen) {
    pen.beginPath();
    pen.moveTo(to, y);
    pen.lineTo(to + head, y - 3.5);
    pen.lineTo(to + head, y + 3.5);
    pen.fill();
  }
  return color;
}
function markText({ at, what, text }) {
  if (what === "note") return text;
  if (what === "request") return shortName(at) + " #" + columns.tag[at] + "  " + bytes(columns.sent[at]);
  if (what === "cancel") return "CANCEL #" + columns.tag[at];
  return (columns.outcome[at] === OUTCOME_OK ? "" : outcomeText(at) + "  ") + "#" + columns.tag[at] + "  " + bytes(columns.received[at]) + "  " + duration(latencyOf(at));
}
function label(pen, text, x, y, color, align) {
  const room = lanes[1] - lanes[0] - 36;
  let words = text;
  if (pen.measureText(words).width > room) {
    while (words.length > 1 && pen.measureText(words + "…").width > room) words = words.slice(0, Math.floor(words.length * 0.9));
    words += "…";
  }
  const width = pen.measureText(words).width;
  const left = align === "right" ? x - width : align === "center" ? x - width / 2 : x;
  pen.fillStyle = styles.ground;
  pen.fillRect(left - 4, y - 7, width + 8, 14);
  pen.fillStyle = color;
  pen.textAlign = "left";
  pen.fillText(words, left, y);
}
function drawTimes(pen, first, height, gutter) {
  pen.fillStyle = styles.quiet;
  pen.textAlign = "right";
  if (byTime()) {
    const least = 60 / scale;
    let step = 10 ** Math.ceil(Math.log10(least));
    if (step / 5 >= least) step /= 5;
    else if (step / 2 >= least) step /= 2;
    for (let time = Math.ceil(topUnit() / step) * step; time <= data.duration && yOf(time) < height; time += step) {
      if (time < 0) continue;
      pen.fillText(duration(time), gutter - 6, Math.max(8, yOf(time)));
    }
    return;
  }
  let last = -100;
  for (let number = first; number < marks.length; number++) {
    const y = yOf(unitOf(marks[number]));
    if (y > height) break;
    if (y - last < 15) continue;
    last = y;
    pen.fillText((marks[number].time / 1e9).toFixed(gutter < 80 ? 4 : 6), gutter - 6, y);
  }
}

// choosing a request

function select(at, scrollsTo = null) {
  chosen = at;
  drawPanel();
  for (const row of list.querySelectorAll("tr[data-at]")) row.classList.toggle("chosen", row.dataset.at === String(at));
  if (scrollsTo !== null) {
    const y = yOf(unitOf(scrollsTo));
    if (y < 20 || y > shownHeight() - 20) show(unitOf(scrollsTo), shownHeight() / 2);
  }
  redraw();
}

function step(by) {
  let number = cursor === null || marks[cursor.number] !== cursor ? firstMark(topUnit()) - (by > 0 ? 1 : 0) : cursor.number;
  do number += by;
  while (marks[number] && marks[number].at === null);
  if (!marks[number]) return;
  cursor = marks[number];
  select(cursor.at, cursor);
}
const markOf = (at) => bars.get(at)[0];
function nearest(y) {
  const unit = topUnit() + y / scale;
  let best = null;
  for (let number = firstMark(unit - 12 / scale); number < marks.length && unitOf(marks[number]) <= unit + 12 / scale; number++) {
    const mark = marks[number];
    if (best === null || Math.abs(unitOf(mark) - unit) < Math.abs(unitOf(best) - unit)) best = mark;
  }
  return best;
}
function fact(into, name, value, kind = null) {
  if (value === null || value === "") return;
  into.append(element("dt", {}, name), element("dd", { class: kind }, String(value)));
}
function drawPanel() {
  panel.replaceChildren();
  if (chosen === null) {
    panel.append(element("p", {}, total ? "Choose a request in the diagram or in the list: its details are shown here." : "There are no requests."));
    return;
  }
  const at = chosen;
  const extra = extraOf(at);
  const facts = element("dl");
  fact(facts, "outcome", outcomeText(at), kindOf(at));
  fact(facts, "from the", data.ends[columns.asker[at]]);
  fact(facts, "connection", columns.connection[at]);
  fact(facts, "channel", columns.channel[at]);
  fact(facts, "tag", columns.tag[at]);
  fact(facts, "at", clock(columns.time[at]));
  fact(facts, isAnswered(at) ? "response at" : "ended at", columns.end[at] === null ? null : clock(columns.end[at]));
  fact(facts, "latency", latencyOf(at) === null ? null : duration(latencyOf(at)));
  fact(facts, "flags", "0x" + BigInt(columns.flags[at]).toString(16));
  if (isAnswered(at)) fact(facts, "response flags", "0x" + BigInt(columns.responseFlags[at]).toString(16));
  fact(facts, "time left", extra.deadline === undefined ? null : extra.deadline + " ms when it was made");
  if (extra.cancel) fact(facts, "cancelled", clock(extra.cancel.time) + ", code " + extra.cancel.code + (extra.cancel.text ? ": " + extra.cancel.text : ""), "odd");
  fact(facts, "progress", extra.progress === undefined ? null : extra.progress + " reports");
  fact(facts, "pieces", extra.pieces === undefined ? null : extra.pieces);
  for (const [key, value] of Object.entries(extra.metadata || {})) fact(facts, "metadata " + key, value);
  panel.append(element("h3", {}, typeText(at) + ", tag " + columns.tag[at]), facts);
  if (extra.up) bodyPart("Body of the request", extra.up);
  if (extra.down) bodyPart("Body of the response", extra.down);
  payloadPart("Request", columns.request[at], columns.sent[at]);
  if (isAnswered(at)) payloadPart("Response", columns.response[at], columns.received[at]);
}
function bodyPart(title, body) {
  const facts = element("dl");
  fact(facts, "bytes", bytes(body.bytes) + " in " + body.chunks + " parts" + (body.announced === null ? "" : " of " + bytes(Number(body.announced)) + " announced"));
  if (body.first !== null) fact(facts, "time", clock(body.first) + " to " + clock(body.last));
  fact(facts, "end", body.stopped !== null ? "stopped by its reader, " + body.stopped : body.whole ? "whole" : "not whole");
  fact(facts, "waits for credit", body.waits ? body.waits + ", " + duration(body.waited) + " in all, " + duration(body.longest) + " at most" : "none");
  fact(facts, "waits since", body.waiting === null || body.whole ? null : clock(body.waiting), "odd");
  panel.append(element("h4", {}, title), facts);
}
function payloadPart(title, base64, size) {
  const octets = decoded(base64);
  const rest = size > octets.length ? ", of which the first " + octets.length + " are here" : "";
  panel.append(element("h4", {}, title + ": " + (size === 1 ? "1 byte" : size.toLocaleString("en") + " bytes") + (size && !data.preview ? ", left out" : rest)));
  if (!octets.length) return;
  const text = new TextDecoder("utf-8").decode(octets);
  const isText = /^[\P{C}\n\t\r]*\ufffd?$/u.test(text) && !/\ufffd./u.test(text);
  if (isText) panel.append(element("pre", { style: "white-space:pre-wrap;overflow-wrap:anywhere" }, text));
  panel.append(element("pre", {}, hexDump(octets)));
}

// the list

let page = 0;
let order = ["time", 1];
const COLUMNS = [
  ["request", null, (at) => element("button", { type: "button", on: { click: () => { select(at, markOf(at)); panel.scrollIntoView({ block: "nearest" }); } } }, typeText(at)), "text"],
  ["outcome", null, (at) => outcomeText(at), "text"],
  ["of the", null, (at) => data.ends[columns.asker[at]], "text"],
  ["time", (at) => columns.time[at], (at) => clock(columns.time[at]), "figure"],
  ["latency", (at) => latencyOf(at) ?? -1, (at) => duration(latencyOf(at)), "figure"],
  ["sent", (at) => columns.sent[at], (at) => bytes(columns.sent[at]), "figure"],
  ["received", (at) => columns.received[at], (at) => bytes(columns.received[at]), "figure"],
  ["tag", null, (at) => String(columns.tag[at]), "figure"],
  ["connection", null, (at) => String(columns.connection[at]), "figure"],
];
function drawList() {
  const key = COLUMNS.find(([name]) => name === order[0])[1];
  const sorted = [...shown].sort((one, other) => order[1] * (key(one) - key(other)));
  const pages = Math.max(1, Math.ceil(sorted.length / PAGE));
  const head = COLUMNS.map(([name, sorts, , kind]) => {
    const isKey = order[0] === name;
    const words = sorts && element("button", { type: "button", on: { click: () => { order = [name, isKey ? -order[1] : name === "time" ? 1 : -1]; page = 0; drawList(); list.querySelector("th[aria-sort] button").focus(); } } }, name + (isKey ? (order[1] > 0 ? " ▲" : " ▼") : ""));
    return element("th", { scope: "col", class: kind, "aria-sort": isKey ? (order[1] > 0 ? "ascending" : "descending") : null }, words || name);
  });
  const rows = sorted.slice(page * PAGE, (page + 1) * PAGE).map((at) =>
    element("tr", { "data-at": at, class: at === chosen ? "chosen" : null }, ...COLUMNS.map(([name, , cell, kind], number) =>
      element(number ? "td" : "th", { class: kind + (name === "outcome" && kindOf(at) !== "ok" ? " " + kindOf(at) : ""), scope: number ? null : "row" }, cell(at)))));
  const turn = (by) => () => { page = Math.min(Math.max(0, page + by), pages - 1); drawList(); };
  const before = button("Previous", "Previous page", turn(-1));
  const after = button("Next", "Next page", turn(1));
  before.disabled = page === 0;
  after.disabled = page >= pages - 1;
  list.replaceChildren(
    element("div", { class: "scrolls", role: "region", "aria-label": "Requests", tabindex: "0" },
      element("table", {}, element("thead", {}, element("tr", {}, ...head)), element("tbody", {}, ...rows))),
    element("div", { class: "pager" }, before, element("span", {}, "page " + (page + 1) + " of " + pages.toLocaleString("en")), after));
}

// events

let typing = 0;
search.addEventListener("input", () => { clearTimeout(typing); typing = setTimeout(choose, 150); });
for (const each of [choice, connection]) each.addEventListener("change", choose);
axis.addEventListener("change", () => {
  const time = chosen === null ? null : columns.time[chosen];
  fit();
  if (time !== null) showTime(time);
});
view.addEventListener("scroll", () => {
  const height = units() * scale + 2 * margin;
  if (height > MAX_HEIGHT) { // only a part can be scrolled: take another part before its edge is reached
    const unit = topUnit() + shownHeight() / 2 / scale;
    const atTop = view.scrollTop < MAX_HEIGHT / 10 && base > 0;
    const atBottom = view.scrollTop > MAX_HEIGHT * 0.9 && base + (MAX_HEIGHT - 2 * margin) / scale < units() - 1;
    if (atTop || atBottom) show(unit, shownHeight() / 2);
  }
  tip.hidden = true;
  redraw();
});
view.addEventListener("wheel", (event) => {
  if (!event.ctrlKey && !event.metaKey) return;
  event.preventDefault();
  zoom(Math.exp(-event.deltaY / 200), event.clientY - view.getBoundingClientRect().top);
}, { passive: false });
view.addEventListener("keydown", (event) => {
  const actions = {
    ArrowDown: () => step(1), ArrowUp: () => step(-1), "+": () => zoom(1.6), "=": () => zoom(1.6), "-": () => zoom(1 / 1.6),
    0: () => fit(), Enter: () => panel.focus(), Escape: () => { cursor = null; select(null); },
  };
  if (event.ctrlKey || event.metaKey || event.altKey || !actions[event.key]) return;
  event.preventDefault();
  actions[event.key]();
});
panel.addEventListener("keydown", (event) => { if (event.key === "Escape") view.focus(); });
view.addEventListener("click", (event) => {
  const mark = nearest(event.clientY - view.getBoundingClientRect().top);
  if (mark === null || mark.at === null) return;
  cursor = mark;
  select(mark.at);
});
view.addEventListener("pointermove", (event) => {
  if (event.pointerType !== "mouse") return;
  const box = view.getBoundingClientRect();
  const mark = nearest(event.clientY - box.top);
  tip.hidden = mark === null;
  if (mark === null) return;
  const octets = mark.at === null || mark.what === "cancel" ? [] : decoded(columns[mark.what][mark.at]).subarray(0, 48);
  tip.replaceChildren(markText(mark), element("br"), clock(mark.time), octets.length ? element("br") : "", ascii(octets));
  const top = event.clientY - box.top + view.offsetTop + 16;
  tip.style.top = Math.min(top, view.offsetTop + shownHeight() - 70) + "px";
  tip.style.left = Math.min(event.clientX - box.left + 12, Math.max(8, view.clientWidth - 330)) + "px";
});
view.addEventListener("pointerleave", () => { tip.hidden = true; });
const fingers = new Map();
view.addEventListener("pointerdown", (event) => { if (event.pointerType === "touch") fingers.set(event.pointerId, event.clientY); });
view.addEventListener("pointermove", (event) => {
  if (!fingers.has(event.pointerId)) return;
  const apart = () => { const [one, other] = [...fingers.values()]; return Math.max(10, Math.abs(one - other)); };
  const before = fingers.size === 2 ? apart() : 0;
  fingers.set(event.pointerId, event.clientY);
  if (before) zoom(apart() / before);
});
for (const name of ["pointerup", "pointercancel"]) view.addEventListener(name, (event) => fingers.delete(event.pointerId));

// what the rest of the page leads to

for (const each of document.querySelectorAll("button[data-search]")) {
  each.disabled = false;
  each.addEventListener("click", () => {
    search.value = each.dataset.search;
    choice.value = connection.value = "";
    choose();
    if (shown.length === 1) select(shown[0]);
    document.getElementById("diagram").scrollIntoView();
    view.focus({ preventScroll: true });
  });
}
const spans = data.spans;
for (const chart of document.querySelectorAll("[data-chart]")) {
  const readout = element("div", { class: "readout", "aria-hidden": "true" });
  chart.parentElement.append(readout);
  const spanAt = (event) => {
    const box = chart.getBoundingClientRect();
    return Math.min(spans.underWay.length - 1, Math.max(0, Math.floor(((event.clientX - box.left) / box.width) * spans.underWay.length)));
  };
  chart.addEventListener("pointermove", (event) => {
    const span = spanAt(event);
    const [forth, back] = [0, 1].map((side) => spans.packets[side][span].toLocaleString("en") + " packets, " + bytes(spans.bytes[side][span]));
    readout.textContent = duration(span * spans.width) + ": " + data.ends[0] + " " + forth + "; " + data.ends[1] + " " + back + "; " + spans.underWay[span].toLocaleString("en") + " under way; " + spans.failures[span].toLocaleString("en") + " not ok";
  });
  chart.addEventListener("pointerleave", () => { readout.textContent = ""; });
}

readStyles();
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { readStyles(); redraw(); });
new ResizeObserver(() => {
  const unit = topUnit();
  show(unit, 0);
}).observe(view);
function searchByAddress() { // page.html#search=type:7, to be passed on
  if (!location.hash.startsWith("#search=")) return;
  try {
    search.value = decodeURIComponent(location.hash.slice("#search=".length));
  } catch {
    return;
  }
  choose();
  if (shown.length) select(shown[0], markOf(shown[0]));
}
window.addEventListener("hashchange", searchByAddress);
drawPanel();
choose();
searchByAddress();
})();
