//! Tables that a person can read at once: columns under their headings,
//! figures flush right.

/// Where the text of a column stands.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Names.
    Left,
    /// Figures.
    Right,
}

/// Lays rows out under headings, without blanks at the ends of lines.
pub fn table<const N: usize>(columns: [(&str, Side); N], rows: &[[String; N]]) -> String {
    let widths: Vec<usize> = columns
        .iter()
        .enumerate()
        .map(|(at, (heading, _))| {
            let cells = rows.iter().filter_map(|row| row.get(at));
            let widest = cells.map(|cell| cell.chars().count()).max();
            widest.unwrap_or_default().max(heading.chars().count())
        })
        .collect();
    let line = |cells: &[&str]| {
        let padded = cells.iter().zip(&widths).zip(&columns);
        let padded: Vec<String> = padded
            .map(|((cell, width), (_, side))| match side {
                Side::Left => format!("{cell:<width$}"),
                Side::Right => format!("{cell:>width$}"),
            })
            .collect();
        padded.join("  ").trim_end().to_owned()
    };
    let headings = columns.map(|(heading, _)| heading);
    let mut lines = vec![line(&headings)];
    for row in rows {
        let cells: Vec<&str> = row.iter().map(String::as_str).collect();
        lines.push(line(&cells));
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_stand_under_their_headings() {
        let rows = [
            ["a".to_owned(), "5".to_owned()],
            ["longer".to_owned(), "12.5".to_owned()],
        ];
        assert_eq!(
            table([("RUN", Side::Left), ("CREDITS", Side::Right)], &rows),
            "RUN     CREDITS\na             5\nlonger     12.5"
        );
    }
}
