// Elements made by hand, never parsed: what a server, a file or a person says goes in and stays text.

const SVG = "http://www.w3.org/2000/svg";

export const find = (id) => document.getElementById(id);

// An element with properties (or attributes, where no such property is), and children: elements,
// or strings, which become text. null leaves a child out.
export function make(name, properties = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key in element) element[key] = value;
    else element.setAttribute(key, value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

export function makeSvg(name, attributes = {}, ...children) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

export function button(text, act, properties = {}) {
  const made = make("button", { type: "button", ...properties }, text);
  made.addEventListener("click", act);
  return made;
}

// Live regions are spoken when their text changes, so a text that stays is not set again.
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

export const plural = (count, one, many = `${one}s`) => `${count} ${count === 1 ? one : many}`;
