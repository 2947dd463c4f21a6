//! Sets of completion indexes in their short spelling: `0-3,7`.

use std::collections::BTreeSet;
use std::fmt::Write;

/// Reads the spelling; what cannot be read is left out, as upstream does.
pub(super) fn parse(text: &str, completions: i32) -> BTreeSet<i32> {
    let mut all = BTreeSet::new();
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(first), Ok(last)) = (first.parse::<i32>(), last.parse::<i32>()) {
            all.extend((first..=last).take_while(|index| *index < completions));
        }
    }
    all
}

/// Writes the spelling.
pub(super) fn print(all: &BTreeSet<i32>) -> String {
    let mut text = String::new();
    let mut rest = all.iter().copied().peekable();
    while let Some(first) = rest.next() {
        let mut last = first;
        while rest.peek() == Some(&(last + 1)) {
            last += 1;
            rest.next();
        }
        let comma = if text.is_empty() { "" } else { "," };
        let written = match last - first {
            0 => write!(text, "{comma}{first}"),
            1 => write!(text, "{comma}{first},{last}"),
            _ => write!(text, "{comma}{first}-{last}"),
        };
        written.expect("a string takes all that is written");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indexes_are_spelled_in_ranges() {
        for text in ["", "0", "0,1", "0-2", "1,3-5,7", "0-2,4,5,9"] {
            assert_eq!(print(&parse(text, 100)), text);
        }
        assert_eq!(print(&parse("0-9", 4)), "0-3");
    }
}
