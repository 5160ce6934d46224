// The package's networks, run by ONNX Runtime in WebAssembly, on this page's own thread.
"use strict";

const TRIAL_IMAGES = 8, TRIAL_TOLERANCE = 1e-3;

class Networks {
  /** Unpacks and opens what lies in the page; settings are those of local_nn.json. */
  static async open(settings) {
    ort.env.wasm.numThreads = 1; // more would need a server that says so, and workers
    ort.env.wasm.wasmBinary = await unpacked("runtime");
    const local = await ort.InferenceSession.create(await unpacked("local_nn"));
    const cloud = await ort.InferenceSession.create(await unpacked("cloud_nn"));
    const attacker = settings.attacker ? await ort.InferenceSession.create(await unpacked("attacker")) : null;
    return new Networks(settings, local, cloud, attacker);
  }

  constructor(settings, local, cloud, attacker) {
    Object.assign(this, { settings, local, cloud, attacker });
  }

  /** RGB pixels of some pictures, Uint8Array -> what is released of them, Float32Array. */
  async represent(pixels) {
    const side = this.settings.image_size, count = pixels.length / (side * side * 3);
    const images = new ort.Tensor("uint8", pixels, [count, side, side, 3]);
    const { representations } = await this.local.run({ images });
    return representations.data;
  }

  /** Throws an Error where this browser computes something else than the planner's machine. */
  async check() {
    const side = this.settings.image_size, trial = this.settings.trial, depth = trial.length;
    const values = await this.represent(trialImages(side)), means = new Float64Array(depth);
    values.forEach((value, place) => (means[place % depth] += value));
    const off = means.map((sum, channel) => Math.abs((sum * depth) / values.length - trial[channel]));
    const error = Math.max(...off) / Math.max(...trial, 1e-6);
    if (!(error <= TRIAL_TOLERANCE)) {
      throw new Error(`the network is off by ${error.toExponential(1)} in this browser; update it`);
    }
  }

  /** What the attacker makes of one picture's released values: RGB, Float32Array in [0, 1]. */
  async rebuilt(values) {
    const shape = [1, ...this.settings.shape];
    const representations = new ort.Tensor("float32", Float32Array.from(values), shape);
    return (await this.attacker.run({ representations })).images.data;
  }

  /** Probabilities of classes, Float32Array, of one picture's released values. */
  async probabilities(values, classifier) {
    const shape = [1, ...this.settings.shape];
    const given = { representations: new ort.Tensor("float32", Float32Array.from(values), shape) };
    for (const [name, one] of Object.entries(classifier.params)) {
      given[name] = new ort.Tensor("float32", one.values, one.shape);
    }
    const logits = Array.from((await this.cloud.run(given)).logits.data);
    if (logits.length !== classifier.classes.length || !logits.every(Number.isFinite)) {
      throw new Error("the classifier gives no numbers; copy it again, or train again");
    }
    if (classifier.several) return logits.map((logit) => 1 / (1 + Math.exp(-logit)));
    const most = Math.max(...logits), powers = logits.map((logit) => Math.exp(logit - most));
    const sum = powers.reduce((total, power) => total + power, 0);
    return powers.map((power) => power / sum);
  }
}

/** What every package is tried on: made-up pictures, Uint8Array of 8 * side * side * 3. */
function trialImages(side) {
  const found = new Uint8Array(TRIAL_IMAGES * side * side * 3);
  for (let n = 0, place = 0; n < TRIAL_IMAGES; n++) {
    for (let y = 0; y < side; y++) {
      for (let x = 0; x < side; x++) {
        for (let c = 0; c < 3; c++) {
          found[place++] = (Math.floor((x * y * (c + 1)) / (n + 1)) + 40 * n * c + 3 * y) % 251;
        }
      }
    }
  }
  return found;
}

/** PSNR in dB of estimates in [0, 1] of pixels of 8 bits, 100 at most. */
function psnr(estimates, pixels) {
  const squares = estimates.reduce((sum, value, place) => sum + (value - pixels[place] / 255) ** 2, 0);
  return Math.min(100, -10 * Math.log10(squares / pixels.length));
}

/** The bytes of a part of this page, which lie there compressed, as text. */
async function unpacked(id) {
  const text = atob(document.getElementById(id).textContent.trim());
  const bytes = Uint8Array.from(text, (character) => character.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}
