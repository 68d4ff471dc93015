// The page that draws: puts the parts together.

import * as api from "./api.js";
import { find, say } from "./dom.js";
import * as draw from "./draw.js";
import * as drop from "./drop.js";
import * as form from "./form.js";
import * as gallery from "./gallery.js";
import * as mask from "./mask.js";
import * as picture from "./picture.js";

const fail = (error) => say(find("error"), error.message);
const tell = (words) => say(find("status"), words);

function begin(wish) {
  say(find("error"), "");
  draw.begin(wish, {
    started(data) {
      form.tellUnknown(data.unknown);
      form.tellSeed(data.seed);
    },
    finished: gallery.add,
    failed: fail,
  });
}

function redraw(chosen) {
  mask.open(chosen, form.model(), (anew) => {
    // by chance, also where a seed is kept: who redraws a part wants to see another one
    begin({ ...form.settings(), ...anew, seed: null, picture: chosen.name });
  });
}

async function takeFile(file) {
  say(find("error"), "");
  try {
    const told = await drop.read(file);
    if (told.image) {
      form.beginWith({ request: { image: told.image }, url: told.url, words: file.name });
      tell(`${file.name} holds no settings, so the next drawing begins with it.`);
    } else {
      // a grid does not say how many pictures it has
      const noted = form.load(told.settings, told.grid ? null : 1);
      const apart = told.apart && "It began with another picture, or has another size or decoder: its settings do not hold that.";
      tell([`Settings of ${file.name} loaded.`, noted, apart].filter(Boolean).join(" "));
    }
    find("draw").focus();
  } catch (error) {
    fail(error);
  }
}

async function setUp() {
  form.setUp(await api.models(), begin);
  picture.setUp({ draw: begin, redraw, say: tell });
  drop.accept(find("file"), takeFile);
  find("more").addEventListener("click", () => gallery.more().catch(fail));
  await gallery.more();
}

find("prompt").focus();
setUp().catch(fail);
