"use strict";
// Three things: the language switch stays on the paragraph, terms are explained where they stand, answers are checked.

// 1. The language switch: the link carries the id of what is in view, which is the same in every language.
const units = [...document.querySelectorAll("main [id]")].filter((e) => /^(s\d|cell-|exercise-|terms|l\d)/.test(e.id) && !e.id.endsWith("-title") && !/-(answer|said)$/.test(e.id));
const top_ = () => document.querySelector(".bar")?.getBoundingClientRect().bottom ?? 0;
function inView() {
  if (window.scrollY < 40) return "";
  const seen = units.find((e) => e.getBoundingClientRect().bottom > top_() + 24);
  return seen ? "#" + seen.id : "";
}
for (const link of document.querySelectorAll(".switch a")) {
  const bare = link.getAttribute("href");
  const carry = () => link.setAttribute("href", bare + inView());
  for (const event of ["pointerdown", "focus", "mouseenter", "click"]) link.addEventListener(event, carry);
}

// The heading one reads under is marked in the table of contents.
const entries = [...document.querySelectorAll(".contents a")];
const headings = entries.map((a) => document.getElementById(a.hash.slice(1)));
function mark() {
  let at = -1;
  headings.forEach((h, i) => { if (h.getBoundingClientRect().top < top_() + 80) at = i; });
  entries.forEach((a, i) => i === at ? a.setAttribute("aria-current", "location") : a.removeAttribute("aria-current"));
}
let waiting = false;
addEventListener("scroll", () => {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => { waiting = false; mark(); });
}, { passive: true });
mark();

// 2. Terms: shown on hover, on focus and on tap; Escape, another place, or moving away closes.
const tip = document.createElement("div");
tip.className = "tip";
tip.hidden = true;
tip.setAttribute("aria-hidden", "true");  // a screen reader has the definition already, by aria-describedby
document.body.append(tip);
let open_ = null, leaving = 0;
function show(term) {
  clearTimeout(leaving);
  if (open_ && open_ !== term) hide();
  const definition = document.getElementById(term.hash.slice(1));
  if (!definition) return;
  const name = document.createElement("strong");
  name.textContent = definition.previousElementSibling.textContent;
  tip.replaceChildren(name, ...[...definition.childNodes].map((n) => n.cloneNode(true)));
  tip.hidden = false;
  open_ = term;
  term.dataset.open = "";
  place();
}
function place() {  // beside its word; on a phone, at the lower edge
  tip.style.cssText = "";
  if (innerWidth < 700) return;
  const at = open_.getClientRects()[0];
  if (at.bottom < top_() || at.top > innerHeight) return hide();
  Object.assign(tip.style, { right: "auto", bottom: "auto", left: "0", top: "0" });
  const { width, height } = tip.getBoundingClientRect();
  const below = at.bottom + 8 + height < innerHeight || at.top - 8 - height < top_();
  tip.style.left = Math.max(8, Math.min(at.left, innerWidth - width - 8)) + "px";
  tip.style.top = (below ? at.bottom + 8 : at.top - 8 - height) + "px";
}
function hide() {
  clearTimeout(leaving);
  tip.hidden = true;
  if (open_) delete open_.dataset.open;
  open_ = null;
}
const later = () => { clearTimeout(leaving); leaving = setTimeout(hide, 250); };
for (const term of document.querySelectorAll("a.term")) {
  term.addEventListener("pointerenter", (e) => { if (e.pointerType === "mouse") show(term); });
  term.addEventListener("pointerleave", (e) => { if (e.pointerType === "mouse") later(); });
  term.addEventListener("focus", () => show(term));
  term.addEventListener("blur", later);
  term.addEventListener("click", (e) => { e.preventDefault(); show(term); });
}
tip.addEventListener("pointerenter", () => clearTimeout(leaving));
tip.addEventListener("pointerleave", later);
addEventListener("keydown", (e) => { if (e.key === "Escape") hide(); });
addEventListener("pointerdown", (e) => { if (open_ && !tip.contains(e.target) && !open_.contains(e.target)) hide(); });
addEventListener("scroll", () => { if (open_) place(); }, { passive: true });

// 3. Answers: the same rules as in exercises.py. An answer is read in every way it may be meant; of what it comes near
// to, the right answer and each mistake, the nearest is what it is.
const YES = ["true", "yes", "sim", "tak", "sì", "si", "oui", "verdadeiro", "prawda", "vero", "vrai"];
const NO = ["false", "no", "não", "nao", "nie", "non", "falso", "fałsz", "faux"];
const SMALLEST = 1e-9;
const whole = (text) => /^[-+]?\d+$/.test(text);

// A number and whether it was written as a whole one: JavaScript does not tell 2 from 2.0.
function numbers(text, lang) {
  const [mark, thousands] = lang === "en" ? [".", ","] : [",", "."];
  const found = [];
  const add = (value, int) => found.push({ value, int });
  if (mark === "," && /^[-+]?\d+,\d+$/.test(text)) add(Number(text.replace(",", ".")), false);
  if (whole(text)) add(Number(text), true);
  else if (/^[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?$/i.test(text)) add(Number(text), false);
  const grouped = new RegExp(`^[-+]?\\d{1,3}(?:([${thousands} ])\\d{3})(?:\\1\\d{3})*(?:\\${mark}\\d+)?$`);
  if (grouped.test(text)) {
    const digits = text.replaceAll(thousands, "").replaceAll(" ", "").replace(mark, ".");
    add(Number(digits), !digits.includes("."));
  }
  return found;
}
function literal(text) {  // nested lists, as Python and JSON write them
  const read = (item) => Array.isArray(item) ? item.map(read) : typeof item === "number" ? { value: item, int: Number.isInteger(item) } : item;
  for (const attempt of [text, `[${text}]`]) {
    try {
      const item = JSON.parse(attempt.replaceAll("(", "[").replaceAll(")", "]").replace(/,\s*\]/g, "]").replace(/(^|[[,\s])([-+]?)\.(\d)/g, "$1$20.$3").replace(/(\d)\.(?=[\],\s]|$)/g, "$1.0"));
      if (Array.isArray(item)) return [read(item)];
    } catch { /* not one */ }
  }
  return [];
}
function readings(typed, lang) {
  const text = typed.replace(/[\u00a0\u202f]/g, " ").replaceAll("−", "-").trim();
  const found = [], low = text.toLowerCase();
  if (YES.includes(low) || NO.includes(low)) found.push(YES.includes(low));
  found.push(...numbers(text, lang));
  const bare = text.replace(/^[[(]\s*|\s*[\])]$/g, "");
  for (const separator of [/\s*;\s*/, /\s*,\s+/, /\s+/]) {
    const parts = bare.split(separator).filter(Boolean).map((part) => numbers(part, lang));
    if (parts.length > 1 && parts.every((part) => part.length)) found.push(parts.map((part) => part[0]));
  }
  return [...found, ...literal(text), text.replace(/^(['"])(.*)\1$/, "$2")];
}
function distance(answer, value, asked) {
  if (Array.isArray(value)) {
    if (!Array.isArray(answer) || answer.length !== value.length) return null;
    const each = answer.map((a, i) => distance(a, value[i], asked));
    return each.includes(null) ? null : Math.max(0, ...each);
  }
  if (typeof value === "boolean" || typeof answer === "boolean") return answer === value ? 0 : null;
  if (value && typeof value === "object") {  // a number
    if (!answer || typeof answer !== "object" || Array.isArray(answer) || !Number.isFinite(answer.value)) return null;
    if (value.int && answer.int && asked.tolerance === null) return answer.value === value.value ? 0 : null;
    const off = Math.abs(answer.value - value.value) / Math.max(Math.abs(value.value), SMALLEST);
    return off <= (asked.tolerance ?? asked.usual) ? off : null;
  }
  if (typeof value === "string" && typeof answer === "string") {
    if (answer === value) return 0;
    return answer.trim().toLowerCase() === value.trim().toLowerCase() ? asked.usual : null;
  }
  return null;
}
function verdict(asked, answers) {
  let best = Infinity, name = "other";
  for (const [candidate, value] of [["right", asked.right], ...asked.mistakes]) {
    for (const answer of answers) {
      const off = distance(answer, value, asked);
      if (off !== null && off < best) [best, name] = [off, candidate];
    }
  }
  return name;
}
for (const form of document.querySelectorAll("form[data-asked]")) {
  const asked = JSON.parse(form.dataset.asked), input = form.querySelector("input"), said = form.querySelector(".said");
  form.addEventListener("submit", (e) => {
    e.preventDefault();
    if (!input.value.trim()) { input.focus(); return; }
    const found = verdict(asked, readings(input.value, document.documentElement.lang));
    said.classList.toggle("right", found === "right");
    said.replaceChildren(form.querySelector(`template[data-hint="${found}"]`).content.cloneNode(true));
  });
  input.addEventListener("input", () => { said.replaceChildren(); said.classList.remove("right"); });
}
