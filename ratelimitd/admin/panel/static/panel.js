// What makes the editor pleasant: line numbers that show what is wrong, and a check while one types.
// Every page works without it.
"use strict";

const QUIET_MS = 400; // after the last key, before the text is checked

const csrf = document.querySelector("meta[name=csrf]")?.content ?? "";

for (const area of document.querySelectorAll("textarea[data-check], textarea[readonly]")) {
  const reading = document.getElementById(area.getAttribute("aria-describedby"));
  const number = numbering(area, area.parentElement.querySelector("[data-numbers]"), reading);
  number();
  if (area.dataset.check) {
    checkWhileTyping(area, reading, number);
  }
}

function numbering(area, numbers, reading) {
  let shown = "";
  const show = () => {
    const marked = new Set(Array.from(reading.querySelectorAll("[data-line]"), (one) => Number(one.dataset.line)));
    const count = area.value.split("\n").length;
    const now = [count, ...marked].join();
    if (now === shown) {
      return;
    }
    shown = now;
    const lines = Array.from({ length: count }, (_, at) => `${marked.has(at + 1) ? "▸" : ""}${at + 1}\n`);
    numbers.replaceChildren(...lines.join("").split(/(▸[0-9]+)/).map(marking));
    numbers.scrollTop = area.scrollTop;
  };
  area.addEventListener("input", show);
  area.addEventListener("scroll", () => { numbers.scrollTop = area.scrollTop; });
  reading.addEventListener("click", (event) => {
    const link = event.target.closest("[data-line]");
    if (link) {
      event.preventDefault();
      goTo(area, Number(link.dataset.line));
    }
  });
  return show;
}

function marking(text) {
  if (!text.startsWith("▸")) {
    return text;
  }
  const mark = document.createElement("b");
  mark.textContent = text;
  return mark;
}

function goTo(area, line) {
  const lines = area.value.split("\n");
  const start = lines.slice(0, line - 1).reduce((sum, one) => sum + one.length + 1, 0);
  area.focus();
  area.setSelectionRange(start, start + (lines[line - 1] ?? "").length);
  area.scrollTop = (line - 4) * parseFloat(getComputedStyle(area).lineHeight);
  area.scrollLeft = 0;
}

function checkWhileTyping(area, reading, number) {
  let timer = 0;
  let newest = 0;
  area.addEventListener("input", () => {
    reading.classList.add("stale");
    clearTimeout(timer);
    timer = setTimeout(check, QUIET_MS);
  });
  if (area.value !== area.defaultValue) {
    check(); // typed before this script was here, or kept by the browser
  }

  async function check() {
    const asked = ++newest;
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
    if (asked !== newest) {
      return; // the answer to an older text
    }
    if (html === null) {
      reading.textContent = "This could not be checked; are you still signed in?";
    } else {
      reading.innerHTML = html; // made and escaped by our own templates
    }
    reading.classList.remove("stale");
    number();
    area.toggleAttribute("aria-invalid", false);
    if (reading.querySelector(".verdict.bad")) {
      area.setAttribute("aria-invalid", "true");
    }
  }
}
