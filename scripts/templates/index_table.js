// The table of runs: its rows, in which order, which of them, and what is chosen by pointer and by keyboard.

function state(run) {
  if (run.status === "unfinished" && run.steps.length) {
    const [step, value] = [run.steps.at(-1), run.parts[""].at(-1)];
    return `${accuracy(value) || "no accuracy"} on validation at step ${step.toLocaleString("en")}`;
  }
  return run.status === "damaged" ? `${run.name}: ${run.why}` : "";
}

function makeRow(run) {
  const cell = (column, ...content) => element("td", { role: "gridcell", "data-name": title(column),
    class: `${column}${NUMBERS.has(column) ? " number" : ""}` }, ...content);
  const small = (said) => (said ? [element("small", {}, said)] : []);
  run.box = element("input", { type: "checkbox", tabindex: -1, "aria-label": `Choose ${run.name}` });
  const told = FIELDS.map((field) => cell(field, text(run[field])));
  const status = told.at(-1);
  told[0].append(...small(also(run)));
  status.append(...small(state(run)));
  status.classList.add(run.status);
  run.row = element("tr", { role: "row", title: run.name }, cell("choose", run.box), ...told);
  run.row.run = run;
  if (run.status === "damaged") {
    status.colSpan = COLUMNS.length - FIELDS.length + 2; // the reason in place of what there is not
    return;
  }
  const above = cell("above", (run.above > 0 ? "+" : "") + accuracy(run.above));
  if (run.above !== null) above.classList.add(run.above > 0 ? "above" : "below");
  const door = cell("page");
  run.row.append(cell("test", accuracy(run.test)), cell("floor", accuracy(run.floor), ...small(run.predictor)), above, door);
  if (run.page) {
    run.door = element("a", { href: run.page, "aria-label": `Page of ${run.name}` }, "page");
  } else if (run.status !== "unfinished") {
    run.door = element("button", { type: "button", "aria-label": `The command that makes the page of ${run.name}` }, "make page");
  }
  if (run.door) {
    run.door.tabIndex = -1;
    door.append(run.door);
  }
}

function makeTable() {
  const heads = [element("th", { role: "columnheader" }, element("span", { class: "hidden" }, "chosen"))];
  for (const column of COLUMNS) {
    heads.push(element("th", { role: "columnheader", class: NUMBERS.has(column) ? "number" : "" },
                       element("button", { type: "button", "data-sort": column }, title(column))));
  }
  heads.push(element("th", { role: "columnheader" }, element("span", { class: "hidden" }, "page")));
  runs.forEach(makeRow);
  const body = element("tbody", { role: "rowgroup" });
  const table = element("table", { role: "grid", "aria-label": "Runs", "aria-multiselectable": "true" },
                        element("thead", { role: "rowgroup" }, element("tr", { role: "row" }, ...heads)), body);
  find("runs").append(table, element("p", { class: "empty soft", hidden: "" }, "No run matches the filters."));
  table.addEventListener("click", (event) => {
    const row = event.target.closest("tbody tr"), sort = event.target.dataset.sort;
    if (sort) {
      const usual = (FALLING.has(sort) ? "-" : "") + sort;
      view.sort = view.sort === usual ? (usual === sort ? `-${sort}` : sort) : usual;
      update();
    } else if (event.target.closest("td.page button")) {
      showCommand(row.run);
    } else if (row && !event.target.closest("a") && getSelection().isCollapsed) {
      toggle([row.run], !chosen.has(row.run));
      row.run.box.focus({ preventScroll: true });
    }
  });
  body.addEventListener("keydown", move);
  body.addEventListener("focusin", (event) => {
    const row = event.target.closest("tr");
    body.querySelectorAll('input[tabindex="0"]').forEach((box) => (box.tabIndex = -1));
    row.run.box.tabIndex = 0;
    light(slots.get(row.run.group));
  });
  body.addEventListener("focusout", () => light());
  body.addEventListener("mouseover", (event) => light(slots.get(event.target.closest("tr")?.run.group)));
  body.addEventListener("mouseleave", () => light());
}

// The arrow keys in the table.
function move(event) {
  const run = event.target.closest("tr").run, place = shown.indexOf(run), page = 10;
  const targets = { ArrowDown: place + 1, ArrowUp: place - 1, Home: 0, End: shown.length - 1,
                    PageDown: place + page, PageUp: place - page };
  if (event.key in targets) {
    shown[Math.max(0, Math.min(shown.length - 1, targets[event.key]))].box.focus();
  } else if (event.key === "ArrowRight" && run.door) {
    run.door.focus();
  } else if (event.key === "ArrowLeft") {
    run.box.focus();
  } else {
    return;
  }
  event.preventDefault();
}

function compare(one, other) {
  const falling = view.sort.startsWith("-"), column = view.sort.replace("-", "");
  const [first, second] = [one[column], other[column]];
  const missing = (value) => value === null || value === undefined || value === "";
  if (missing(first) || missing(second)) return missing(first) - missing(second); // last, whichever way round
  return falling ? -order(first, second) : order(first, second);
}

function showTable() {
  const words = view.words.toLowerCase().split(/\s+/).filter(Boolean);
  const asked = Object.entries(view.only);
  const kept = runs.filter((run) => words.every((word) => run.searched.includes(word))
                                    && asked.every(([field, value]) => text(run[field]) === value));
  shown = view.sort ? kept.toSorted(compare) : kept;
  document.querySelector("#runs tbody").replaceChildren(...shown.map((run) => run.row));
  document.querySelector("#runs .empty").hidden = shown.length > 0;
  if (shown.length && !shown.some((run) => run.box.tabIndex === 0)) shown[0].box.tabIndex = 0;
  for (const button of document.querySelectorAll("#runs th button")) {
    const column = button.dataset.sort;
    const order = view.sort === column ? "ascending" : view.sort === `-${column}` ? "descending" : "none";
    button.parentElement.setAttribute("aria-sort", order);
    button.textContent = title(column) + { ascending: " ↑", descending: " ↓", none: "" }[order];
  }
}

function showChoice() {
  const groups = new Set([...chosen].map((run) => run.group));
  for (const group of slots.keys()) if (!groups.has(group)) slots.delete(group);
  const taken = new Set(slots.values());
  let free = 0;
  for (const group of groups) {
    if (slots.has(group)) continue;
    while (taken.has(free)) free += 1;
    slots.set(group, free);
    taken.add(free);
  }
  for (const run of runs) {
    run.box.checked = chosen.has(run);
    run.row.classList.toggle("chosen", run.box.checked);
    run.row.setAttribute("aria-selected", run.box.checked);
  }
  const seen = new Set(shown);
  const unseen = [...chosen].filter((run) => !seen.has(run)).length;
  find("count").textContent = `${shown.length} of ${runs.length} runs are shown, ${chosen.size} chosen`
    + (unseen ? `, ${unseen} of these not shown.` : ".");
  find("clear").disabled = chosen.size === 0;
  find("choose").disabled = shown.length === 0;
}

function toggle(some, on) {
  for (const run of some) on ? chosen.add(run) : chosen.delete(run);
  updateChoice();
}

function showCommand(run) {
  find("command").value = run.command;
  find("making").showModal();
  find("command").select();
}
