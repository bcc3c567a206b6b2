"use strict";
(() => {
const D = JSON.parse(document.getElementById("data").textContent);
const $ = id => document.getElementById(id);
const COLORS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8a8a8a"];
const color = i => COLORS[i % COLORS.length];
const shown = (x, digits = 3) => x === null || x === undefined ? "–" : x.toFixed(digits).replace(/^-(0\.?0*)$/, "$1");
const chosen = { transform: D.start.transform, region: D.start.region, layer: D.start.layer };

function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) {
    if (key === "class") node.className = value; else node.setAttribute(key, value);
  }
  node.append(...children.filter(child => child !== null));
  return node;
}

/* ---- charts: one kind, lines over an axis of numbers or names, with reaches and bands ---- */
function chart(place, { series, bands = [], names = null, x = null, y = null, xlabel = "", ylabel = "",
                        diagonal = false, height = 250, legend = true, label }) {
  const width = Math.max(240, place.clientWidth || 600);
  const left = 58, right = 12, bottom = names ? 24 + nameRoom(names, width) : 40;
  // as many rows of the legend as its names need
  let at = left, row = 0;
  const keys = legend ? series.filter(s => s.name).map((s, i) => {
    const wide = 26 + 7 * s.name.length;
    if (at + wide > width - right && at > left) { at = left; row += 1; }
    const key = { s, x: at, y: 10 + 17 * row };
    at += wide;
    return key;
  }) : [];
  const top = keys.length ? 26 + 17 * row : 10;
  const values = series.flatMap(s => [...s.y, ...(s.low || []), ...(s.high || [])])
    .concat(bands.flatMap(b => [b.low, b.high])).filter(v => v !== null && v !== undefined);
  const ys = y || spread(values);
  const xs = x || (names ? [-0.5, names.length - 0.5] : spread(series.flatMap(s => s.x)));
  const full = height + (top - 10) + (bottom - 40);
  const X = v => left + (v - xs[0]) / (xs[1] - xs[0] || 1) * (width - left - right);
  const Y = v => full - bottom - (v - ys[0]) / (ys[1] - ys[0] || 1) * (full - bottom - top);
  const svg = make2("svg", { viewBox: `0 0 ${width} ${full}`, role: "img", "aria-label": label });
  const add = (tag, attributes, text) => {
    const node = make2(tag, attributes);
    if (text !== undefined) node.textContent = text;
    svg.append(node);
    return node;
  };
  for (const tick of ticks(ys)) {
    add("line", { x1: left, x2: width - right, y1: Y(tick), y2: Y(tick), stroke: "var(--line)",
                  "stroke-width": tick === 0 ? 1.5 : 0.6 });
    add("text", { x: left - 6, y: Y(tick) + 4, "text-anchor": "end", fill: "var(--soft)" }, clean(tick));
  }
  for (const band of bands) {
    add("rect", { x: X(band.from), width: X(band.to) - X(band.from), y: Y(band.high),
                  height: Math.max(1.5, Y(band.low) - Y(band.high)), fill: band.color, opacity: 0.25 })
      .append(title(band.title));
  }
  if (diagonal) add("line", { x1: X(0), y1: Y(0), x2: X(1), y2: Y(1), stroke: "var(--soft)", "stroke-dasharray": "4 4" });
  if (names) nameAxis(add, names, X, full - bottom, width);
  else for (const tick of ticks(xs)) add("text", { x: X(tick), y: full - bottom + 16, "text-anchor": "middle", fill: "var(--soft)" }, clean(tick));
  add("text", { x: (left + width - right) / 2, y: full - 4, "text-anchor": "middle", fill: "var(--ink)" }, xlabel);
  add("text", { transform: `translate(13 ${(top + full - bottom) / 2}) rotate(-90)`, "text-anchor": "middle", fill: "var(--ink)" }, ylabel);
  for (const s of series) drawSeries(add, s, X, Y);
  for (const key of keys) {
    add("line", { x1: key.x, x2: key.x + 16, y1: key.y - 4, y2: key.y - 4, stroke: key.s.color, "stroke-width": 2.5,
                  "stroke-dasharray": key.s.dash || "none" });
    add("text", { x: key.x + 21, y: key.y, fill: "var(--ink)" }, key.s.name);
  }
  place.replaceChildren(svg);
}
function make2(tag, attributes) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  return node;
}
function title(text) { const node = make2("title", {}); node.textContent = text; return node; }
function drawSeries(add, s, X, Y) {
  if (s.area) {
    const points = s.x.map((v, i) => `${X(v)},${Y(s.high[i])}`)
      .concat(s.x.map((v, i) => `${X(v)},${Y(s.low[i])}`).reverse());
    add("polygon", { points: points.join(" "), fill: s.color, opacity: 0.2 });
  }
  let path = "", pen = "M";
  s.x.forEach((v, i) => {
    if (s.y[i] === null) { pen = "M"; return; }
    path += `${pen}${X(v).toFixed(1)} ${Y(s.y[i]).toFixed(1)}`;
    pen = "L";
  });
  if (s.line !== false) add("path", { d: path, fill: "none", stroke: s.color, "stroke-width": s.width || 1.8, "stroke-dasharray": s.dash || "none" });
  if (s.area) return;
  s.x.forEach((v, i) => {
    if (s.y[i] === null) return;
    if (s.low && s.low[i] !== null) {
      add("line", { x1: X(v), x2: X(v), y1: Y(s.low[i]), y2: Y(s.high[i]), stroke: s.color, "stroke-width": 1.2 });
    }
    if (s.marks !== false) {
      add("circle", { cx: X(v), cy: Y(s.y[i]), r: 3.6, fill: s.color }).append(title(s.titles ? s.titles[i] : shown(s.y[i])));
    }
  });
}
function upright(names, width) { return Math.max(...names.map(n => n.length)) * 7 * names.length > width - 60; }
function nameRoom(names, width) {
  return upright(names, width) ? Math.min(120, 16 + 5.2 * Math.max(...names.map(n => n.length))) : 18;
}
function nameAxis(add, names, X, y, width) {
  const slanted = upright(names, width), step = Math.ceil(names.length / ((width - 60) / 14));
  names.forEach((name, i) => {
    if (i % step) return;
    const short = name.length > 24 ? name.slice(0, 23) + "…" : name;
    add("text", slanted
      ? { transform: `translate(${X(i) + 4} ${y + 10}) rotate(-55)`, "text-anchor": "end", fill: "var(--soft)" }
      : { x: X(i), y: y + 16, "text-anchor": "middle", fill: "var(--soft)" }, short);
  });
}
function spread(values) {
  if (!values.length) return [0, 1];
  let low = Math.min(...values), high = Math.max(...values);
  const room = (high - low || 0.1) * 0.08;
  if (low > 0 && low < 0.35 * high) low = room;
  return [low - room, high + room];
}
function ticks([low, high]) {
  const raw = (high - low) / 5, power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 2.5, 5, 10].map(f => f * power).find(s => s >= raw);
  const found = [];
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high + 1e-9 * step; k++) found.push(k * step);
  return found;
}
function clean(v) { return String(Number(v.toPrecision(6))); }

/* ---- scores ---- */
const keyOf = (layer, region, transform) => [layer, region, transform].join("\u0000");
const rowAt = new Map(D.rows.map(r => [keyOf(r.layer, r.region, r.transform), r]));
function drawProfile() {
  const n = D.regions.length;
  const series = [], bands = [];
  D.regions.forEach((region, i) => {
    const rows = D.layers.map(layer => rowAt.get(keyOf(layer, region, chosen.transform)));
    const shift = n > 1 ? 0.3 * ((i + 0.5) / n - 0.5) : 0;
    series.push({
      name: region, color: color(i), x: rows.map((_, k) => k + shift), y: rows.map(r => r.score),
      low: rows.map(low), high: rows.map(high), width: region === chosen.region ? 2.6 : 1.4,
      titles: rows.map(r => `${r.layer} / ${region}: ${shown(r.score)} ${interval(r)}`),
    });
    const ceilings = rows.filter(r => r.ceiling_lower !== null);
    if (ceilings.length) {
      const mean = key => ceilings.reduce((sum, r) => sum + r[key], 0) / ceilings.length;
      const room = 0.32 / n;
      bands.push({
        from: n === 1 ? -0.5 : D.layers.length - 0.5 - (n - i) * room, to: n === 1 ? D.layers.length - 0.5 : D.layers.length - 0.5 - (n - i - 0.8) * room,
        low: mean("ceiling_lower"), high: mean("ceiling_upper"), color: color(i),
        title: `noise ceiling of ${region}: ${shown(mean("ceiling_lower"))} to ${shown(mean("ceiling_upper"))}`,
      });
    }
  });
  chart($("profile"), { series, bands, names: D.layers, ylabel: D.measure, xlabel: "layer", height: 300,
                        label: `Scores of layers under ${chosen.transform}` });
  $("profile-note").textContent = `${D.titles[chosen.transform]}. Bars: ${D.bars}.` +
    (bands.length ? ` Shaded${n > 1 ? " at the right edge" : ""}: noise ceilings, mean over layers.` : ` ${D.noCeiling}`);
}
const has = r => r.score_low !== null && r.score_low !== undefined;
const low = r => r.score === null ? null : has(r) ? r.score_low : r.score_se === null ? null : r.score - r.score_se;
const high = r => r.score === null ? null : has(r) ? r.score_high : r.score_se === null ? null : r.score + r.score_se;
const interval = r => low(r) === null ? "" : `[${shown(low(r), 2)}, ${shown(high(r), 2)}]`;

let gridSort = null; // region name, descending first
function drawGrid() {
  const score = (layer, region) => rowAt.get(keyOf(layer, region, chosen.transform)).score;
  const bests = D.regions.map(r => Math.max(...D.layers.map(l => score(l, r) ?? -Infinity)));
  const all = D.layers.flatMap(l => D.regions.map(r => score(l, r))).filter(v => v !== null);
  const [least, most] = [Math.min(...all), Math.max(...all)];
  const layers = [...D.layers];
  if (gridSort) layers.sort((a, b) => gridSort.sign * compare(score(a, gridSort.by), score(b, gridSort.by)));
  const head = make("tr", {}, make("th", { scope: "col", class: "text" }, "layer"));
  for (const region of D.regions) {
    head.append(sortable(region, gridSort && gridSort.by === region ? gridSort.sign : 0, () => {
      gridSort = { by: region, sign: gridSort && gridSort.by === region ? -gridSort.sign : -1 };
      drawGrid();
    }));
  }
  const body = layers.map(layer => make("tr", {}, make("th", { scope: "row" }, layer), ...D.regions.map((region, i) => {
    const value = score(layer, region);
    const best = value !== null && value === bests[i];
    const button = make("button", { type: "button", class: best ? "best" : "" }, shown(value));
    button.addEventListener("click", () => {
      choose({ layer, region });
      $("grid").querySelector("td[aria-current=true] button").focus({ preventScroll: true });
    });
    const current = layer === chosen.layer && region === chosen.region;
    const cell = make("td", { "aria-current": String(current) }, button);
    const share = value === null || most === least ? 0 : (value - least) / (most - least);
    cell.style.background = `rgba(var(--cell), ${(0.45 * Math.max(0, share)).toFixed(3)})`;
    return cell;
  })));
  $("grid").replaceChildren(make("caption", { class: "hidden" }, `Scores under ${chosen.transform}`), make("thead", {}, head), make("tbody", {}, ...body));
}
function compare(a, b) {
  if (a === b) return 0;
  if (a === null || a === undefined) return -1;
  if (b === null || b === undefined) return 1;
  return typeof a === "string" ? a.localeCompare(b, undefined, { numeric: true }) : a - b;
}
function sortable(name, sign, act, text = false) {
  const button = make("button", { type: "button" }, name);
  button.addEventListener("click", () => {
    const table = button.closest("table").id;
    act();
    refocus(table, name);
  });
  return make("th", { scope: "col", class: text ? "text" : "", "aria-sort": sign > 0 ? "ascending" : sign < 0 ? "descending" : "none" }, button);
}
function refocus(table, name) {
  const found = [...$(table).querySelectorAll("th button")].find(b => b.textContent === name);
  if (found) found.focus({ preventScroll: true });
}
function cellText(row, key, digits) {
  if (digits === null) return row[key] ?? "";
  if (typeof digits === "number") return shown(row[key], digits);
  return row[key] === null ? "–" : `${shown(row[key], 2)} to ${shown(row[digits], 2)}`;
}
let rowSort = null;
function drawRows() {
  const words = $("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
  let rows = D.rows.filter(r => words.every(w => [r.layer, r.region, r.transform].some(v => v.toLowerCase().includes(w))));
  if (rowSort) rows = [...rows].sort((a, b) => rowSort.sign * compare(a[rowSort.by], b[rowSort.by]));
  const head = make("tr", {}, ...D.columns.map(([key, name, digits]) => sortable(name, rowSort && rowSort.by === key ? rowSort.sign : 0, () => {
    const first = digits === null ? 1 : -1; // names upwards, numbers downwards
    rowSort = { by: key, sign: rowSort && rowSort.by === key ? -rowSort.sign : first };
    drawRows();
  }, digits === null)));
  const body = rows.map(r => {
    const here = r.layer === chosen.layer && r.region === chosen.region && r.transform === chosen.transform;
    return make("tr", { class: here ? "chosen" : "" }, ...D.columns.map(([key, , digits]) =>
      make("td", { class: digits === null ? "text" : "" }, cellText(r, key, digits))));
  });
  $("rows").replaceChildren(make("thead", {}, head), make("tbody", {}, ...body));
  $("count").textContent = `${rows.length} of ${D.rows.length} rows`;
}

/* ---- gains by four scores ---- */
function drawBeside() {
  const gains = D.transforms.map(t => D.beside[keyOf(chosen.layer, chosen.region, t)]);
  const known = gains.some(Boolean);
  $("beside-part").classList.toggle("hidden", !known);
  if (!known) return;
  const names = D.besideNames.map((name, k) => k ? name : D.measure);
  const series = names.map((name, k) => ({
    name, color: color(k), line: false, x: gains.map((_, i) => i + 0.15 * (k - 1.5)), y: gains.map(g => g ? g[k] : null),
    titles: gains.map((g, i) => `${D.transforms[i]}, ${name}: ${g ? shown(g[k]) : "–"}`),
  }));
  chart($("beside"), { series, names: D.transforms, ylabel: "gain", xlabel: "transform", height: 240,
                       label: `Gains of transforms by four scores, ${chosen.layer} with ${chosen.region}` });
  $("beside-note").textContent = `${chosen.layer} with ${chosen.region}: each transform less the fixed one that is best under ${D.measure}. ` +
    "Where the geometry is more alike, all four rise. Where only the first does, or stimuli are identified less well, the gain is a shortcut: do not claim it.";
}

/* ---- learned transforms ---- */
function drawSimilarity() {
  const found = D.similarities[keyOf(chosen.layer, chosen.region, chosen.transform)];
  $("similarity-about").classList.toggle("hidden", !found);
  $("similarity-weights").parentElement.classList.toggle("hidden", !found);
  $("similarity-path").parentElement.classList.toggle("hidden", !found || !found.path);
  if (!found) return;
  $("similarity-about").textContent = found.about;
  chart($("similarity-weights"), { series: [{ color: color(0), x: found.weights.map((_, i) => i + 1), y: found.weights }],
    legend: false, height: 230, xlabel: "principal component", ylabel: "weight", label: "Weights of principal components" });
  if (!found.path) return;
  const [train, inner] = found.path;
  chart($("similarity-path"), { series: [
      { name: "training stimuli", color: color(0), x: D.mapStops.map((_, i) => i), y: train },
      { name: "inner folds", color: color(1), x: D.mapStops.map((_, i) => i), y: inner }],
    names: D.mapStops.map(String), height: 212, xlabel: "steps", ylabel: "score", label: "Scores along the fit of the similarity, mean over folds" });
}
function drawLearned() {
  const found = D.learned[keyOf(chosen.layer, chosen.region, chosen.transform)];
  const mapped = D.similarities[keyOf(chosen.layer, chosen.region, chosen.transform)];
  drawSimilarity();
  $("learned-about").classList.toggle("hidden", !found && Boolean(mapped));
  for (const id of ["curve-model", "curve-brain", "path"]) $(id).parentElement.classList.toggle("hidden", !found);
  if (!found) {
    const row = rowAt.get(keyOf(chosen.layer, chosen.region, chosen.transform));
    $("learned-about").textContent = (chosen.transform === "selected"
      ? `Most folds selected ${row.chosen || "a fixed transform"}, and none a learned one. `
      : `Nothing is learned under "${D.titles[chosen.transform]}". `) +
      (D.learnedNames.length ? `To see what was learned, choose above: ${D.learnedNames.join("; ")}.` : "");
    return;
  }
  $("learned-about").textContent = found.about;
  for (const side of ["model", "brain"]) {
    const [low, y, high] = found[side];
    chart($("curve-" + side), { series: [{ color: color(side === "model" ? 0 : 1), x: D.similarity, y, low, high, area: true }],
      x: [0, 1], y: [-0.02, 1.02], diagonal: true, legend: false, height: 230, xlabel: "scaled similarity", ylabel: "after the step",
      label: `Learned step of the ${side} side` });
  }
  const [train, inner] = found.path;
  chart($("path"), { series: [
      { name: "training stimuli", color: color(0), x: D.stops.map((_, i) => i), y: train },
      { name: "inner folds", color: color(1), x: D.stops.map((_, i) => i), y: inner }],
    names: D.stops.map(String), height: 212, xlabel: "steps", ylabel: "score", label: "Scores along the fit, mean over folds" });
}

/* ---- matrices ---- */
const VIRIDIS = [[68,1,84],[71,44,122],[59,81,139],[44,113,142],[33,144,141],[39,173,129],[92,200,99],[170,220,50],[253,231,37]];
const palette = Array.from({ length: 256 }, (_, i) => {
  const at = i / 255 * 8, k = Math.min(7, Math.floor(at)), f = at - k;
  return VIRIDIS[k].map((v, c) => Math.round(v + f * (VIRIDIS[k + 1][c] - v)));
});
const unpacked = new Map();
function matrix(side, transform) {
  const packed = (D.matrices[chosen.region] || {})[transform];
  if (!packed || !packed[side]) return null;
  const key = [chosen.region, transform, side].join("\u0000");
  if (!unpacked.has(key)) unpacked.set(key, { bytes: Uint8Array.from(atob(packed[side].bytes), c => c.charCodeAt(0)), low: packed[side].low, high: packed[side].high });
  return unpacked.get(key);
}
const cursor = { row: 0, column: 1 };
let order = [];
function drawMatrices() {
  const n = D.at.length, layer = D.exampleLayers[chosen.region];
  $("pairs").classList.toggle("hidden", !n);
  if (!n) return;
  order = $("pick-order").value === "cluster" ? D.clusters[chosen.region] : D.at.map((_, i) => i);
  const after = matrix("model", chosen.transform);
  $("pairs-about").textContent = `${layer}, the best layer of ${chosen.region} under any transform, whichever is chosen above, and ${chosen.region} itself (mean over subjects). ` +
    `Over all stimuli, those the transforms were fitted on too: to look at, not to score.` + (D.stimuliNote || "") +
    (chosen.transform === "identity" ? " Choose another transform above to see what it makes of them." : "") +
    (after ? "" : ` What "${D.titles[chosen.transform]}" makes of them was not kept: it was fitted on a cluster or for a store.`);
  for (const side of ["model", "brain"]) for (const when of ["before", "after"]) {
    const canvas = $(`m-${side}-${when}`), m = matrix(side, when === "before" ? "identity" : chosen.transform);
    const figure = canvas.parentElement, what = side === "model" ? layer : chosen.region;
    figure.classList.toggle("hidden", !m || (when === "after" && chosen.transform === "identity"));
    if (!m) continue;
    figure.querySelector("figcaption").textContent = `${what}, ${when} (${shown(m.low, 2)} to ${shown(m.high, 2)})`;
    canvas.setAttribute("aria-label", `Similarities of ${what} ${when} the transform, ${n} stimuli`);
    canvas.width = canvas.height = n;
    const context = canvas.getContext("2d"), image = context.createImageData(n, n);
    for (let i = 0; i < n; i++) for (let j = 0; j < n; j++) {
      const byte = m.bytes[order[i] * n + order[j]];
      const rgb = i === j || !byte ? null : palette[byte];
      image.data.set(rgb ? [...rgb, 255] : [128, 128, 128, 60], 4 * (i * n + j));
    }
    context.putImageData(image, 0, 0);
  }
}
function tell(canvas, row, column) {
  const n = D.at.length;
  row = Math.max(0, Math.min(n - 1, row));
  column = Math.max(0, Math.min(n - 1, column));
  Object.assign(cursor, { row, column });
  const [, side, when] = canvas.id.split("-");
  const m = matrix(side, when === "before" ? "identity" : chosen.transform);
  const [i, j] = [order[row], order[column]];
  const byte = m.bytes[i * n + j];
  const value = i === j ? "the stimulus itself" : !byte ? "missing" : `similarity ${shown(m.low + (m.high - m.low) * (byte - 1) / 254, 2)}`;
  const name = k => D.stimuli[D.at[k]];
  const picture = k => D.thumbnails[D.at[k]] ? make("img", { src: D.thumbnails[D.at[k]], alt: name(k) }) : null;
  $("cell").replaceChildren(...[picture(i), picture(j)].filter(Boolean),
    make("span", {}, make("strong", {}, name(i)), " and ", make("strong", {}, name(j)), `: ${value} (${side} side, ${when})`));
}
for (const canvas of document.querySelectorAll("canvas")) {
  canvas.addEventListener("pointermove", event => {
    const box = canvas.getBoundingClientRect(), n = D.at.length;
    tell(canvas, Math.floor((event.clientY - box.top) / box.height * n), Math.floor((event.clientX - box.left) / box.width * n));
  });
  canvas.addEventListener("keydown", event => {
    const move = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    if (!move) return;
    event.preventDefault();
    tell(canvas, cursor.row + move[0], cursor.column + move[1]);
  });
}

/* ---- stimuli ---- */
function drawStimuli() {
  const found = D.influence[keyOf(chosen.layer, chosen.region, chosen.transform)];
  if (!found) {
    $("stimuli-about").textContent = "Not known for this measure.";
    $("stimuli").replaceChildren();
    return;
  }
  $("stimuli-about").textContent = `${chosen.layer} with ${chosen.region}, ${D.titles[chosen.transform]}: how much the held-out score would ` +
    "rise if a stimulus counted twice (first order). Stimuli above 0 are those that both sides agree about.";
  const largest = Math.max(...found.top.concat(found.bottom).map(([, v]) => Math.abs(v))) || 1;
  const list = (name, items) => make("div", {}, make("h3", {}, name), items.length ? null : make("p", { class: "note" }, "No stimulus stands out."), ...items.map(([k, value]) => {
    const bar = make("div", { class: value < 0 ? "bar low" : "bar" });
    bar.style.width = `${100 * Math.abs(value) / largest}%`;
    const image = D.thumbnails[k];
    return make("div", { class: image ? "stimulus" : "stimulus plain" }, image ? make("img", { src: image, alt: "" }) : null,
      make("span", { class: "name", title: D.stimuli[k] }, D.stimuli[k]), make("div", {}, bar), make("span", { class: "value" }, shown(value, 4)));
  }));
  $("stimuli").replaceChildren(list("For the score", found.top), list("Against it", found.bottom));
}

/* ---- choosing ---- */
function fill(id, names, current, titles = {}) {
  $(id).replaceChildren(...names.map(name => {
    const option = make("option", { value: name }, titles[name] ? `${name}: ${titles[name]}` : name);
    option.selected = name === current;
    return option;
  }));
}
function choose(change) {
  Object.assign(chosen, change);
  for (const key of ["transform", "region", "layer"]) $("pick-" + key).value = chosen[key];
  draw();
}
function draw() { drawProfile(); drawGrid(); drawBeside(); drawRows(); drawLearned(); drawMatrices(); drawStimuli(); }
fill("pick-transform", D.transforms, chosen.transform, D.titles);
fill("pick-region", D.regions, chosen.region);
fill("pick-layer", D.layers, chosen.layer);
for (const key of ["transform", "region", "layer"]) {
  $("pick-" + key).addEventListener("change", event => choose({ [key]: event.target.value }));
}
$("pick-order").addEventListener("change", drawMatrices);
$("filter").addEventListener("input", drawRows);
for (const button of document.querySelectorAll(".copy")) {
  button.addEventListener("click", async () => {
    const text = $(button.dataset.from).textContent;
    try { await navigator.clipboard.writeText(text); button.textContent = "Copied"; } catch {
      getSelection().selectAllChildren($(button.dataset.from));
      button.textContent = "Selected";
    }
    setTimeout(() => { button.textContent = "Copy"; }, 2000);
  });
}
const dark = () => (document.documentElement.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
const nameTheme = () => { $("theme").textContent = dark() ? "Light" : "Dark"; };
$("theme").addEventListener("click", () => { document.documentElement.dataset.theme = dark() ? "light" : "dark"; nameTheme(); });
nameTheme();
let width = document.body.clientWidth;
addEventListener("resize", () => { if (document.body.clientWidth !== width) { width = document.body.clientWidth; drawProfile(); drawBeside(); drawLearned(); } });
addEventListener("beforeprint", () => { drawProfile(); drawBeside(); drawLearned(); });
draw();
})();
