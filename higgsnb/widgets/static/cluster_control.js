// The panel that starts and stops a cluster. Python sends `state`; the forms send back the user's choice.

const STEPS = { preflight: "checking", starting: "starting", ready: "ready", closed: "stopped" };
const AT = { scaling: "ready", closing: "closed", failed: "failed" };

function field(label, input) {
  return make("label", {}, make("span", {}, label), input);
}

function number(least) {
  return make("input", { type: "number", min: least, max: 10000, step: 1, inputmode: "numeric" });
}

// Never overwrite a field that has the focus.
function fillIn(input, value) {
  if (document.activeElement !== input && input.value !== String(value)) input.value = String(value);
}

class Choice {
  constructor(model, kinds) {
    this.kind = make("select", {}, ...kinds.map(([value, label]) => make("option", { value }, label)));
    this.workers = number(1);
    this.cores = number(1);
    this.memory = make("input", { type: "text", spellcheck: "false", autocomplete: "off" });
    const labels = { kind: "Where", workers: "Workers", cores: "Cores per worker", memory: "Memory per worker" };
    const fields = Object.entries(labels).map(([name, label]) => field(label, this[name]));
    this.element = make("div", { class: "hn-fields" }, ...fields);
    this.element.addEventListener("change", () => model.send({ do: "choose", ...this.values() }));
  }

  values() {
    const { kind, workers, cores, memory } = this;
    return { kind: kind.value, workers: workers.valueAsNumber, cores: cores.valueAsNumber, memory: memory.value.trim() };
  }

  update({ choice }) {
    for (const [name, value] of Object.entries(choice)) fillIn(this[name], value);
  }
}

class Costs {
  constructor() {
    this.element = make("dl", { class: "hn-costs", "aria-label": "Estimated time and cost" });
    this.key = "";
  }

  update({ costs }) {
    const key = JSON.stringify(costs);
    if (key === this.key) return;
    this.key = key;
    this.element.replaceChildren(...costs.flatMap(([what, much]) => [make("dt", {}, what), make("dd", {}, much)]));
  }
}

class Steps {
  constructor() {
    this.items = Object.entries(STEPS).map(([phase, label]) => [phase, make("li", {}, label)]);
    this.failed = make("li", { class: "hn-bad", hidden: "" }, "failed");
    const items = [...this.items.map(([, item]) => item), this.failed];
    this.element = make("ol", { class: "hn-steps", "aria-label": "Phase of the cluster" }, ...items);
  }

  update({ cluster }) {
    const phase = cluster ? AT[cluster.phase] || cluster.phase : "";
    for (const [name, item] of this.items) set(item, "aria-current", name === phase ? "step" : null);
    show(this.failed, phase === "failed");
    set(this.failed, "aria-current", phase === "failed" ? "step" : null);
  }
}

class Logs {
  constructor() {
    this.element = make("div", { hidden: "" });
    this.key = "";
  }

  update({ logs }) {
    show(this.element, Boolean(logs));
    const key = JSON.stringify(logs);
    if (key === this.key) return;
    this.key = key;
    this.element.replaceChildren(...Object.entries(logs || {}).map(([name, text]) => this.one(name, text)));
  }

  one(name, text) {
    const log = make("pre", { class: "hn-log", tabindex: "0", "aria-label": name }, text || "(empty)");
    return make("details", {}, make("summary", {}, name), log);
  }
}

class Scaling {
  constructor(model) {
    this.workers = number(0);
    this.minimum = number(0);
    this.maximum = number(1);
    this.adapt = make("input", { type: "checkbox" });
    this.apply = button("Apply", () => this.send(model));
    this.check = make("label", { class: "hn-check" }, this.adapt, make("span", {}, "scale automatically"));
    this.fixed = field("Number of workers", this.workers);
    this.range = [field("Minimum", this.minimum), field("Maximum", this.maximum)];
    this.element = make("div", { class: "hn-fields", role: "group", "aria-label": "Scale" });
    this.element.append(this.fixed, ...this.range, this.check, this.apply);
    this.adapt.addEventListener("change", () => this.turn());
    this.turn();
  }

  turn() {
    show(this.fixed, !this.adapt.checked);
    for (const one of this.range) show(one, this.adapt.checked);
  }

  // Only when a cluster becomes ready: later the user may be typing here.
  begin(workers, most) {
    [this.workers.value, this.minimum.value, this.maximum.value] = [workers, 1, most].map(String);
    this.adapt.checked = false;
    this.turn();
  }

  send(model) {
    const { workers, minimum, maximum } = this;
    if (!this.adapt.checked) model.send({ do: "scale", workers: workers.valueAsNumber });
    else model.send({ do: "adapt", minimum: minimum.valueAsNumber, maximum: maximum.valueAsNumber });
  }

  update({ cluster, choice }) {
    const up = Boolean(cluster) && ["ready", "scaling"].includes(cluster.phase);
    show(this.element, up);
    if (up && !this.up) this.begin(cluster.workers_wanted, choice.workers);
    this.up = up;
  }
}

function words({ cluster, busy, problem }) {
  const doing = busy ? ` ${busy[0].toUpperCase()}${busy.slice(1)}…` : "";
  if (!cluster) return doing.trim() || "No cluster yet.";
  const workers = `${cluster.workers_ready} of ${cluster.workers_wanted} workers`;
  const reason = cluster.reason && !problem ? ` ${cluster.reason}.` : "";
  return `${cluster.kind}: ${cluster.phase}, ${workers}.${reason}${doing}`;
}

function clusterControl({ model, el }) {
  const [choice, scaling] = [new Choice(model, model.get("state").kinds), new Scaling(model)];
  const [costs, steps, logs] = [new Costs(), new Steps(), new Logs()];
  const heading = make("strong", { class: "hn-heading" }, "Cluster");
  const why = make("p", { class: "hn-title" });
  const status = make("p", { class: "hn-phase", role: "status", "aria-live": "polite" });
  const hint = make("p", { class: "hn-hint" });
  const box = problemBox();
  const launch = button("Launch", () => model.send({ do: "launch" }));
  const stop = button("Stop", () => model.send({ do: "stop" }));
  const fetch = button("Logs", () => model.send({ do: "logs" }));
  const dashboard = make("a", { class: "hn-link", target: "_blank", rel: "noopener noreferrer" }, "Dashboard");
  const controls = make("div", { class: "hn-controls" }, launch, stop, fetch, dashboard);
  const root = frame(el, "hn-cluster", "Cluster", make("header", {}, heading, why), choice.element, costs.element);
  root.append(controls, steps.element, status, hint, box, scaling.element, logs.element);

  function update() {
    const state = model.get("state");
    const { cluster, busy } = state;
    const gone = !cluster || ["closed", "failed"].includes(cluster.phase);
    write(why, state.why);
    for (const view of [choice, costs, steps, scaling, logs]) view.update(state);
    write(status, words(state));
    write(hint, cluster && !state.problem ? cluster.hint || "" : "");
    problem(box, state.problem);
    enable(launch, gone && !busy);
    enable(stop, !gone || Boolean(busy));
    enable(fetch, !gone && !busy);
    show(dashboard, state.dashboard !== "");
    set(dashboard, "href", state.dashboard || null);
    root.dataset.phase = cluster ? cluster.phase : "none";
  }
  model.on("change:state", update);
  update();
  return () => model.off("change:state", update);
}

export default { render: clusterControl };
