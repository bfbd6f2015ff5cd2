"use strict";
// Crystals in three dimensions, drawn by plotly: atoms as shaded balls, bonds, the cell; all three turn together.
{
  const MAX_BONDED = 400; // atoms up to which bonds are looked for
  const FINE = 120; // atoms up to which balls are fine
  const EDGE = 0.02; // of the cell: an atom so near to a face is drawn on the opposite one, too
  const BOND = 1.15; // of the sum of covalent radii
  const elements = e3.content.candidates.elements;
  const START = { eye: { x: 1.05, y: -1.8, z: 0.7 }, up: { x: 0, y: 0, z: 1 }, center: { x: 0, y: 0, z: 0 } };
  let scenes = [];
  let camera = START;

  const makeBall = (fine) => {
    const t = (1 + Math.sqrt(5)) / 2;
    const points = [[-1, t, 0], [1, t, 0], [-1, -t, 0], [1, -t, 0], [0, -1, t], [0, 1, t], [0, -1, -t], [0, 1, -t],
      [t, 0, -1], [t, 0, 1], [-t, 0, -1], [-t, 0, 1]].map(normalize);
    let faces = [[0, 11, 5], [0, 5, 1], [0, 1, 7], [0, 7, 10], [0, 10, 11], [1, 5, 9], [5, 11, 4], [11, 10, 2], [10, 7, 6],
      [7, 1, 8], [3, 9, 4], [3, 4, 2], [3, 2, 6], [3, 6, 8], [3, 8, 9], [4, 9, 5], [2, 4, 11], [6, 2, 10], [8, 6, 7], [9, 8, 1]];
    for (let round = 0; round < (fine ? 2 : 1); round += 1) {
      const known = new Map();
      const halve = (a, b) => {
        const key = a < b ? `${a}:${b}` : `${b}:${a}`;
        if (!known.has(key)) known.set(key, points.push(normalize(points[a].map((x, i) => x + points[b][i]))) - 1);
        return known.get(key);
      };
      faces = faces.flatMap(([a, b, c]) => {
        const [ab, bc, ca] = [halve(a, b), halve(b, c), halve(c, a)];
        return [[a, ab, ca], [b, bc, ab], [c, ca, bc], [ab, bc, ca]];
      });
    }
    return { points, faces };
  };

  function normalize(vector) {
    const length = Math.hypot(...vector);
    return vector.map((x) => x / length);
  }

  const toCartesian = (fractions, lattice) =>
    [0, 1, 2].map((axis) => fractions.reduce((sum, f, i) => sum + f * lattice[i][axis], 0));

  // Atoms in the cell and on its faces: kind, place, number of the site.
  const fillCell = ({ lattice, kinds, sites }) => {
    const atoms = [];
    kinds.forEach((kind, number) => {
      const wrapped = [0, 1, 2].map((axis) => {
        const f = sites[3 * number + axis] / 1e5;
        const inside = f - Math.floor(f);
        return inside > 1 - EDGE ? inside - 1 : inside;
      });
      const shifts = wrapped.map((f) => (f < EDGE ? [0, 1] : [0]));
      for (const x of shifts[0]) for (const y of shifts[1]) for (const z of shifts[2]) {
        const place = toCartesian([wrapped[0] + x, wrapped[1] + y, wrapped[2] + z], lattice);
        atoms.push({ kind, number, place });
      }
    });
    return atoms;
  };

  const radiusOf = (label) => elements[label]?.radius ?? 1.2;
  const colorOf = (label) => elements[label]?.color ?? "#909090";

  const drawAtoms = (atoms, labels) => {
    const ball = makeBall(atoms.length <= FINE);
    return labels.map((label, kind) => {
      const mesh = { type: "mesh3d", x: [], y: [], z: [], i: [], j: [], k: [], text: [], color: colorOf(label) };
      const size = 0.25 + 0.2 * radiusOf(label);
      for (const atom of atoms.filter((one) => one.kind === kind)) {
        const first = mesh.x.length;
        for (const point of ball.points) {
          ["x", "y", "z"].forEach((axis, i) => mesh[axis].push(atom.place[i] + size * point[i]));
          mesh.text.push(`${escape(label)} ${atom.number + 1}`);
        }
        for (const face of ball.faces) ["i", "j", "k"].forEach((corner, i) => mesh[corner].push(first + face[i]));
      }
      const lighting = { ambient: 0.62, diffuse: 0.6, specular: 0.25, roughness: 0.4, fresnel: 0.1 };
      return { ...mesh, name: label, lighting, hovertemplate: "%{text}<extra></extra>", flatshading: false };
    }).filter((mesh) => mesh.x.length);
  };

  const escape = (text) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");

  const drawLines = (segments, color, width) => {
    const line = { type: "scatter3d", mode: "lines", x: [], y: [], z: [], hoverinfo: "skip", line: { color, width } };
    for (const [from, to] of segments) {
      ["x", "y", "z"].forEach((axis, i) => line[axis].push(from[i], to[i], null));
    }
    return line;
  };

  // Between metals only where there is nothing else, or every cation would hang on every other.
  const findBonds = (atoms, labels) => {
    const bonds = [];
    if (atoms.length > MAX_BONDED) return bonds;
    const isMetal = labels.map((label) => elements[label]?.metal ?? false);
    const isAlloy = isMetal.every(Boolean);
    for (let a = 0; a < atoms.length; a += 1) for (let b = 0; b < a; b += 1) {
      const [one, other] = [atoms[a], atoms[b]];
      if (!isAlloy && isMetal[one.kind] && isMetal[other.kind]) continue;
      const distance = Math.hypot(...one.place.map((x, i) => x - other.place[i]));
      const reach = BOND * (radiusOf(labels[one.kind]) + radiusOf(labels[other.kind]));
      if (distance > 0.3 && distance < reach) bonds.push([one.place, other.place]);
    }
    return bonds;
  };

  const listEdges = (lattice) => {
    const corners = [[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [1, 0, 1], [0, 1, 1], [1, 1, 1]];
    const pairs = [[0, 1], [0, 2], [0, 3], [1, 4], [1, 5], [2, 4], [2, 6], [3, 5], [3, 6], [4, 7], [5, 7], [6, 7]];
    return pairs.map(([a, b]) => [toCartesian(corners[a], lattice), toCartesian(corners[b], lattice)]);
  };

  const buildTraces = (structure) => {
    const lattice = [0, 1, 2].map((i) => structure.lattice.slice(3 * i, 3 * i + 3));
    const atoms = fillCell({ ...structure, lattice });
    return [
      ...drawAtoms(atoms, structure.labels),
      drawLines(findBonds(atoms, structure.labels), e3.color("grey"), 5),
      drawLines(listEdges(lattice), e3.color("quiet"), 2),
    ];
  };

  const buildLayout = () => {
    const axis = { visible: false, showspikes: false };
    return {
      margin: { l: 0, r: 0, t: 0, b: 0 }, showlegend: false, paper_bgcolor: "rgba(0,0,0,0)",
      hoverlabel: { bgcolor: e3.color("raised"), font: { color: e3.color("ink") } },
      scene: {
        xaxis: axis, yaxis: axis, zaxis: axis, aspectmode: "data", dragmode: "orbit",
        camera,
      },
    };
  };

  const turnAll = (next, except) => {
    camera = next;
    return Promise.all(scenes.filter((scene) => scene !== except).map((scene) =>
      window.Plotly.relayout(scene, { "scene.camera": camera })));
  };

  // Turn about the vertical axis or tilt, by keys or buttons; a factor moves nearer.
  const move = (turn, tilt, factor) => {
    const { x, y, z } = camera.eye;
    const distance = Math.hypot(x, y, z);
    const angle = Math.atan2(y, x) + turn;
    const height = Math.min(1.5, Math.max(-1.5, Math.asin(z / distance) + tilt));
    const r = Math.min(8, Math.max(0.3, distance * factor));
    const eye = { x: r * Math.cos(height) * Math.cos(angle), y: r * Math.cos(height) * Math.sin(angle), z: r * Math.sin(height) };
    return turnAll({ ...START, eye }, null);
  };

  const MOVES = { ArrowLeft: [-0.2, 0, 1], ArrowRight: [0.2, 0, 1], ArrowUp: [0, 0.2, 1], ArrowDown: [0, -0.2, 1],
    "+": [0, 0, 0.85], "-": [0, 0, 1.18] };

  const addButtons = (legend) => {
    const words = [["←", "ArrowLeft", "Turn left"], ["→", "ArrowRight", "Turn right"], ["↑", "ArrowUp", "Tilt up"],
      ["↓", "ArrowDown", "Tilt down"], ["+", "+", "Nearer"], ["−", "-", "Further"]];
    for (const [text, key, title] of words) {
      const button = e3.make("button", { type: "button", title, "aria-label": title }, text);
      button.addEventListener("click", () => move(...MOVES[key]));
      legend.append(button);
    }
    const reset = e3.make("button", { type: "button" }, "Reset view");
    reset.addEventListener("click", () => turnAll(START, null));
    legend.append(reset);
  };

  e3.clearViewers = () => {
    scenes.forEach((scene) => window.Plotly.purge(scene));
    scenes = [];
  };

  e3.showStructures = async (place, legend, structures) => {
    camera = START;
    const labels = [...new Set(structures.flatMap((one) => one.labels))];
    labels.forEach((label) =>
      legend.append(e3.make("span", {}, e3.make("i", { style: `background:${colorOf(label)}` }), ` ${label}`)));
    if (!structures.length) {
      place.append(e3.make("p", {}, "The stores have no structure of this candidate."));
      return;
    }
    addButtons(legend);
    const Plotly = await e3.loadPlotly();
    for (const structure of structures) {
      const label = `${structure.name} structure in 3D; arrow keys turn it, + and - move nearer and further`;
      const scene = e3.make("div", { class: "scene", tabindex: 0, role: "img", "aria-label": label, "data-scene": structure.name });
      place.append(e3.make("div", { class: "viewer" }, e3.make("h4", {}, structure.name), scene, e3.make("p", {}, structure.note)));
      await Plotly.newPlot(scene, buildTraces(structure), buildLayout(), { displayModeBar: false, responsive: true });
      scenes.push(scene);
      const followMe = (event) => {
        const next = event["scene.camera"];
        if (next && JSON.stringify(next.eye) !== JSON.stringify(camera.eye)) turnAll(next, scene);
      };
      scene.on("plotly_relayout", followMe);
      scene.on("plotly_relayouting", followMe);
      scene.addEventListener("keydown", (event) => {
        if (!(event.key in MOVES)) return;
        event.preventDefault();
        move(...MOVES[event.key]);
      });
    }
  };

  e3.onTheme.push(() => scenes.forEach((scene) => {
    window.Plotly.restyle(scene, { "line.color": [e3.color("grey"), e3.color("quiet")] }, [scene.data.length - 2, scene.data.length - 1]);
  }));
}
