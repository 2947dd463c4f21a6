//! The protobuf wire: numbers, lengths and tags. It knows no types.

use super::Error;

const VARINT: u32 = 0;
const FIXED64: u32 = 1;
const BYTES: u32 = 2;
const FIXED32: u32 = 5;

pub(in crate::schema) fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn tag(out: &mut Vec<u8>, number: u32, kind: u32) {
    varint(out, u64::from(number << 3 | kind));
}

pub(in crate::schema) fn integer(out: &mut Vec<u8>, number: u32, value: i64) {
    tag(out, number, VARINT);
    // Negative numbers take ten bytes, also the 32-bit ones.
    varint(out, value as u64);
}

pub(in crate::schema) fn double(out: &mut Vec<u8>, number: u32, value: f64) {
    tag(out, number, FIXED64);
    out.extend(value.to_le_bytes());
}

pub(in crate::schema) fn bytes(out: &mut Vec<u8>, number: u32, value: &[u8]) {
    tag(out, number, BYTES);
    varint(out, value.len() as u64);
    out.extend(value);
}

pub(in crate::schema) fn text(out: &mut Vec<u8>, number: u32, value: &str) {
    bytes(out, number, value.as_bytes());
}

/// A message within a message: written in place, then its length put before it.
pub(in crate::schema) fn message<E>(
    out: &mut Vec<u8>,
    number: u32,
    write: impl FnOnce(&mut Vec<u8>) -> Result<(), E>,
) -> Result<(), E> {
    tag(out, number, BYTES);
    let start = out.len();
    write(out)?;
    let mut length = Vec::with_capacity(5);
    varint(&mut length, (out.len() - start) as u64);
    out.splice(start..start, length);
    Ok(())
}

/// A value as the wire has it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(in crate::schema) enum Datum<'a> {
    Varint(u64),
    Fixed64(u64),
    Bytes(&'a [u8]),
}

/// The fields of a message in the order they come.
pub(in crate::schema) fn fields(bytes: &[u8]) -> impl Iterator<Item = Result<(u32, Datum<'_>), Error>> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let read = next(&mut rest);
        if read.is_err() {
            rest = &[];
        }
        Some(read)
    })
}

fn next<'a>(rest: &mut &'a [u8]) -> Result<(u32, Datum<'a>), Error> {
    let tag = read_varint(rest)?;
    let number = u32::try_from(tag >> 3).map_err(|_| Error::NotAMessage)?;
    let datum = match (tag & 7) as u32 {
        VARINT => Datum::Varint(read_varint(rest)?),
        FIXED64 => {
            let (value, after) = rest.split_first_chunk::<8>().ok_or(Error::Truncated)?;
            *rest = after;
            Datum::Fixed64(u64::from_le_bytes(*value))
        }
        BYTES => {
            let length = usize::try_from(read_varint(rest)?).map_err(|_| Error::Truncated)?;
            let (value, after) = rest.split_at_checked(length).ok_or(Error::Truncated)?;
            *rest = after;
            Datum::Bytes(value)
        }
        FIXED32 => {
            let (value, after) = rest.split_first_chunk::<4>().ok_or(Error::Truncated)?;
            *rest = after;
            Datum::Fixed64(u64::from(u32::from_le_bytes(*value)))
        }
        _ => return Err(Error::NotAMessage),
    };
    if number == 0 {
        return Err(Error::NotAMessage);
    }
    Ok((number, datum))
}

fn read_varint(rest: &mut &[u8]) -> Result<u64, Error> {
    let mut value = 0u64;
    for shift in (0..70).step_by(7) {
        let (byte, after) = rest.split_first().ok_or(Error::Truncated)?;
        *rest = after;
        // The tenth byte has room for one bit.
        if shift == 63 && *byte > 1 {
            return Err(Error::NotAMessage);
        }
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(Error::NotAMessage)
}
