// The page that decides with its reader. What options need was computed by the planner when the
// report was written; here it is only compared. All state is in one object, and everything that is
// shown follows from it: the list of settings is what keyboards and screen readers use, and the
// chart mirrors it.

const told = JSON.parse(document.getElementById("told").textContent);
const byId = (id) => document.getElementById(id);

// The planner's arithmetic.

// What an option needs of a limit: nothing where the limit has no say, null where none is enough.
function need(option, limit, judged) {
  return limit in option[judged] ? option[judged][limit] : option.cost[limit];
}

function keeps(option, limit, most, judged) {
  const least = need(option, limit, judged);
  return least === undefined || (least !== null && least <= most);
}

function feasible(options, limits, judged) {
  const given = Object.entries(limits);
  return options.filter((o) => given.every(([name, most]) => keeps(o, name, most, judged)));
}

function without(limits, name) {
  return Object.fromEntries(Object.entries(limits).filter(([other]) => other !== name));
}

function roundedUp(value, digits) {
  const rounded = Number((Math.ceil(value * 10 ** digits) / 10 ** digits).toFixed(digits));
  return rounded >= value ? rounded : Number((rounded + 10 ** -digits).toFixed(digits));
}

// The limits that an option does not keep, and how many notches each would have to give way.
function shortfalls(option, limits, judged) {
  return Object.entries(limits)
    .filter(([name, most]) => !keeps(option, name, most, judged))
    .map(([name, most]) => {
      const least = need(option, name, judged);
      const needed = least === null ? Infinity : roundedUp(least, told.digits[name]);
      const notch = told.notches.by[name] ?? told.notches.share * most;
      return { name, needed, notches: (needed - most) / notch };
    });
}

const total = (missed) => missed.reduce((sum, each) => sum + each.notches, 0);

// Where nothing fits: changes of one limit each, or of several together where no single one helps.
function remedies(options, limits, judged) {
  const missed = options
    .map((option) => shortfalls(option, limits, judged))
    .filter((each) => total(each) < Infinity);
  const single = missed.filter((each) => each.length === 1).map(([only]) => only);
  if (!single.length) {
    const joint = missed.reduce((a, b) => (a && total(a) <= total(b) ? a : b), null);
    return { joint: true, changes: joint ?? [] };
  }
  const order = Object.keys(told.digits);
  single.sort((a, b) => a.notches - b.notches || order.indexOf(a.name) - order.indexOf(b.name));
  const first = single.filter((each, at) => single.findIndex((s) => s.name === each.name) === at);
  return { joint: false, changes: first };
}

// As planner.choose: options come the best first, so the first that keeps all limits is chosen.
function decide({ selection, statistic, judged, limits }) {
  const options = told.options[selection][statistic];
  const allowed = feasible(options, limits, judged);
  const chosen = allowed[0] ?? null;
  const merit = (option) => option?.merit ?? -Infinity;
  const binding = Object.keys(limits).filter(
    (name) => merit(feasible(options, without(limits, name), judged)[0]) > merit(chosen),
  );
  const change = chosen ? { joint: false, changes: [] } : remedies(options, limits, judged);
  return { options, allowed, chosen, binding, remedies: change };
}

// State, in the address as well, so that it outlives a reload.

const sliders = [...document.querySelectorAll(".limit")].map((box) => ({
  name: box.dataset.limit,
  on: box.querySelector("[type=checkbox]"),
  range: box.querySelector("[type=range]"),
  number: box.querySelector("[type=number]"),
}));
const choices = ["selection", "statistic", "judged", "attacker"];
// The setting that the reader picked; null: whichever the planner chooses.
const state = { picked: null, shown: null };

function limitsGiven() {
  const on = sliders.filter((slider) => slider.on.checked && slider.number.valueAsNumber > 0);
  return Object.fromEntries(on.map((slider) => [slider.name, slider.number.valueAsNumber]));
}

function question() {
  const given = Object.fromEntries(choices.map((name) => [name, byId(name).value]));
  return { ...given, limits: limitsGiven() };
}

function remember(asked) {
  const kept = new URLSearchParams(choices.map((name) => [name, asked[name]]));
  Object.entries(asked.limits).forEach(([name, most]) => kept.set(`max_${name}`, most));
  if (state.picked) kept.set("shown", state.picked);
  // An anchor that a link of the contents set stays, and the state is kept beside it.
  const anchored = location.hash && !location.hash.includes("=");
  try {
    history.replaceState(`${kept}`, "", anchored ? location.hash : `#${kept}`);
  } catch {
    // Inside a notebook's cell there is no address of its own.
  }
}

// Browsers stop who writes addresses too often, as every move of a slider would.
let writing = null;

function rememberSoon() {
  clearTimeout(writing);
  writing = setTimeout(() => remember(question()), 200);
}

function recall() {
  const there = location.hash.includes("=") ? location.hash.slice(1) : (history.state ?? "");
  const kept = new URLSearchParams(there);
  for (const name of choices) {
    const offered = [...byId(name).options].map((option) => option.value);
    if (offered.includes(kept.get(name))) byId(name).value = kept.get(name);
  }
  for (const slider of sliders) {
    const most = Number(kept.get(`max_${slider.name}`));
    if (!(most > 0)) continue;
    slider.on.checked = true;
    slider.number.value = slider.range.value = String(most);
  }
  return kept.get("shown");
}

// What is shown.

const percent = (ends) => `${ends.accuracy.toFixed(1)} %`;
const unit = (name, value) => `${value} ${told.words[name].unit}`.trim();
const titled = (names) => names.map((name) => told.words[name].title);

function joined(words, last = "and") {
  const some = words.slice(0, -1).join(", ");
  return some ? `${some} ${last} ${words.at(-1)}` : (words.at(-1) ?? "");
}

// The settings in the order of the table, each with what the question makes of it.
function rowsFor(asked, decision) {
  const allowed = new Set(decision.allowed.map((option) => option.id));
  return told.settings.map((setting) => {
    const loss = setting.losses[asked.statistic][asked.attacker];
    const other = setting.selection !== asked.selection;
    const state_ = other ? "other" : allowed.has(setting.id) ? "allowed" : "refused";
    const { id, layers, channels, selection } = setting;
    return {
      ...{ id, layers, channels, selection, ...setting.accuracy, ...loss, state: state_ },
      chosen: id === decision.chosen?.id,
      shown: id === state.shown,
    };
  });
}

// Words come first: narrow lists cut the end of a line off.
const WORD = { allowed: "fits", refused: "over", other: "other" };

function fillList(rows) {
  const list = byId("settings");
  const several = new Set(told.settings.map((s) => s.selection)).size > 1;
  rows.forEach((row, at) => {
    const option = list.options[at] ?? list.appendChild(new Option());
    const word = row.chosen ? "\u2605 plan" : WORD[row.state];
    const loss = row.loss === undefined ? "not attacked so" : `${row.loss.toFixed(1)} dB`;
    const place = `${row.layers}, ${row.channels} channels`;
    option.value = row.id;
    const which = several ? `, ${row.selection}` : "";
    option.text = `${word}: ${place}${which}: ${percent(row)}, ${loss}`;
  });
  list.value = state.shown;
}

function verdict(asked, decision) {
  const { allowed, options, chosen, binding } = decision;
  const given = Object.keys(asked.limits).length;
  if (!chosen) {
    const { joint, changes } = decision.remedies;
    const words = changes.map(
      ({ name, needed }) => `--max_${name}=${needed} (was ${asked.limits[name]})`,
    );
    const help = joint
      ? `No change of one limit helps. The smallest change: ${joined(words)}.`
      : `Any one of these changes is enough, the smallest first: ${joined(words, "or")}.`;
    return `Nothing that was characterised keeps the limits. ${words.length ? help : ""}`;
  }
  const kept = `${allowed.length} of ${options.length} options keep the limits.`;
  const first = asked.judged === "measured" ? "Plan tries first" : "Plan chooses";
  const merit = `${chosen.balanced} % balanced accuracy expected on validation images`;
  let why = "No limit is given, so balanced accuracy alone decides.";
  if (given && !binding.length) {
    why = "Binding: no limit by itself; taking any one of them away buys nothing.";
  } else if (binding.length) {
    const those = binding.length === 1 ? "Without it" : "Without any one of these";
    why = `Binding: ${joined(titled(binding))}. ${those}, a better one would be possible.`;
  }
  return `${kept} ${first}: ${chosen.title}, the best of them (${merit}). ${why}`;
}

function commandLine(asked) {
  const limits = Object.entries(asked.limits).map(([name, most]) => `--max_${name}=${most}`);
  const flags = [`--selection=${asked.selection}`];
  if (asked.statistic !== "mean") flags.push(`--statistic=${asked.statistic}`);
  flags.push(...told.flags[asked.judged][asked.statistic]);
  return [told.command, ...limits, ...flags].join(" ");
}

// Lines end between flags.
function fillCommand(line) {
  const parts = line.split(/ (?=--)/).flatMap((part) => [element("span", part), " "]);
  byId("command").replaceChildren(...parts.slice(0, -1));
}

function element(tag, text, ...children) {
  const made = document.createElement(tag);
  made.textContent = text;
  made.append(...children);
  return made;
}

// What the planner makes of the setting that is shown, limit by limit.
function standing(asked, decision, row) {
  if (row.state === "other") return `Plans of the selection ${asked.selection} do not choose it.`;
  if (row.chosen) return "The planner's choice.";
  if (row.state === "allowed") return "Allowed, but another one is better.";
  const option = decision.options.find((each) => each.id === row.id);
  const missed = shortfalls(option, asked.limits, asked.judged).map(({ name, needed }) => {
    const most = unit(name, asked.limits[name]);
    const enough = needed < Infinity ? `needs ${unit(name, needed)}` : "has none";
    return `${told.words[name].title} ${enough}, and the limit is ${most}`;
  });
  return `Not allowed: ${joined(missed)}.`;
}

function fillDetails(asked, decision, row) {
  const setting = told.settings.find((each) => each.id === state.shown);
  const facts = element("dl", "");
  facts.className = "facts";
  for (const [name, text] of setting.facts) {
    facts.append(element("div", "", element("dt", name), element("dd", text)));
  }
  const parts = [element("h3", setting.title), element("p", standing(asked, decision, row)), facts];
  const rebuilt = byId(`rebuilt-${setting.id}`);
  if (rebuilt) {
    const pairs = rebuilt.querySelector(".pairs").cloneNode(true);
    const above = "Test images above, as rebuilt below: protected best, median and worst.";
    parts.splice(2, 0, element("p", above), pairs);
    parts[2].className = "soft";
  }
  byId("details").replaceChildren(...parts);
}

let view = null;

function refresh() {
  const asked = question();
  const decision = decide(asked);
  state.shown = state.picked ?? decision.chosen?.id ?? state.shown ?? told.settings[0].id;
  const rows = rowsFor(asked, decision);
  sliders.forEach((slider) => slider.range.classList.toggle("off", !slider.on.checked));
  fillList(rows);
  fillDetails(asked, decision, rows.find((row) => row.shown));
  const says = verdict(asked, decision);
  if (byId("verdict").textContent !== says) byId("verdict").textContent = says;
  byId("margins").textContent = told.margins[asked.statistic][asked.judged];
  fillCommand(commandLine(asked));
  view?.data("settings", rows.filter((row) => row.loss !== undefined)).runAsync();
  rememberSoon();
}

function pick(id) {
  if (id === state.picked) return;
  state.picked = id;
  refresh();
}

// Whatever is nearest to the pointer is meant. Browsers repeat where a resting mouse is once the
// chart is drawn anew, which must not undo what keys or fingers picked.
const rested = {};

function pointed(event, item) {
  const place = `${event.clientX} ${event.clientY}`;
  if (rested[event.pointerType] === place && event.type !== "click") return;
  rested[event.pointerType] = place;
  const row = item?.datum?.datum ?? item?.datum;
  if (row?.id) pick(row.id);
}

// Controls.

for (const slider of sliders) {
  const { on, range, number, name } = slider;
  range.addEventListener("input", () => {
    on.checked = true;
    number.value = String(Number(range.valueAsNumber.toFixed(told.digits[name])));
    refresh();
  });
  const typed = () => {
    on.checked = number.valueAsNumber > 0;
    if (on.checked) range.value = number.value;
    refresh();
  };
  ["input", "change"].forEach((kind) => number.addEventListener(kind, typed));
  on.addEventListener("change", refresh);
}
choices.forEach((name) => byId(name).addEventListener("change", refresh));
["hashchange", "beforeunload"].forEach((kind) => addEventListener(kind, () => remember(question())));
byId("settings").addEventListener("change", () => pick(byId("settings").value));
byId("to-choice").addEventListener("click", () => pick(null));
byId("copy").addEventListener("click", async () => {
  const says = byId("copied");
  getSelection().selectAllChildren(byId("command"));
  try {
    await navigator.clipboard.writeText(byId("command").textContent);
    says.textContent = "Copied.";
  } catch {
    says.textContent = "It is selected: copy it with the keys or the menu of your browser.";
  }
});

// Pages that are written while cells are measured come back anew, with what the reader has set,
// unless the reader is at it.
if (told.reload_seconds) {
  let touched = -Infinity;
  ["input", "keydown", "pointerdown", "pointermove", "scroll", "focusin"].forEach((kind) =>
    document.addEventListener(kind, () => (touched = performance.now())),
  );
  setInterval(() => {
    if (performance.now() - touched > 1000 * told.reload_seconds) location.reload();
  }, 1000 * told.reload_seconds);
}

const recalled = recall();
if (told.settings.some((setting) => setting.id === recalled)) state.picked = recalled;
document.documentElement.classList.add("live");
refresh();
// Legends of a narrow screen have fewer columns.
if (byId("chart").clientWidth < 480) told.chart.config.legend.columns = 2;
const drawn = vegaEmbed("#chart", told.chart, {
  ...{ ast: true, actions: false, renderer: "svg", defaultStyle: false, tooltip: false },
}).then((result) => {
  view = result.view;
  ["pointermove", "click"].forEach((kind) => view.addEventListener(kind, pointed));
  refresh();
  return view;
});

// For whoever checks the page against the planner.
window.privynet = { decide, question, drawn };
