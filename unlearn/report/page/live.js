"use strict";
const body = document.getElementById("runs").tBodies[0];
const left = document.getElementById("left");
const fresh = document.getElementById("fresh");

// Texts come from run folders: they are set as text, never as markup.
function cell(text, i) {
  const c = document.createElement(i === 0 ? "th" : "td");
  if (i === 0) c.scope = "row";
  c.textContent = text;
  return c;
}

function say(element, text) {
  if (element.textContent !== text) element.textContent = text; // screen readers speak what changes
}

async function refresh() {
  try {
    const answer = await fetch("/status.json", { cache: "no-store" });
    const status = await answer.json();
    body.replaceChildren(...status.runs.map((texts) => {
      const row = document.createElement("tr");
      row.append(...texts.map(cell));
      return row;
    }));
    say(left, status.error || status.left);
    say(fresh, "Live.");
  } catch {
    say(fresh, "No answer: unlearn report --serve has ended.");
  }
  setTimeout(refresh, 2000);
}
refresh();
