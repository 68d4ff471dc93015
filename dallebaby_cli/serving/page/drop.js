// Pictures that are dropped on the page, or chosen as a file: their settings, or they themselves.

import * as api from "./api.js";

const MOST = 11 * 2 ** 20; // bytes: as text in JSON a third more, and the server takes 16 MB

// `take` is called with each file that is dropped or chosen.
export function accept(input, take) {
  input.addEventListener("change", () => {
    if (input.files.length) take(input.files[0]);
    input.value = ""; // so that the same file can be chosen again
  });
  const holdsFiles = (event) => event.dataTransfer?.types.includes("Files");
  const light = (on) => document.body.classList.toggle("dropping", on);
  addEventListener("dragover", (event) => {
    if (!holdsFiles(event)) return;
    event.preventDefault(); // else the browser leaves the page to show the file
    light(true);
  });
  addEventListener("dragleave", (event) => event.relatedTarget === null && light(false));
  addEventListener("drop", (event) => {
    if (!holdsFiles(event)) return;
    event.preventDefault();
    light(false);
    if (event.dataTransfer.files.length) take(event.dataTransfer.files[0]);
  });
}

// What a file holds: {settings, kept, grid} of a picture that dallebaby drew, else {image, url}: the
// picture, to begin with. Throws an Error whose message is a sentence.
export async function read(file) {
  if (file.size > MOST) throw new Error(`${file.name} is larger than 11 MB; take a smaller picture.`);
  try {
    return await api.settingsOf(file);
  } catch (error) {
    if (error.status !== 400 || !file.type.startsWith("image/")) throw error;
  }
  const image = await dataUrl(file);
  return { image, url: image };
}

function dataUrl(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.addEventListener("load", () => resolve(reader.result));
    reader.addEventListener("error", () => reject(new Error(`${file.name} cannot be read.`)));
    reader.readAsDataURL(file);
  });
}
