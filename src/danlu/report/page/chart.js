// The read-out beside the pointer: every line's value at the step nearest to it.
for (const svg of document.querySelectorAll("svg.chart")) {
  const lines = JSON.parse(svg.dataset.lines);
  const { x: [low, high], box: [left, right] } = JSON.parse(svg.dataset.frame);
  const pointer = svg.querySelector(".pointer");
  const readout = document.createElement("div");
  readout.className = "readout";
  readout.hidden = true;
  svg.parentElement.append(readout);
  const nearest = (points, step) =>
    points.reduce((best, point) => (Math.abs(point[0] - step) < Math.abs(best[0] - step) ? point : best));
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const place = ((event.clientX - box.left) / box.width) * svg.viewBox.baseVal.width;
    const step = low + ((place - left) / (right - left)) * (high - low);
    if (place < left || place > right || !lines.length) return;
    const at = nearest(lines.flatMap((line) => line.points), step)[0];
    const drawn = left + ((at - low) / (high - low)) * (right - left);
    pointer.setAttribute("x1", drawn);
    pointer.setAttribute("x2", drawn);
    pointer.style.opacity = 0.6;
    readout.replaceChildren(Object.assign(document.createElement("div"), { textContent: at }));
    for (const line of lines) {
      const point = nearest(line.points, at);
      if (Math.abs(point[0] - at) > (high - low) / 20) continue; // the line has ended before
      const row = document.createElement("div");
      const swatch = document.createElement("i");
      swatch.className = "b" + line.colour;
      swatch.style.cssText = "display:inline-block;width:10px;height:3px;margin-right:6px;vertical-align:middle";
      row.append(swatch, `${line.name} ${point[1]}`);
      readout.append(row);
    }
    readout.hidden = false;
    const offset = (drawn / svg.viewBox.baseVal.width) * box.width;
    readout.style.top = box.top - svg.parentElement.getBoundingClientRect().top + 8 + "px";
    readout.style.left = (offset > box.width / 2 ? offset - readout.offsetWidth - 12 : offset + 12) + "px";
  });
  svg.addEventListener("pointerleave", () => {
    readout.hidden = true;
    pointer.style.opacity = 0;
  });
}
