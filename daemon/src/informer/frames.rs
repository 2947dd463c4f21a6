//! Body frames to watch events. An API server in the same process sends an event as five frames, whose second and
//! fourth are its cache's own bytes: those are kept as they are. Anything else is lines, which are copied, since a
//! slice would keep the whole network buffer alive.

use std::borrow::Cow;

use bytes::Bytes;
use memchr::memchr;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::entry::{Body, Middle};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    Added,
    Modified,
    Deleted,
    Bookmark,
    Error,
}

#[derive(Debug)]
pub(super) struct Event {
    pub(super) what: What,
    pub(super) body: Body,
}

/// Joins frames to events.
#[derive(Debug, Default)]
pub(super) struct Frames {
    /// Pieces of the line that has begun.
    pending: Vec<Bytes>,
}

#[derive(Debug, thiserror::Error)]
#[error("not a watch event")]
pub(super) struct Malformed(#[source] serde_json::Error);

impl Frames {
    /// Takes the next frame and hands out what it completes.
    pub(super) fn push(&mut self, mut frame: Bytes, mut emit: impl FnMut(Event)) -> Result<(), Malformed> {
        while let Some(end) = memchr(b'\n', &frame) {
            self.pending.push(frame.split_to(end + 1));
            let event = self.complete();
            self.pending.clear();
            if let Some(event) = event? {
                emit(event);
            }
        }
        if !frame.is_empty() {
            self.pending.push(frame);
        }
        Ok(())
    }

    fn complete(&mut self) -> Result<Option<Event>, Malformed> {
        if let [opening, head, middle, tail, end] = &self.pending[..]
            && end.as_ref() == b"}\n"
            && let Some((what, rest)) = opened(opening)
            && rest == opening.len()
        {
            let middle = Middle::Other(middle.clone());
            let (head, tail) = (head.clone(), tail.clone());
            return Ok(Some(Event {
                what,
                body: Body { head, middle, tail },
            }));
        }
        let joined;
        let line: &[u8] = if let [line] = &self.pending[..] {
            line
        } else {
            joined = self.pending.concat();
            &joined
        };
        let line = line.trim_ascii();
        if line.is_empty() {
            return Ok(None);
        }
        // The usual spelling needs no parsing; the object itself is checked when its facts are read.
        if let Some((what, start)) = opened(line)
            && line.ends_with(b"}")
        {
            let object = Bytes::copy_from_slice(&line[start..line.len() - 1]);
            return Ok(Some(Event {
                what,
                body: Body::whole(object),
            }));
        }
        let envelope: Envelope<'_> = serde_json::from_slice(line).map_err(Malformed)?;
        Ok(Some(Event {
            what: what(envelope.what.as_bytes())
                .ok_or_else(|| Malformed(serde::de::Error::custom("unknown type of event")))?,
            body: Body::whole(Bytes::copy_from_slice(envelope.object.get().as_bytes())),
        }))
    }
}

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(rename = "type", borrow)]
    what: Cow<'a, str>,
    #[serde(borrow)]
    object: &'a RawValue,
}

/// The type of an event that begins in the usual spelling, and where its object begins.
fn opened(line: &[u8]) -> Option<(What, usize)> {
    const OPEN: &[u8] = b"{\"type\":\"";
    const OBJECT: &[u8] = b"\",\"object\":";
    let rest = line.strip_prefix(OPEN)?;
    let end = memchr(b'"', rest)?;
    rest[end..].starts_with(OBJECT).then_some(())?;
    Some((what(&rest[..end])?, OPEN.len() + end + OBJECT.len()))
}

fn what(text: &[u8]) -> Option<What> {
    Some(match text {
        b"ADDED" => What::Added,
        b"MODIFIED" => What::Modified,
        b"DELETED" => What::Deleted,
        b"BOOKMARK" => What::Bookmark,
        b"ERROR" => What::Error,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn feed(frames: &[&'static [u8]]) -> Vec<(What, String)> {
        let mut lines = Frames::default();
        let mut events = Vec::new();
        for frame in frames {
            lines
                .push(Bytes::from_static(frame), |event| {
                    let mut text = Vec::new();
                    event.body.write(0, &mut text);
                    events.push((event.what, String::from_utf8(text).unwrap()));
                })
                .unwrap();
        }
        events
    }

    #[test]
    fn five_frames_are_kept_without_a_copy() {
        let (head, tail) = (
            Bytes::from(b"{\"metadata\":{".to_vec()),
            Bytes::from(b"\"uid\":\"u\"}}".to_vec()),
        );
        let mut lines = Frames::default();
        let mut got = None;
        let frames = [
            Bytes::from_static(b"{\"type\":\"ADDED\",\"object\":"),
            head.clone(),
            Bytes::from_static(b"\"resourceVersion\":\"5\","),
            tail.clone(),
            Bytes::from_static(b"}\n"),
        ];
        for frame in frames {
            lines.push(frame, |event| got = Some(event)).unwrap();
        }
        let mut event = got.unwrap();
        event.body.settle(5);
        assert_eq!(event.body.head.as_ptr(), head.as_ptr());
        assert_eq!(event.body.tail.as_ptr(), tail.as_ptr());
        assert!(matches!(event.body.middle, Middle::Member));
    }

    #[test]
    fn lines_may_be_cut_anywhere() {
        let whole = b"{\"type\":\"ADDED\",\"object\":{\"a\":1}}\n{\"type\":\"DELETED\",\"object\":{\"b\":2}}\n";
        let want = vec![
            (What::Added, "{\"a\":1}".to_owned()),
            (What::Deleted, "{\"b\":2}".to_owned()),
        ];
        for cut in 0..whole.len() {
            let (left, right) = whole.split_at(cut);
            assert_eq!(feed(&[left, right]), want, "cut at {cut}");
        }
    }

    #[test]
    fn unusual_spellings_are_parsed_and_nonsense_is_refused() {
        let spaced: &[u8] = b"{ \"object\" : {\"a\": 1}, \"type\" : \"MODIFIED\" }\r\n\n";
        assert_eq!(feed(&[spaced]), vec![(What::Modified, "{\"a\": 1}".to_owned())]);
        let mut lines = Frames::default();
        assert!(lines.push(Bytes::from_static(b"<html>\n"), |_| {}).is_err());
    }
}
