// Drawings under way: each has an article in which its pictures appear, code by code.

import * as api from "./api.js";
import { button, find, make, plural, say } from "./dom.js";
import { pictureItem } from "./gallery.js";
import { marked } from "./words.js";

// browsers open six connections to one server: four drawings leave two for all else
const AT_ONCE = 4;
const EMPTY = "data:image/gif;base64,R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7";

// what a picture began with: needed to draw it again, and told by no settings
const START = ["picture", "image", "keep", "mask"];

const waiting = [];
let running = 0;

// Draw what a wish says. `hooks`: started(data) when it begins, finished(pictures) with those that
// came to their end when it ends, failed(error).
export function begin(wish, hooks) {
  const job = { wish, hooks, stop: new AbortController(), pictures: [], ...view(wish) };
  job.stopper.addEventListener("click", () => stop(job));
  find("jobs").prepend(job.article);
  find("nothing").hidden = true;
  waiting.push(job);
  next();
}

function next() {
  while (running < AT_ONCE && waiting.length) {
    running += 1;
    follow(waiting.shift()).finally(() => {
      running -= 1;
      next();
    });
  }
}

// What is asked for begins to be drawn, or to wait at the server, until its end.
async function follow(job) {
  try {
    for await (const { event, data } of api.draw(job.wish, job.stop.signal)) on[event]?.(job, data);
  } catch (error) {
    if (error.name !== "AbortError") job.hooks.failed(error);
  }
  end(job);
}

const on = {
  queued(job, { position, eta_s: seconds }) {
    const place = position ? `Waiting: ${plural(position, "drawing")} before it` : "Next in the queue";
    const wait = plural(Math.max(1, Math.round(seconds)), "second");
    tell(job, seconds === null ? `${place}.` : `${place}; ready in about ${wait}.`);
  },
  started(job, data) {
    job.title.replaceChildren(...marked(job.wish.prompt, data.unknown));
    if (data.read !== null) say(job.note, `Too long for this model, which reads: ${data.read}`);
    tell(job, `Drawing ${plural(data.n, "picture")}.`);
    job.hooks.started(data);
  },
  partial(job, { index, done, image }) {
    job.places[index].firstChild.src = image;
    job.done[index] = done;
    job.progress.value = job.done.reduce((sum, share) => sum + share) / job.done.length;
  },
  picture(job, { index, ...told }) {
    const start = Object.entries(job.wish).filter(([name]) => START.includes(name));
    const picture = { ...told, start: Object.fromEntries(start) };
    const item = pictureItem(picture);
    job.pictures.push(picture);
    job.places[index].replaceWith(item);
    job.places[index] = item;
    job.done[index] = 1;
  },
  done(job, { pictures, seconds }) {
    const time = `${seconds.toFixed(1)} seconds`;
    say(find("status"), `${plural(pictures, "picture")} drawn in ${time}: ${job.wish.prompt}`);
  },
};

function stop(job) {
  const place = waiting.indexOf(job);
  if (place >= 0) waiting.splice(place, 1);
  job.stop.abort();
  say(find("status"), `Stopped: ${job.wish.prompt}`);
  if (place >= 0) end(job); // it has never been asked for
}

function end(job) {
  const held = job.article.contains(document.activeElement);
  job.article.remove();
  job.hooks.finished(job.pictures);
  if (held) find("prompt").focus(); // what had the focus is gone
}

function view({ prompt, n = 1 }) {
  const title = make("h3", {}, prompt);
  const stopper = button("Stop", () => {}, { "aria-label": `Stop drawing: ${prompt}` });
  const state = make("p", { className: "hint state" }, "Waiting for the drawings before it.");
  const note = make("p", { className: "hint" });
  const progress = make("progress", { max: 1, value: 0, "aria-label": `Drawn of: ${prompt}` });
  const place = () => make("li", {}, make("img", { src: EMPTY, alt: prompt }));
  const places = Array.from({ length: n }, place);
  const article = make(
    "article",
    { className: "job" },
    make("div", { className: "row" }, title, stopper),
    state,
    note,
    progress,
    make("ul", { className: "grid", "aria-label": "Pictures that are being drawn" }, ...places),
  );
  return { article, title, stopper, state, note, progress, places, done: places.map(() => 0) };
}

// The state is seen in its article, and spoken from a live region that is always there: one that
// comes with its words is not spoken.
function tell(job, words) {
  say(job.state, words);
  say(find("spoken"), `${job.wish.prompt}: ${words}`);
}
