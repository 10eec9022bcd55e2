// Adds line numbers, which mark problems, and a check while typing to the editor.
// Every page works without this script.
"use strict";

const QUIET_MS = 400; // how long after the last key the text is checked

const csrf = document.querySelector("meta[name=csrf]")?.content ?? "";

for (const area of document.querySelectorAll("textarea[data-check], textarea[readonly]")) {
  const findings = document.getElementById(area.getAttribute("aria-describedby"));
  const showNumbers = lineNumbers(area, area.parentElement.querySelector("[data-numbers]"), findings);
  showNumbers();
  if (area.dataset.check) {
    checkWhileTyping(area, findings, showNumbers);
  }
}

function lineNumbers(area, numbers, findings) {
  let shown = "";
  const show = () => {
    const marked = new Set(Array.from(findings.querySelectorAll("[data-line]"), (one) => Number(one.dataset.line)));
    const count = area.value.split("\n").length;
    const now = [count, ...marked].join();
    if (now === shown) {
      return;
    }
    shown = now;
    const lines = Array.from({ length: count }, (_, at) => `${marked.has(at + 1) ? "▸" : ""}${at + 1}\n`);
    numbers.replaceChildren(...lines.join("").split(/(▸[0-9]+)/).map(boldIfMarked));
    numbers.scrollTop = area.scrollTop;
  };
  area.addEventListener("input", show);
  area.addEventListener("scroll", () => { numbers.scrollTop = area.scrollTop; });
  findings.addEventListener("click", (event) => {
    const link = event.target.closest("[data-line]");
    if (link) {
      event.preventDefault();
      selectLine(area, Number(link.dataset.line));
    }
  });
  return show;
}

function boldIfMarked(text) {
  if (!text.startsWith("▸")) {
    return text;
  }
  const mark = document.createElement("b");
  mark.textContent = text;
  return mark;
}

function selectLine(area, line) {
  const lines = area.value.split("\n");
  const start = lines.slice(0, line - 1).reduce((sum, one) => sum + one.length + 1, 0);
  area.focus();
  area.setSelectionRange(start, start + (lines[line - 1] ?? "").length);
  area.scrollTop = (line - 4) * parseFloat(getComputedStyle(area).lineHeight);
  area.scrollLeft = 0;
}

function checkWhileTyping(area, findings, showNumbers) {
  let timer = 0;
  let newest = 0;
  area.addEventListener("input", () => {
    findings.classList.add("stale");
    clearTimeout(timer);
    timer = setTimeout(check, QUIET_MS);
  });
  if (area.value !== area.defaultValue) {
    check(); // the text was typed before this script ran, or kept by the browser
  }

  async function check() {
    const sequence = ++newest;
    let html;
    try {
      const reply = await fetch(area.dataset.check, {
        method: "POST",
        headers: { "x-csrf-token": csrf },
        body: new URLSearchParams({ text: area.value }),
      });
      html = reply.ok ? await reply.text() : null;
    } catch {
      html = null;
    }
    if (sequence !== newest) {
      return; // the answer is for an older text
    }
    if (html === null) {
      findings.textContent = "The text could not be checked. Are you still signed in?";
    } else {
      findings.innerHTML = html; // from check.html, which escapes every value
    }
    findings.classList.remove("stale");
    showNumbers();
    area.toggleAttribute("aria-invalid", false);
    if (findings.querySelector(".verdict.bad")) {
      area.setAttribute("aria-invalid", "true");
    }
  }
}
