"use strict";
(() => {
const $ = (id) => document.getElementById(id);
const data = window.slantGroup;
if (!data) { $("no-data").hidden = false; return; }
const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer;
const z = new Int8Array(bytes(data.z)), volumes = new Int32Array(bytes(data.volumes)), etiv = new Int32Array(bytes(data.etiv));
const R = data.regions.length, MISSING = -128, OUTLIER = 40, BATCH = 240;
const column = (name) => data.columns.indexOf(name);
const scans = data.scans.map(([name, grade, reasons, report, thumbnail, about], i) => {
  let outliers = 0, largest = -1, maximum = 0;
  for (let r = 0; r < R; r += 1) {
    const value = z[i * R + r];
    if (value === MISSING) continue;
    if (Math.abs(value) >= OUTLIER) outliers += 1;
    if (Math.abs(value) > maximum) { maximum = Math.abs(value); largest = r; }
  }
  return { i, name, grade, reasons, report, thumbnail, about, outliers, largest };
});
const escaped = (text) => text.replace(/[&<>"']/g, (c) => `&#${c.charCodeAt(0)};`);
const url = (path) => encodeURI(path).replace(/[?#]/g, encodeURIComponent);
const link = (scan) => scan.report ? `<a href="${escaped(url(scan.report))}">${escaped(scan.name)}</a>` : escaped(scan.name);
const signed = (value) => value === MISSING ? "–" : (value >= 0 ? "+" : "−") + (Math.abs(value) / 10).toFixed(1);
const number = (text) => text.trim() === "" ? NaN : Number(text);

// Filters: ranges for numbers, menus for columns with few values.
const filters = [];
const hidden = new Set(["reasons", "warnings"]);
const numeric = [];
data.columns.forEach((name, k) => {
  if (hidden.has(name)) return;
  const values = [...new Set(scans.map((s) => s.about[k]).filter((v) => v !== "" && v !== "n/a"))];
  const numbers = values.length && values.every((v) => Number.isFinite(number(v)));
  if (numbers) numeric.push([name, k]);
  const label = document.createElement("label");
  label.textContent = `${name} `;
  if (numbers && values.length > 6) {
    const ends = ["from", "to"].map((text) => {
      const input = document.createElement("input");
      input.type = "number"; input.step = "any"; input.placeholder = text;
      input.setAttribute("aria-label", `${name} ${text}`);
      label.append(input, " ");
      return input;
    });
    filters.push((s) => {
      const value = number(s.about[k]);
      return (ends[0].value === "" || value >= Number(ends[0].value)) && (ends[1].value === "" || value <= Number(ends[1].value));
    });
  } else if (values.length > 1 && values.length <= 40) {
    const select = document.createElement("select");
    select.append(new Option("all", ""), ...values.sort().map((v) => new Option(v, v)));
    label.append(select);
    filters.push((s) => select.value === "" || s.about[k] === select.value);
  } else return;
  $("filters").append(label);
});

// Gallery.
const orders = {
  grade: (a, b) => rank(a) - rank(b) || b.outliers - a.outliers || a.i - b.i,
  outliers: (a, b) => b.outliers - a.outliers || a.i - b.i,
  similarity: (a, b) => (similarityOf(a) - similarityOf(b)) || a.i - b.i,
  name: (a, b) => a.i - b.i,
};
const rank = (s) => ({ fail: 0, review: 1, "": 2, pass: 3 })[s.grade] ?? 2;
const similarityOf = (s) => { const v = number(s.about[column("registration_similarity")] ?? ""); return Number.isFinite(v) ? v : 9; };
const marks = { pass: "✓ pass", review: "! review", fail: "✗ fail" };
let shown = [], length = BATCH;
const card = (s) => {
  const extreme = s.outliers ? `, ${data.regions[s.largest][1]} z ${signed(z[s.i * R + s.largest])}` : "";
  const picture = s.thumbnail ? `<img loading="lazy" decoding="async" width="400" height="231" alt="" src="${escaped(url(s.thumbnail))}">` : "";
  return `<li class="${escaped(s.grade)}">${picture}${link(s)}<p>${marks[s.grade] ?? "not graded"} · ${s.outliers} outlying region${s.outliers === 1 ? "" : "s"}${escaped(extreme)}</p>${s.reasons ? `<p class="reasons">${escaped(s.reasons)}</p>` : ""}</li>`;
};
const gallery = () => {
  $("gallery").innerHTML = shown.slice(0, length).map(card).join("");
  $("more").hidden = shown.length <= length;
  $("more").textContent = `Show ${Math.min(BATCH, shown.length - length)} more of ${shown.length - length}`;
};
const refresh = () => {
  const text = $("search").value.trim().toLowerCase(), grade = $("grade").value;
  shown = scans.filter((s) => (!text || s.name.toLowerCase().includes(text)) && (!grade || s.grade === grade) && filters.every((f) => f(s)));
  shown.sort(orders[$("order").value]);
  length = BATCH;
  $("count").textContent = `${shown.length} of ${scans.length} scans`;
  gallery(); plot(); heat(); mostOutlying();
};
$("more").addEventListener("click", () => { length += BATCH; gallery(); });

// Volumes of one region in all scans.
const valueOf = (s, r) => {
  const mm3 = volumes[s.i * R + r];
  if (mm3 < 0) return NaN;
  return $("unit").value === "cm3" ? mm3 / 1000 : etiv[s.i] > 0 ? 100 * mm3 / etiv[s.i] : NaN;
};
numeric.forEach(([name, k]) => $("against").append(new Option(name, k)));
const plot = () => {
  const r = Number($("region").value), k = $("against").value, W = 980, H = 260, L = 66, B = 34;
  const dots = shown.map((s) => ({ s, y: valueOf(s, r), x: k === "" ? NaN : number(s.about[k]) })).filter((d) => Number.isFinite(d.y) && (k === "" || Number.isFinite(d.x)));
  const range = (values) => { const lo = Math.min(...values), hi = Math.max(...values); return hi > lo ? [lo, hi] : [lo - 1, hi + 1]; };
  if (!dots.length) { $("plot").innerHTML = "<p>None of the selected scans has this region.</p>"; $("extremes").innerHTML = ""; return; }
  const [low, high] = range(dots.map((d) => d.y)), [left, right] = k === "" ? [0, 1] : range(dots.map((d) => d.x));
  const across = (v) => L + (W - L - 20) * (v - left) / (right - left), up = (v) => H - B - (H - B - 14) * (v - low) / (high - low);
  const jitter = (i) => ((i * 0.6180339887) % 1) * 0.9 + 0.05;
  const unit = $("unit").value === "cm3" ? "cm³" : "% of eTIV", digits = high < 1 ? 3 : 2;
  const circles = dots.map((d) => {
    const value = z[d.s.i * R + r], isOutlier = value !== MISSING && Math.abs(value) >= OUTLIER;
    return [isOutlier, `<circle data-i="${d.s.i}" class="${isOutlier ? "outlier" : ""}" r="${isOutlier ? 5 : 3.2}" cx="${across(k === "" ? jitter(d.s.i) : d.x).toFixed(1)}" cy="${up(d.y).toFixed(1)}"/>`];
  }).sort((a, b) => a[0] - b[0]).map((c) => c[1]).join("");
  const name = data.regions[r][1], against = k === "" ? "" : data.columns[k];
  const outliers = dots.filter((d) => z[d.s.i * R + r] !== MISSING && Math.abs(z[d.s.i * R + r]) >= OUTLIER).length;
  $("plot").innerHTML = `<svg viewBox="0 0 ${W} ${H}" role="img" aria-label="${escaped(name)} of ${dots.length} scans in ${unit}${against ? ` against ${escaped(against)}` : ""}: from ${low.toFixed(digits)} to ${high.toFixed(digits)}, ${outliers} outliers"><line class="axis" x1="${L}" x2="${L}" y1="8" y2="${H - B}"/><line class="axis" x1="${L}" x2="${W - 20}" y1="${H - B}" y2="${H - B}"/><text x="${L - 6}" y="${up(low)}" text-anchor="end">${low.toFixed(digits)}</text><text x="${L - 6}" y="${up(high) + 8}" text-anchor="end">${high.toFixed(digits)}</text><text x="${L - 6}" y="${(up(low) + up(high)) / 2}" text-anchor="end">${unit}</text>${against ? `<text x="${L}" y="${H - 14}">${left}</text><text x="${W - 20}" y="${H - 14}" text-anchor="end">${right}</text><text x="${W / 2}" y="${H - 14}" text-anchor="middle">${escaped(against)}</text>` : `<text x="${W / 2}" y="${H - 14}" text-anchor="middle">one dot per scan; large and red: outliers</text>`}${circles}</svg>`;
  const order = dots.filter((d) => z[d.s.i * R + r] !== MISSING).sort((a, b) => Math.abs(z[b.s.i * R + r]) - Math.abs(z[a.s.i * R + r])).slice(0, 10);
  $("extremes").innerHTML = order.map(({ s }) => {
    const mm3 = volumes[s.i * R + r];
    return `<tr><th scope="row">${link(s)}</th><td class="n">${(mm3 / 1000).toFixed(2)}</td><td class="n">${etiv[s.i] > 0 ? (100 * mm3 / etiv[s.i]).toFixed(3) : "–"}</td><td class="n">${signed(z[s.i * R + r])}</td></tr>`;
  }).join("");
};
const scanAt = (event) => event.target.dataset && event.target.dataset.i ? scans[event.target.dataset.i] : null;
$("plot").addEventListener("pointerover", (event) => {
  const s = scanAt(event), r = Number($("region").value);
  if (s) $("point").textContent = `${s.name}: ${valueOf(s, r).toFixed(3)} ${$("unit").value === "cm3" ? "cm³" : "% of eTIV"}, z ${signed(z[s.i * R + r])}`;
});
$("plot").addEventListener("click", (event) => { const s = scanAt(event); if (s && s.report) location.href = url(s.report); });

// Heat map of all regions in all scans.
const canvas = $("heat");
let cell = [0, 0];
const cellWidth = 8, cellHeight = () => shown.length > 600 ? 2 : shown.length > 150 ? 4 : 9;
const colorOf = (value) => {
  if (value === MISSING) return [150, 150, 150];
  const t = Math.max(-1, Math.min(1, value / 60)), end = t < 0 ? [33, 102, 172] : [179, 88, 6], a = Math.abs(t);
  return end.map((c, k) => Math.round([247, 247, 247][k] * (1 - a) + c * a));
};
const heat = () => {
  const h = cellHeight();
  [canvas.width, canvas.height] = [R * cellWidth, Math.max(1, shown.length * h)];
  const context = canvas.getContext("2d"), image = context.createImageData(canvas.width, canvas.height);
  const cells = new Uint32Array(image.data.buffer);
  shown.forEach((s, row) => {
    const line = new Uint32Array(canvas.width);
    for (let r = 0; r < R; r += 1) {
      const [red, green, blue] = colorOf(z[s.i * R + r]);
      line.fill((255 << 24) | (blue << 16) | (green << 8) | red, r * cellWidth, (r + 1) * cellWidth);
    }
    for (let y = 0; y < h; y += 1) cells.set(line, (row * h + y) * canvas.width);
  });
  context.putImageData(image, 0, 0);
};
const showCell = (row, r) => {
  const s = shown[row];
  if (!s || r < 0 || r >= R) return;
  $("cell").textContent = `${s.name}, ${data.regions[r][1]}: z ${signed(z[s.i * R + r])}`;
};
const cellAt = (event) => { const box = canvas.getBoundingClientRect(); return [Math.floor((event.clientY - box.top) / cellHeight()), Math.floor((event.clientX - box.left) / cellWidth)]; };
canvas.addEventListener("pointermove", (event) => showCell(...cellAt(event)));
canvas.addEventListener("click", (event) => { const s = shown[cellAt(event)[0]]; if (s && s.report) location.href = url(s.report); });
canvas.addEventListener("keydown", (event) => {
  const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
  if (event.key === "Enter" && shown[cell[0]] && shown[cell[0]].report) location.href = url(shown[cell[0]].report);
  if (!step) return;
  event.preventDefault();
  cell = [Math.max(0, Math.min(shown.length - 1, cell[0] + step[0])), Math.max(0, Math.min(R - 1, cell[1] + step[1]))];
  showCell(...cell);
});
const mostOutlying = () => {
  const order = shown.filter((s) => s.outliers).sort((a, b) => b.outliers - a.outliers || a.i - b.i).slice(0, 15);
  $("most-outlying").innerHTML = order.map((s) => `<tr><th scope="row">${link(s)}</th><td class="n">${s.outliers}</td><td>${escaped(data.regions[s.largest][1])}, z ${signed(z[s.i * R + s.largest])}</td></tr>`).join("") || "<tr><td colspan=3>None.</td></tr>";
};

["search", "grade", "order"].forEach((id) => $(id).addEventListener("input", refresh));
$("filters").addEventListener("input", (event) => { if (!["search", "grade"].includes(event.target.id)) refresh(); });
["region", "unit", "against"].forEach((id) => $(id).addEventListener("input", plot));
refresh();
})();
