// Shows each structure of the page to turn and zoom; without WebGL its picture stays alone.
"use strict";
(() => {
  // Atoms as 3Dmol takes them, of columns, with the bonds of the file and no guessed ones.
  const atomsOf = ({ element, name, residue, number, chain, ligand, place, bonds }) => {
    const atoms = element.map((elem, i) => ({
      elem, atom: name[i], resn: residue[i], resi: number[i], chain: chain[i], hetflag: ligand[i] === 1,
      x: place[3 * i] / 100, y: place[3 * i + 1] / 100, z: place[3 * i + 2] / 100,
      index: i, serial: i, bonds: [], bondOrder: [],
    }));
    for (const [i, j, order] of bonds) {
      atoms[i].bonds.push(j); atoms[i].bondOrder.push(order);
      atoms[j].bonds.push(i); atoms[j].bondOrder.push(order);
    }
    return atoms;
  };
  const point = ([x, y, z]) => ({ x: x / 100, y: y / 100, z: z / 100 });
  const draw = (viewer, part, trueOne) => {
    const model = viewer.addModel();
    model.addAtoms(atomsOf(part.atoms));
    const colors = trueOne ? { color: "#8a94a2" } : { colorscheme: { prop: "elem", map: part.elements } };
    viewer.setStyle({ model }, {});
    viewer.setStyle({ model, hetflag: false }, { line: { ...colors, opacity: 0.5 } });
    viewer.setStyle({ model, hetflag: true }, { stick: { radius: 0.18, ...colors }, sphere: { radius: 0.3, ...colors } });
    for (const { color, points } of part.traces) {
      for (let i = 1; i < points.length; i++) {
        viewer.addCylinder({ start: point(points[i - 1]), end: point(points[i]), radius: 0.28, fromCap: 2, toCap: 2, color });
      }
    }
  };
  // 3Dmol gives an empty canvas where there is none.
  if (!document.createElement("canvas").getContext("webgl2")) return;
  for (const figure of document.querySelectorAll("figure.structure")) {
    const parts = JSON.parse(figure.querySelector("script").textContent);
    const box = figure.querySelector(".view");
    box.hidden = false;
    const viewer = $3Dmol.createViewer(box, { backgroundColor: "white", antialias: true });
    const show = () => {
      viewer.removeAllModels();
      viewer.removeAllShapes();
      for (const input of figure.querySelectorAll("input")) {
        if (input.checked) draw(viewer, parts[input.name], input.name === "true");
      }
      viewer.render();
    };
    figure.querySelectorAll("input").forEach((input) => input.addEventListener("change", show));
    show();
    viewer.zoomTo();
    viewer.zoom(1.15);
    viewer.render();
    figure.classList.add("turning");
  }
})();
