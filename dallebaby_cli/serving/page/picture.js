// One picture, opened: large, with its settings and with what can be done with it.

import { button, find, make } from "./dom.js";
import * as form from "./form.js";
import { marked, settingsPairs, unknownSentence } from "./words.js";

const APART =
  "It began with another picture, or has another size or decoder: its settings alone do not draw it again.";

let act = {}; // draw(wish), redraw(picture), say(words): what main.js does

export function setUp(acts) {
  act = acts;
  const dialog = find("picture");
  // a click beside the dialog closes it; Escape does so by itself
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
}

export function show(picture) {
  const dialog = find("picture");
  const { prompt } = picture.settings;
  const leave = (then) => () => {
    dialog.close();
    then(picture);
  };
  const whole = canBeDrawnAgain(picture);
  const pairs = settingsPairs(picture.settings, form.usualSettings());
  dialog.replaceChildren(
    make("h2", { id: "picture-title" }, ...marked(prompt, picture.unknown)),
    make("img", { src: picture.url, alt: prompt }),
    make("p", { className: "hint" }, unknownSentence(picture.unknown)),
    make(
      "div",
      { className: "actions" },
      whole ? button("Again", leave(again)) : null,
      whole ? button("Variations", leave(variations)) : null,
      button("Use as start", leave(useAsStart)),
      button("Redraw a part", leave(act.redraw)),
      make("a", { href: picture.url, download: picture.name }, "Download"),
      button("Close", () => dialog.close()),
    ),
    make("p", { className: "hint" }, whole ? "" : APART),
    make("dl", {}, ...pairs.flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)])),
  );
  dialog.showModal();
}

// What it began with is told by no settings, but this visit remembers it.
function canBeDrawnAgain({ apart, start }) {
  return !apart || (start && Object.keys(start).length > 0);
}

// The same picture, and its settings in the form, to be changed.
function again(picture) {
  const told = form.load(picture.settings, 1);
  if (told) act.say(told);
  act.draw(form.again(picture));
}

function variations(picture) {
  act.draw(form.variations(picture));
}

function useAsStart(picture) {
  const { prompt } = picture.settings;
  form.beginWith({ request: { picture: picture.name }, url: picture.url, words: prompt });
  find("prompt").value = prompt;
  find("prompt").focus();
}
