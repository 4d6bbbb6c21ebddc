"use strict";
const table = document.getElementById("table");
const body = table.tBodies[0];
const original = [...body.rows];
const filter = document.getElementById("filter");
const count = document.getElementById("count");

// Cells sort by number where both are numbers; what is empty comes last in either direction.
function compare(a, b, column, sign) {
  const x = a.cells[column].dataset.sort, y = b.cells[column].dataset.sort;
  if (x === "" || y === "") return (x === "") - (y === "");
  const p = Number(x), q = Number(y);
  if (!Number.isNaN(p) && !Number.isNaN(q)) return sign * (p - q);
  return sign * x.localeCompare(y);
}

// A header sorts upwards, then downwards, then puts back the order of the report.
[...table.tHead.rows[0].cells].forEach((head, column) => {
  head.querySelector("button").addEventListener("click", () => {
    const next = { none: "ascending", ascending: "descending", descending: "none" }[head.getAttribute("aria-sort")];
    for (const other of table.tHead.rows[0].cells) other.setAttribute("aria-sort", "none");
    head.setAttribute("aria-sort", next);
    table.classList.toggle("sorted", next !== "none");
    const rows = [...original];
    if (next !== "none") rows.sort((a, b) => compare(a, b, column, next === "ascending" ? 1 : -1));
    body.append(...rows);
  });
});

// A row stays if each word is in it; NAME=VALUE asks for a value of one column.
const names = [...table.tHead.rows[0].cells].map((head) => head.textContent.trim().toLowerCase());
function matches(row, word) {
  const [name, value] = word.split("=", 2);
  const column = names.indexOf(name);
  if (value !== undefined && column >= 0) return row.cells[column].textContent.trim().toLowerCase() === value;
  return row.textContent.toLowerCase().includes(word);
}
filter.addEventListener("input", () => {
  const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0;
  for (const row of original) {
    row.hidden = !words.every((word) => matches(row, word));
    if (!row.hidden) shown++;
  }
  count.textContent = words.length ? `${shown} of ${original.length} rows` : "";
});

// Paper unfolds nothing.
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((d) => { d.open = true; }));
