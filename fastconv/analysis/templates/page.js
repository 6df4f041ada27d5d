// Tables of class "sortable" sort by the column whose header is clicked, or reached by Tab and Enter; again the other way.
for (const table of document.querySelectorAll("table.sortable")) {
  const headers = [...table.tHead.rows[0].cells], body = table.tBodies[0];
  const key = (row, column) => {
    const text = row.cells[column].textContent.trim().replace(/(\d),(?=\d{3})/g, "$1")  // 1,234 is a number
      .replace(/^([+-]?[\d.]+)( ± [\d.]+)?( of [\d.]+)?$/, "$1");  // and so are 93.87 ± 0.12 and 25.0 of 25
    return text !== "" && isFinite(text) ? Number(text) : text;
  };
  const sort = (column) => {
    const down = headers[column].ariaSort === "ascending" ? -1 : 1;
    for (const each of headers) each.removeAttribute("aria-sort");
    headers[column].ariaSort = down === 1 ? "ascending" : "descending";
    const rows = [...body.rows].map((row) => [key(row, column), row]);
    rows.sort(([a], [b]) => {
      if (a === "" || b === "") return (a === "") - (b === "");  // what has no value stays below
      if (typeof a !== typeof b) return typeof a === "number" ? -1 : 1;
      return down * (typeof a === "number" ? a - b : a.localeCompare(b));
    });
    body.append(...rows.map(([, row]) => row));
  };
  headers.forEach((header, column) => {
    header.tabIndex = 0;
    header.addEventListener("click", () => sort(column));
    header.addEventListener("keydown", (event) => event.key === "Enter" && sort(column));
  });
}
// What is wider than the page scrolls: a line above says so, and its edge fades where more of it lies.
for (const wide of document.querySelectorAll(".wide")) {
  const line = document.createElement("p");
  line.className = "scrolls";
  line.textContent = "Wider than this page: scroll it sideways.";
  wide.before(line);
  const look = () => {
    const more = wide.scrollWidth - wide.clientWidth;
    line.hidden = more < 2;
    wide.classList.toggle("more-left", wide.scrollLeft > 1);
    wide.classList.toggle("more-right", wide.scrollLeft < more - 1);
    if (more < 2) wide.removeAttribute("tabindex"); else wide.tabIndex = 0;  // for the arrow keys
  };
  wide.addEventListener("scroll", look, {passive: true});
  const sizes = new ResizeObserver(look);
  sizes.observe(wide);
  sizes.observe(wide.firstElementChild);
  look();
}
