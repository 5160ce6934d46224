// The format of a release, as the library's deployment/release/README.md has it.
"use strict";

const RELEASE_VERSION = 4, SHARD_BYTES = 2 ** 25, MOST_SHARD_ROWS = 1024;
const TAR_BLOCK = 512, RELEASE_TIME = 315_532_800; // 1980-01-01, as of all releases
const UTF8 = new TextEncoder();

/**
 * Returns a release as a tar, with the digests of its pictures and how many copies were left out.
 *
 * settings are the package's; each row is { name, pixels, values: Float16Array, label: class name or
 * null }. Either all have labels or none. Pictures whose digests are among those before are left
 * out: whoever had equal rows of two releases would see what is new in the second one. Throws an
 * Error that says what is wrong.
 */
async function releaseOf(settings, rows, before) {
  const known = new Map();
  for (const row of rows) {
    const digest = hex(await sha256(row.pixels)), first = known.get(digest);
    if (before.has(digest)) continue;
    if (!first) known.set(digest, { ...row, digest });
    else if (first.label !== row.label) {
      throw new Error(`${first.name} and ${row.name} show the same, in two classes; decide on one.`);
    }
  }
  // Whatever the order in which they were chosen, equal pictures make an equal release.
  const single = [...known.values()].sort(by((row) => row.digest));
  if (!single.length) throw new Error("Nothing is here that this page has not released; choose pictures first.");
  const labelled = single.every((row) => row.label !== null);
  const told = canonicalJson({
    image_size: settings.image_size, labelled, plan_id: settings.plan_id, shape: settings.shape,
    pictures: single.map((row) => [row.digest, labelled ? settings.class_ids[row.label] : ""]),
  });
  const seed = await hmacKey(settings.release_seed);
  const id = hex(await hmac(seed, `privynet_jax page id\n${told}`));
  const order = await hmacKey(hex(await hmac(seed, `privynet_jax page order\n${told}`)));
  for (const [place, row] of single.entries()) row.rank = hex(await hmac(order, String(place)));
  single.sort(by((row) => row.rank));
  const files = await filesOf(settings, id, single, labelled);
  return { tar: tarOf(files), digests: [...known.keys()], copies: rows.length - single.length };
}

/** Name -> bytes of all files. */
async function filesOf(settings, id, rows, labelled) {
  const [height, width, depth] = settings.shape, size = height * width * depth;
  const fitting = Math.max(1, Math.floor(SHARD_BYTES / (2 * size)));
  const perShard = Math.min(MOST_SHARD_ROWS, 2 ** Math.floor(Math.log2(fitting)));
  const files = {}, digests = {};
  const add = async (name, shape, type, values) => {
    const content = joined([npyHeader(shape, type), new Uint8Array(values.buffer)]);
    const digest = await sha256(joined([UTF8.encode(`${id}\n${name}\n`), content]));
    digests[name] = hex(digest);
    files[name] = joined([content, digest]);
  };
  for (let start = 0; start < rows.length; start += perShard) {
    const some = rows.slice(start, start + perShard), values = new Uint16Array(some.length * size);
    some.forEach((row, place) => values.set(new Uint16Array(row.values.buffer), place * size));
    const number = String(start / perShard).padStart(5, "0");
    await add(`representations-${number}.npy`, [some.length, height, width, depth], "<f2", values);
  }
  let classes = null;
  if (labelled) {
    classes = [...new Set(rows.map((row) => settings.class_ids[row.label]))].sort();
    const places = rows.map((row) => classes.indexOf(settings.class_ids[row.label]));
    await add("labels.npy", [rows.length], "<i4", Int32Array.from(places));
  }
  const manifest = {
    version: RELEASE_VERSION, id, plan_id: settings.plan_id, rows: rows.length,
    shape: settings.shape, dtype: "float16", classes, several: false, rows_per_shard: perShard,
    peaks: null, digests,
  };
  manifest.sha256 = hex(await sha256(UTF8.encode(canonicalJson(manifest))));
  files["release.json"] = UTF8.encode(`${JSON.stringify(manifest, null, 1)}\n`);
  return files;
}

function npyHeader(shape, type) {
  const sizes = shape.length === 1 ? `${shape[0]},` : shape.join(", ");
  const told = `{'descr': '${type}', 'fortran_order': False, 'shape': (${sizes}), }`;
  const before = 10, padding = (64 - ((before + told.length + 1) % 64)) % 64;
  const text = `${told}${" ".repeat(padding)}\n`;
  return joined([Uint8Array.of(0x93, ...UTF8.encode("NUMPY"), 1, 0, text.length & 255, text.length >> 8), UTF8.encode(text)]);
}

/** A tar of the format USTAR that tells of no user, no machine and no time. */
function tarOf(files) {
  const parts = [];
  for (const name of Object.keys(files).sort()) {
    const content = files[name];
    parts.push(tarHeader(`release/${name}`, content.length), content);
    parts.push(new Uint8Array(-content.length & (TAR_BLOCK - 1)));
  }
  return joined([...parts, new Uint8Array(2 * TAR_BLOCK)]);
}

function tarHeader(name, size) {
  const header = new Uint8Array(TAR_BLOCK);
  const put = (text, place) => header.set(UTF8.encode(text), place);
  const octal = (value, digits) => `${value.toString(8).padStart(digits, "0")}\0`;
  put(name, 0);
  put(octal(0o644, 7) + octal(0, 7) + octal(0, 7) + octal(size, 11) + octal(RELEASE_TIME, 11), 100);
  put("        0", 148); // the checksum counts as spaces; a plain file
  put("ustar\x0000", 257);
  put(octal(0, 7) + octal(0, 7), 329);
  put(`${header.reduce((sum, byte) => sum + byte, 0).toString(8).padStart(6, "0")}\0`, 148);
  return header;
}

/** JSON as checksums are of: entries by name, separated as Python does; of ASCII alone. */
function canonicalJson(value) {
  if (Array.isArray(value)) return `[${value.map(canonicalJson).join(", ")}]`;
  if (value !== null && typeof value === "object" && !JSON.isRawJSON?.(value)) {
    const entries = Object.keys(value).sort().map((key) => `${canonicalJson(key)}: ${canonicalJson(value[key])}`);
    return `{${entries.join(", ")}}`;
  }
  return JSON.stringify(value).replace(/[\u0080-\uffff]/g, (character) =>
    `\\u${character.charCodeAt(0).toString(16).padStart(4, "0")}`);
}

function by(what) {
  return (one, other) => (what(one) < what(other) ? -1 : Number(what(one) > what(other)));
}

function joined(parts) {
  const found = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let place = 0;
  for (const part of parts) {
    found.set(part, place);
    place += part.length;
  }
  return found;
}

function hex(bytes) {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

async function sha256(bytes) {
  return new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
}

async function hmacKey(digits) {
  const bytes = Uint8Array.from(digits.match(/../g), (pair) => parseInt(pair, 16));
  return crypto.subtle.importKey("raw", bytes, { name: "HMAC", hash: "SHA-256" }, false, ["sign"]);
}

async function hmac(key, text) {
  return new Uint8Array(await crypto.subtle.sign("HMAC", key, UTF8.encode(text)));
}
