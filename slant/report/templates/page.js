"use strict";
(() => {
const $ = (id) => document.getElementById(id);
const all = (selector, root = document) => [...root.querySelectorAll(selector)];
const on = (target, kind, act) => { if (target) target.addEventListener(kind, act); };
document.documentElement.classList.add("js");

// Sliders show their value.
all("input[type=range]").forEach((input) => on(input, "input", () => {
  input.parentElement.querySelector("output").textContent = `${input.value} %`;
}));

// Layers and spaces of the slices.
const regions = $("regions");
const choose = (name, act) => all(`input[name=${name}]`).forEach((input) => {
  on(input, "change", () => { if (input.checked) act(input.value); });
  if (input.checked) act(input.value);
});
const setOpacity = () => all(".mosaic").forEach((m) => m.style.setProperty("--opacity", $("opacity").value / 100));
if (!document.querySelector("input[name=space]")) all("[data-space]").forEach((m) => m.classList.add("on"));
let highlighted = "";
choose("space", (value) => {
  all("[data-space]").forEach((m) => m.classList.toggle("on", m.dataset.space === value));
  if (highlighted) highlight(highlighted);
});
choose("mode", (value) => {
  regions.dataset.mode = value;
  if (value === "fill" && $("opacity").value > 60) { $("opacity").value = 45; $("opacity").dispatchEvent(new Event("input")); }
});
on($("opacity"), "input", setOpacity);
if ($("opacity")) setOpacity();

// Names of regions, from the look-up table colours of the filled layer.
const known = $("regions-json") ? JSON.parse($("regions-json").textContent) : [];
const byColor = new Map();
known.forEach((r) => byColor.set(r.color, byColor.has(r.color) ? `${byColor.get(r.color)} or ${r.name}` : r.name));
const pixels = new WeakMap();
const pixelsOf = (image) => {
  if (!image || !image.complete || !image.naturalWidth) return null;
  if (!pixels.has(image)) {
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.drawImage(image, 0, 0);
    pixels.set(image, context.getImageData(0, 0, canvas.width, canvas.height));
  }
  return pixels.get(image);
};
const hex = (data, i) => data[i + 3] ? "#" + [0, 1, 2].map((k) => data[i + k].toString(16).padStart(2, "0")).join("") : "";
const fillsOf = (stack) => [...stack.querySelectorAll("img.fill")];
const colorAt = (stack, image, event) => {
  const found = pixelsOf(image);
  if (!found) return "";
  const box = stack.getBoundingClientRect();
  const x = Math.floor((event.clientX - box.left) / box.width * found.width);
  const y = Math.floor((event.clientY - box.top) / box.height * found.height);
  return x < 0 || y < 0 || x >= found.width || y >= found.height ? "" : hex(found.data, 4 * (y * found.width + x));
};
const tip = document.createElement("div");
tip.id = "tip"; tip.hidden = true;
document.body.append(tip);
const highlight = (color) => {
  highlighted = color;
  all(".mosaic .stack canvas").forEach((canvas) => canvas.remove());
  all("tr.highlighted").forEach((row) => row.classList.remove("highlighted"));
  $("highlighted").textContent = color ? `Highlighted in white: ${byColor.get(color)}` : "";
  $("clear").hidden = !color;
  if (!color) return;
  let seen = 0;
  all(".mosaic .stack").forEach((stack) => {
    const found = pixelsOf(fillsOf(stack)[0]);
    if (!found) return;
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [found.width, found.height];
    const made = new ImageData(found.width, found.height);
    let any = 0;
    for (let i = 0; i < found.data.length; i += 4) {
      if (hex(found.data, i) === color) { made.data.set([255, 255, 255, 215], i); any = 1; }
    }
    if (!any) return;
    canvas.getContext("2d").putImageData(made, 0, 0);
    stack.append(canvas);
    seen += stack.closest("[data-space]").classList.contains("on") ? 1 : 0;
  });
  $("highlighted").textContent += seen ? `, in ${seen} slice${seen === 1 ? "" : "s"}` : " (not visible in any slice)";
  all(`#region-table tr[data-color="${color}"]`).forEach((row) => row.classList.add("highlighted"));
};
all(".mosaic .stack").forEach((stack) => {
  on(stack, "pointermove", (event) => {
    const names = fillsOf(stack).map((image) => byColor.get(colorAt(stack, image, event)) || "");
    tip.hidden = !names.some(Boolean);
    if (tip.hidden) return;
    tip.textContent = names.length < 2 ? names[0] : names.map((name, i) => `${"AB"[i]}: ${name || "no region"}`).join(" · ");
    tip.style.left = `${Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 4)}px`;
    tip.style.top = `${event.clientY + 16}px`;
  });
  on(stack, "pointerleave", () => { tip.hidden = true; });
  on(stack, "click", (event) => highlight(colorAt(stack, fillsOf(stack)[0], event)));
});
on($("clear"), "click", () => highlight(""));

// Registration: the scan, the template, or both alternately.
const registration = $("registration");
if (registration) {
  const show = (value) => {
    registration.dataset.show = value;
    all("input[name=registered]").forEach((input) => { input.checked = input.value === value; });
  };
  choose("registered", show);
  on($("edges"), "change", () => registration.classList.toggle("no-edges", !$("edges").checked));
  let timer = 0;
  const reducedMotion = matchMedia("(prefers-reduced-motion: reduce)");
  const blink = (start) => {
    clearInterval(timer);
    timer = start ? setInterval(() => show(registration.dataset.show === "scan" ? "template" : "scan"), 800) : 0;
    $("blink").setAttribute("aria-pressed", String(Boolean(start)));
  };
  const update = () => { if (reducedMotion.matches) blink(false); $("blink").hidden = reducedMotion.matches; $("still").hidden = !reducedMotion.matches; };
  on($("blink"), "click", () => blink(!timer));
  on(reducedMotion, "change", update);
  update();
}

// The table: sorting, search, highlighting.
const table = $("region-table");
if (table) {
  const body = table.tBodies[0], rows = [...body.rows];
  const value = (row, i) => row.cells[i].textContent.trim();
  const number = (text) => text === "–" || text === "" ? NaN : Number(text);
  all("thead button", table).forEach((button, i) => on(button, "click", () => {
    const head = button.closest("th"), numeric = head.classList.contains("n");
    const before = head.getAttribute("aria-sort");
    const up = before === "none" ? !numeric : before === "descending";
    all("th[aria-sort]", table).forEach((th) => th.setAttribute("aria-sort", "none"));
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const compare = (a, b) => {
      if (!numeric) return value(a, i).localeCompare(value(b, i)) * (up ? 1 : -1);
      const [x, y] = [number(value(a, i)), number(value(b, i))];
      if (Number.isNaN(x) || Number.isNaN(y)) return Number.isNaN(x) - Number.isNaN(y);
      return (x - y) * (up ? 1 : -1);
    };
    body.append(...rows.sort(compare));
  }));
  const filter = () => {
    const words = $("search").value.toLowerCase().split(/\s+/).filter(Boolean);
    const side = $("side") ? $("side").value : "", flagged = $("flagged") && $("flagged").checked;
    let shown = 0;
    rows.forEach((row) => {
      const text = `${value(row, 0)} ${value(row, 1)}`.toLowerCase();
      row.hidden = !words.every((w) => text.includes(w)) || (side && row.dataset.side !== side)
        || (flagged && !row.classList.contains("flagged"));
      shown += row.hidden ? 0 : 1;
    });
    $("count").textContent = `${shown} of ${rows.length} regions`;
  };
  ["search", "side", "flagged"].forEach((id) => { on($(id), "input", filter); on($(id), "change", filter); });
  all("button.link", table).forEach((button) => on(button, "click", () => {
    highlight(button.closest("tr").dataset.color);
    regions.scrollIntoView({ block: "start" });
  }));
}

// The 3D view, if the browser supports WebGL 2.
const bytesOf = (id) => Uint8Array.from(atob($(id).textContent), (c) => c.charCodeAt(0));
const unpacked = async (id) => {
  const stream = new Blob([bytesOf(id)]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).text();
};
const setStatus = (text) => { $("view3d-status").textContent = text; };
const start3d = async () => {
  const canvas = $("view3d-canvas");
  if (!document.createElement("canvas").getContext("webgl2")) {
    setStatus("This browser does not support WebGL 2, which the 3D view needs. The slices above show the same regions.");
    return;
  }
  setStatus("Starting the 3D view …");
  const script = document.createElement("script");
  script.textContent = await unpacked("niivue-gz");
  document.head.append(script);
  $("view3d-box").hidden = false;
  const nv = new window.niivue.Niivue({
    backColor: [0, 0, 0, 1], show3Dcrosshair: true, isOrientCube: true, dragAndDropEnabled: false, logLevel: "silent",
    isRadiologicalConvention: document.body.dataset.radiological === "true", multiplanarShowRender: 1,
  });
  nv.onLocationChange = (position) => {
    const channel = position.values.length > 1 ? Math.round(position.values[1].value) : 0;
    const name = channel > 0 && known[channel - 1] ? known[channel - 1].name : "no region";
    $("view3d-position").textContent = `${[...position.mm].slice(0, 3).map((v) => v.toFixed(0)).join(", ")} mm: ${name}`;
  };
  await nv.attachToCanvas(canvas);
  const { NVImage } = window.niivue;
  nv.addVolume(await NVImage.loadFromBase64({ base64: $("image-gz").textContent, name: "scan.nii.gz", colormap: "gray", cal_min: 0, cal_max: 255 }));
  const labels = await NVImage.loadFromBase64({ base64: $("labels-gz").textContent, name: "regions.nii.gz", opacity: 0.4 });
  labels.hdr.intent_code = 1002; // NIFTI_INTENT_LABEL: colours of labels are not interpolated
  const part = (i) => [0, ...known.map((r) => parseInt(r.color.slice(1 + 2 * i, 3 + 2 * i), 16))];
  labels.setColormapLabel({ R: part(0), G: part(1), B: part(2), A: [0, ...known.map(() => 255)], I: [0, ...known.map((_, i) => i + 1)], labels: ["", ...known.map((r) => r.name)] });
  nv.addVolume(labels);
  nv.updateGLVolume();
  choose("view", (value) => nv.setSliceType(value === "multi" ? nv.sliceTypeMultiplanar : nv.sliceTypeRender));
  on($("view3d-opacity"), "input", (event) => nv.setOpacity(1, event.target.value / 100));
  on($("view3d-cut"), "input", (event) => {
    const cut = event.target.value / 100;
    nv.setClipPlane(cut ? [0.6 - 1.1 * cut, 0, 90] : [2, 0, 90]);
  });
  all("[data-turn]").forEach((button) => on(button, "click", () => {
    const [azimuth, elevation] = button.dataset.turn.split(",").map(Number);
    nv.setRenderAzimuthElevation(nv.scene.renderAzimuth + azimuth, nv.scene.renderElevation + elevation);
  }));
  const steps = { ArrowLeft: [-1, 0, 0], ArrowRight: [1, 0, 0], ArrowDown: [0, -1, 0], ArrowUp: [0, 1, 0], PageDown: [0, 0, -1], PageUp: [0, 0, 1] };
  on(canvas, "keydown", (event) => {
    const step = steps[event.key];
    if (!step) return;
    event.preventDefault(); event.stopImmediatePropagation();
    nv.moveCrosshairInVox(...step);
  });
  setStatus("Drag in the 3D view to rotate it, and in a slice to move the crosshair. Arrow keys and page up and page down move the crosshair too.");
  canvas.dataset.ready = "true";
};
const view3d = $("view3d");
if (view3d) {
  const start = () => start3d().catch((error) => {
    $("view3d-box").hidden = true;
    setStatus(`The 3D view could not start (${error.message}). The slices above show the same regions.`);
  });
  if (!("IntersectionObserver" in window) || !("DecompressionStream" in window)) {
    setStatus("This browser is too old for the 3D view. The slices above show the same regions.");
  } else {
    const watch = new IntersectionObserver((entries) => {
      if (entries.some((entry) => entry.isIntersecting)) { watch.disconnect(); start(); }
    });
    watch.observe(view3d);
  }
}
})();
