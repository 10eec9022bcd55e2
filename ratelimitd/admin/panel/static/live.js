// Refreshes the parts of a page that change by themselves, every few seconds while the page is visible.
// The page works without this script: it then has a link that reloads it.
"use strict";

const EVERY_MS = 5000; // from the end of one request to the start of the next
const PATIENCE_MS = 10000; // after this time a request has failed

const live = document.querySelector("[data-live]");
const trouble = document.querySelector("[data-trouble]");
const pause = document.querySelector("[data-pause]");

let timer = 0;
let asking = false;
let paused = false;
let ended = false;

document.querySelector("[data-reload]").hidden = true;
pause.hidden = false;
pause.addEventListener("click", () => {
  paused = !paused;
  pause.textContent = paused ? "Resume updates" : "Pause updates";
  refresh();
});
document.addEventListener("visibilitychange", refresh);
plan();

function resting() {
  return paused || ended || document.hidden;
}

function plan() {
  clearTimeout(timer);
  if (!resting()) {
    timer = setTimeout(refresh, EVERY_MS);
  }
}

async function refresh() {
  clearTimeout(timer);
  if (asking || resting()) {
    return; // the request under way plans the next one
  }
  asking = true;
  try {
    show(await answer());
  } catch {
    report("The admin service does not answer. Trying again every 5 seconds.");
  }
  asking = false;
  plan();
}

// A redirect leads to the form for signing in. The store may be away (503) and come back.
async function answer() {
  const reply = await fetch(live.dataset.live, { redirect: "manual", signal: AbortSignal.timeout(PATIENCE_MS) });
  const signedOut = reply.type === "opaqueredirect";
  return { signedOut, status: reply.status, html: reply.ok ? await reply.text() : "" };
}

function show({ signedOut, status, html }) {
  if (signedOut) {
    ended = true;
    pause.hidden = true;
    document.querySelector("[data-signed-out]").hidden = false;
    report("Your session has ended. This page shows what it showed last.");
  } else if (!html) {
    const reason = status === 503 ? "The store does not answer." : `The admin service answers with status ${status}.`;
    report(`${reason} Trying again every 5 seconds.`);
  } else if (!paused) {
    replaceParts(new DOMParser().parseFromString(html, "text/html").body); // the templates escape every value
    report("");
  }
}

// A screen reader reads a change aloud, so the same text is not written again.
function report(text) {
  if (trouble.textContent !== text) {
    trouble.textContent = text;
  }
}

// Replaces only the parts that differ: selection, scrolling and open details of the others stay where they are.
function replaceParts(fresh) {
  const parts = new Map(Array.from(live.querySelectorAll("[data-part]"), (part) => [part.id, part]));
  const found = fresh.querySelectorAll("[data-part]");
  if (found.length !== parts.size || Array.from(found).some((part) => !parts.has(part.id))) {
    location.reload(); // a later version of the service
    return;
  }
  for (const part of found) {
    const old = parts.get(part.id);
    if (old.innerHTML !== part.innerHTML) {
      const focused = old.contains(document.activeElement) ? document.activeElement.getAttribute("href") : null;
      old.replaceChildren(...part.childNodes);
      focusLink(old, focused);
    }
  }
}

// The keyboard's focus stays at the link that had it.
function focusLink(part, href) {
  const link = href && Array.from(part.querySelectorAll("a")).find((one) => one.getAttribute("href") === href);
  if (link) {
    link.focus({ preventScroll: true });
  }
}
