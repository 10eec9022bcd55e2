// What makes the editor pleasant: line numbers, and a check while one types. Every page works without it.
"use strict";

const QUIET_MS = 400; // after the last key, before the text is checked

const csrf = document.querySelector("meta[name=csrf]")?.content ?? "";

for (const area of document.querySelectorAll("textarea[data-check], textarea[readonly]")) {
  number(area, area.parentElement.querySelector("[data-numbers]"));
  if (area.dataset.check) {
    checkWhileTyping(area, document.getElementById(area.getAttribute("aria-describedby")));
  }
}

function number(area, numbers) {
  let shown = 0;
  const show = () => {
    const lines = area.value.split("\n").length;
    if (lines !== shown) {
      numbers.textContent = Array.from({ length: lines }, (_, at) => at + 1).join("\n") + "\n";
      shown = lines;
    }
  };
  area.addEventListener("input", show);
  area.addEventListener("scroll", () => { numbers.scrollTop = area.scrollTop; });
  show();
}

function checkWhileTyping(area, reading) {
  let timer = 0;
  let newest = 0;
  area.addEventListener("input", () => {
    reading.classList.add("stale");
    clearTimeout(timer);
    timer = setTimeout(check, QUIET_MS);
  });

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
    area.toggleAttribute("aria-invalid", false);
    if (reading.querySelector(".verdict.bad")) {
      area.setAttribute("aria-invalid", "true");
    }
  }
}
