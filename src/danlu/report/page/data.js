// Thresholds that move. Text of the corpus gets into the page as textContent only, never as markup.
const { panels, examples, steps, words } = JSON.parse(document.getElementById("data")?.textContent ?? '{"panels":[]}');
const SHOWN = 3;

const made = (tag, content, attributes = {}) => {
  const element = document.createElement(tag);
  element.append(...[content ?? ""].flat());
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
};
const plain = (value) => String(+value.toPrecision(12));
const short = (value) => (value === null ? words.no_bound : plain(value));
const whole = (value) => value.toLocaleString("en-US");
const percent = (part, all) => (all ? ((100 * part) / all).toFixed(part === all ? 0 : 2) + "%" : "–");

// What lies in cells [low, high), with all that has no value: [records, characters, tokens].
const kept = (group, low, high) =>
  group.cells.slice(low, high).reduce((sums, cell) => sums.map((sum, i) => sum + cell[i]), group.missing);
const total = (groups) => {
  const sum = (rows) => rows.reduce((a, b) => a.map((value, i) => value + b[i]), [0, 0, 0]);
  return {
    name: words.all,
    cells: groups[0].cells.map((_, place) => sum(groups.map((group) => group.cells[place]))),
    missing: sum(groups.map((group) => group.missing)),
  };
};

const counts = (panel) => {
  const sources = panel.groups.filter((group) => group.sort === "source");
  const languages = panel.groups.filter((group) => group.sort === "language");
  const size = panel.ends.length;
  const rows = [[total(sources), "total"], ...(sources.length > 1 ? sources : []).map((group) => [group, ""]), ...languages.map((group) => [group, ""])];
  const measured = kept(rows[0][0], 0, size)[2] > 0 ? [0, 1, 2] : [0, 1];
  const names = [words.records, words.characters, words.tokens];
  const head = made("tr", [made("th"), ...measured.flatMap((i) => [made("th", names[i], { class: "r" }), made("th", "", { class: "r" })])]);
  const body = rows.map(([group, style]) => {
    const here = kept(group, panel.low, panel.high);
    const all = kept(group, 0, size);
    const cells = measured.flatMap((i) => [made("td", whole(here[i]), { class: "r" }), made("td", percent(here[i], all[i]), { class: "r" })]);
    return made("tr", [made("td", group.name), ...cells], { class: style });
  });
  return made("table", [head, ...body]);
};

const bars = (panel) => {
  const space = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(space, "svg");
  const cells = total(panel.groups.filter((group) => group.sort === "source")).cells.map((cell) => cell[0]);
  const highest = Math.max(...cells);
  svg.setAttribute("viewBox", `0 0 ${cells.length} 100`);
  svg.setAttribute("preserveAspectRatio", "none");
  cells.forEach((count, place) => {
    const bar = document.createElementNS(space, "rect");
    const height = count ? Math.max(2, 100 * Math.sqrt(count / highest)) : 0;
    for (const [name, value] of Object.entries({ x: place + 0.06, y: 100 - height, width: 0.88, height })) bar.setAttribute(name, value);
    if (panel.path && (place < panel.low || place >= panel.high)) bar.setAttribute("class", "out");
    const title = document.createElementNS(space, "title");
    title.textContent = `${panel.ends[place].join(" – ")}: ${whole(count)}`;
    bar.append(title);
    svg.append(bar);
  });
  return svg;
};

// The examples nearest to the threshold that was moved last.
const near = (panel, number) => {
  const side = panel.last ?? (panel.low > 0 ? "low" : "high");
  const cut = panel[side];
  const with_value = examples.filter((example) => example.at[number]);
  const inside = (cell) => cell >= panel.low && cell < panel.high;
  const distance = (example) => Math.abs(example.at[number][0] + 0.5 - cut);
  const shown = (wanted) =>
    with_value.filter((example) => inside(example.at[number][0]) === wanted).sort((a, b) => distance(a) - distance(b)).slice(0, SHOWN)
      .map((example) => made("article", [made("header", [made("b", plain(example.at[number][1])), " " + example.about]), made("p", example.text)]));
  const column = (wanted, title, style) => {
    const found = shown(wanted);
    return made("div", [made("h5", title), ...(found.length ? found : [made("span", words.none_near, { class: "soft" })])], { class: style });
  };
  return made("div", [column(true, words.just_kept, "yes"), column(false, words.just_dropped, "no")], { class: "near" });
};

const draw = (box, number) => {
  const panel = panels[number];
  const marks = Math.min(4, panel.ends.length);
  const starts = Array.from({ length: marks }, (_, mark) => panel.ends[Math.floor((mark * panel.ends.length) / marks)][0]);
  const scale = [...starts, panel.ends.at(-1)[1]].filter((value, place, all) => !place || value !== all[place - 1]);
  box.classList.toggle("half", !panel.path || panel.free);
  box.classList.toggle("moved", panel.low !== panel.start.low || panel.high !== panel.start.high);
  const parts = [bars(panel), made("div", scale.map((value) => made("span", plain(value))), { class: "scale" })];
  box.querySelector(".drawn").replaceChildren(...parts);
  box.querySelector(".counts").replaceChildren(counts(panel));
  if (!panel.path) return;
  box.querySelector(".around").replaceChildren(near(panel, number));
  for (const side of ["low", "high"]) {
    const label = box.querySelector("." + side);
    label.classList.toggle("moved", panel[side] !== panel.start[side]);
    label.querySelector("input").value = panel[side];
    label.querySelector("output").value = short(panel[side === "low" ? "mins" : "maxs"][panel[side]]);
  }
};

const slider = (box, number, side, title) => {
  const panel = panels[number];
  const input = made("input", "", { type: "range", min: 0, max: panel.ends.length, step: 1 });
  input.addEventListener("input", () => {
    // The two thresholds never pass each other.
    panel[side] = side === "low" ? Math.min(+input.value, panel.high) : Math.max(+input.value, panel.low);
    panel.last = side;
    draw(box, number);
    write();
  });
  return made("label", [title, made("output"), input], { class: side });
};

// Settings as YAML: flow mappings, whose strings are JSON wherever they are not plain words.
const yaml = (value) => {
  if (Array.isArray(value)) return `[${value.map(yaml).join(", ")}]`;
  if (value && typeof value === "object") return `{${Object.entries(value).map(([name, inner]) => `${yaml(name)}: ${yaml(inner)}`).join(", ")}}`;
  if (typeof value === "string" && /^[a-z][a-z_]*$/.test(value) && !/^(y|n|yes|no|on|off|true|false|null)$/.test(value)) return value;
  return typeof value === "number" ? plain(value) : JSON.stringify(value);
};
const moved = () => {
  const changed = structuredClone(steps);
  for (const panel of panels) {
    for (const [side, name, ends] of [["low", "min", "mins"], ["high", "max", "maxs"]]) {
      if (!panel.path || panel[side] === panel.start[side]) continue;
      const place = panel.path.reduce((at, key) => (at[key] = { ...(panel.present ?? {}), ...at[key] }), changed[panel.step]);
      place[name] = panel[ends][panel[side]];
    }
  }
  return changed;
};
const write = () => {
  document.getElementById("yaml").value = ["steps:", ...moved().map((step) => `  - ${yaml(step)}`)].join("\n");
};

for (const box of document.querySelectorAll(".panel")) {
  const number = +box.dataset.panel;
  const panel = panels[number];
  panel.start = { low: panel.low, high: panel.high };
  panel.free = panel.mins?.[panel.low] === null && panel.maxs[panel.high] === null; // nothing is decided by it yet
  const sliders = panel.path ? [slider(box, number, "low", words.at_least), slider(box, number, "high", words.at_most)] : [];
  const left = made("div", [made("div", "", { class: "drawn" }), ...sliders]);
  box.append(made("h4", panel.name), made("div", [left, made("div", "", { class: "counts wide" })], { class: "sides" }), made("div", "", { class: "around" }));
  draw(box, number);
}
if (panels.length) {
  const box = document.getElementById("yaml");
  write();
  document.getElementById("copy").addEventListener("click", (event) => {
    box.select();
    document.execCommand("copy"); // the clipboard's own interface is closed to pages that are files
    event.target.textContent = words.copied;
  });
  document.getElementById("save").addEventListener("click", () => {
    const link = made("a", "", { href: URL.createObjectURL(new Blob([box.value + "\n"])), download: "steps.yaml" });
    link.click();
  });
  document.getElementById("reset").addEventListener("click", () => {
    for (const panel of panels) Object.assign(panel, panel.start, { last: undefined });
    for (const panel of document.querySelectorAll(".panel")) draw(panel, +panel.dataset.panel);
    write();
  });
}
