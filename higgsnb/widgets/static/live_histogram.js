// The spectrum that grows during a run. Python sends snapshots, `state`; this file draws them.

const PHASES = {
  ready: "Ready",
  starting: "Starting",
  running: "Running",
  stopping: "Stopping",
  stopped: "Stopped",
  complete: "Complete",
  incomplete: "Finished, incomplete",
  lost: "No cluster",
  failed: "Failed",
};
const START = { stopped: "Resume", lost: "Resume", incomplete: "Try again", failed: "Try again", complete: "Run again" };
const LADDER = [1, 1.1, 1.2, 1.35, 1.5, 1.75, 2, 2.25, 2.5, 2.75, 3, 3.5, 4, 4.5, 5, 6, 7, 8, 9, 10];
const STEPS = [1, 2, 5, 10];

function niceStep(rough) {
  const power = 10 ** Math.floor(Math.log10(rough));
  return power * STEPS.find((step) => step * power >= rough * 0.999);
}

// The end of the axis moves in steps, so that the plot is not rescaled at every update.
function niceEnd(most) {
  if (!(most > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(most));
  return power * LADDER.find((step) => step * power >= most * 0.9999);
}

// About as many values as fit, but two at least: one alone is no scale.
function ticks(low, high, count) {
  const step = niceStep((high - low) / Math.max(1, count));
  const found = [];
  for (let at = Math.ceil(low / step - 1e-9) * step; at <= high + 1e-9 * step; at += step) found.push(at);
  return found.length < 2 && high > low ? ticks(low, high, 1.5 * Math.max(1, count)) : found.map((value) => Number(value.toPrecision(12)));
}

function layout(width, end) {
  const font = width >= 1000 ? 20 : width >= 820 ? 18 : width >= 520 ? 16 : 14;
  const height = Math.round(Math.min(Math.max(width * 0.48, font * 18), 500));
  const digits = String(Math.floor(end)).length;
  const left = Math.round(font * (digits > 3 ? 1.7 + 0.65 * digits : 3.4));
  return { width, height, font, left, right: width - font, top: font * 0.7, bottom: height - Math.round(font * 3.1) };
}

function scales(space, edges, end) {
  const [low, high] = [edges[0], edges[edges.length - 1]];
  const x = (value) => space.left + ((value - low) / (high - low)) * (space.right - space.left);
  const y = (value) => space.bottom - (Math.min(value, end) / end) * (space.bottom - space.top);
  const exact = (scale) => (value) => scale(value).toFixed(1);
  return { x: exact(x), y: exact(y), end };
}

// The outline of bars from `lower` to `upper`: along the tops to the right, along the bottoms back.
function band(edges, lower, upper, { x, y }) {
  let forth = `M${x(edges[0])} ${y(lower[0])}`;
  let back = "";
  for (let i = 0; i < upper.length; i += 1) {
    forth += `V${y(upper[i])}H${x(edges[i + 1])}`;
    back = `H${x(edges[i])}${back}`;
    back = `V${y(lower[i])}${back}`;
  }
  return `${forth}${back}Z`;
}

function outline(edges, heights, { x, y }) {
  let path = `M${x(edges[0])} ${y(0)}`;
  heights.forEach((height, i) => {
    path += `V${y(height)}H${x(edges[i + 1])}`;
  });
  return `${path}V${y(0)}`;
}

function points(edges, data, { x, y }, radius) {
  const r = Number(radius.toFixed(1));
  let [dots, bars] = ["", ""];
  data.counts.forEach((count, i) => {
    if (!count) return;
    const at = x((edges[i] + edges[i + 1]) / 2);
    bars += `M${at} ${y(data.low[i])}V${y(data.high[i])}`;
    dots += `M${at - r} ${y(count)}a${r} ${r} 0 1 0 ${2 * r} 0a${r} ${r} 0 1 0 ${-2 * r} 0`;
  });
  return [dots, bars];
}

let plots = 0;

class Plot {
  constructor() {
    plots += 1;
    const hatch = `hn-hatch-${plots}-${Math.random().toString(36).slice(2)}`;
    const line = draw("path", { d: "M-1 7L7 -1M-1 1L1 -1M5 7L7 5", class: "hn-hatch" });
    const pattern = draw("pattern", { id: hatch, width: 6, height: 6, patternUnits: "userSpaceOnUse" }, line);
    this.grid = draw("g", { class: "hn-axis" });
    this.stack = draw("g");
    this.total = draw("path", { class: "hn-total" });
    this.error = draw("path", { fill: `url(#${hatch})` });
    this.bars = draw("path", { class: "hn-bars" });
    this.dots = draw("path", { class: "hn-dots" });
    this.empty = draw("text", { class: "hn-empty", "text-anchor": "middle" });
    const parts = [this.stack, this.total, this.error, this.bars, this.dots, this.grid, this.empty];
    this.element = draw("svg", { class: "hn-plot", role: "img" }, draw("defs", {}, pattern), ...parts);
    this.frame = "";
  }

  update(state, width) {
    const { edges, data, stack, error, total } = state;
    const upper = total.map((height, i) => Math.max(height + error[i], data && data.counts[i] ? data.high[i] : 0));
    const end = niceEnd(1.04 * Math.max(...upper));
    const space = layout(width, end);
    const scale = scales(space, edges, end);
    this.axes(state, space, scale);
    this.processes(edges, stack, scale);
    set(this.total, "d", outline(edges, total, scale));
    const low = total.map((height, i) => Math.max(0, height - error[i]));
    set(this.error, "d", band(edges, low, total.map((height, i) => height + error[i]), scale));
    const radius = Math.min(space.font * 0.26, (0.32 * (space.right - space.left)) / data?.counts.length);
    const [dots, bars] = data ? points(edges, data, scale, radius) : ["", ""];
    set(this.dots, "d", dots);
    set(this.bars, "d", bars);
    write(this.empty, Math.max(...upper) > 0 ? "" : state.phase === "complete" ? "no events" : "no events yet");
    set(this.element, "aria-label", state.words);
  }

  processes(edges, stack, scale) {
    while (this.stack.childNodes.length > stack.length) this.stack.lastChild.remove();
    while (this.stack.childNodes.length < stack.length) this.stack.append(draw("path"));
    let bottom = edges.slice(1).map(() => 0);
    stack.forEach((process, index) => {
      const top = bottom.map((height, i) => height + process.heights[i]);
      const path = this.stack.childNodes[index];
      set(path, "fill", process.colour);
      set(path, "d", band(edges, bottom, top, scale));
      bottom = top;
    });
  }

  // Redrawn only when the size or the end of an axis has changed.
  axes(state, space, scale) {
    const key = JSON.stringify([space, scale.end, state.axis, state.edges.length]);
    if (key === this.frame) return;
    this.frame = key;
    const { width, height, font, left, right, top, bottom } = space;
    set(this.element, "viewBox", `0 0 ${width} ${height}`);
    set(this.element, "height", height);
    this.element.style.fontSize = `${font}px`;
    set(this.empty, "x", (left + right) / 2);
    set(this.empty, "y", (top + bottom) / 2);
    this.grid.replaceChildren(draw("rect", { x: left, y: top, width: right - left, height: bottom - top }));
    this.ticksAlongX(state, space, scale);
    this.ticksAlongY(space, scale);
    const middle = (top + bottom) / 2;
    const turned = { x: 0, y: 0, transform: `translate(${font * 0.95} ${middle}) rotate(-90)`, "text-anchor": "middle" };
    this.label(state.axis.heights, turned);
    this.label(state.axis.variable, { x: right, y: height - font * 0.45, "text-anchor": "end" });
  }

  label(text, attributes) {
    this.grid.append(draw("text", attributes, text));
  }

  ticksAlongX(state, { font, left, right, bottom }, { x }) {
    const [low, high] = [state.edges[0], state.edges[state.edges.length - 1]];
    for (const value of ticks(low, high, (right - left) / (font * 4.5))) {
      this.grid.append(draw("path", { d: `M${x(value)} ${bottom}v${-font * 0.4}` }));
      this.label(String(value), { x: x(value), y: bottom + font * 1.2, "text-anchor": "middle" });
    }
  }

  ticksAlongY({ font, left, bottom, top }, { y, end }) {
    for (const value of ticks(0, end, (bottom - top) / (font * 3.2))) {
      this.grid.append(draw("path", { d: `M${left} ${y(value)}h${font * 0.4}` }));
      this.label(String(value), { x: left - font * 0.4, y: Number(y(value)) + font * 0.35, "text-anchor": "end" });
    }
  }
}

class Legend {
  constructor() {
    this.element = make("ul", { class: "hn-legend", "aria-label": "Legend" });
    this.key = "";
  }

  update(state) {
    const entries = [...state.stack].reverse().map((process) => [process.colour, process.label, process.sum]);
    if (state.data) entries.unshift(["data", state.data.label, state.data.sum]);
    if (state.stack.length) entries.push(["error", "simulation stat. unc.", null]);
    const key = JSON.stringify(entries.map(([look, label]) => [look, label]));
    if (key !== this.key) this.element.replaceChildren(...entries.map(([look, label]) => this.entry(look, label)));
    this.key = key;
    entries.forEach(([, , sum], i) => write(this.element.children[i].lastChild, sum === null ? "" : events(sum)));
  }

  entry(look, label) {
    const swatch = make("span", { class: look.startsWith("#") ? "hn-swatch" : `hn-swatch hn-${look}` });
    if (look.startsWith("#")) swatch.style.backgroundColor = look;
    return make("li", {}, swatch, make("span", {}, label), make("span", { class: "hn-sum" }));
  }
}

// The same numbers for users of screen readers; filled only while it is open.
class Table {
  constructor() {
    this.body = make("tbody");
    this.head = make("tr");
    this.caption = make("caption");
    const table = make("table", {}, this.caption, make("thead", {}, this.head), this.body);
    const scroll = make("div", { class: "hn-scroll", tabindex: "0", role: "region", "aria-label": "Table of the histogram" }, table);
    this.element = make("details", { class: "hn-table" }, make("summary", {}, "Show as a table"), scroll);
    this.element.addEventListener("toggle", () => this.update(this.state));
  }

  update(state) {
    this.state = state;
    if (!this.element.open || !state) return;
    const processes = [...state.stack].reverse();
    const heads = [state.axis.variable, ...(state.data ? [state.data.label, "68 % interval"] : [])];
    const rows = state.total.map((sum, i) => this.row(state, processes, i, sum));
    write(this.caption, `${state.heading}. ${state.axis.heights}. ${state.warning}`);
    this.head.replaceChildren(
      ...[...heads, ...processes.map((process) => process.label), "prediction"].map((text) => make("th", { scope: "col" }, text)),
    );
    this.body.replaceChildren(...rows);
  }

  row(state, processes, i, sum) {
    const { data, edges, error } = state;
    const cells = data ? [events(data.counts[i]), `${data.low[i].toFixed(1)} – ${data.high[i].toFixed(1)}`] : [];
    cells.push(...processes.map((process) => process.heights[i].toFixed(2)), `${sum.toFixed(2)} ± ${error[i].toFixed(2)}`);
    const range = make("th", { scope: "row" }, `${edges[i]} – ${edges[i + 1]}`);
    return make("tr", {}, range, ...cells.map((text) => make("td", {}, text)));
  }
}

class Failures {
  constructor() {
    this.summary = make("summary");
    this.list = make("ul");
    this.element = make("details", { class: "hn-failures", open: "", hidden: "" }, this.summary, this.list);
    this.key = "";
  }

  update({ failed, failed_total: total }) {
    show(this.element, total > 0);
    const key = JSON.stringify([failed, total]);
    if (key === this.key) return;
    this.key = key;
    write(this.summary, total === 1 ? "1 file failed" : `${total} files failed`);
    const items = failed.map((one) => this.item(one));
    if (total > failed.length) items.push(make("li", {}, `and ${total - failed.length} more; see result.failed`));
    this.list.replaceChildren(...items);
  }

  item({ dataset, file, error, message, hint }) {
    const what = make("p", {}, make("strong", {}, file), ` (${dataset}), ${error}: ${message}`);
    return make("li", {}, what, make("p", { class: "hn-hint" }, hint));
  }
}

class Progress {
  constructor() {
    this.bar = make("div", { class: "hn-done" });
    const range = { role: "progressbar", "aria-label": "Events counted", "aria-valuemin": 0, "aria-valuemax": 100 };
    this.track = make("div", { class: "hn-track", ...range }, this.bar);
    this.text = make("p", { class: "hn-numbers" });
    this.element = make("div", { class: "hn-progress" }, this.track, this.text);
  }

  update({ coverage, percent, rate, seconds_left: left, phase }) {
    const [done, total] = coverage.events;
    this.bar.style.width = `${total ? (100 * done) / total : 0}%`;
    set(this.track, "aria-valuenow", total ? Math.floor((100 * done) / total) : 0);
    set(this.track, "aria-valuetext", `${percent} of events`);
    const parts = [percent, `${whole.format(done)} of ${whole.format(total)} events`];
    parts.push(`${coverage.files.map((number) => whole.format(number)).join(" of ")} files`);
    if (rate) parts.push(`${whole.format(Number(rate.toPrecision(2)))} events/s`);
    if (left !== null && phase === "running") parts.push(`about ${duration(left)} left`);
    if (parts.join() !== this.key) this.text.replaceChildren(...parts.map((text) => make("span", {}, text)));
    this.key = parts.join();
  }
}

// Announce each new phase and each further quarter to screen readers, not each chunk.
class Announcer {
  constructor() {
    this.element = make("p", { class: "hn-hidden", role: "status", "aria-live": "polite" });
    this.key = "";
  }

  update({ phase, words, coverage }) {
    const [done, total] = coverage.events;
    const key = `${phase} ${total ? Math.floor((4 * done) / total) : 0}`;
    if (key !== this.key) write(this.element, words);
    this.key = key;
  }
}

function liveHistogram({ model, el }) {
  const heading = make("strong", { class: "hn-heading" });
  const luminosity = make("span", { class: "hn-luminosity" });
  const title = make("p", { class: "hn-title" });
  const warning = make("p", { class: "hn-warning", hidden: "" });
  const phase = make("span", { class: "hn-phase" });
  const box = problemBox();
  const start = button("Start", () => model.send({ do: "start" }));
  const stop = button("Stop", () => model.send({ do: "stop" }));
  const controls = make("div", { class: "hn-controls" }, start, stop, phase);
  const [plot, views] = [new Plot(), [new Legend(), new Progress(), new Failures(), new Table(), new Announcer()]];
  const [legend, progress, failures, table, announcer] = views.map((view) => view.element);
  const drawing = make("div", { class: "hn-drawing" }, plot.element);
  const head = make("header", {}, heading, luminosity, title);
  const root = frame(el, "hn-live", "Live histogram", head, warning, legend, drawing);
  root.append(progress, controls, box, failures, table, announcer);

  function update() {
    const begun = performance.now();
    const state = model.get("state");
    const busy = ["starting", "running", "stopping"].includes(state.phase);
    write(heading, state.heading);
    write(luminosity, state.luminosity);
    write(title, state.title);
    write(warning, state.warning);
    show(warning, state.warning !== "");
    write(phase, PHASES[state.phase]);
    const label = START[state.phase] || "Start";
    write(start, label === "Resume" && !state.resumable ? "Start again" : label);
    enable(start, !busy);
    enable(stop, busy && state.phase !== "stopping");
    problem(box, state.problem);
    for (const view of views) view.update(state);
    if (drawing.clientWidth) plot.update(state, drawing.clientWidth);
    root.dataset.phase = state.phase;
    root.dataset.updates = Number(root.dataset.updates || 0) + 1;
    root.dataset.milliseconds = (performance.now() - begun).toFixed(2);
  }

  // However fast snapshots arrive, each frame of the screen draws the newest one only once.
  let waiting = 0;
  function soon() {
    if (!waiting) waiting = requestAnimationFrame(() => ((waiting = 0), update()));
  }
  const size = new ResizeObserver(soon);
  model.on("change:state", soon);
  size.observe(drawing);
  update();
  return () => {
    cancelAnimationFrame(waiting);
    size.disconnect();
    model.off("change:state", soon);
  };
}

export default { render: liveHistogram };
