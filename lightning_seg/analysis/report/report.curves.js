// Learning curves: several quantities, each run or the mean of its group, smoothed, on a linear or a logarithmic axis.

const DASHES = ["", "7 3", "2 3", "8 3 2 3", "12 4", "1 4"];
const AXES = ["step", "epoch", "images seen"];
const ENDS = { running: "still running", stopped: "stopped before its end", failed: "failed" };

/* Average exponentially, corrected for the start, as a share of the value before. */
function smooth(points, weight) {
  let sum = 0, norm = 0;
  return weight ? points.map(([x, y]) => { sum = weight * sum + y; norm = weight * norm + 1; return [x, sum / norm]; }) : points;
}

/* Read a line of points [x, y] at x; null outside of it. */
function valueAt(points, x) {
  if (!points.length || x < points[0][0] || x > points.at(-1)[0]) return null;
  let low = 0, high = points.length - 1;
  while (high - low > 1) { const middle = (low + high) >> 1; points[middle][0] <= x ? (low = middle) : (high = middle); }
  const [[x0, y0], [x1, y1]] = [points[low], points[high]];
  return x1 === x0 ? y1 : y0 + ((x - x0) / (x1 - x0)) * (y1 - y0);
}

/* The points [x, y] of a run's curve against the chosen axis, within what is zoomed to. */
function runPoints(run, name) {
  const [steps, epochs, values] = run.curves[name], axis = Number($("axis").value);
  const place = (i) => (axis === 1 ? epochs[i] : axis === 2 ? run.batch && (steps[i] + 1) * run.batch : steps[i]);
  return values.map((y, i) => [place(i), y]).filter(([x, y]) => x !== null && y !== null && (!$("log").checked || y > 0));
}

function curveRuns(name) {
  return D.runs.filter((run) => run.section === state.section && run.curves[name]
    && ((run.group >= 0 && shownGroups().includes(run.group)) || (run.group < 0 && $("untested").checked && matches(searchable(run)))));
}

/* The lines of a chart: {name, group, points, band, dash, status}. A band reaches from the lowest to the highest run. */
function curveLines(runs, name) {
  const weight = Number($("smoothing").value) / 100, single = (run) => smooth(runPoints(run, name), weight);
  const within = ([x]) => !state.zoom || (x >= state.zoom[0] && x <= state.zoom[1]);
  const seeds = (run) => runs.filter((r) => r.group === run.group && groupName(r) === groupName(run)).indexOf(run);
  const each = (run) => ({
    name: `${groupName(run)}, seed ${run.seed ?? "–"}`, group: run.group, points: single(run).filter(within), band: [],
    dash: DASHES[seeds(run) % DASHES.length], status: run.status, seed: run.seed,
  });
  if ($("curve-view").value === "runs") return runs.map(each);
  const lines = runs.filter((run) => run.group < 0).map(each);
  for (const group of new Set(runs.map((run) => run.group).filter((g) => g >= 0))) {
    const own = runs.filter((run) => run.group === group).map(single).filter((points) => points.length);
    const xs = [...new Set(own.flatMap((points) => points.map(([x]) => x)))].sort((a, b) => a - b);
    const rows = xs.map((x) => [x, own.map((points) => valueAt(points, x)).filter((y) => y !== null)]);
    const whole = rows.filter(([x, ys]) => ys.length === own.length && within([x]));
    lines.push({
      name: `${section.groups[group].name}, ${own.length === 1 ? "1 run" : `mean of ${own.length} runs`}`, group, dash: dash(group), status: "finished",
      points: whole.map(([x, ys]) => [x, mean(ys)]),
      band: own.length > 1 ? whole.map(([x, ys]) => [x, Math.min(...ys), Math.max(...ys)]) : [],
    });
  }
  return lines;
}

/* The mark where a run ended that is not finished. */
function endMark(line, x, y) {
  const stroke = { stroke: color(line.group), "stroke-width": 1.8, fill: "var(--paper)" };
  if (line.status === "running") return svg("circle", { cx: x, cy: y, r: 4, ...stroke });
  const shape = line.status === "failed" ? `M${x - 4},${y - 4}l8,8m0,-8l-8,8` : `M${x - 3},${y - 5}v10m5,-10v10`;
  return svg("path", { d: shape, ...stroke, "stroke-width": 2.4 });
}

function renderCurves() {
  const host = $("curves"), names = [...state.quantities].filter((name) => curveRuns(name).length);
  $("whole").hidden = !state.zoom;
  $("quantity-names").textContent = [...state.quantities].join(", ") || "none";
  if (!names.length) return host.replaceChildren(el("p", { class: "note" }, "No curve of the experiments chosen above."));
  host.className = names.length > 1 && host.clientWidth > 760 ? "charts two" : "charts";
  const places = names.map(() => el("div", { class: "chart" }));
  host.replaceChildren(...places); // before they are drawn: the drawing asks for their width
  names.forEach((name, i) => drawCurve(places[i], name));
}

function drawCurve(host, name) {
  const wanted = curveRuns(name), lines = curveLines(wanted, name).filter((line) => line.points.length);
  if (!lines.length) return host.replaceChildren(el("p", { class: "note" }, `${name}: the runs did not record that axis, or have nothing there.`));
  const log = $("log").checked, unit = AXES[Number($("axis").value)], scale = log ? Math.log10 : (y) => y;
  const xs = lines.flatMap((line) => line.points.map(([x]) => x));
  const ys = lines.flatMap((line) => [...line.points.map((p) => p[1]), ...line.band.flatMap((p) => [p[1], p[2]])]).map(scale);
  const low = Math.min(...ys), high = Math.max(...ys), room = (high - low || 1) * 0.04;
  const f = frame(host, 320, [Math.min(...xs), Math.max(...xs)], [low - room, high + room], unit, name,
    `${name} against ${unit}; arrow keys read values, dragging zooms`, log);
  const at = ([x, y]) => `${f.x(x).toFixed(1)},${f.y(scale(y)).toFixed(1)}`;
  for (const line of lines) if (line.band.length)
    f.root.append(svg("polygon", { fill: color(line.group), "fill-opacity": 0.16,
      points: [...line.band.map(([x, a]) => at([x, a])), ...line.band.map(([x, , b]) => at([x, b])).reverse()].join(" ") }));
  for (const line of lines) {
    const last = line.points.at(-1);
    f.root.append(line.points.length > 1
      ? svg("polyline", { points: line.points.map(at).join(" "), fill: "none", stroke: color(line.group), "stroke-width": 1.8,
        "stroke-dasharray": line.dash, class: `run ${line.status}` }, svg("title", {}, line.name))
      : svg("circle", { cx: f.x(last[0]), cy: f.y(scale(last[1])), r: 3, fill: color(line.group) }, svg("title", {}, line.name)));
    if (ENDS[line.status]) f.root.append(endMark(line, f.x(last[0]), f.y(scale(last[1]))));
  }
  const seen = [...new Set(lines.map((line) => line.status))].filter((status) => ENDS[status]);
  const left = wanted.length - wanted.filter((run) => runPoints(run, name).length).length;
  const readout = el("div", { class: "readout", "aria-live": "polite" }, lines.slice(0, 24).map((line) => el("span", {}, sample(line), line.name)));
  host.replaceChildren(f.root, readout,
    seen.length ? el("p", { class: "note" }, seen.map((status) => `${{ running: "○", stopped: "‖", failed: "×" }[status]} ${ENDS[status]}`).join(", ")) : "",
    left ? el("p", { class: "note" }, `Runs left out, which did not record that axis: ${left}.`) : "");
  listen(f, lines, readout, unit);
}

/* A piece of the line as it is drawn, for a legend. */
const sample = (line) => svg("svg", { class: "sample", viewBox: "0 0 26 10", "aria-hidden": "true" },
  svg("line", { x1: 1, x2: 25, y1: 5, y2: 5, stroke: color(line.group), "stroke-width": 2.5, "stroke-dasharray": line.dash }));

/* Let the pointer and the arrow keys read values, and dragging zoom. */
function listen(f, lines, readout, unit) {
  const cursor = svg("line", { class: "zero", y1: f.top, y2: f.bottom, visibility: "hidden" });
  const frameOf = svg("rect", { class: "zoom", y: f.top, height: f.bottom - f.top, visibility: "hidden" });
  const stops = [...new Set(lines.flatMap((line) => line.points.map(([x]) => x)))].sort((a, b) => a - b);
  const nearest = (at) => stops.reduce((best, s) => (Math.abs(s - at) < Math.abs(best - at) ? s : best));
  const read = (at) => {
    state.cursor = at;
    build(cursor, { x1: f.x(at), x2: f.x(at), visibility: "visible" }, []);
    const values = lines.map((line) => [line, valueAt(line.points, at)]).filter(([, value]) => value !== null);
    values.sort((a, b) => b[1] - a[1]);
    readout.replaceChildren(el("b", {}, `${unit} ${compact(at)}`), ...values.slice(0, 24).map(([line, value]) => {
      const band = line.band.find(([x]) => x === at);
      return el("span", {}, sample(line), `${line.name}: ${+value.toPrecision(4)}${band ? ` (${+band[1].toPrecision(4)} to ${+band[2].toPrecision(4)})` : ""}`);
    }));
  };
  const place = (event) => {
    const box = f.root.getBoundingClientRect(), share = ((event.clientX - box.left) / box.width * f.width - f.left) / (f.right - f.left);
    return stops[0] + Math.min(1, Math.max(0, share)) * (stops.at(-1) - stops[0]);
  };
  let from = null;
  f.root.append(cursor, frameOf);
  f.root.setAttribute("tabindex", "0");
  f.root.addEventListener("pointerdown", (event) => { if (event.pointerType !== "touch") from = place(event); });
  f.root.addEventListener("pointermove", (event) => {
    const at = place(event);
    read(nearest(at));
    if (from !== null) build(frameOf, { x: Math.min(f.x(from), f.x(at)), width: Math.abs(f.x(at) - f.x(from)), visibility: "visible" }, []);
  });
  f.root.addEventListener("pointerup", (event) => {
    const ends = from === null ? [] : [from, place(event)].sort((a, b) => a - b);
    from = null;
    frameOf.setAttribute("visibility", "hidden");
    if (ends.length && stops.filter((s) => s >= ends[0] && s <= ends[1]).length > 1 && f.x(ends[1]) - f.x(ends[0]) > 8) zoomTo(ends);
  });
  f.root.addEventListener("dblclick", () => zoomTo(null));
  f.root.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const at = state.cursor === null ? 0 : stops.indexOf(nearest(state.cursor)) + step;
    read(stops[Math.min(stops.length - 1, Math.max(0, at))]);
  });
}

function zoomTo(ends) {
  state.zoom = ends;
  state.cursor = null;
  renderCurves();
}

/* Offer the quantities that the runs of a section recorded; those chosen before stay chosen. */
function offerQuantities() {
  const names = [...new Set(D.runs.filter((r) => r.section === state.section).flatMap((r) => Object.keys(r.curves)))];
  const first = ["val/miou", "val/mask_ap", "val/pq", "val/loss", "train/loss"].filter((name) => names.includes(name));
  const rank = (name) => (name.startsWith("val/iou/") ? 2 : name.startsWith("train/lr") ? 1 : 0);
  const ordered = [...new Set([...first, ...names.sort((a, b) => rank(a) - rank(b))])];
  const aCurve = (name) => D.runs.some((r) => r.section === state.section && r.curves[name]?.[0].length > 1);
  const kept = [...(state.quantities ?? [])].filter((name) => names.includes(name));
  state.quantities = new Set(kept.length ? kept : [ordered.find(aCurve) ?? ordered[0]].filter(Boolean));
  $("quantities").replaceChildren(...ordered.map((name) => el("label", {}, el("input", {
    type: "checkbox", value: name, checked: state.quantities.has(name) ? "" : null,
    onchange: (event) => { event.target.checked ? state.quantities.add(name) : state.quantities.delete(name); zoomTo(state.zoom); },
  }), name)));
}
