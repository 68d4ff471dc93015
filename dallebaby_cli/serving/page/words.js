// What is said of pictures: prompts with the words marked that the model hardly knows, settings.

import { make } from "./dom.js";

// letters, digits and signs apart, as the model's text tokenizer splits them before all else
const PIECES = /\p{L}+|\p{N}+|[^\s\p{L}\p{N}]+/gu;
const ORDER = ["seed", "model", "guidance", "temperature", "steps"];
const plain = (word) => word.normalize("NFKC").toLowerCase();

// A prompt as nodes: text, and <mark> around each of the `unknown` words.
export function marked(prompt, unknown = []) {
  const rare = new Set(unknown.map(plain));
  const nodes = [];
  let end = 0;
  for (const piece of prompt.matchAll(PIECES)) {
    if (!rare.has(plain(piece[0]))) continue;
    nodes.push(
      prompt.slice(end, piece.index),
      make("mark", { title: "the model has seldom or never met this word" }, piece[0]),
    );
    end = piece.index + piece[0].length;
  }
  return [...nodes, prompt.slice(end)];
}

export function unknownSentence(unknown = []) {
  if (!unknown.length) return "";
  return `The model has seldom or never met: ${unknown.join(", ")}. It draws what it knows instead.`;
}

const shown = (value) => (typeof value === "string" ? value : JSON.stringify(value));

// Settings as [name, text] pairs, those that people set first; what is as usual is left out.
export function settingsPairs(settings, usual) {
  const names = Object.keys(settings).filter((name) => name !== "prompt" && !ORDER.includes(name));
  const rest = names.filter((name) => JSON.stringify(settings[name]) !== JSON.stringify(usual[name]));
  return [...ORDER, ...rest]
    .filter((name) => settings[name] !== undefined && settings[name] !== null)
    .map((name) => [name.replaceAll("_", " "), shown(settings[name])]);
}
