"use strict";
// Draws each chart from the numbers beside it. Lines differ in dashes and carry their names, so colour is not needed.
const DASHES = ["", "7 4", "2 3", "10 3 2 3", "4 2"]; // one less than colours: thirty lines differ in one or the other
const COLOURS = ["#2f6fb0", "#b3601b", "#3f8f4f", "#8e4fa8", "#b03a4b", "#57717f"];
const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 640, HEIGHT = 260, LEFT = 52, RIGHT = 12, TOP = 10, BOTTOM = 28;

function make(name, attributes, parent, text) {
  const node = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  if (text !== undefined) node.textContent = text;
  parent.append(node);
  return node;
}

function short(value) {
  if (value === 0) return "0";
  const size = Math.abs(value);
  return size < 0.001 || size >= 1e5 ? value.toExponential(2) : String(Number(value.toPrecision(4)));
}

function draw(figure) {
  const series = Object.entries(JSON.parse(figure.querySelector("script").textContent));
  const legend = figure.querySelector(".legend"), told = figure.querySelector("output");
  const svg = make("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": figure.dataset.title }, figure.querySelector(".chart"));
  const hidden = new Set();
  const render = () => {
    svg.replaceChildren();
    const shown = series.filter(([name]) => !hidden.has(name));
    const points = shown.flatMap(([, values]) => values);
    if (!points.length) return;
    const xs = points.map((point) => point[0]), ys = points.map((point) => point[1]);
    const [x0, x1] = [Math.min(...xs), Math.max(...xs)];
    let [y0, y1] = [Math.min(...ys), Math.max(...ys)];
    if (y0 === y1) [y0, y1] = [y0 - (Math.abs(y0) || 1) * 0.1, y1 + (Math.abs(y1) || 1) * 0.1];
    const x = (value) => LEFT + ((value - x0) / (x1 - x0 || 1)) * (WIDTH - LEFT - RIGHT);
    const y = (value) => HEIGHT - BOTTOM - ((value - y0) / (y1 - y0)) * (HEIGHT - TOP - BOTTOM);
    const least = (y1 - y0) / 6, power = 10 ** Math.floor(Math.log10(least));
    const step = power * [1, 2, 2.5, 5, 10].find((factor) => factor * power >= least);
    for (let number = Math.ceil(y0 / step); number * step <= y1; number++) {
      const value = number * step;
      make("line", { x1: LEFT, x2: WIDTH - RIGHT, y1: y(value), y2: y(value), class: "grid" }, svg);
      make("text", { x: LEFT - 6, y: y(value) + 4, "text-anchor": "end" }, svg, short(value));
    }
    for (const value of new Set([x0, Math.round((x0 + x1) / 2), x1]))
      make("text", { x: x(value), y: HEIGHT - 8, "text-anchor": value === x0 ? "start" : value === x1 ? "end" : "middle" }, svg, `epoch ${value}`);
    for (const [name, values] of shown) {
      const index = series.findIndex(([other]) => other === name);
      const style = { stroke: COLOURS[index % COLOURS.length], "stroke-dasharray": DASHES[index % DASHES.length] };
      make("polyline", { points: values.map(([a, b]) => `${x(a)},${y(b)}`).join(" "), class: "curve", ...style }, svg);
      if (values.length === 1) make("circle", { cx: x(values[0][0]), cy: y(values[0][1]), r: 3, fill: style.stroke }, svg);
    }
    svg.onpointermove = (event) => {
      const box = svg.getBoundingClientRect();
      const wanted = ((event.clientX - box.left) / box.width) * WIDTH;
      const epoch = xs.reduce((best, value) => (Math.abs(x(value) - wanted) < Math.abs(x(best) - wanted) ? value : best), x0);
      const parts = shown.flatMap(([name, values]) => values.filter((point) => point[0] === epoch).map((point) => `${name} ${short(point[1])}`));
      told.textContent = `epoch ${epoch}: ${parts.join(", ")}`;
    };
  };
  series.forEach(([name, values], index) => {
    const button = document.createElement("button");
    button.type = "button";
    button.ariaPressed = "true";
    const line = make("svg", { viewBox: "0 0 34 10", width: 34, height: 10, "aria-hidden": "true" }, button);
    make("line", { x1: 0, x2: 34, y1: 5, y2: 5, class: "curve", stroke: COLOURS[index % COLOURS.length], "stroke-dasharray": DASHES[index % DASHES.length] }, line);
    button.append(` ${name}: ${short(values[values.length - 1][1])}`);
    button.addEventListener("click", () => {
      if (!hidden.delete(name)) hidden.add(name);
      button.ariaPressed = String(!hidden.has(name));
      render();
    });
    legend.append(button);
  });
  render();
}

document.querySelectorAll("figure.curves").forEach(draw);
