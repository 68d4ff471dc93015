// The form: what the next drawing is made of. `settings` reads it, `load` puts those of a picture in.

import { find, make, button, say } from "./dom.js";
import { unknownSentence } from "./words.js";

const FIELDS = ["guidance", "temperature", "steps"];
const OWN = ["prompt", "seed", "model", "n", ...FIELDS];
// only for a model that draws scenes and has kept no captions of its own: the baby
const EXAMPLES = ["a red car", "a blue house", "a purple tree", "a yellow flower left of a green boat"];
const VARIATIONS = 4;

let models = [];
let usual = {}; // what holds where a wish says nothing
let most = 1;
let extra = {}; // settings of a loaded picture that have no field here, and are not as usual
let start = null; // {request: {picture | image}, url, words}: what the next drawing begins with
let ask = () => {}; // what is done with a wish

export const model = () => models.find(({ name }) => name === find("model").value) ?? models[0];
export const usualSettings = () => usual;

// Fill in what GET /api/models told; `act` is called with every wish.
export function setUp(told, act) {
  ({ models, sampling: usual, most_n: most } = told);
  ask = act;
  const options = models.map(({ name, image_px: px }) =>
    make("option", { value: name }, px ? `${name} (${px} px)` : name),
  );
  find("model").replaceChildren(...options);
  find("n").max = most;
  find("n").value = Math.min(4, most);
  for (const name of FIELDS) find(name).value = usual[name] ?? "";
  takeModel();
  find("model").addEventListener("change", takeModel);
  find("form").addEventListener("submit", (event) => {
    event.preventDefault();
    // nothing said: the example that stands there in grey
    if (!find("prompt").value.trim()) find("prompt").value = find("prompt").placeholder;
    ask(wish());
  });
  find("seed").addEventListener("input", () => (find("lock").checked = find("seed").value !== ""));
  find("lock").addEventListener("change", () => {
    if (!find("lock").checked) find("seed").value = "";
  });
  find("prompt").addEventListener("input", () => tellUnknown([])); // they were another prompt's
  find("keep").addEventListener("input", tellKept);
  find("no-start").addEventListener("click", () => {
    beginWith(null);
    find("prompt").focus();
  });
  find("no-extra").addEventListener("click", () => {
    setExtra({});
    find("prompt").focus();
  });
  find("draw").disabled = false; // before that, the browser would send the form in its own way
}

// The body of POST /api/drawings, without the picture that it begins with. Fields that are empty are
// left out: then what is usual holds.
export function settings() {
  const asked = { ...extra, prompt: find("prompt").value.trim(), model: model().name };
  const count = Math.round(find("n").valueAsNumber) || 1;
  asked.n = find("n").value = Math.min(Math.max(count, 1), most);
  for (const name of FIELDS.filter((field) => field !== "steps" || model().steps !== null)) {
    const value = find(name).valueAsNumber;
    if (!Number.isNaN(value)) asked[name] = value;
  }
  asked.seed = find("lock").checked ? find("seed").value.trim() || null : null;
  return asked;
}

function wish() {
  const begun = start ? { ...start.request, keep: find("keep").valueAsNumber } : {};
  return { ...settings(), ...begun };
}

// Take over the settings of a picture, with its seed kept; returns what there is to say of it.
export function load(told, n = null) {
  find("prompt").value = told.prompt ?? "";
  if (n !== null) find("n").value = n;
  find("seed").value = told.seed ?? "";
  find("lock").checked = Boolean(told.seed);
  const here = models.some(({ name }) => name === told.model);
  if (here) find("model").value = told.model;
  takeModel();
  for (const name of FIELDS) find(name).value = told[name] ?? usual[name] ?? "";
  const others = Object.entries(told).filter(
    ([name, value]) => !OWN.includes(name) && JSON.stringify(value) !== JSON.stringify(usual[name]),
  );
  setExtra(Object.fromEntries(others));
  beginWith(null);
  return here ? "" : `The model that drew it is not here; ${model().name} draws instead.`;
}

// The wish for the same picture again.
export function again(picture) {
  return { ...picture.settings, ...picture.start, n: 1, model: theModel(picture) };
}

// The wish for others like it: other seeds, the rest the same.
export const variations = (picture) => ({
  ...again(picture),
  n: Math.min(VARIATIONS, most),
  seed: null,
});

function theModel({ settings }) {
  return models.some(({ name }) => name === settings.model) ? settings.model : model().name;
}

// Begin the next drawings with a picture: {request: {picture | image}, url, words}; null: with none.
export function beginWith(chosen) {
  start = chosen;
  find("start").hidden = !chosen;
  if (!chosen) return;
  find("start-picture").src = chosen.url;
  find("start-picture").alt = chosen.words;
  fitKeep();
}

export function tellUnknown(unknown) {
  say(find("unknown"), unknownSentence(unknown));
}

// The seed that a drawing by chance has got, to be kept if people like it.
export function tellSeed(seed) {
  if (!find("lock").checked) find("seed").value = seed;
}

function takeModel() {
  const { steps, examples, name } = model();
  find("passes").hidden = steps === null;
  if (steps !== null) find("steps").value = usual.steps ?? steps;
  const shown = examples.length || !/baby|scenes/.test(name) ? examples : EXAMPLES;
  find("prompt").placeholder = shown[0] ?? "";
  find("examples").hidden = !shown.length;
  const chips = shown.map((text) =>
    make("li", {}, button(text, () => {
      find("prompt").value = text;
      ask(wish());
    })),
  );
  find("examples").replaceChildren(...chips);
  if (start) fitKeep();
}

// Another model may have another number of rows: half of them are kept until people say otherwise.
function fitKeep() {
  find("keep").max = model().grid - 1;
  find("keep").value = Math.max(1, Math.floor(model().grid / 2));
  tellKept();
}

function tellKept() {
  find("kept").value = `${find("keep").value} of ${model().grid}`;
}

function setExtra(others) {
  extra = others;
  const words = Object.entries(others).map(([name, value]) => `${name} ${JSON.stringify(value)}`);
  find("extra").hidden = !words.length;
  say(find("extra-words"), `Also taken from the picture: ${words.join(", ")}.`);
}
