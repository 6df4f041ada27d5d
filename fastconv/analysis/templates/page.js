// Tables of class "sortable" sort by the column whose header is clicked, or reached by Tab and Enter; again the other way.
for (const table of document.querySelectorAll("table.sortable")) {
  const headers = [...table.tHead.rows[0].cells], body = table.tBodies[0];
  const key = (row, column) => {
    const text = row.cells[column].textContent.trim().replace(/(\d),(?=\d{3})/g, "$1");  // 1,234 is a number
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
