"use strict";

// Asks the daemon once a second while somebody looks, and draws what it says. All that is kept is the last minute, here.
// Whatever a name holds, it is only ever text: nothing is made of HTML.

const POINTS = 60;
const ROWS = 50;
const CELLS = 4096;
const PAUSE = 1000;
const PATIENCE = 8000;
const WAITS = { first_byte: "the origin's first byte", body: "the origin's body", lock: "another process", disk: "the disk" };
const SVG = "http://www.w3.org/2000/svg";

const element = (id) => document.getElementById(id);

const view = { search: "", offset: 0, chosen: null, map: null, mapped: 0, cursor: null };
const history = { read: [], fetch: [], hit: [], flight: [], origins: new Map() };
let before = null;

// --- how numbers are shown

function size(bytes) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
  let unit = 0;
  while (bytes >= (unit ? 1023.95 : 1024) && unit < units.length - 1) { bytes /= 1024; unit += 1; }
  return `${unit ? bytes.toFixed(1) : Math.round(bytes)} ${units[unit]}`;
}

function duration(seconds) {
  if (seconds >= 1) return `${seconds.toFixed(1)} s`;
  return seconds >= 0.01 ? `${Math.round(seconds * 1000)} ms` : `${Number((seconds * 1000).toPrecision(2))} ms`;
}

const count = (number) => Math.round(number).toLocaleString("en");
const plural = (number, what) => `${count(number)} ${what}${Math.round(number) === 1 ? "" : "s"}`;

function share(part, whole) {
  if (whole === 0 || part >= whole) return "complete";
  const percent = (100 * part) / whole;
  return percent > 0 && percent < 1 ? "under 1 %" : `${Math.min(99, Math.floor(percent))} %`;
}

// --- how things are put on the page

function text(id, words) {
  const node = element(id);
  if (node.textContent !== words) node.textContent = words;
}

function make(name, className, words) {
  const node = document.createElement(name);
  if (className) node.className = className;
  if (words !== undefined) node.textContent = words;
  return node;
}

function shape(name, attributes) {
  const node = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  return node;
}

// Has a table's body hold one row for each item, kept by its key, so that what is focused or selected stays so.
function rows(body, items, key, fill) {
  const there = new Map(Array.from(body.children, (row) => [row.dataset.key, row]));
  let at = body.firstElementChild;
  for (const item of items) {
    const name = key(item);
    const row = there.get(name) || make("tr");
    there.delete(name);
    row.dataset.key = name;
    if (row === at) at = at.nextElementSibling;
    else body.insertBefore(row, at);
    fill(row, item);
  }
  for (const row of there.values()) row.remove();
}

function cells(row, classes) {
  if (!row.children.length) for (const name of classes) row.append(make("td", name));
  return row.children;
}

function chart(svg, points, most) {
  const top = most || Math.max(1e-9, ...points);
  const step = 100 / (POINTS - 1);
  const first = 100 - (points.length - 1) * step;
  const line = points.map((value, at) => `${(first + at * step).toFixed(2)},${(30 - 29 * Math.min(1, value / top)).toFixed(2)}`);
  if (!svg.children.length) {
    svg.setAttribute("viewBox", "0 0 100 30");
    svg.setAttribute("preserveAspectRatio", "none");
    svg.append(shape("line", { class: "base", x1: 0, y1: 30, x2: 100, y2: 30 }));
    svg.append(shape("polygon", { class: "area" }), shape("polyline", { class: "line" }));
  }
  svg.children[1].setAttribute("points", line.length ? `${first.toFixed(2)},30 ${line.join(" ")} 100,30` : "");
  svg.children[2].setAttribute("points", line.join(" "));
}

function push(points, value) {
  points.push(value);
  if (points.length > POINTS) points.shift();
}

// --- rates, origins, reads

function showState(state, seconds) {
  const same = before !== null && before.pid === state.pid ? before : null;
  const rate = (now, then) => (same === null ? 0 : Math.max(0, now - then) / seconds);
  const rates = {};
  for (const [name, value] of Object.entries(state.counters)) rates[name] = rate(value, same?.counters[name] ?? 0);
  const fetched = rates.origin_bytes;
  push(history.read, rates.read_bytes);
  push(history.fetch, fetched);
  const blocks = rates.blocks_hit + rates.blocks_awaited + rates.blocks_fetched;
  push(history.hit, blocks ? rates.blocks_hit / blocks : 0);
  push(history.flight, state.flights);

  document.title = `${state.mountpoint} – lazyfs`;
  text("mountpoint", state.mountpoint);
  text("about", `${plural(state.files, "file")}, ${count(state.open_files)} open, daemon ${state.pid}, version ${state.version}`);
  text("read-now", `${size(rates.read_bytes)}/s`);
  const past = state.counters.passthrough_opens;
  text("read-more", `${plural(rates.reads, "read")}/s; ${size(state.counters.read_bytes)} so far` +
    (past ? `, and what ${plural(past, "open")} read past the daemon` : ""));
  text("fetch-now", `${size(fetched)}/s`);
  text("fetch-more", `${plural(rates.origin_requests, "request")}/s; ${size(state.counters.origin_bytes)} so far`);
  text("hit-now", blocks ? `${Math.floor((100 * rates.blocks_hit) / blocks)} %` : "none read");
  text("hit-more", `${count(rates.blocks_hit)}/s hit, ${count(rates.blocks_fetched)}/s fetched, ${count(rates.blocks_awaited)}/s awaited`);
  text("flight-now", count(state.flights));
  text("flight-more", `${plural(state.counters.retries, "retry").replace("retrys", "retries")}, ${plural(state.counters.errors, "error")} so far`);
  chart(element("read-chart"), history.read);
  chart(element("fetch-chart"), history.fetch);
  chart(element("hit-chart"), history.hit, 1);
  chart(element("flight-chart"), history.flight);
  showStore(state.store);
  showOrigins(state.origins, same?.origins ?? {}, rate);
  showSlow(state.slow_reads);
  before = state;
}

function showStore(store) {
  const bound = store.max_cache ? ` of ${size(store.max_cache)} at the most` : ", without a bound";
  const used = store.used === undefined ? "" : `${size(store.used)}${bound}, `;
  text("store-text", `${used}${store.path}${store.degraded ? `; it takes no blocks: ${store.degraded}` : ""}`);
  element("store-text").classList.toggle("bad", Boolean(store.degraded));
  element("store-bar").hidden = !store.max_cache;
  if (store.max_cache) element("store-bar").value = Math.min(1, store.used / store.max_cache);
}

function within(begun, part) {
  const total = begun.counts.reduce((sum, value) => sum + value, 0);
  if (!total) return "–";
  let seen = 0;
  for (const [at, value] of begun.counts.entries()) {
    seen += value;
    if (seen >= part * total) return at < begun.bounds.length ? duration(begun.bounds[at]) : `over ${duration(begun.bounds.at(-1))}`;
  }
  return "–";
}

function bars(svg, begun) {
  const most = Math.max(1, ...begun.counts);
  const width = 100 / begun.counts.length;
  svg.setAttribute("viewBox", "0 0 100 24");
  svg.setAttribute("preserveAspectRatio", "none");
  const ends = [...begun.bounds.map((bound) => `within ${duration(bound)}`), "longer"];
  svg.replaceChildren(...begun.counts.map((value, at) => {
    const height = value ? Math.max(2, (24 * value) / most) : 0.6;
    const bar = shape("rect", { x: at * width + 0.6, y: 24 - height, width: width - 1.2, height });
    const title = shape("title", {});
    title.textContent = `${ends[at]}: ${count(value)}`;
    bar.append(title);
    return bar;
  }));
}

function showOrigins(origins, then, rate) {
  for (const name of history.origins.keys()) if (!(name in origins)) history.origins.delete(name);
  rows(element("origins"), Object.entries(origins), ([name]) => name, (row, [name, origin]) => {
    const [title, trend, now, requests, histogram, half, most, faults] = cells(row, ["wide", "", "number", "number", "", "number", "number", "number"]);
    const bytes = rate(origin.bytes, then[name]?.bytes ?? 0);
    if (!history.origins.has(name)) history.origins.set(name, []);
    push(history.origins.get(name), bytes);
    title.textContent = origin.failing ? `${name} (failing)` : name;
    title.classList.toggle("bad", origin.failing);
    if (!trend.children.length) {
      trend.append(shape("svg", { class: "chart fetch", role: "img", "aria-label": "Throughput in the last minute" }));
      histogram.append(shape("svg", { class: "bars", role: "img", "aria-label": "How many answers began within how long" }));
    }
    chart(trend.firstElementChild, history.origins.get(name));
    bars(histogram.firstElementChild, origin.first_byte);
    now.textContent = `${size(bytes)}/s`;
    requests.textContent = `${count(origin.requests)}, ${origin.under_way} now${origin.waiting ? `, ${origin.waiting} wait` : ""}`;
    half.textContent = within(origin.first_byte, 0.5);
    most.textContent = within(origin.first_byte, 0.95);
    faults.textContent = count(origin.faults);
    faults.classList.toggle("bad", origin.faults > 0);
  });
}

function showSlow(reads) {
  element("slow-none").hidden = reads.length > 0;
  element("slow-area").hidden = reads.length === 0;
  rows(element("slow"), reads, (read) => `${read.time} ${read.blob} ${read.offset} ${read.pid}`, (row, read) => {
    const [took, file, at, length, who, why] = cells(row, ["number", "wide", "number", "number", "", "wide"]);
    took.textContent = duration(read.seconds) + (read.under_way ? ", still" : "");
    file.textContent = read.path ?? read.blob.slice(0, 20);
    at.textContent = size(read.offset);
    length.textContent = size(read.length);
    who.textContent = read.command === null ? "" : `${read.command} (${read.pid})`;
    const waited = Object.entries(read.waited).map(([what, seconds]) => `${WAITS[what] ?? what} ${duration(seconds)}`).join(", ");
    const after = read.faults.length ? `, after: ${read.faults.join("; ")}` : "";
    why.textContent = waited + after + (read.error === null ? "" : `; failed: ${read.error}`);
    why.classList.toggle("bad", read.error !== null);
  });
}

// --- files

function showFiles(found) {
  const last = found.offset + found.files.length;
  text("files-count", count(found.total));
  text("range", found.files.length ? `${count(found.offset + 1)} to ${count(last)}${found.more ? " and more" : ""}` : "none");
  element("previous").disabled = found.offset === 0;
  element("next").disabled = !found.more;
  rows(element("files"), found.files, (file) => file.inode, (row, file) => {
    const [name, length, part] = cells(row, ["name", "number", ""]);
    if (!name.children.length) {
      const button = make("button");
      button.type = "button";
      button.addEventListener("click", () => choose(row.file));
      name.append(button);
      const about = make("div", "share");
      const bar = make("progress");
      bar.max = 1;
      bar.setAttribute("aria-hidden", "true");
      about.append(bar, make("span"));
      part.append(about);
    }
    row.file = file;
    const button = name.firstElementChild;
    button.textContent = file.path;
    button.title = file.path;
    const chosen = view.chosen !== null && view.chosen.inode === file.inode;
    row.classList.toggle("chosen", chosen);
    button.setAttribute("aria-pressed", String(chosen));
    if (chosen && file.blob !== view.chosen.blob) view.chosen = file;
    length.textContent = size(file.size);
    const [bar, words] = part.firstElementChild.children;
    const present = file.present ?? 0;
    bar.value = file.size ? present / file.size : 1;
    const busy = file.flights > 0 || (file.fetched && present < file.size);
    part.firstElementChild.classList.toggle("fetching", busy);
    words.textContent = (file.blob === null || (present === 0 && file.size > 0) ? "nothing" : share(present, file.size)) +
      (busy ? ", fetching" : file.open ? ", open" : "");
  });
}

function choose(file) {
  view.chosen = file;
  view.map = null;
  view.cursor = null;
  element("map-area").hidden = true;
  text("map-name", file.path);
  text("map-share", "");
  for (const row of element("files").children) {
    const chosen = row.file.inode === file.inode;
    row.classList.toggle("chosen", chosen);
    row.firstElementChild.firstElementChild.setAttribute("aria-pressed", String(chosen));
  }
  soon();
}

// --- the block map

function showMap(map) {
  if (!map.there) {
    view.map = null;
    element("map-area").hidden = true;
    text("map-name", `${view.chosen.path}: nothing of it has been read or fetched yet.`);
    text("map-share", "");
    return;
  }
  const came = view.map === null ? 0 : map.bytes.present - view.map.bytes.present;
  const since = view.mapped;
  view.mapped = performance.now();
  view.map = map;
  element("map-area").hidden = false;
  const cell = map.each === 1 ? "each cell is one" : `each cell is ${count(map.each)} of them, ${size(map.each * map.block_size)}`;
  text("map-name", `${view.chosen.path}: ${size(map.size)} in ${plural(map.blocks, "block")} of ${size(map.block_size)}; ${cell}`);
  const rate = came > 0 ? `, ${size((came * 1000) / (view.mapped - since))}/s` : "";
  text("map-share", share(map.bytes.present, map.size) + rate + (map.pinned ? ", pinned" : ""));
  for (const name of ["present", "hot", "fetching", "missing"]) text(name, size(map.bytes[name]));
  element("map").setAttribute("aria-label", `Block map: ${share(map.bytes.present, map.size)} present, ${size(map.bytes.missing)} ` +
    `missing, ${size(map.bytes.fetching)} being fetched. Arrow keys go from cell to cell.`);
  draw();
}

// The largest cells, of whole pixels, with which the map is no higher than it may be.
function layout(cellCount, width) {
  const highest = 400;
  for (let side = 26; side > 3; side -= 1) {
    const columns = Math.floor(width / side);
    const lines = Math.ceil(cellCount / columns);
    if (lines * side <= highest) return { side, columns, lines };
  }
  const columns = Math.floor(width / 3);
  return { side: 3, columns, lines: Math.ceil(cellCount / columns) };
}

function draw() {
  const map = view.map;
  const canvas = element("map");
  const width = canvas.clientWidth;
  if (map === null || width === 0) return;
  const { side, columns, lines } = layout(map.present.length, width);
  const ratio = window.devicePixelRatio || 1;
  canvas.style.height = `${lines * side}px`;
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(lines * side * ratio);
  const pen = canvas.getContext("2d");
  pen.scale(ratio, ratio);
  const style = getComputedStyle(document.documentElement);
  const [missing, present, hot, fetching, ink] = ["missing", "present", "hot", "fetching", "ink"].map((name) => style.getPropertyValue(`--${name}`));
  const gap = side > 5 ? 1 : 0.5;
  const square = (at, inset) => pen.fillRect((at % columns) * side + inset, Math.floor(at / columns) * side + inset, side - gap - 2 * inset, side - gap - 2 * inset);
  for (let at = 0; at < map.present.length; at += 1) {
    const blocks = Math.min(map.each, map.blocks - at * map.each);
    const part = map.present[at] / blocks;
    pen.globalAlpha = 1;
    pen.fillStyle = missing;
    square(at, 0);
    if (part > 0) {
      pen.globalAlpha = part === 1 ? 1 : 0.4 + 0.45 * part;
      pen.fillStyle = 2 * map.hot[at] > map.present[at] ? hot : present;
      square(at, 0);
    }
    pen.globalAlpha = 1;
    if (map.fetching[at] > 0) {
      pen.fillStyle = fetching;
      square(at, 0);
    } else if (2 * map.hot[at] > map.present[at] && side > 7) {
      pen.fillStyle = missing;
      square(at, side * 0.38);
    }
    if (at === view.cursor) {
      pen.strokeStyle = ink;
      pen.lineWidth = 2;
      pen.strokeRect((at % columns) * side, Math.floor(at / columns) * side, side - gap, side - gap);
    }
  }
  describe();
}

function describe() {
  const map = view.map;
  const at = view.cursor;
  if (map === null || at === null || at >= map.present.length) {
    text("cell", "");
    return;
  }
  const first = at * map.each;
  const last = Math.min(first + map.each, map.blocks) - 1;
  const parts = [[map.present[at], "present"], [map.hot[at], "hot"], [map.fetching[at], "being fetched"]];
  const said = parts.filter(([number]) => number > 0).map(([number, what]) => `${number === last - first + 1 ? "" : `${count(number)} `}${what}`);
  const blocks = first === last ? `Block ${count(first)}` : `Blocks ${count(first)} to ${count(last)}`;
  text("cell", `${blocks}, at ${size(first * map.block_size)}: ${said.join(", ") || "missing"}`);
}

function point(at) {
  if (view.map === null) return;
  view.cursor = at === null ? null : Math.max(0, Math.min(view.map.present.length - 1, at));
  draw();
}

element("map").addEventListener("keydown", (event) => {
  if (view.map === null) return;
  const { columns } = layout(view.map.present.length, element("map").clientWidth);
  const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns };
  if (!(event.key in steps)) return;
  event.preventDefault();
  point(view.cursor === null ? 0 : view.cursor + steps[event.key]);
});
element("map").addEventListener("pointermove", (event) => {
  if (view.map === null) return;
  const { side, columns } = layout(view.map.present.length, element("map").clientWidth);
  const at = Math.floor(event.offsetY / side) * columns + Math.min(columns - 1, Math.floor(event.offsetX / side));
  point(at < view.map.present.length ? at : null);
});
element("map").addEventListener("pointerleave", () => point(null));
window.addEventListener("resize", draw);

// --- asking

async function ask(path, words) {
  const query = words ? `?${new URLSearchParams(words)}` : "";
  const answer = await fetch(path + query, { cache: "no-store", signal: AbortSignal.timeout(PATIENCE) });
  const content = await answer.json();
  if (!answer.ok) throw new Error(content.error);
  return content;
}

let asked = 0;

async function look() {
  const began = performance.now();
  const state = await ask("/api/state");
  showState(state, asked ? (began - asked) / 1000 : 1);
  asked = began;
  const { search, offset, chosen } = view;
  const found = await ask("/api/files", { search, offset, limit: ROWS });
  if (search === view.search && offset === view.offset) showFiles(found);
  if (view.chosen !== null && view.chosen === chosen) {
    const map = chosen.blob === null ? { there: false } : await ask("/api/map", { blob: chosen.blob, cells: CELLS });
    if (view.chosen === chosen) showMap(map);
  }
}

let due = 0;
let looking = false;

async function tick() {
  clearTimeout(due);
  if (document.hidden || looking) return;
  looking = true;
  const began = performance.now();
  try {
    await look();
    document.body.dataset.state = "live";
    element("gone").hidden = true;
    text("health-text", "live");
  } catch (error) {
    document.body.dataset.state = "gone";
    element("gone").hidden = false;
    text("health-text", "no answer");
  }
  looking = false;
  due = setTimeout(tick, Math.max(again ? 0 : 100, again ? 0 : PAUSE - (performance.now() - began)));
  again = false;
}

let again = false;

// Looks at once, or as soon as what is under way has come.
function soon() {
  if (looking) again = true;
  else tick();
}

element("search").addEventListener("input", (event) => {
  view.search = event.target.value.toWellFormed();
  view.offset = 0;
  element("files-scroll").scrollTop = 0;
  soon();
});
element("previous").addEventListener("click", () => { view.offset = Math.max(0, view.offset - ROWS); turned(); });
element("next").addEventListener("click", () => { view.offset += ROWS; turned(); });

function turned() {
  element("files-scroll").scrollTop = 0;
  soon();
}

document.addEventListener("visibilitychange", soon);
tick();
