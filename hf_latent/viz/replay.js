// Forwards are counted from 0 as in `commit_step`, -1 is the canvas before the first; what people read counts from 1.
// All text of the run reaches the page through textContent or an attribute, never as markup.
const data = JSON.parse(document.getElementById("replay-data").textContent);
const byId = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";
const length = Math.max(...data.replays.map((run) => run.num_forwards));
const SPEEDS = [0.5, 1, 2, 4, 8, 16, 32];

function element(tag, properties = {}, children = []) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}

function svg(tag, attributes = {}, text = "") {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.textContent = text;
  return node;
}

const visible = (text) => text.replace(/ /g, "␣").replace(/\r\n|\n|\r/g, "↵").replace(/\t/g, "⇥");
// Whitespace is shown by signs, fainter than letters where they stand beside some.
function write(node, text) {
  const parts = visible(text).split(/([␣↵⇥]+)/).filter(Boolean);
  node.replaceChildren(...parts.map((part) => {
    return parts.length > 1 && /^[␣↵⇥]/.test(part) ? element("i", { textContent: part }) : part;
  }));
}

const number = (value, digits = 3) =>
  value === null || value === undefined ? "not recorded" : String(Number(value.toPrecision(digits)));

// Near certainty is not certainty.
const probability = (value) => (value > 0.9995 && value < 1 ? "above 0.999" : number(value));

// Lightness rises evenly from first to last, so the order reads without telling hues apart.
function orderColor(share) {
  return { color: `oklch(${0.36 + 0.52 * share} 0.125 ${290 - 190 * share})`, on: share > 0.5 ? "#10131a" : "#fff" };
}

class Panel {
  constructor(run) {
    this.run = run;
    this.shown = null;
    this.root = byId("panel").content.firstElementChild.cloneNode(true);
    this.part = (selector) => this.root.querySelector(selector);
    this.special = new Set(run.special_ids);
    this.isOpen = run.given.map((given) => !given);
    this.writtenAfter = Array.from({ length: run.num_forwards }, () => 0);
    for (const step of run.commit_step) if (step >= 0) this.writtenAfter[step] += 1;
    for (let k = 1; k < run.num_forwards; k++) this.writtenAfter[k] += this.writtenAfter[k - 1];
    this.numWritten = this.writtenAfter.at(-1) ?? 0;
    this.fillHead();
    this.buildCanvas();
    this.buildStrip();
    this.fillTexts();
    const curve = this.part(".entropy");
    curve.hidden = !run.answer_entropy?.some((value) => value !== null);
  }

  fillHead() {
    const run = this.run;
    this.root.setAttribute("aria-label", run.name);
    this.part("h2").textContent = run.name;
    for (const [name, value] of Object.entries(run.settings)) {
      const text = typeof value === "string" ? value : JSON.stringify(value);
      this.part(".knobs").append(element("li", { textContent: `${name} = ${text}` }));
    }
    const numbers = [
      ["forwards", run.num_forwards, 9],
      ["tokens per forward", run.tokens_per_forward, 3],
      ["left-most share", run.leftmost_share, 3],
      ["left-most distance", run.leftmost_distance, 3],
    ];
    for (const [name, value, digits] of numbers) {
      if (value === null) continue;
      const pair = [element("dt", { textContent: name }), element("dd", { textContent: number(value, digits) })];
      this.part(".numbers").append(element("div", {}, pair));
    }
  }

  fillTexts() {
    for (const part of ["reasoning", "answer"]) {
      if (this.run[part] === null) continue;
      const title = part[0].toUpperCase() + part.slice(1);
      const text = element("pre", { textContent: this.run[part], tabIndex: 0 });
      this.part(".texts").append(element("div", { className: part }, [element("h3", { textContent: title }), text]));
    }
    this.part(".texts").hidden = !this.part(".texts").childElementCount;
  }

  order(position) {
    const step = this.run.commit_step[position];
    return step < 0 ? null : orderColor(step / Math.max(1, this.run.num_forwards - 1));
  }

  buildCanvas() {
    const run = this.run;
    const canvas = this.part(".canvas");
    canvas.setAttribute("aria-label", `Tokens, ${run.name}`);
    const [before, rest] = [element("div"), element("div")];
    canvas.append(before, rest);
    const firstOpen = this.isOpen.indexOf(true);
    this.tokens = run.sequence.map((id, position) => {
      const token = element("button", { className: "token", type: "button", tabIndex: position ? -1 : 0 }, [
        element("span"),
      ]);
      token.dataset.position = position;
      const text = run.texts[id] ?? "";
      token.dataset.sizer = visible(text);
      if (run.in_answer[position]) token.dataset.answer = "";
      const order = this.order(position);
      if (order) {
        token.dataset.order = run.commit_step[position] + 1;
        token.style.setProperty("--order", order.color);
        token.style.setProperty("--on-order", order.on);
      }
      const part = position < firstOpen ? before : rest;
      part.append(token);
      // Lines end where they end in the final text: breaks that come and go would shake the canvas.
      if (/[\n\r]$/.test(text)) part.append(element("br"));
      return token;
    });
    canvas.addEventListener("pointerover", (event) => this.showDetail(event.target.closest(".token")));
    canvas.addEventListener("pointerleave", () => this.showDetail(canvas.querySelector(".token:focus-visible")));
    canvas.addEventListener("focusin", (event) => this.moveFocus(event.target));
    canvas.addEventListener("focusout", () => this.showDetail(null));
    canvas.addEventListener("click", (event) => this.showDetail(event.target.closest(".token")));
    canvas.addEventListener("keydown", (event) => {
      const step = { ArrowUp: -1, ArrowDown: 1 }[event.key];
      if (!step) return;
      event.preventDefault();
      this.tokens[Number(event.target.dataset.position) + step]?.focus();
    });
  }

  buildStrip() {
    const strip = this.part(".strip");
    const open = this.isOpen.flatMap((isOpen, position) => (isOpen ? [position] : []));
    strip.setAttribute("aria-label", "Positions from left to right, coloured by the forward that wrote them");
    this.cells = open.map((position) => {
      const cell = element("i");
      const order = this.order(position);
      if (order) cell.style.setProperty("--order", order.color);
      strip.append(cell);
      return [cell, this.run.commit_step[position]];
    });
    const stops = [0, 0.25, 0.5, 0.75, 1].map((share) => orderColor(share).color);
    this.part(".order-ramp").style.background = `linear-gradient(to right, ${stops.join(", ")})`;
  }

  // What a position is after forward k; `ended` once the other decoder has gone on.
  state(position, k, ended) {
    const run = this.run;
    const id = k < 0 ? run.start[position] : run.canvas[k][position];
    if (run.given[position]) return { state: "given", id };
    if (id !== run.mask_token_id) {
      const step = run.commit_step[position];
      const state = step < 0 ? "filled" : step === k && !ended ? "now" : "written";
      return { state, id };
    }
    const candidate = k < 0 ? -1 : run.candidates?.[k][position] ?? -1;
    return { state: "open", id: candidate, confidence: k < 0 ? null : run.confidences?.[k][position] ?? null };
  }

  show(current) {
    const run = this.run;
    const k = Math.min(current, run.num_forwards - 1);
    const ended = current > k;
    this.k = k;
    this.ended = ended;
    this.tokens.forEach((token, position) => {
      const { state, id, confidence } = this.state(position, k, ended);
      const key = `${state} ${id} ${confidence}`;
      if (token.dataset.key === key) return;
      token.dataset.key = key;
      token.dataset.state = state;
      token.style.setProperty("--confidence", confidence ?? 0);
      token.toggleAttribute("data-special", this.special.has(id));
      const text = token.firstElementChild;
      text.classList.toggle("blank", id < 0);
      write(text, id < 0 ? "·" : run.texts[id]);
    });
    const written = k < 0 ? 0 : this.writtenAfter[k];
    for (const [cell, step] of this.cells) cell.classList.toggle("written", step >= 0 && step <= k);
    this.part(".forward").textContent = `forward ${k + 1} of ${run.num_forwards}${ended ? ", finished" : ""}`;
    this.part(".forward").classList.toggle("ended", ended);
    this.part(".written").textContent = `${written} of ${this.numWritten} tokens written`;
    this.part(".progress > i").style.width = `${(100 * written) / Math.max(1, this.numWritten)}%`;
    this.drawCurve();
  }

  drawCurve() {
    if (this.part(".entropy").hidden) return;
    const { answer_entropy: entropy, exit_step: exit, exit_threshold: threshold, num_forwards: n } = this.run;
    const curve = this.part(".curve");
    const width = Math.max(200, curve.clientWidth);
    const [height, left, right, top, bottom] = [150, 40, 14, 18, 24];
    // One scale for both decoders: the two curves are compared.
    const largest = Math.max(threshold ?? 0, ...data.replays.flatMap((run) => run.answer_entropy ?? []), 1e-9) * 1.05;
    const x = (k) => left + ((width - left - right) * k) / Math.max(1, n - 1);
    const y = (value) => height - bottom - ((height - top - bottom) * value) / largest;
    const vertical = (k) => svg("line", { x1: x(k), x2: x(k), y1: top, y2: height - bottom });
    const dot = (k) => svg("circle", { cx: x(k), cy: y(entropy[k] ?? 0), r: 4.5 });
    const known = entropy.flatMap((value, k) => (value === null ? [] : [k]));
    const labels = [];
    const parts = [svg("line", { class: "axis", x1: left, x2: width - right, y1: y(0), y2: y(0) })];
    for (const value of [0, largest / 1.05]) {
      parts.push(svg("text", { x: left - 7, y: y(value) + 4, "text-anchor": "end" }, number(value, 2)));
    }
    for (const k of new Set([0, n - 1])) {
      const anchor = k === 0 ? "start" : "end";
      parts.push(svg("text", { x: x(k), y: height - 6, "text-anchor": anchor }, k ? `forward ${k + 1}` : "1"));
    }
    if (threshold !== null) {
      const at = y(threshold);
      parts.push(svg("line", { class: "threshold", x1: left, x2: width - right, y1: at, y2: at }));
      labels.push(svg("text", { x: left + 8, y: at - 6 }, `threshold ${number(threshold)}`));
    }
    parts.push(svg("polyline", { class: "line", points: known.map((k) => `${x(k)},${y(entropy[k])}`).join(" ") }));
    if (known.length < 80) {
      for (const k of known) parts.push(svg("circle", { class: "point", cx: x(k), cy: y(entropy[k]), r: 2.5 }));
    }
    if (this.k >= 0) {
      const here = svg("g", { class: "here" });
      here.append(vertical(this.k), dot(this.k));
      parts.push(here);
    }
    if (exit !== null) {
      const mark = svg("g", { class: "exit" });
      const anchor = exit > (n - 1) / 2 ? "end" : "start";
      mark.append(vertical(exit), dot(exit));
      mark.append(svg("text", { x: x(exit), y: top - 6, "text-anchor": anchor }, `exit at forward ${exit + 1}`));
      parts.push(mark);
    }
    curve.setAttribute("viewBox", `0 0 ${width} ${height}`);
    curve.setAttribute("height", height);
    const now = this.k >= 0 ? `, ${number(entropy[this.k])} at forward ${this.k + 1}` : "";
    curve.setAttribute("aria-label", `Entropy of the answer over ${n} forwards${now}`);
    curve.replaceChildren(...parts, ...labels);
  }

  moveFocus(token) {
    for (const other of this.tokens) other.tabIndex = other === token ? 0 : -1;
    this.showDetail(token);
  }

  showDetail(token) {
    const detail = byId("detail");
    detail.hidden = !token;
    shownDetail?.token.removeAttribute("aria-describedby");
    shownDetail = token ? { panel: this, token } : null;
    if (!token) return;
    token.setAttribute("aria-describedby", "detail");
    const run = this.run;
    const position = Number(token.dataset.position);
    const { state, id, confidence } = this.state(position, this.k, this.ended);
    const step = run.commit_step[position];
    const rows = [["position", position]];
    if (state === "given") {
      rows.push(["state", "given"]);
    } else if (state === "open") {
      rows.push(["state", id < 0 ? "open, not read yet" : "open, candidate"]);
      if (confidence !== null) rows.push(["confidence", probability(confidence)]);
    } else if (state === "filled") {
      rows.push(["state", "filled in, not written by the model"]);
    } else {
      rows.push(["written", `at forward ${step + 1}`]);
      rows.push(["confidence", probability(run.confidences?.[step][position])]);
      const entropy = run.commit_entropy?.[position];
      rows.push(["entropy", number(entropy) + (typeof entropy === "number" ? " nats" : "")]);
    }
    const list = rows.flatMap(([name, value]) => [
      element("dt", { textContent: name }),
      element("dd", { textContent: value }),
    ]);
    const text = id < 0 ? "mask" : visible(run.texts[id]);
    detail.replaceChildren(element("b", { textContent: text }), element("dl", {}, list));
    const box = token.getBoundingClientRect();
    const { offsetWidth: width, offsetHeight: height } = detail;
    const x = Math.min(Math.max(8, box.left + box.width / 2 - width / 2), document.documentElement.clientWidth - width - 8);
    const above = box.top - height - 8;
    detail.style.left = `${x + scrollX}px`;
    detail.style.top = `${(above > 8 ? above : box.bottom + 8) + scrollY}px`;
  }
}

let shownDetail = null;
let current = -1;
let timer = null;
const panels = data.replays.map((run) => new Panel(run));

function goTo(k) {
  current = Math.min(length - 1, Math.max(-1, Math.round(k)));
  byId("slider").value = current;
  const text = `forward ${current + 1} of ${length}`;
  byId("slider").setAttribute("aria-valuetext", text);
  byId("position").textContent = text;
  for (const panel of panels) panel.show(current);
  if (shownDetail) shownDetail.panel.showDetail(shownDetail.token);
}

function drawPlay() {
  const playing = timer !== null;
  const button = byId("play");
  button.querySelector("span").textContent = playing ? "Pause" : "Play";
  button.querySelector("path").setAttribute("d", playing ? "M3 2h4v12H3zM9 2h4v12H9z" : "M3 1.5v13L14 8z");
}

function pause() {
  clearTimeout(timer);
  timer = null;
  drawPlay();
}

function play() {
  clearTimeout(timer);
  if (current >= length - 1) goTo(-1);
  schedule();
  drawPlay();
}

function schedule() {
  timer = setTimeout(() => {
    goTo(current + 1);
    if (current < length - 1) schedule();
    else pause();
  }, 1000 / Number(byId("speed").value));
}

const toggle = () => (timer === null ? play() : pause());

function move(k) {
  pause();
  goTo(k);
}

function setUp() {
  document.title = `${data.title}: replay`;
  byId("title").textContent = data.title;
  const prompts = new Set(data.replays.map((run) => run.prompt));
  for (const prompt of prompts) {
    document.querySelector(".prompts").append(element("pre", { textContent: prompt, tabIndex: 0 }));
  }
  byId("answer-legend").hidden = !data.replays.some((run) => run.in_answer.some(Boolean));
  byId("panels").append(...panels.map((panel) => panel.root));
  byId("panels").classList.toggle("two", panels.length === 2);
  byId("slider").max = length - 1;
  // All of it in about twelve seconds, whatever its length.
  const speed = SPEEDS.find((value) => value >= 1 && value >= length / 12) ?? SPEEDS.at(-1);
  for (const value of SPEEDS) {
    byId("speed").append(element("option", { value, textContent: `${value}/s`, selected: value === speed }));
  }
  byId("play").addEventListener("click", toggle);
  byId("back").addEventListener("click", () => move(current - 1));
  byId("next").addEventListener("click", () => move(current + 1));
  byId("slider").addEventListener("input", (event) => move(Number(event.target.value)));
  byId("order").addEventListener("click", () => {
    const on = document.body.classList.toggle("ordered");
    byId("order").setAttribute("aria-pressed", on);
  });
  document.addEventListener("keydown", onKey);
  document.addEventListener("pointerdown", (event) => {
    if (!event.target.closest(".canvas")) shownDetail?.panel.showDetail(null);
  });
  new ResizeObserver(() => panels.forEach((panel) => panel.drawCurve())).observe(byId("panels"));
}

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("select")) return;
  // A button that has the focus is pressed by space, except a token, which does nothing when pressed.
  if (event.key === " " && event.target.matches("button:not(.token)")) return;
  const actions = {
    " ": toggle,
    ArrowLeft: () => move(current - 1),
    ArrowRight: () => move(current + 1),
    Home: () => move(-1),
    End: () => move(length - 1),
  };
  if (event.key === "Escape") shownDetail?.panel.showDetail(null);
  if (!(event.key in actions)) return;
  event.preventDefault();
  actions[event.key]();
}

window.replay = {
  goTo: move,
  play,
  pause,
  get current() { return current; },
  get length() { return length; },
};

setUp();
goTo(-1);
drawPlay();
if (!matchMedia("(prefers-reduced-motion: reduce)").matches) play();
