"use strict";

const at = (id) => document.getElementById(id);
const { colours, known } = JSON.parse(at("data").textContent);
const LISTED = 50; // choices that are shown at a time

// What a page may hold is text: nothing of an index is ever read as HTML.
function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined && value !== false) made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child !== null));
  return made;
}

// An index in the page itself: its products are computed here, from the same float32 rows.
class Inside {
  constructor() {
    const bytes = Uint8Array.from(atob(known.rows), (letter) => letter.charCodeAt(0));
    this.rows = new Float32Array(bytes.buffer);
    this.places = new Map(known.items.map((item, place) => [String(item.id), place]));
  }

  async items() {
    return known;
  }

  async search(id, { modality, where, k }) {
    const query = this.places.get(id);
    if (query === undefined) throw new Error(`ids: expected ids of the index, got "${id}"`);
    const { width } = known;
    const scores = [];
    known.items.forEach((item, place) => {
      const other = Object.entries(where).some(([column, value]) => item.record[column] !== value);
      if (place === query || other || (modality !== null && item.modality !== modality)) return;
      let sum = 0;
      for (let d = 0; d < width; d++) sum += this.rows[query * width + d] * this.rows[place * width + d];
      scores.push([sum, place]);
    });
    scores.sort(([a, first], [b, second]) => b - a || first - second);
    const shown = (place) => ({ item: known.items[place].record, picture: known.items[place].picture });
    const found = scores.slice(0, k).map(([score, place]) => ({ ...shown(place), score }));
    return { query: shown(query), found };
  }

  async picture(address) {
    return address;
  }
}

// An index behind a server.
class Served {
  constructor() {
    this.token = null;
    this.pictures = new Map();
  }

  async call(path, body) {
    const headers = this.token === null ? {} : { authorization: `Bearer ${this.token}` };
    if (body !== undefined) headers["content-type"] = "application/json";
    const method = body === undefined ? "GET" : "POST";
    const reply = await fetch(path, { method, headers, body: body && JSON.stringify(body) });
    if (reply.ok) return reply;
    const said = await reply.json().catch(() => ({ error: `status ${reply.status}` }));
    throw Object.assign(new Error(said.error), { status: reply.status });
  }

  async items() {
    const found = await (await this.call("items")).json();
    this.version = found.version;
    return found;
  }

  async search(id, { modality, where, k }) {
    const asked = { ids: [id], k };
    if (modality !== null) asked.modality = modality;
    if (Object.keys(where).length) asked.where = where;
    const { version, results } = await (await this.call("search", asked)).json();
    this.changed = version !== this.version;
    for (const one of [results[0].query, ...results[0].found]) {
      one.picture = one.picture ? `pictures/${version}/${one.number}` : null;
    }
    return results[0];
  }

  // Fetched, as an address alone could carry no token.
  async picture(address) {
    if (!this.pictures.has(address)) {
      if (this.pictures.size >= 300) this.forget();
      const blob = this.call(address).then((reply) => reply.blob());
      this.pictures.set(address, blob.then((one) => URL.createObjectURL(one)));
    }
    return this.pictures.get(address);
  }

  forget() {
    for (const one of this.pictures.values()) one.then((url) => URL.revokeObjectURL(url), () => {});
    this.pictures.clear();
  }
}

const source = known === null ? new Served() : new Inside();
let all; // what source.items() said
let byId; // id -> item
let current = null; // id of the query
let shown = new Set(); // ids of what it found
let latest = 0; // number of the last search that began

function say(text, bad = false) {
  at("status").textContent = text;
  at("status").classList.toggle("bad", bad);
}

// ---- choosing a query

let choices = [];
let chosen = -1;

// Items with all the words somewhere: first those whose name is the text, begins with it, has it.
function matching(text) {
  const whole = text.toLowerCase().trim();
  const words = whole.split(/\s+/).filter(Boolean);
  const rank = (item) => {
    const names = [item.label, String(item.id)].map((name) => name.toLowerCase());
    const fits = [(name) => name === whole, (name) => name.startsWith(whole), (name) => name.includes(whole)];
    const place = fits.findIndex((fit) => names.some(fit));
    return place < 0 ? fits.length : place;
  };
  const found = all.items.filter((item) => words.every((word) => item.words.includes(word)));
  return words.length ? found.map((item) => [rank(item), item]).sort(([a], [b]) => a - b).map(([, item]) => item) : found;
}

function list() {
  const found = matching(at("choose").value);
  choices = found.slice(0, LISTED);
  chosen = -1;
  const options = choices.map((item, place) => {
    const about = [String(item.id) === item.label ? "" : item.id, item.modality ?? ""];
    const more = element("span", {}, about.filter((one) => one !== "").join(" · "));
    return element("li", { id: `choice-${place}`, role: "option", "aria-selected": "false" }, item.label, more);
  });
  if (found.length > LISTED) {
    const left = (found.length - LISTED).toLocaleString("en");
    options.push(element("li", { role: "none" }, element("span", {}, `… ${left} more; go on typing`)));
  }
  at("choices").replaceChildren(...options);
  open(options.length > 0);
}

function open(yes) {
  at("choices").hidden = !yes;
  at("choose").setAttribute("aria-expanded", String(yes));
  if (!yes) at("choose").removeAttribute("aria-activedescendant");
}

function mark(place) {
  const options = at("choices").querySelectorAll("[role=option]");
  options[chosen]?.setAttribute("aria-selected", "false");
  chosen = (place + options.length) % options.length;
  options[chosen].setAttribute("aria-selected", "true");
  options[chosen].scrollIntoView({ block: "nearest" });
  at("choose").setAttribute("aria-activedescendant", options[chosen].id);
}

function choose(id) {
  open(false);
  at("choose").value = "";
  go(id);
}

at("choose").addEventListener("input", list);
at("choose").addEventListener("focus", list);
at("choose").addEventListener("blur", () => open(false));
at("choose").addEventListener("keydown", (event) => {
  const text = at("choose").value.trim();
  if ((event.key === "ArrowDown" || event.key === "ArrowUp") && all) {
    if (at("choices").hidden) list();
    if (choices.length) mark(event.key === "ArrowDown" ? chosen + 1 : Math.max(chosen, 0) - 1);
  } else if (event.key === "Escape") {
    open(false);
  } else if (event.key === "Enter" && (chosen >= 0 || text)) {
    // what is marked, the id that was typed, or the first that fits; where not all are listed, any id
    const first = all.items.length < all.count ? undefined : choices[0];
    choose(String((choices[chosen] ?? byId.get(text) ?? first)?.id ?? text));
  } else {
    return;
  }
  event.preventDefault();
});
at("choices").addEventListener("mousedown", (event) => {
  event.preventDefault(); // the box keeps the focus
  const place = [...at("choices").children].indexOf(event.target.closest("[role=option]"));
  if (place >= 0) choose(String(choices[place].id));
});

// ---- asking and showing

const address = (id) => `#${encodeURIComponent(id)}`;

function go(id) {
  if (location.hash === address(id)) show(id);
  else location.hash = address(id);
}

function fromAddress() {
  try {
    return decodeURIComponent(location.hash.slice(1));
  } catch {
    return "";
  }
}

async function picture(found) {
  const image = element("img", { alt: "", loading: "lazy" });
  try {
    image.src = await source.picture(found.picture);
  } catch {
    return null; // gone from the disk, or not one that is shown
  }
  return image;
}

const KNOWN = ["id", "modality", "name", "text"];

function body(item) {
  const more = Object.entries(item).filter(([name]) => !KNOWN.includes(name));
  const line = more.map(([name, value]) => `${name}: ${value}`).join(" · ");
  return [
    item.text === undefined || item.name === undefined ? null : element("p", { class: "text" }, item.text),
    line ? element("p", { class: "more" }, line) : null,
  ];
}

const title = (item) => String([item.name, item.text].find((one) => String(one ?? "").trim() !== "") ?? item.id);
const number = (score) => (Math.abs(score) < 1e6 ? score.toFixed(3) : score.toExponential(3));

async function card(found, place) {
  const facts = [place + 1, title(found.item) === String(found.item.id) ? null : found.item.id, number(found.score)];
  const inner = element("div", { class: "card" });
  inner.append(element("h3", { class: "text" }, title(found.item)));
  inner.append(element("p", { class: "facts" }, facts.filter((one) => one !== null).join(" · ")));
  inner.append(...body(found.item).filter(Boolean));
  const image = found.picture ? await picture(found) : null;
  return element("li", {}, element("a", { href: address(found.item.id) }, ...[image, inner].filter(Boolean)));
}

function wanted() {
  const where = Object.create(null); // a column may have any name
  for (const select of at("filters").querySelectorAll("select")) {
    if (select.value !== "") where[select.name] = all.classes[select.name][Number(select.value)];
  }
  return { where, k: Number(at("count").value) };
}

// Every modality answers; all items together where some are of none.
function sections() {
  const together = all.modalities.length === 0 || all.items.some((item) => item.modality === null);
  return together ? [null, ...all.modalities] : all.modalities;
}

async function show(id, focus = false) {
  const mine = ++latest;
  say("Searching …");
  let replies, cards, asked;
  try {
    const { where, k } = wanted();
    replies = await Promise.all(sections().map((modality) => source.search(id, { modality, where, k })));
    cards = await Promise.all(replies.map((reply) => Promise.all(reply.found.map(card))));
    const { query } = replies[0];
    const own = title(query.item) === String(query.item.id) ? null : query.item.id;
    const facts = ["Query", query.item.modality ?? null, own].filter((one) => one !== null);
    const heading = element("h2", { tabindex: "-1" }, title(query.item));
    const words = element("div", {}, heading, element("p", { class: "facts" }, facts.join(" · ")));
    words.append(...body(query.item).filter(Boolean));
    asked = [query.picture ? await picture(query) : null, words].filter(Boolean);
  } catch (error) {
    if (mine === latest) fail(error);
    return;
  }
  if (mine !== latest) return; // another query has begun
  current = id;
  shown = new Set(replies.flatMap((reply) => reply.found.map((found) => String(found.item.id))));
  at("query").hidden = false;
  at("asked").replaceChildren(...asked);
  const answers = sections().map((modality, place) => {
    const name = `answer-${place}`;
    const items = element("ol", { class: "found" }, ...cards[place]);
    const nothing = element("p", {}, "Nothing found.");
    const heading = element("h2", { id: name }, modality ?? "All items");
    return element("section", { "aria-labelledby": name }, heading, cards[place].length ? items : nothing);
  });
  at("answers").replaceChildren(...answers);
  const total = cards.reduce((sum, one) => sum + one.length, 0);
  say(`${total} found`);
  if (focus) asked.at(-1).querySelector("h2").focus();
  draw();
  if (source.changed) await load(false);
}

function fail(error) {
  if (error.status === 401) {
    at("entry").hidden = false;
    at("explorer").hidden = true;
    at("refused").hidden = source.token === null;
    at("token").focus();
    return;
  }
  const words = error instanceof TypeError ? "The server does not answer." : error.message;
  if (all === undefined) at("about").textContent = words; // there is nothing yet to explore
  else say(words, true);
}

window.addEventListener("hashchange", () => {
  at("back").hidden = false;
  const id = fromAddress();
  if (id !== "") show(id, document.activeElement !== at("choose") && document.activeElement !== at("points"));
});
at("back").addEventListener("click", () => history.back());
at("count").addEventListener("change", () => current !== null && show(current));

// ---- the map

let pointed = null; // item under the pointer, or reached by arrow keys
let spots = []; // x and y of each item on the canvas

const dark = matchMedia("(prefers-color-scheme: dark)");
const GREY = "#8a94a3"; // of no class

// How the points of the class at a place look: ten colours, and five ways to draw each.
function look(place) {
  const colour = colours[place % colours.length];
  const way = Math.floor(place / colours.length) % 5;
  const hollow = way === 1 || way === 4;
  const line = hollow ? colour : way === 2 ? "--ink" : "--card";
  return { fill: hollow ? "--card" : colour, line, thick: hollow || way === 2, core: way > 2 ? "--ink" : null };
}

const NO_CLASS = { fill: GREY, line: "--card", thick: false, core: null };

// What is coloured: column -1 is the modality.
function values() {
  const column = Number(at("colour").value);
  const kinds = column < 0 ? all.modalities : Object.values(all.classes)[column];
  const of = (item) => (column < 0 ? item.modality : item.classes[column]);
  return { kinds, of };
}

function outline(path, shape, x, y, r) {
  if (shape % 3 === 0) {
    path.moveTo(x + r, y);
    path.arc(x, y, r, 0, 2 * Math.PI);
  } else if (shape % 3 === 1) {
    path.moveTo(x, y - 1.2 * r);
    path.lineTo(x + 1.1 * r, y + 0.8 * r);
    path.lineTo(x - 1.1 * r, y + 0.8 * r);
    path.closePath();
  } else {
    path.rect(x - 0.9 * r, y - 0.9 * r, 1.8 * r, 1.8 * r);
  }
}

function draw() {
  const canvas = at("points");
  const side = canvas.clientWidth;
  if (!side) return;
  const scale = window.devicePixelRatio || 1;
  canvas.width = canvas.height = Math.round(side * scale);
  const pen = canvas.getContext("2d");
  pen.scale(scale, scale);
  const style = getComputedStyle(document.documentElement);
  const own = Object.fromEntries(["--ink", "--card"].map((name) => [name, style.getPropertyValue(name).trim()]));
  const paint = (name) => own[name] ?? name;
  const ends = [0, 1].map((axis) => {
    const line = all.items.map((item) => item.place[axis]);
    return [line.reduce((a, b) => Math.min(a, b), Infinity), line.reduce((a, b) => Math.max(a, b), -Infinity)];
  });
  const span = Math.max(ends[0][1] - ends[0][0], ends[1][1] - ends[1][0]) || 1;
  const middle = ends.map(([low, high]) => (low + high) / 2);
  const room = side - 24;
  spots = all.items.map(({ place }) => [
    side / 2 + ((place[0] - middle[0]) / span) * room,
    side / 2 - ((place[1] - middle[1]) / span) * room,
  ]);
  const { kinds, of } = values();
  const codes = new Map(kinds.map((kind, place) => [kind, place]));
  const shapes = new Map(all.modalities.map((name, place) => [name, place]));
  const small = kinds.length > colours.length ? 3.5 : 2.5; // where more than the colour is to be seen
  const size = all.items.length > 1000 ? small : all.items.length > 200 ? 3.5 : 5;
  all.items.forEach((item, place) => {
    const code = codes.get(of(item));
    const { fill, line, thick, core } = code === undefined ? NO_CLASS : look(code);
    pen.beginPath();
    outline(pen, shapes.get(item.modality) ?? 0, ...spots[place], size);
    pen.fillStyle = paint(fill);
    pen.fill();
    pen.strokeStyle = paint(line);
    pen.lineWidth = thick ? size / 3 : 0.6;
    pen.stroke();
    if (core === null) return;
    pen.beginPath();
    pen.arc(...spots[place], 0.4 * size, 0, 2 * Math.PI);
    pen.fillStyle = paint(core);
    pen.fill();
  });
  const ring = (item, radius, width) => {
    const place = all.items.indexOf(item);
    if (place < 0) return;
    pen.beginPath();
    pen.arc(...spots[place], radius, 0, 2 * Math.PI);
    pen.strokeStyle = paint("--ink");
    pen.lineWidth = width;
    pen.stroke();
  };
  for (const id of shown) ring(byId.get(id), size + 2.5, 1.2);
  ring(byId.get(current), size + 5, 3);
  ring(pointed, size + 4, 2);
}

function legend() {
  const { kinds } = values();
  const drawn = (tag, attributes) => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    return made;
  };
  const paint = (name) => (name.startsWith("--") ? `var(${name})` : name);
  const key = (name, shape, { fill, line, thick, core }) => {
    const svg = drawn("svg", { viewBox: "-6 -6 12 12", "aria-hidden": "true" });
    const forms = ["M5 0A5 5 0 1 1-5 0A5 5 0 1 1 5 0Z", "M0-5.5L5.5 4L-5.5 4Z", "M-5-5H5V5H-5Z"];
    const edge = thick ? { stroke: paint(line), "stroke-width": 2 } : {};
    svg.append(drawn("path", { d: forms[shape % 3], fill: paint(fill), ...edge }));
    if (core !== null) svg.append(drawn("circle", { r: 2, fill: paint(core) }));
    return element("li", {}, svg, String(name));
  };
  const byModality = Number(at("colour").value) < 0;
  const hues = kinds.map((kind, place) => key(kind, byModality ? place : 0, look(place)));
  const forms = byModality || all.modalities.length < 2 ? [] : all.modalities.map((name, place) => key(name, place, NO_CLASS));
  at("legend").replaceChildren(...hues, ...forms);
}

function point(item) {
  if (item === pointed) return;
  pointed = item;
  const about = item === null ? [] : [item.label, item.modality, ...item.classes].filter((one) => one !== null);
  at("pointed").textContent = [...new Set(about.map(String))].join(" · ");
  draw();
}

function nearest(x, y, cost) {
  let best = null;
  let least = Infinity;
  spots.forEach(([a, b], place) => {
    const value = cost(a - x, b - y);
    if (value < least) [best, least] = [all.items[place], value];
  });
  return best;
}

function under(event) {
  const reach = event.pointerType === "touch" ? 24 : 12;
  const close = (dx, dy) => (Math.hypot(dx, dy) <= reach ? Math.hypot(dx, dy) : Infinity);
  return nearest(event.offsetX, event.offsetY, close);
}

const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

at("points").addEventListener("pointermove", (event) => point(under(event)));
at("points").addEventListener("pointerleave", () => point(null));
at("points").addEventListener("click", (event) => {
  const item = under(event);
  if (item !== null) go(String(item.id));
});
at("points").addEventListener("keydown", (event) => {
  const from = pointed ?? byId.get(current) ?? all.items[0];
  if (event.key in ARROWS) {
    const [right, down] = ARROWS[event.key];
    const [x, y] = spots[all.items.indexOf(from)];
    const ahead = (dx, dy) => {
      const along = dx * right + dy * down;
      const aside = Math.abs(dx * down + dy * right);
      return along > 0.5 && aside <= 2 * along ? along + 2 * aside : Infinity;
    };
    point(pointed === null ? from : (nearest(x, y, ahead) ?? from));
  } else if (event.key === "Enter" && pointed !== null) {
    go(String(pointed.id));
  } else {
    return;
  }
  event.preventDefault();
});
at("points").addEventListener("blur", () => point(null));
at("colour").addEventListener("change", () => (legend(), draw()));
dark.addEventListener("change", draw);
window.addEventListener("resize", draw);

// ---- beginning, and beginning again where the index has changed

function options(select, names) {
  const before = select.value;
  select.replaceChildren(...names.map(([value, name]) => element("option", { value }, name)));
  if (names.some(([value]) => value === before)) select.value = before;
}

async function load(first) {
  try {
    all = await source.items();
  } catch (error) {
    fail(error);
    return;
  }
  at("entry").hidden = true;
  at("explorer").hidden = false;
  for (const item of all.items) {
    item.words = [item.label, item.id, item.modality ?? "", ...item.classes].join("\n").toLowerCase();
  }
  byId = new Map(all.items.map((item) => [String(item.id), item]));
  pointed = null;
  const counted = (count) => `${count.toLocaleString("en")} ${count === 1 ? "item" : "items"}`;
  const part = all.items.length < all.count ? `${all.items.length.toLocaleString("en")} of them listed` : "";
  at("about").textContent = [counted(all.count), part, ...all.modalities, all.space ?? ""].filter(Boolean).join(" · ");
  const columns = Object.keys(all.classes);
  const old = wantedBefore();
  at("filters").replaceChildren(
    ...columns.slice(0, 4).map((column, place) => {
      const select = element("select", { id: `filter-${place}`, name: column });
      options(select, [["", "any"], ...all.classes[column].map((value, code) => [String(code), String(value)])]);
      if (old[column] !== undefined) select.value = String(all.classes[column].indexOf(old[column]));
      if (select.selectedIndex < 0) select.value = "";
      select.addEventListener("change", () => current !== null && show(current));
      return element("div", { class: "field" }, element("label", { for: select.id }, column), select);
    }),
  );
  options(at("colour"), [["-1", "modality"], ...columns.map((column, place) => [String(place), column])]);
  if (first && columns.length) at("colour").value = "0";
  at("colouring").hidden = columns.length === 0;
  legend();
  draw();
  previous = all.classes;
  if (!first) return;
  const id = fromAddress() || (all.items.length ? String(all.items[0].id) : "");
  if (id !== "") await show(id);
}

let previous = {}; // the classes before the index changed

function wantedBefore() {
  const found = {};
  for (const select of at("filters").querySelectorAll("select")) {
    if (select.value !== "") found[select.name] = previous[select.name][Number(select.value)];
  }
  return found;
}

at("entry").addEventListener("submit", (event) => {
  event.preventDefault();
  source.token = at("token").value.trim();
  at("token").value = "";
  if (/^[!-~]+$/.test(source.token)) load(true);
  else fail({ status: 401 }); // no header can hold it
});

load(true);
