"use strict";
// All that comes from the dataset goes into the page as text, never as markup.
const { rows, pictures } = JSON.parse(document.getElementById("data").textContent);
const PAGE = 50;
const form = document.getElementById("filters");
const list = document.getElementById("rows");
const more = document.getElementById("more");
const count = document.getElementById("count");

const FILTERS = { finish_reason: "How it ended", error_type: "Error", worker: "Worker", label: "Answer" };
const SORTS = {
  "": "In the input's order",
  "-completion_tokens": "Longest answers", completion_tokens: "Shortest answers",
  "-prompt_tokens": "Longest prompts", "-latency_s": "Slowest",
};
const MOST_CHOICES = 40;
// Not numbers and times, of which any holds most digits.
const SEARCHED = ["id", "asked", "text", "reasoning", "error_type", "error", "parsed", "tool_calls", "given"];

function element(name, className, ...children) {
  const made = document.createElement(name);
  if (className) made.className = className;
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

function text(value) {
  return typeof value === "string" ? value : JSON.stringify(value, null, 1);
}

function said(row) {
  return row.error_type ? `${row.error_type}: ${row.error || ""}` : row.text || "";
}

for (const row of rows) {
  const answer = row.complete === undefined ? undefined : row.text;
  row.label = answer !== undefined && answer.length <= 60 ? answer : undefined;
  const names = row.media.map((each) => each.name);
  const values = SEARCHED.map((name) => row[name]).filter((value) => value !== undefined);
  row.haystack = [...values, ...names].map((value) => text(value)).join("\n").toLowerCase();
}

// Filters: a choice for each column that has more than one value, and few.

function select(name, title, options) {
  const made = element("select");
  made.name = name;
  made.setAttribute("aria-label", title);
  for (const [value, label] of options) {
    const option = element("option", "", label);
    option.value = value;
    made.append(option);
  }
  document.getElementById("choices").append(made);
}

for (const [name, title] of Object.entries(FILTERS)) {
  const counted = new Map();
  for (const row of rows) {
    if (row[name] !== undefined) counted.set(row[name], (counted.get(row[name]) || 0) + 1);
  }
  const values = [...counted].sort((a, b) => b[1] - a[1]);
  if (values.length && values.length <= MOST_CHOICES && (values.length > 1 || name === "error_type")) {
    const options = values.map(([value, number]) => [value, `${value} (${number})`]);
    select(name, title, [["", `${title}: all`], ...options]);
  }
}
select("sort", "Order", Object.entries(SORTS));
const hasMedia = rows.some((row) => row.media.length);
if (hasMedia) select("view", "View", [["", "List"], ["gallery", "Pictures"]]);

function settings() {
  return Object.fromEntries([...new FormData(form)].filter(([, value]) => value !== ""));
}

function matching({ q = "", sort = "", view = "", ...wanted }) {
  const words = q.toLowerCase().split(/\s+/).filter(Boolean);
  const found = rows.filter((row) =>
    Object.entries(wanted).every(([name, value]) => String(row[name]) === value) &&
    words.every((word) => row.haystack.includes(word)) &&
    (view !== "gallery" || row.media.length));
  if (sort) {
    const name = sort.replace("-", "");
    const sign = sort.startsWith("-") ? -1 : 1;
    found.sort((a, b) => sign * ((a[name] || 0) - (b[name] || 0)));
  }
  return found;
}

// Rows.

function marked(value, words) {
  const parts = [];
  const lower = value.toLowerCase();
  let from = 0;
  while (words.length && lower.length === value.length) {
    const hits = words.map((word) => [lower.indexOf(word, from), word]).filter(([at]) => at >= 0);
    if (!hits.length) break;
    const [at, word] = hits.reduce((a, b) => (b[0] < a[0] ? b : a));
    parts.push(value.slice(from, at), element("mark", "", value.slice(at, at + word.length)));
    from = at + word.length;
  }
  return [...parts, value.slice(from)];
}

function figure(medium, ...caption) {
  const made = element("figure", "");
  if (medium.at !== undefined) {
    const image = element("img");
    image.src = pictures[medium.at];
    image.alt = medium.name;
    image.loading = "lazy";
    made.append(image);
  }
  made.append(element("figcaption", "", ...caption));
  return made;
}

function told(medium) {
  const made = element("small", "", `${medium.name.split("/").pop()} (${medium.note})`);
  made.title = medium.name;
  return made;
}

function media(row) {
  if (!row.media.length) return null;
  const figures = row.media.map((each) => figure(each, told(each)));
  return element("div", "media", ...figures);
}

function head(row) {
  const sample = row.sample_index ? ` · sample ${row.sample_index}` : "";
  const made = element("div", "head", element("b", "", row.id + sample));
  made.append(element("span", `badge ${row.finish_reason === "error" ? "error" : ""}`, row.finish_reason));
  if (row.complete === false) made.append(element("span", "badge cut", "incomplete"));
  if (row.finish_reason !== "error") {
    made.append(element("span", "", `${row.prompt_tokens} → ${row.completion_tokens} tokens`));
    if (row.latency_s) made.append(element("span", "", `${row.latency_s.toFixed(1)} s`));
  }
  return made;
}

function turn(role, value, words, className = "asked") {
  return element("div", "turn", element("b", "", role), element("div", className, ...marked(value, words)));
}

function details(row) {
  const shown = { ...row.given };
  const names = ["parsed", "scores", "tool_calls", "row", "worker", "finished_at", "seed"];
  if (row.attempts > 1) names.push("attempts");
  if (row.cached_tokens) names.push("cached_tokens");
  for (const name of names) if (row[name] !== undefined) shown[name] = row[name];
  const made = element("table");
  for (const [name, value] of Object.entries(shown)) {
    made.append(element("tr", "", element("th", "", name), element("td", "", text(value))));
  }
  return made;
}

function card(row, words) {
  const last = row.asked.length ? row.asked[row.asked.length - 1][1] : "";
  const failed = row.finish_reason === "error" ? "said failed" : "said";
  const made = element("details", "card row",
    element("summary", "", head(row),
      element("div", "asked", ...marked(last, words)),
      element("div", failed, ...marked(said(row), words)), media(row)));
  made.addEventListener("toggle", () => {
    if (made.childElementCount > 1) return;
    for (const [role, value] of row.asked) made.append(turn(role, value, words));
    if (row.reasoning) made.append(turn("thought", row.reasoning, words));
    made.append(turn("answer", said(row), words, failed), details(row));
  });
  return made;
}

function picture(row, words) {
  const figures = row.media.map((each) => figure(each, told(each)));
  const caption = element("figcaption", "", element("b", "", row.id), ": ", ...marked(said(row), words));
  const isStrip = row.media.some((each) => each.kind === "video" && each.at !== undefined);
  return element("figure", isStrip ? "card strip" : "card", ...figures, caption);
}

let found = [];
let shown = 0;

function showMore() {
  const { q = "", view } = settings();
  const words = q.toLowerCase().split(/\s+/).filter(Boolean);
  const next = found.slice(shown, shown + PAGE);
  list.append(...next.map((row) => (view === "gallery" ? picture : card)(row, words)));
  shown += next.length;
  more.hidden = shown >= found.length;
}

function show() {
  const given = settings();
  found = matching(given);
  shown = 0;
  list.className = given.view === "gallery" ? "gallery" : "";
  list.replaceChildren();
  count.textContent = `${found.length.toLocaleString("en")} of ${rows.length.toLocaleString("en")} rows`;
  showMore();
}

// What is looked at stands in the address, so that it can be kept.

function read() {
  const given = new URLSearchParams(location.hash.slice(1));
  for (const control of form.elements) {
    if (!control.name) continue;
    control.value = given.get(control.name) || "";
    if (control.value !== (given.get(control.name) || "")) control.value = "";
  }
  show();
  if (given.size) form.scrollIntoView();
}

function changed() {
  const hash = new URLSearchParams(settings()).toString();
  history.replaceState(null, "", hash ? `#${hash}` : "#");
  show();
}

form.addEventListener("input", changed);
form.addEventListener("submit", (event) => event.preventDefault());
form.addEventListener("reset", () => setTimeout(changed));
more.addEventListener("click", showMore);
window.addEventListener("hashchange", read);

// What a mark of a chart stands for is its label.

const tip = document.getElementById("tip");
document.addEventListener("pointermove", (event) => {
  const mark = event.target.closest && event.target.closest("svg [aria-roledescription][aria-label]");
  const isMark = mark && /mark|bar|rect/.test(mark.getAttribute("aria-roledescription"));
  tip.hidden = !isMark;
  if (!isMark) return;
  tip.textContent = mark.getAttribute("aria-label");
  tip.style.left = `${Math.min(event.clientX + 12, innerWidth - tip.offsetWidth - 8)}px`;
  tip.style.top = `${event.clientY + 14}px`;
});

read();
