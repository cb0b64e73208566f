"use strict";
(async function () {
  const d = JSON.parse(document.getElementById("cortex-data").textContent);
  const $ = (id) => document.getElementById("cortex-" + id);
  const canvas = $("canvas");
  const probe = document.createElement("canvas").getContext("webgl2");
  if (!probe) return; // the note that stands there says where the static figures are
  const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer;
  const once = (make) => { const kept = new Map(); return (key) => { if (!kept.has(key)) kept.set(key, make(key)); return kept.get(key); }; };
  const values = once((m) => new Float32Array(bytes(d.maps[m].values)));
  const colours = once((m) => new Uint8Array(bytes(d.maps[m].colours)));
  const units = once((r) => new Int32Array(bytes(d.runs[r].unit)));
  const regions = once((r) => new Int16Array(bytes(d.runs[r].region)));
  const NAMES = ["left", "right"];
  const FULL = 0.4; // share of the scale from which a value is opaque, as in the static figures
  const PRECISION = 200;
  const VIEWS = { left: [90, 0], right: [270, 0], top: [0, 90], below: [180, -90], front: [180, 0], back: [0, 0] };

  $("view").hidden = false;
  $("note").hidden = true;
  await new Promise((done) => requestAnimationFrame(() => setTimeout(done))); // the page is read while the view is prepared
  const nv = new niivue.Niivue({
    backColor: [1, 1, 1, 1], show3Dcrosshair: false, isOrientCube: false, isOrientationTextVisible: false, isColorbar: false,
    crosshairWidth: 0, dragAndDropEnabled: false, loadingText: "", logLevel: "silent", isAntiAlias: true,
  });
  await nv.attachToCanvas(canvas);
  nv.setSliceType(nv.sliceTypeRender);
  const meshes = d.mesh.map((part, h) => {
    const points = Float32Array.from(new Int16Array(bytes(part.points)), (v) => v / PRECISION);
    const triangles = Uint32Array.from(new Uint16Array(bytes(part.triangles)));
    const grey = new Uint8Array(points.length / 3 * 4).fill(200);
    const made = new niivue.NVMesh(points, triangles, NAMES[h], grey, 1, true, nv.gl);
    nv.addMesh(made);
    nv.setMeshShader(made.id, "Matte");
    return { made, points, triangles, tone: new Uint8Array(bytes(part.tone)), count: points.length / 3 };
  });
  const first = [0, meshes[0].count]; // where each hemisphere begins in a map
  let map = 0, chosen = -1;

  const text = (v) => (Number.isFinite(v) ? (v !== 0 && Math.abs(v) < 0.001 ? v.toExponential(2) : Number(v.toPrecision(4)).toString()) : "none");
  function opacity(m, v) {
    if (!m.fades || m.low > 0 || m.high < 0) return 1;
    return Math.max(0, Math.min(1, (m.low < 0 ? Math.abs(v) : v) / (FULL * Math.max(-m.low, m.high))));
  }
  function index(m, v) {
    return Math.max(0, Math.min(255, Math.floor((v - m.low) / (m.high - m.low) * 256))) * 3;
  }
  function marked(h) { // the chosen vertex with its neighbours
    const out = new Set(), at = chosen - first[h], t = meshes[h].triangles;
    if (at < 0 || at >= meshes[h].count) return out;
    for (let i = 0; i < t.length; i += 3) if (t[i] === at || t[i + 1] === at || t[i + 2] === at) out.add(t[i]).add(t[i + 1]).add(t[i + 2]);
    return out;
  }
  function paint() {
    const m = d.maps[map], v = values(map), table = colours(map), least = Number($("least").value);
    let shown = 0, measured = 0;
    meshes.forEach((part, h) => {
      const rgba = new Uint8Array(part.count * 4), there = marked(h);
      for (let i = 0; i < part.count; i++) {
        const value = v[first[h] + i], grey = part.tone[i], known = Number.isFinite(value);
        const on = known && Math.abs(value) >= least, a = on ? opacity(m, value) : 0, k = on ? index(m, value) : 0;
        measured += known; shown += on;
        for (let c = 0; c < 3; c++) rgba[4 * i + c] = there.has(i) ? 0 : grey + a * (table[k + c] - grey);
        rgba[4 * i + 3] = 255;
      }
      part.made.rgba255 = rgba;
      part.made.updateMesh(nv.gl);
    });
    nv.drawScene();
    $("shown").textContent = (least > 0 ? "|value| ≥ " + text(least) + ": " : "") + shown.toLocaleString("en") + " of " + measured.toLocaleString("en") + " measured vertices";
  }
  function bar() {
    const m = d.maps[map], table = colours(map), c2 = $("bar").getContext("2d");
    for (let x = 0; x < 256; x++) {
      const v = m.low + (m.high - m.low) * (x + 0.5) / 256, a = opacity(m, v);
      c2.fillStyle = "rgb(" + [0, 1, 2].map((c) => Math.round(190 + a * (table[3 * x + c] - 190))).join(",") + ")";
      c2.fillRect(x, 0, 1, 14);
    }
    $("low").textContent = text(m.low);
    $("high").textContent = text(m.high);
  }
  function said() {
    if (chosen < 0) return;
    const m = d.maps[map], run = d.runs[m.run], h = chosen < first[1] ? 0 : 1, unit = units(m.run)[chosen], r = regions(m.run)[chosen];
    const parts = [NAMES[h] + " hemisphere, vertex " + (chosen - first[h]) + " of fsaverage5", m.title + ": " + text(values(map)[chosen])];
    parts.push("region: " + (r >= 0 && run.regions[r] ? run.regions[r] : "none named"));
    if (run.noun === "voxel") parts.push(unit >= 0 ? "nearest voxel: number " + unit : "no voxel was measured here");
    $("said").textContent = parts.join(" · ");
  }
  function choose(number) {
    map = number;
    const m = d.maps[map], most = Math.max(Math.abs(m.low), Math.abs(m.high)), least = $("least");
    least.max = String(most); least.step = String(most / 200); least.value = "0";
    bar(); paint(); said();
  }
  // The vertex under a place of the canvas: of all triangles over it the one nearest to the reader, of its corners the nearest.
  function pick(x, y) {
    const [mvp] = nv.calculateMvpMatrix(null, [0, 0, canvas.width, canvas.height], nv.scene.renderAzimuth, nv.scene.renderElevation);
    let best = -1, depth = Infinity;
    meshes.forEach((part, h) => {
      if (!part.made.visible) return;
      const p = part.points, px = new Float32Array(part.count), py = new Float32Array(part.count), pz = new Float32Array(part.count), t = part.triangles;
      for (let i = 0; i < part.count; i++) {
        const a = p[3 * i], b = p[3 * i + 1], c = p[3 * i + 2], w = mvp[3] * a + mvp[7] * b + mvp[11] * c + mvp[15];
        px[i] = ((mvp[0] * a + mvp[4] * b + mvp[8] * c + mvp[12]) / w + 1) / 2 * canvas.width;
        py[i] = (1 - (mvp[1] * a + mvp[5] * b + mvp[9] * c + mvp[13]) / w) / 2 * canvas.height;
        pz[i] = (mvp[2] * a + mvp[6] * b + mvp[10] * c + mvp[14]) / w;
      }
      for (let k = 0; k < t.length; k += 3) {
        const [i, j, l] = [t[k], t[k + 1], t[k + 2]], side = (a, b) => (px[b] - px[a]) * (y - py[a]) - (py[b] - py[a]) * (x - px[a]);
        const s = [side(i, j), side(j, l), side(l, i)];
        if (!(s.every((v) => v >= 0) || s.every((v) => v <= 0)) || s.every((v) => v === 0)) continue;
        const z = (pz[i] + pz[j] + pz[l]) / 3;
        if (z >= depth) continue;
        depth = z;
        const far = (n) => (px[n] - x) ** 2 + (py[n] - y) ** 2;
        best = first[h] + [i, j, l].reduce((a, b) => (far(b) < far(a) ? b : a));
      }
    });
    return best;
  }
  d.runs.forEach((run, r) => {
    const group = document.createElement("optgroup");
    group.label = run.name;
    d.maps.forEach((m, k) => {
      if (m.run !== r) return;
      const option = document.createElement("option");
      option.value = String(k);
      option.textContent = m.title;
      group.append(option);
    });
    $("map").append(group);
  });
  $("map").addEventListener("change", () => choose(Number($("map").value)));
  $("least").addEventListener("input", paint);
  $("side").addEventListener("change", () => {
    const wanted = $("side").value;
    meshes.forEach((part, h) => { part.made.visible = wanted === "both" || wanted === NAMES[h]; });
    nv.drawScene();
  });
  for (const name of Object.keys(VIEWS)) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = name;
    button.addEventListener("click", () => nv.setRenderAzimuthElevation(...VIEWS[name]));
    $("views").append(button);
  }
  let down = [0, 0];
  canvas.addEventListener("pointerdown", (e) => { down = [e.clientX, e.clientY]; });
  canvas.addEventListener("pointerup", (e) => {
    if (Math.hypot(e.clientX - down[0], e.clientY - down[1]) > 4) return; // a turn, not a click
    const box = canvas.getBoundingClientRect();
    const found = pick((e.clientX - box.left) / box.width * canvas.width, (e.clientY - box.top) / box.height * canvas.height);
    if (found < 0) return;
    chosen = found;
    said(); paint();
  });
  nv.setRenderAzimuthElevation(...VIEWS.left);
  choose(0);
  document.documentElement.dataset.cortex = String(Math.round(performance.now())); // ms from opening the page to the first map
})();
