"use strict";
const D = JSON.parse(document.getElementById("data").textContent);
// Distinct for color-blind readers, and readable on white and on black (Okabe and Ito, two of them darkened).
const COLORS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#c48a00", "#56b4e9", "#8c6d5a", "#8888aa"];
const MOST_CHOSEN = 6;
const $ = (id) => document.getElementById(id);
// Chosen groups have a place in COLORS, which they keep until they are chosen no more; the others are gray.
const state = { section: 0, chosen: new Map(), sort: {}, cursor: null, all: new Set(), zoom: null, quantities: null };
let section;

// ---- small helpers ------------------------------------------------------------------------------------------

function build(node, attributes, children) {
  for (const [key, value] of Object.entries(attributes || {})) {
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) node.setAttribute(key, value);
  }
  // Text only ever becomes a text node: whatever a run or a class is called stays text.
  for (const child of children.flat()) if (child !== null) node.append(child);
  return node;
}
const el = (tag, attributes, ...children) => build(document.createElement(tag), attributes, children);
const svg = (tag, attributes, ...children) =>
  build(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
const number = (value, digits = 1) => (value === null || value === undefined ? "–" : value.toFixed(digits));
const signed = (value) => (value > 0 ? "+" : "") + number(value);
const percent = (value) => (value === null ? null : 100 * value);
const mean = (values) => {
  const known = values.filter((v) => v !== null);
  return known.length ? known.reduce((a, b) => a + b, 0) / known.length : null;
};
const color = (group) => (state.chosen.has(group) ? COLORS[state.chosen.get(group) % COLORS.length] : "#8a929c");
const dash = (group) => ["", "6 3", "2 3", "8 3 2 3"][Math.floor((state.chosen.get(group) ?? 0) / COLORS.length) % 4];
const swatch = (group) => el("span", { class: "swatch", style: `background:${color(group)}` });
const groupName = (run) => (run.group < 0 ? run.name : section.groups[run.group].name);
// Long names break between their words, not within them.
const breakable = (name) => name.split(/(?<=[/_=,.])/).flatMap((part) => [part, el("wbr")]);
const chosenGroups = () => [...state.chosen.keys()].sort((a, b) => a - b);
const matches = (text) => $("filter").value.toLowerCase().split(/\s+/).every((word) => text.toLowerCase().includes(word));
// What the filter looks at: a group matches by its name or by one of its runs.
const searchable = (run) => [groupName(run), run.experiment, run.id, run.status, run.tags.join(" "), run.settings.map((v, i) => `${D.settings[i]}=${v}`).join(" ")].join(" ");
const groupMatches = (g) => matches(section.groups[g].name) || D.runs.some((r) => r.section === state.section && r.group === g && matches(searchable(r)));
const shownGroups = () => chosenGroups().filter(groupMatches);

function ticks(low, high, wanted) {
  const raw = (high - low || 1) / wanted;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= raw);
  const found = [];
  for (let t = Math.ceil(low / step - 1e-9) * step; t <= high + step * 1e-6; t += step) found.push(+t.toPrecision(10));
  return found;
}

function compact(value) {
  if (Math.abs(value) >= 1e6) return `${+(value / 1e6).toPrecision(3)}M`;
  if (Math.abs(value) >= 1e4) return `${+(value / 1e3).toPrecision(3)}k`;
  if (value && Math.abs(value) < 1e-3) return value.toExponential(2).replace(/\.?0+e/, "e"); // a learning rate
  return `${+value.toPrecision(4)}`;
}

/* A frame with axes. Returns the drawing and the functions from values to pixels. */
function frame(host, height, [x0, x1], [y0, y1], xName, yName, label, log = false) {
  const width = Math.max(280, host.clientWidth), left = 52, right = 12, top = 20, bottom = 34;
  const x = (v) => left + ((v - x0) / (x1 - x0 || 1)) * (width - left - right);
  const y = (v) => height - bottom - ((v - y0) / (y1 - y0 || 1)) * (height - top - bottom);
  const root = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label });
  for (const t of ticks(y0, y1, 5))
    root.append(svg("line", { class: "axis", x1: left, x2: width - right, y1: y(t), y2: y(t) }),
      svg("text", { x: left - 6, y: y(t) + 4, "text-anchor": "end" }, compact(log ? 10 ** t : t)));
  for (const t of ticks(x0, x1, Math.max(3, Math.floor(width / 85))))
    root.append(svg("text", { x: x(t), y: height - bottom + 16, "text-anchor": "middle" }, compact(t)));
  root.append(svg("text", { x: width - right, y: height - 3, "text-anchor": "end" }, xName),
    svg("text", { x: 4, y: 12 }, yName));
  return { root, x, y, width, top, bottom: height - bottom, left, right: width - right };
}

/* A table whose columns can be sorted. Columns: name, value(row), cell(row) if it is not the value, number. */
function table(host, columns, rows, rowAttributes = () => ({}), most = Infinity) {
  const sort = state.sort[host.id] && columns[state.sort[host.id].column] ? state.sort[host.id] : null;
  if (sort) {
    const value = columns[sort.column].value, sign = sort.down ? -1 : 1;
    rows = [...rows].sort((a, b) => {
      const [p, q] = [value(a), value(b)], empty = (v) => v === null || v === undefined || v === "";
      if (empty(p) || empty(q)) return empty(p) - empty(q); // what is missing stays below
      return sign * (typeof p === "number" ? p - q : String(p).localeCompare(String(q), undefined, { numeric: true }));
    });
  }
  const head = columns.map((column, i) => {
    const direction = sort && sort.column === i ? (sort.down ? "descending" : "ascending") : "none";
    const press = () => {
      state.sort[host.id] = { column: i, down: direction === "none" ? Boolean(column.number) : direction === "ascending" };
      render();
      host.querySelectorAll("th")[i].querySelector("button").focus();
    };
    return el("th", { scope: "col", "aria-sort": direction, class: column.number ? "number" : null },
      column.value ? el("button", { type: "button", onclick: press }, column.name) : column.name);
  });
  const rest = state.all.has(host.id) ? 0 : Math.max(0, rows.length - most);
  const body = rows.slice(0, rows.length - rest).map((row) => el("tr", rowAttributes(row), columns.map((column) =>
    el("td", { class: column.className || (column.number ? "number" : null) },
      column.cell ? column.cell(row) : typeof column.value(row) === "number" ? number(column.value(row)) : column.value(row) ?? ""))));
  host.replaceChildren(el("table", {}, el("thead", {}, el("tr", {}, head)), el("tbody", {}, body)),
    rest ? el("button", { type: "button", onclick: () => { state.all.add(host.id); render(); } }, `show ${rest} more`) : "");
}

// ---- the parts of the page ----------------------------------------------------------------------------------

function renderRanking() {
  const groups = section.groups.map((group, index) => ({ ...group, index }));
  const low = Math.min(...groups.map((g) => g.low ?? g.miou)), high = Math.max(...groups.map((g) => g.high ?? g.miou));
  const interval = (g) => {
    const x = (v) => 4 + ((v - low) / (high - low || 1)) * 152;
    if (g.low === null) return "–";
    return el("div", { class: "interval" }, `${number(g.low)} to ${number(g.high)}`, svg("svg", { viewBox: "0 0 160 16", "aria-hidden": "true" },
      svg("line", { x1: x(g.low), x2: x(g.high), y1: 8, y2: 8, stroke: color(g.index), "stroke-width": 2 }),
      ...[g.low, g.miou, g.high].map((v) => svg("line", { x1: x(v), x2: x(v), y1: v === g.miou ? 2 : 5, y2: v === g.miou ? 14 : 11, stroke: color(g.index), "stroke-width": v === g.miou ? 3 : 2 }))));
  };
  const choose = (g) => el("input", {
    type: "checkbox", checked: state.chosen.has(g.index) ? "" : null, "aria-label": `show ${g.name}`,
    onchange: (event) => {
      const taken = new Set(state.chosen.values());
      let place = 0;
      while (taken.has(place)) place++;
      if (event.target.checked) state.chosen.set(g.index, place);
      else state.chosen.delete(g.index);
      render();
      $("ranking").querySelector(`[aria-label="${CSS.escape(`show ${g.name}`)}"]`).focus();
    },
  });
  const difference = (g) =>
    g.difference === null ? "" : signed(g.difference) + (g.difference_low === null ? "" : ` (${signed(g.difference_low)} to ${signed(g.difference_high)})`);
  const verdict = (g) => el("span", { class: g.verdict.split(" ")[0] }, g.verdict);
  const ranked = groups.some((g) => g.rank !== null), judged = groups.some((g) => g.p !== null), mixed = groups.some((g) => g.runs !== g.seeds);
  table($("ranking"), [
    { name: "show", cell: (g) => [choose(g), swatch(g.index)] },
    ...(ranked ? [{ name: "rank", value: (g) => g.rank, cell: (g) => String(g.rank), number: true }] : []),
    { name: "experiment", value: (g) => g.name, cell: (g) => breakable(g.name), className: "name" },
    { name: section.metric, value: (g) => g.miou, number: true },
    { name: `95 % over ${groups[0].interval_covers}`, value: (g) => g.low, cell: interval },
    { name: "to the reference", value: (g) => g.difference, cell: (g) => (judged ? difference(g) : [difference(g), el("div", {}, verdict(g))]), number: true },
    ...(judged ? [{ name: "p", value: (g) => g.p, cell: (g) => g.p === null ? "" : g.p < 0.001 ? "<0.001" : g.p.toFixed(3), number: true }] : []),
    ...(judged ? [{ name: "", cell: verdict }] : []), // else all say the same, below the difference
    ...section.settings.map((name, i) => ({ name, value: (g) => g.settings[i] })),
    { name: "seeds", value: (g) => g.seeds, cell: (g) => String(g.seeds), number: true },
    ...(mixed ? [{ name: "runs", value: (g) => g.runs, cell: (g) => String(g.runs), number: true }] : []),
    { name: "std of runs", value: (g) => g.std, cell: (g) => number(g.std), number: true },
  ], groups.filter((g) => groupMatches(g.index)), (g) => ({ class: g.index === section.reference ? "reference" : null }));
  const all = section.sentences, shown = all.slice(0, 5).map((s) => el("li", {}, s));
  const more = all.slice(5).map((s) => el("li", {}, s));
  $("sentences").replaceChildren(section.summary ? el("p", { class: "summary" }, section.summary) : "", el("ul", {}, shown),
    more.length ? el("details", {}, el("summary", {}, `${more.length} more`), el("ul", {}, more)) : "",
    section.remark ? el("p", {}, section.remark) : "");
}

function classOrder(groups) {
  const values = (c) => groups.map((g) => section.groups[g].classes.score[c]).filter((v) => v !== null);
  const keys = { label: (c) => c, worst: (c) => mean(values(c)) ?? 2, spread: (c) => Math.min(...values(c)) - Math.max(...values(c)) };
  const key = keys[$("class-order").value];
  return section.classes.map((_, c) => c).sort((a, b) => key(a) - key(b));
}

function renderClasses() {
  $("class-view").options[0].textContent = section.of_classes;
  const host = $("classes"), view = $("class-view").value;
  const groups = shownGroups().filter((g) => view !== "difference" || g !== section.reference);
  if (!groups.length) return host.replaceChildren(el("p", { class: "note" }, "Choose an experiment above, for a difference another than the reference."));
  const bar = 11, gap = 12, left = Math.min(150, host.clientWidth * 0.3), width = Math.max(280, host.clientWidth), right = 50;
  const order = classOrder(groups), shown = state.all.has("classes") ? order : order.slice(0, 40);
  const of = (g, c) => {
    const k = section.groups[g].classes, pick = (key) => (k[key] ? percent(k[key][c]) : null);
    return view === "score" ? [pick("score"), pick("half")] : view === "difference" ? [pick("difference"), pick("difference_half")] : [pick("missed"), pick("added"), pick("iou")];
  };
  let low = 0, high = 100;
  if (view === "difference") {
    const reach = Math.max(1, ...groups.flatMap((g) => shown.map((c) => Math.abs(of(g, c)[0] ?? 0) + (of(g, c)[1] ?? 0))));
    [low, high] = [-reach, reach];
  }
  const x = (v) => left + ((v - low) / (high - low)) * (width - left - right);
  const height = shown.length * (groups.length * bar + gap) + 24;
  const root = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${view === "score" ? section.of_classes : view} of each class, in percent` });
  for (const t of ticks(low, high, width < 500 ? 4 : 8))
    root.append(svg("line", { class: t === 0 ? "zero" : "axis", x1: x(t), x2: x(t), y1: 0, y2: height - 18 }),
      svg("text", { x: x(t), y: height - 4, "text-anchor": "middle" }, compact(t)));
  shown.forEach((c, row) => {
    const top = row * (groups.length * bar + gap) + 4, limit = Math.floor(left / 7), name = section.classes[c];
    root.append(svg("text", { x: left - 6, y: top + (groups.length * bar) / 2 + 4, "text-anchor": "end" },
      name.length > limit ? `${name.slice(0, limit - 1)}…` : name, svg("title", {}, name)));
    groups.forEach((g, i) => {
      const y = top + i * bar, rect = (from, to, fill) => svg("rect", { x: Math.min(x(from), x(to)), y: y + 1, width: Math.abs(x(to) - x(from)), height: bar - 2, fill });
      const values = of(g, c);
      if (values[0] === null) return root.append(svg("text", { x: x(Math.max(low, 0)) + 3, y: y + bar - 1 }, "–"));
      const text = view === "errors"
        ? `${section.groups[g].name}, ${name}: ${number(values[2])} % right, ${number(values[0])} % false negative, ${number(values[1])} % false positive`
        : `${section.groups[g].name}, ${name}: ${view === "difference" ? signed(values[0]) : number(values[0])} ± ${number(values[1])}`;
      const parts = view === "errors"
        ? [rect(0, values[2], color(g)), rect(values[2], values[2] + values[0], "var(--missed)"), rect(values[2] + values[0], 100, "var(--added)")]
        : [rect(0, values[0], color(g)), values[1] === null ? null : svg("line", { class: "whisker", x1: x(Math.max(low, values[0] - values[1])), x2: x(Math.min(high, values[0] + values[1])), y1: y + bar / 2, y2: y + bar / 2 }),
          svg("text", { x: width - right + 6, y: y + bar - 1, class: "small" }, view === "difference" ? signed(values[0]) : number(values[0]))];
      root.append(svg("g", {}, parts, svg("title", {}, text)));
    });
  });
  const names = groups.map((g) => el("span", {}, swatch(g), section.groups[g].name));
  const legend = view === "errors"
    ? [...names, el("span", {}, el("span", { class: "swatch", style: "background:var(--missed)" }), "false negative"), el("span", {}, el("span", { class: "swatch", style: "background:var(--added)" }), "false positive"),
      el("span", { class: "note" }, "Shares of the pixels that are of the class in the truth or in the prediction; of the true pixels of a class those found are its recall.")]
    : names;
  const rest = order.length - shown.length;
  host.replaceChildren(el("div", { class: "readout" }, legend), root,
    rest ? el("button", { type: "button", onclick: () => { state.all.add("classes"); renderClasses(); } }, `show ${rest} more classes`) : "");
}

function renderSpeed() {
  const runs = D.runs.filter((r) => r.section === state.section && r.group >= 0 && r.speed && r.scores.miou !== null && matches(searchable(r)));
  $("speed-section").hidden = runs.length < 2;
  if (runs.length < 2) return;
  const host = $("speed"), xs = runs.map((r) => r.speed), ys = runs.map((r) => r.scores.miou);
  const pad = (values) => { const [a, b] = [Math.min(...values), Math.max(...values)], room = (b - a || 1) * 0.08; return [a - room, b + room]; };
  const f = frame(host, 300, pad(xs), pad(ys), "training images per second", "mIoU %", "mIoU against training speed");
  const front = runs.filter((r) => !runs.some((o) => o.speed >= r.speed && o.scores.miou >= r.scores.miou && (o.speed > r.speed || o.scores.miou > r.scores.miou)));
  front.sort((a, b) => a.speed - b.speed);
  f.root.append(svg("polyline", { points: front.map((r) => `${f.x(r.speed)},${f.y(r.scores.miou)}`).join(" "), fill: "none", stroke: "var(--soft)", "stroke-dasharray": "4 3" }));
  for (const r of runs)
    f.root.append(svg("circle", { cx: f.x(r.speed), cy: f.y(r.scores.miou), r: 5, fill: color(r.group), "fill-opacity": state.chosen.has(r.group) ? 1 : 0.35 },
      svg("title", {}, `${groupName(r)}, seed ${r.seed ?? "–"}: mIoU ${number(r.scores.miou)}, ${number(r.speed)} images/s`)));
  host.replaceChildren(f.root, el("p", { class: "note" }, "Dashed: no run is both faster and better. Speeds compare only between runs of the same machine."));
}

function renderRuns() {
  const score = (name, key) => ({ name, value: (r) => r.scores[key], number: true });
  table($("runs"), [
    { name: "experiment", value: groupName, cell: (r) => el("span", { title: r.path }, swatch(r.group), breakable(groupName(r))), className: "name" },
    { name: "run", value: (r) => r.id, cell: (r) => el("span", { title: r.problem || r.path }, r.id) },
    { name: "status", value: (r) => r.status, cell: (r) => el("span", { title: r.problem, class: `status ${r.status}` }, r.status, r.problem && r.status === "failed" ? el("small", {}, ` ${r.problem.slice(0, 60)}`) : "") },
    { name: "seed", value: (r) => r.seed, cell: (r) => (r.seed === null ? "–" : String(r.seed)), number: true },
    score("mIoU %", "miou"), score("Dice %", "dice"), score("pixels right %", "pixel_accuracy"),
    { name: "images/s", value: (r) => r.speed, number: true },
    ...D.settings.map((name, i) => ({ name, value: (r) => r.settings[i] })),
    { name: "tags", value: (r) => r.tags.join(" ") },
    { name: "commit", value: (r) => r.commit },
    { name: "started", value: (r) => r.time },
  ], D.runs.filter((r) => (r.section === state.section || r.section < 0) && matches(searchable(r))));
}

// ---- putting it together ------------------------------------------------------------------------------------

function renderChosen() {
  renderCurves();
  renderClasses();
  renderConfusion();
  renderSpeed();
  renderPictures();
  renderImages();
}

function render() {
  renderRanking();
  renderRuns();
  renderChosen();
}

function chooseSection(index) {
  state.section = index;
  state.sort = {};
  state.cursor = state.zoom = null;
  state.all = new Set();
  section = D.sections[index];
  state.chosen = new Map([...new Set([section.reference, ...section.groups.keys()])].slice(0, MOST_CHOSEN).map((g, i) => [g, i]));
  offerQuantities();
  render();
}

D.sections.forEach((s, i) => $("protocol").append(el("option", { value: i }, s.title)));
if (D.question) document.querySelector("h1").textContent = D.question;
$("variants").hidden = !Object.keys(D.variants).length;
$("variant-table").replaceChildren(el("table", {}, el("tbody", {}, Object.entries(D.variants).map(([name, settings]) =>
  el("tr", {}, el("th", { scope: "row" }, name), el("td", { class: "name" }, settings.length ? settings.flatMap((s) => [s, el("br")]) : "the base experiment"))))));
$("live").hidden = !D.live;
$("explanation").textContent = D.explanation;
$("created").textContent = D.created;
$("remarks").append(...D.remarks.map((r) => el("li", {}, r)));
$("protocol").addEventListener("change", (event) => chooseSection(Number(event.target.value)));
$("filter").addEventListener("input", render);
for (const id of ["curve-view", "log", "untested"]) $(id).addEventListener("change", () => { state.cursor = null; renderCurves(); });
$("axis").addEventListener("change", () => zoomTo(null)); // the ends of a zoom are steps, epochs or images
$("smoothing").addEventListener("input", renderCurves);
$("whole").addEventListener("click", () => zoomTo(null));
for (const id of ["class-view", "class-order"]) $(id).addEventListener("change", renderClasses);
for (const id of ["picture-view", "picture-order", "other"]) $(id).addEventListener("change", renderPictures);
$("opacity").addEventListener("input", () => painters.forEach((paint) => paint()));
$("confusion-of").addEventListener("change", renderConfusion);
$("theme").addEventListener("click", () => {
  const root = document.documentElement, dark = getComputedStyle(root).colorScheme === "dark" || (root.style.colorScheme === "" && matchMedia("(prefers-color-scheme: dark)").matches);
  root.style.colorScheme = dark ? "light" : "dark";
});
$("large").querySelector("button").addEventListener("click", () => $("large").close());
let width = innerWidth;
addEventListener("resize", () => { if (innerWidth !== width) { width = innerWidth; renderChosen(); } });
chooseSection(0);
