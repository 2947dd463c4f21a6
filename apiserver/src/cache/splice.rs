//! Finished bytes around a resourceVersion.

use bytes::Bytes;

use crate::store::Revision;

const OPEN: &[u8] = b"\"resourceVersion\":\"";
const CLOSE: &[u8] = b"\",";

/// Finished bytes with a gap where the resourceVersion goes, so that a DELETED event or a selector exit carries another
/// revision without a copy.
#[derive(Debug, Clone)]
pub struct Splice {
    pub head: Bytes,
    pub tail: Bytes,
    gap: Gap,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Gap {
    /// `"resourceVersion":"N",`: the stored JSON has no such member, so the gap is a place between two of its bytes.
    Member,
    /// `N`.
    Digits,
    Nothing,
}

impl Splice {
    /// Finished bytes that hold no resourceVersion (or a fixed one).
    pub fn whole(bytes: Bytes) -> Self {
        Splice {
            head: bytes,
            tail: Bytes::new(),
            gap: Gap::Nothing,
        }
    }

    /// Bytes with a gap for the decimal revision and nothing else.
    pub fn digits(head: Bytes, tail: Bytes) -> Self {
        Splice {
            head,
            tail,
            gap: Gap::Digits,
        }
    }

    /// Finds the gap in the JSON of one object: the first place inside its `metadata`. A resourceVersion that is there
    /// is cut out. `None` where there is no JSON object with non-empty metadata.
    pub fn find(json: Bytes) -> Option<Self> {
        Some(super::scan::scan(&json, &[])?.splice(&json))
    }

    /// JSON with the gap at `at`, directly after the brace that opens metadata that has members.
    pub(super) fn member(json: &Bytes, at: usize) -> Self {
        Splice {
            head: json.slice(..at),
            tail: json.slice(at..),
            gap: Gap::Member,
        }
    }

    /// Appends the object with its resourceVersion.
    pub fn write_to(&self, revision: Revision, out: &mut Vec<u8>) {
        out.reserve(self.len(revision));
        out.extend_from_slice(&self.head);
        let mut digits = itoa::Buffer::new();
        match self.gap {
            Gap::Member => {
                out.extend_from_slice(OPEN);
                out.extend_from_slice(digits.format(revision.0).as_bytes());
                out.extend_from_slice(CLOSE);
            }
            Gap::Digits => out.extend_from_slice(digits.format(revision.0).as_bytes()),
            Gap::Nothing => {}
        }
        out.extend_from_slice(&self.tail);
    }

    /// The same as three pieces to be sent one after the other; only the middle one is made.
    pub fn chunks(&self, revision: Revision) -> [Bytes; 3] {
        let mut digits = itoa::Buffer::new();
        let middle = match self.gap {
            Gap::Member => {
                let digits = digits.format(revision.0).as_bytes();
                let mut middle = Vec::with_capacity(OPEN.len() + digits.len() + CLOSE.len());
                middle.extend_from_slice(OPEN);
                middle.extend_from_slice(digits);
                middle.extend_from_slice(CLOSE);
                middle.into()
            }
            Gap::Digits => Bytes::copy_from_slice(digits.format(revision.0).as_bytes()),
            Gap::Nothing => Bytes::new(),
        };
        [self.head.clone(), middle, self.tail.clone()]
    }

    /// Bytes that `write_to` appends.
    pub fn len(&self, revision: Revision) -> usize {
        let digits = revision.0.checked_ilog10().unwrap_or(0) as usize + 1;
        let gap = match self.gap {
            Gap::Member => OPEN.len() + digits + CLOSE.len(),
            Gap::Digits => digits,
            Gap::Nothing => 0,
        };
        self.head.len() + gap + self.tail.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(stored: &'static str, want: &str) {
        let splice = Splice::find(Bytes::from_static(stored.as_bytes())).unwrap();
        let mut out = Vec::new();
        splice.write_to(Revision(1200), &mut out);
        assert_eq!(String::from_utf8_lossy(&out), want);
        assert_eq!(splice.chunks(Revision(1200)).concat(), out);
        assert_eq!(splice.len(Revision(1200)), out.len());
        serde_json::from_slice::<serde_json::Value>(&out).unwrap();
    }

    #[test]
    fn the_revision_goes_first_into_metadata() {
        check(
            r#"{"kind":"A","metadata":{"name":"a"},"x":[{"metadata":{}}]}"#,
            r#"{"kind":"A","metadata":{"resourceVersion":"1200","name":"a"},"x":[{"metadata":{}}]}"#,
        );
        check(
            r#" {"spec":{"metadata":{"k":"\"}"}} , "metadata" : { "name":"a"} } "#,
            r#" {"spec":{"metadata":{"k":"\"}"}} , "metadata" : {"resourceVersion":"1200", "name":"a"} } "#,
        );
    }

    #[test]
    fn a_stored_revision_is_cut_out() {
        for stored in [
            r#"{"metadata":{"resourceVersion":"7","name":"a"}}"#,
            r#"{"metadata":{"name":"a","resourceVersion":"7"}}"#,
            r#"{"metadata":{"name":"a" , "resourceVersion" : "7" }}"#,
        ] {
            let splice = Splice::find(Bytes::from_static(stored.as_bytes())).unwrap();
            let mut out = Vec::new();
            splice.write_to(Revision(9), &mut out);
            let value: serde_json::Value = serde_json::from_slice(&out).unwrap();
            assert_eq!(
                value,
                serde_json::json!({"metadata": {"name": "a", "resourceVersion": "9"}})
            );
            assert_eq!(String::from_utf8(out).unwrap().matches("resourceVersion").count(), 1);
        }
    }

    #[test]
    fn what_is_no_object_with_metadata_has_no_gap() {
        for stored in [
            "",
            "[]",
            "{}",
            r#"{"metadata":{}}"#,
            r#"{"metadata":null}"#,
            r#"{"metadata":{"name":"a""#,
            r#"{"metadata":{"resourceVersion":"7"}}"#,
            "\"metadata\"",
        ] {
            assert!(
                Splice::find(Bytes::from_static(stored.as_bytes())).is_none(),
                "{stored}"
            );
        }
    }

    #[test]
    fn other_gaps_hold_digits_or_nothing() {
        let digits = Splice::digits(Bytes::from_static(b"a"), Bytes::from_static(b"b"));
        assert_eq!(digits.chunks(Revision(10)).concat(), b"a10b");
        assert_eq!(digits.len(Revision(10)), 4);
        assert_eq!(
            Splice::whole(Bytes::from_static(b"ab")).chunks(Revision(10)).concat(),
            b"ab"
        );
    }
}
