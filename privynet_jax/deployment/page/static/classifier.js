// A classifier that came back from the cloud: its files checked, and its numbers read. It brings no
// program along; the network that runs on these numbers is the package's own.
"use strict";

const CLASSIFIER_VERSION = 4, MOST_HEADER = 2 ** 20;

/** Returns { classes, several, params: name -> { shape, values } } of a classifier's files. */
async function classifierOf(files, settings, inputs) {
  const named = (name) => {
    const found = files.filter((file) => file.name === name);
    if (found.length !== 1) throw new Error(`Choose the classifier's folder: of ${name} there is not one file.`);
    return found[0];
  };
  const again = "copy it again, or train again";
  const told = await described(named("classifier.json"), again);
  const data = new Uint8Array(await named("params.safetensors").arrayBuffer());
  if (hex(await sha256(data)) !== told.files["params.safetensors"]) {
    throw new Error(`params.safetensors is damaged; ${again}`);
  }
  if (told.plan_id !== settings.plan_id || String(told.shape) !== String(settings.shape)) {
    throw new Error("The classifier is of another plan than this page; choose what belongs together.");
  }
  const params = tensorsOf(data, again);
  const expected = inputs.filter((name) => name !== "representations").sort();
  if (String(Object.keys(params).sort()) !== String(expected)) {
    throw new Error(`The classifier's numbers are not those of this page's network; ${again}`);
  }
  return { classes: told.classes, several: told.several, params };
}

/** What classifier.json tells, once its own checksum fits. */
async function described(file, again) {
  const text = await file.text();
  let told, raw;
  try {
    told = JSON.parse(text);
    // With its numbers as they are written, of which the checksum is.
    raw = JSON.parse(text, (_, value, { source }) => typeof value === "number" ? JSON.rawJSON(source) : value);
    delete raw.sha256;
  } catch {
    throw new Error(`classifier.json is damaged; ${again}`);
  }
  if (told.version !== CLASSIFIER_VERSION) {
    throw new Error(`classifier.json is of version ${told.version}, and this page reads ${CLASSIFIER_VERSION}.`);
  }
  if (hex(await sha256(UTF8.encode(canonicalJson(raw)))) !== told.sha256) {
    throw new Error(`classifier.json was changed after it was written; ${again}`);
  }
  return told;
}

/** The tensors of a safetensors file, all float32, which lie one behind the other. */
function tensorsOf(data, again) {
  const refuse = (why) => new Error(`params.safetensors ${why}; ${again}`);
  const view = new DataView(data.buffer);
  const start = data.length < 8 ? Infinity : 8 + Number(view.getBigUint64(0, true));
  if (start > Math.min(data.length, MOST_HEADER)) throw refuse("is no file of parameters");
  const entries = Object.entries(JSON.parse(new TextDecoder().decode(data.subarray(8, start))));
  entries.sort(([, one], [, other]) => one.data_offsets[0] - other.data_offsets[0]);
  const found = {};
  let place = 0;
  for (const [name, { dtype, shape, data_offsets: [from, to] }] of entries) {
    const count = shape.reduce((product, size) => product * size, 1);
    if (dtype !== "F32" || from !== place || to !== from + 4 * count || start + to > data.length) {
      throw refuse("holds what no classifier has");
    }
    const values = new Float32Array(data.slice(start + from, start + to).buffer);
    if (!values.every(Number.isFinite)) throw refuse("holds what is no number");
    found[name] = { shape, values };
    place = to;
  }
  if (start + place !== data.length) throw refuse("is longer than its tensors");
  return found;
}
