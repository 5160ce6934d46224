// From files to pixels: what the library's images/decoding makes of them, by the browser's decoders
// and Pillow's Lanczos filter, whose arithmetic in whole numbers gives the same bytes here (but that
// of tall pictures that are not cut Pillow 13 shrinks columns first, which rounds otherwise).
"use strict";

const LANCZOS_SUPPORT = 3, FILTER_BITS = 22, MOST_PIXELS = 150_000_000;

/** Returns a picture file as the network sees it: RGB, Uint8Array of size * size * 3. */
async function pixelsOf(file, size, fit) {
  // Turned as its EXIF says, in the colours of sRGB.
  const bitmap = await createImageBitmap(file, { imageOrientation: "from-image" });
  try {
    const { width, height } = bitmap, head = new Uint8Array(await file.slice(0, 25).arrayBuffer());
    if (head[1] === 0x50 && head[2] === 0x4e && head[24] === 16) { // PNG
      throw new Error("it has 16 bits a channel; release it by the program");
    }
    if (width * height > MOST_PIXELS) throw new Error("it has over 150,000,000 pixels; shrink it");
    const side = Math.min(width, height);
    const [wide, high] = fit === "pad" ? [width, height] : [side, side];
    const context = whiteCanvas(wide, high);
    const left = fit === "pad" ? 0 : (width - side) >> 1, top = fit === "pad" ? 0 : (height - side) >> 1;
    context.drawImage(bitmap, -left, -top);
    return fitted(rgbOf(context.getImageData(0, 0, wide, high).data), wide, high, size);
  } finally {
    bitmap.close();
  }
}

/** Whether this browser gives the pixels that were drawn, and not others against fingerprints. */
function drawsFaithfully() {
  const context = whiteCanvas(16, 16), drawn = context.createImageData(16, 16);
  for (let place = 0; place < drawn.data.length; place++) {
    drawn.data[place] = place % 4 === 3 ? 255 : (37 * place) % 256;
  }
  context.putImageData(drawn, 0, 0);
  return context.getImageData(0, 0, 16, 16).data.every((value, place) => value === drawn.data[place]);
}

function whiteCanvas(width, height) {
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "white"; // what is transparent shows
  context.fillRect(0, 0, width, height);
  return context;
}

function rgbOf(rgba) {
  const rgb = new Uint8Array((rgba.length / 4) * 3);
  for (let from = 0, to = 0; from < rgba.length; from += 4) {
    if (rgba[from + 3] !== 255) throw new Error("it is too large for this browser; shrink it");
    rgb[to++] = rgba[from];
    rgb[to++] = rgba[from + 1];
    rgb[to++] = rgba[from + 2];
  }
  return rgb;
}

/** Returns RGB pixels shrunk or enlarged until the longer side fits, in the middle of a black square. */
function fitted(rgb, width, height, size) {
  let wide = size, high = size;
  if (width > height) high = roundedToEven((height / width) * size);
  if (height > width) wide = roundedToEven((width / height) * size);
  if (!wide || !high) throw new Error("it is too narrow; cut it");
  let found = rgb;
  if (wide !== width || high !== height) {
    found = alongRows(found, width, height, wide);
    found = transposed(alongRows(transposed(found, wide, height), height, wide, high), high, wide);
  }
  if (wide === size && high === size) return found;
  const square = new Uint8Array(size * size * 3);
  const left = roundedToEven((size - wide) / 2), top = roundedToEven((size - high) / 2);
  for (let y = 0; y < high; y++) {
    square.set(found.subarray(y * wide * 3, (y + 1) * wide * 3), ((top + y) * size + left) * 3);
  }
  return square;
}

/** Halves go to the even number, as Python rounds. */
function roundedToEven(value) {
  const floor = Math.floor(value), rest = value - floor;
  return rest < 0.5 || (rest === 0.5 && floor % 2 === 0) ? floor : floor + 1;
}

function transposed(rgb, width, height) {
  const found = new Uint8Array(rgb.length);
  for (let y = 0, from = 0; y < height; y++) {
    for (let x = 0; x < width; x++, from += 3) {
      const to = (x * height + y) * 3;
      found[to] = rgb[from];
      found[to + 1] = rgb[from + 1];
      found[to + 2] = rgb[from + 2];
    }
  }
  return found;
}

/** Returns every row of pixels in another width. */
function alongRows(rgb, width, height, wide) {
  const found = new Uint8Array(wide * height * 3);
  const filters = filtersOf(width, wide);
  for (let y = 0, to = 0; y < height; y++) {
    for (let x = 0; x < wide; x++, to += 3) {
      const { first, weights } = filters[x];
      const sums = [1 << (FILTER_BITS - 1), 1 << (FILTER_BITS - 1), 1 << (FILTER_BITS - 1)];
      let from = (y * width + first) * 3;
      for (const weight of weights) {
        sums[0] += weight * rgb[from++];
        sums[1] += weight * rgb[from++];
        sums[2] += weight * rgb[from++];
      }
      for (let colour = 0; colour < 3; colour++) {
        found[to + colour] = Math.min(255, Math.max(0, sums[colour] >> FILTER_BITS));
      }
    }
  }
  return found;
}

/** Of each new place, the first old one that counts, and the weights of it and the next ones. */
function filtersOf(before, after) {
  const scale = before / after, stretch = Math.max(scale, 1), support = LANCZOS_SUPPORT * stretch;
  return Array.from({ length: after }, (_, place) => {
    const centre = (place + 0.5) * scale;
    const first = Math.max(0, Math.trunc(centre - support + 0.5));
    const end = Math.min(before, Math.trunc(centre + support + 0.5));
    const weights = [];
    for (let x = first; x < end; x++) weights.push(lanczos((x - centre + 0.5) / stretch));
    const sum = weights.reduce((total, weight) => total + weight, 0);
    const whole = weights.map((weight) => {
      const scaled = (weight / sum) * (1 << FILTER_BITS);
      return Math.trunc(scaled < 0 ? scaled - 0.5 : scaled + 0.5);
    });
    return { first, weights: whole };
  });
}

function lanczos(x) {
  return -LANCZOS_SUPPORT <= x && x < LANCZOS_SUPPORT ? sinc(x) * sinc(x / LANCZOS_SUPPORT) : 0;
}

function sinc(x) {
  return x === 0 ? 1 : Math.sin(x * Math.PI) / (x * Math.PI);
}
