//! Tables of HTML as Markdown can have them: a grid, each cell in one column and one row.

use dom_query::{Document, NodeRef};

/// A table that is wider, or a cell that is higher, is left as it is.
const MAX_COLUMNS: usize = 200;
const MAX_SPAN: usize = 1000;

/// Makes every table of the page a grid: a cell over several rows stands in each of them, one over several columns in the
/// first, and short rows are filled up. A table within a table belongs to the layout of the page, and is left alone.
pub(super) fn regular(page: &Document) {
    for table in page.select("table").nodes() {
        if !table.find(&["table"]).is_empty() || !table.find(&["tbody", "tr", "td", "table"]).is_empty() {
            continue;
        }
        for caption in table.children_it(false).filter(|child| child.has_name("caption")).collect::<Vec<_>>() {
            caption.rename("p");
            table.insert_before(&caption);
        }
        grid(page, table);
    }
}

fn grid(page: &Document, table: &NodeRef<'_>) {
    let parts = table.element_children();
    let sections = parts.iter().filter(|part| ["thead", "tbody", "tfoot"].iter().any(|name| part.has_name(name)));
    let rows: Vec<NodeRef<'_>> =
        sections.flat_map(NodeRef::element_children).filter(|row| row.has_name("tr")).collect();
    let span =
        |cell: &NodeRef<'_>, name: &str| cell.attr(name).and_then(|span| span.trim().parse().ok()).unwrap_or(1_usize);
    // For each column the cell that reaches down into the next rows, and how many of them.
    let mut above: Vec<Option<(String, usize)>> = Vec::new();
    let mut widths = Vec::with_capacity(rows.len());
    for row in &rows {
        let mut column = 0;
        for cell in row.element_children() {
            column = from_above(&mut above, column, |text| cell.insert_before(&new_cell(page, text)));
            let (down, right) =
                (span(&cell, "rowspan").clamp(1, MAX_SPAN), span(&cell, "colspan").clamp(1, MAX_COLUMNS));
            cell.remove_attrs(&["rowspan", "colspan"]);
            for extra in 0..right {
                if column >= MAX_COLUMNS {
                    return;
                }
                if above.len() <= column {
                    above.resize(column + 1, None);
                }
                if down > 1 {
                    let text = if extra == 0 { cell.text().trim().to_owned() } else { String::new() };
                    above[column] = Some((text, down - 1));
                }
                if extra > 0 {
                    cell.insert_after(&new_cell(page, ""));
                }
                column += 1;
            }
        }
        widths.push(from_above(&mut above, column, |text| row.append_child(&new_cell(page, text))));
    }
    let most = widths.iter().copied().max().unwrap_or(0);
    for (row, width) in rows.iter().zip(widths) {
        for _ in width..most {
            row.append_child(&new_cell(page, ""));
        }
    }
}

/// Puts in what reaches down into this row from `column` on; answers the next column that is free.
fn from_above(above: &mut [Option<(String, usize)>], mut column: usize, put: impl Fn(&str)) -> usize {
    while let Some(Some((text, left))) = above.get_mut(column) {
        put(text);
        *left -= 1;
        if *left == 0 {
            above[column] = None;
        }
        column += 1;
    }
    column
}

fn new_cell<'a>(page: &'a Document, text: &str) -> NodeRef<'a> {
    let cell = page.tree.new_element("td");
    cell.set_text(text);
    cell
}
