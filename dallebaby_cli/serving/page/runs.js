// The page of training runs: what is known of each, asked for again while the page is looked at.

import * as api from "./api.js";
import { chart, number } from "./chart.js";
import { find, make, say } from "./dom.js";

const EVERY = 3000; // milliseconds
const FRAMES = 12; // of a filmstrip, at most

const views = new Map(); // kind/name → the view of a run
const key = ({ kind, name }) => `${kind}/${name}`;

async function refresh() {
  try {
    const { runs } = await api.runs();
    say(find("error"), "");
    const none = "No run yet: `dallebaby demo` trains a model in some minutes.";
    say(find("status"), runs.length ? "" : none);
    arrange(runs);
    await Promise.all(runs.map((run) => update(views.get(key(run)), run)));
  } catch (error) {
    say(find("error"), error.message);
  }
}

// Views in the order of the runs. Only what is new or has moved is touched, so that nothing that
// people read or have the focus on goes away.
function arrange(runs) {
  for (const [name, { details }] of views) {
    if (runs.some((run) => key(run) === name)) continue;
    details.remove();
    views.delete(name);
  }
  const first = !views.size;
  runs.forEach((run, place) => {
    const name = key(run);
    if (!views.has(name)) views.set(name, makeView(run));
    const { details } = views.get(name);
    if (find("runs").children[place] !== details) {
      find("runs").insertBefore(details, find("runs").children[place] ?? null);
    }
    if (first && place === 0) details.open = true;
  });
}

// What is new in an open run; a finished one is asked for once.
async function update(view, run) {
  say(view.state, stateOf(run));
  view.run = run;
  const finished = run.state === "finished";
  if (!view.details.open || (finished && view.whole)) return;
  show(view, await api.run(run.kind, run.name));
  view.whole = finished;
}

function makeView(run) {
  const name = key(run);
  const view = { run, whole: false, state: make("span", { className: "hint state" }), shown: {} };
  view.parts = Object.fromEntries(
    ["told", "charts", "strip", "table", "links"].map((part) => [part, make("div")]),
  );
  view.parts.charts.className = "charts";
  view.details = make(
    "details",
    { className: "run" },
    make("summary", {}, make("h3", {}, name), view.state),
    ...Object.values(view.parts),
  );
  view.details.addEventListener("toggle", () => {
    update(view, view.run).catch((error) => say(find("error"), error.message));
  });
  return view;
}

function stateOf({ state, step, planned, when }) {
  const of = planned === null ? "" : ` of ${number(planned)}`;
  const day = when === null ? [] : [new Date(when).toLocaleString()];
  return [state, `step ${number(step)}${of}`, ...day].join(" · ");
}

function show(view, run) {
  const { minutes, warning, turned, curves, frames, report } = run;
  fill(view, "told", { minutes, warning, turned }, () => [
    minutes === null ? null : make("p", { className: "hint" }, `${number(minutes)} minutes of work`),
    ...[turned, warning].filter(Boolean).map((words) => make("p", { className: "warning" }, words)),
  ]);
  const lines = Object.entries(curves).map(([name, { steps, values }]) => [
    name.replaceAll("_", " "),
    steps.map((step, i) => [step, values[i] ?? NaN]),
  ]);
  // a figure that never changes is no curve: the table has it
  const still = ([, points]) => points.length > 1 && points.every(([, y]) => y === points[0][1]);
  const moving = lines.filter((line) => !still(line));
  fill(view, "charts", curves, () => moving.map(([name, points]) => chart(name, points)));
  fill(view, "strip", frames, () => [strip(key(run), frames)]);
  fill(view, "table", curves, () => [table(lines)]);
  fill(view, "links", report, () => [
    report && make("a", { href: report, target: "_blank", rel: "noopener" }, `Report of ${key(run)}`),
  ]);
}

// Build a part anew where what it shows has changed.
function fill(view, part, content, build) {
  const text = JSON.stringify(content);
  if (view.shown[part] === text) return;
  view.shown[part] = text;
  view.parts[part].replaceChildren(...build().filter(Boolean));
}

// A few of the frames, evenly over the run, the last one always: the same captions each time.
function strip(name, frames) {
  if (!frames.length) return null;
  const count = Math.min(frames.length, FRAMES);
  const places = Array.from({ length: count }, (_, i) =>
    count === 1 ? 0 : Math.round((i * (frames.length - 1)) / (count - 1)),
  );
  const figures = places.map((place) => {
    const { step, url } = frames[place];
    const words = `step ${number(step)}`;
    const image = make("img", { src: url, alt: `${name}, pictures at ${words}` });
    return make("figure", {}, image, make("figcaption", {}, words));
  });
  return scrolled("strip", `Pictures of ${name} while it learned`, ...figures);
}

// The curves for those who do not see them.
function table(lines) {
  const cell = (name, text, scope) => make(name, scope ? { scope } : {}, text);
  const rows = lines.flatMap(([name, points]) => {
    const known = points.filter(([, value]) => Number.isFinite(value));
    if (!known.length) return [];
    const values = known.map(([, value]) => value);
    const figures = [values[0], values.at(-1), Math.min(...values), Math.max(...values)];
    const cells = figures.map((value) => cell("td", number(value)));
    return [make("tr", {}, cell("th", name, "row"), ...cells)];
  });
  if (!rows.length) return null;
  const heads = ["figure", "first", "last", "lowest", "highest"];
  const head = make("tr", {}, ...heads.map((text) => cell("th", text, "col")));
  const caption = make("caption", {}, "The curves in figures");
  const whole = [caption, make("thead", {}, head), make("tbody", {}, ...rows)];
  return scrolled("wide", "The curves in figures", make("table", {}, ...whole));
}

// What may be wider than the screen: with the focus on it, arrow keys move it.
function scrolled(className, label, ...inside) {
  return make("div", { className, tabIndex: 0, role: "group", "aria-label": label }, ...inside);
}

// One round after the other, however slow the server is; a page that nobody sees asks nothing.
async function watch() {
  if (!document.hidden) await refresh();
  setTimeout(watch, EVERY);
}

watch();
