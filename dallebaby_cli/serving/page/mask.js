// The brush: which codes of a picture are drawn anew. A cell is one code; G × G cells a picture.

import { button, find, make, say } from "./dom.js";

const CELL = 32; // pixels of the canvas for a cell
const STEPS = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };

// Open the brush on a picture. `model` has grid and mask ("rows" or "codes"); `redraw` is called with
// {prompt, mask}: the mask is G texts of G digits, 1 for what is drawn anew.
export function open(picture, model, redraw) {
  const dialog = find("mask");
  const rows = model.mask === "rows";
  const brush = makeBrush(picture, model.grid, rows);
  const value = picture.settings.prompt;
  const prompt = make("input", { type: "text", id: "mask-prompt", maxLength: 2000, value });
  const wrong = make("p", { className: "error", role: "alert" });
  const keep = makeKeep(brush, model.grid, rows);
  const send = () => {
    if (!brush.any()) return say(wrong, "Brush over what shall be drawn anew first.");
    dialog.close();
    redraw({ prompt: prompt.value.trim(), mask: brush.mask() });
  };
  prompt.addEventListener("keydown", (event) => event.key === "Enter" && send());
  dialog.replaceChildren(
    make("h2", { id: "mask-title" }, "Brush over what shall be drawn anew"),
    make("p", { className: "hint", id: "mask-help" }, help(rows)),
    brush.canvas,
    brush.told,
    make("label", { htmlFor: "mask-keep" }, "Or keep rows from the top: ", keep.told),
    keep.slider,
    make("label", { htmlFor: "mask-prompt" }, "What shall be there?"),
    prompt,
    wrong,
    make(
      "div",
      { className: "actions" },
      button("Redraw", send, { className: "primary" }),
      button("Clear", brush.clear),
      button("Close", () => dialog.close()),
    ),
  );
  dialog.showModal();
  brush.canvas.focus();
}

function help(rows) {
  const brush = "With the keyboard: arrow keys move over the picture, space brushes.";
  const how = "This model redraws from the first brushed row down, and keeps the topmost row.";
  return rows ? `${how} ${brush}` : `What is brushed already becomes kept again. ${brush}`;
}

// The slider does all that the brush can do in a model of rows, and something close to it in others.
function makeKeep(brush, grid, rows) {
  const [type, id, min] = ["range", "mask-keep", rows ? 1 : 0];
  const slider = make("input", { type, id, min, max: grid, step: 1, value: grid });
  const told = make("output", { htmlFor: "mask-keep" }, `all ${grid}`);
  slider.addEventListener("input", () => brush.keepRows(slider.valueAsNumber));
  brush.canvas.addEventListener("brushed", () => {
    const kept = brush.firstRow();
    slider.value = kept;
    told.value = kept < grid ? `${kept} of ${grid}` : `all ${grid}`;
  });
  return { slider, told };
}

function makeBrush(picture, grid, rows) {
  const canvas = make("canvas", {
    width: grid * CELL,
    height: grid * CELL,
    tabIndex: 0,
    role: "application",
    "aria-label": `Brush on: ${picture.settings.prompt}`,
    "aria-describedby": "mask-help",
  });
  const told = make("p", { className: "hint", role: "status" });
  const cells = Array.from({ length: grid }, () => Array(grid).fill(false));
  const image = make("img", { src: picture.url, alt: "" });
  const cursor = { row: rows ? 1 : 0, column: 0 };
  let stroke = null; // {anew, row, column}: whether it brushes or wipes, and where it came to

  const firstRow = () => {
    const first = cells.findIndex((row) => row.includes(true));
    return first < 0 ? grid : first;
  };
  const isAnew = (row, column) => (rows ? row >= firstRow() : cells[row][column]);
  const paint = () => draw(canvas, image, grid, isAnew, cursor);
  const change = (words) => {
    paint();
    if (words) say(told, words);
    canvas.dispatchEvent(new Event("brushed"));
  };
  const setCell = (row, column, anew) => {
    if (row >= (rows ? 1 : 0)) cells[row][column] = anew;
  };
  const keepRows = (kept) => {
    cells.forEach((row, number) => row.fill(number >= kept));
    change();
  };
  const toggle = (row, column) => {
    // where rows are drawn, wiping a cell keeps its row and all above
    if (rows && isAnew(row, column)) return keepRows(row + 1);
    setCell(row, column, !cells[row][column]);
    return change();
  };

  canvas.addEventListener("pointerdown", (event) => {
    const at = cellAt(canvas, grid, event);
    canvas.setPointerCapture(event.pointerId);
    stroke = { ...at, anew: rows || !cells[at.row][at.column] };
    setCell(at.row, at.column, stroke.anew);
    change();
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!stroke) return;
    const at = cellAt(canvas, grid, event);
    for (const [row, column] of between(stroke, at)) setCell(row, column, stroke.anew);
    Object.assign(stroke, at);
    change();
  });
  for (const name of ["pointerup", "pointercancel"]) {
    canvas.addEventListener(name, () => (stroke = null));
  }
  canvas.addEventListener("keydown", (event) => {
    const step = STEPS[event.key];
    if (!step && event.key !== " ") return;
    event.preventDefault(); // the page shall not scroll
    if (step) {
      cursor.row = Math.min(Math.max(cursor.row + step[0], 0), grid - 1);
      cursor.column = Math.min(Math.max(cursor.column + step[1], 0), grid - 1);
    } else toggle(cursor.row, cursor.column);
    const { row, column } = cursor;
    const state = isAnew(row, column) ? "drawn anew" : "kept";
    change(`Row ${row + 1}, column ${column + 1}: ${state}.`);
  });
  for (const name of ["focus", "blur"]) canvas.addEventListener(name, paint);
  image.addEventListener("load", paint);

  return {
    canvas,
    told,
    keepRows,
    firstRow,
    any: () => firstRow() < grid,
    clear: () => keepRows(grid),
    mask: () => cells.map((row, r) => row.map((_, c) => (isAnew(r, c) ? "1" : "0")).join("")),
  };
}

function draw(canvas, image, grid, isAnew, cursor) {
  const context = canvas.getContext("2d");
  const style = getComputedStyle(canvas);
  context.imageSmoothingEnabled = false;
  context.clearRect(0, 0, canvas.width, canvas.height);
  if (image.complete && image.naturalWidth) {
    // the square in its middle, which is what the server takes of it
    const side = Math.min(image.naturalWidth, image.naturalHeight);
    const [left, top] = [(image.naturalWidth - side) / 2, (image.naturalHeight - side) / 2];
    context.drawImage(image, left, top, side, side, 0, 0, canvas.width, canvas.height);
  }
  context.fillStyle = style.getPropertyValue("--accent");
  context.strokeStyle = style.getPropertyValue("--paper");
  for (let row = 0; row < grid; row += 1) {
    for (let column = 0; column < grid; column += 1) {
      if (!isAnew(row, column)) continue;
      const place = [column * CELL, row * CELL, CELL, CELL];
      context.globalAlpha = 0.7; // what is replaced stays to be seen
      context.fillRect(...place);
      context.globalAlpha = 1;
      context.strokeRect(...place);
    }
  }
  if (!canvas.matches(":focus-visible")) return;
  context.lineWidth = 4;
  context.strokeStyle = style.getPropertyValue("--ink");
  context.strokeRect(cursor.column * CELL + 2, cursor.row * CELL + 2, CELL - 4, CELL - 4);
  context.lineWidth = 1;
}

// Where a pointer is; beyond the edge it is at the edge.
function cellAt(canvas, grid, { clientX, clientY }) {
  const box = canvas.getBoundingClientRect();
  const cell = (share) => Math.min(Math.max(Math.floor(share * grid), 0), grid - 1);
  const column = cell((clientX - box.left) / box.width);
  return { row: cell((clientY - box.top) / box.height), column };
}

// The cells of a stroke: a fast pointer jumps over some of them.
function between(from, to) {
  const steps = Math.max(Math.abs(to.row - from.row), Math.abs(to.column - from.column), 1);
  return Array.from({ length: steps + 1 }, (_, i) => [
    Math.round(from.row + ((to.row - from.row) * i) / steps),
    Math.round(from.column + ((to.column - from.column) * i) / steps),
  ]);
}
