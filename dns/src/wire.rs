//! Just enough of a DNS message to pass it on and to keep it: its question, and where its times to live are.
//!
//! A message from outside is arbitrary bytes: everything here answers `None` to what it does not understand.

/// Flags of the header.
pub(crate) const TRUNCATED: u8 = 0x02;
const RESPONSE: u8 = 0x80;

pub(crate) const NO_ERROR: u8 = 0;
pub(crate) const SERVER_FAILURE: u8 = 2;
pub(crate) const NO_NAME: u8 = 3;
pub(crate) const REFUSED: u8 = 5;

const HEADER: usize = 12;
const OPT: u16 = 41;
const SOA: u16 = 6;

/// A record of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Record {
    kind: u16,
    /// Whether it is one of the answers (0), of the authority (1) or additional (2).
    section: usize,
    /// Where its time to live is.
    ttl_at: usize,
    ttl: u32,
    data: (usize, usize),
}

fn short(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]))
}

fn long(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from(short(bytes, at)?) << 16 | u32::from(short(bytes, at + 2)?))
}

/// Where a name ends that begins at `at`.
fn skip_name(bytes: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *bytes.get(at)? {
            0 => return Some(at + 1),
            length if length & 0xc0 == 0xc0 => return bytes.get(at + 1).map(|_| at + 2),
            length if length & 0xc0 == 0 => at += 1 + usize::from(length),
            _ => return None,
        }
    }
}

pub(crate) fn id(bytes: &[u8]) -> Option<u16> {
    short(bytes, 0)
}

pub(crate) fn is_response(bytes: &[u8]) -> bool {
    bytes.get(2).is_some_and(|flags| flags & RESPONSE != 0)
}

pub(crate) fn is_truncated(bytes: &[u8]) -> bool {
    bytes.get(2).is_some_and(|flags| flags & TRUNCATED != 0)
}

pub(crate) fn code(bytes: &[u8]) -> Option<u8> {
    Some(bytes.get(3)? & 0x0f)
}

/// The one question of a message: name, type and class as they stand there.
pub(crate) fn question(bytes: &[u8]) -> Option<&[u8]> {
    if short(bytes, 4)? != 1 {
        return None;
    }
    let end = skip_name(bytes, HEADER)? + 4;
    bytes.get(HEADER..end)
}

/// All records, or `None` where the message is malformed.
pub(crate) fn records(bytes: &[u8]) -> Option<Vec<Record>> {
    let mut at = HEADER;
    for _ in 0..short(bytes, 4)? {
        at = skip_name(bytes, at)? + 4;
    }
    let mut records = Vec::new();
    for section in 0..3 {
        for _ in 0..short(bytes, 6 + 2 * section)? {
            at = skip_name(bytes, at)?;
            let data = at + 10;
            let end = data + usize::from(short(bytes, at + 8)?);
            bytes.get(..end)?;
            records.push(Record {
                kind: short(bytes, at)?,
                section,
                ttl_at: at + 4,
                ttl: long(bytes, at + 4)?,
                data: (data, end),
            });
            at = end;
        }
    }
    Some(records)
}

/// For how many seconds a response may be kept, and where its times to live are. `None`: not at all.
pub(crate) fn keep(bytes: &[u8], most: u32) -> Option<(u32, Vec<usize>)> {
    if !is_response(bytes) || is_truncated(bytes) {
        return None;
    }
    let records = records(bytes)?;
    let real = || records.iter().filter(|r| r.kind != OPT);
    let answers = real().any(|r| r.section == 0);
    let seconds = match code(bytes)? {
        NO_ERROR if answers => real().map(|r| r.ttl).min()?,
        // That something is missing may be kept for as long as the zone says.
        NO_ERROR | NO_NAME => {
            let soa = real().find(|r| r.section == 1 && r.kind == SOA)?;
            soa.ttl.min(long(bytes, soa.data.1.checked_sub(4)?)?)
        }
        _ => return None,
    };
    let seconds = seconds.min(most);
    (seconds > 0).then(|| (seconds, real().map(|r| r.ttl_at).collect()))
}

/// Takes elapsed seconds from every time to live.
pub(crate) fn age(bytes: &mut [u8], places: &[usize], elapsed: u32) {
    for at in places {
        let ttl = long(bytes, *at).unwrap_or(0).saturating_sub(elapsed);
        if let Some(place) = bytes.get_mut(*at..*at + 4) {
            place.copy_from_slice(&ttl.to_be_bytes());
        }
    }
}

pub(crate) fn set_id(bytes: &mut [u8], id: u16) {
    if let Some(place) = bytes.get_mut(..2) {
        place.copy_from_slice(&id.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use hickory_proto::op::{Message, OpCode, Query, ResponseCode};
    use hickory_proto::rr::rdata::{A, SOA};
    use hickory_proto::rr::{Name, RData, Record, RecordType};
    use proptest::prelude::*;

    use super::*;

    fn name(text: &str) -> Name {
        Name::from_ascii(text).unwrap()
    }

    fn response(ttls: &[u32]) -> Message {
        let mut message = Message::response(7, OpCode::Query);
        message.add_query(Query::query(name("example.com."), RecordType::A));
        for ttl in ttls {
            message.add_answer(Record::from_rdata(
                name("example.com."),
                *ttl,
                RData::A(A::new(192, 0, 2, 1)),
            ));
        }
        message
    }

    #[test]
    fn the_shortest_time_counts_and_all_times_age() {
        let mut bytes = response(&[300, 20, 60]).to_vec().unwrap();
        let (seconds, places) = keep(&bytes, 30).unwrap();
        assert_eq!((seconds, places.len()), (20, 3));
        age(&mut bytes, &places, 15);
        let aged = Message::from_vec(&bytes).unwrap();
        assert_eq!(aged.answers.iter().map(|r| r.ttl).collect::<Vec<_>>(), [285, 5, 45]);
        assert_eq!(keep(&response(&[300]).to_vec().unwrap(), 30).unwrap().0, 30);
        assert_eq!(keep(&response(&[0]).to_vec().unwrap(), 30), None);
    }

    #[test]
    fn absence_is_kept_as_long_as_the_zone_says() {
        let mut message = response(&[]);
        message.metadata.response_code = ResponseCode::NXDomain;
        assert_eq!(keep(&message.to_vec().unwrap(), 30), None);
        let soa = SOA::new(name("ns.example.com."), name("me.example.com."), 1, 1, 1, 1, 7);
        message.add_authority(Record::from_rdata(name("example.com."), 100, RData::SOA(soa)));
        assert_eq!(keep(&message.to_vec().unwrap(), 30).unwrap().0, 7);
        message.metadata.response_code = ResponseCode::ServFail;
        assert_eq!(keep(&message.to_vec().unwrap(), 30), None);
        message.metadata.response_code = ResponseCode::NoError;
        message.metadata.truncation = true;
        assert_eq!(keep(&message.to_vec().unwrap(), 30), None);
    }

    #[test]
    fn questions_are_cut_out() {
        let bytes = response(&[1]).to_vec().unwrap();
        assert_eq!(question(&bytes), Some(&b"\x07example\x03com\0\0\x01\0\x01"[..]));
        assert_eq!(question(&bytes[..20]), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_understood_or_not(mut bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = (question(&bytes), records(&bytes), id(&bytes), code(&bytes));
            if let Some((_, places)) = keep(&bytes, 30) {
                age(&mut bytes, &places, 5);
            }
            set_id(&mut bytes, 1);
        }
    }
}
