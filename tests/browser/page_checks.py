"""What tests of the panel check on any page: it fits, its text has enough contrast, and the focus is visible.

The scripts return the elements that break the rule.
"""

import pytest
from playwright.async_api import Locator, Page

MANY_STOPS = 30

_CONTRAST = """
  const parse = colour => colour.match(/[\\d.]+/g).map(Number);
  const channel = value => (value /= 255) <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
  const luminance = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
  const contrast = (one, other) => {
    const [dark, light] = [one, other].map(luminance).sort((a, b) => a - b);
    return (light + 0.05) / (dark + 0.05);
  };"""
"""Contrast of two colours (WCAG 2.2, section 1.4.3)."""

OUT_OF_SIGHT = """() => [...document.querySelectorAll("tbody th, tbody td")].filter(cell => {
  const box = cell.getBoundingClientRect();
  const named = !cell.innerText.trim() || cell.dataset.label || cell.querySelector("a, .badge");
  return !named || box.right > innerWidth || cell.scrollWidth > cell.clientWidth
    || cell.scrollHeight > cell.clientHeight;
}).map(cell => cell.outerHTML)"""

FAINT = (
    f"""() => {{{_CONTRAST}"""
    """
  const behind = element => {
    for (let one = element; one; one = one.parentElement) {
      const ground = parse(getComputedStyle(one).backgroundColor);
      if (ground.length === 3 || ground[3] === 1) return ground;
    }
    throw new Error("nothing is behind the page");
  };
  const faint = [];
  let seen = 0;
  for (const element of document.body.querySelectorAll("*")) {
    const own = [...element.childNodes].filter(one => one.nodeType === Node.TEXT_NODE);
    const field = element.matches("input, textarea");
    const text = field ? element.value : own.map(one => one.data).join("");
    if (!text.trim() || !element.checkVisibility() || element.closest("script")) continue;
    seen += 1;
    const found = contrast(parse(getComputedStyle(element).color), behind(element));
    if (found < 4.5) faint.push(`${found.toFixed(2)} ${element.outerHTML.slice(0, 80)}`);
  }
  return seen > 5 ? faint : ["only " + seen + " texts"];
}"""
)

MISPLACED = """() => {
  const wrong = [];
  for (const plot of document.querySelectorAll(".plot")) {
    const card = plot.closest(".card").getBoundingClientRect();
    const texts = [...plot.querySelectorAll("text")].filter(one => one.checkVisibility());
    const boxes = texts.map(one => one.getBoundingClientRect());
    boxes.forEach((box, at) => {
      const size = parseFloat(getComputedStyle(texts[at]).fontSize);
      const outside = box.left < card.left || box.right > card.right || box.bottom > card.bottom;
      const hit = boxes.some((other, place) => place < at && box.left < other.right && other.left < box.right
        && box.top < other.bottom - 3 && other.top < box.bottom - 3);
      if (size < 12 || outside || hit) wrong.push(plot.getAttribute("aria-labelledby") + texts[at].outerHTML);
    });
    const edge = plot.getBoundingClientRect();
    for (const line of plot.querySelectorAll(".line")) {
      const box = line.getBoundingClientRect();
      const inside = box.left >= edge.left - 1 && box.right <= edge.right + 1 && box.top >= edge.top - 1;
      if (!inside) wrong.push(line.outerHTML);
    }
  }
  return wrong;
}"""
"""Texts of charts that are too small, outside their card or on other texts, and lines outside their plot."""

FAINT_LINES = (
    f"""() => {{{_CONTRAST}"""
    """
  const onCard = (colour, element) =>
    contrast(parse(colour), parse(getComputedStyle(element.closest(".card")).backgroundColor));
  const all = selector => [...document.querySelectorAll(selector)].map(one => [one, getComputedStyle(one)]);
  const lines = all(".chart .line"), texts = all(".plot text");
  const faint = [
    ...lines.filter(([one, style]) => onCard(style.stroke, one) < 3),
    ...texts.filter(([one, style]) => onCard(style.fill, one) < 4.5),
  ];
  const dashes = new Set(lines.map(([, style]) => style.strokeDasharray));
  return dashes.size === 5 ? faint.map(([one]) => one.outerHTML) : [`${dashes.size} kinds of dashes`];
}"""
)

FOCUS_SHOWS = """() => {
  const style = getComputedStyle(document.activeElement);
  return style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2;
}"""


async def tab_to(page: Page, wanted: Locator) -> None:
    """Presses Tab until `wanted` has the focus. Each stop on the way must show its focus."""
    await page.wait_for_load_state()  # the style sheet, which draws the focus, may load after the page
    for _ in range(MANY_STOPS):
        await page.keyboard.press("Tab")
        assert await page.evaluate(FOCUS_SHOWS), await page.evaluate("document.activeElement.outerHTML")
        if await wanted.evaluate("wanted => wanted === document.activeElement"):
            return
    pytest.fail(f"{wanted} is not reached")
