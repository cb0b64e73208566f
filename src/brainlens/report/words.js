"use strict";
(function () {
  const d = JSON.parse(document.getElementById("data").textContent);
  const n = d.label.length, H = 24, K = d.label.length ? d.label[0].length : 0;
  const $ = (id) => document.getElementById(id);
  const word = (k) => (k < 0 ? "" : d.nouns[k]);
  const num = (v, digits) => (v === null ? "" : v.toFixed(digits).replace("-", "\u2212"));
  const columns = [["voxel", (i) => i], ["region", (i) => d.regions[d.region[i]]]];
  for (let k = 0; k < Math.min(K, 4); k++) columns.push(["word " + (k + 1), (i) => word(d.label[i][k])]);
  columns.push(["r", (i) => d.r[i]], ["q", (i) => d.q[i]], ["R²", (i) => d.r2[i]]);
  const text = d.label.map((row, i) => (row.map(word).join(" ") + " " + d.regions[d.region[i]]).toLowerCase());
  let order = Array.from({ length: n }, (_, i) => i), sorted = columns.length - 3, down = true; // the labels that are best borne out
  const view = $("view"), space = $("space");

  function cells(i) {
    const out = columns.map(([name, get], c) => {
      const v = get(i);
      if (c < 2) return String(v);
      if (c < 2 + Math.min(K, 4)) return v && d.weight[i][c - 2] !== null ? v + " " + d.weight[i][c - 2].toFixed(2) : v;
      return num(v, name === "q" ? 4 : 3);
    });
    return out;
  }
  function draw() {
    const first = Math.max(0, Math.floor(view.scrollTop / H) - 4), last = Math.min(order.length, first + Math.ceil(view.clientHeight / H) + 8);
    space.style.height = order.length * H + "px";
    const rows = [];
    for (let at = first; at < last; at++) {
      const row = document.createElement("div");
      row.className = "row" + (d.proven[order[at]] ? "" : " weak");
      row.style.top = at * H + "px";
      for (const value of cells(order[at])) {
        const cell = document.createElement("span");
        cell.textContent = value;
        row.append(cell);
      }
      rows.push(row);
    }
    space.replaceChildren(...rows);
  }
  function filter() {
    const wanted = $("find").value.trim().toLowerCase(), proven = $("proven").checked;
    order = [];
    for (let i = 0; i < n; i++) if ((!proven || d.proven[i]) && (!wanted || text[i].includes(wanted))) order.push(i);
    if (sorted >= 0) {
      const get = columns[sorted][1], sign = down ? -1 : 1;
      const key = order.map((i) => [get(i), i]);
      key.sort(([a, i], [b, j]) => {
        const none = (v) => v === null || v === "";
        if (none(a) || none(b)) return none(a) - none(b) || i - j;
        return (a < b ? -sign : a > b ? sign : 0) || i - j;
      });
      order = key.map(([, i]) => i);
    }
    $("count").textContent = order.length.toLocaleString("en") + " of " + n.toLocaleString("en") + " voxels";
    view.scrollTop = 0;
    draw();
  }
  columns.forEach(([name], c) => {
    const cell = document.createElement("span"), button = document.createElement("button");
    button.textContent = name;
    button.addEventListener("click", () => { down = sorted === c ? !down : c >= 2 + Math.min(K, 4) && name !== "q"; sorted = c; filter(); });
    cell.append(button);
    $("head").append(cell);
  });
  view.addEventListener("scroll", () => requestAnimationFrame(draw));
  $("find").addEventListener("input", filter);
  $("proven").addEventListener("change", filter);

  // the concept box: three projections of the brain, each place at the voxel farthest from .5
  const canvas = $("map"), c2 = canvas.getContext("2d");
  const PANELS = [["left - right, front up", 0, 1, 1, 1], ["back - front, top up", 1, 2, 1, 1], ["left - right, top up", 0, 2, 1, 1]];
  function colour(v) {
    const t = Math.max(-1, Math.min(1, v / 0.35)), a = Math.abs(t), end = t > 0 ? [178, 24, 43] : [33, 102, 172];
    return "rgb(" + end.map((e) => Math.round(235 + (e - 235) * a)).join(",") + ")";
  }
  function show(name) {
    c2.clearRect(0, 0, canvas.width, canvas.height);
    $("regions").replaceChildren();
    if (!Object.hasOwn(d.maps, name)) {
      $("said").textContent = name ? "not among the " + Object.keys(d.maps).length + " words with a map" : "";
      return;
    }
    const bytes = Uint8Array.from(atob(d.maps[name]), (c) => c.charCodeAt(0));
    const value = Array.from(bytes, (b) => b / 255 - 0.5);
    $("said").textContent = d.xyz.length ? "rank of its pictures among all in the voxel's predicted response (area under the ROC curve): blue .15 or less, grey .5 as by chance, red .85 or more" : "these voxels have no places";
    if (d.xyz.length) {
      const low = [0, 1, 2].map((a) => d.xyz.reduce((m, p) => Math.min(m, p[a]), Infinity));
      const high = [0, 1, 2].map((a) => d.xyz.reduce((m, p) => Math.max(m, p[a]), -Infinity));
      const size = 280 / Math.max(1, ...[0, 1, 2].map((a) => high[a] - low[a]));
      const dot = Math.max(3, 4 * size);
      const ranked = value.map((v, i) => [Math.abs(v), i]).sort((a, b) => a[0] - b[0]).map(([, i]) => i);
      PANELS.forEach(([title, across, up], p) => {
        const left = 20 + p * 315;
        c2.fillStyle = "#5a6472"; c2.font = "13px sans-serif"; c2.fillText(title, left, 16);
        for (const i of ranked) {
          c2.fillStyle = colour(value[i]);
          c2.fillRect(left + (d.xyz[i][across] - low[across]) * size, 30 + (high[up] - d.xyz[i][up]) * size, dot, dot);
        }
      });
    }
    const sum = d.regions.map(() => [0, 0]);
    value.forEach((v, i) => { sum[d.region[i]][0] += v; sum[d.region[i]][1]++; });
    const listed = d.regions.map((r, k) => [r, sum[k][0] / sum[k][1], sum[k][1]]).filter((r) => r[0]).sort((a, b) => b[1] - a[1]);
    if (listed.length) {
      const line = document.createElement("strong");
      line.textContent = "mean of a region (voxels), chance 0.500";
      $("regions").append(line);
    }
    for (const [region, mean, count] of listed) {
      const line = document.createElement("div");
      line.textContent = region + "  " + (mean + 0.5).toFixed(3) + "  (" + count + ")";
      $("regions").append(line);
    }
  }
  for (const name of Object.keys(d.maps).sort()) {
    const option = document.createElement("option");
    option.value = name;
    $("words").append(option);
  }
  $("word").addEventListener("input", () => show($("word").value.trim().toLowerCase()));
  const first = Object.keys(d.maps)[0] || "";
  $("word").value = first;
  filter();
  show(first);
  window.addEventListener("resize", draw);
})();
