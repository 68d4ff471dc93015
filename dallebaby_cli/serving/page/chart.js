// Curves as SVG, drawn in the browser: no library, and all colours come from style.css.

import { make, makeSvg } from "./dom.js";

const WIDTH = 320;
const HEIGHT = 160;
const LEFT = 46;
const RIGHT = 8;
const TOP = 8;
const BOTTOM = 20;

export function number(value) {
  if (typeof value !== "number" || !Number.isFinite(value)) return "–";
  if (Number.isInteger(value)) return value.toLocaleString("en");
  return Math.abs(value) >= 1e-3 ? String(+value.toPrecision(4)) : value.toExponential(2);
}

// A figure of one curve: points are [step, value] pairs in the order of their steps. null where no
// value is finite (a run that has just begun).
export function chart(name, points) {
  const known = points.filter(([, value]) => Number.isFinite(value));
  if (!known.length) return null;
  const values = known.map(([, value]) => value);
  const low = Math.min(...values);
  const high = Math.max(...values);
  const last = Math.max(known.at(-1)[0], 1);
  const floor = HEIGHT - BOTTOM;
  const x = (step) => LEFT + (WIDTH - LEFT - RIGHT) * (step / last);
  const y = (value) => TOP + (floor - TOP) * ((high - value) / (high - low || 1));
  const place = ([step, value]) => `${x(step).toFixed(1)},${y(value).toFixed(1)}`;
  const curve =
    known.length > 1
      ? makeSvg("polyline", { points: known.map(place).join(" ") })
      : makeSvg("circle", { cx: x(known[0][0]), cy: y(known[0][1]), r: 3 });
  const label = (text, at, down, anchor) =>
    makeSvg("text", { x: at, y: down, "text-anchor": anchor }, text);
  const words = `${name}: ${number(known.at(-1)[1])} at step ${number(known.at(-1)[0])}`;
  const svg = makeSvg(
    "svg",
    { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": words },
    makeSvg("line", { x1: LEFT, y1: floor, x2: WIDTH - RIGHT, y2: floor }),
    makeSvg("line", { x1: LEFT, y1: TOP, x2: LEFT, y2: floor }),
    curve,
    label(number(high), LEFT - 4, TOP + 8, "end"),
    ...(high > low ? [label(number(low), LEFT - 4, floor, "end")] : []),
    label("0", LEFT, HEIGHT - 5, "start"),
    label(`step ${number(last)}`, WIDTH - RIGHT, HEIGHT - 5, "end"),
  );
  return make("figure", { className: "chart" }, svg, make("figcaption", {}, words));
}
