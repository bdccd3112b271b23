//! Writes HTML. Markup is what stands in this program; everything else is text, and escaped: it may come from a guest, a build
//! or a file of symbols, and must not become a part of the page.

use crate::printable::printable;

/// A page that is being written.
pub(super) struct Html {
    page: String,
}

/// A row of a table.
pub(super) struct Row {
    /// What it is, for its looks.
    pub class: &'static str,
    pub cells: Vec<String>,
}

impl Row {
    pub fn plain(cells: Vec<String>) -> Self {
        Row { class: "", cells }
    }
}

impl Html {
    pub fn new() -> Self {
        Html { page: String::new() }
    }

    pub fn finished(self) -> String {
        self.page
    }

    /// Markup, which is never made of anything that came from outside: so it is known when this is compiled.
    pub fn markup(&mut self, markup: &'static str) {
        self.page.push_str(markup);
    }

    /// Text.
    pub fn text(&mut self, text: &str) {
        let mut lines = text.split('\n').peekable();
        while let Some(line) = lines.next() {
            for char in printable(line).chars() {
                match char {
                    '&' => self.page.push_str("&amp;"),
                    '<' => self.page.push_str("&lt;"),
                    '>' => self.page.push_str("&gt;"),
                    '"' => self.page.push_str("&quot;"),
                    '\'' => self.page.push_str("&#39;"),
                    other => self.page.push(other),
                }
            }
            if lines.peek().is_some() {
                self.page.push('\n');
            }
        }
    }

    /// Text between two pieces of markup.
    pub fn within(&mut self, begin: &'static str, text: &str, end: &'static str) {
        self.markup(begin);
        self.text(text);
        self.markup(end);
    }

    /// A table, with names for its columns where they need any.
    pub fn table(&mut self, begin: &'static str, columns: &[&'static str], rows: impl Iterator<Item = Row>) {
        self.markup(begin);
        if !columns.is_empty() {
            self.markup("<thead><tr>");
            for column in columns {
                self.within("<th scope=\"col\">", column, "</th>");
            }
            self.markup("</tr></thead>");
        }
        self.markup("<tbody>\n");
        for row in rows {
            self.markup("<tr class=\"");
            self.markup(row.class);
            self.markup("\">");
            for cell in &row.cells {
                self.within("<td>", cell, "</td>");
            }
            self.markup("</tr>\n");
        }
        self.markup("</tbody></table>\n");
    }
}

#[cfg(test)]
mod tests {
    use super::Html;

    #[test]
    fn text_stays_text() {
        let mut html = Html::new();
        html.text("<script>alert(\"1\" & '2')</script>\n\u{1b}[2J");
        let expected = "&lt;script&gt;alert(&quot;1&quot; &amp; &#39;2&#39;)&lt;/script&gt;\n\u{fffd}[2J";
        assert_eq!(html.finished(), expected);
    }
}
