// What a person does on the page: chooses pictures, sees what leaves, releases, predicts.
"use strict";

const FORMATTER = new Intl.NumberFormat("en");
const page = { settings: JSON.parse(at("settings").textContent), networks: null, classifier: null, rows: [], released: new Set() };
// One thing after the other, however quickly things are chosen.
let waiting = Promise.resolve(), ready = false;
// Names that spreadsheets would take for formulas get an apostrophe, as the program's tables do.
const FORMULA = /^'*[=+\-@\t\r\n]/;

function at(id) {
  return document.getElementById(id);
}

function made(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

async function begin() {
  if (!globalThis.Float16Array || !globalThis.DecompressionStream || !JSON.rawJSON) {
    throw new Error("this browser is too old for it; update it");
  }
  if (!crypto.subtle) throw new Error("browsers compute no digests here; open it as a file, or by https");
  if (!drawsFaithfully()) {
    throw new Error("this browser changes pixels, against fingerprinting; allow this page to read its canvas");
  }
  page.networks = await Networks.open(page.settings);
  await page.networks.check();
  if (page.settings.attacker) showAttacker(page.settings.attacker);
  at("next").append(made("option", { value: "", textContent: "not told" }), ...classOptions());
  at("main").hidden = false;
  ready = true;
  const [height, width, depth] = page.settings.shape;
  at("state").textContent = `Ready. The network gave here what it gave where it was made; it turns a picture into ${height} x ${width} x ${depth} numbers.`;
}

/** A page with an attacker is for showing: it releases nothing. */
function showAttacker({ psnr_db, pairs }) {
  for (const id of ["release-section", "leaves-section", "order", "classes"]) at(id).hidden = true;
  at("attacker-told").textContent = `The third is what one attacker rebuilds of what would leave, who learnt from ${counted(pairs, "other picture")}: ` +
    `${psnr_db.toFixed(1)} dB of PSNR on average over pictures that it never saw. More dB are more privacy lost. It is one attacker and no bound: another one may rebuild more.`;
  for (const id of ["demonstration", "attacker-told"]) at(id).hidden = false;
}

function classOptions() {
  return Object.keys(page.settings.class_ids).map((name) => made("option", { value: name, textContent: name }));
}

/** Runs something when all before it is done, and tells what went wrong at a place. */
function next(place, work) {
  waiting = waiting.then(async () => {
    if (!ready) return; // which the page says
    try {
      await work();
    } catch (error) {
      at(place).textContent = `${error.message ?? error}`;
    }
    at("progress").hidden = true;
    refresh();
  });
  return waiting;
}

/** Goes through many things, so that the page can be used and seen meanwhile. */
async function throughAll(many, doing, work) {
  at("doing").textContent = doing;
  at("bar").max = many.length;
  at("progress").hidden = false;
  for (const [place, one] of many.entries()) {
    at("bar").value = place;
    await work(one);
    await new Promise((resolve) => setTimeout(resolve));
  }
}

/**
 * Takes pictures in, each { file, path }. A class is that of a folder's name; where no folder's is
 * known, the one that was given when they were chosen.
 */
async function take(chosen, given) {
  const refused = [], pictures = chosen.filter(({ file }) => !file.name.startsWith("."));
  const folders = pictures.map(({ path }) => path.split("/").at(-2)?.normalize("NFC"));
  const isClass = (name) => name !== undefined && Object.hasOwn(page.settings.class_ids, name);
  const strange = folders.some(isClass) ? [...new Set(folders.filter((name) => !isClass(name)))] : [];
  const numbered = pictures.map((one, place) => ({ ...one, folder: folders[place] }));
  await throughAll(numbered, "Reading pictures", async ({ file, path, folder }) => {
    try {
      const label = isClass(folder) ? folder : strange.length ? null : given;
      const row = await rowOf(file, path, label);
      page.rows.push(row);
      at("pictures").append(card(row));
      at("leaves").hidden = false;
    } catch (error) {
      refused.push(`${file.name} (${error.message})`);
    }
  });
  const some = refused.slice(0, 3).join(", ");
  at("told").textContent = `${counted(page.rows.length, "picture")} here.` +
    (strange.length ? ` Without a class: those in ${strange.map((name) => name ?? "no folder").join(", ")}, which this package does not know.` : "") +
    (refused.length ? ` ${counted(refused.length, "file")} could not be read: ${some}${refused.length > 3 ? ", ..." : ""}.` : "");
  if (page.classifier) await predict();
}

async function rowOf(file, path, label) {
  const pixels = await pixelsOf(file, page.settings.image_size, page.settings.fit);
  const start = performance.now();
  const values = Float16Array.from(await page.networks.represent(pixels));
  const milliseconds = performance.now() - start;
  if (!values.every(Number.isFinite)) throw new Error("the network gives no numbers of it");
  const rebuilt = page.networks.attacker && (await page.networks.rebuilt(values));
  return { name: path, pixels, values, milliseconds, label, rebuilt, probabilities: null };
}

function card(row) {
  const side = page.settings.image_size;
  const select = made("select", { ariaLabel: `Class of ${row.name}` }, made("option", { value: "", textContent: "not told" }), ...classOptions());
  select.value = row.label ?? "";
  select.addEventListener("change", () => { row.label = select.value || null; refresh(); });
  const remove = made("button", { type: "button", textContent: "Remove", ariaLabel: `Remove ${row.name}` });
  row.answer = made("p", { className: "answer" });
  row.card = made("li", {},
    made("h3", { textContent: row.name }),
    made("div", { className: "pair" },
      drawn(side, side, `${row.name} as the network sees it`, (x, y, c) => row.pixels[(y * side + x) * 3 + c]),
      channels(row),
      ...(row.rebuilt ? [drawn(side, side, `What the attacker rebuilds of ${row.name}`, (x, y, c) => 255 * row.rebuilt[(y * side + x) * 3 + c])] : [])),
    made("p", { className: "soft", textContent: `${row.milliseconds.toFixed(1)} ms; ${FORMATTER.format(2 * row.values.length)} bytes would leave${row.rebuilt ? `; rebuilt at ${psnr(row.rebuilt, row.pixels).toFixed(1)} dB` : ""}` }),
    row.answer,
    made("div", { className: "row" }, ...(row.rebuilt ? [] : [made("label", {}, "Class ", select)]), remove));
  remove.addEventListener("click", () => {
    const neighbour = (row.card.nextElementSibling ?? row.card.previousElementSibling)?.querySelector("button");
    page.rows.splice(page.rows.indexOf(row), 1);
    row.card.remove();
    (neighbour ?? at("files")).focus();
    refresh();
  });
  return row.card;
}

/** All released channels of a picture, side by side, each as bright as its own strongest place. */
function channels(row) {
  const [height, width, depth] = page.settings.shape, columns = Math.ceil(Math.sqrt(depth));
  const peaks = Array.from({ length: depth }, (_, channel) => {
    let peak = 0;
    for (let place = channel; place < row.values.length; place += depth) peak = Math.max(peak, row.values[place]);
    return peak || 1;
  });
  const across = columns * (width + 1) - 1, down = Math.ceil(depth / columns) * (height + 1) - 1;
  return drawn(across, down, `The ${depth} channels that would leave of ${row.name}`, (x, y) => {
    const channel = Math.floor(y / (height + 1)) * columns + Math.floor(x / (width + 1));
    const [left, top] = [x % (width + 1), y % (height + 1)];
    if (channel >= depth || left === width || top === height) return 40;
    return 255 * (row.values[(top * width + left) * depth + channel] / peaks[channel]);
  });
}

function drawn(width, height, told, valueAt) {
  const canvas = made("canvas", { width, height, role: "img", ariaLabel: told });
  const context = canvas.getContext("2d"), image = context.createImageData(width, height);
  for (let y = 0, place = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      for (let c = 0; c < 3; c++) image.data[place++] = valueAt(x, y, c);
      image.data[place++] = 255;
    }
  }
  context.putImageData(image, 0, 0);
  return canvas;
}

async function release() {
  if (page.settings.attacker) throw new Error("A page with an attacker releases nothing.");
  const labelled = at("labelled").checked, untold = page.rows.filter((row) => row.label === null && !row.released);
  if (labelled && untold.length) {
    throw new Error(`${counted(untold.length, "picture")} without a class, such as ${untold[0].name}: give each one, or tell no classes.`);
  }
  const fresh = page.rows.filter((row) => !row.released);
  const rows = fresh.map((row) => ({ ...row, label: labelled ? row.label : null }));
  const made = await releaseOf(page.settings, rows, page.released);
  made.digests.forEach((digest) => page.released.add(digest));
  fresh.forEach((row) => (row.released = true));
  save("release.tar", new Blob([made.tar], { type: "application/x-tar" }));
  at("released").textContent = `release.tar holds ${counted(made.digests.length, "row")}, shuffled, ` +
    `${labelled ? "with" : "without"} classes; ${counted(made.copies, "copy", "copies")} left out. Hand it over, and nothing else. These pictures are not released again, unless you open the page anew.`;
}

/** From now on, pictures are predicted by the classifier that these files are. */
async function takeClassifier(files) {
  page.classifier = await classifierOf(files, page.settings, page.networks.cloud.inputNames);
  for (const row of page.rows) {
    row.probabilities = null;
    row.answer.textContent = "";
  }
  at("predicted").textContent = "The classifier is ready.";
  if (page.rows.length) await predict();
}

async function predict() {
  await throughAll(page.rows.filter((row) => !row.probabilities), "Predicting", async (row) => {
    row.probabilities = await page.networks.probabilities(row.values, page.classifier);
    const answers = answersOf(row);
    row.answer.textContent = answers.length
      ? answers.map((place) => `${className(place)}: ${(100 * row.probabilities[place]).toFixed(1)} %`).join("; ")
      : "none of the classes";
  });
  at("predicted").textContent = `${counted(page.rows.length, "picture")} predicted; the answers stand beside the pictures.`;
}

/** Places of the likeliest class, or of all that are likely where there may be several. */
function answersOf(row) {
  const shares = row.probabilities;
  if (page.classifier.several) return [...shares.keys()].filter((place) => shares[place] >= 0.5);
  return [shares.indexOf(Math.max(...shares))];
}

function className(place) {
  const id = page.classifier.classes[place];
  const known = Object.entries(page.settings.class_ids).find(([, other]) => other === id);
  return known ? known[0] : `unknown ${id.slice(0, 8)}`;
}

function saveTable() {
  const names = page.classifier.classes.map((_, place) => className(place));
  const lines = [["picture", page.classifier.several ? "classes" : "class", ...names.map((name) => `probability_${name}`)]];
  for (const row of page.rows) {
    lines.push([row.name, answersOf(row).map(className).join("; "), ...row.probabilities.map((share) => share.toPrecision(7))]);
  }
  const plain = (value) => (FORMULA.test(value) && !Number.isFinite(Number(value)) ? `'${value}` : value);
  const quoted = (value) => (/[",\r\n]/.test(value) ? `"${value.replaceAll('"', '""')}"` : value);
  save("predictions.csv", new Blob(lines.map((line) => `${line.map(plain).map(quoted).join(",")}\n`), { type: "text/csv" }));
}

function save(name, blob) {
  const link = made("a", { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

function refresh() {
  at("release").disabled = !page.rows.length;
  at("leaves").hidden = !page.rows.length;
  at("table").disabled = !page.classifier || !page.rows.length || page.rows.some((row) => !row.probabilities);
}

function counted(count, one, several = `${one}s`) {
  return `${FORMATTER.format(count)} ${count === 1 ? one : several}`;
}

/** Files that were dropped, with those in folders, each with its path. */
async function dropped(items) {
  const entries = [], found = [];
  for (const item of items) {
    const entry = item.webkitGetAsEntry(), file = item.getAsFile();
    if (entry) entries.push(entry);
    else if (file) found.push({ file, path: file.name }); // of no file system
  }
  for (let entry; (entry = entries.shift()); ) {
    if (entry.isFile) {
      const file = await new Promise((resolve, reject) => entry.file(resolve, reject));
      found.push({ file, path: entry.fullPath.replace(/^\//, "") });
    } else {
      const reader = entry.createReader();
      for (let some; (some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject))).length; ) {
        entries.push(...some);
      }
    }
  }
  return found.sort(by(({ path }) => path));
}

function listen() {
  for (const id of ["files", "folder", "camera"]) {
    at(id).addEventListener("change", ({ target }) => {
      const chosen = Array.from(target.files, (file) => ({ file, path: file.webkitRelativePath || file.name }));
      target.value = ""; // so that the same can be chosen again
      const given = at("next").value || null;
      next("told", () => take(chosen, given));
    });
  }
  for (const id of ["classifier", "classifier-files"]) {
    at(id).addEventListener("change", ({ target }) => {
      const files = Array.from(target.files);
      target.value = "";
      next("predicted", () => takeClassifier(files));
    });
  }
  at("release").addEventListener("click", () => next("released", release));
  at("table").addEventListener("click", () => next("predicted", saveTable));
  const root = document.documentElement;
  root.addEventListener("dragover", (event) => { event.preventDefault(); root.classList.add("dropping"); });
  root.addEventListener("dragleave", () => root.classList.remove("dropping"));
  root.addEventListener("drop", (event) => {
    event.preventDefault();
    root.classList.remove("dropping");
    const found = dropped(event.dataTransfer.items), given = at("next").value || null; // gone later
    next("told", async () => {
      const chosen = await found, folder = ({ path }) => path.slice(0, path.lastIndexOf("/") + 1);
      const told = chosen.find(({ file }) => file.name === "classifier.json");
      const isOf = (one) => told !== undefined && folder(one) === folder(told);
      const files = chosen.filter(isOf).map(({ file }) => file);
      if (told) next("predicted", () => takeClassifier(files)); // behind this, and not awaited by it
      if (files.length < chosen.length) await take(chosen.filter((one) => !isOf(one)), given);
    });
  });
}

// The runtime is a module, which runs once all of the page is there.
addEventListener("DOMContentLoaded", () => {
  listen();
  waiting = begin().catch((error) => (at("state").textContent = `This page cannot be used: ${error.message ?? error}.`));
});
