// The views of widgets/explorer.py: drawing and input only; every number comes from Python. Nothing is fetched from the
// network, and text is set as text, never as markup.

const SVG = "http://www.w3.org/2000/svg";
let followed = "";  // the last address that was applied; each widget has its own copy of this file
const TIMEOUT = 5000;  // milliseconds
const NARROW = 480;  // pixels: a phone shows the sliders below the spectrum, at first one group of them
// Keeps JupyterLab from using the arrow keys for its notebook.
const OWN_KEYS = "data-lm-suppress-shortcuts";
const FOCUSABLE = ["input", "button", "select", "textarea", "summary"];

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) node.setAttribute(name, value);
  }
  if (FOCUSABLE.includes(node.localName) || node.hasAttribute("tabindex")) node.setAttribute(OWN_KEYS, "true");
  for (const child of children.flat()) {
    if (child !== null && child !== undefined) node.append(child.nodeType ? child : document.createTextNode(String(child)));
  }
  return node;
}

const html = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);
const svg = (tag, attributes, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);

function amount(value) {
  if (value === 0) return "0";
  if (Math.abs(value) >= 100000) return value.toPrecision(3).replace(/e\+?/, "e");
  return Number.isInteger(value) || Math.abs(value) >= 1000 ? value.toFixed(0) : value.toFixed(Math.abs(value) >= 1 ? 1 : 2);
}

// Rewriting the same text would make screen readers repeat it.
function write(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

const plain = (value) => String(Number(value.toFixed(6)));
const whole = new Intl.NumberFormat("en");
const signed = (value) => value.toFixed(2).replace("-", "−");
const withUnit = (value, unit) => (unit ? `${plain(value)} ${unit}` : plain(value));

const lettersOf = (element) => parseFloat(getComputedStyle(element).fontSize) || 16;  // in pixels; the style sheet decides

function ticks(low, high, about) {
  const raw = (high - low) / about;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = power * [1, 2, 5, 10].find((factor) => factor * power >= raw);
  const found = [];
  for (let value = Math.ceil(low / step) * step; value <= high + step * 1e-9; value += step) found.push(Number(value.toPrecision(12)));
  return found;
}

// --- Spectra ---------------------------------------------------------------------------------------------------------

function steps(edges, heights, base, x, y) {
  let path = `M${x(edges[0])},${y(base[0])}`;
  for (let i = 0; i < heights.length; i += 1) path += `L${x(edges[i])},${y(heights[i])}L${x(edges[i + 1])},${y(heights[i])}`;
  for (let i = heights.length - 1; i >= 0; i -= 1) path += `L${x(edges[i + 1])},${y(base[i])}L${x(edges[i])},${y(base[i])}`;
  return `${path}Z`;
}

function outline(edges, heights, x, y) {
  let path = `M${x(edges[0])},${y(heights[0])}`;
  for (let i = 0; i < heights.length; i += 1) path += `L${x(edges[i])},${y(heights[i])}L${x(edges[i + 1])},${y(heights[i])}`;
  return path;
}

const sum = (rows, n) => rows.reduce((total, row) => total.map((value, i) => value + row[i]), new Array(n).fill(0));

function frame(width, height, shown, top, textSize) {
  const left = 3.6 * textSize, right = 0.8 * textSize, bottom = 3.4 * textSize, above = 0.8 * textSize;
  const first = shown.edges[0], last = shown.edges[shown.edges.length - 1];
  const x = (value) => Number((left + ((value - first) / (last - first)) * (width - left - right)).toFixed(2));
  const y = (value) => Number((height - bottom - (value / top) * (height - bottom - above)).toFixed(2));
  const node = svg("svg", { viewBox: `0 0 ${width} ${height}`, "font-size": textSize });
  for (const value of ticks(0, top, Math.max(3, height / (5 * textSize)))) {
    node.append(svg("line", { class: "grid", x1: left, x2: width - right, y1: y(value), y2: y(value) }));
    node.append(svg("text", { x: left - 6, y: y(value) + textSize / 3, "text-anchor": "end" }, plain(value)));
  }
  for (const value of ticks(first, last, Math.max(3, width / (6 * textSize)))) {
    node.append(svg("line", { class: "axis", x1: x(value), x2: x(value), y1: height - bottom, y2: height - bottom + 5 }));
    node.append(svg("text", { x: x(value), y: height - bottom + 1.3 * textSize, "text-anchor": "middle" }, plain(value)));
  }
  const middle = (height - bottom + above) / 2;
  const per = `${plain(shown.edges[1] - shown.edges[0])}${shown.unit ? ` ${shown.unit}` : ""}`;
  node.append(svg("text", { x: width - right, y: height - 0.5 * textSize, "text-anchor": "end" }, shown.label));
  node.append(svg("text", { transform: `translate(${textSize},${middle}) rotate(-90)`, "text-anchor": "middle" }, `Events / ${per}`));
  node.append(svg("path", { class: "axis", d: `M${left},${above}V${height - bottom}H${width - right}` }));
  return { node, x, y, left, right, bottom, above };
}

function drawSpectrum(shown, kept, setup, width, height, textSize) {
  const n = shown.edges.length - 1;
  const order = setup.processes.filter((process) => shown.processes[process.name]);
  const total = sum(order.map((process) => shown.processes[process.name]), n);
  const keptTotal = kept ? sum(Object.values(kept.processes), n) : [];
  const upper = shown.high || shown.data || [];
  const visible = (shown.data || []).map((count, i) => (count > 0 ? upper[i] : 0));
  const top = 1.08 * Math.max(1e-3, ...total, ...visible, ...keptTotal, ...((kept && kept.data) || []));
  const drawn = frame(width, height, shown, top, textSize);
  const { node, x, y } = drawn;
  let base = new Array(n).fill(0);
  for (const process of order) {
    const next = base.map((value, i) => value + shown.processes[process.name][i]);
    node.append(svg("path", { d: steps(shown.edges, next, base, x, y), fill: process.colour }));
    base = next;
  }
  if (order.length) node.append(svg("path", { class: "axis", d: outline(shown.edges, total, x, y) }));
  if (kept) {
    if (Object.keys(kept.processes).length) node.append(svg("path", { class: "kept", d: outline(shown.edges, keptTotal, x, y) }));
    (kept.data || []).forEach((count, i) => {
      if (count > 0) node.append(svg("circle", { class: "kept-data", cx: x((shown.edges[i] + shown.edges[i + 1]) / 2), cy: y(count), r: 0.44 * textSize }));
    });
  }
  (shown.data || []).forEach((count, i) => {
    if (!count) return;
    const centre = x((shown.edges[i] + shown.edges[i + 1]) / 2);
    if (shown.low) node.append(svg("line", { class: "data", x1: centre, x2: centre, y1: y(shown.low[i]), y2: y(shown.high[i]) }));
    node.append(svg("circle", { class: "data", cx: centre, cy: y(count), r: 0.22 * textSize }));
  });
  return { ...drawn, total };
}

function drawBins(drawn, shown, height, state, chosen, choose) {
  const group = svg("g", { role: "listbox", "aria-label": `Bins of ${shown.label}; choose one to list its candidates` });
  const n = shown.edges.length - 1;
  const roving = state.roving < n ? state.roving : Math.floor(n / 2);  // undefined is not
  for (let i = 0; i < n; i += 1) {
    const count = shown.data ? `${shown.data[i]} in the data, ` : "";
    const label = `${plain(shown.edges[i])} to ${withUnit(shown.edges[i + 1], shown.unit)}: ${count}${amount(drawn.total[i])} expected`;
    const move = (event) => {
      const next = { ArrowRight: i + 1, ArrowLeft: i - 1, Home: 0, End: n - 1 }[event.key];
      if (event.key === "Enter" || event.key === " ") { event.preventDefault(); choose(i); }
      if (next === undefined) return;
      event.preventDefault();
      const target = group.children[Math.min(n - 1, Math.max(0, next))];
      group.querySelectorAll(".bin").forEach((bin) => bin.setAttribute("tabindex", -1));
      target.setAttribute("tabindex", 0);
      state.roving = Math.min(n - 1, Math.max(0, next));
      target.focus();
    };
    const bin = svg("rect", {
      class: "bin", role: "option", tabindex: i === roving ? 0 : -1, "aria-label": label,
      "aria-selected": i === chosen ? "true" : "false", x: drawn.x(shown.edges[i]), y: drawn.above,
      width: Math.max(1, drawn.x(shown.edges[i + 1]) - drawn.x(shown.edges[i])), height: height - drawn.bottom - drawn.above,
      onclick: () => choose(i), onkeydown: move,
    }, svg("title", {}, label));
    group.append(bin);
  }
  drawn.node.append(group);
}

function legend(shown, setup, kept) {
  const items = setup.processes.filter((process) => shown.processes[process.name]).reverse().map((process) => {
    const mark = svg("svg", { viewBox: "0 0 24 16", "aria-hidden": "true" }, svg("rect", { width: 24, height: 16, fill: process.colour }));
    return html("li", {}, mark, process.label);
  });
  if (shown.data) {
    const mark = svg("svg", { viewBox: "0 0 24 16", "aria-hidden": "true" }, svg("line", { class: "data", x1: 12, x2: 12, y1: 0, y2: 16 }), svg("circle", { class: "data", cx: 12, cy: 8, r: 4 }));
    items.unshift(html("li", {}, mark, setup.simulated ? "Simulated data" : "Data"));
  }
  if (kept) {
    const mark = svg("svg", { viewBox: "0 0 24 16", "aria-hidden": "true" }, svg("path", { class: "kept", d: "M0,5H24" }), svg("circle", { class: "kept-data", cx: 12, cy: 11, r: 4 }));
    items.push(html("li", {}, mark, "kept for comparison"));
  }
  return html("ul", { class: "legend" }, items);
}

// --- One event -------------------------------------------------------------------------------------------------------

const symbol = (lepton) => `${lepton.flavour === "muon" ? "μ" : "e"}${lepton.charge > 0 ? "⁺" : "⁻"}`;

// Write each lepton's name near the end of its track, clear of other names and, if possible, of tracks.
function labels(node, places, tracks, size, textSize) {
  const high = 1.25 * textSize, taken = [];
  const within = (value, most) => Math.min(Math.max(value, 2), most - 2);
  const shared = (a, b) => a.x < b.x + b.width && b.x < a.x + a.width && a.y < b.y + high && b.y < a.y + high;
  for (const { end, out, pair, text } of places) {
    const width = 0.68 * textSize * text.length, gap = 0.5 * textSize;
    const boxes = [];
    for (const across of [out < 0 ? -gap - width : gap, -width / 2, out < 0 ? gap : -gap - width]) {
      for (const row of [0, -1, 1, -2, 2, -3, 3, -4, 4]) {
        const box = { x: within(end[0] + across, size.width - width), y: within(end[1] + (row - 0.5) * high, size.height - high), width };
        const hidden = tracks.filter(([x, y]) => x > box.x && x < box.x + width && y > box.y && y < box.y + high).length;
        const far = Math.hypot(box.x + width / 2 - end[0], box.y + high / 2 - end[1]);
        boxes.push({ ...box, cost: far + 25 * hidden + (taken.some((other) => shared(box, other)) ? 1e6 : 0) });
      }
    }
    const best = boxes.reduce((one, other) => (other.cost < one.cost ? other : one));
    taken.push(best);
    const near = [Math.min(Math.max(end[0], best.x), best.x + width), Math.min(Math.max(end[1], best.y), best.y + high)];
    if (Math.hypot(near[0] - end[0], near[1] - end[1]) > textSize) node.append(svg("line", { class: "leader", x1: end[0], y1: end[1], x2: near[0], y2: near[1] }));
    node.append(svg("text", { x: best.x + width / 2, y: best.y + 0.95 * textSize, "text-anchor": "middle", class: `z${pair}-text`, "paint-order": "stroke", stroke: "var(--paper)", "stroke-width": 4 }, text));
  }
}

// The sketch of the detector and the tracks come from Python, which draws the same in figures; lengths are in metres.
function drawView(shown, detector, side, width, textSize) {
  const height = side ? 0.8 * width : width;
  const room = 0.2, outside = detector[0];
  const scale = side ? Math.min(width / 2 / (outside.half + room), height / 2 / (outside.radius + room)) : width / 2 / (outside.radius + room);
  const [cx, cy] = [width / 2, height / 2];
  const name = side ? "Side view" : "End view";
  const node = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "font-size": textSize, "aria-label": `${name} of the event; the table of leptons gives the numbers` });
  for (const { name: layer, radius, half } of detector) {
    const look = `detector ${layer.replaceAll(" ", "-")}`;
    if (side) node.append(svg("rect", { class: look, x: cx - half * scale, y: cy - radius * scale, width: 2 * half * scale, height: 2 * radius * scale }));
    else node.append(svg("circle", { class: look, cx, cy, r: radius * scale }));
  }
  const project = ([x, y, z], up) => (side ? [cx + z * scale, cy - up * Math.hypot(x, y) * scale] : [cx + x * scale, cy - y * scale]);
  const places = [], tracks = [];
  shown.leptons.forEach((lepton) => {
    const up = Math.sin(lepton.phi) >= 0 ? 1 : -1;
    const points = lepton.track.map((point) => project(point, up));
    const d = points.map(([px, py], i) => `${i ? "L" : "M"}${px.toFixed(1)},${py.toFixed(1)}`).join("");
    node.append(svg("path", { class: `track ${lepton.flavour} z${lepton.pair}`, d }));
    tracks.push(...points);
    const end = points.at(-1);
    places.push({ end, out: end[0] - cx, pair: lepton.pair, text: `${symbol(lepton)} ${lepton.pt.toFixed(0)} GeV` });
  });
  labels(node, places, tracks, { width, height }, textSize);
  return html("figure", { class: "figure", style: "margin:0" }, html("figcaption", {}, name), node);
}

function drawEvent(target, shown, setup) {
  target.replaceChildren();
  if (!shown || !shown.leptons) return;
  const kind = shown.process === "data" ? (setup.simulated ? "simulated data" : "data") : `simulated, ${shown.process}`;
  const width = Math.max(260, target.clientWidth || 600);
  const room = (target.closest(".hgx") || target).clientWidth;  // the style sheet decides by it, too
  const each = room >= 640 ? (width - 8) / 2 : width;
  const textSize = lettersOf(target);
  const key = [1, 2].map((pair) => html("li", {}, svg("svg", { viewBox: "0 0 24 16", "aria-hidden": "true" }, svg("path", { class: `track z${pair}`, d: "M0,8H24" })), `Z${pair}: ${shown[`mass_z${pair}`].toFixed(1)} GeV`));
  const styles = ["muon", "electron"].map((flavour) => html("li", {}, svg("svg", { viewBox: "0 0 24 16", "aria-hidden": "true" }, svg("path", { class: `track ${flavour}`, d: "M2,8H22", stroke: "currentColor" })), flavour === "muon" ? "muon: solid line, leaves the detector" : "electron: dotted line, stops in the calorimeter"));
  const rows = shown.leptons.map((lepton) => html("tr", {}, html("th", { scope: "row" }, `${symbol(lepton)} from Z${lepton.pair}`), html("td", {}, lepton.pt.toFixed(1)), html("td", {}, signed(lepton.eta)), html("td", {}, signed(lepton.phi)), html("td", {}, lepton.charge > 0 ? "+1" : "−1")));
  target.append(
    html("h3", { tabindex: -1 }, `Event ${shown.name}`),
    html("p", {}, `${kind}, channel ${shown.channel}: four-lepton mass ${shown.mass_4l.toFixed(2)} GeV`),
    html("ul", { class: "legend" }, key, styles),
    html("div", { class: "views" }, drawView(shown, setup.detector, false, each, textSize), drawView(shown, setup.detector, true, each, textSize)),
    html("div", { class: "scroll" }, html("table", {}, html("caption", { class: "quiet" }, "The four leptons of this event"),
      html("thead", {}, html("tr", {}, ["lepton", "pT [GeV]", "η", "φ [rad]", "charge"].map((name) => html("th", { scope: "col" }, name)))), html("tbody", {}, rows))),
  );
}

// --- The explorer ----------------------------------------------------------------------------------------------------

// The selection in a link, and a message if parts of it were ignored: it may be damaged, or made with other data or another version.
function fromAddress(setup) {
  if (!location.hash.startsWith("#higgsnb=")) return null;
  const given = new URLSearchParams(location.hash.slice(1));
  const [[, name], ...wanted] = given;
  const base = setup.selections.find((selection) => selection.name === name);
  if (!base) return { message: `The link refers to the selection “${name.slice(0, 40)}”, which does not exist here. The link was ignored.` };
  const cuts = { ...base.cuts }, ignored = [];
  for (const [cut, text] of wanted) {
    const control = setup.controls.find((one) => one.cut === cut);
    const value = text.trim() === "" ? NaN : Number(text);
    if (control && Number.isFinite(value)) cuts[cut] = Math.min(control.high, Math.max(control.low, value));
    if (!control || cuts[cut] !== value) ignored.push(`${cut}=${text}`.slice(0, 40));
  }
  const more = ignored.length > 3 ? ", …" : "";
  const message = ignored.length ? `Parts of the link were ignored or adjusted: ${ignored.slice(0, 3).join(", ")}${more}. The sliders show the current cuts.` : "";
  return { base: base.name, cuts, message };
}

// Without the hub's access token: anyone who has it can run code in the session.
function address(base, changes) {
  const page = new URL(location.href);
  page.searchParams.delete("token");
  page.hash = new URLSearchParams({ higgsnb: base, ...changes });
  return page.href;
}

function renderExplorer({ model, el }) {
  const setup = model.get("setup");
  const id = `hgx-${Math.random().toString(36).slice(2)}`;  // unique on a page with several widgets
  const chosenBin = () => (model.get("bin") < 0 ? undefined : model.get("bin"));
  const state = { cuts: { ...model.get("cuts") }, base: model.get("base"), asked: model.get("asked"), waiting: false, dirty: false, idle: null, timeout: null, roving: chosenBin() };
  const cutsOf = (base) => (setup.selections.find((selection) => selection.name === base) || setup.selections[0]).cuts;

  // One request at a time; changes made meanwhile go with the next one. Other views of the same widget send requests, too:
  // numbering continues from the largest, and the answer to a later request than one's own is accepted.
  function ask() {
    if (state.waiting && Date.now() - state.waiting < 3000) { state.dirty = true; return; }
    state.waiting = Date.now();
    state.dirty = false;
    state.timeout ??= setTimeout(() => write(unanswered, "Python has not answered yet: the numbers shown are for the previous cuts. If this message stays, reload the page or run the notebook again."), TIMEOUT);
    state.asked = Math.max(state.asked, model.get("asked")) + 1;
    model.set("base", state.base);
    model.set("cuts", { ...state.cuts });
    model.set("asked", state.asked);
    model.save_changes();
  }
  function later() {
    clearTimeout(state.idle);
    state.idle = setTimeout(() => { model.set("rest", model.get("rest") + 1); model.save_changes(); }, 350);
  }
  function change(cut, value) {
    state.cuts[cut] = value;
    if (cut === "lepton_pt_leading" && state.cuts.lepton_pt_subleading > value) state.cuts.lepton_pt_subleading = value;
    if (cut === "lepton_pt_subleading" && state.cuts.lepton_pt_leading < value) state.cuts.lepton_pt_leading = value;
    showCuts();
    ask();
  }
  function begin(base, cuts, message = "") {
    write(ignored, message);
    state.base = base;
    state.cuts = { ...cuts };
    showCuts();
    ask();
  }
  function follow() {
    const given = location.hash === followed ? null : fromAddress(setup);
    followed = location.hash;
    if (given) begin(given.base || state.base, given.cuts || state.cuts, given.message);
  }
  function look(cut) {
    if (model.get("focus") === cut) return;
    model.set("focus", cut);
    model.save_changes();
  }

  // controls
  const sliders = {};
  const groups = [...new Set(setup.controls.map((control) => control.group))].map((group, number) => {
    const name = html("summary", { id: `${id}-group${number}` }, group);
    const rows = setup.controls.filter((control) => control.group === group).map((control) => {
      const off = setup.off[control.cut];
      const input = html("input", {
        type: "range", id: `${id}-${control.cut}`, "aria-labelledby": `${name.id} ${id}-${control.cut}-label`, min: control.low, max: control.high, step: control.step, disabled: Boolean(off), "data-cut": control.cut,
        oninput: (event) => change(control.cut, Number(event.target.value)), onfocus: () => look(control.cut), onpointerdown: () => look(control.cut),
      });
      const output = html("output", { for: input.id, "aria-live": "off" });
      const label = html("label", { id: `${input.id}-label`, for: input.id }, control.label + (off ? ` (${off})` : ""));
      const row = html("div", { class: off ? "cut off" : "cut" }, label, output, input);
      sliders[control.cut] = { control, input, output, row };
      return row;
    });
    return html("details", { open: true, role: "group", "aria-labelledby": name.id }, name, rows);
  });
  function showCuts() {
    const published = cutsOf(state.base);
    for (const [cut, { control, input, output, row }] of Object.entries(sliders)) {
      const value = state.cuts[cut];
      if (document.activeElement !== input || Number(input.value) !== value) input.value = value;
      input.setAttribute("aria-valuetext", withUnit(value, control.unit));
      write(output, withUnit(value, control.unit));
      row.classList.toggle("changed", value !== published[cut]);
    }
    bases.forEach((button) => button.setAttribute("aria-pressed", button.dataset.base === state.base ? "true" : "false"));
  }

  // toolbar
  const bases = setup.selections.map((selection) => html("button", { type: "button", "data-base": selection.name, title: selection.title, onclick: () => begin(selection.name, selection.cuts) }, selection.name));
  const reset = html("button", { type: "button", class: "reset", onclick: () => begin(state.base, cutsOf(state.base)) }, "Reset cuts");
  const keep = html("button", { type: "button", class: "keep", onclick: () => { model.set("kept", { base: state.base, cuts: { ...state.cuts } }); model.save_changes(); } }, "Keep for comparison");
  const forget = html("button", { type: "button", class: "forget", hidden: true, onclick: () => { keep.focus(); model.set("kept", {}); model.save_changes(); } }, "Clear comparison");
  const variable = html("select", { id: `${id}-variable`, onchange: (event) => { model.set("bin", -1); model.set("variable", event.target.value); model.save_changes(); } }, setup.variables.map((one) => html("option", { value: one.name }, one.label)));
  const link = html("input", { type: "text", readonly: true, "aria-label": "Link to this page with these cuts", onfocus: (event) => event.target.select() });
  const code = html("textarea", { rows: 6, readonly: true, "aria-label": "Python code that repeats this selection", onfocus: (event) => event.target.select() });
  const copied = html("span", { role: "status" });
  const copy = (field, what) => html("button", { type: "button", onclick: () => {
    field.select();
    const done = () => { copied.textContent = `${what} copied`; };
    if (navigator.clipboard) navigator.clipboard.writeText(field.value).then(done, () => { copied.textContent = "Selected: press Ctrl+C to copy"; });
    else { copied.textContent = "Selected: press Ctrl+C to copy"; }
  } }, `Copy ${what.toLowerCase()}`);
  const share = html("details", { class: "share" }, html("summary", {}, "Share this selection"),
    html("p", {}, "A link to this page with these cuts, for a dashboard:"), link, html("div", { class: "bar" }, copy(link, "Link")),
    html("p", {}, "The same selection in Python, for a notebook:"), code, html("div", { class: "bar" }, copy(code, "Code"), copied));

  // what is shown
  const status = html("p", { role: "status", "aria-live": "polite", class: "status" });
  const problem = html("p", { role: "alert", class: "banner" });
  const ignored = html("p", { role: "status", class: "banner" }), unanswered = html("p", { role: "status", class: "banner" });
  const main = html("div", { class: "figure main" }), mainLegend = html("div"), one = html("div", { class: "figure" }), oneText = html("p", { class: "hint" });
  const yieldTable = html("div", { class: "scroll yields" }), flowTable = html("div", { class: "scroll" }), withoutTable = html("div", { class: "scroll" });
  const list = html("div"), eventView = html("div", { class: "event" });
  const sizes = () => { const width = Math.max(280, main.clientWidth || 700); return { width, textSize: width < 480 ? 14 : lettersOf(main) }; };

  function chooseBin(index) {
    model.set("bin", index);
    model.set("place", []);
    model.save_changes();
  }
  function drawMain() {
    const view = model.get("view");
    if (!view.spectrum) return;
    const { width, textSize } = sizes();
    const height = Math.round(Math.max(280, 0.45 * width));
    const kept = view.kept ? view.kept.spectrum : null;
    const hadFocus = main.contains(document.activeElement);
    const drawn = drawSpectrum(view.spectrum, kept, setup, width, height, textSize);
    drawn.node.setAttribute("aria-label", `Spectrum: ${view.spectrum.label}`);
    drawBins(drawn, view.spectrum, height, state, model.get("bin"), chooseBin);
    main.replaceChildren(drawn.node);
    if (hadFocus) main.querySelector('.bin[tabindex="0"]').focus();
    mainLegend.replaceChildren(legend(view.spectrum, setup, kept));
  }
  function drawOne() {
    const shown = model.get("distribution");
    if (!shown.edges) return;
    const { width, textSize } = sizes();
    const height = Math.round(Math.max(200, 0.3 * width));
    const control = sliders[shown.cut].control;
    const value = state.cuts[shown.cut];
    const { node, x, above, bottom } = drawSpectrum(shown, null, setup, width, height, textSize);
    const [low, high] = [shown.edges[0], shown.edges[shown.edges.length - 1]];
    const at = x(Math.min(high, Math.max(low, value)));
    const [from, to] = shown.keeps === "above" ? [x(low), at] : [at, x(high)];
    node.append(svg("rect", { class: "removed", x: from, y: above, width: Math.max(0, to - from), height: height - bottom - above }));
    node.append(svg("line", { class: "cutline", x1: at, x2: at, y1: above, y2: height - bottom }));
    node.setAttribute("role", "img");
    node.setAttribute("aria-label", `${shown.label} after all other cuts; the cut is at ${withUnit(value, control.unit)} and keeps values ${shown.keeps} it`);
    one.replaceChildren(node);
    oneText.textContent = `After all other cuts. The cut is at ${withUnit(value, control.unit)}. Candidates in the shaded region fail it; their event may have another candidate that passes.`;
  }
  const label = (name) => (name === "data" ? (setup.simulated ? "simulated data" : "data") : (setup.processes.find((process) => process.name === name) || { label: name }).label);
  function table(caption, head, rows) {
    return html("table", {}, html("caption", { class: "quiet" }, caption), html("thead", {}, html("tr", {}, head.map((name) => html("th", { scope: "col" }, name)))),
      html("tbody", {}, rows.map(({ cells, last }) => html("tr", { class: last ? "last" : "" }, html("th", { scope: "row" }, cells[0]), cells.slice(1).map((cell) => html("td", {}, cell))))));
  }
  function drawTables() {
    const view = model.get("view");
    if (!view.yields) return;
    const keptRows = view.kept ? Object.fromEntries(view.kept.yields.map((row) => [row.process, row])) : null;
    const head = ["", "all", `${setup.window} GeV`, ...setup.channels, ...(keptRows ? ["kept: all", `kept: ${setup.window} GeV`] : [])];
    const cell = (row) => (row.process === "data" ? (value) => value.toFixed(0) : amount);
    yieldTable.replaceChildren(table("Events kept by the selection", head, view.yields.map((row) => ({
      cells: [label(row.process), cell(row)(row.all), cell(row)(row.window), ...setup.channels.map((channel) => cell(row)(row.channels[channel])),
        ...(keptRows ? [cell(row)(keptRows[row.process].all), cell(row)(keptRows[row.process].window)] : [])], last: row.process === "data",
    }))));
    const names = view.yields.map((row) => row.process);
    flowTable.replaceChildren(table("Cutflow: events that pass each cut and all cuts before it", ["cut", ...names.map(label)], view.cutflow.map((row) => ({
      cells: [row.cut, ...names.map((name) => (name === "data" ? row.events[name].toFixed(0) : amount(row.events[name])))],
    }))));
    drawWithout();
  }
  function drawWithout() {
    const view = model.get("view"), removed = model.get("without");
    if (!view.yields) return;
    const names = view.yields.map((row) => row.process);
    const rows = setup.controls.filter((control) => !setup.off[control.cut]).map((control) => {
      const found = removed.asked === view.asked && removed.rows[control.cut];
      return { cells: [`${control.group}: ${control.label}`, ...names.map((name) => (found ? (name === "data" ? found[name].toFixed(0) : amount(found[name])) : "…"))] };
    });
    rows.push({ cells: ["all cuts", ...view.yields.map((row) => (row.process === "data" ? row.all.toFixed(0) : amount(row.all)))], last: true });
    withoutTable.replaceChildren(table("Events kept with one cut at its loosest", ["cut removed", ...names.map(label)], rows));
  }
  function drawList() {
    const listing = model.get("listing"), chosen = model.get("place");
    if (!listing.rows || model.get("bin") < 0) { list.replaceChildren(html("p", { class: "hint" }, "Choose a bin of the spectrum (click it, or use Tab, the arrow keys and Enter) to list the events in it.")); return; }
    const rows = listing.rows.map((row) => html("tr", { class: row.place.join() === chosen.join() ? "chosen" : "" },
      html("th", { scope: "row" }, html("button", { type: "button", "data-event": row.place.join("-"), "data-key": row.place.join("-"), "aria-label": `Show event ${row.name}`, onclick: () => lookAt(row.place) }, row.name)),
      html("td", {}, label(row.process)), html("td", {}, row.channel), html("td", {}, row.mass_4l.toFixed(1)), html("td", {}, row.mass_z1.toFixed(1)), html("td", {}, row.mass_z2.toFixed(1))));
    const more = listing.total > listing.rows.length ? `, first ${listing.rows.length} shown` : "";
    const focused = list.contains(document.activeElement) ? document.activeElement.dataset.key : null;
    const at = model.get("bin"), bins = model.get("view").spectrum.edges.length - 1;
    const turn = (by, name) => html("button", { type: "button", class: `turn${by}`, "data-key": `turn${by}`, disabled: at + by < 0 || at + by >= bins, onclick: () => chooseBin(at + by) }, name);
    list.replaceChildren(html("div", { class: "bar" }, turn(-1, "◀ previous bin"), turn(1, "next bin ▶")), html("p", {}, `${listing.title}: ${whole.format(listing.total)} ${listing.total === 1 ? "candidate" : "candidates"}, data and simulation${more}`),
      html("div", { class: "list", tabindex: 0, role: "region", "aria-label": "Candidates in the chosen bin" }, html("table", {}, html("thead", {}, html("tr", {}, ["run:lumi section:event", "process", "channel", "m4ℓ", "mZ1", "mZ2"].map((name) => html("th", { scope: "col" }, name)))), html("tbody", {}, rows))));
    if (focused) {  // restore the focus; at the last bin only “previous” is enabled
      const again = list.querySelector(`[data-key="${focused}"]:enabled`) || (focused.startsWith("turn") && list.querySelector("[data-key^=turn]:enabled"));
      if (again) again.focus();
    }
  }
  function showEvent(jump = false) {
    const stay = eventView.contains(document.activeElement);
    drawEvent(eventView, model.get("event"), setup);
    const heading = eventView.querySelector("h3");
    if (heading && (jump || stay)) heading.focus({ preventScroll: !jump });
  }
  function lookAt(place) {
    if (place.join() === model.get("place").join()) { showEvent(true); return; }
    state.jump = true;
    model.set("place", place);
    model.save_changes();
  }
  function answer() {
    const view = model.get("view");
    state.waiting = false;
    clearTimeout(state.timeout);
    state.timeout = null;
    write(unanswered, "");
    write(problem, view.error || "");
    if (view.asked >= state.asked && !state.dirty) { state.asked = view.asked; state.cuts = { ...model.get("cuts") }; state.base = model.get("base"); }
    showCuts();
    drawMain();
    drawOne();
    drawTables();
    write(status, view.summary);
    link.value = address(view.base, view.changes);
    code.value = view.snippet;
    forget.hidden = !view.kept;
    if (state.dirty) ask();
    else later();
  }

  const root = html("section", { class: "hgx", "aria-label": "Cut explorer" }, html("div", { class: "body" },
    html("h2", {}, setup.title), html("p", {}, setup.subtitle), html("p", { class: "banner" }, setup.note), unanswered, ignored, problem,
    html("div", { class: "bar", role: "group", "aria-label": "Published selections" }, html("span", {}, "Selection:"), bases, reset, keep, forget),
    html("div", { class: "columns" },
      html("div", { class: "explore" },
        html("div", { class: "controls" }, groups),
        html("div", { class: "spectrum" },
          status,
          html("div", { class: "bar" }, html("label", { for: variable.id }, "Spectrum of"), variable), main, mainLegend, yieldTable)),
      html("div", { class: "more" },
        html("h3", {}, "Effect of the current cut"), one, oneText,
        html("h3", {}, "Events in one bin"), list, eventView,
        html("details", {}, html("summary", {}, "Cutflow: one cut after another"), html("p", { class: "hint" }, "Events that pass a cut and all cuts before it. Before “best candidate”, an event may be counted in two channels."), flowTable),
        html("details", {}, html("summary", {}, "One cut removed at a time"), html("p", { class: "hint" }, "Events kept if only this cut is moved to the loose end of its slider; for the leading lepton, to the cut on the subleading one."), withoutTable),
        share))));
  el.append(root);
  variable.value = model.get("variable");

  const watch = { "change:view": answer, "change:distribution": drawOne, "change:without": () => { drawWithout(); if (!model.get("without").complete && !state.waiting) later(); }, "change:listing": drawList, "change:place": drawList, "change:bin": () => { state.roving = chosenBin() ?? state.roving; drawMain(); drawList(); }, "change:event": () => { showEvent(state.jump); state.jump = false; },
    "change:variable": () => { state.roving = undefined; variable.value = model.get("variable"); } };
  for (const [name, call] of Object.entries(watch)) model.on(name, call);
  let seen = 0;
  const resized = new ResizeObserver(() => {
    const { width } = sizes();
    if (Math.abs(width - seen) <= 2) return;
    if (!seen && width < NARROW) groups.slice(1).forEach((group) => { group.open = false; });
    seen = width;
    drawMain();
    drawOne();
    showEvent();
  });
  resized.observe(main);
  showCuts();
  answer();
  drawList();
  showEvent();
  follow();
  window.addEventListener("hashchange", follow);
  return () => { resized.disconnect(); window.removeEventListener("hashchange", follow); clearTimeout(state.idle); clearTimeout(state.timeout); for (const [name, call] of Object.entries(watch)) model.off(name, call); };
}

function renderEvent({ model, el }) {
  const target = html("div", { class: "event" });
  el.append(html("section", { class: "hgx", "aria-label": "Event display" }, html("div", { class: "body" }, html("p", { class: "banner" }, model.get("setup").note), target)));
  const draw = () => drawEvent(target, model.get("event"), model.get("setup"));
  model.on("change:event", draw);
  let seen = 0;
  const resized = new ResizeObserver(() => { if (Math.abs(target.clientWidth - seen) > 2) { seen = target.clientWidth; draw(); } });
  resized.observe(target);
  draw();
  return () => { resized.disconnect(); model.off("change:event", draw); };
}

export default { render: (view) => (view.model.get("setup").kind === "event" ? renderEvent(view) : renderExplorer(view)) };
