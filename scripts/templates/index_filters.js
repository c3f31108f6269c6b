// The filters, and the address that keeps them with the order and the choice.

function makeFilters() {
  for (const field of FIELDS) {
    const values = [...new Set(runs.map((run) => run[field]).filter((value) => value !== null && value !== undefined))];
    values.sort(order);
    const select = element("select", { "data-field": field }, element("option", { value: "" }, "any"));
    for (const value of values) select.append(element("option", { value: text(value) }, text(value)));
    find("fields").append(element("label", {}, title(field), select));
    select.addEventListener("change", () => {
      if (select.value) view.only[field] = select.value;
      else delete view.only[field];
      update();
    });
  }
  const sort = find("sort");
  sort.append(element("option", { value: "" }, "name"));
  for (const column of COLUMNS) {
    for (const [dash, word] of [["", "rising"], ["-", "falling"]]) {
      sort.append(element("option", { value: dash + column }, `${title(column)}, ${word}`));
    }
  }
  sort.addEventListener("change", () => {
    view.sort = sort.value;
    update();
  });
  find("words").addEventListener("input", () => {
    view.words = find("words").value;
    update();
  });
  find("filters").addEventListener("reset", (event) => {
    event.preventDefault();
    Object.assign(view, { words: "", only: {} });
    update();
  });
  find("filters").addEventListener("submit", (event) => event.preventDefault());
}

function showFilters() {
  if (find("words").value !== view.words) find("words").value = view.words;
  find("sort").value = view.sort;
  for (const select of document.querySelectorAll("#fields select")) select.value = view.only[select.dataset.field] ?? "";
}

let writing = null;

function writeAddress() {
  const stated = new URLSearchParams(view.only);
  for (const key of ["words", "sort", "part"]) if (view[key]) stated.set(key, view[key]);
  for (const run of chosen) stated.append("run", run.name);
  clearTimeout(writing);
  writing = setTimeout(() => history.replaceState(null, "", `#${stated}`), DEBOUNCE);
}

// What the address asks for and this folder does not have, since it is an old link say, is left out.
function readAddress() {
  const stated = new URLSearchParams(location.hash.slice(1));
  const sort = stated.get("sort") ?? "";
  Object.assign(view, { words: stated.get("words") ?? "", part: stated.get("part") ?? "", only: {},
                        sort: COLUMNS.includes(sort.replace("-", "")) ? sort : "" });
  for (const field of FIELDS) {
    const value = stated.get(field);
    if (value && runs.some((run) => text(run[field]) === value)) view.only[field] = value;
  }
  const named = new Map(runs.map((run) => [run.name, run]));
  chosen.clear();
  for (const name of stated.getAll("run")) if (named.has(name)) chosen.add(named.get(name));
}
