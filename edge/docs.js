"use strict";
const field = document.querySelector("input[type=search]");
const count = document.querySelector("#count");
const entries = [...document.querySelectorAll("article[id]")].map((element) => ({
  element,
  link: document.querySelector(`nav a[href="#${CSS.escape(element.id)}"]`)?.parentElement,
  text: element.textContent.toLowerCase(),
}));
const groups = [...document.querySelectorAll("main section, nav .group")];
function filter() {
  const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0;
  for (const { element, link, text } of entries) {
    element.hidden = !words.every((word) => text.includes(word));
    if (link) link.hidden = element.hidden;
    shown += element.hidden ? 0 : 1;
  }
  for (const group of groups) group.hidden = !group.querySelector("article:not([hidden]), li:not([hidden])");
  count.textContent = words.length ? `${shown} of ${entries.length}` : "";
}
field.addEventListener("input", filter);
document.addEventListener("keydown", (event) => {
  if (event.key === "/" && document.activeElement !== field) { event.preventDefault(); field.focus(); }
  if (event.key === "Escape" && document.activeElement === field) { field.value = ""; filter(); }
});
