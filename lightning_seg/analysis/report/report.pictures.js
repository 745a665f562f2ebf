// The same images by several experiments, drawn here from their labels; and which class is taken for which.

const WRONG = [220, 20, 60], DIFFERENT = [255, 0, 200], IGNORED = 255;
const decoded = new Map();
let painters = []; // draw the tiles that are shown

/* Read the pixels of an embedded picture; each is decoded once. */
function pixels(source) {
  if (!decoded.has(source)) decoded.set(source, (async () => {
    const image = new Image();
    image.src = source;
    await image.decode();
    const canvas = el("canvas", { width: image.naturalWidth, height: image.naturalHeight });
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.drawImage(image, 0, 0);
    return context.getImageData(0, 0, canvas.width, canvas.height).data;
  })());
  return decoded.get(source);
}

/* Draw an image with labels over it. View: labels, errors (against the truth) or differs (from other labels).
   Returns the share of the counted pixels that errors and differs mark. */
async function paint(p, canvas, k, own, view, other) {
  const opacity = $("opacity").value / 100;
  const [photo, truth, mine, theirs] = await Promise.all([p.images[k], p.truths[k], own, other].map((s) => s && pixels(s)));
  const out = new ImageData(canvas.width, canvas.height);
  let marked = 0, counted = 0;
  for (let i = 0; i < out.data.length; i += 4) {
    const label = mine ? mine[i] : IGNORED, ignored = truth[i] === IGNORED;
    let color = null, weight = 0, grey = false;
    if (view === "labels" || !mine) {
      if (label !== IGNORED) [color, weight] = [p.palette[label], opacity];
    } else {
      const wrong = !ignored && label !== (view === "errors" ? truth : theirs)[i];
      grey = true;
      counted += !ignored;
      marked += wrong;
      if (ignored || wrong) [color, weight] = [wrong ? (view === "errors" ? WRONG : DIFFERENT) : [0, 0, 0], 1];
    }
    const pale = 0.35 * (photo[i] + photo[i + 1] + photo[i + 2]) / 3 + 160;
    for (let c = 0; c < 3; c++) {
      const under = grey ? pale : photo[i + c];
      out.data[i + c] = color ? under * (1 - weight) + color[c] * weight : under;
    }
    out.data[i + 3] = 255;
  }
  canvas.getContext("2d").putImageData(out, 0, 0);
  return counted ? marked / counted : null;
}

function renderPictures() {
  const p = section.pictures, host = $("pictures");
  $("pictures-section").hidden = !p;
  if (!p) return;
  const groups = shownGroups().filter((g) => p.columns[g]?.some((picture) => picture)), missing = shownGroups().length - groups.length;
  painters = [];
  const view = $("picture-view").value, before = Number($("other").value);
  $("other").replaceChildren(...groups.map((g) => el("option", { value: g }, section.groups[g].name)));
  const base = groups.includes(before) ? before : groups.includes(p.reference) ? p.reference : groups[0];
  if (base !== undefined) $("other").value = base;
  $("other-label").hidden = view !== "differs";
  const level = (k) => mean(groups.map((g) => p.columns[g][k]?.score ?? null)) ?? 0;
  const order = p.images.map((_, k) => k), by = $("picture-order").value;
  if (by !== "file") order.sort((a, b) => (level(a) - level(b)) * (by === "worst" ? 1 : -1));
  const tile = (k, name, own, group) => {
    const canvas = el("canvas", { width: p.sizes[k][0], height: p.sizes[k][1], "aria-hidden": "true" });
    const score = group === undefined ? null : p.columns[group][k].score;
    const caption = `${name}${score === null ? "" : `: ${number(score)} % here`}`, text = el("span", {}, caption);
    const draw = () => paint(p, canvas, k, own, group === undefined ? "labels" : view, p.columns[base]?.[k]?.labels);
    painters.push(draw);
    draw().then((share) => {
      if (share !== null) text.textContent = `${caption}, ${number(100 * share)} % ${view === "errors" ? "wrong" : "differ"}`;
    });
    return el("button", { type: "button", "aria-label": `enlarge and compare: ${name}`, onclick: () => enlarge(p, k, group ?? (own ? "truth" : "image")) },
      canvas, el("small", {}, group === undefined ? "" : swatch(group), text));
  };
  host.replaceChildren(...order.map((k) => el("div", { class: "figure" }, el("h3", {}, p.names[k] ?? `image ${k + 1}`),
    el("div", { class: "tiles" }, tile(k, "image", null), tile(k, "truth", p.truths[k]),
      groups.filter((g) => p.columns[g][k]).map((g) => tile(k, section.groups[g].name, p.columns[g][k].labels, g))))),
  el("ul", { class: "legend" }, p.labels.map((name, c) => el("li", {}, el("span", { class: "swatch", style: `background:rgb(${p.palette[c]})` }), name))),
  missing ? el("p", { class: "note" }, `Experiments chosen above whose pictures are not in this file: ${missing}.`) : "",
  el("p", { class: "note" }, "The percentage is the IoU within the one image, averaged over its classes. Of several seeds the one with the median score is shown."));
}

/* Two drawings of one image on top of each other, with a slider between them. */
function enlarge(p, k, chosen) {
  const dialog = $("large");
  const sources = new Map([["image", ["image", null]], ["truth", ["truth", p.truths[k]]],
    ...shownGroups().filter((g) => p.columns[g]?.[k]).map((g) => [String(g), [section.groups[g].name, p.columns[g][k].labels]])]);
  const canvases = [0, 1].map(() => el("canvas", { width: p.sizes[k][0], height: p.sizes[k][1] }));
  const stack = el("div", { class: "stack" }, canvases), slider = el("input", { type: "range", min: 0, max: 100, value: 50, "aria-label": "where the right picture begins", oninput: () => {
    canvases[1].style.clipPath = `inset(0 0 0 ${slider.value}%)`;
    stack.style.setProperty("--at", `${slider.value}%`);
  } });
  const base = $("other").value === "" ? p.reference : Number($("other").value), baseName = section.groups[base]?.name;
  const views = [["labels", "labels"], ["errors", "errors"], ...(p.columns[base]?.[k] ? [["differs", `differences from ${baseName}`]] : [])];
  const share = [0, 1].map(() => el("small", { class: "note" }));
  const pick = (side, value, view) => {
    const draw = async () => {
      const marked = await paint(p, canvases[side], k, sources.get(source.value)[1], how.value, p.columns[base]?.[k]?.labels);
      share[side].textContent = marked === null ? "" : ` ${number(100 * marked)} % marked`;
    };
    const name = side ? "right" : "left";
    const source = el("select", { "aria-label": name, onchange: draw }, [...sources].map(([key, [title]]) => el("option", { value: key }, title)));
    const how = el("select", { "aria-label": `${name}: what is drawn`, onchange: draw }, views.map(([key, title]) => el("option", { value: key }, title)));
    [source.value, how.value] = [value, view];
    draw();
    return [source, how, share[side]];
  };
  const other = String(chosen) === "truth" ? [...sources.keys()].at(2) ?? "image" : "truth";
  dialog.querySelector("p").replaceChildren(p.names[k] ?? "", " – left ", ...pick(0, String(chosen), sources.size > 2 && Number.isInteger(chosen) ? $("picture-view").value : "labels"), " right ", ...pick(1, other, "labels"));
  const place = dialog.querySelector("div"), [width, height] = p.sizes[k];
  place.style.maxWidth = `calc(68vh * ${width / height})`; // so that picture and slider are seen at once
  place.replaceChildren(stack, slider);
  slider.dispatchEvent(new Event("input"));
  dialog.showModal();
  slider.focus();
}

function renderConfusion() {
  const groups = shownGroups().filter((g) => section.groups[g].confusion), host = $("confusion");
  $("confusion-section").hidden = !groups.length;
  if (!groups.length) return;
  const before = Number($("confusion-of").value);
  $("confusion-of").replaceChildren(...groups.map((g) => el("option", { value: g }, section.groups[g].name)));
  if (groups.includes(before)) $("confusion-of").value = before;
  const { names, percent } = section.groups[$("confusion-of").value].confusion;
  const cell = (value, r, c) => el("td", {
    style: `background:color-mix(in srgb, var(--${r === c ? "accent" : "wrong"}) ${Math.min(100, value ?? 0)}%, transparent)${value > 55 ? ";color:var(--paper)" : ""}`,
    title: value === null ? null : `${number(value)} % of ${names[r]} ${r === c ? "found" : `taken for ${names[c]}`}`,
  }, value === null ? "–" : names.length > 15 ? "" : number(value, value < 10 ? 1 : 0));
  const worst = percent.flatMap((row, r) => row.map((value, c) => [value ?? 0, r, c])).filter(([value, r, c]) => r !== c && value >= 0.05);
  worst.sort((a, b) => b[0] - a[0]);
  host.replaceChildren(
    el("ul", {}, worst.slice(0, 5).map(([value, r, c]) => el("li", {}, `${number(value)} % of ${names[r]} taken for ${names[c]}`))),
    el("div", { class: "scroll" }, el("table", { class: "matrix" },
      el("caption", { class: "note" }, "Rows: the truth, % of its pixels; columns: what they were taken for."),
      el("thead", {}, el("tr", {}, el("td", {}), names.map((n) => el("th", { scope: "col" }, el("span", {}, n))))),
      el("tbody", {}, percent.map((row, r) => el("tr", {}, el("th", { scope: "row" }, names[r]), row.map((value, c) => cell(value, r, c))))))));
}

/* The color that Pascal VOC gives to a label, continued. */
const vocColor = (_, label) => [0, 1, 2].map((c) => [...Array(8).keys()].reduce((sum, i) => sum + (((label >> (3 * i + c)) & 1) << (7 - i)), 0));

/* Have the server on this machine predict a test image, and compare what the experiments chosen above make of it. */
async function predict(i) {
  const { names, indices, scores } = section.images, dialog = $("large"), palette = section.pictures?.palette ?? section.classes.map(vocColor);
  const address = (what) => `picture/${state.section}/${indices[i]}/${what}`;
  dialog.querySelector("p").textContent = `${names[i]} is being predicted …`;
  dialog.querySelector("div").replaceChildren();
  dialog.showModal();
  try {
    const photo = new Image(), groups = shownGroups().filter((g) => scores[g]);
    photo.src = address("image");
    await photo.decode();
    await Promise.all([address("truth"), ...groups.map(address)].map(pixels));
    dialog.close();
    enlarge({
      names: [names[i]], sizes: [[photo.naturalWidth, photo.naturalHeight]], images: [address("image")], truths: [address("truth")], palette,
      columns: Object.fromEntries(groups.map((g) => [g, [{ labels: address(g), score: scores[g][i] }]])), reference: section.reference,
    }, 0, groups[0] ?? "image");
  } catch {
    dialog.querySelector("p").textContent = `${names[i]} cannot be predicted; the terminal says why.`;
  }
}

/* Every test image with its score, of which the pictures above are a few. */
function renderImages() {
  const { names, scores } = section.images, groups = shownGroups().filter((g) => scores[g]);
  $("images-section").hidden = !groups.length;
  if (!groups.length) return;
  const spread = (i) => { const known = groups.map((g) => scores[g][i]).filter((v) => v !== null); return known.length > 1 ? Math.max(...known) - Math.min(...known) : null; };
  state.sort.images ??= { column: 1, down: false };
  table($("images"), [
    { name: "image", value: (i) => names[i], cell: (i) => (D.live ? el("button", { type: "button", class: "link", onclick: () => predict(i) }, names[i]) : names[i]), className: "name" },
    { name: "mean", value: (i) => mean(groups.map((g) => scores[g][i])), number: true },
    ...(groups.length > 1 ? [{ name: "spread", value: spread, number: true }] : []),
    ...groups.map((g) => ({ name: section.groups[g].name, value: (i) => scores[g][i], number: true })),
  ], names.map((_, i) => i), undefined, 20);
}
