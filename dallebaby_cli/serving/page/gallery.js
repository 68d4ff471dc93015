// The pictures that were kept, newest first: those that the server has, and those of this visit.

import * as api from "./api.js";
import { find, make } from "./dom.js";
import { show } from "./picture.js";
import { marked } from "./words.js";

const shown = new Map(); // name → its item; a picture that is drawn again takes the place of itself
let after = null; // where the next page begins

// One picture as an item of a list: a button that opens it, and its prompt.
export function pictureItem(picture) {
  const { prompt, seed } = picture.settings;
  const open = make(
    "button",
    { type: "button" },
    make("img", { loading: "lazy", src: picture.url, alt: prompt }),
    make("span", { className: "words", "aria-hidden": "true" }, ...marked(prompt, picture.unknown)),
    make("span", { className: "unseen" }, `, seed ${seed}, open`),
  );
  open.addEventListener("click", () => show(picture));
  return make("li", {}, open);
}

// Put new pictures in front, in their order.
export function add(pictures) {
  place([...pictures].reverse(), (item) => find("gallery").prepend(item));
}

// Load the pictures from `after` on, or the newest.
export async function more() {
  const first = !shown.size;
  find("gallery").ariaBusy = "true";
  const { pictures, next } = await api.pictures(after).finally(() => {
    find("gallery").ariaBusy = "false";
  });
  after = next;
  const fresh = pictures.filter(({ name }) => !shown.has(name));
  place(fresh, (item) => find("gallery").append(item));
  find("more").hidden = next === null;
  // whoever asked for more goes on with the first of them
  if (!first && fresh.length) shown.get(fresh[0].name).firstChild.focus();
}

function place(pictures, put) {
  for (const picture of pictures) {
    const before = shown.get(picture.name);
    const held = before?.contains(document.activeElement);
    before?.remove();
    const item = pictureItem(picture);
    shown.set(picture.name, item);
    put(item);
    if (held) item.firstChild.focus(); // what had the focus is gone
  }
  find("nothing").hidden = shown.size > 0;
}
