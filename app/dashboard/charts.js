// Two charts, drawn by hand: stacked bars and lines over the minutes of an hour.

import { el, svg } from "./dom.js";
import { clock } from "./format.js";

const PAD = { top: 8, right: 8, bottom: 20, left: 40 };
const STEPS = [1, 2, 2.5, 5, 10];

/** A round number at or above `most`, and marks from 0 to it. */
function scale(most) {
  const rough = Math.max(most, 1e-9) / 3;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * STEPS.find((one) => one * power >= rough * 0.999);
  const marks = [0];
  while (marks.at(-1) < most * 0.999) marks.push(marks.at(-1) + step);
  return { top: marks.at(-1), marks };
}

/** The same for values that are far apart: marks are 1, 2 and 5 times powers of ten, thinned to a few. */
function logScale(least, most) {
  const marks = [];
  for (let power = Math.floor(Math.log10(least)); power <= Math.ceil(Math.log10(most)); power += 1)
    for (const step of [1, 2, 5]) marks.push(step * 10 ** power);
  const first = marks.findLastIndex((mark) => mark <= least * 1.001);
  const last = marks.findIndex((mark) => mark >= most * 0.999);
  const used = marks.slice(first, Math.max(last, first + 1) + 1);
  const every = Math.ceil(used.length / 6);
  return { low: used[0], top: used.at(-1), marks: used.filter((_, at) => (used.length - 1 - at) % every === 0) };
}

const label = (value) => (value >= 1000 ? `${+(value / 1000).toFixed(1)}k` : String(+value.toPrecision(3)));

function frame(holder, minutes, { low = 0, top, marks }, summary) {
  const width = Math.max(holder.clientWidth, 200);
  const height = holder.clientHeight;
  const inner = { width: width - PAD.left - PAD.right, height: height - PAD.top - PAD.bottom };
  const up = low ? (value) => Math.log(value / low) / Math.log(top / low) : (value) => value / top;
  const y = (value) => PAD.top + inner.height * (1 - up(value));
  const slot = inner.width / minutes.length;
  const x = (at) => PAD.left + slot * at;
  const picture = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": summary });
  for (const mark of marks) {
    picture.append(
      svg("line", { class: "axis", x1: PAD.left, x2: width - PAD.right, y1: y(mark), y2: y(mark) }),
      svg("text", { x: PAD.left - 6, y: y(mark) + 4, "text-anchor": "end" }, label(mark)),
    );
  }
  const every = width < 420 ? 20 : 10;
  minutes.forEach((minute, at) => {
    if ((minute / 60) % every) return;
    const middle = x(at) + slot / 2;
    if (middle < PAD.left + 14 || middle > width - 18) return;
    picture.append(svg("text", { x: middle, y: height - 4, "text-anchor": "middle" }, clock(minute)));
  });
  return { picture, x, y, slot, inner };
}

function hovers({ picture, x, slot, inner }, minutes, describe) {
  minutes.forEach((minute, at) => {
    const area = svg("rect", { class: "hover", x: x(at), y: PAD.top, width: slot, height: inner.height });
    area.append(svg("title", {}, `${clock(minute)}\n${describe(at)}`));
    picture.append(area);
  });
}

function show(holder, draw) {
  draw();
  holder.redraw = draw;
  if (holder.watched) return;
  holder.watched = new ResizeObserver(() => requestAnimationFrame(() => holder.redraw()));
  holder.watched.observe(holder);
}

/** Put words where a chart would be. */
export function empty(holder, text) {
  show(holder, () => holder.replaceChildren(el("p", { class: "empty" }, text)));
}

/** Stacked bars. `series` is [{ name, label, values }], the first at the bottom. */
export function bars(holder, minutes, series, summary, describe) {
  const total = minutes.map((_, at) => series.reduce((sum, one) => sum + one.values[at], 0));
  show(holder, () => {
    const chart = frame(holder, minutes, scale(Math.max(...total)), summary);
    const gap = chart.slot > 5 ? 1.5 : 0.5;
    minutes.forEach((_, at) => {
      let below = 0;
      for (const { name, values } of series) {
        if (!values[at]) continue;
        const upper = chart.y(below + values[at]);
        const height = chart.y(below) - upper;
        chart.picture.append(
          svg("rect", { class: `fill-${name}`, x: chart.x(at) + gap / 2, y: upper, width: chart.slot - gap, height }),
        );
        below += values[at];
      }
    });
    hovers(chart, minutes, describe);
    holder.replaceChildren(chart.picture);
  });
}

/** Lines on a logarithmic scale, with gaps where a value is null; a value without neighbours is a dot. */
export function lines(holder, minutes, series, summary, describe) {
  show(holder, () => {
    const known = series.flatMap((one) => one.values.filter((value) => value !== null && value > 0));
    const chart = frame(holder, minutes, logScale(Math.min(...known), Math.max(...known)), summary);
    for (const { name, values } of series) {
      const points = values.map((value, at) => (value === null ? null : [chart.x(at) + chart.slot / 2, chart.y(value)]));
      let path = "";
      points.forEach((point, at) => {
        if (point) path += `${points[at - 1] ? "L" : "M"}${point[0].toFixed(1)} ${point[1].toFixed(1)}`;
      });
      chart.picture.append(svg("path", { class: `line stroke-${name}`, d: path }));
      points.forEach((point, at) => {
        if (point && !points[at - 1] && !points[at + 1])
          chart.picture.append(svg("circle", { class: `dot fill-${name}`, cx: point[0], cy: point[1], r: 3.5 }));
      });
    }
    hovers(chart, minutes, describe);
    holder.replaceChildren(chart.picture);
  });
}

/** The same numbers for those who cannot see a chart, newest first. */
export function figures(holder, caption, minutes, series, format) {
  const rows = minutes
    .map((minute, at) => ({ minute, values: series.map((one) => one.values[at]) }))
    .filter((row) => row.values.some((value) => value))
    .reverse();
  holder.replaceChildren(
    el("table", {}, el("caption", { class: "sr" }, caption),
      el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "Minute"),
        series.map((one) => el("th", { scope: "col", class: "num" }, one.label)))),
      el("tbody", {}, rows.map((row) => el("tr", {}, el("th", { scope: "row" }, clock(row.minute)),
        row.values.map((value) => el("td", { class: "num" }, format(value))))))),
  );
}

export function legend(holder, series) {
  holder.replaceChildren(
    ...series.map((one) => el("li", {}, el("span", { class: `swatch fill-${one.name}` }), one.label)),
  );
}
