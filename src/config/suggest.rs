//! What the writer of an unknown key may have meant.

use super::problem::printable;
use super::schema::{self, KEYS, LINE_TABLE};

/// The remedy for the unknown key `name` in the known table `table` (empty: the top).
pub(super) fn for_key(table: &str, name: &str) -> String {
    let here: Vec<String> = if table.is_empty() {
        schema::tables()
    } else {
        let known = schema::table(table);
        let keys = KEYS.iter().filter(|k| Some(k.table) == known);
        let below = format!("{table}.");
        let inner = schema::tables();
        keys.map(|k| k.name.to_owned())
            .chain(
                inner
                    .iter()
                    .filter_map(|t| t.strip_prefix(&below).map(ToOwned::to_owned)),
            )
            .collect()
    };
    if let Some(near) = nearest(name, here.iter().map(String::as_str)) {
        return format!("did you mean `{near}`?");
    }
    if let Some(key) = KEYS
        .iter()
        .find(|k| k.name == name && k.table != LINE_TABLE)
    {
        return format!("`{name}` belongs to [{}]", key.table);
    }
    if schema::LINES.contains(&name) {
        return format!("`{name}` is the table [board.{name}]");
    }
    if let Some(near) = nearest(name, KEYS.iter().map(|k| k.name)) {
        let home = KEYS.iter().find(|k| k.name == near).map_or("", |k| k.table);
        return format!("did you mean `{near}` of [{home}]?");
    }
    format!("known here: {}", here.join(", "))
}

/// The word that `name` was most likely meant to be, if any is near enough.
fn nearest<'a>(name: &str, words: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let name = printable(name).to_lowercase().replace('-', "_");
    let allowed = (name.chars().count() / 3).clamp(1, 3);
    words
        .map(|w| (distance(&name, w), w))
        .filter(|(d, _)| *d <= allowed)
        .min_by_key(|(d, _)| *d)
        .map(|(_, w)| w)
}

/// Edits (insert, delete, replace) between two short words.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_key_finds_its_word() {
        assert_eq!(for_key("power", "hold_up_ms"), "did you mean `holdup_ms`?");
        assert_eq!(for_key("power", "glich-ms"), "did you mean `glitch_ms`?");
        assert_eq!(for_key("", "powr"), "did you mean `power`?");
        assert_eq!(for_key("board", "powerfail"), "did you mean `power_fail`?");
    }

    #[test]
    fn a_key_in_the_wrong_table_is_sent_home() {
        assert_eq!(for_key("", "holdup_ms"), "`holdup_ms` belongs to [power]");
        assert_eq!(
            for_key("power", "batch_row"),
            "did you mean `batch_rows` of [store]?"
        );
    }

    #[test]
    fn a_word_like_no_other_gets_the_list() {
        assert!(for_key("store", "zzzzzzzz").starts_with("known here: commit_window_ms, "));
    }
}
